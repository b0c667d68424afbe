//! Ops on the values of RGB images, with explicit parameters: the sixteen of the model garden's RandAugment on u8
//! ([`randaugment`]) and the ten of keras_cv's on float32 ([`keras_cv`]).
//!
//! All arithmetic is float32 from left to right without fused multiply-add, except where an op names it; values
//! go back to u8 by truncation. Results are bit-equal on every machine and for every thread count.

use crate::error::{Error, Result, check_len};

/// Channels of an RGB image.
const RGB: usize = 3;

/// Weights of red, green and blue in a gray value.
const GRAY: [f32; 3] = [0.2989, 0.5870, 0.1140];

fn check_images(op: &'static str, shape: [usize; 3], len: usize) -> Result<()> {
    let [n, h, w] = shape;
    if h == 0 || w == 0 {
        return Err(Error::shape(
            op,
            "a height and width of at least 1",
            format_args!("{h}x{w}"),
            "pass images that are not empty",
        ));
    }
    let elems = [h, w, RGB].iter().try_fold(n, |elems, &extent| elems.checked_mul(extent));
    let elems = elems.ok_or_else(|| {
        Error::shape(op, "extents whose product fits in memory", format_args!("{n}x{h}x{w}x3"), "check the shape")
    })?;
    check_len(op, "images", len, elems)
}

fn check_finite(op: &'static str, name: &str, value: f64) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    Err(Error::argument(op, format_args!("a finite {name}"), value, "check how it was computed"))
}

/// The lookup table of an equalisation from a histogram; `None` leaves the channel unchanged.
fn equalize_lut(histogram: &[u32; 256], step: u32) -> Option<[u8; 256]> {
    if step == 0 {
        return None;
    }
    let mut lut = [0; 256];
    // The number of values below the bin: the reference's cumulative sum, shifted right by one.
    let mut below = 0;
    for (entry, &count) in lut.iter_mut().zip(histogram) {
        *entry = ((below + step / 2) / step).min(255) as u8;
        below += count;
    }
    Some(lut)
}

/// Smallest and largest value per channel.
#[inline(always)]
fn channel_range<T: Copy>(image: &[T], min: impl Fn(T, T) -> T, max: impl Fn(T, T) -> T) -> ([T; 3], [T; 3]) {
    // Sixteen pixels side by side, so that the loop vectorises.
    const LANES: usize = 16 * RGB;
    let first: [T; RGB] = std::array::from_fn(|k| image[k]);
    let mut lo: [T; LANES] = std::array::from_fn(|i| first[i % RGB]);
    let mut hi = lo;
    let mut chunks = image.chunks_exact(LANES);
    for chunk in &mut chunks {
        for i in 0..LANES {
            lo[i] = min(lo[i], chunk[i]);
            hi[i] = max(hi[i], chunk[i]);
        }
    }
    for (i, &value) in chunks.remainder().iter().enumerate() {
        lo[i] = min(lo[i], value);
        hi[i] = max(hi[i], value);
    }
    let (mut low, mut high) = (first, first);
    for i in 0..LANES {
        low[i % RGB] = min(low[i % RGB], lo[i]);
        high[i % RGB] = max(high[i % RGB], hi[i]);
    }
    (low, high)
}

/// The model garden's RandAugment ops on one u8 image `[h, w, 3]`.
///
/// Every op checks its lengths and returns an error that names it; none allocates.
pub mod randaugment {
    use super::{GRAY, RGB, channel_range, check_finite, check_images, equalize_lut};
    use crate::cpu::augment_geometry::{
        FillMode, Interpolation, Pixel, Transform, rotation_transform, shear_x_transform, shear_y_transform,
        translation_transform, warp_op,
    };
    use crate::error::{Error, Result, check_len};

    /// `blend(d, x, f)`: f = 0 gives d, f = 1 gives x, else `d + f·(x − d)`, truncated for 0 < f < 1, clipped
    /// and truncated otherwise.
    #[inline(always)]
    fn blend(d: u8, x: u8, factor: f32) -> u8 {
        let (d, x) = (f32::from(d), f32::from(x));
        // Between 0 and 1 the clip has nothing to do, and the formula gives d and x at the ends.
        u8::from_f32(d + factor * (x - d))
    }

