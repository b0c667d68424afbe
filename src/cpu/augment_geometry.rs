//! Geometry on image batches: bilinear resize, crop, flip, and the projective warp behind every rotation,
//! zoom, shear and translation.
//!
//! Shapes are `[n, h, w, c]` (NHWC); a single HWC image is `n = 1`. Coordinates and interpolation are float32
//! without fused multiply-add, so results are bit-equal on every machine and for every thread count.
//!
//! Source: the float32 arithmetic of `tf.image.resize` and `ImageProjectiveTransformV3` on a CPU.

use crate::error::{Error, Result, check_len};
use rayon::prelude::*;
use std::cell::RefCell;

pub use crate::geometry::{
    CropBox, FillMode, IDENTITY, Interpolation, Transform, rotation_transform, shear_x_transform, shear_y_transform,
    translation_transform, zoom_transform,
};

mod sealed {
    pub trait Sealed {}
    impl Sealed for u8 {}
    impl Sealed for f32 {}
}

/// An element type of images: `u8` or `f32`.
pub trait Pixel: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The value as f32.
    fn to_f32(self) -> f32;
    /// The value from f32; for `u8` clipped to 0..255 and truncated (NaN gives 0).
    fn from_f32(value: f32) -> Self;
}

impl Pixel for u8 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from(self)
    }

    #[inline(always)]
    fn from_f32(value: f32) -> u8 {
        #[expect(clippy::manual_clamp, reason = "`clamp` would keep NaN, `max` turns it into 0")]
        let clipped = value.max(0.0).min(255.0);
        // The saturating `as` does not vectorise, and half of the u8 ops end with this conversion.
        // SAFETY: the value is not NaN and lies in 0..=255, so it fits in i32.
        let whole = unsafe { clipped.to_int_unchecked::<i32>() };
        whole as u8
    }
}

impl Pixel for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> f32 {
        value
    }
}

/// One output position of an axis: the value is `lo + (hi − lo)·weight`.
///
/// Flips, crops and one resize only rearrange taps, so a chain of them is two tap tables and a single pass
/// over the picture. Each output value depends on its own taps alone: the chain gives the same bits as its
/// steps one by one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Tap {
    pub lo: u32,
    pub hi: u32,
    pub weight: f32,
}

/// Taps of a bilinear resize from `input` to `output` positions, half-pixel centres.
pub(crate) fn resize_taps(input: usize, output: usize, taps: &mut Vec<Tap>) {
    let scale = input as f32 / output as f32;
    taps.clear();
    taps.extend((0..output).map(|o| {
        let s = (o as f32 + 0.5) * scale - 0.5;
        if s < 0.0 {
            return Tap { lo: 0, hi: 0, weight: 0.0 };
        }
        // For s >= 0 the cast truncates, which is floor; rounding may carry s past the last position.
        let lo = (s as usize).min(input - 1);
        let weight = s - lo as f32;
        let hi = if weight > 0.0 { (lo + 1).min(input - 1) } else { lo };
        Tap { lo: lo as u32, hi: hi as u32, weight }
    }));
}

/// Reads `x` `[h, w, c]` through the tap tables into `y` `[rows, cols, c]`; `row_buffer` holds `2·cols·c` values.
#[inline(always)]
fn sample_body<S: Pixel, D: Pixel>(
    x: &[S],
    w: usize,
    c: usize,
    rows: &[Tap],
    cols: &[Tap],
    row_buffer: &mut [f32],
    y: &mut [D],
) {
    let row_elems = cols.len() * c;
    let (first, second) = row_buffer.split_at_mut(row_elems);
    let (mut top, mut bottom) = (first, &mut second[..row_elems]);
    // Which source rows the two buffers hold; neighbouring output rows mostly share them.
    let (mut top_row, mut bottom_row) = (u32::MAX, u32::MAX);
    for (tap, out) in rows.iter().zip(y.chunks_exact_mut(row_elems)) {
        if tap.lo != top_row {
            if tap.lo == bottom_row {
                std::mem::swap(&mut top, &mut bottom);
                std::mem::swap(&mut top_row, &mut bottom_row);
            } else {
                sample_row(&x[tap.lo as usize * w * c..][..w * c], c, cols, top);
                top_row = tap.lo;
            }
        }
        if tap.hi == tap.lo || tap.weight == 0.0 {
            for (out, &top) in out.iter_mut().zip(&*top) {
                *out = D::from_f32(top);
            }
            continue;
        }
        if tap.hi != bottom_row {
            sample_row(&x[tap.hi as usize * w * c..][..w * c], c, cols, bottom);
            bottom_row = tap.hi;
        }
        for ((out, &top), &bottom) in out.iter_mut().zip(&*top).zip(&*bottom) {
            *out = D::from_f32(top + (bottom - top) * tap.weight);
        }
    }
}

