//! The CIFAR-10-C corruptions that are deterministic: saturate, brightness, contrast, pixelate, Gaussian blur,
//! defocus blur and zoom blur, at severities 1..5 or with parameters of one's own.
//!
//! Every function reads one u8 image `[h, w, 3]` and writes another. The arithmetic is float64 on x/255 (zoom blur:
//! sums in float32; pixelate: Pillow's fixed point), clipped to 0..1, times 255, truncated. Weights come from
//! [`crate::math`], so results are bit-equal on every machine.
//!
//! Source: Hendrycks, Dietterich: "Benchmarking neural network robustness to common corruptions and perturbations"
//! (ICLR 2019), CIFAR-10-C generator.

use crate::error::{Error, Result, check_len};
use crate::math;
use rayon::prelude::*;
use std::cell::RefCell;

const RGB: usize = 3;

/// The corruptions that this module generates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Corruption {
    /// [`brightness`].
    Brightness,
    /// [`contrast`].
    Contrast,
    /// [`defocus_blur`].
    DefocusBlur,
    /// [`gaussian_blur`].
    GaussianBlur,
    /// [`pixelate`].
    Pixelate,
    /// [`saturate`].
    Saturate,
    /// [`zoom_blur`].
    ZoomBlur,
}

impl Corruption {
    /// All of them, in alphabetical order.
    pub const ALL: [Corruption; 7] = [
        Corruption::Brightness,
        Corruption::Contrast,
        Corruption::DefocusBlur,
        Corruption::GaussianBlur,
        Corruption::Pixelate,
        Corruption::Saturate,
        Corruption::ZoomBlur,
    ];

    /// The name of its file in CIFAR-10-C, without `.npy`.
    pub fn name(self) -> &'static str {
        match self {
            Corruption::Brightness => "brightness",
            Corruption::Contrast => "contrast",
            Corruption::DefocusBlur => "defocus_blur",
            Corruption::GaussianBlur => "gaussian_blur",
            Corruption::Pixelate => "pixelate",
            Corruption::Saturate => "saturate",
            Corruption::ZoomBlur => "zoom_blur",
        }
    }

    /// The corruption of that name, if it is one of the seven.
    pub fn from_name(name: &str) -> Option<Corruption> {
        Corruption::ALL.into_iter().find(|corruption| corruption.name() == name)
    }

    /// Corrupts a batch `x` `[n, h, w, 3]` into `y` at severity 1..5, one image per piece on the current rayon pool.
    ///
    /// # Errors
    /// A severity outside 1..=5; an extent of zero; a length that does not fit the shape.
    /// # Determinism
    /// Bit-equal for any thread count.
    /// # Example
    /// ```
    /// use warpsmith::cpu::corruption::Corruption;
    /// let mut y = [0; 6];
    /// Corruption::Brightness.apply(5, &[10, 10, 10, 200, 200, 200], [1, 1, 2], &mut y)?;
    /// assert_eq!(y, [86, 86, 86, 255, 255, 255]);
    /// # Ok::<(), warpsmith::Error>(())
    /// ```
    pub fn apply(self, severity: usize, x: &[u8], [n, h, w]: [usize; 3], y: &mut [u8]) -> Result<()> {
        let op = self.name();
        if !(1..=5).contains(&severity) {
            return Err(Error::argument(op, "a severity of 1..=5", severity, "choose one of the five severities"));
        }
        let elems = checked_elems(op, n, h, w)?;
        check_len(op, "x", x.len(), elems)?;
        check_len(op, "y", y.len(), elems)?;
        let s = severity - 1;
        x.par_chunks_exact(h * w * RGB).zip(y.par_chunks_exact_mut(h * w * RGB)).try_for_each(|(x, y)| match self {
            Corruption::Brightness => brightness(x, h, w, [0.05, 0.1, 0.15, 0.2, 0.3][s], y),
            Corruption::Contrast => contrast(x, h, w, [0.75, 0.5, 0.4, 0.3, 0.15][s], y),
            Corruption::DefocusBlur => {
                let (radius, sigma) = [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)][s];
                defocus_blur(x, h, w, radius, sigma, y)
            }
            Corruption::GaussianBlur => gaussian_blur(x, h, w, [0.4, 0.6, 0.7, 0.8, 1.0][s], y),
            Corruption::Pixelate => {
                let factor = [0.95, 0.9, 0.85, 0.75, 0.65][s];
                let size = |extent: usize| ((extent as f64 * factor) as usize).max(1);
                pixelate(x, h, w, size(h), size(w), y)
            }
            Corruption::Saturate => {
                let (a, b) = [(0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2)][s];
                saturate(x, h, w, a, b, y)
            }
            Corruption::ZoomBlur => zoom_blur(x, h, w, zoom_factors(severity), y),
        })
    }
}

