//! Batch normalisation over the last axis, with an optional fused ReLU.
//!
//! `y = gamma * (x - mean) * inv_std + beta`, then `max(y, 0)` where `relu` is set.
//!
//! An activation `[n,h,w,c]` is seen as `[rows, c]` with `rows = n·h·w`. A step in training mode is
//! [`statistics`], [`inv_std`], [`normalize`], [`update_running`] and later [`backward_train`]; inference and
//! frozen layers are [`inv_std`] of the running variance, [`normalize`] and [`backward_inference`].
//!
//! Source: Ioffe and Szegedy, "Batch Normalization" (2015), arXiv 1502.03167.

use super::multiversion::multiversion;
use super::{scratch, volume};
use crate::error::{check_len, check_momentum};
use crate::{Error, Result};
use rayon::prelude::*;

/// Per-channel tables are repeated until they are at least this long, so that the inner loops are long for
/// few channels, too.
const LANES: usize = 512;

/// Inner-loop rows whose mean is the pivot of a chunk.
const PIVOT_ROWS: usize = 8;

/// Elements that one task reduces: a quarter of a typical L2 cache.
const CHUNK_ELEMS: usize = 32 * 1024;

/// How `[rows, c]` is cut: chunks of `chunk` elements, inner loops over `lanes` elements (whole rows each).
#[derive(Clone, Copy)]
struct Layout {
    c: usize,
    lanes: usize,
    chunk: usize,
}

impl Layout {
    fn new(c: usize) -> Self {
        let lanes = c * LANES.div_ceil(c);
        // At least 32 rows a chunk, so that the per-chunk results stay small beside the chunk.
        Layout { c, lanes, chunk: lanes * (CHUNK_ELEMS.max(32 * c)).div_ceil(lanes) }
    }

    /// Repeats a per-channel table over the lanes.
    fn repeat(self, table: &[f32], lanes: &mut [f32]) {
        for row in lanes.chunks_exact_mut(self.c) {
            row.copy_from_slice(table);
        }
    }
}

