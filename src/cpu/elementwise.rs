//! Element-wise ops, conversions between element types, and two whole-slice checks.
//!
//! Determinism: every element is computed on its own; [`sum_of_squares`] adds fixed chunks in order.

use super::multiversion::multiversion;
use super::{CHUNK, volume};
use crate::error::check_len;
use crate::{Error, Result};
use half::bf16;
use rayon::prelude::*;

/// Runs `f` over corresponding chunks of `x` and `y`.
fn map<X: Sync, Y: Send>(x: &[X], y: &mut [Y], f: impl Fn(&[X], &mut [Y]) + Sync) {
    if y.len() <= CHUNK {
        return f(x, y);
    }
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| f(x, y));
}

/// Runs `f` over corresponding chunks of `a`, `b` and `y`.
fn map2<Y: Send>(a: &[f32], b: &[f32], y: &mut [Y], f: impl Fn(&[f32], &[f32], &mut [Y]) + Sync) {
    if y.len() <= CHUNK {
        return f(a, b, y);
    }
    y.par_chunks_mut(CHUNK).zip(a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK))).for_each(|(y, (a, b))| f(a, b, y));
}

multiversion! {
    fn relu_chunk(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            // Written this way round, NaN passes through.
            *y = if x < 0.0 { 0.0 } else { x };
        }
    }
}

multiversion! {
    fn relu_backward_chunk(x: &[f32], dy: &[f32], accumulate: bool, dx: &mut [f32]) {
        let len = dx.len();
        let (x, dy) = (&x[..len], &dy[..len]);
        if accumulate {
            for i in 0..len {
                dx[i] += if x[i] > 0.0 { dy[i] } else { 0.0 };
            }
        } else {
            for i in 0..len {
                dx[i] = if x[i] > 0.0 { dy[i] } else { 0.0 };
            }
        }
    }
}

multiversion! {
    fn add_chunk(a: &[f32], b: &[f32], y: &mut [f32]) {
        let len = y.len();
        let (a, b) = (&a[..len], &b[..len]);
        for i in 0..len {
            y[i] = a[i] + b[i];
        }
    }
}

multiversion! {
    fn add_assign_chunk(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

multiversion! {
    fn rescale_chunk(x: &[f32], scale: f32, offset: f32, y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = x * scale + offset;
        }
    }
}

multiversion! {
    fn rescale_u8_chunk(x: &[u8], scale: f32, offset: f32, y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = f32::from(x) * scale + offset;
        }
    }
}

multiversion! {
    fn scale_assign_chunk(factor: f32, x: &mut [f32]) {
        for x in x {
            *x *= factor;
        }
    }
}

multiversion! {
    fn to_bf16_chunk(x: &[f32], y: &mut [bf16]) {
        for (y, &x) in y.iter_mut().zip(x) {
            let bits = x.to_bits();
            // Round to nearest even; a NaN keeps its sign and becomes quiet instead of overflowing to infinity.
            let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
            let nan = bits & 0x7fff_ffff > 0x7f80_0000;
            *y = bf16::from_bits((if nan { bits | 0x0040_0000 } else { rounded } >> 16) as u16);
        }
    }
}

multiversion! {
    fn from_bf16_chunk(x: &[bf16], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y = f32::from_bits(u32::from(x.to_bits()) << 16);
        }
    }
}

multiversion! {
    /// Sixteen partial sums keep the order of the additions fixed and the loop vectorised.
    fn sum_of_squares_chunk(x: &[f32]) -> f64 {
        let mut sums = [0.0f64; 16];
        for x in x.chunks(16) {
            for (sum, &x) in sums.iter_mut().zip(x) {
                *sum += f64::from(x) * f64::from(x);
            }
        }
        sums.iter().sum()
    }
}

multiversion! {
    fn has_non_finite_chunk(x: &[f32]) -> bool {
        let mut found = 0u32;
        for x in x {
            // The exponent field is all ones for infinities and NaN alone.
            found |= u32::from(x.to_bits() & 0x7f80_0000 == 0x7f80_0000);
        }
        found != 0
    }
}

