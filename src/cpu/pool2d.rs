//! Max-pooling over windows and global average pooling, NHWC.

use super::multiversion::multiversion;
use super::volume;
use crate::error::check_len;
use crate::problem::Pool2dProblem;
use crate::{Error, Result};
use rayon::prelude::*;

/// The argmax of a window that was won by the padding.
pub const PADDING: u8 = u8::MAX;

/// Channels that are compared at a time, in registers.
const TILE: usize = 32;

/// One element of a window: its place `r · S + s`, and the offset of its pixel in the picture (`None`: padding).
type Tap = (u8, Option<usize>);

/// Lists the taps of the window at output `(p, q)`, row-major.
fn list_taps(problem: &Pool2dProblem, p: usize, q: usize, taps: &mut Vec<Tap>) {
    let (h, w, c) = (problem.h as usize, problem.w as usize, problem.c as usize);
    taps.clear();
    for r in 0..problem.r as usize {
        for s in 0..problem.s as usize {
            let row = (p * problem.stride_h as usize + r).checked_sub(problem.pad_top as usize);
            let column = (q * problem.stride_w as usize + s).checked_sub(problem.pad_left as usize);
            let pixel = match (row, column) {
                (Some(row), Some(column)) if row < h && column < w => Some((row * w + column) * c),
                _ => None,
            };
            taps.push((taps.len() as u8, pixel));
        }
    }
}

/// Maximum of one window for every channel. Ties stay with the first tap; NaN wins.
#[inline(always)]
fn max_window(taps: &[Tap], padding: f32, picture: &[f32], y: &mut [f32], argmax: &mut [u8]) {
    let c = y.len();
    let whole = c - c % TILE;
    for tile in (0..whole).step_by(TILE) {
        let value = |pixel: Option<usize>| -> [f32; TILE] {
            pixel.map_or([padding; TILE], |pixel| picture[pixel + tile..][..TILE].try_into().expect("TILE channels"))
        };
        let number = |(number, pixel): Tap| if pixel.is_some() { u32::from(number) } else { u32::from(PADDING) };
        let (mut best, mut place) = (value(taps[0].1), [number(taps[0]); TILE]);
        for &tap in &taps[1..] {
            let (x, number) = (value(tap.1), number(tap));
            // Whole arrays are replaced, so that they stay in registers.
            let wins: [bool; TILE] = std::array::from_fn(|l| (x[l] > best[l]) | x[l].is_nan());
            best = std::array::from_fn(|l| if wins[l] { x[l] } else { best[l] });
            place = std::array::from_fn(|l| if wins[l] { number } else { place[l] });
        }
        for (y, best) in y[tile..tile + TILE].iter_mut().zip(best) {
            *y = best;
        }
        if !argmax.is_empty() {
            for (argmax, place) in argmax[tile..tile + TILE].iter_mut().zip(place) {
                *argmax = place as u8;
            }
        }
    }
    for ch in whole..c {
        let (mut best, mut place) = (f32::NEG_INFINITY, 0);
        for (i, &(number, pixel)) in taps.iter().enumerate() {
            let (value, number) = pixel.map_or((padding, PADDING), |pixel| (picture[pixel + ch], number));
            if i == 0 || value > best || value.is_nan() {
                (best, place) = (value, number);
            }
        }
        y[ch] = best;
        if !argmax.is_empty() {
            argmax[ch] = place;
        }
    }
}

multiversion! {
    /// One output row.
    fn max_row(problem: &Pool2dProblem, p: usize, padding: f32, picture: &[f32], y: &mut [f32], argmax: &mut [u8]) {
        let (c, w, s) = (problem.c as usize, problem.w as usize, problem.s as usize);
        let (stride, pad) = (problem.stride_w as usize, problem.pad_left as usize);
        let mut taps = Vec::with_capacity(problem.r as usize * s);
        // The column whose windows `taps` belong to, when they touch no padding at the sides: the windows
        // right of it have the same taps in a picture that starts later.
        let mut inner = None;
        for (q, y) in y.chunks_exact_mut(c).enumerate() {
            let argmax = if argmax.is_empty() { &mut [][..] } else { &mut argmax[q * c..][..c] };
            let is_inner = q * stride >= pad && q * stride + s <= w + pad;
            let shift = match inner {
                Some(first) if is_inner => (q - first) * stride * c,
                _ => {
                    list_taps(problem, p, q, &mut taps);
                    inner = is_inner.then_some(q);
                    0
                }
            };
            max_window(&taps, padding, &picture[shift..], y, argmax);
        }
    }
}