multiversion! {
    /// `lanes += x`, row by row: the first pass over fresh memory reads it in order.
    fn add_rows(x: &[f32], lanes: &mut [f32]) {
        for row in x.chunks(lanes.len()) {
            for (sum, value) in lanes.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
}

multiversion! {
    /// `sums += x - pivot`, `squares += (x - pivot)²`, row by row.
    fn add_deviations(x: &[f32], pivot: &[f32], sums: &mut [f32], squares: &mut [f32]) {
        for row in x.chunks(pivot.len()) {
            let len = row.len();
            let (pivot, sums, squares) = (&pivot[..len], &mut sums[..len], &mut squares[..len]);
            for i in 0..len {
                let deviation = row[i] - pivot[i];
                sums[i] += deviation;
                squares[i] += deviation * deviation;
            }
        }
    }
}

/// Mean and variance of every channel over all rows.
///
/// `mean = Σ x / rows`, `var = Σ (x - mean)² / rows` (population variance), both `=`.
///
/// Shapes: `x [rows, c]`, `mean [c]`, `var [c]`.
///
/// Memory is read once: each chunk of rows sums its deviations from a pivot, the mean of its first rows, and
/// their squares; the chunks are merged in f64. So a large mean does not swallow the variance, and no order of
/// the rows costs more than a digit: whatever sets the first rows apart is itself part of the variance.
///
/// Gradient: part of [`backward_train`].
///
/// Determinism: chunks depend on `c` alone and are merged in order.
///
/// Source: Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979).
///
/// # Errors
/// When an extent is zero or a slice has the wrong length.
///
/// # Example
/// ```
/// let (mut mean, mut var) = ([0.0; 2], [0.0; 2]);
/// warpsmith::cpu::batch_norm::statistics(3, 2, &[1., 5., 2., 5., 3., 5.], &mut mean, &mut var)?;
/// assert_eq!((mean, var), ([2.0, 5.0], [2.0 / 3.0, 0.0]));
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn statistics(rows: usize, c: usize, x: &[f32], mean: &mut [f32], var: &mut [f32]) -> Result<()> {
    const OP: &str = "batch_norm statistics";
    check_len(OP, "x", x.len(), volume(OP, &[rows, c])?)?;
    check_len(OP, "mean", mean.len(), c)?;
    check_len(OP, "var", var.len(), c)?;
    let layout = Layout::new(c);
    let chunks = x.len().div_ceil(layout.chunk);
    scratch::with_f32(chunks * 3 * c, |partials| {
        partials
            .par_chunks_exact_mut(3 * c)
            .zip(x.par_chunks(layout.chunk))
            .for_each(|(partial, x)| chunk_statistics(layout, x, partial));
        merge_statistics(layout, rows, partials, mean, var);
    });
    Ok(())
}

/// Pivot, sum of deviations and sum of squared deviations of one chunk: `partial [3, c]`.
fn chunk_statistics(layout: Layout, x: &[f32], partial: &mut [f32]) {
    let Layout { c, lanes, .. } = layout;
    let (pivot, rest) = partial.split_at_mut(c);
    let (sum, square) = rest.split_at_mut(c);
    scratch::with_f32(3 * lanes, |scratch| {
        scratch.fill(0.0);
        let (pivots, rest) = scratch.split_at_mut(lanes);
        let (sums, squares) = rest.split_at_mut(lanes);
        let head = &x[..x.len().min(PIVOT_ROWS * lanes)];
        add_rows(head, sums);
        pivot.fill(0.0);
        add_rows(sums, pivot);
        pivot.iter_mut().for_each(|sum| *sum /= (head.len() / c) as f32);
        layout.repeat(pivot, pivots);

        sums.fill(0.0);
        add_deviations(x, pivots, sums, squares);
        sum.fill(0.0);
        add_rows(sums, sum);
        square.fill(0.0);
        add_rows(squares, square);
    });
}

/// Merges `[chunks, 3, c]` partial statistics in order.
fn merge_statistics(layout: Layout, rows: usize, partials: &[f32], mean: &mut [f32], var: &mut [f32]) {
    let c = layout.c;
    let chunk_rows = layout.chunk / c;
    // Rows, means and sums of squared deviations from the mean, chunk by chunk.
    let chunks = || {
        partials.chunks_exact(3 * c).enumerate().map(|(chunk, partial)| {
            let count = chunk_rows.min(rows - chunk * chunk_rows) as f64;
            let value = move |part: usize, ch: usize| f64::from(partial[part * c + ch]);
            let mean = move |ch: usize| value(0, ch) + value(1, ch) / count;
            let squares = move |ch: usize| value(2, ch) - value(1, ch) * value(1, ch) / count;
            (count, mean, squares)
        })
    };
    scratch::with_f64(2 * c, |sums| {
        sums.fill(0.0);
        let (means, squares) = sums.split_at_mut(c);
        for (count, mean, _) in chunks() {
            for ch in 0..c {
                means[ch] += count * mean(ch);
            }
        }
        means.iter_mut().for_each(|sum| *sum /= rows as f64);
        for (count, mean, within) in chunks() {
            for ch in 0..c {
                let between = mean(ch) - means[ch];
                squares[ch] += within(ch) + count * between * between;
            }
        }
        for ch in 0..c {
            mean[ch] = means[ch] as f32;
            // Rounding may leave a constant channel a hair below zero; NaN stays NaN.
            var[ch] = if squares[ch] < 0.0 { 0.0 } else { (squares[ch] / rows as f64) as f32 };
        }
    });
}

/// `out = 1 / sqrt(var + eps)`.
///
/// # Errors
/// When the slices differ in length.
///
/// # Example
/// ```
/// let mut out = [0.0];
/// warpsmith::cpu::batch_norm::inv_std(&[3.75], 0.25, &mut out)?;
/// assert_eq!(out, [0.5]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn inv_std(var: &[f32], eps: f32, out: &mut [f32]) -> Result<()> {
    check_len("batch_norm inv_std", "out", out.len(), var.len())?;
    for (out, &var) in out.iter_mut().zip(var) {
        *out = (1.0 / (f64::from(var) + f64::from(eps)).sqrt()) as f32;
    }
    Ok(())
}

/// Moves the running statistics towards those of a batch:
/// `running = running * momentum + batch * (1 - momentum)`.
///
/// `momentum` is the weight of the old value. With `unbiased` the batch variance enters as
/// `var * rows / max(rows - 1, 1)` (Keras 2), without it as it is (Keras 3).
///
/// # Errors
/// When the slices differ in length, `rows` is zero, or `momentum` is outside `[0, 1]`.
///
/// # Example
/// ```
/// let (mut mean, mut var) = ([0.0], [1.0]);
/// warpsmith::cpu::batch_norm::update_running(&mut mean, &mut var, &[2.0], &[3.0], 4, 0.5, true)?;
/// assert_eq!((mean, var), ([1.0], [2.5]));
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn update_running(
    running_mean: &mut [f32],
    running_var: &mut [f32],
    mean: &[f32],
    var: &[f32],
    rows: usize,
    momentum: f32,
    unbiased: bool,
) -> Result<()> {
    const OP: &str = "batch_norm update_running";
    let c = running_mean.len();
    check_len(OP, "running_var", running_var.len(), c)?;
    check_len(OP, "mean", mean.len(), c)?;
    check_len(OP, "var", var.len(), c)?;
    check_momentum(OP, momentum)?;
    if rows == 0 {
        return Err(Error::argument(OP, "rows > 0", rows, "the statistics of nothing are none"));
    }
    let correction = if unbiased { rows as f64 / rows.saturating_sub(1).max(1) as f64 } else { 1.0 };
    let momentum = f64::from(momentum);
    for ch in 0..c {
        let blend = |old: f32, new: f64| (f64::from(old) * momentum + new * (1.0 - momentum)) as f32;
        running_mean[ch] = blend(running_mean[ch], f64::from(mean[ch]));
        running_var[ch] = blend(running_var[ch], f64::from(var[ch]) * correction);
    }
    Ok(())
}

multiversion! {
    /// `y = (x - mean) * scale + beta`, with ReLU where asked.
    fn normalize_rows(x: &[f32], mean: &[f32], scale: &[f32], beta: &[f32], relu: bool, y: &mut [f32]) {
        let lanes = mean.len();
        let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
        for (x, y) in x.chunks(lanes).zip(y.chunks_mut(lanes)) {
            let len = x.len();
            let (y, mean, scale, beta) = (&mut y[..len], &mean[..len], &scale[..len], &beta[..len]);
            for i in 0..len {
                let value = (x[i] - mean[i]) * scale[i] + beta[i];
                // Written this way round, NaN passes through.
                y[i] = if value < floor { floor } else { value };
            }
        }
    }
}

/// The repeated tables `mean`, `scale = gamma · inv_std` and `beta`, in `3 · lanes` floats.
fn fill_tables(layout: Layout, mean: &[f32], inv_std: &[f32], gamma: &[f32], beta: &[f32], tables: &mut [f32]) {
    let (first, rest) = tables.split_at_mut(layout.lanes);
    let (second, third) = rest.split_at_mut(layout.lanes);
    layout.repeat(mean, first);
    for row in second.chunks_exact_mut(layout.c) {
        for ch in 0..layout.c {
            row[ch] = gamma[ch] * inv_std[ch];
        }
    }
    layout.repeat(beta, third);
}

/// `y = gamma * (x - mean) * inv_std + beta`, then `max(y, 0)` with `relu`. Writes `y` with `=`.
///
/// Shapes: `x, y [rows, c]`; `mean, inv_std, gamma, beta [c]`.
///
/// Gradient: [`backward_train`] when the statistics come from `x`, else [`backward_inference`].
///
/// Determinism: every element is computed on its own.
///
/// # Errors
/// When an extent is zero or a slice has the wrong length.
///
/// # Example
/// ```
/// use warpsmith::cpu::batch_norm::normalize;
/// let mut y = [0.0; 2];
/// normalize(2, 1, &[1.0, 5.0], &[3.0], &[0.5], &[4.0], &[1.0], true, &mut y)?;
/// assert_eq!(y, [0.0, 5.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn normalize(
    rows: usize,
    c: usize,
    x: &[f32],
    mean: &[f32],
    inv_std: &[f32],
    gamma: &[f32],
    beta: &[f32],
    relu: bool,
    y: &mut [f32],
) -> Result<()> {
    const OP: &str = "batch_norm normalize";
    let elems = volume(OP, &[rows, c])?;
    check_len(OP, "x", x.len(), elems)?;
    check_len(OP, "y", y.len(), elems)?;
    check_tables(OP, c, mean, inv_std, gamma, beta)?;
    let layout = Layout::new(c);
    scratch::with_f32(3 * layout.lanes, |tables| {
        fill_tables(layout, mean, inv_std, gamma, beta, tables);
        let (mean, rest) = tables.split_at(layout.lanes);
        let (scale, beta) = rest.split_at(layout.lanes);
        y.par_chunks_mut(layout.chunk)
            .zip(x.par_chunks(layout.chunk))
            .for_each(|(y, x)| normalize_rows(x, mean, scale, beta, relu, y));
    });
    Ok(())
}