/// The zoom factors of [`Corruption::ZoomBlur`] at severity 1..=5: 1, 1.01, … up to 1.06, 1.11, 1.15, 1.20, 1.25.
fn zoom_factors(severity: usize) -> &'static [f64] {
    // The float64 range 1 + k·(1.01 − 1), unrounded: the last one, 1.2500000000000002, decides between 33 and 32
    // pixels.
    static FACTORS: [f64; 26] = {
        let mut factors = [0.0; 26];
        let mut k = 0;
        while k < 26 {
            factors[k] = 1.0 + k as f64 * (1.01 - 1.0);
            k += 1;
        }
        factors
    };
    &FACTORS[..[7, 12, 16, 21, 26][severity - 1]]
}

fn checked_elems(op: &'static str, n: usize, h: usize, w: usize) -> Result<usize> {
    if h == 0 || w == 0 {
        return Err(Error::shape(
            op,
            "a height and width of at least 1",
            format_args!("{h}x{w}"),
            "pass images that are not empty",
        ));
    }
    [h, w, RGB].iter().try_fold(n, |elems, &extent| elems.checked_mul(extent)).ok_or_else(|| {
        Error::shape(op, "extents whose product fits in memory", format_args!("{n}x{h}x{w}x3"), "check the shape")
    })
}

fn check(op: &'static str, h: usize, w: usize, x: &[u8], y: &[u8], parameters: &[f64]) -> Result<()> {
    let elems = checked_elems(op, 1, h, w)?;
    check_len(op, "x", x.len(), elems)?;
    check_len(op, "y", y.len(), elems)?;
    if parameters.iter().all(|parameter| parameter.is_finite()) {
        return Ok(());
    }
    Err(Error::argument(op, "finite parameters", format_args!("{parameters:?}"), "check how they were computed"))
}

fn check_positive(op: &'static str, name: &str, value: f64, max: f64) -> Result<()> {
    if value > 0.0 && value <= max {
        return Ok(());
    }
    Err(Error::argument(op, format_args!("{name} above 0, at most {max}"), value, "choose a smaller blur"))
}

fn to_u8(value: f64) -> u8 {
    (value.clamp(0.0, 1.0) * 255.0) as u8
}

thread_local! {
    /// Grow-only image buffers of one thread.
    static SCRATCH: RefCell<[Vec<f64>; 2]> = RefCell::default();
    static SCRATCH_U8: RefCell<[Vec<u8>; 2]> = RefCell::default();
    static SCRATCH_F32: RefCell<Vec<f32>> = RefCell::default();
}

fn grow<T: Clone + Default>(buffer: &mut Vec<T>, elems: usize) -> &mut [T] {
    buffer.resize(buffer.len().max(elems), T::default());
    &mut buffer[..elems]
}

