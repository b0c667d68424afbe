//! Launchers of `kernels/augment_geometry.cu`: device twins of
//! [`cpu::augment_geometry`](crate::cpu::augment_geometry), bit-equal to it.
//!
//! How the kernels work is told in the chapter of [`augment_pipeline`](super::augment_pipeline).

use super::launch::{Entry, Kernels, PTR, U32, elems, input, output};
use crate::error::check_len;
use crate::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, DeviceRepr};

pub use crate::geometry::{
    CropBox, FillMode, IDENTITY, Interpolation, Transform, rotation_transform, shear_x_transform, shear_y_transform,
    translation_transform, zoom_transform,
};

/// Threads of a block, `AUGMENT_BLOCK` of augment_image.cuh.
pub(super) const BLOCK: u32 = 512;
/// Values that a thread handles before a second block is worth its start.
const VALUES: u64 = 16;
/// Extents must be exact as floats.
const MAX_EXTENT: usize = 1 << 24;
const PIXELS: &[&str] = &["u8", "f32"];

mod sealed {
    pub trait Sealed {}
    impl Sealed for u8 {}
    impl Sealed for f32 {}
}

/// An element type of images: `u8` or `f32`.
pub trait Pixel: sealed::Sealed + Copy + Send + Sync + 'static {
    /// What names it in a kernel's symbol.
    const SUFFIX: &'static str;
}

impl Pixel for u8 {
    const SUFFIX: &'static str = "u8";
}

impl Pixel for f32 {
    const SUFFIX: &'static str = "f32";
}

/// A box as kernels take it: `CropBox` of augment_geometry.cuh.
#[repr(C)]
#[derive(Clone, Copy)]
struct Region {
    top: u32,
    left: u32,
    height: u32,
    width: u32,
}

// SAFETY: four u32 in the order of the kernel's struct.
unsafe impl DeviceRepr for Region {}

/// `WarpArguments` of augment_geometry.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct WarpArguments {
    transform: Transform,
    nearest: u32,
    fill: u32,
    fill_value: f32,
}

// SAFETY: eight floats, two u32 and a float in the order of the kernel's struct.
unsafe impl DeviceRepr for WarpArguments {}

const fn entry(name: &'static str, params: &'static [usize]) -> Entry {
    Entry { file: "augment_geometry", name, suffixes: PIXELS, block: BLOCK, params }
}

static RESIZE: Entry = entry("augment_geometry_resize", &[U32, U32, U32, U32, size_of::<Region>(), U32, U32, PTR, PTR]);
static CROP: Entry = entry("augment_geometry_crop", &[U32, U32, U32, U32, size_of::<Region>(), U32, PTR, PTR]);
static WARP: Entry = entry("augment_geometry_warp", &[U32, U32, U32, U32, size_of::<WarpArguments>(), PTR, PTR]);

pub(super) static ENTRIES: [&Entry; 3] = [&RESIZE, &CROP, &WARP];

/// Blocks that an image of so many values is divided among.
pub(super) fn parts(values: usize) -> u32 {
    (values as u64).div_ceil(VALUES * u64::from(BLOCK)) as u32
}

/// Extents of images that the kernels can address; the values of an image.
pub(super) fn check_extents(op: &'static str, extents: [usize; 3]) -> Result<usize> {
    let values = extents.iter().try_fold(1usize, |values, &extent| values.checked_mul(extent));
    let small = extents.iter().all(|extent| (1..MAX_EXTENT).contains(extent));
    // Room for the last unit of four values.
    match values.filter(|&values| small && values <= u32::MAX as usize - 4) {
        Some(values) => Ok(values),
        None => Err(Error::shape(
            op,
            "height, width and channels in 1..2^24 and fewer than 2^32 values an image",
            format_args!("{}x{}x{}", extents[0], extents[1], extents[2]),
            "split or shrink the images",
        )),
    }
}

/// Checks a batch `[n, h, w, c]` and the length of its buffer; the values of an image.
fn check_batch(op: &'static str, name: &str, len: usize, [n, h, w, c]: [usize; 4]) -> Result<usize> {
    let values = check_extents(op, [h, w, c])?;
    check_len(op, name, len, elems(op, &[n, values])?)?;
    Ok(values)
}

impl Region {
    fn new(op: &'static str, region: CropBox, [_, h, w, _]: [usize; 4]) -> Result<Region> {
        region.check(op, h, w)?;
        let CropBox { top, left, height, width } = region;
        Ok(Region { top: top as u32, left: left as u32, height: height as u32, width: width as u32 })
    }
}