fn check_tables(op: &'static str, c: usize, mean: &[f32], inv_std: &[f32], gamma: &[f32], beta: &[f32]) -> Result<()> {
    check_len(op, "mean", mean.len(), c)?;
    check_len(op, "inv_std", inv_std.len(), c)?;
    check_len(op, "gamma", gamma.len(), c)?;
    check_len(op, "beta", beta.len(), c)
}

multiversion! {
    /// `sum += g`, `sum_x += g * (x - mean)`, with `g = dy` where the ReLU let the value pass.
    fn reduce_rows(
        x: &[f32], dy: &[f32], mean: &[f32], scale: &[f32], beta: &[f32], relu: bool,
        sum: &mut [f32], sum_x: &mut [f32],
    ) {
        let lanes = mean.len();
        for (x, dy) in x.chunks(lanes).zip(dy.chunks(lanes)) {
            let len = x.len();
            let (dy, mean, scale, beta) = (&dy[..len], &mean[..len], &scale[..len], &beta[..len]);
            let (sum, sum_x) = (&mut sum[..len], &mut sum_x[..len]);
            for i in 0..len {
                let deviation = x[i] - mean[i];
                let g = if !relu || deviation * scale[i] + beta[i] > 0.0 { dy[i] } else { 0.0 };
                sum[i] += g;
                sum_x[i] += g * deviation;
            }
        }
    }
}