/// `(x − mean)·c + mean` with the mean of each channel over the image.
///
/// # Errors
/// An extent of zero; a length that does not fit the shape; a parameter that is not finite.
pub fn contrast(x: &[u8], h: usize, w: usize, c: f64, y: &mut [u8]) -> Result<()> {
    check("contrast", h, w, x, y, &[c])?;
    let mut mean = [0.0; RGB];
    for pixel in x.chunks_exact(RGB) {
        for k in 0..RGB {
            mean[k] += f64::from(pixel[k]) / 255.0;
        }
    }
    let mean = mean.map(|sum| sum / (h * w) as f64);
    for (pixel, out) in x.chunks_exact(RGB).zip(y.chunks_exact_mut(RGB)) {
        for k in 0..RGB {
            out[k] = to_u8((f64::from(pixel[k]) / 255.0 - mean[k]) * c + mean[k]);
        }
    }
    Ok(())
}

/// Hue, saturation and value in 0..1 of a pixel.
fn rgb_to_hsv(pixel: &[u8]) -> [f64; 3] {
    let [r, g, b] = [0, 1, 2].map(|k| f64::from(pixel[k]) / 255.0);
    let value = r.max(g).max(b);
    let delta = value - r.min(g).min(b);
    if delta == 0.0 {
        return [0.0, 0.0, value];
    }
    let sixths = if b == value {
        4.0 + (r - g) / delta
    } else if g == value {
        2.0 + (b - r) / delta
    } else {
        (g - b) / delta
    };
    let turns = sixths / 6.0;
    [turns - turns.floor(), delta / value, value]
}

fn hsv_to_rgb([h, s, v]: [f64; 3]) -> [f64; 3] {
    let sector = (h * 6.0).floor();
    let f = h * 6.0 - sector;
    let (p, q, t) = (v * (1.0 - s), v * (1.0 - f * s), v * (1.0 - (1.0 - f) * s));
    match sector as i64 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}

fn map_hsv(x: &[u8], y: &mut [u8], map: impl Fn([f64; 3]) -> [f64; 3]) {
    for (pixel, out) in x.chunks_exact(RGB).zip(y.chunks_exact_mut(RGB)) {
        out.copy_from_slice(&hsv_to_rgb(map(rgb_to_hsv(pixel))).map(to_u8));
    }
}

/// HSV value `V := clip(V + b)`.
///
/// # Errors
/// An extent of zero; a length that does not fit the shape; a parameter that is not finite.
pub fn brightness(x: &[u8], h: usize, w: usize, b: f64, y: &mut [u8]) -> Result<()> {
    check("brightness", h, w, x, y, &[b])?;
    map_hsv(x, y, |[hue, s, v]| [hue, s, (v + b).clamp(0.0, 1.0)]);
    Ok(())
}

/// HSV saturation `S := clip(a·S + b)`.
///
/// # Errors
/// An extent of zero; a length that does not fit the shape; a parameter that is not finite.
pub fn saturate(x: &[u8], h: usize, w: usize, a: f64, b: f64, y: &mut [u8]) -> Result<()> {
    check("saturate", h, w, x, y, &[a, b])?;
    map_hsv(x, y, |[hue, s, v]| [hue, (s * a + b).clamp(0.0, 1.0), v]);
    Ok(())
}

/// Largest blur radius in pixels, so that weights fit in a fixed buffer.
const MAX_RADIUS: usize = 64;

/// Weights `exp(−d²/2σ²)` for d = 0..=radius, normalised over −radius..=radius.
fn gaussian_weights(sigma: f64, radius: usize) -> [f64; MAX_RADIUS + 1] {
    let mut weights = [0.0; MAX_RADIUS + 1];
    let mut sum = 0.0;
    for (d, weight) in weights.iter_mut().enumerate().take(radius + 1) {
        // Below −700 the weight is 0 for every purpose.
        *weight = math::exp((-0.5 / (sigma * sigma) * (d * d) as f64).max(-700.0));
        sum += if d == 0 { *weight } else { 2.0 * *weight };
    }
    weights.map(|weight| weight / sum)
}

