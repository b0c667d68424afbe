//! Launchers of `kernels/pool2d.cu`: device twins of [`cpu::pool2d`](crate::cpu::pool2d), whose meaning of `argmax` and of
//! padding they share.
//!
#![doc = include_str!("../../kernels/pool2d.md")]

use super::launch::{Entry, F32, Kernels, PTR, U32, U64, Value, elems, input, optional_input, optional_output, output};
use crate::error::check_len;
use crate::problem::Pool2dProblem;
use crate::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, DeviceRepr};

const BLOCK: u32 = 256;
const FLOATS: &[&str] = &["f32", "bf16"];
const PROBLEM: usize = size_of::<Pool2dProblem>();

const fn entry(name: &'static str, params: &'static [usize]) -> Entry {
    Entry { file: "pool2d", name, suffixes: FLOATS, block: BLOCK, params }
}

static MAX: Entry = entry("max_pool2d", &[PROBLEM, U32, F32, PTR, PTR, PTR]);
static MAX_BACKWARD: Entry = entry("max_pool2d_backward", &[PROBLEM, U32, PTR, PTR, U32, PTR]);
static MAX_BACKWARD_SUBSAMPLE: Entry = entry("max_pool2d_backward_subsample", &[PROBLEM, U32, PTR, PTR]);
static GLOBAL_AVG: Entry = entry("global_avg_pool", &[U64, U64, U32, PTR, PTR]);
static GLOBAL_AVG_BACKWARD: Entry = entry("global_avg_pool_backward", &[U64, U64, U32, PTR, U32, PTR]);

pub(super) static ENTRIES: [&Entry; 5] =
    [&MAX, &MAX_BACKWARD, &MAX_BACKWARD_SUBSAMPLE, &GLOBAL_AVG, &GLOBAL_AVG_BACKWARD];

// SAFETY: 14 u32 in the order of `Pool2dProblem` in problem.cuh.
unsafe impl DeviceRepr for Pool2dProblem {}

/// Packs of channels that a thread handles one of.
fn packs<T>(c: u32) -> u64 {
    u64::from(c.div_ceil(if size_of::<T>() == 2 { 8 } else { 4 }))
}

/// Blocks that a row of so many pixels takes.
fn parts<T>(pixels: u32, c: u32) -> u64 {
    (u64::from(pixels) * packs::<T>(c)).div_ceil(u64::from(BLOCK))
}

/// Padded extents, channels and the packs of a row stay below this: kernels count them in 32 bits.
const EXTENT: u64 = 1 << 31;

fn check<T>(op: &'static str, p: &Pool2dProblem) -> Result<()> {
    p.check(op)?;
    let padded_h = u64::from(p.h) + u64::from(p.pad_top) + u64::from(p.pad_bottom);
    let padded_w = u64::from(p.w) + u64::from(p.pad_left) + u64::from(p.pad_right);
    let row = u64::from(p.w.max(p.q)) * packs::<T>(p.c);
    if [padded_h, padded_w, u64::from(p.c), row].iter().all(|&extent| extent < EXTENT) {
        return Ok(());
    }
    let expected = "padded extents, channels and packs of 16 bytes in a row below 2^31";
    Err(Error::shape(op, expected, format_args!("{p:?}"), "pad less, or split the rows"))
}

/// Max-pooling; `argmax` receives the winners' places for [`max_backward`].
///
/// Shapes: `x [n,h,w,c]`, `y` and `argmax [n,p,q,c]`.
///
/// # Errors
/// When a buffer has the wrong length, the problem contradicts itself, or the launch fails.
pub fn max<T: Value>(
    kernels: &Kernels,
    problem: &Pool2dProblem,
    padding_value: f32,
    x: &impl DevicePtr<T>,
    y: &mut impl DevicePtrMut<T>,
    argmax: Option<&mut impl DevicePtrMut<u8>>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "max_pool2d";
    check::<T>(OP, problem)?;
    check_len(OP, "x", x.len(), problem.x_elems())?;
    check_len(OP, "y", y.len(), problem.y_elems())?;
    if let Some(argmax) = &argmax {
        check_len(OP, "argmax", argmax.len(), problem.y_elems())?;
    }
    let parts = parts::<T>(problem.q, problem.c);
    let ((xp, _x), (yp, _y)) = (input(kernels, x, stream)?, output(kernels, y, stream)?);
    let (argmaxp, _argmax) = optional_output(kernels, argmax, stream)?;
    let rows = u64::from(problem.n) * u64::from(problem.p);
    let args = [(*problem).into(), (parts as u32).into(), padding_value.into(), xp, yp, argmaxp];
    // SAFETY: the buffers have the lengths of the problem, which was checked; the written ones are borrowed mutably.
    unsafe { kernels.launch((&MAX, T::SUFFIX), rows * parts, 0, &args, stream) }
}