#[inline(always)]
fn sample_row<S: Pixel>(row: &[S], c: usize, cols: &[Tap], out: &mut [f32]) {
    if c == 3 {
        for (tap, out) in cols.iter().zip(out.chunks_exact_mut(3)) {
            let a = &row[tap.lo as usize * 3..][..3];
            let b = &row[tap.hi as usize * 3..][..3];
            for k in 0..3 {
                let (a, b) = (a[k].to_f32(), b[k].to_f32());
                out[k] = a + (b - a) * tap.weight;
            }
        }
        return;
    }
    for (tap, out) in cols.iter().zip(out.chunks_exact_mut(c)) {
        let (a, b) = (&row[tap.lo as usize * c..], &row[tap.hi as usize * c..]);
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            let (a, b) = (a.to_f32(), b.to_f32());
            *out = a + (b - a) * tap.weight;
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sample_avx2<S: Pixel, D: Pixel>(
    x: &[S],
    w: usize,
    c: usize,
    rows: &[Tap],
    cols: &[Tap],
    row_buffer: &mut [f32],
    y: &mut [D],
) {
    sample_body(x, w, c, rows, cols, row_buffer, y);
}

/// Reads `x` `[h, w, c]` through the tap tables into `y` `[rows, cols, c]`.
pub(crate) fn sample<S: Pixel, D: Pixel>(
    x: &[S],
    w: usize,
    c: usize,
    rows: &[Tap],
    cols: &[Tap],
    row_buffer: &mut Vec<f32>,
    y: &mut [D],
) {
    row_buffer.resize(row_buffer.len().max(2 * cols.len() * c), 0.0);
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        return unsafe { sample_avx2(x, w, c, rows, cols, row_buffer, y) };
    }
    sample_body(x, w, c, rows, cols, row_buffer, y);
}

/// Grow-only buffers of one thread: tap tables and row buffers.
#[derive(Default)]
struct SampleScratch {
    rows: Vec<Tap>,
    cols: Vec<Tap>,
    row_buffer: Vec<f32>,
}

thread_local! {
    static SAMPLE_SCRATCH: RefCell<SampleScratch> = RefCell::default();
    static WARP_SCRATCH: RefCell<WarpScratch> = RefCell::default();
}

fn check_shape(op: &'static str, shape: [usize; 4], x_len: usize) -> Result<()> {
    if shape[1..].contains(&0) {
        return Err(Error::shape(
            op,
            "height, width and channels of at least 1",
            format_args!("{}x{}x{}", shape[1], shape[2], shape[3]),
            "pass images that are not empty",
        ));
    }
    let elems = shape.iter().try_fold(1usize, |elems, &extent| elems.checked_mul(extent));
    let elems = elems.ok_or_else(|| {
        Error::shape(op, "extents whose product fits in memory", format_args!("{shape:?}"), "check the shape")
    })?;
    check_len(op, "x", x_len, elems)
}

fn check_target(op: &'static str, height: usize, width: usize) -> Result<()> {
    if height > 0 && width > 0 {
        return Ok(());
    }
    Err(Error::argument(
        op,
        "an output height and width of at least 1",
        format_args!("{height}x{width}"),
        "ask for a size that is not empty",
    ))
}

/// Bilinear resize to `height` x `width`: half-pixel centres, no antialiasing.
///
/// Per axis s = (o + ½)·in/out − ½; value = top + (bottom − top)·wy with top = a + (b − a)·wx.
///
/// # Shapes
/// `x` `[n, h, w, c]` (`shape`), u8 or f32; `y` `[n, height, width, c]`.
/// # Errors
/// An extent of zero; a length that does not fit its shape.
/// # Determinism
/// Bit-equal for any thread count.
/// # Source
/// `tf.image.resize(…, "bilinear", antialias=False)`.
/// # Example
/// ```
/// use warpsmith::cpu::augment_geometry::resize_bilinear;
/// let mut y = [0.0; 4];
/// resize_bilinear(&[0u8, 100], [1, 1, 2, 1], 1, 4, &mut y)?;
/// assert_eq!(y, [0.0, 25.0, 75.0, 100.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn resize_bilinear<S: Pixel>(x: &[S], shape: [usize; 4], height: usize, width: usize, y: &mut [f32]) -> Result<()> {
    let whole = CropBox { top: 0, left: 0, height: shape[1], width: shape[2] };
    crop_resize_op("resize_bilinear", x, shape, whole, height, width, y)
}