multiversion! {
    /// `dx (=|+=) scale * (g - offset - (x - mean) * slope)`, with `g = dy` where the ReLU let the value pass.
    fn apply_rows(
        x: &[f32], dy: &[f32], mean: &[f32], scale: &[f32], beta: &[f32], offset: &[f32], slope: &[f32],
        relu: bool, accumulate: bool, dx: &mut [f32],
    ) {
        let lanes = mean.len();
        for ((x, dy), dx) in x.chunks(lanes).zip(dy.chunks(lanes)).zip(dx.chunks_mut(lanes)) {
            let len = x.len();
            let (dy, mean, scale, beta) = (&dy[..len], &mean[..len], &scale[..len], &beta[..len]);
            let (offset, slope, dx) = (&offset[..len], &slope[..len], &mut dx[..len]);
            let gradient = |i: usize| {
                let deviation = x[i] - mean[i];
                let g = if !relu || deviation * scale[i] + beta[i] > 0.0 { dy[i] } else { 0.0 };
                scale[i] * (g - offset[i] - deviation * slope[i])
            };
            if accumulate {
                for i in 0..len {
                    dx[i] += gradient(i);
                }
            } else {
                for i in 0..len {
                    dx[i] = gradient(i);
                }
            }
        }
    }
}

multiversion! {
    /// `dx (=|+=) scale * g`, with `g = dy` where the ReLU let the value pass.
    fn scale_rows(
        x: &[f32], dy: &[f32], mean: &[f32], scale: &[f32], beta: &[f32], relu: bool, accumulate: bool,
        dx: &mut [f32],
    ) {
        let lanes = mean.len();
        for ((x, dy), dx) in x.chunks(lanes).zip(dy.chunks(lanes)).zip(dx.chunks_mut(lanes)) {
            let len = x.len();
            let (dy, mean, scale, beta) = (&dy[..len], &mean[..len], &scale[..len], &beta[..len]);
            let dx = &mut dx[..len];
            let gradient = |i: usize| {
                let open = !relu || (x[i] - mean[i]) * scale[i] + beta[i] > 0.0;
                if open { scale[i] * dy[i] } else { 0.0 }
            };
            if accumulate {
                for i in 0..len {
                    dx[i] += gradient(i);
                }
            } else {
                for i in 0..len {
                    dx[i] = gradient(i);
                }
            }
        }
    }
}