/// Separable Gaussian blur, radius `int(4σ + ½)`, edge-replicating border.
///
/// # Errors
/// An extent of zero; a length that does not fit the shape; σ not in 0 < σ ≤ 15.
pub fn gaussian_blur(x: &[u8], h: usize, w: usize, sigma: f64, y: &mut [u8]) -> Result<()> {
    check("gaussian_blur", h, w, x, y, &[sigma])?;
    check_positive("gaussian_blur", "sigma", sigma, 15.0)?;
    let radius = (4.0 * sigma + 0.5) as usize;
    let weights = gaussian_weights(sigma, radius);
    let row_elems = w * RGB;
    SCRATCH.with_borrow_mut(|[source, rows]| {
        let (source, rows) = (grow(source, x.len()), grow(rows, x.len()));
        for (source, &x) in source.iter_mut().zip(x) {
            *source = f64::from(x) / 255.0;
        }
        // Down the columns, then along the rows; each pair of mirrored taps is added before it is weighted.
        for (p, out) in rows.chunks_exact_mut(row_elems).enumerate() {
            let row = |p: usize| &source[p.min(h - 1) * row_elems..][..row_elems];
            for (out, &x) in out.iter_mut().zip(row(p)) {
                *out = x * weights[0];
            }
            for d in (1..=radius).rev() {
                for ((out, &above), &below) in out.iter_mut().zip(row(p.saturating_sub(d))).zip(row(p + d)) {
                    *out += (above + below) * weights[d];
                }
            }
        }
        for (row, out) in rows.chunks_exact(row_elems).zip(y.chunks_exact_mut(row_elems)) {
            for q in 0..w {
                for k in 0..RGB {
                    let mut sum = row[q * RGB + k] * weights[0];
                    for d in (1..=radius).rev() {
                        let (left, right) = (q.saturating_sub(d), (q + d).min(w - 1));
                        sum += (row[left * RGB + k] + row[right * RGB + k]) * weights[d];
                    }
                    out[q * RGB + k] = to_u8(sum);
                }
            }
        }
    });
    Ok(())
}

/// Index with a mirrored border that does not repeat the edge (`dcb|abcd|cba`).
fn reflect_101(i: isize, n: usize) -> usize {
    if n == 1 {
        return 0;
    }
    let period = 2 * (n as isize - 1);
    let i = i.rem_euclid(period);
    i.min(period - i) as usize
}

/// Half the side of the disk kernel of [`defocus_blur`].
const DISK: isize = 8;

/// Correlation with a disk of `radius` on a 17x17 grid, normalised and smoothed with a 3x3 Gaussian of σ =
/// `blur_sigma`; reflect-101 border.
///
/// # Errors
/// An extent of zero; a length that does not fit the shape; a radius not in 0 < r ≤ 8, σ not in 0 < σ ≤ 15.
pub fn defocus_blur(x: &[u8], h: usize, w: usize, radius: f64, blur_sigma: f64, y: &mut [u8]) -> Result<()> {
    check("defocus_blur", h, w, x, y, &[radius, blur_sigma])?;
    check_positive("defocus_blur", "radius", radius, DISK as f64)?;
    check_positive("defocus_blur", "blur_sigma", blur_sigma, 15.0)?;
    const SIDE: usize = 2 * DISK as usize + 1;
    let mut disk = [[0.0; SIDE]; SIDE];
    let mut count = 0.0;
    for (i, row) in disk.iter_mut().enumerate() {
        for (j, value) in row.iter_mut().enumerate() {
            let (dy, dx) = (i as f64 - DISK as f64, j as f64 - DISK as f64);
            if dx * dx + dy * dy <= radius * radius {
                *value = 1.0;
                count += 1.0;
            }
        }
    }
    let blur = gaussian_weights(blur_sigma, 1);
    let smooth = |line: [f64; 3]| (line[0] + line[2]) * blur[1] + line[1] * blur[0];
    // Only offsets up to the disk's radius plus the blur's can have a weight.
    let reach = (radius as isize + 1).min(DISK);
    let mut taps = [(0isize, 0isize, 0.0f64); SIDE * SIDE];
    let mut used = 0;
    for dy in -reach..=reach {
        for dx in -reach..=reach {
            let at = |dy: isize, dx: isize| {
                let (i, j) = (reflect_101(dy + DISK, SIDE), reflect_101(dx + DISK, SIDE));
                disk[i][j] / count
            };
            let line = |dy: isize| smooth([at(dy, dx - 1), at(dy, dx), at(dy, dx + 1)]);
            let weight = smooth([line(dy - 1), line(dy), line(dy + 1)]);
            if weight > 0.0 {
                taps[used] = (dy, dx, f64::from(weight as f32));
                used += 1;
            }
        }
    }
    for p in 0..h {
        for q in 0..w {
            let mut sum = [0.0; RGB];
            for &(dy, dx, weight) in &taps[..used] {
                let (row, col) = (reflect_101(p as isize + dy, h), reflect_101(q as isize + dx, w));
                let pixel = &x[(row * w + col) * RGB..][..RGB];
                for k in 0..RGB {
                    sum[k] += f64::from(pixel[k]) / 255.0 * weight;
                }
            }
            y[(p * w + q) * RGB..][..RGB].copy_from_slice(&sum.map(to_u8));
        }
    }
    Ok(())
}