/// Cuts a box out of every image: `y[i, p, q] = x[i, top + p, left + q]`.
///
/// # Shapes
/// `x` `[n, h, w, c]` (`shape`); `y` `[n, box.height, box.width, c]`, the type of `x`.
/// # Errors
/// A box that is empty or not inside the image; a length that does not fit its shape.
/// # Determinism
/// A copy.
/// # Example
/// ```
/// use warpsmith::cpu::augment_geometry::{CropBox, crop};
/// let mut y = [0u8; 2];
/// crop(&[1u8, 2, 3, 4], [1, 2, 2, 1], CropBox { top: 0, left: 1, height: 2, width: 1 }, &mut y)?;
/// assert_eq!(y, [2, 4]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn crop<S: Pixel>(x: &[S], shape: [usize; 4], region: CropBox, y: &mut [S]) -> Result<()> {
    check_shape("crop", shape, x.len())?;
    let [n, h, w, c] = shape;
    region.check("crop", h, w)?;
    let row_elems = region.width * c;
    check_len("crop", "y", y.len(), n * region.height * row_elems)?;
    for (p, out) in y.chunks_exact_mut(row_elems).enumerate() {
        let (i, row) = (p / region.height, region.top + p % region.height);
        out.copy_from_slice(&x[((i * h + row) * w + region.left) * c..][..row_elems]);
    }
    Ok(())
}

/// Cuts a box out of every image and resizes it to `height` x `width` ([`crop`], then [`resize_bilinear`]).
///
/// # Shapes
/// `x` `[n, h, w, c]` (`shape`), u8 or f32; `y` `[n, height, width, c]`.
/// # Errors
/// A box that is empty or not inside the image; an extent of zero; a length that does not fit its shape.
/// # Determinism
/// Bit-equal for any thread count.
/// # Example
/// ```
/// use warpsmith::cpu::augment_geometry::{CropBox, crop_resize};
/// let mut y = [0.0; 4];
/// let right = CropBox { top: 0, left: 1, height: 1, width: 2 };
/// crop_resize(&[7u8, 0, 100], [1, 1, 3, 1], right, 1, 4, &mut y)?;
/// assert_eq!(y, [0.0, 25.0, 75.0, 100.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn crop_resize<S: Pixel>(
    x: &[S],
    shape: [usize; 4],
    region: CropBox,
    height: usize,
    width: usize,
    y: &mut [f32],
) -> Result<()> {
    crop_resize_op("crop_resize", x, shape, region, height, width, y)
}