/// Bilinear resize to `height` x `width`: half-pixel centres, no antialiasing.
///
/// Shapes: `x [n,h,w,c]` (`shape`), u8 or f32; `y [n,height,width,c]`.
///
/// # Errors
/// When an extent is zero or too large, a buffer has the wrong length, or the launch fails.
pub fn resize_bilinear<S: Pixel>(
    kernels: &Kernels,
    x: &impl DevicePtr<S>,
    shape: [usize; 4],
    height: usize,
    width: usize,
    y: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    let whole = CropBox { top: 0, left: 0, height: shape[1], width: shape[2] };
    crop_resize_op("resize_bilinear", kernels, x, shape, whole, (height, width), y, stream)
}

/// Cuts a box out of every image and resizes it to `height` x `width`.
///
/// Shapes: `x [n,h,w,c]` (`shape`), u8 or f32; `y [n,height,width,c]`.
///
/// # Errors
/// When the box is empty or not inside the image, an extent is zero or too large, a buffer has the wrong length, or the
/// launch fails.
pub fn crop_resize<S: Pixel>(
    kernels: &Kernels,
    x: &impl DevicePtr<S>,
    shape: [usize; 4],
    region: CropBox,
    height: usize,
    width: usize,
    y: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    crop_resize_op("crop_resize", kernels, x, shape, region, (height, width), y, stream)
}

/// Centre crop; an image smaller than the crop is resized instead, from its largest centred box of that aspect ratio.
///
/// Shapes: `x [n,h,w,c]` (`shape`), u8 or f32; `y [n,height,width,c]`.
///
/// # Errors
/// When an extent is zero or too large, a buffer has the wrong length, or the launch fails.
pub fn center_crop<S: Pixel>(
    kernels: &Kernels,
    x: &impl DevicePtr<S>,
    shape: [usize; 4],
    height: usize,
    width: usize,
    y: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "center_crop";
    check_batch(OP, "x", x.len(), shape)?;
    check_extents(OP, [height, width, shape[3]])?;
    let [_, h, w, _] = shape;
    let region = if height <= h && width <= w {
        CropBox::centre(h, w, height, width)
    } else {
        CropBox::centre_with_aspect(h, w, height, width)
    };
    crop_resize_op(OP, kernels, x, shape, region, (height, width), y, stream)
}

fn crop_resize_op<S: Pixel>(
    op: &'static str,
    kernels: &Kernels,
    x: &impl DevicePtr<S>,
    shape: [usize; 4],
    region: CropBox,
    (height, width): (usize, usize),
    y: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    let [n, h, w, c] = shape;
    check_batch(op, "x", x.len(), shape)?;
    let values = check_batch(op, "y", y.len(), [n, height, width, c])?;
    let region = Region::new(op, region, shape)?;
    let parts = parts(values);
    let ((xp, _x), (yp, _y)) = (input(kernels, x, stream)?, output(kernels, y, stream)?);
    let [h, w, c, height, width] = [h, w, c, height, width].map(|extent| (extent as u32).into());
    let args = [parts.into(), h, w, c, region.into(), height, width, xp, yp];
    // SAFETY: the buffers have the lengths of their shapes and the box lies inside the image, as checked; `y` is
    // borrowed mutably, so it is not `x`.
    unsafe { kernels.launch((&RESIZE, S::SUFFIX), n as u64 * u64::from(parts), 0, &args, stream) }
}

/// Cuts a box out of every image: `y[i,p,q] = x[i, top + p, left + q]`.
///
/// Shapes: `x [n,h,w,c]` (`shape`); `y [n,region.height,region.width,c]`, the type of `x`.
///
/// # Errors
/// When the box is empty or not inside the image, an extent is zero or too large, a buffer has the wrong length, or the
/// launch fails.
pub fn crop<S: Pixel>(
    kernels: &Kernels,
    x: &impl DevicePtr<S>,
    shape: [usize; 4],
    region: CropBox,
    y: &mut impl DevicePtrMut<S>,
    stream: &CudaStream,
) -> Result<()> {
    crop_op("crop", kernels, x, shape, region, false, y, stream)
}

/// Reverses the columns of every image.
///
/// Shapes: `x, y [n,h,w,c]` (`shape`).
///
/// # Errors
/// When an extent is zero or too large, a buffer has the wrong length, or the launch fails.
pub fn flip_left_right<S: Pixel>(
    kernels: &Kernels,
    x: &impl DevicePtr<S>,
    shape: [usize; 4],
    y: &mut impl DevicePtrMut<S>,
    stream: &CudaStream,
) -> Result<()> {
    let whole = CropBox { top: 0, left: 0, height: shape[1], width: shape[2] };
    crop_op("flip_left_right", kernels, x, shape, whole, true, y, stream)
}