/// `Σ g` and `Σ g * (x - mean)` of every chunk, per channel: `2 * c` floats of `partials` each.
fn reduce_chunks(layout: Layout, x: &[f32], dy: &[f32], tables: &[f32], relu: bool, partials: &mut [f32]) {
    let chunks = x.par_chunks(layout.chunk).zip(dy.par_chunks(layout.chunk));
    let partials = partials.par_chunks_exact_mut(2 * layout.c);
    partials.zip(chunks).for_each(|(partial, (x, dy))| reduce_chunk(layout, x, dy, tables, relu, partial));
}

/// `Σ g` and `Σ g * (x - mean)` of one chunk, per channel.
fn reduce_chunk(layout: Layout, x: &[f32], dy: &[f32], tables: &[f32], relu: bool, partial: &mut [f32]) {
    let Layout { c, lanes, .. } = layout;
    let (mean, rest) = tables.split_at(lanes);
    let (scale, beta) = rest.split_at(lanes);
    scratch::with_f32(2 * lanes, |sums| {
        sums.fill(0.0);
        let (sum, sum_x) = sums.split_at_mut(lanes);
        reduce_rows(x, dy, mean, scale, &beta[..lanes], relu, sum, sum_x);
        partial.fill(0.0);
        let (partial_sum, partial_x) = partial.split_at_mut(c);
        add_rows(sum, partial_sum);
        add_rows(sum_x, partial_x);
    });
}

/// Adds `[chunks, 2, c]` partial sums in order: `sums [2, c]`.
fn merge_sums(partials: &[f32], sums: &mut [f64]) {
    sums.fill(0.0);
    for partial in partials.chunks_exact(sums.len()) {
        for (sum, &value) in sums.iter_mut().zip(partial) {
            *sum += f64::from(value);
        }
    }
}

/// `dgamma += Σ g * (x - mean) * inv_std`, `dbeta += Σ g`, each where asked.
fn add_parameter_gradients(sums: &[f64], inv_std: &[f32], dgamma: Option<&mut [f32]>, dbeta: Option<&mut [f32]>) {
    let (sum, sum_x) = sums.split_at(inv_std.len());
    if let Some(dgamma) = dgamma {
        for ch in 0..inv_std.len() {
            dgamma[ch] += (sum_x[ch] * f64::from(inv_std[ch])) as f32;
        }
    }
    if let Some(dbeta) = dbeta {
        for (dbeta, &sum) in dbeta.iter_mut().zip(sum) {
            *dbeta += sum as f32;
        }
    }
}