fn crop_resize_op<S: Pixel>(
    op: &'static str,
    x: &[S],
    shape: [usize; 4],
    region: CropBox,
    height: usize,
    width: usize,
    y: &mut [f32],
) -> Result<()> {
    check_shape(op, shape, x.len())?;
    check_target(op, height, width)?;
    let [n, h, w, c] = shape;
    region.check(op, h, w)?;
    let out_elems = height * width * c;
    check_len(op, "y", y.len(), n * out_elems)?;
    x.par_chunks_exact(h * w * c).zip(y.par_chunks_exact_mut(out_elems)).for_each(|(x, y)| {
        SAMPLE_SCRATCH.with_borrow_mut(|scratch| {
            resize_taps(region.height, height, &mut scratch.rows);
            resize_taps(region.width, width, &mut scratch.cols);
            shift(&mut scratch.rows, region.top);
            shift(&mut scratch.cols, region.left);
            sample(x, w, c, &scratch.rows, &scratch.cols, &mut scratch.row_buffer, y);
        });
    });
    Ok(())
}

fn shift(taps: &mut [Tap], offset: usize) {
    for tap in taps {
        tap.lo += offset as u32;
        tap.hi += offset as u32;
    }
}

/// Centre crop; an image smaller than the crop is resized instead, from its largest centred box with the aspect
/// ratio of the crop.
///
/// # Shapes
/// `x` `[n, h, w, c]` (`shape`), u8 or f32; `y` `[n, height, width, c]`.
/// # Errors
/// An extent of zero; a length that does not fit its shape.
/// # Determinism
/// Bit-equal for any thread count.
/// # Source
/// `keras.layers.CenterCrop`.
/// # Example
/// ```
/// use warpsmith::cpu::augment_geometry::center_crop;
/// let mut y = [0.0; 1];
/// center_crop(&[1u8, 2, 3, 4], [1, 1, 4, 1], 1, 1, &mut y)?;
/// assert_eq!(y, [2.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn center_crop<S: Pixel>(x: &[S], shape: [usize; 4], height: usize, width: usize, y: &mut [f32]) -> Result<()> {
    check_shape("center_crop", shape, x.len())?;
    check_target("center_crop", height, width)?;
    let [_, h, w, _] = shape;
    let region = if height <= h && width <= w {
        CropBox::centre(h, w, height, width)
    } else {
        CropBox::centre_with_aspect(h, w, height, width)
    };
    // Resizing a box to its own size is the identity, so both cases are one call.
    crop_resize_op("center_crop", x, shape, region, height, width, y)
}

/// Reverses the columns of every image.
///
/// # Shapes
/// `x`, `y` `[n, h, w, c]` (`shape`).
/// # Errors
/// An extent of zero; a length that does not fit the shape.
/// # Determinism
/// A copy.
/// # Example
/// ```
/// use warpsmith::cpu::augment_geometry::flip_left_right;
/// let mut y = [0u8; 3];
/// flip_left_right(&[1u8, 2, 3], [1, 1, 3, 1], &mut y)?;
/// assert_eq!(y, [3, 2, 1]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn flip_left_right<S: Pixel>(x: &[S], shape: [usize; 4], y: &mut [S]) -> Result<()> {
    check_shape("flip_left_right", shape, x.len())?;
    check_len("flip_left_right", "y", y.len(), x.len())?;
    let [_, _, w, c] = shape;
    for (x, y) in x.chunks_exact(w * c).zip(y.chunks_exact_mut(w * c)) {
        for (pixel, out) in x.rchunks_exact(c).zip(y.chunks_exact_mut(c)) {
            out.copy_from_slice(pixel);
        }
    }
    Ok(())
}

/// Grow-only buffers of one thread for a warp: coordinates and indices of one output row.
#[derive(Default)]
pub(crate) struct WarpScratch {
    x_terms: Vec<f32>,
    y_terms: Vec<f32>,
    x_coords: Vec<f32>,
    y_coords: Vec<f32>,
    x_index: Vec<i32>,
    y_index: Vec<i32>,
    inverse: Vec<f32>,
}