    fn map(image: &mut [u8], lut: &[u8; 256]) {
        for value in image {
            *value = lut[usize::from(*value)];
        }
    }

    fn map_channels(image: &mut [u8], luts: &[[u8; 256]; 3]) {
        for pixel in image.chunks_exact_mut(RGB) {
            for k in 0..RGB {
                pixel[k] = luts[k][usize::from(pixel[k])];
            }
        }
    }

    const UNCHANGED: [u8; 256] = {
        let mut lut = [0; 256];
        let mut i = 0;
        while i < 256 {
            lut[i] = i as u8;
            i += 1;
        }
        lut
    };

    /// Stretches each channel's range to 0..255: s = 255/(hi − lo), `x·s + (−lo·s)`; a constant channel stays.
    ///
    /// # Example
    /// ```
    /// let mut image = [10, 0, 7, 20, 0, 8, 30, 0, 9];
    /// warpsmith::cpu::augment_pixel::randaugment::auto_contrast(&mut image, 1, 3)?;
    /// assert_eq!(image, [0, 0, 0, 127, 0, 127, 255, 0, 255]);
    /// # Ok::<(), warpsmith::Error>(())
    /// ```
    pub fn auto_contrast(image: &mut [u8], h: usize, w: usize) -> Result<()> {
        check_images("randaugment.auto_contrast", [1, h, w], image.len())?;
        let (lo, hi) = channel_range(image, u8::min, u8::max);
        let mut luts = [UNCHANGED; RGB];
        for k in 0..RGB {
            if hi[k] > lo[k] {
                let scale = 255.0 / f32::from(hi[k] - lo[k]);
                let offset = -f32::from(lo[k]) * scale;
                for (x, entry) in luts[k].iter_mut().enumerate() {
                    *entry = u8::from_f32(x as f32 * scale + offset);
                }
            }
        }
        map_channels(image, &luts);
        Ok(())
    }

    /// Equalises each channel's histogram; step = (pixels − count of the highest non-empty bin) / 255, and a
    /// step of 0 leaves the channel as it is.
    pub fn equalize(image: &mut [u8], h: usize, w: usize) -> Result<()> {
        check_images("randaugment.equalize", [1, h, w], image.len())?;
        let mut histograms = [[0u32; 256]; RGB];
        for pixel in image.chunks_exact(RGB) {
            for k in 0..RGB {
                histograms[k][usize::from(pixel[k])] += 1;
            }
        }
        let luts = histograms.map(|histogram| {
            let last = histogram.iter().rfind(|&&count| count > 0).copied().unwrap_or(0);
            equalize_lut(&histogram, ((h * w) as u32 - last) / 255).unwrap_or(UNCHANGED)
        });
        map_channels(image, &luts);
        Ok(())
    }

    /// `255 − x`.
    pub fn invert(image: &mut [u8], h: usize, w: usize) -> Result<()> {
        check_images("randaugment.invert", [1, h, w], image.len())?;
        image.iter_mut().for_each(|x| *x = 255 - *x);
        Ok(())
    }

    /// `(x >> s) << s` with s = 8 − bits, at most 7.
    pub fn posterize(image: &mut [u8], h: usize, w: usize, bits: u32) -> Result<()> {
        check_images("randaugment.posterize", [1, h, w], image.len())?;
        if bits > 8 {
            return Err(Error::argument("randaugment.posterize", "0..=8 bits", bits, "ask for fewer bits"));
        }
        let shift = (8 - bits).min(7);
        image.iter_mut().for_each(|x| *x = (*x >> shift) << shift);
        Ok(())
    }

    /// `x < threshold ? x : 255 − x`.
    pub fn solarize(image: &mut [u8], h: usize, w: usize, threshold: u32) -> Result<()> {
        check_images("randaugment.solarize", [1, h, w], image.len())?;
        let Ok(threshold) = u8::try_from(threshold) else {
            // A threshold of 256 lies above every value.
            return Ok(());
        };
        image.iter_mut().for_each(|x| *x = if *x < threshold { *x } else { 255 - *x });
        Ok(())
    }