/// `y = max(x, 0)`. NaN stays NaN.
///
/// Gradient: [`relu_backward`].
///
/// # Errors
/// When the slices differ in length.
///
/// # Example
/// ```
/// let mut y = [0.0; 3];
/// warpsmith::cpu::elementwise::relu(&[-1.0, 0.0, 2.0], &mut y)?;
/// assert_eq!(y, [0.0, 0.0, 2.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn relu(x: &[f32], y: &mut [f32]) -> Result<()> {
    check_len("relu", "y", y.len(), x.len())?;
    map(x, y, relu_chunk);
    Ok(())
}

/// `dx (= or += with accumulate) dy where x > 0, else 0`; the gradient at exactly 0 is 0.
///
/// `x` may be the input or the output of [`relu`].
///
/// # Errors
/// When the slices differ in length.
///
/// # Example
/// ```
/// let mut dx = [0.0; 3];
/// warpsmith::cpu::elementwise::relu_backward(&[-1.0, 0.0, 2.0], &[5.0, 6.0, 7.0], false, &mut dx)?;
/// assert_eq!(dx, [0.0, 0.0, 7.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn relu_backward(x: &[f32], dy: &[f32], accumulate: bool, dx: &mut [f32]) -> Result<()> {
    check_len("relu_backward", "dy", dy.len(), x.len())?;
    check_len("relu_backward", "dx", dx.len(), x.len())?;
    map2(x, dy, dx, |x, dy, dx| relu_backward_chunk(x, dy, accumulate, dx));
    Ok(())
}

/// `y = a + b`. Gradient: `dy` to both.
///
/// # Errors
/// When the slices differ in length.
///
/// # Example
/// ```
/// let mut y = [0.0; 2];
/// warpsmith::cpu::elementwise::add(&[1.0, 2.0], &[3.0, 4.0], &mut y)?;
/// assert_eq!(y, [4.0, 6.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn add(a: &[f32], b: &[f32], y: &mut [f32]) -> Result<()> {
    check_len("add", "b", b.len(), a.len())?;
    check_len("add", "y", y.len(), a.len())?;
    map2(a, b, y, add_chunk);
    Ok(())
}

/// `y += x`: the residual sum in place, and the accumulation of gradients.
///
/// # Errors
/// When the slices differ in length.
///
/// # Example
/// ```
/// let mut y = [1.0, 2.0];
/// warpsmith::cpu::elementwise::add_assign(&[3.0, 4.0], &mut y)?;
/// assert_eq!(y, [4.0, 6.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn add_assign(x: &[f32], y: &mut [f32]) -> Result<()> {
    check_len("add_assign", "y", y.len(), x.len())?;
    map(x, y, add_assign_chunk);
    Ok(())
}

/// `x *= factor`.
///
/// # Example
/// ```
/// let mut x = [1.0, 2.0];
/// warpsmith::cpu::elementwise::scale_assign(3.0, &mut x)?;
/// assert_eq!(x, [3.0, 6.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
///
/// # Errors
/// Never; the result matches the other ops.
pub fn scale_assign(factor: f32, x: &mut [f32]) -> Result<()> {
    x.par_chunks_mut(CHUNK).for_each(|x| scale_assign_chunk(factor, x));
    Ok(())
}

/// `y = x * scale + offset`. Gradient: `dy * scale`, which is this op with offset 0.
///
/// # Errors
/// When the slices differ in length.
///
/// # Example
/// ```
/// let mut y = [0.0; 2];
/// warpsmith::cpu::elementwise::rescale(&[0.0, 255.0], 2.0 / 255.0, -1.0, &mut y)?;
/// assert_eq!(y, [-1.0, 1.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn rescale(x: &[f32], scale: f32, offset: f32, y: &mut [f32]) -> Result<()> {
    check_len("rescale", "y", y.len(), x.len())?;
    map(x, y, |x, y| rescale_chunk(x, scale, offset, y));
    Ok(())
}

