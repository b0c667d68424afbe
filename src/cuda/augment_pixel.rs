//! Launchers of `kernels/augment_pixel.cu`: device twins of [`cpu::augment_pixel`](crate::cpu::augment_pixel) on
//! batches, bit-equal to it.
//!
//! How the kernels work is told in the chapter of [`augment_pipeline`](super::augment_pipeline).

use super::augment_geometry::{BLOCK, IDENTITY, Transform, check_extents, check_transform, parts};
use super::launch::{Entry, Kernels, PTR, U32, elems, input, output};
use crate::error::check_len;
use crate::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, DeviceRepr};

/// `PixelOp` of augment_pixel.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
struct PixelOp {
    op: u32,
    n: [u32; 4],
    f: [f32; 2],
    transform: Transform,
}

// SAFETY: five u32 and ten floats in the order of the kernel's struct.
unsafe impl DeviceRepr for PixelOp {}

static RAND_AUGMENT: Entry = Entry {
    file: "augment_pixel",
    name: "augment_pixel_rand_augment",
    suffixes: &["u8"],
    block: BLOCK,
    params: &[U32, U32, U32, size_of::<PixelOp>(), PTR, PTR],
};
static KERAS: Entry = Entry {
    file: "augment_pixel",
    name: "augment_pixel_keras",
    suffixes: &["f32"],
    block: BLOCK,
    params: &[U32, U32, U32, size_of::<PixelOp>(), PTR, PTR],
};

pub(super) static ENTRIES: [&Entry; 2] = [&RAND_AUGMENT, &KERAS];

/// An op without arguments.
const PLAIN: PixelOp = PixelOp { op: 0, n: [0; 4], f: [0.0; 2], transform: IDENTITY };

/// Where a kernel runs, on what: kernels, the source, its shape `[n,h,w]`, the result, the stream.
struct Call<'a, X, Y> {
    kernels: &'a Kernels,
    x: &'a X,
    shape: [usize; 3],
    y: &'a mut Y,
    stream: &'a CudaStream,
}

impl<X, Y> Call<'_, X, Y> {
    /// Queues an op; `whole`: a block handles a whole image.
    fn launch<T>(self, name: &'static str, entry: &'static Entry, op: PixelOp, whole: bool) -> Result<()>
    where
        X: DevicePtr<T>,
        Y: DevicePtrMut<T>,
    {
        let [n, h, w] = self.shape;
        let values = check_extents(name, [h, w, 3])?;
        check_len(name, "x", self.x.len(), elems(name, &[n, values])?)?;
        check_len(name, "y", self.y.len(), self.x.len())?;
        check_transform(name, &op.transform, 0.0)?;
        if let Some(value) = op.f.iter().find(|value| !value.is_finite()) {
            return Err(Error::argument(name, "finite arguments", value, "check how they were computed"));
        }
        let parts = if whole { 1 } else { parts(values) };
        let (xp, _x) = input(self.kernels, self.x, self.stream)?;
        let (yp, _y) = output(self.kernels, self.y, self.stream)?;
        let args = [parts.into(), (h as u32).into(), (w as u32).into(), op.into(), xp, yp];
        let suffix = entry.suffixes[0];
        // SAFETY: the buffers have the length of the shape, as checked; `y` is borrowed mutably, so it is not `x`. Ops
        // with statistics get one block an image.
        unsafe { self.kernels.launch((entry, suffix), n as u64 * u64::from(parts), 0, &args, self.stream) }
    }
}

/// The model garden's RandAugment ops on u8 images `[n, h, w, 3]`; every image gets the same arguments.
pub mod randaugment {
    use super::super::augment_geometry::{
        Transform, rotation_transform, shear_x_transform, shear_y_transform, translation_transform,
    };
    use super::{Call, DevicePtr, DevicePtrMut, Error, Kernels, PLAIN, PixelOp, RAND_AUGMENT, Result};
    use cudarc::driver::CudaStream;