/// Mean of the image and its zoomed copies, `(x + Σ zoomed)/(factors + 1)`, sums in float32.
///
/// Zoomed by z: the centre crop of ⌈extent/z⌉ pixels per axis, linear zoom to `round(crop·z)` with corner-aligned
/// coordinates, centre crop to the extent.
///
/// # Errors
/// An extent of zero; a length that does not fit the shape; no factors, or one outside 1..=16.
pub fn zoom_blur(x: &[u8], h: usize, w: usize, factors: &[f64], y: &mut [u8]) -> Result<()> {
    check("zoom_blur", h, w, x, y, factors)?;
    if factors.is_empty() || !factors.iter().all(|z| (1.0..=16.0).contains(z)) {
        return Err(Error::argument(
            "zoom_blur",
            "at least one factor, all in 1..=16",
            format_args!("{factors:?}"),
            "zoom in, never out",
        ));
    }
    SCRATCH_F32.with_borrow_mut(|sum| {
        let sum = grow(sum, x.len());
        sum.fill(0.0);
        for &z in factors {
            let (rows, cols) = (ZoomAxis::new(h, z), ZoomAxis::new(w, z));
            for p in 0..h {
                let (row, fy) = rows.source(p);
                for q in 0..w {
                    let (col, fx) = cols.source(q);
                    // A neighbour past the crop has weight 0.
                    let (row1, col1) = ((row + 1).min(h - 1), (col + 1).min(w - 1));
                    for k in 0..RGB {
                        let at = |row: usize, col: usize| f64::from(f32::from(x[(row * w + col) * RGB + k]) / 255.0f32);
                        let upper = (1.0 - fx) * at(row, col) + fx * at(row, col1);
                        let lower = (1.0 - fx) * at(row1, col) + fx * at(row1, col1);
                        sum[(p * w + q) * RGB + k] += ((1.0 - fy) * upper + fy * lower) as f32;
                    }
                }
            }
        }
        let count = (factors.len() + 1) as f32;
        for ((out, &x), &sum) in y.iter_mut().zip(x).zip(&*sum) {
            let mean = (f32::from(x) / 255.0 + sum) / count;
            *out = (mean.clamp(0.0, 1.0) * 255.0) as u8;
        }
    });
    Ok(())
}

/// Where the rows or columns of a zoomed image come from.
struct ZoomAxis {
    start: usize,
    crop: usize,
    zoomed: usize,
    trim: usize,
}

