//! Launcher of `kernels/dropout.cu`: the device twin of [`cpu::dropout`](crate::cpu::dropout), with the same mask.
//!
#![doc = include_str!("../../kernels/dropout.md")]

use super::launch::{Entry, F32, Kernels, PTR, U32, U64, Value, input, output};
use crate::error::check_len;
use crate::rng::Stream;
use crate::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

const BLOCK: u32 = 256;

static DROPOUT: Entry = Entry {
    file: "dropout",
    name: "dropout",
    suffixes: &["f32", "bf16"],
    block: BLOCK,
    params: &[U64, PTR, U32, U32, U64, F32, F32, PTR, PTR, PTR],
};

pub(super) static ENTRIES: [&Entry; 1] = [&DROPOUT];

/// `y = x / (1 - rate)` with probability `1 - rate`, else 0. Backward is this function with `dy` for `x`.
///
/// Shapes: `x, y [samples, elems]`, `indices [samples]`: each sample's index in its data set. Seed and op are those of
/// `stream`; the step is read from the device (`step [1]`), and the stream's own step and index are not used.
///
/// # Errors
/// When `rate` is outside `[0, 1)`, an extent is zero, a buffer has the wrong length, a sample has more than 2^32
/// elements, or the launch fails.
pub fn dropout<T: Value>(
    kernels: &Kernels,
    stream: Stream,
    step: &impl DevicePtr<u32>,
    rate: f32,
    indices: &impl DevicePtr<u32>,
    x: &impl DevicePtr<T>,
    y: &mut impl DevicePtrMut<T>,
    queue: &CudaStream,
) -> Result<()> {
    const OP: &str = "dropout";
    if !(0.0..1.0).contains(&rate) {
        return Err(Error::argument(OP, "a rate in [0, 1)", rate, "the rate is the share of values that become 0"));
    }
    let samples = indices.len();
    if samples == 0 || x.is_empty() || !x.len().is_multiple_of(samples) {
        let got = format!("{} values for {samples} indices", x.len());
        return Err(Error::shape(OP, "as many values for every sample", got, "pass an index per sample"));
    }
    check_len(OP, "y", y.len(), x.len())?;
    check_len(OP, "step", step.len(), 1)?;
    let elems = (x.len() / samples) as u64;
    // A thread has 16 bytes.
    let parts = elems.div_ceil(16 / size_of::<T>() as u64 * u64::from(BLOCK));
    if elems > 1 << 32 {
        return Err(Error::shape(OP, "at most 2^32 elements a sample", elems, "split the sample"));
    }
    let ((sp, _s), (ip, _i)) = (input(kernels, step, queue)?, input(kernels, indices, queue)?);
    let ((xp, _x), (yp, _y)) = (input(kernels, x, queue)?, output(kernels, y, queue)?);
    let scale = 1.0 / (1.0 - rate);
    let args = [
        stream.seed.into(),
        sp,
        stream.op.into(),
        (parts as u32).into(),
        elems.into(),
        rate.into(),
        scale.into(),
        ip,
        xp,
        yp,
    ];
    // SAFETY: `x` and `y` hold `samples · elems` values, `indices` one per sample; `y` is borrowed mutably.
    unsafe { kernels.launch((&DROPOUT, T::SUFFIX), samples as u64 * parts, 0, &args, queue) }
}