    macro_rules! op {
        (
            $(#[$doc:meta])*
            $name:ident, $number:literal, $whole:literal, ($($argument:ident: $kind:ty),*), $shape:pat => $op:expr
        ) => {
            $(#[$doc])*
            ///
            /// Shapes: `x, y [n,h,w,3]` (`shape`).
            ///
            /// # Errors
            /// When an argument is outside its domain, an extent is zero or too large, a buffer has the wrong length,
            /// or the launch fails.
            pub fn $name(
                kernels: &Kernels,
                x: &impl DevicePtr<u8>,
                shape: [usize; 3],
                $($argument: $kind,)*
                y: &mut impl DevicePtrMut<u8>,
                stream: &CudaStream,
            ) -> Result<()> {
                let $shape = shape;
                let op: Result<PixelOp> = $op;
                let op = PixelOp { op: $number, ..op? };
                let name = concat!("randaugment.", stringify!($name));
                Call { kernels, x, shape, y, stream }.launch(name, &RAND_AUGMENT, op, $whole)
            }
        };
    }

    fn with_factor(factor: f32) -> Result<PixelOp> {
        Ok(PixelOp { f: [factor, 0.0], ..PLAIN })
    }

    fn with_transform(transform: Transform) -> Result<PixelOp> {
        Ok(PixelOp { transform, ..PLAIN })
    }

    op!(
        /// Stretches each channel's range to 0..255.
        auto_contrast, 0, true, (), _ => Ok(PLAIN)
    );
    op!(
        /// Equalises each channel's histogram.
        equalize, 1, true, (), _ => Ok(PLAIN)
    );
    op!(
        /// `255 − x`.
        invert, 2, false, (), _ => Ok(PLAIN)
    );
    op!(
        /// Rotation by `degrees` about the image centre; nearest sampling, reflected border.
        rotate, 3, false, (degrees: f64), [_, h, w] => {
            with_transform(rotation_transform(h, w, (degrees * (std::f64::consts::PI / 180.0)) as f32))
        }
    );
    op!(
        /// `(x >> s) << s` with s = 8 − bits, at most 7.
        posterize, 4, false, (bits: u32), _ => {
            if bits > 8 {
                return Err(Error::argument("randaugment.posterize", "0..=8 bits", bits, "ask for fewer bits"));
            }
            Ok(PixelOp { n: [bits, 0, 0, 0], ..PLAIN })
        }
    );
    op!(
        /// `x < threshold ? x : 255 − x`.
        solarize, 5, false, (threshold: u32), _ => Ok(PixelOp { n: [threshold, 0, 0, 0], ..PLAIN })
    );
    op!(
        /// `blend(gray, x, factor)`.
        color, 6, false, (factor: f32), _ => with_factor(factor)
    );
    op!(
        /// `blend(d, x, factor)` with the constant d = min(pixels/256, 255).
        contrast, 7, false, (factor: f32), _ => with_factor(factor)
    );
    op!(
        /// `blend(0, x, factor)`.
        brightness, 8, false, (factor: f32), _ => with_factor(factor)
    );
    op!(
        /// `blend(smoothed, x, factor)`.
        sharpness, 9, false, (factor: f32), _ => with_factor(factor)
    );
    op!(
        /// Source x = x + shear·y; nearest sampling, reflected border.
        shear_x, 10, false, (shear: f32), _ => with_transform(shear_x_transform(shear))
    );
    op!(
        /// Source y = y + shear·x; nearest sampling, reflected border.
        shear_y, 11, false, (shear: f32), _ => with_transform(shear_y_transform(shear))
    );
    op!(
        /// Source x = x + translate_px; nearest sampling, reflected border.
        translate_x, 12, false, (translate_px: f32), _ => with_transform(translation_transform(translate_px, 0.0))
    );
    op!(
        /// Source y = y + translate_px; nearest sampling, reflected border.
        translate_y, 13, false, (translate_px: f32), _ => with_transform(translation_transform(0.0, translate_px))
    );
    op!(
        /// Sets rows `[centre_row − pad, centre_row + pad)` and columns likewise, clipped to the image, to `replace`.
        cutout, 14, false, (pad: u32, centre_row: u32, centre_col: u32, replace: [u8; 3]), [_, h, w] => {
            if centre_row as usize >= h || centre_col as usize >= w {
                return Err(Error::argument(
                    "randaugment.cutout",
                    format_args!("a centre inside the {h}x{w} image"),
                    format_args!("row {centre_row}, column {centre_col}"),
                    "draw the centre from the size of the image",
                ));
            }
            let [r, g, b] = replace;
            Ok(PixelOp { n: [pad, centre_row, centre_col, u32::from_le_bytes([r, g, b, 0])], ..PLAIN })
        }
    );
    op!(
        /// `x < threshold ? min(x + addition, 255) : x`.
        solarize_add, 15, false, (addition: u32, threshold: u32), _ => {
            Ok(PixelOp { n: [addition.min(255), threshold, 0, 0], ..PLAIN })
        }
    );
}

/// keras_cv's RandAugment ops on float32 images `[n, h, w, 3]` with values in 0..255; every image gets the same
/// arguments.
pub mod keras_cv {
    use super::super::augment_geometry::{shear_x_transform, shear_y_transform, translation_transform};
    use super::{Call, DevicePtr, DevicePtrMut, KERAS, Kernels, PLAIN, PixelOp, Result};
    use cudarc::driver::CudaStream;

    macro_rules! op {
        (
            $(#[$doc:meta])*
            $name:ident, $number:literal, $whole:literal, ($($argument:ident),*), $shape:pat => $op:expr
        ) => {
            $(#[$doc])*
            ///
            /// Shapes: `x, y [n,h,w,3]` (`shape`).
            ///
            /// # Errors
            /// When an argument is not finite, an extent is zero or too large, a buffer has the wrong length, or the
            /// launch fails.
            pub fn $name(
                kernels: &Kernels,
                x: &impl DevicePtr<f32>,
                shape: [usize; 3],
                $($argument: f32,)*
                y: &mut impl DevicePtrMut<f32>,
                stream: &CudaStream,
            ) -> Result<()> {
                let $shape = shape;
                let name = concat!("keras_cv.", stringify!($name));
                Call { kernels, x, shape, y, stream }.launch(name, &KERAS, PixelOp { op: $number, ..$op }, $whole)
            }
        };
    }

    op!(
        /// Stretches the range of each image's channels to 0..255.
        auto_contrast, 0, true, (), _ => PLAIN
    );
    op!(
        /// Truncates to integers and equalises each image's channels.
        equalization, 1, true, (), _ => PLAIN
    );
    op!(
        /// v = clip(x + addition); `v < threshold ? v : 255 − v`.
        solarization, 2, false, (addition, threshold), _ => PixelOp { f: [addition, threshold], ..PLAIN }
    );
    op!(
        /// Blends towards gray: `clip(x + factor·(gray − x))`.
        random_color_degeneration, 3, false, (factor), _ => PixelOp { f: [factor, 0.0], ..PLAIN }
    );
    op!(
        /// `clip((x − mean)·factor + mean)` with the mean of each image's channel.
        random_contrast, 4, true, (factor), _ => PixelOp { f: [factor, 0.0], ..PLAIN }
    );
    op!(
        /// `clip(x + delta)`.
        random_brightness, 5, false, (delta), _ => PixelOp { f: [delta, 0.0], ..PLAIN }
    );
    op!(
        /// Source x = x + shear·y; bilinear, reflected border.
        random_shear_x, 6, false, (shear), _ => PixelOp { transform: shear_x_transform(shear), ..PLAIN }
    );
    op!(
        /// Source y = y + shear·x; bilinear, reflected border.
        random_shear_y, 7, false, (shear), _ => PixelOp { transform: shear_y_transform(shear), ..PLAIN }
    );
    op!(
        /// Source x = x − factor·w; bilinear, reflected border.
        random_translation_x, 8, false, (factor), [_, _, w] => {
            PixelOp { transform: translation_transform(-(factor * w as f32), 0.0), ..PLAIN }
        }
    );
    op!(
        /// Source y = y − factor·h; bilinear, reflected border.
        random_translation_y, 9, false, (factor), [_, h, _] => {
            PixelOp { transform: translation_transform(0.0, -(factor * h as f32)), ..PLAIN }
        }
    );
}
