//! Supervised contrastive losses, L2 normalisation, and the similarity matrix.
//!
//! The losses compare every anchor with every other row. They walk over the similarity matrix in tiles and
//! never store it: the first walk keeps a running log-sum-exp per anchor, the second computes the tiles again
//! for the gradient.
//!
//! Sources: Khosla et al., "Supervised Contrastive Learning" (2020), arXiv 2004.11362; Sohn, "Improved Deep
//! Metric Learning with Multi-class N-pair Loss Objective" (2016).

use super::multiversion::multiversion;
use super::{scratch, volume};
use crate::error::{check_len, check_temperature};
pub use crate::problem::{Form, MeanOver, Supcon};
use crate::{Error, Result};
use rayon::prelude::*;

/// Anchors that one task handles.
const ROWS: usize = 16;

/// Columns of a tile of the similarity matrix.
const COLS: usize = 64;

/// Partial sums of a dot product, added in this order whatever the instruction set.
const LANES: usize = 16;

/// Dot products of `a` with each of `b`. `dot(a, b)` and `dot(b, a)` are bit-equal.
#[inline(always)]
fn dots<const N: usize>(a: &[f32], b: [&[f32]; N]) -> [f32; N] {
    let mut sums = [[0.0f32; LANES]; N];
    let whole = a.len() - a.len() % LANES;
    for k in (0..whole).step_by(LANES) {
        let a: &[f32; LANES] = a[k..k + LANES].try_into().expect("LANES elements");
        for (sums, b) in sums.iter_mut().zip(&b) {
            let b: &[f32; LANES] = b[k..k + LANES].try_into().expect("LANES elements");
            for l in 0..LANES {
                sums[l] += a[l] * b[l];
            }
        }
    }
    for (sums, b) in sums.iter_mut().zip(&b) {
        for ((sum, a), b) in sums.iter_mut().zip(&a[whole..]).zip(&b[whole..]) {
            *sum += a * b;
        }
    }
    sums.map(|sums| sums.iter().sum())
}

multiversion! {
    /// `out[i, j] = a_i · b_j` for rows of `dim` elements; rows of `out` are `stride` apart.
    fn dot_tile(dim: usize, a: &[f32], b: &[f32], stride: usize, out: &mut [f32]) {
        for (a, out) in a.chunks_exact(dim).zip(out.chunks_mut(stride)) {
            for (b, out) in b.chunks(4 * dim).zip(out.chunks_mut(4)) {
                if b.len() == 4 * dim {
                    let row = |j: usize| &b[j * dim..][..dim];
                    out[..4].copy_from_slice(&dots(a, [row(0), row(1), row(2), row(3)]));
                } else {
                    for (b, out) in b.chunks_exact(dim).zip(out) {
                        [*out] = dots(a, [b]);
                    }
                }
            }
        }
    }
}

multiversion! {
    /// `y += factor * x` in f64.
    fn add_scaled(factor: f64, x: &[f32], y: &mut [f64]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += factor * f64::from(x);
        }
    }
}

fn check_eps(op: &'static str, eps: f32) -> Result<()> {
    if eps > 0.0 && eps.is_finite() {
        return Ok(());
    }
    Err(Error::argument(op, "a positive floor under the squared norm", eps, "1e-12 is usual"))
}

fn squared_norm(z: &[f32]) -> f64 {
    z.iter().map(|&z| f64::from(z) * f64::from(z)).sum()
}

/// `y = z / sqrt(max(Σ z², eps))` per row, `=`. A row of zeros stays zero.
///
/// Shapes: `z, y [n, dim]`.
///
/// Gradient: [`l2_normalize_backward`].
///
/// Determinism: rows on their own.
///
/// # Errors
/// When an extent is zero, a slice has the wrong length, or `eps` is not positive.
///
/// # Example
/// ```
/// let mut y = [0.0; 2];
/// warpsmith::cpu::supcon::l2_normalize(1, 2, 1e-12, &[3.0, 4.0], &mut y)?;
/// assert_eq!(y, [0.6, 0.8]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn l2_normalize(n: usize, dim: usize, eps: f32, z: &[f32], y: &mut [f32]) -> Result<()> {
    const OP: &str = "l2_normalize";
    check_len(OP, "z", z.len(), volume(OP, &[n, dim])?)?;
    check_len(OP, "y", y.len(), z.len())?;
    check_eps(OP, eps)?;
    y.par_chunks_exact_mut(dim).zip(z.par_chunks_exact(dim)).with_min_len(ROWS).for_each(|(y, z)| {
        let inverse = 1.0 / squared_norm(z).max(f64::from(eps)).sqrt();
        for (y, &z) in y.iter_mut().zip(z) {
            *y = (f64::from(z) * inverse) as f32;
        }
    });
    Ok(())
}