/// `y = x * scale + offset` from bytes: images at rest into activations.
///
/// # Errors
/// When the slices differ in length.
///
/// # Example
/// ```
/// let mut y = [0.0; 2];
/// warpsmith::cpu::elementwise::rescale_u8(&[0, 255], 2.0 / 255.0, -1.0, &mut y)?;
/// assert_eq!(y, [-1.0, 1.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn rescale_u8(x: &[u8], scale: f32, offset: f32, y: &mut [f32]) -> Result<()> {
    check_len("rescale_u8", "y", y.len(), x.len())?;
    map(x, y, |x, y| rescale_u8_chunk(x, scale, offset, y));
    Ok(())
}

/// Reads `x` as floats for [`normalization`].
pub trait Pixel: Copy + Sync {
    /// The value as a float.
    fn to_f32(self) -> f32;
}

impl Pixel for f32 {
    fn to_f32(self) -> f32 {
        self
    }
}

impl Pixel for u8 {
    fn to_f32(self) -> f32 {
        f32::from(self)
    }
}

/// `y = (x - mean) / max(sqrt(var), 1e-7)` per channel: Keras' Normalization layer, from floats or bytes.
///
/// Shapes: `x, y [rows, c]`, `mean, var [c]` with `c = mean.len()`.
///
/// Gradient: `dy / max(sqrt(var), 1e-7)`; the layer stands at the input, so nothing asks for it.
///
/// # Errors
/// When `mean` is empty, or a slice has the wrong length.
///
/// # Example
/// ```
/// let mut y = [0.0; 2];
/// warpsmith::cpu::elementwise::normalization(&[1.0f32, 7.0], &[1.0, 3.0], &[1.0, 4.0], &mut y)?;
/// assert_eq!(y, [0.0, 2.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn normalization<T: Pixel>(x: &[T], mean: &[f32], var: &[f32], y: &mut [f32]) -> Result<()> {
    const OP: &str = "normalization";
    let c = volume(OP, &[mean.len()])?;
    check_len(OP, "var", var.len(), c)?;
    check_len(OP, "y", y.len(), x.len())?;
    if !x.len().is_multiple_of(c) {
        return Err(Error::shape(OP, format_args!("whole rows of {c} channels"), x.len(), "channels come last"));
    }
    let chunk = c * CHUNK.div_ceil(c);
    super::scratch::with_f32(c, |std| {
        for (std, var) in std.iter_mut().zip(var) {
            *std = var.sqrt().max(1e-7);
        }
        let std = &*std;
        y.par_chunks_mut(chunk).zip(x.par_chunks(chunk)).for_each(|(y, x)| {
            for (y, x) in y.chunks_exact_mut(c).zip(x.chunks_exact(c)) {
                for ch in 0..c {
                    y[ch] = (x[ch].to_f32() - mean[ch]) / std[ch];
                }
            }
        });
    });
    Ok(())
}