fn crop_op<S: Pixel>(
    op: &'static str,
    kernels: &Kernels,
    x: &impl DevicePtr<S>,
    shape: [usize; 4],
    region: CropBox,
    flip: bool,
    y: &mut impl DevicePtrMut<S>,
    stream: &CudaStream,
) -> Result<()> {
    let [n, h, w, c] = shape;
    check_batch(op, "x", x.len(), shape)?;
    let CropBox { height, width, .. } = region;
    let region = Region::new(op, region, shape)?;
    let values = check_batch(op, "y", y.len(), [n, height, width, c])?;
    let parts = parts(values);
    let ((xp, _x), (yp, _y)) = (input(kernels, x, stream)?, output(kernels, y, stream)?);
    let [h, w, c] = [h, w, c].map(|extent| (extent as u32).into());
    let args = [parts.into(), h, w, c, region.into(), u32::from(flip).into(), xp, yp];
    // SAFETY: the buffers have the lengths of their shapes and the box lies inside the image, as checked; `y` is
    // borrowed mutably, so it is not `x`.
    unsafe { kernels.launch((&CROP, S::SUFFIX), n as u64 * u64::from(parts), 0, &args, stream) }
}

/// Projective warp: output pixel (x, y) reads the source at `transform`(x, y).
///
/// Shapes: `x, y [n,h,w,c]` (`shape`), u8 (bilinear results are truncated) or f32.
///
/// # Errors
/// When the transform or the fill value is not finite, an extent is zero or too large, a buffer has the wrong length,
/// or the launch fails.
pub fn warp<S: Pixel>(
    kernels: &Kernels,
    x: &impl DevicePtr<S>,
    shape: [usize; 4],
    transform: &Transform,
    interpolation: Interpolation,
    fill: FillMode,
    fill_value: f32,
    y: &mut impl DevicePtrMut<S>,
    stream: &CudaStream,
) -> Result<()> {
    warp_op("warp", kernels, x, shape, transform, (interpolation, fill, fill_value), y, stream)
}

/// Rotates every image by the same angle about its centre: [`warp`] with [`rotation_transform`], bilinear, reflect.
///
/// Shapes: `x, y [n,h,w,c]` (`shape`).
///
/// # Errors
/// As [`warp`].
pub fn random_rotation(
    kernels: &Kernels,
    x: &impl DevicePtr<f32>,
    shape: [usize; 4],
    radians: f32,
    y: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    let transform = rotation_transform(shape[1], shape[2], radians);
    let how = (Interpolation::Bilinear, FillMode::Reflect, 0.0);
    warp_op("random_rotation", kernels, x, shape, &transform, how, y, stream)
}

/// Zooms every image by the same factors about its centre: [`warp`] with [`zoom_transform`], bilinear, reflect.
///
/// Shapes: `x, y [n,h,w,c]` (`shape`).
///
/// # Errors
/// As [`warp`].
pub fn random_zoom(
    kernels: &Kernels,
    x: &impl DevicePtr<f32>,
    shape: [usize; 4],
    height_factor: f32,
    width_factor: f32,
    y: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    let transform = zoom_transform(shape[1], shape[2], height_factor, width_factor);
    let how = (Interpolation::Bilinear, FillMode::Reflect, 0.0);
    warp_op("random_zoom", kernels, x, shape, &transform, how, y, stream)
}

/// Fails unless every number is finite.
pub(super) fn check_transform(op: &'static str, transform: &Transform, fill_value: f32) -> Result<()> {
    if transform.iter().chain([&fill_value]).all(|v| v.is_finite()) {
        return Ok(());
    }
    Err(Error::argument(
        op,
        "a finite transform and fill value",
        format_args!("{transform:?}, fill {fill_value}"),
        "check the angle, factor or offset that it was made from",
    ))
}

fn warp_op<S: Pixel>(
    op: &'static str,
    kernels: &Kernels,
    x: &impl DevicePtr<S>,
    shape: [usize; 4],
    transform: &Transform,
    (interpolation, fill, fill_value): (Interpolation, FillMode, f32),
    y: &mut impl DevicePtrMut<S>,
    stream: &CudaStream,
) -> Result<()> {
    let [n, h, w, c] = shape;
    let values = check_batch(op, "x", x.len(), shape)?;
    check_len(op, "y", y.len(), x.len())?;
    check_transform(op, transform, fill_value)?;
    // The numbers of `Fill` in augment_geometry.cuh.
    let fill = match fill {
        FillMode::Reflect => 0,
        FillMode::Constant => 1,
        FillMode::Nearest => 2,
        FillMode::Wrap => 3,
    };
    let nearest = u32::from(interpolation == Interpolation::Nearest);
    let arguments = WarpArguments { transform: *transform, nearest, fill, fill_value };
    let parts = parts(values);
    let ((xp, _x), (yp, _y)) = (input(kernels, x, stream)?, output(kernels, y, stream)?);
    let [h, w, c] = [h, w, c].map(|extent| (extent as u32).into());
    let args = [parts.into(), h, w, c, arguments.into(), xp, yp];
    // SAFETY: the buffers have the length of the shape, as checked; `y` is borrowed mutably, so it is not `x`. The
    // kernel maps every coordinate into the image or tests it.
    unsafe { kernels.launch((&WARP, S::SUFFIX), n as u64 * u64::from(parts), 0, &args, stream) }
}