/// Maps a source coordinate into the image; `n` is the axis length.
#[inline(always)]
fn map_coord(u: f32, n: f32, fill: FillMode) -> f32 {
    let last = n - 1.0;
    let mapped = match fill {
        FillMode::Constant => return u,
        FillMode::Nearest => u,
        FillMode::Reflect => {
            let period = 2.0 * n;
            let below = u + period * (-u / period).trunc();
            let below = if below < -n { below + period } else { -below - 1.0 };
            let above = u - period * (u / period).trunc();
            let above = if above >= n { period - above - 1.0 } else { above };
            if u < 0.0 {
                below
            } else if u > last {
                above
            } else {
                u
            }
        }
        FillMode::Wrap => {
            let below = u + n * ((-u / last).trunc() + 1.0);
            let above = u - n * (u / last).trunc();
            if u < 0.0 {
                below
            } else if u > last {
                above
            } else {
                u
            }
        }
    };
    // `max` first: it also turns the NaN of a one-pixel axis into 0.
    mapped.max(0.0).min(last)
}

/// Rounds half away from zero.
#[inline(always)]
fn round_away(u: f32) -> i32 {
    let whole = u as i32;
    let rest = u - whole as f32;
    whole.saturating_add(i32::from(rest >= 0.5)).saturating_sub(i32::from(rest <= -0.5))
}