impl ZoomAxis {
    fn new(extent: usize, z: f64) -> ZoomAxis {
        let crop = ((extent as f64 / z).ceil() as usize).clamp(1, extent);
        let zoomed = ((crop as f64 * z).round_ties_even() as usize).max(extent);
        ZoomAxis { start: (extent - crop) / 2, crop, zoomed, trim: (zoomed - extent) / 2 }
    }

    /// Source position and weight of its successor for output position `o`.
    fn source(&self, o: usize) -> (usize, f64) {
        if self.zoomed == 1 {
            return (self.start, 0.0);
        }
        let u = (o + self.trim) as f64 * ((self.crop - 1) as f64 / (self.zoomed - 1) as f64);
        let u = u.min((self.crop - 1) as f64);
        let whole = u as usize;
        (self.start + whole, u - whole as f64)
    }
}

/// Box-filter resize to `height` x `width` and back to the original size, both in Pillow's 22-bit fixed point.
///
/// # Errors
/// An extent of zero; a length that does not fit the shape; a size of zero or above the image's.
pub fn pixelate(x: &[u8], h: usize, w: usize, height: usize, width: usize, y: &mut [u8]) -> Result<()> {
    check("pixelate", h, w, x, y, &[])?;
    if !(1..=h).contains(&height) || !(1..=w).contains(&width) {
        return Err(Error::argument(
            "pixelate",
            format_args!("a size of at least 1x1 and at most {h}x{w}"),
            format_args!("{height}x{width}"),
            "pixelate to fewer pixels than the image has",
        ));
    }
    SCRATCH_U8.with_borrow_mut(|[rows, small]| {
        let (rows, small) = (grow(rows, h * w * RGB), grow(small, height * width * RGB));
        box_resize(x, h, w, height, width, rows, small);
        box_resize(small, height, width, h, w, rows, y);
    });
    Ok(())
}

/// Box-filter resize, columns first with a rounding to u8 in between; `rows` holds at least `h·width` pixels.
fn box_resize(x: &[u8], h: usize, w: usize, height: usize, width: usize, rows: &mut [u8], y: &mut [u8]) {
    for q in 0..width {
        let (taps, weight) = box_taps(w, width, q);
        for p in 0..h {
            for k in 0..RGB {
                rows[(p * width + q) * RGB + k] = box_sum(taps.clone().map(|tap| x[(p * w + tap) * RGB + k]), weight);
            }
        }
    }
    for p in 0..height {
        let (taps, weight) = box_taps(h, height, p);
        for i in 0..width * RGB {
            y[p * width * RGB + i] = box_sum(taps.clone().map(|tap| rows[tap * width * RGB + i]), weight);
        }
    }
}

/// Bits after the point of Pillow's resampling weights.
const FIXED_BITS: u32 = 22;

/// The source positions of output position `o`, and their common weight in fixed point.
fn box_taps(input: usize, output: usize, o: usize) -> (std::ops::Range<usize>, i64) {
    let scale = input as f64 / output as f64;
    let filter_scale = scale.max(1.0);
    let support = 0.5 * filter_scale;
    let centre = (o as f64 + 0.5) * scale;
    let first = ((centre - support + 0.5).max(0.0)) as usize;
    let end = ((centre + support + 0.5) as usize).min(input);
    // The box is 1 on (−½, ½].
    let inside = |tap: usize| {
        let d = (tap as f64 - centre + 0.5) / filter_scale;
        d > -0.5 && d <= 0.5
    };
    let first = (first..end).find(|&tap| inside(tap)).unwrap_or(first);
    let end = (first..end).rfind(|&tap| inside(tap)).map_or(end, |tap| tap + 1);
    let weight = 1.0 / (end - first) as f64;
    (first..end, (0.5 + weight * f64::from(1u32 << FIXED_BITS)) as i64)
}

fn box_sum(values: impl Iterator<Item = u8>, weight: i64) -> u8 {
    let sum = values.fold(1i64 << (FIXED_BITS - 1), |sum, value| sum + i64::from(value) * weight);
    (sum >> FIXED_BITS).clamp(0, 255) as u8
}