fn check_backward(
    op: &'static str,
    rows: usize,
    c: usize,
    x: &[f32],
    dy: &[f32],
    dx: Option<&[f32]>,
    dgamma: Option<&[f32]>,
    dbeta: Option<&[f32]>,
) -> Result<()> {
    let elems = volume(op, &[rows, c])?;
    check_len(op, "x", x.len(), elems)?;
    check_len(op, "dy", dy.len(), elems)?;
    dx.map_or(Ok(()), |dx| check_len(op, "dx", dx.len(), elems))?;
    dgamma.map_or(Ok(()), |dgamma| check_len(op, "dgamma", dgamma.len(), c))?;
    dbeta.map_or(Ok(()), |dbeta| check_len(op, "dbeta", dbeta.len(), c))
}

/// Gradient of [`normalize`] when `mean` and `inv_std` are the [`statistics`] of `x` itself.
///
/// With `xh = (x - mean) * inv_std` and `g = dy` (with `relu`: where the output was positive, else 0):
/// `dbeta += Σ g`, `dgamma += Σ g * xh`, and
/// `dx (= or +=) gamma * inv_std * (g - Σ g / rows - xh * Σ (g * xh) / rows)`.
///
/// Shapes: `x, dy, dx [rows, c]`; the others `[c]`. Leave out what is not wanted. `dx` is added to with
/// `accumulate_dx`, else overwritten. The ReLU's mask is computed again from `x` with the arithmetic of
/// [`normalize`], so it agrees with the forward pass bit for bit.
///
/// Determinism: fixed chunks, merged in order in f64.
///
/// # Errors
/// When an extent is zero or a slice has the wrong length.
///
/// # Example
/// ```
/// use warpsmith::cpu::batch_norm::backward_train;
/// let (x, dy) = ([1.0, 5.0], [1.0, 0.0]);
/// let (mut dx, mut dgamma, mut dbeta) = ([0.0; 2], [0.0], [0.0]);
/// let (dg, db) = (Some(&mut dgamma[..]), Some(&mut dbeta[..]));
/// backward_train(2, 1, &x, &dy, &[3.0], &[0.5], &[1.0], &[0.0], false, Some(&mut dx), false, dg, db)?;
/// assert_eq!((dx, dgamma, dbeta), ([0.0, 0.0], [-1.0], [1.0]));
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn backward_train(
    rows: usize,
    c: usize,
    x: &[f32],
    dy: &[f32],
    mean: &[f32],
    inv_std: &[f32],
    gamma: &[f32],
    beta: &[f32],
    relu: bool,
    dx: Option<&mut [f32]>,
    accumulate_dx: bool,
    dgamma: Option<&mut [f32]>,
    dbeta: Option<&mut [f32]>,
) -> Result<()> {
    const OP: &str = "batch_norm backward_train";
    check_backward(OP, rows, c, x, dy, dx.as_deref(), dgamma.as_deref(), dbeta.as_deref())?;
    check_tables(OP, c, mean, inv_std, gamma, beta)?;
    let layout = Layout::new(c);
    let Layout { lanes, chunk, .. } = layout;
    let partials_len = x.len().div_ceil(chunk) * 2 * c;
    scratch::with_f32(5 * lanes + partials_len, |floats| {
        scratch::with_f64(2 * c, |sums| {
            let (tables, rest) = floats.split_at_mut(3 * lanes);
            let (corrections, partials) = rest.split_at_mut(2 * lanes);
            fill_tables(layout, mean, inv_std, gamma, beta, tables);
            let tables = &*tables;
            reduce_chunks(layout, x, dy, tables, relu, partials);
            merge_sums(partials, sums);
            if let Some(dx) = dx {
                let (offset, slope) = corrections.split_at_mut(lanes);
                for ch in 0..c {
                    offset[ch] = (sums[ch] / rows as f64) as f32;
                    slope[ch] = (sums[c + ch] / rows as f64 * f64::from(inv_std[ch]).powi(2)) as f32;
                }
                for table in [&mut *offset, &mut *slope] {
                    let (first, rest) = table.split_at_mut(c);
                    rest.chunks_exact_mut(c).for_each(|row| row.copy_from_slice(first));
                }
                let (offset, slope) = (&*offset, &*slope);
                let (mean, rest) = tables.split_at(lanes);
                let (scale, beta) = rest.split_at(lanes);
                dx.par_chunks_mut(chunk).zip(x.par_chunks(chunk).zip(dy.par_chunks(chunk))).for_each(
                    |(dx, (x, dy))| {
                        apply_rows(x, dy, mean, scale, beta, offset, slope, relu, accumulate_dx, dx);
                    },
                );
            }
            add_parameter_gradients(sums, inv_std, dgamma, dbeta);
        });
    });
    Ok(())
}