/// Maps a row of source coordinates in place and, for nearest sampling, rounds them to indices.
#[inline(always)]
fn map_row_body(coords: &mut [f32], n: usize, fill: FillMode, index: &mut [i32], nearest: bool) {
    let n = n as f32;
    // One loop per mode, so that each is branch-free inside and vectorises.
    match fill {
        FillMode::Constant => {}
        FillMode::Nearest => coords.iter_mut().for_each(|u| *u = map_coord(*u, n, FillMode::Nearest)),
        FillMode::Reflect => coords.iter_mut().for_each(|u| *u = map_coord(*u, n, FillMode::Reflect)),
        FillMode::Wrap => coords.iter_mut().for_each(|u| *u = map_coord(*u, n, FillMode::Wrap)),
    }
    if nearest {
        for (&u, index) in coords.iter().zip(index) {
            *index = round_away(u);
        }
    } else {
        for (&u, index) in coords.iter().zip(index) {
            *index = u.floor() as i32;
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn map_row_avx2(coords: &mut [f32], n: usize, fill: FillMode, index: &mut [i32], nearest: bool) {
    map_row_body(coords, n, fill, index, nearest);
}

fn map_row(coords: &mut [f32], n: usize, fill: FillMode, index: &mut [i32], nearest: bool) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        return unsafe { map_row_avx2(coords, n, fill, index, nearest) };
    }
    map_row_body(coords, n, fill, index, nearest);
}

/// Warps one image `[h, w, c]`. Lengths are the caller's business.
pub(crate) fn warp_image<T: Pixel>(
    x: &[T],
    [h, w, c]: [usize; 3],
    transform: &Transform,
    interpolation: Interpolation,
    fill: FillMode,
    fill_value: f32,
    scratch: &mut WarpScratch,
    y: &mut [T],
) {
    let &[a0, a1, a2, b0, b1, b2, c0, c1] = transform;
    let nearest = interpolation == Interpolation::Nearest;
    let affine = c0 == 0.0 && c1 == 0.0;
    let WarpScratch { x_terms, y_terms, x_coords, y_coords, x_index, y_index, inverse } = scratch;
    for buffer in [&mut *x_terms, y_terms, x_coords, y_coords, inverse] {
        buffer.resize(buffer.len().max(w), 0.0);
    }
    for buffer in [&mut *x_index, y_index] {
        buffer.resize(buffer.len().max(w), 0);
    }
    let (x_terms, y_terms) = (&mut x_terms[..w], &mut y_terms[..w]);
    let (x_coords, y_coords) = (&mut x_coords[..w], &mut y_coords[..w]);
    let (x_index, y_index, divisor) = (&mut x_index[..w], &mut y_index[..w], &mut inverse[..w]);
    for q in 0..w {
        x_terms[q] = a0 * q as f32;
        y_terms[q] = b0 * q as f32;
    }
    for (p, out) in y.chunks_exact_mut(w * c).enumerate() {
        let row = p as f32;
        let (x_term, y_term) = (a1 * row, b1 * row);
        // The source column of an affine map without a1 is the same in every row.
        let columns_known = affine && a1 == 0.0 && p > 0;
        if !columns_known {
            for q in 0..w {
                x_coords[q] = x_terms[q] + x_term + a2;
            }
        }
        for q in 0..w {
            y_coords[q] = y_terms[q] + y_term + b2;
        }
        if !affine {
            for q in 0..w {
                divisor[q] = c0 * q as f32 + c1 * row + 1.0;
                x_coords[q] /= divisor[q];
                y_coords[q] /= divisor[q];
            }
        }
        if !columns_known {
            map_row(x_coords, w, fill, x_index, nearest);
        }
        if affine && b0 == 0.0 {
            map_row(&mut y_coords[..1], h, fill, &mut y_index[..1], nearest);
            let (coord, index) = (y_coords[0], y_index[0]);
            y_coords.fill(coord);
            y_index.fill(index);
        } else {
            map_row(y_coords, h, fill, y_index, nearest);
        }
        let image = Image { x, h, w, c, fill: T::from_f32(fill_value) };
        match (interpolation, fill) {
            (Interpolation::Nearest, FillMode::Constant) => {
                for (q, pixel) in out.chunks_exact_mut(c).enumerate() {
                    for (k, value) in pixel.iter_mut().enumerate() {
                        *value = image.read_or_fill(y_index[q], x_index[q], k);
                    }
                }
            }
            (Interpolation::Nearest, _) if c == 3 => {
                for ((pixel, &row), &col) in out.chunks_exact_mut(3).zip(&*y_index).zip(&*x_index) {
                    pixel.copy_from_slice(&x[(row as usize * w + col as usize) * 3..][..3]);
                }
            }
            (Interpolation::Nearest, _) => {
                for ((pixel, &row), &col) in out.chunks_exact_mut(c).zip(&*y_index).zip(&*x_index) {
                    pixel.copy_from_slice(&x[(row as usize * w + col as usize) * c..][..c]);
                }
            }
            (Interpolation::Bilinear, FillMode::Constant) => {
                for (q, pixel) in out.chunks_exact_mut(c).enumerate() {
                    let corner = Corner::new(y_coords[q], x_coords[q]);
                    let (row, col) = (y_index[q], x_index[q]);
                    let (row1, col1) = (row.saturating_add(1), col.saturating_add(1));
                    for (k, value) in pixel.iter_mut().enumerate() {
                        *value = corner.blend([
                            image.read_or_fill(row, col, k),
                            image.read_or_fill(row, col1, k),
                            image.read_or_fill(row1, col, k),
                            image.read_or_fill(row1, col1, k),
                        ]);
                    }
                }
            }
            (Interpolation::Bilinear, _) if c == 3 => {
                for (q, pixel) in out.chunks_exact_mut(3).enumerate() {
                    image.bilinear_inside(y_coords[q], x_coords[q], y_index[q], x_index[q], 3, pixel);
                }
            }
            (Interpolation::Bilinear, _) => {
                for (q, pixel) in out.chunks_exact_mut(c).enumerate() {
                    image.bilinear_inside(y_coords[q], x_coords[q], y_index[q], x_index[q], c, pixel);
                }
            }
        }
        if !affine {
            // Where the divisor is 0 the source lies at infinity, outside the image in every mode.
            for (pixel, _) in out.chunks_exact_mut(c).zip(&*divisor).filter(|&(_, &k)| k == 0.0) {
                pixel.fill(image.fill);
            }
        }
    }
}

/// The four weights of a bilinear sample.
struct Corner {
    left: f32,
    right: f32,
    upper: f32,
    lower: f32,
}

impl Corner {
    #[inline(always)]
    fn new(y: f32, x: f32) -> Corner {
        let (row, col) = (y.floor(), x.floor());
        Corner { left: col + 1.0 - x, right: x - col, upper: row + 1.0 - y, lower: y - row }
    }

    #[inline(always)]
    fn blend<T: Pixel>(&self, corners: [T; 4]) -> T {
        let [a, b, c, d] = corners.map(T::to_f32);
        let upper = self.left * a + self.right * b;
        let lower = self.left * c + self.right * d;
        T::from_f32(self.upper * upper + self.lower * lower)
    }
}

/// One source image and the value outside it.
struct Image<'a, T> {
    x: &'a [T],
    h: usize,
    w: usize,
    c: usize,
    fill: T,
}