    /// `x < threshold ? min(x + addition, 255) : x`.
    pub fn solarize_add(image: &mut [u8], h: usize, w: usize, addition: u32, threshold: u32) -> Result<()> {
        check_images("randaugment.solarize_add", [1, h, w], image.len())?;
        let addition = addition.min(255) as u8;
        let mut lut = UNCHANGED;
        for (x, entry) in lut.iter_mut().enumerate() {
            if (x as u32) < threshold {
                *entry = entry.saturating_add(addition);
            }
        }
        map(image, &lut);
        Ok(())
    }

    // The three conversions of a gray value, kept apart so that the order of the roundings is the reference's:
    // x·(1/255) in f32, weighted sum, times 255.5, truncated.
    #[inline(always)]
    fn gray(pixel: &[u8]) -> u8 {
        let unit = |k: usize| f32::from(pixel[k]) * (1.0 / 255.0) * GRAY[k];
        u8::from_f32((unit(0) + unit(1) + unit(2)) * 255.5)
    }

    /// `blend(gray, x, factor)`; gray is the u8 gray value of the pixel.
    ///
    /// A factor of 0 gives a gray image, 1 the image itself, more than 1 stronger colours.
    pub fn color(image: &mut [u8], h: usize, w: usize, factor: f32) -> Result<()> {
        check_images("randaugment.color", [1, h, w], image.len())?;
        check_finite("randaugment.color", "factor", f64::from(factor))?;
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2.
            unsafe { color_avx2(image, factor) };
            return Ok(());
        }
        color_body(image, factor);
        Ok(())
    }

    #[inline(always)]
    pub(super) fn color_body(image: &mut [u8], factor: f32) {
        for pixel in image.chunks_exact_mut(RGB) {
            let gray = gray(pixel);
            for x in pixel {
                *x = blend(gray, *x, factor);
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn color_avx2(image: &mut [u8], factor: f32) {
        color_body(image, factor);
    }

    /// `blend(d, x, factor)` with the constant d = min(pixels/256, 255), truncated.
    ///
    /// The reference means d to be the mean gray value, but divides the sum of its histogram by 256, which is the
    /// number of pixels; d does not depend on the content.
    pub fn contrast(image: &mut [u8], h: usize, w: usize, factor: f32) -> Result<()> {
        check_images("randaugment.contrast", [1, h, w], image.len())?;
        check_finite("randaugment.contrast", "factor", f64::from(factor))?;
        blend_constant(image, (h * w / 256).min(255) as u8, factor);
        Ok(())
    }

    /// `blend(0, x, factor)`.
    pub fn brightness(image: &mut [u8], h: usize, w: usize, factor: f32) -> Result<()> {
        check_images("randaugment.brightness", [1, h, w], image.len())?;
        check_finite("randaugment.brightness", "factor", f64::from(factor))?;
        blend_constant(image, 0, factor);
        Ok(())
    }

    fn blend_constant(image: &mut [u8], d: u8, factor: f32) {
        let mut lut = [0; 256];
        for (x, entry) in lut.iter_mut().enumerate() {
            *entry = blend(d, x as u8, factor);
        }
        map(image, &lut);
    }

    /// `blend(smoothed, x, factor)`; smoothed is the 3x3 average `[1 1 1; 1 5 1; 1 1 1]/13`, clipped and truncated,
    /// inside the image, and the image itself in its one-pixel border.
    ///
    /// The nine taps are accumulated row-major by fused multiply-add in float32, as the reference does on a CPU.
    /// `x` and `y` are different buffers of `h·w·3` values.
    pub fn sharpness(x: &[u8], h: usize, w: usize, factor: f32, y: &mut [u8]) -> Result<()> {
        check_images("randaugment.sharpness", [1, h, w], x.len())?;
        check_len("randaugment.sharpness", "y", y.len(), x.len())?;
        check_finite("randaugment.sharpness", "factor", f64::from(factor))?;
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the CPU has AVX2 and FMA.
            unsafe { sharpness_fma(x, h, w, factor, y) };
            return Ok(());
        }
        sharpness_body::<false>(x, h, w, factor, y);
        Ok(())
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn sharpness_fma(x: &[u8], h: usize, w: usize, factor: f32, y: &mut [u8]) {
        sharpness_body::<true>(x, h, w, factor, y);
    }

    /// The fused `weight·x + sum`, rounded once.
    ///
    /// Without the instruction it goes through f64, which gives the same bits: all sums are multiples of 2⁻²⁷
    /// below 2⁹, so the f64 result is exact and the conversion rounds once.
    #[inline(always)]
    fn fused<const FMA: bool>(weight: f32, x: u8, sum: f32) -> f32 {
        if FMA { weight.mul_add(f32::from(x), sum) } else { (f64::from(weight) * f64::from(x) + f64::from(sum)) as f32 }
    }

    #[inline(always)]
    pub(super) fn sharpness_body<const FMA: bool>(x: &[u8], h: usize, w: usize, factor: f32, y: &mut [u8]) {
        let row_elems = w * RGB;
        for (p, out) in y.chunks_exact_mut(row_elems).enumerate() {
            let row = |p: usize| &x[p * row_elems..][..row_elems];
            let middle = row(p);
            if p == 0 || p + 1 == h || w < 3 {
                for (out, &x) in out.iter_mut().zip(middle) {
                    *out = blend(x, x, factor);
                }
                continue;
            }
            for k in (0..RGB).chain(row_elems - RGB..row_elems) {
                out[k] = blend(middle[k], middle[k], factor);
            }
            // Nine slices of one length, each shifted by a row or a pixel; sixteen sums side by side vectorise.
            let inner = row_elems - 2 * RGB;
            let taps: [&[u8]; 9] =
                std::array::from_fn(|tap| &x[(p - 1 + tap / 3) * row_elems + tap % 3 * RGB..][..inner]);
            let out = &mut out[RGB..][..inner];
            let mut start = 0;
            while start + LANES <= inner {
                let block = taps.map(|tap| tap[start..].first_chunk::<LANES>().unwrap_or(&[0; LANES]));
                let out = &mut out[start..start + LANES];
                out.copy_from_slice(&sharpen::<FMA, LANES>(block, factor));
                start += LANES;
            }
            for i in start..inner {
                let block = taps.map(|tap| std::array::from_ref(&tap[i]));
                [out[i]] = sharpen::<FMA, 1>(block, factor);
            }
        }
    }

    const LANES: usize = 16;

    /// [`sharpness`] of `N` values from their nine neighbours, row-major.
    #[inline(always)]
    fn sharpen<const FMA: bool, const N: usize>(taps: [&[u8; N]; 9], factor: f32) -> [u8; N] {
        let mut sums = [0.0; N];
        for (k, tap) in taps.iter().enumerate() {
            let weight = if k == 4 { 5.0f32 / 13.0 } else { 1.0f32 / 13.0 };
            for i in 0..N {
                sums[i] = fused::<FMA>(weight, tap[i], sums[i]);
            }
        }
        let mut out = [0; N];
        for i in 0..N {
            out[i] = blend(u8::from_f32(sums[i]), taps[4][i], factor);
        }
        out
    }

    fn warp_nearest(op: &'static str, x: &[u8], h: usize, w: usize, transform: &Transform, y: &mut [u8]) -> Result<()> {
        warp_op(op, x, [1, h, w, RGB], transform, Interpolation::Nearest, FillMode::Reflect, 0.0, y)
    }

    /// The transform of [`rotate`].
    pub(crate) fn rotate_transform(h: usize, w: usize, degrees: f64) -> Transform {
        rotation_transform(h, w, (degrees * (std::f64::consts::PI / 180.0)) as f32)
    }

    /// Rotation by `degrees` about the image centre; nearest sampling, reflected border.
    pub fn rotate(x: &[u8], h: usize, w: usize, degrees: f64, y: &mut [u8]) -> Result<()> {
        warp_nearest("randaugment.rotate", x, h, w, &rotate_transform(h, w, degrees), y)
    }

    /// Source x = x + shear·y, origin at the top left; nearest sampling, reflected border.
    pub fn shear_x(x: &[u8], h: usize, w: usize, shear: f32, y: &mut [u8]) -> Result<()> {
        warp_nearest("randaugment.shear_x", x, h, w, &shear_x_transform(shear), y)
    }

    /// Source y = y + shear·x, origin at the top left; nearest sampling, reflected border.
    pub fn shear_y(x: &[u8], h: usize, w: usize, shear: f32, y: &mut [u8]) -> Result<()> {
        warp_nearest("randaugment.shear_y", x, h, w, &shear_y_transform(shear), y)
    }

    /// Source x = x + translate_px (positive moves the content left); nearest sampling, reflected border.
    pub fn translate_x(x: &[u8], h: usize, w: usize, translate_px: f32, y: &mut [u8]) -> Result<()> {
        warp_nearest("randaugment.translate_x", x, h, w, &translation_transform(translate_px, 0.0), y)
    }

    /// Source y = y + translate_px (positive moves the content up); nearest sampling, reflected border.
    pub fn translate_y(x: &[u8], h: usize, w: usize, translate_px: f32, y: &mut [u8]) -> Result<()> {
        warp_nearest("randaugment.translate_y", x, h, w, &translation_transform(0.0, translate_px), y)
    }

    /// Sets rows `[centre_row − pad, centre_row + pad)` and columns likewise, clipped to the image, to `replace`.
    pub fn cutout(
        image: &mut [u8],
        h: usize,
        w: usize,
        pad: usize,
        centre_row: usize,
        centre_col: usize,
        replace: [u8; 3],
    ) -> Result<()> {
        check_images("randaugment.cutout", [1, h, w], image.len())?;
        if centre_row >= h || centre_col >= w {
            return Err(Error::argument(
                "randaugment.cutout",
                format_args!("a centre inside the {h}x{w} image"),
                format_args!("row {centre_row}, column {centre_col}"),
                "draw the centre from the size of the image",
            ));
        }
        let range = |centre: usize, extent: usize| centre.saturating_sub(pad)..extent.min(centre.saturating_add(pad));
        let cols = range(centre_col, w);
        for row in range(centre_row, h) {
            for pixel in image[(row * w + cols.start) * RGB..(row * w + cols.end) * RGB].chunks_exact_mut(RGB) {
                pixel.copy_from_slice(&replace);
            }
        }
        Ok(())
    }
}

/// keras_cv's RandAugment ops on float32 images `[n, h, w, 3]` with values in 0..255, in place.
///
/// Nothing is truncated to integers, except inside [`equalization`](keras_cv::equalization). Every op checks its
/// lengths, runs on the current rayon pool with one piece per image, and allocates nothing.
pub mod keras_cv {
    use super::{GRAY, RGB, channel_range, check_finite, check_images, equalize_lut};
    use crate::cpu::augment_geometry::{
        FillMode, Interpolation, Pixel, Transform, shear_x_transform, shear_y_transform, translation_transform, warp_op,
    };
    use crate::error::Result;
    use rayon::prelude::*;

    /// Clips to 0..255.
    #[inline(always)]
    fn clip(value: f32) -> f32 {
        value.clamp(0.0, 255.0)
    }

    /// Runs `op` on every image of a batch.
    fn each_image(
        name: &'static str,
        images: &mut [f32],
        shape: [usize; 3],
        op: impl Fn(&mut [f32]) + Sync + Send,
    ) -> Result<()> {
        check_images(name, shape, images.len())?;
        images.par_chunks_exact_mut(shape[1] * shape[2] * RGB).for_each(op);
        Ok(())
    }

    /// Stretches the range of each image's channels to 0..255: s = 255/(hi − lo), `x·s + (−lo·s)`, clipped; a
    /// constant channel stays.
    pub fn auto_contrast(images: &mut [f32], shape: [usize; 3]) -> Result<()> {
        each_image("keras_cv.auto_contrast", images, shape, auto_contrast_image)
    }

    pub(crate) fn auto_contrast_image(image: &mut [f32]) {
        let (lo, hi) = channel_range(image, f32::min, f32::max);
        for pixel in image.chunks_exact_mut(RGB) {
            for k in 0..RGB {
                if hi[k] > lo[k] {
                    let scale = 255.0 / (hi[k] - lo[k]);
                    pixel[k] = clip(pixel[k] * scale + -lo[k] * scale);
                }
            }
        }
    }

    /// Truncates to integers and equalises each image's channels; step = (pixels − smallest non-zero bin count) /
    /// 255, and a step of 0 leaves the truncated values.
    pub fn equalization(images: &mut [f32], shape: [usize; 3]) -> Result<()> {
        each_image("keras_cv.equalization", images, shape, equalization_image)
    }

    pub(crate) fn equalization_image(image: &mut [f32]) {
        let bin = |x: f32| usize::from(u8::from_f32(x));
        let mut histograms = [[0u32; 256]; RGB];
        for pixel in image.chunks_exact(RGB) {
            for k in 0..RGB {
                histograms[k][bin(pixel[k])] += 1;
            }
        }
        let pixels = (image.len() / RGB) as u32;
        let luts = histograms.map(|histogram| {
            let smallest = histogram.iter().filter(|&&count| count > 0).min().copied().unwrap_or(0);
            equalize_lut(&histogram, (pixels - smallest) / 255)
        });
        for pixel in image.chunks_exact_mut(RGB) {
            for k in 0..RGB {
                let x = bin(pixel[k]);
                pixel[k] = luts[k].as_ref().map_or(x as f32, |lut| f32::from(lut[x]));
            }
        }
    }

    /// v = clip(x + addition); `v < threshold ? v : 255 − v`.
    pub fn solarization(images: &mut [f32], shape: [usize; 3], addition: f32, threshold: f32) -> Result<()> {
        check_finite("keras_cv.solarization", "addition", f64::from(addition))?;
        check_finite("keras_cv.solarization", "threshold", f64::from(threshold))?;
        each_image("keras_cv.solarization", images, shape, |image| solarization_image(image, addition, threshold))
    }

    pub(crate) fn solarization_image(image: &mut [f32], addition: f32, threshold: f32) {
        for x in image {
            let v = clip(*x + addition);
            *x = if v < threshold { v } else { 255.0 - v };
        }
    }

    /// Blends towards gray: `clip(x + factor·(gray − x))`, gray = 0.2989 R + 0.5870 G + 0.1140 B.
    pub fn random_color_degeneration(images: &mut [f32], shape: [usize; 3], factor: f32) -> Result<()> {
        check_finite("keras_cv.random_color_degeneration", "factor", f64::from(factor))?;
        each_image("keras_cv.random_color_degeneration", images, shape, |image| {
            color_degeneration_image(image, factor);
        })
    }

    pub(crate) fn color_degeneration_image(image: &mut [f32], factor: f32) {
        for pixel in image.chunks_exact_mut(RGB) {
            let gray = pixel[0] * GRAY[0] + pixel[1] * GRAY[1] + pixel[2] * GRAY[2];
            for x in pixel {
                *x = clip(*x + factor * (gray - *x));
            }
        }
    }

    /// `clip((x − mean)·factor + mean)` with the mean of each image's channel.
    ///
    /// The mean is a float64 sum, rows from left to right and then from top to bottom, rounded to float32: a fixed
    /// order, so that every device gets the same bits.
    pub fn random_contrast(images: &mut [f32], shape: [usize; 3], factor: f32) -> Result<()> {
        check_finite("keras_cv.random_contrast", "factor", f64::from(factor))?;
        let w = shape[2];
        each_image("keras_cv.random_contrast", images, shape, |image| contrast_image(image, w, factor))
    }

    pub(crate) fn contrast_image(image: &mut [f32], w: usize, factor: f32) {
        let mut sums = [0.0f64; RGB];
        for row in image.chunks_exact(w * RGB) {
            let mut row_sums = [0.0f64; RGB];
            for pixel in row.chunks_exact(RGB) {
                for k in 0..RGB {
                    row_sums[k] += f64::from(pixel[k]);
                }
            }
            for k in 0..RGB {
                sums[k] += row_sums[k];
            }
        }
        let pixels = (image.len() / RGB) as f64;
        let mean = sums.map(|sum| (sum / pixels) as f32);
        for pixel in image.chunks_exact_mut(RGB) {
            for k in 0..RGB {
                pixel[k] = clip((pixel[k] - mean[k]) * factor + mean[k]);
            }
        }
    }

    /// `clip(x + delta)`.
    pub fn random_brightness(images: &mut [f32], shape: [usize; 3], delta: f32) -> Result<()> {
        check_finite("keras_cv.random_brightness", "delta", f64::from(delta))?;
        each_image("keras_cv.random_brightness", images, shape, |image| brightness_image(image, delta))
    }

    pub(crate) fn brightness_image(image: &mut [f32], delta: f32) {
        image.iter_mut().for_each(|x| *x = clip(*x + delta));
    }

    fn warp_bilinear(
        op: &'static str,
        x: &[f32],
        [n, h, w]: [usize; 3],
        transform: &Transform,
        y: &mut [f32],
    ) -> Result<()> {
        warp_op(op, x, [n, h, w, RGB], transform, Interpolation::Bilinear, FillMode::Reflect, 0.0, y)
    }

    /// Source x = x + shear·y; bilinear, reflected border.
    pub fn random_shear_x(x: &[f32], shape: [usize; 3], shear: f32, y: &mut [f32]) -> Result<()> {
        warp_bilinear("keras_cv.random_shear_x", x, shape, &shear_x_transform(shear), y)
    }

    /// Source y = y + shear·x; bilinear, reflected border.
    pub fn random_shear_y(x: &[f32], shape: [usize; 3], shear: f32, y: &mut [f32]) -> Result<()> {
        warp_bilinear("keras_cv.random_shear_y", x, shape, &shear_y_transform(shear), y)
    }

    /// Source x = x − factor·w (positive moves the content right); bilinear, reflected border.
    pub fn random_translation_x(x: &[f32], shape: [usize; 3], factor: f32, y: &mut [f32]) -> Result<()> {
        let transform = translation_transform(-(factor * shape[2] as f32), 0.0);
        warp_bilinear("keras_cv.random_translation_x", x, shape, &transform, y)
    }

    /// Source y = y − factor·h (positive moves the content down); bilinear, reflected border.
    pub fn random_translation_y(x: &[f32], shape: [usize; 3], factor: f32, y: &mut [f32]) -> Result<()> {
        let transform = translation_transform(0.0, -(factor * shape[1] as f32));
        warp_bilinear("keras_cv.random_translation_y", x, shape, &transform, y)
    }
}

#[cfg(test)]
mod tests {
    use super::randaugment;
    use crate::rng::Philox;

    fn image(elems: usize) -> Vec<u8> {
        let mut rng = Philox::new(7, 0);
        (0..elems).map(|_| (rng.next_word() >> 24) as u8).collect()
    }

    // The public functions take the SIMD path where there is one; the portable one must give the same bits.
    #[test]
    fn portable_paths_match_simd() {
        for (h, w) in [(1, 1), (3, 3), (5, 7), (31, 33), (72, 72)] {
            let x = image(h * w * 3);
            for factor in [0.0, 0.28, 1.0, 1.72] {
                let (mut simd, mut portable) = (x.clone(), x.clone());
                randaugment::sharpness(&x, h, w, factor, &mut simd).unwrap();
                randaugment::sharpness_body::<false>(&x, h, w, factor, &mut portable);
                assert_eq!(simd, portable, "sharpness {h}x{w}, factor {factor}");
                let (mut simd, mut portable) = (x.clone(), x.clone());
                randaugment::color(&mut simd, h, w, factor).unwrap();
                randaugment::color_body(&mut portable, factor);
                assert_eq!(simd, portable, "color {h}x{w}, factor {factor}");
            }
        }
    }
}