/// Gradient of [`normalize`] when `mean` and `inv_std` are constants (inference mode, frozen layers).
///
/// With `g = dy` (with `relu`: where the output was positive, else 0): `dbeta += Σ g`,
/// `dgamma += Σ g * (x - mean) * inv_std`, `dx (= or +=) gamma * inv_std * g`.
///
/// Shapes: `x, dy, dx [rows, c]`; the others `[c]`. Leave out what is not wanted: a frozen layer passes
/// `None` for `dgamma` and `dbeta`. `dx` is added to with `accumulate_dx`, else overwritten.
///
/// Determinism: fixed chunks, merged in order in f64.
///
/// # Errors
/// When an extent is zero or a slice has the wrong length.
///
/// # Example
/// ```
/// use warpsmith::cpu::batch_norm::backward_inference;
/// let mut dx = [0.0; 2];
/// backward_inference(
///     2, 1, &[1.0, 5.0], &[1.0, 1.0], &[3.0], &[0.5], &[4.0], &[1.0], true, Some(&mut dx), false, None, None,
/// )?;
/// assert_eq!(dx, [0.0, 2.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn backward_inference(
    rows: usize,
    c: usize,
    x: &[f32],
    dy: &[f32],
    mean: &[f32],
    inv_std: &[f32],
    gamma: &[f32],
    beta: &[f32],
    relu: bool,
    dx: Option<&mut [f32]>,
    accumulate_dx: bool,
    dgamma: Option<&mut [f32]>,
    dbeta: Option<&mut [f32]>,
) -> Result<()> {
    const OP: &str = "batch_norm backward_inference";
    check_backward(OP, rows, c, x, dy, dx.as_deref(), dgamma.as_deref(), dbeta.as_deref())?;
    check_tables(OP, c, mean, inv_std, gamma, beta)?;
    let layout = Layout::new(c);
    let Layout { lanes, chunk, .. } = layout;
    let partials_len = x.len().div_ceil(chunk) * 2 * c;
    scratch::with_f32(3 * lanes + partials_len, |floats| {
        let (tables, partials) = floats.split_at_mut(3 * lanes);
        fill_tables(layout, mean, inv_std, gamma, beta, tables);
        let tables = &*tables;
        if dgamma.is_some() || dbeta.is_some() {
            reduce_chunks(layout, x, dy, tables, relu, partials);
            scratch::with_f64(2 * c, |sums| {
                merge_sums(partials, sums);
                add_parameter_gradients(sums, inv_std, dgamma, dbeta);
            });
        }
        if let Some(dx) = dx {
            let (mean, rest) = tables.split_at(lanes);
            let (scale, beta) = rest.split_at(lanes);
            dx.par_chunks_mut(chunk).zip(x.par_chunks(chunk).zip(dy.par_chunks(chunk))).for_each(|(dx, (x, dy))| {
                scale_rows(x, dy, mean, scale, beta, relu, accumulate_dx, dx);
            });
        }
    });
    Ok(())
}