impl<T: Pixel> Image<'_, T> {
    #[inline(always)]
    fn read_or_fill(&self, row: i32, col: i32, channel: usize) -> T {
        let inside = |i: i32, n: usize| usize::try_from(i).is_ok_and(|i| i < n);
        if inside(row, self.h) && inside(col, self.w) {
            self.x[(row as usize * self.w + col as usize) * self.c + channel]
        } else {
            self.fill
        }
    }

    /// A bilinear sample at a coordinate that was mapped into the image.
    #[inline(always)]
    fn bilinear_inside(&self, y: f32, x: f32, row: i32, col: i32, c: usize, out: &mut [T]) {
        // Mapped coordinates are at least 0, so the truncated index is the floor.
        let (row, col) = (row as usize, col as usize);
        let corner = Corner {
            left: col as f32 + 1.0 - x,
            right: x - col as f32,
            upper: row as f32 + 1.0 - y,
            lower: y - row as f32,
        };
        // A neighbour past the edge has weight 0: any pixel will do.
        let (row1, col1) = ((row + 1).min(self.h - 1), (col + 1).min(self.w - 1));
        let pixel = |row: usize, col: usize| &self.x[(row * self.w + col) * c..][..c];
        let (p00, p01, p10, p11) = (pixel(row, col), pixel(row, col1), pixel(row1, col), pixel(row1, col1));
        for (k, out) in out.iter_mut().enumerate() {
            *out = corner.blend([p00[k], p01[k], p10[k], p11[k]]);
        }
    }
}

/// Projective warp: output pixel (x, y) reads the source at `transform`(x, y).
///
/// The coordinate is computed in float32 from left to right. Nearest sampling rounds half away from zero;
/// bilinear is `(1−fy)·row(⌊v⌋) + fy·row(⌊v⌋+1)` with `row = (1−fx)·a + fx·b`.
///
/// # Shapes
/// `x`, `y` `[n, h, w, c]` (`shape`), u8 (bilinear results are truncated) or f32.
/// # Errors
/// A transform or fill value that is not finite; an extent of zero; a length that does not fit the shape.
/// # Determinism
/// Bit-equal for any thread count; no fused multiply-add.
/// # Source
/// `ImageProjectiveTransformV3` of TensorFlow.
/// # Example
/// ```
/// use warpsmith::cpu::augment_geometry::{FillMode, Interpolation, translation_transform, warp};
/// let mut y = [0u8; 4];
/// let left_by_one = translation_transform(1.0, 0.0);
/// warp(&[1u8, 2, 3, 4], [1, 1, 4, 1], &left_by_one, Interpolation::Nearest, FillMode::Reflect, 0.0, &mut y)?;
/// assert_eq!(y, [2, 3, 4, 4]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn warp<T: Pixel>(
    x: &[T],
    shape: [usize; 4],
    transform: &Transform,
    interpolation: Interpolation,
    fill: FillMode,
    fill_value: f32,
    y: &mut [T],
) -> Result<()> {
    warp_op("warp", x, shape, transform, interpolation, fill, fill_value, y)
}

pub(crate) fn warp_op<T: Pixel>(
    op: &'static str,
    x: &[T],
    shape: [usize; 4],
    transform: &Transform,
    interpolation: Interpolation,
    fill: FillMode,
    fill_value: f32,
    y: &mut [T],
) -> Result<()> {
    check_shape(op, shape, x.len())?;
    check_len(op, "y", y.len(), x.len())?;
    if !transform.iter().chain([&fill_value]).all(|v| v.is_finite()) {
        return Err(Error::argument(
            op,
            "a finite transform and fill value",
            format_args!("{transform:?}, fill {fill_value}"),
            "check the angle, factor or offset that it was made from",
        ));
    }
    let [_, h, w, c] = shape;
    x.par_chunks_exact(h * w * c).zip(y.par_chunks_exact_mut(h * w * c)).for_each(|(x, y)| {
        WARP_SCRATCH.with_borrow_mut(|scratch| {
            warp_image(x, [h, w, c], transform, interpolation, fill, fill_value, scratch, y);
        });
    });
    Ok(())
}