/// Gradient through the normalisation of one row: `write(k, dz_k)`.
fn normalize_backward_row(eps: f32, z: &[f32], dy: impl Fn(usize) -> f64, mut write: impl FnMut(usize, f32)) {
    let squares = squared_norm(z);
    let inverse = 1.0 / squares.max(f64::from(eps)).sqrt();
    // Under the floor the normaliser is a constant, so nothing is projected out.
    let radial: f64 = if squares >= f64::from(eps) {
        z.iter().enumerate().map(|(k, &z)| f64::from(z) * inverse * dy(k)).sum()
    } else {
        0.0
    };
    for (k, &z) in z.iter().enumerate() {
        write(k, (inverse * (dy(k) - f64::from(z) * inverse * radial)) as f32);
    }
}

/// Gradient of [`l2_normalize`]: `dz (= or += with accumulate) (dy - y (y · dy)) / |z|`; for a row under the
/// floor the normaliser is the constant `1 / sqrt(eps)`.
///
/// Shapes: `z, dy, dz [n, dim]`.
///
/// Determinism: rows on their own.
///
/// # Errors
/// When an extent is zero, a slice has the wrong length, or `eps` is not positive.
///
/// # Example
/// ```
/// let mut dz = [0.0; 2];
/// warpsmith::cpu::supcon::l2_normalize_backward(1, 2, 1e-12, &[2.0, 0.0], &[1.0, 1.0], false, &mut dz)?;
/// assert_eq!(dz, [0.0, 0.5]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn l2_normalize_backward(
    n: usize,
    dim: usize,
    eps: f32,
    z: &[f32],
    dy: &[f32],
    accumulate: bool,
    dz: &mut [f32],
) -> Result<()> {
    const OP: &str = "l2_normalize backward";
    check_len(OP, "z", z.len(), volume(OP, &[n, dim])?)?;
    check_len(OP, "dy", dy.len(), z.len())?;
    check_len(OP, "dz", dz.len(), z.len())?;
    check_eps(OP, eps)?;
    dz.par_chunks_exact_mut(dim).with_min_len(ROWS).enumerate().for_each(|(i, dz)| {
        let (z, dy) = (&z[i * dim..][..dim], &dy[i * dim..][..dim]);
        normalize_backward_row(
            eps,
            z,
            |k| f64::from(dy[k]),
            |k, value| dz[k] = if accumulate { dz[k] + value } else { value },
        );
    });
    Ok(())
}

/// `sim[i, j] = z_i · z_j / temperature`, `=`. Pass unit-norm rows for cosine similarities.
///
/// Shapes: `z [n, dim]`, `sim [n, n]`.
///
/// Gradient: [`similarity_matrix_backward`].
///
/// Determinism: every element is computed on its own; the matrix is symmetric bit for bit.
///
/// # Errors
/// When an extent is zero, a slice has the wrong length, or the temperature is not positive.
///
/// # Example
/// ```
/// let mut sim = [0.0; 4];
/// warpsmith::cpu::supcon::similarity_matrix(2, 2, &[1.0, 0.0, 0.6, 0.8], 0.5, &mut sim)?;
/// assert_eq!(sim, [2.0, 1.2, 1.2, 2.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn similarity_matrix(n: usize, dim: usize, z: &[f32], temperature: f32, sim: &mut [f32]) -> Result<()> {
    const OP: &str = "similarity_matrix";
    check_len(OP, "z", z.len(), volume(OP, &[n, dim])?)?;
    check_len(OP, "sim", sim.len(), volume(OP, &[n, n])?)?;
    check_temperature(OP, temperature)?;
    sim.par_chunks_mut(ROWS * n).zip(z.par_chunks(ROWS * dim)).for_each(|(sim, a)| {
        for (tile, b) in z.chunks(COLS * dim).enumerate() {
            let sim = &mut sim[tile * COLS..];
            let cols = b.len() / dim;
            let mut products = [0.0; ROWS * COLS];
            dot_tile(dim, a, b, COLS, &mut products);
            for (products, sim) in products.chunks_exact(COLS).zip(sim.chunks_mut(n)) {
                for (sim, product) in sim[..cols].iter_mut().zip(products) {
                    *sim = product / temperature;
                }
            }
        }
    });
    Ok(())
}