/// Max-pooling: `y[n,p,q,c] = max over r, s of x[n, p·stride_h + r - pad_top, q·stride_w + s - pad_left, c]`.
///
/// Writes `y` and `argmax` with `=`.
///
/// Padding has the value `padding_value` and takes part in the maximum (0 in ResNet50V2, which pads with
/// zeros before it pools).
///
/// Shapes: `x [n,h,w,c]`, `y [n,p,q,c]`, `argmax` like `y`.
///
/// `argmax` receives for every output the place `r · S + s` of the winner in its window, or [`PADDING`]; of
/// equal values the first in row-major order wins. Backward needs these bytes (a sixteenth of the input's
/// size at 3x3/2) and not `x`, so the input can be freed. Pass `None` when no gradient is wanted, and for
/// 1x1 windows without padding, where the winner is known.
///
/// Gradient: [`max_backward`].
///
/// Determinism: every element is computed on its own.
///
/// # Errors
/// When a slice has the wrong length or the window has more than 254 elements.
///
/// # Example
/// ```
/// use warpsmith::{cpu::pool2d, problem::{Pool2dProblem, Window}};
/// let problem = Pool2dProblem::new([1, 2, 2, 1], [3, 3], Window::square(1, 2))?;
/// let (mut y, mut argmax) = ([9.0], [9]);
/// pool2d::max(&problem, 0.0, &[-1.0, -2.0, 4.0, -3.0], &mut y, Some(&mut argmax))?;
/// assert_eq!((y, argmax), ([4.0], [7]));
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn max(
    problem: &Pool2dProblem,
    padding_value: f32,
    x: &[f32],
    y: &mut [f32],
    argmax: Option<&mut [u8]>,
) -> Result<()> {
    const OP: &str = "pool2d max";
    problem.check(OP)?;
    check_len(OP, "x", x.len(), problem.x_elems())?;
    check_len(OP, "y", y.len(), problem.y_elems())?;
    if let Some(argmax) = &argmax {
        check_len(OP, "argmax", argmax.len(), problem.y_elems())?;
    }
    let (p, c) = (problem.p as usize, problem.c as usize);
    let row = problem.q as usize * c;
    let picture = problem.h as usize * problem.w as usize * c;
    let row_of = |i: usize, y: &mut [f32], argmax: &mut [u8]| {
        let x = &x[i / p * picture..][..picture];
        if problem.is_subsample() {
            let source = &x[i % p * problem.stride_h as usize * problem.w as usize * c..];
            let step = problem.stride_w as usize * c;
            for (q, y) in y.chunks_exact_mut(c).enumerate() {
                y.copy_from_slice(&source[q * step..][..c]);
            }
            argmax.fill(0);
            return;
        }
        max_row(problem, i % p, padding_value, x, y, argmax);
    };
    match argmax {
        Some(argmax) => y
            .par_chunks_exact_mut(row)
            .zip(argmax.par_chunks_exact_mut(row))
            .enumerate()
            .for_each(|(i, (y, argmax))| row_of(i, y, argmax)),
        None => y.par_chunks_exact_mut(row).enumerate().for_each(|(i, y)| row_of(i, y, &mut [])),
    }
    Ok(())
}

multiversion! {
    /// What one output row sends to one input row, `tap_row` of its windows:
    /// `dx[column of the tap] += dy` where the window was won by the tap.
    fn scatter_row(problem: &Pool2dProblem, tap_row: usize, dy: &[f32], argmax: Option<&[u8]>, dx: &mut [f32]) {
        let (c, w, s) = (problem.c as usize, problem.w as usize, problem.s as usize);
        for (q, dy) in dy.chunks_exact(c).enumerate() {
            for tap_column in 0..s {
                let column = (q * problem.stride_w as usize + tap_column).checked_sub(problem.pad_left as usize);
                let Some(column) = column.filter(|&column| column < w) else {
                    continue;
                };
                let dx = &mut dx[column * c..][..c];
                match argmax {
                    Some(argmax) => {
                        let argmax = &argmax[q * c..][..c];
                        let place = (tap_row * s + tap_column) as u8;
                        for ch in 0..c {
                            dx[ch] += if argmax[ch] == place { dy[ch] } else { 0.0 };
                        }
                    }
                    None => {
                        for ch in 0..c {
                            dx[ch] += dy[ch];
                        }
                    }
                }
            }
        }
    }
}