/// Rotates every image by the same angle about its centre: [`warp`] with [`rotation_transform`], bilinear, reflect.
///
/// # Shapes
/// `x`, `y` `[n, h, w, c]` (`shape`).
/// # Errors
/// An angle that is not finite; an extent of zero; a length that does not fit the shape.
/// # Determinism
/// Bit-equal for any thread count.
/// # Source
/// `keras.layers.RandomRotation` with its angle given.
/// # Example
/// ```
/// use warpsmith::cpu::augment_geometry::random_rotation;
/// let mut y = [0.0; 9];
/// let x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0];
/// random_rotation(&x, [1, 3, 3, 1], 0.0, &mut y)?;
/// assert_eq!(x, y);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn random_rotation(x: &[f32], shape: [usize; 4], radians: f32, y: &mut [f32]) -> Result<()> {
    let transform = rotation_transform(shape[1], shape[2], radians);
    warp_op("random_rotation", x, shape, &transform, Interpolation::Bilinear, FillMode::Reflect, 0.0, y)
}

/// Zooms every image by the same factors about its centre: [`warp`] with [`zoom_transform`], bilinear, reflect.
///
/// # Shapes
/// `x`, `y` `[n, h, w, c]` (`shape`).
/// # Errors
/// A factor that is not finite; an extent of zero; a length that does not fit the shape.
/// # Determinism
/// Bit-equal for any thread count.
/// # Source
/// `keras.layers.RandomZoom` with its factors given.
/// # Example
/// ```
/// use warpsmith::cpu::augment_geometry::random_zoom;
/// let mut y = [0.0; 3];
/// // Half the field of view about the middle pixel.
/// random_zoom(&[0.0, 10.0, 20.0], [1, 1, 3, 1], 0.0, -0.5, &mut y)?;
/// assert_eq!(y, [5.0, 10.0, 15.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn random_zoom(x: &[f32], shape: [usize; 4], height_factor: f32, width_factor: f32, y: &mut [f32]) -> Result<()> {
    let transform = zoom_transform(shape[1], shape[2], height_factor, width_factor);
    warp_op("random_zoom", x, shape, &transform, Interpolation::Bilinear, FillMode::Reflect, 0.0, y)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The public functions take the SIMD path where there is one; the portable one must give the same bits.
    #[test]
    fn portable_paths_match_simd() {
        let (h, w) = (31, 33);
        let x: Vec<u8> = (0..h * w * 3).map(|i| (i * 7919 % 251) as u8).collect();
        let (mut rows, mut cols) = (Vec::new(), Vec::new());
        resize_taps(h, 50, &mut rows);
        resize_taps(w, 20, &mut cols);
        let (mut simd, mut portable) = (vec![0.0f32; 50 * 20 * 3], vec![0.0f32; 50 * 20 * 3]);
        let mut buffer = Vec::new();
        sample(&x, w, 3, &rows, &cols, &mut buffer, &mut simd);
        sample_body(&x, w, 3, &rows, &cols, &mut buffer, &mut portable);
        assert_eq!(simd, portable);

        let coords: Vec<f32> = (-4000..4000).map(|i| i as f32 * 0.0625).collect();
        for fill in [FillMode::Reflect, FillMode::Constant, FillMode::Nearest, FillMode::Wrap] {
            for n in [1, 2, 31] {
                for nearest in [true, false] {
                    let (mut simd, mut portable) = (coords.clone(), coords.clone());
                    let (mut simd_index, mut portable_index) = (vec![0; coords.len()], vec![0; coords.len()]);
                    map_row(&mut simd, n, fill, &mut simd_index, nearest);
                    map_row_body(&mut portable, n, fill, &mut portable_index, nearest);
                    assert_eq!(simd, portable, "{fill:?}, {n}");
                    assert_eq!(simd_index, portable_index, "{fill:?}, {n}");
                }
            }
        }
    }
}