/// Gradient of [`similarity_matrix`]: `dz (= or += with accumulate) (dsim + dsimᵀ) z / temperature`.
///
/// Shapes: `z, dz [n, dim]`, `dsim [n, n]`.
///
/// Determinism: every row of `dz` adds its terms in order.
///
/// # Errors
/// When an extent is zero, a slice has the wrong length, or the temperature is not positive.
///
/// # Example
/// ```
/// let mut dz = [0.0; 1];
/// warpsmith::cpu::supcon::similarity_matrix_backward(1, 1, &[3.0], 0.5, &[1.0], false, &mut dz)?;
/// assert_eq!(dz, [12.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn similarity_matrix_backward(
    n: usize,
    dim: usize,
    z: &[f32],
    temperature: f32,
    dsim: &[f32],
    accumulate: bool,
    dz: &mut [f32],
) -> Result<()> {
    const OP: &str = "similarity_matrix backward";
    check_len(OP, "z", z.len(), volume(OP, &[n, dim])?)?;
    check_len(OP, "dz", dz.len(), z.len())?;
    check_len(OP, "dsim", dsim.len(), volume(OP, &[n, n])?)?;
    check_temperature(OP, temperature)?;
    dz.par_chunks_exact_mut(dim).enumerate().for_each(|(i, dz)| {
        scratch::with_f64(dim, |sums| {
            sums.fill(0.0);
            for (j, z) in z.chunks_exact(dim).enumerate() {
                let factor = f64::from(dsim[i * n + j]) + f64::from(dsim[j * n + i]);
                add_scaled(factor / f64::from(temperature), z, sums);
            }
            for (dz, &sum) in dz.iter_mut().zip(&*sums) {
                *dz = if accumulate { *dz + sum as f32 } else { sum as f32 };
            }
        });
    });
    Ok(())
}

/// What the gradient must know of an anchor.
#[derive(Debug, Clone, Copy, Default)]
struct Anchor {
    /// `log Σ exp S` over the row.
    row: f64,
    /// The same over the positives.
    positives: f64,
    /// Number of positives.
    count: usize,
    loss: f64,
}

/// A log-sum-exp that takes one number at a time.
#[derive(Clone, Copy)]
struct LogSumExp {
    max: f64,
    sum: f64,
}

impl LogSumExp {
    const EMPTY: Self = LogSumExp { max: f64::NEG_INFINITY, sum: 0.0 };

    fn add(&mut self, s: f64) {
        if s > self.max {
            self.sum = self.sum * (self.max - s).exp() + 1.0;
            self.max = s;
        } else {
            self.sum += (s - self.max).exp();
        }
    }

    fn value(self) -> f64 {
        self.max + self.sum.ln()
    }
}

/// The anchors of one call: unit-norm rows and their labels.
#[derive(Clone, Copy)]
struct Rows<'a> {
    settings: Supcon,
    dim: usize,
    views: usize,
    z: &'a [f32],
    labels: &'a [i32],
}

impl Rows<'_> {
    fn is_positive(&self, i: usize, j: usize) -> bool {
        self.labels[i / self.views] == self.labels[j / self.views]
    }

    /// Calls `visit(i, j, similarity)` for the pairs of the anchors `first .. first + count` that the loss
    /// looks at, row by row within each tile.
    fn for_pairs(&self, first: usize, count: usize, mut visit: impl FnMut(usize, usize, f64)) {
        let a = &self.z[first * self.dim..][..count * self.dim];
        let temperature = f64::from(self.settings.temperature);
        let mut products = [0.0; ROWS * COLS];
        for (tile, b) in self.z.chunks(COLS * self.dim).enumerate() {
            dot_tile(self.dim, a, b, COLS, &mut products);
            for row in 0..count {
                for column in 0..b.len() / self.dim {
                    let (i, j) = (first + row, tile * COLS + column);
                    if i != j || self.settings.form == Form::Npairs {
                        visit(i, j, f64::from(products[row * COLS + column]) / temperature);
                    }
                }
            }
        }
    }

    /// First walk: log-sum-exps, counts and losses of the anchors from `first` on.
    fn measure(&self, first: usize, anchors: &mut [Anchor]) {
        let mut rows = [LogSumExp::EMPTY; ROWS];
        let mut positives = [LogSumExp::EMPTY; ROWS];
        let mut sums = [0.0f64; ROWS];
        self.for_pairs(first, anchors.len(), |i, j, s| {
            let row = i - first;
            rows[row].add(s);
            if self.is_positive(i, j) {
                anchors[row].count += 1;
                sums[row] += s;
                if self.settings.form == Form::In {
                    positives[row].add(s);
                }
            }
        });
        for (row, anchor) in anchors.iter_mut().enumerate().filter(|(_, anchor)| anchor.count > 0) {
            let count = anchor.count as f64;
            anchor.row = rows[row].value();
            anchor.positives = positives[row].value();
            anchor.loss = match self.settings.form {
                Form::Npairs | Form::Out => anchor.row - sums[row] / count,
                Form::In => anchor.row - (anchor.positives - count.ln()),
            };
        }
    }

    /// `d loss_i / d S_ij`.
    fn slope(&self, anchor: &Anchor, s: f64, positive: bool) -> f64 {
        if anchor.count == 0 {
            return 0.0;
        }
        let target = match self.settings.form {
            _ if !positive => 0.0,
            Form::Npairs | Form::Out => 1.0 / anchor.count as f64,
            Form::In => (s - anchor.positives).exp(),
        };
        (s - anchor.row).exp() - target
    }

    /// Second walk: gradient to the unit-norm rows of the anchors from `first` on, without the factor of the mean.
    fn gradient(&self, first: usize, anchors: &[Anchor], dn: &mut [f64]) {
        let dim = self.dim;
        dn.fill(0.0);
        self.for_pairs(first, dn.len() / dim, |i, j, s| {
            // S_ij and S_ji are the same number, so row i of the gradient gets both anchors' slopes.
            let positive = self.is_positive(i, j);
            let slope = self.slope(&anchors[i], s, positive) + self.slope(&anchors[j], s, positive);
            if slope != 0.0 {
                add_scaled(slope, &self.z[j * dim..][..dim], &mut dn[(i - first) * dim..][..dim]);
            }
        });
    }
}

