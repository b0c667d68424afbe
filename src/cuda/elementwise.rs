//! Launchers of `kernels/elementwise.cu`: ReLU, sums, scaling, casts and the input normalisation.
//!
//! Each is the device twin of the function of the same name in [`cpu::elementwise`](crate::cpu::elementwise) and equal
//! to it bit by bit. Buffers may begin anywhere; 16-byte aligned ones are moved 16 bytes at a time.
//!
#![doc = include_str!("../../kernels/elementwise.md")]

use super::launch::{Entry, F32, Kernels, PTR, U32, U64, Value, input, output};
use crate::error::check_len;
use crate::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};
use half::bf16;

const BLOCK: u32 = 256;
const FLOATS: &[&str] = &["f32", "bf16"];

const fn entry(name: &'static str, suffixes: &'static [&'static str], params: &'static [usize]) -> Entry {
    Entry { file: "elementwise", name, suffixes, block: BLOCK, params }
}

static RELU: Entry = entry("relu", FLOATS, &[U64, PTR, PTR]);
static RELU_BACKWARD: Entry = entry("relu_backward", FLOATS, &[U64, PTR, PTR, U32, PTR]);
static ADD: Entry = entry("add", FLOATS, &[U64, PTR, PTR, PTR]);
static ADD_ASSIGN: Entry = entry("add_assign", FLOATS, &[U64, PTR, PTR]);
static SCALE: Entry = entry("scale", FLOATS, &[U64, PTR, F32, PTR]);
static RESCALE: Entry = entry("rescale", &["f32", "bf16", "u8_f32"], &[U64, PTR, F32, F32, PTR]);
static FILL: Entry = entry("fill", FLOATS, &[U64, F32, PTR]);
static CAST: Entry = entry("cast", &["f32_bf16", "bf16_f32"], &[U64, PTR, PTR]);
static NORMALIZATION: Entry = entry("normalization", &["f32", "u8_f32"], &[U64, U32, PTR, PTR, PTR, PTR]);

static SCALE_BY: Entry = entry("scale_by", &["f32"], &[U64, PTR, PTR, U32, PTR]);
static FILL_FROM: Entry = entry("fill_from", &["f32"], &[U64, PTR, PTR]);
static SUM: Entry = entry("sum", &["f32"], &[U64, PTR, PTR]);

pub(super) static ENTRIES: [&Entry; 12] = [
    &RELU,
    &RELU_BACKWARD,
    &ADD,
    &ADD_ASSIGN,
    &SCALE,
    &RESCALE,
    &FILL,
    &CAST,
    &NORMALIZATION,
    &SCALE_BY,
    &FILL_FROM,
    &SUM,
];

/// Blocks for a thread per 16 bytes of the widest operand: four floats, eight bf16.
fn blocks(elems: usize, values: u64) -> u64 {
    (elems as u64).div_ceil(u64::from(BLOCK) * values)
}

/// Values that a thread handles.
fn values<T>() -> u64 {
    if size_of::<T>() == 2 { 8 } else { 4 }
}

/// `y = max(x, 0)`. NaN stays NaN.
///
/// # Errors
/// When the buffers differ in length, or the launch fails.
pub fn relu<T: Value>(
    kernels: &Kernels,
    x: &impl DevicePtr<T>,
    y: &mut impl DevicePtrMut<T>,
    stream: &CudaStream,
) -> Result<()> {
    let elems = x.len();
    check_len("relu", "y", y.len(), elems)?;
    let ((xp, _x), (yp, _y)) = (input(kernels, x, stream)?, output(kernels, y, stream)?);
    let args = [(elems as u64).into(), xp, yp];
    // SAFETY: both buffers hold `elems` values, and `y` is borrowed mutably.
    unsafe { kernels.launch((&RELU, T::SUFFIX), blocks(elems, values::<T>()), 0, &args, stream) }
}

/// `dx (= or += with accumulate) dy where x > 0, else 0`. `x` may be the input or the output of [`relu`].
///
/// # Errors
/// When the buffers differ in length, or the launch fails.
pub fn relu_backward<T: Value>(
    kernels: &Kernels,
    x: &impl DevicePtr<T>,
    dy: &impl DevicePtr<T>,
    accumulate: bool,
    dx: &mut impl DevicePtrMut<T>,
    stream: &CudaStream,
) -> Result<()> {
    let elems = x.len();
    check_len("relu_backward", "dy", dy.len(), elems)?;
    check_len("relu_backward", "dx", dx.len(), elems)?;
    let ((xp, _x), (dyp, _dy)) = (input(kernels, x, stream)?, input(kernels, dy, stream)?);
    let (dxp, _dx) = output(kernels, dx, stream)?;
    let args = [(elems as u64).into(), xp, dyp, u32::from(accumulate).into(), dxp];
    // SAFETY: the three buffers hold `elems` values, and `dx` is borrowed mutably.
    unsafe { kernels.launch((&RELU_BACKWARD, T::SUFFIX), blocks(elems, values::<T>()), 0, &args, stream) }
}

/// `y = a + b`.
///
/// # Errors
/// When the buffers differ in length, or the launch fails.
pub fn add<T: Value>(
    kernels: &Kernels,
    a: &impl DevicePtr<T>,
    b: &impl DevicePtr<T>,
    y: &mut impl DevicePtrMut<T>,
    stream: &CudaStream,
) -> Result<()> {
    let elems = a.len();
    check_len("add", "b", b.len(), elems)?;
    check_len("add", "y", y.len(), elems)?;
    let ((ap, _a), (bp, _b)) = (input(kernels, a, stream)?, input(kernels, b, stream)?);
    let (yp, _y) = output(kernels, y, stream)?;
    let args = [(elems as u64).into(), ap, bp, yp];
    // SAFETY: the three buffers hold `elems` values, and `y` is borrowed mutably.
    unsafe { kernels.launch((&ADD, T::SUFFIX), blocks(elems, values::<T>()), 0, &args, stream) }
}

/// `y += x`: the residual sum in place, and the accumulation of gradients.
///
/// # Errors
/// When the buffers differ in length, or the launch fails.
pub fn add_assign<T: Value>(
    kernels: &Kernels,
    x: &impl DevicePtr<T>,
    y: &mut impl DevicePtrMut<T>,
    stream: &CudaStream,
) -> Result<()> {
    let elems = x.len();
    check_len("add_assign", "y", y.len(), elems)?;
    let ((xp, _x), (yp, _y)) = (input(kernels, x, stream)?, output(kernels, y, stream)?);
    let args = [(elems as u64).into(), xp, yp];
    // SAFETY: both buffers hold `elems` values, and `y` is borrowed mutably.
    unsafe { kernels.launch((&ADD_ASSIGN, T::SUFFIX), blocks(elems, values::<T>()), 0, &args, stream) }
}

/// `x *= factor`.
///
/// # Errors
/// When the launch fails.
pub fn scale_assign<T: Value>(
    kernels: &Kernels,
    factor: f32,
    x: &mut impl DevicePtrMut<T>,
    stream: &CudaStream,
) -> Result<()> {
    let elems = x.len();
    let (xp, _x) = output(kernels, x, stream)?;
    let args = [(elems as u64).into(), xp, factor.into(), xp];
    // SAFETY: the buffer holds `elems` values and is borrowed mutably; each thread reads its values before it writes
    // them, and nobody else's.
    unsafe { kernels.launch((&SCALE, T::SUFFIX), blocks(elems, values::<T>()), 0, &args, stream) }
}

/// `y = x * scale + offset`, with two roundings.
///
/// # Errors
/// When the buffers differ in length, or the launch fails.
pub fn rescale<T: Value>(
    kernels: &Kernels,
    x: &impl DevicePtr<T>,
    scale: f32,
    offset: f32,
    y: &mut impl DevicePtrMut<T>,
    stream: &CudaStream,
) -> Result<()> {
    let elems = x.len();
    check_len("rescale", "y", y.len(), elems)?;
    let ((xp, _x), (yp, _y)) = (input(kernels, x, stream)?, output(kernels, y, stream)?);
    let args = [(elems as u64).into(), xp, scale.into(), offset.into(), yp];
    // SAFETY: both buffers hold `elems` values, and `y` is borrowed mutably.
    unsafe { kernels.launch((&RESCALE, T::SUFFIX), blocks(elems, values::<T>()), 0, &args, stream) }
}

/// `y = x * scale + offset` from bytes: images at rest into activations.
///
/// # Errors
/// When the buffers differ in length, or the launch fails.
pub fn rescale_u8(
    kernels: &Kernels,
    x: &impl DevicePtr<u8>,
    scale: f32,
    offset: f32,
    y: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    let elems = x.len();
    check_len("rescale_u8", "y", y.len(), elems)?;
    let ((xp, _x), (yp, _y)) = (input(kernels, x, stream)?, output(kernels, y, stream)?);
    let args = [(elems as u64).into(), xp, scale.into(), offset.into(), yp];
    // SAFETY: both buffers hold `elems` values, and `y` is borrowed mutably.
    unsafe { kernels.launch((&RESCALE, "u8_f32"), blocks(elems, 4), 0, &args, stream) }
}

/// `y = value` everywhere.
///
/// # Errors
/// When the launch fails.
pub fn fill<T: Value>(kernels: &Kernels, value: f32, y: &mut impl DevicePtrMut<T>, stream: &CudaStream) -> Result<()> {
    let elems = y.len();
    let (yp, _y) = output(kernels, y, stream)?;
    let args = [(elems as u64).into(), value.into(), yp];
    // SAFETY: the buffer holds `elems` values and is borrowed mutably.
    unsafe { kernels.launch((&FILL, T::SUFFIX), blocks(elems, values::<T>()), 0, &args, stream) }
}

/// `y (= or += with accumulate) factor · x`, the factor on the device: a gradient times that of the loss.
///
/// # Errors
/// When the buffers differ in length, `factor` is not one value, or the launch fails.
pub fn scale_by(
    kernels: &Kernels,
    x: &impl DevicePtr<f32>,
    factor: &impl DevicePtr<f32>,
    accumulate: bool,
    y: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    let elems = x.len();
    check_len("scale_by", "y", y.len(), elems)?;
    check_len("scale_by", "factor", factor.len(), 1)?;
    let ((xp, _x), (factorp, _factor)) = (input(kernels, x, stream)?, input(kernels, factor, stream)?);
    let (yp, _y) = output(kernels, y, stream)?;
    let args = [(elems as u64).into(), xp, factorp, u32::from(accumulate).into(), yp];
    // SAFETY: both buffers hold `elems` values, `factor` one, and `y` is borrowed mutably.
    unsafe { kernels.launch((&SCALE_BY, "f32"), blocks(elems, 4), 0, &args, stream) }
}

/// `y = value` everywhere, the value on the device.
///
/// # Errors
/// When `value` is not one value, or the launch fails.
pub fn fill_from(
    kernels: &Kernels,
    value: &impl DevicePtr<f32>,
    y: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    let elems = y.len();
    check_len("fill_from", "value", value.len(), 1)?;
    let ((valuep, _value), (yp, _y)) = (input(kernels, value, stream)?, output(kernels, y, stream)?);
    // SAFETY: `y` holds `elems` values, `value` one, and `y` is borrowed mutably.
    unsafe { kernels.launch((&FILL_FROM, "f32"), blocks(elems, 4), 0, &[(elems as u64).into(), valuep, yp], stream) }
}

/// The sum of all elements, in f64 and in a fixed order, by one block.
///
/// # Errors
/// When `y` is not one value, or the launch fails.
pub fn sum(
    kernels: &Kernels,
    x: &impl DevicePtr<f32>,
    y: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    let elems = x.len();
    check_len("sum", "y", y.len(), 1)?;
    let ((xp, _x), (yp, _y)) = (input(kernels, x, stream)?, output(kernels, y, stream)?);
    // SAFETY: `x` holds `elems` values, `y` one, borrowed mutably.
    unsafe { kernels.launch((&SUM, "f32"), 1, 0, &[(elems as u64).into(), xp, yp], stream) }
}

/// Rounds floats to bf16, to nearest even; NaN stays NaN.
///
/// # Errors
/// When the buffers differ in length, or the launch fails.
pub fn f32_to_bf16(
    kernels: &Kernels,
    x: &impl DevicePtr<f32>,
    y: &mut impl DevicePtrMut<bf16>,
    stream: &CudaStream,
) -> Result<()> {
    let elems = x.len();
    check_len("f32_to_bf16", "y", y.len(), elems)?;
    let ((xp, _x), (yp, _y)) = (input(kernels, x, stream)?, output(kernels, y, stream)?);
    let args = [(elems as u64).into(), xp, yp];
    // SAFETY: both buffers hold `elems` values, and `y` is borrowed mutably.
    unsafe { kernels.launch((&CAST, "f32_bf16"), blocks(elems, 4), 0, &args, stream) }
}

/// Widens bf16 to floats, exactly.
///
/// # Errors
/// When the buffers differ in length, or the launch fails.
pub fn bf16_to_f32(
    kernels: &Kernels,
    x: &impl DevicePtr<bf16>,
    y: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    let elems = x.len();
    check_len("bf16_to_f32", "y", y.len(), elems)?;
    let ((xp, _x), (yp, _y)) = (input(kernels, x, stream)?, output(kernels, y, stream)?);
    let args = [(elems as u64).into(), xp, yp];
    // SAFETY: both buffers hold `elems` values, and `y` is borrowed mutably.
    unsafe { kernels.launch((&CAST, "bf16_f32"), blocks(elems, 4), 0, &args, stream) }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for u8 {}
}

/// What [`normalization`] reads: floats, or bytes as they lie in a data set.
///
/// No other type can be one: the kernel takes the size of an element from the suffix.
/// ```compile_fail
/// #[derive(Clone, Copy)]
/// struct Byte(u8);
/// impl warpsmith::cuda::elementwise::Pixel for Byte {
///     const SUFFIX: &'static str = "f32";
/// }
/// ```
pub trait Pixel: sealed::Sealed + Copy {
    /// What names the type in the kernel's symbol.
    const SUFFIX: &'static str;
}

impl Pixel for f32 {
    const SUFFIX: &'static str = "f32";
}

impl Pixel for u8 {
    const SUFFIX: &'static str = "u8_f32";
}

/// `y = (x - mean) / max(sqrt(var), 1e-7)` per channel: Keras' Normalization layer.
///
/// Shapes: `x, y [rows, c]`, `mean, var [c]`.
///
/// # Errors
/// When `mean` is empty, a buffer has the wrong length, or the launch fails.
pub fn normalization<T: Pixel>(
    kernels: &Kernels,
    x: &impl DevicePtr<T>,
    mean: &impl DevicePtr<f32>,
    var: &impl DevicePtr<f32>,
    y: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "normalization";
    let (elems, c) = (x.len(), mean.len());
    check_len(OP, "var", var.len(), c)?;
    check_len(OP, "y", y.len(), elems)?;
    let channels = u32::try_from(c).ok().filter(|&c| c > 0 && elems.is_multiple_of(c as usize));
    let Some(channels) = channels else {
        return Err(Error::shape(OP, format_args!("whole rows of {c} channels"), elems, "channels come last"));
    };
    let ((xp, _x), (meanp, _mean)) = (input(kernels, x, stream)?, input(kernels, mean, stream)?);
    let ((varp, _var), (yp, _y)) = (input(kernels, var, stream)?, output(kernels, y, stream)?);
    let args = [(elems as u64).into(), channels.into(), xp, meanp, varp, yp];
    // SAFETY: `x` and `y` hold `elems` values, the tables one per channel, and `y` is borrowed mutably.
    unsafe { kernels.launch((&NORMALIZATION, T::SUFFIX), blocks(elems, 4), 0, &args, stream) }
}