/// Gradient of [`max`]: every `dy` goes to the element that won its window.
///
/// Shapes: `dy, argmax [n,p,q,c]`, `dx [n,h,w,c]`, `=` or `+=`. `argmax` may be left out for 1x1 windows without padding.
///
/// # Errors
/// When a buffer has the wrong length, `argmax` is missing where it is needed, or the launch fails.
pub fn max_backward<T: Value>(
    kernels: &Kernels,
    problem: &Pool2dProblem,
    dy: &impl DevicePtr<T>,
    argmax: Option<&impl DevicePtr<u8>>,
    accumulate: bool,
    dx: &mut impl DevicePtrMut<T>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "max_pool2d backward";
    check::<T>(OP, problem)?;
    check_len(OP, "dy", dy.len(), problem.y_elems())?;
    check_len(OP, "dx", dx.len(), problem.x_elems())?;
    match argmax {
        Some(argmax) => check_len(OP, "argmax", argmax.len(), problem.y_elems())?,
        None if problem.is_subsample() => {}
        None => {
            let hint = "only 1x1 windows without padding do without";
            return Err(Error::argument(OP, "the argmax of the forward pass", "none", hint));
        }
    }
    let ((dyp, _dy), (dxp, _dx)) = (input(kernels, dy, stream)?, output(kernels, dx, stream)?);
    if argmax.is_none() && accumulate {
        let parts = parts::<T>(problem.q, problem.c);
        let rows = u64::from(problem.n) * u64::from(problem.p);
        let args = [(*problem).into(), (parts as u32).into(), dyp, dxp];
        // SAFETY: the buffers have the lengths of the problem, which was checked; without padding every window lies in
        // the image. `dx` is borrowed mutably.
        return unsafe { kernels.launch((&MAX_BACKWARD_SUBSAMPLE, T::SUFFIX), rows * parts, 0, &args, stream) };
    }
    let parts = parts::<T>(problem.w, problem.c);
    let (argmaxp, _argmax) = optional_input(kernels, argmax, stream)?;
    let rows = u64::from(problem.n) * u64::from(problem.h);
    let args = [(*problem).into(), (parts as u32).into(), dyp, argmaxp, u32::from(accumulate).into(), dxp];
    // SAFETY: the buffers have the lengths of the problem, which was checked; `dx` is borrowed mutably.
    unsafe { kernels.launch((&MAX_BACKWARD, T::SUFFIX), rows * parts, 0, &args, stream) }
}

/// Extents that are not zero, with buffers of their size; channels in 32 bits.
fn check_avg(op: &'static str, [n, pixels, c]: [usize; 3], images: usize, means: usize) -> Result<u32> {
    let channels = u32::try_from(c).ok().filter(|&c| c > 0 && c < 1 << 31 && n > 0 && pixels > 0);
    let Some(channels) = channels else {
        let got = format!("[{n}, {pixels}, {c}]");
        return Err(Error::shape(op, "positive extents [n, pixels, c], c < 2^31", got, "check the extents"));
    };
    check_len(op, "images", images, elems(op, &[n, pixels, c])?)?;
    check_len(op, "means", means, elems(op, &[n, c])?)?;
    Ok(channels)
}

/// `y[n,c] = mean over pixels of x[n,pixels,c]`.
///
/// # Errors
/// When an extent is zero, a buffer has the wrong length, or the launch fails.
pub fn global_avg<T: Value>(
    kernels: &Kernels,
    [n, pixels, c]: [usize; 3],
    x: &impl DevicePtr<T>,
    y: &mut impl DevicePtrMut<T>,
    stream: &CudaStream,
) -> Result<()> {
    let channels = check_avg("global_avg_pool", [n, pixels, c], x.len(), y.len())?;
    let ((xp, _x), (yp, _y)) = (input(kernels, x, stream)?, output(kernels, y, stream)?);
    let blocks = (n as u64 * packs::<T>(channels)).div_ceil(u64::from(BLOCK));
    let args = [(n as u64).into(), (pixels as u64).into(), channels.into(), xp, yp];
    // SAFETY: the buffers have the lengths of the extents (checked), and `y` is borrowed mutably.
    unsafe { kernels.launch((&GLOBAL_AVG, T::SUFFIX), blocks, 0, &args, stream) }
}

/// Gradient of [`global_avg`]: `dx[n,pixel,c] (= or += with accumulate) dy[n,c] / pixels`.
///
/// # Errors
/// When an extent is zero, a buffer has the wrong length, or the launch fails.
pub fn global_avg_backward<T: Value>(
    kernels: &Kernels,
    [n, pixels, c]: [usize; 3],
    dy: &impl DevicePtr<T>,
    accumulate: bool,
    dx: &mut impl DevicePtrMut<T>,
    stream: &CudaStream,
) -> Result<()> {
    let channels = check_avg("global_avg_pool backward", [n, pixels, c], dx.len(), dy.len())?;
    let ((dyp, _dy), (dxp, _dx)) = (input(kernels, dy, stream)?, output(kernels, dx, stream)?);
    let blocks = ((n * pixels) as u64 * packs::<T>(channels)).div_ceil(u64::from(BLOCK));
    let args = [(n as u64).into(), (pixels as u64).into(), channels.into(), dyp, u32::from(accumulate).into(), dxp];
    // SAFETY: the buffers have the lengths of the extents (checked), and `dx` is borrowed mutably.
    unsafe { kernels.launch((&GLOBAL_AVG_BACKWARD, T::SUFFIX), blocks, 0, &args, stream) }
}