multiversion! {
    fn add_assign(x: &[f32], y: &mut [f32]) {
        for (y, x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }
}

/// Gradient of [`max`]: every `dy` goes to the element that won its window; windows won by the padding send
/// none. `dx` is added to with `accumulate`, else overwritten.
///
/// Shapes: `dy, argmax [n,p,q,c]`, `dx [n,h,w,c]`. `argmax` may be `None` for 1x1 windows without padding.
///
/// Determinism: every input row gathers from the windows over it, in row-major order.
///
/// # Errors
/// When a slice has the wrong length, or `argmax` is missing where it is needed.
///
/// # Example
/// ```
/// use warpsmith::{cpu::pool2d, problem::{Pool2dProblem, Window}};
/// let problem = Pool2dProblem::new([1, 2, 2, 1], [1, 1], Window::square(0, 2))?;
/// let mut dx = [9.0; 4];
/// pool2d::max_backward(&problem, &[5.0], None, false, &mut dx)?;
/// assert_eq!(dx, [5.0, 0.0, 0.0, 0.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn max_backward(
    problem: &Pool2dProblem,
    dy: &[f32],
    argmax: Option<&[u8]>,
    accumulate: bool,
    dx: &mut [f32],
) -> Result<()> {
    const OP: &str = "pool2d max_backward";
    problem.check(OP)?;
    check_len(OP, "dy", dy.len(), problem.y_elems())?;
    check_len(OP, "dx", dx.len(), problem.x_elems())?;
    if let Some(argmax) = argmax {
        check_len(OP, "argmax", argmax.len(), problem.y_elems())?;
    } else if !problem.is_subsample() {
        return Err(Error::argument(
            OP,
            "the argmax of the forward pass",
            "none",
            "only 1x1 windows without padding do without it",
        ));
    }
    let Pool2dProblem { h, w, c, r, p, q, stride_h, pad_top, .. } = *problem;
    let [h, w, c, r, p, q, stride_h, pad_top] = [h, w, c, r, p, q, stride_h, pad_top].map(|size| size as usize);
    dx.par_chunks_exact_mut(w * c).enumerate().for_each(|(i, dx)| {
        let (n, row) = (i / h, i % h);
        if !accumulate {
            dx.fill(0.0);
        }
        // Windows over this row: out_row · stride_h <= row + pad_top < out_row · stride_h + r.
        let padded = row + pad_top;
        let first = (padded + 1).saturating_sub(r).div_ceil(stride_h);
        for out_row in first..p.min(padded / stride_h + 1) {
            let start = (n * p + out_row) * q * c;
            let argmax = argmax.map(|argmax| &argmax[start..][..q * c]);
            scatter_row(problem, padded - out_row * stride_h, &dy[start..][..q * c], argmax, dx);
        }
    });
    Ok(())
}

/// `y[n,c] = mean over pixels of x[n,pixels,c]`, `=`.
///
/// Shapes: `x [n, pixels, c]` with `pixels = h·w`, `y [n, c]`.
///
/// Gradient: [`global_avg_backward`].
///
/// Determinism: one task per sample adds its pixels in order.
///
/// # Errors
/// When an extent is zero or a slice has the wrong length.
///
/// # Example
/// ```
/// let mut y = [0.0; 2];
/// warpsmith::cpu::pool2d::global_avg(1, 2, 2, &[1.0, 10.0, 3.0, 30.0], &mut y)?;
/// assert_eq!(y, [2.0, 20.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn global_avg(n: usize, pixels: usize, c: usize, x: &[f32], y: &mut [f32]) -> Result<()> {
    const OP: &str = "pool2d global_avg";
    check_len(OP, "x", x.len(), volume(OP, &[n, pixels, c])?)?;
    check_len(OP, "y", y.len(), n * c)?;
    y.par_chunks_exact_mut(c).zip(x.par_chunks_exact(pixels * c)).for_each(|(y, x)| {
        y.fill(0.0);
        for x in x.chunks_exact(c) {
            add_assign(x, y);
        }
        y.iter_mut().for_each(|sum| *sum /= pixels as f32);
    });
    Ok(())
}

multiversion! {
    fn spread(dy: &[f32], pixels: f32, accumulate: bool, dx: &mut [f32]) {
        for (dx, dy) in dx.iter_mut().zip(dy) {
            let share = dy / pixels;
            *dx = if accumulate { *dx + share } else { share };
        }
    }
}

/// Gradient of [`global_avg`]: `dx[n,pixel,c] (= or += with accumulate) dy[n,c] / pixels`.
///
/// Shapes: `dy [n, c]`, `dx [n, pixels, c]`.
///
/// Determinism: every element is computed on its own.
///
/// # Errors
/// When an extent is zero or a slice has the wrong length.
///
/// # Example
/// ```
/// let mut dx = [0.0; 4];
/// warpsmith::cpu::pool2d::global_avg_backward(1, 2, 2, &[2.0, 4.0], false, &mut dx)?;
/// assert_eq!(dx, [1.0, 2.0, 1.0, 2.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn global_avg_backward(
    n: usize,
    pixels: usize,
    c: usize,
    dy: &[f32],
    accumulate: bool,
    dx: &mut [f32],
) -> Result<()> {
    const OP: &str = "pool2d global_avg_backward";
    check_len(OP, "dx", dx.len(), volume(OP, &[n, pixels, c])?)?;
    check_len(OP, "dy", dy.len(), n * c)?;
    dx.par_chunks_exact_mut(pixels * c).zip(dy.par_chunks_exact(c)).for_each(|(dx, dy)| {
        for dx in dx.chunks_exact_mut(c) {
            spread(dy, pixels as f32, accumulate, dx);
        }
    });
    Ok(())
}