/// Statistics of a data set for [`normalization`]: mean and population variance of every channel over all rows.
///
/// `mean = Σ x / rows`, `var = Σ (x - mean)² / rows`, both `=`.
///
/// Shapes: `x [rows, c]`, `mean, var [c]` with `c = mean.len()`.
///
/// Determinism: chunks of rows are summed in f64 and merged in their order; bit-equal for any number of threads.
///
/// Source: `keras.layers.Normalization.adapt`.
///
/// # Errors
/// When `mean` or `x` is empty, a slice has the wrong length, or `x` is not whole rows.
///
/// # Example
/// ```
/// let (mut mean, mut var) = ([0.0; 1], [0.0; 1]);
/// warpsmith::cpu::elementwise::normalization_adapt(&[1u8, 5], &mut mean, &mut var)?;
/// assert_eq!((mean, var), ([3.0], [4.0]));
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn normalization_adapt<T: Pixel>(x: &[T], mean: &mut [f32], var: &mut [f32]) -> Result<()> {
    const OP: &str = "normalization_adapt";
    let c = volume(OP, &[mean.len()])?;
    check_len(OP, "var", var.len(), c)?;
    if x.is_empty() || !x.len().is_multiple_of(c) {
        return Err(Error::shape(OP, format_args!("whole rows of {c} channels"), x.len(), "channels come last"));
    }
    // Per chunk and channel: the mean, and the squared deviations from it, so that a large mean does not swallow
    // the variance.
    let chunk_moments = |x: &[T]| -> Vec<(f64, f64)> {
        let rows = (x.len() / c) as f64;
        let mut moments = vec![(0.0, 0.0); c];
        for row in x.chunks_exact(c) {
            for (moment, x) in moments.iter_mut().zip(row) {
                moment.0 += f64::from(x.to_f32());
            }
        }
        moments.iter_mut().for_each(|moment| moment.0 /= rows);
        for row in x.chunks_exact(c) {
            for (moment, x) in moments.iter_mut().zip(row) {
                moment.1 += (f64::from(x.to_f32()) - moment.0).powi(2);
            }
        }
        moments
    };
    let chunk = c * CHUNK.div_ceil(c);
    let chunks: Vec<Vec<(f64, f64)>> = x.par_chunks(chunk).map(chunk_moments).collect();
    for (k, (mean, var)) in mean.iter_mut().zip(var).enumerate() {
        let (mut rows, mut centre, mut squares) = (0.0, 0.0, 0.0);
        for (moments, x) in chunks.iter().zip(x.chunks(chunk)) {
            let (added, (chunk_mean, chunk_squares)) = ((x.len() / c) as f64, moments[k]);
            let (total, shift) = (rows + added, chunk_mean - centre);
            squares += chunk_squares + shift * shift * rows * added / total;
            centre += shift * added / total;
            rows = total;
        }
        (*mean, *var) = (centre as f32, (squares / rows) as f32);
    }
    Ok(())
}

/// `y = value` everywhere.
///
/// # Example
/// ```
/// let mut y = [0.0; 2];
/// warpsmith::cpu::elementwise::fill(3.0, &mut y)?;
/// assert_eq!(y, [3.0, 3.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
///
/// # Errors
/// Never; the result matches the other ops.
pub fn fill(value: f32, y: &mut [f32]) -> Result<()> {
    y.par_chunks_mut(CHUNK).for_each(|y| y.fill(value));
    Ok(())
}

/// Rounds floats to bf16, to nearest even; NaN stays NaN.
///
/// # Errors
/// When the slices differ in length.
///
/// # Example
/// ```
/// let mut y = [half::bf16::ZERO];
/// warpsmith::cpu::elementwise::f32_to_bf16(&[1.0], &mut y)?;
/// assert_eq!(y, [half::bf16::ONE]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn f32_to_bf16(x: &[f32], y: &mut [bf16]) -> Result<()> {
    check_len("f32_to_bf16", "y", y.len(), x.len())?;
    map(x, y, to_bf16_chunk);
    Ok(())
}

/// Widens bf16 to floats, exactly.
///
/// # Errors
/// When the slices differ in length.
///
/// # Example
/// ```
/// let mut y = [0.0];
/// warpsmith::cpu::elementwise::bf16_to_f32(&[half::bf16::ONE], &mut y)?;
/// assert_eq!(y, [1.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn bf16_to_f32(x: &[bf16], y: &mut [f32]) -> Result<()> {
    check_len("bf16_to_f32", "y", y.len(), x.len())?;
    map(x, y, from_bf16_chunk);
    Ok(())
}

/// `Σ x²` in f64.
///
/// # Example
/// ```
/// assert_eq!(warpsmith::cpu::elementwise::sum_of_squares(&[3.0, 4.0]), 25.0);
/// ```
pub fn sum_of_squares(x: &[f32]) -> f64 {
    // One number per chunk, added in order below whichever thread computed it.
    let sums: Vec<f64> = x.par_chunks(CHUNK).map(sum_of_squares_chunk).collect();
    sums.iter().sum()
}

/// Whether any element is NaN or infinite.
///
/// # Example
/// ```
/// use warpsmith::cpu::elementwise::has_non_finite;
/// assert!(has_non_finite(&[1.0, f32::NAN]));
/// assert!(!has_non_finite(&[1.0, f32::MAX]));
/// ```
pub fn has_non_finite(x: &[f32]) -> bool {
    x.par_chunks(CHUNK).any(has_non_finite_chunk)
}