/// A supervised contrastive loss and, where asked, its gradient to the un-normalised embeddings.
///
/// Rows are normalised (`n = z / sqrt(max(Σ z², norm_eps))`), `S = n nᵀ / temperature`, and every row is an
/// anchor whose positives are the rows of its label; [`Form`] says how they enter. Returns
/// `scale * Σ losses / anchors` (see [`MeanOver`]). With `dz = Some((dloss, slice))` the slice receives (`=`)
/// the gradient times `dloss`.
///
/// Shapes: `z, dz [batch, views, dim]`, `labels [batch]`.
///
/// Anchors without a positive have loss 0; rows of zeros have similarity 0 with everything and a finite
/// gradient. Memory: the normalised rows and a few numbers per row, never `n x n`.
///
/// Determinism: fixed blocks of anchors, tiles and losses in order.
///
/// # Errors
/// When an extent is zero, a slice has the wrong length, or temperature or floor are not positive.
///
/// # Example
/// ```
/// use warpsmith::cpu::supcon::{Supcon, loss};
/// let mut dz = [0.0; 6];
/// let z = [1.0, 0.0, 0.9, 0.1, 0.0, 1.0];
/// let value = loss(&Supcon::default(), 3, 1, 2, &z, &[0, 0, 1], Some((1.0, &mut dz)))?;
/// assert!(value > 0.0 && dz.iter().all(|d| d.is_finite()));
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn loss(
    settings: &Supcon,
    batch: usize,
    views: usize,
    dim: usize,
    z: &[f32],
    labels: &[i32],
    dz: Option<(f32, &mut [f32])>,
) -> Result<f32> {
    const OP: &str = "supcon";
    let elems = volume(OP, &[batch, views, dim])?;
    check_len(OP, "z", z.len(), elems)?;
    check_len(OP, "labels", labels.len(), batch)?;
    check_temperature(OP, settings.temperature)?;
    check_eps(OP, settings.norm_eps)?;
    if let Some((_, dz)) = &dz {
        check_len(OP, "dz", dz.len(), elems)?;
    }
    let n = batch * views;
    scratch::with_f32(elems, |unit| {
        l2_normalize(n, dim, settings.norm_eps, z, unit)?;
        let rows = Rows { settings: *settings, dim, views, z: unit, labels };
        let mut anchors = vec![Anchor::default(); n];
        anchors.par_chunks_mut(ROWS).enumerate().for_each(|(block, anchors)| rows.measure(block * ROWS, anchors));
        let counted = match settings.mean_over {
            MeanOver::WithPositive => anchors.iter().filter(|anchor| anchor.count > 0).count().max(1),
            MeanOver::All => n,
        };
        let factor = f64::from(settings.scale) / counted as f64;
        if let Some((dloss, dz)) = dz {
            let factor = factor * f64::from(dloss) / f64::from(settings.temperature);
            dz.par_chunks_mut(ROWS * dim).zip(z.par_chunks(ROWS * dim)).enumerate().for_each(|(block, (dz, z))| {
                scratch::with_f64(dz.len(), |dn| {
                    rows.gradient(block * ROWS, &anchors, dn);
                    let each = dz.chunks_exact_mut(dim).zip(z.chunks_exact(dim)).zip(dn.chunks_exact(dim));
                    for ((dz, z), dn) in each {
                        let write = |k: usize, value: f32| dz[k] = value;
                        normalize_backward_row(settings.norm_eps, z, |k| factor * dn[k], write);
                    }
                });
            });
        }
        Ok((factor * anchors.iter().map(|anchor| anchor.loss).sum::<f64>()) as f32)
    })
}
