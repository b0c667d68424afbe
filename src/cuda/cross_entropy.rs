//! Launchers of `kernels/cross_entropy.cu`: device twins of [`cpu::cross_entropy`](crate::cpu::cross_entropy).
//!
//! Losses stay on the device: a scalar loss and its gradient are buffers of one element, so nothing waits for the host.
//! Labels lie there too and cannot be refused: a label that is no class makes the loss NaN and adds no target to the
//! gradient.
//!
#![doc = include_str!("../../kernels/losses.md")]

use super::launch::{Entry, Kernels, PTR, U32, U64, elems, input, optional_output, output};
use crate::error::check_len;
use crate::problem::Clip;
use crate::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

/// Threads of a block, `LOSS_BLOCK` of loss_rows.cuh: a warp per row.
pub(super) const LOSS_BLOCK: u32 = 256;

const fn entry(name: &'static str, suffixes: &'static [&'static str], params: &'static [usize]) -> Entry {
    Entry { file: "cross_entropy", name, suffixes, block: LOSS_BLOCK, params }
}

const F64: usize = 8;

static FORWARD: Entry = entry("cross_entropy", &["f32"], &[U64, U32, PTR, PTR, PTR]);
static BACKWARD: Entry = entry("cross_entropy_backward", &["f32"], &[U64, U32, PTR, PTR, PTR, U32, PTR]);
static PROBS: Entry = entry("cross_entropy_probs", &["f32"], &[U64, U32, PTR, PTR, F64, F64, PTR]);
static PROBS_BACKWARD: Entry =
    entry("cross_entropy_probs_backward", &["f32"], &[U64, U32, PTR, PTR, F64, F64, PTR, PTR]);
static CORRECT: Entry = entry("cross_entropy_correct", &["f32"], &[U64, U32, PTR, PTR, PTR]);
static LOSS_MEAN: Entry = entry("loss_mean", &["f64"], &[U64, PTR, PTR, PTR]);

pub(super) static ENTRIES: [&Entry; 6] = [&FORWARD, &BACKWARD, &PROBS, &PROBS_BACKWARD, &CORRECT, &LOSS_MEAN];

/// Classes in 32 bits, of a matrix that is not empty; its elements, of which `logits` has `len`.
pub(super) fn check_rows(op: &'static str, rows: usize, classes: usize, len: usize) -> Result<(u32, usize)> {
    let count = u32::try_from(classes).ok().filter(|&classes| classes > 0 && rows > 0);
    let Some(count) = count else {
        let got = format!("[{rows}, {classes}]");
        return Err(Error::shape(op, "positive extents [rows, classes]", got, "check the extents"));
    };
    let elems = elems(op, &[rows, classes])?;
    check_len(op, "logits", len, elems)?;
    Ok((count, elems))
}

pub(super) fn blocks(rows: usize) -> u64 {
    (rows as u64).div_ceil(u64::from(LOSS_BLOCK / 32))
}

/// `losses[row] = log Σ exp(z) - z[label]`; [`mean`] ends it.
///
/// Shapes: `logits [rows, classes]`, `labels, losses [rows]`.
///
/// # Errors
/// When an extent is zero, a buffer has the wrong length, or the launch fails.
pub fn forward(
    kernels: &Kernels,
    (rows, classes): (usize, usize),
    (logits, labels): (&impl DevicePtr<f32>, &impl DevicePtr<i32>),
    losses: &mut impl DevicePtrMut<f64>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "cross_entropy";
    let (count, _) = check_rows(OP, rows, classes, logits.len())?;
    check_len(OP, "labels", labels.len(), rows)?;
    check_len(OP, "losses", losses.len(), rows)?;
    let ((zp, _z), (lp, _l)) = (input(kernels, logits, stream)?, input(kernels, labels, stream)?);
    let (out, _out) = output(kernels, losses, stream)?;
    let args = [(rows as u64).into(), count.into(), zp, lp, out];
    // SAFETY: the buffers have the lengths of the extents (checked); `losses` is borrowed mutably.
    unsafe { kernels.launch((&FORWARD, "f32"), blocks(rows), 0, &args, stream) }
}

/// `loss = mean of losses`, a copy of them in `per_sample` if it is given: what ends every loss over rows.
///
/// Shapes: `losses, per_sample [rows]`, `loss [1]`.
///
/// # Errors
/// When there is no row, a buffer has the wrong length, or the launch fails.
pub fn mean(
    kernels: &Kernels,
    losses: &impl DevicePtr<f64>,
    per_sample: Option<&mut impl DevicePtrMut<f32>>,
    loss: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "loss_mean";
    let rows = losses.len();
    if rows == 0 {
        return Err(Error::shape(OP, "at least one row", 0, "pass the losses of a batch"));
    }
    check_len(OP, "loss", loss.len(), 1)?;
    if let Some(per_sample) = &per_sample {
        check_len(OP, "per_sample", per_sample.len(), rows)?;
    }
    let ((from, _from), (to, _to)) = (input(kernels, losses, stream)?, output(kernels, loss, stream)?);
    let (copy, _copy) = optional_output(kernels, per_sample, stream)?;
    // SAFETY: `losses` and `per_sample` hold `rows` values, `loss` one; the written ones are borrowed mutably.
    unsafe { kernels.launch((&LOSS_MEAN, "f64"), 1, 0, &[(rows as u64).into(), from, copy, to], stream) }
}

/// Gradient of the mean of [`forward`]: `dlogits (= or += with accumulate) dloss · (softmax(z) - onehot(label)) / rows`.
///
/// Shapes: `logits, dlogits [rows, classes]`, `labels [rows]`, `dloss [1]`.
///
/// # Errors
/// When an extent is zero, a buffer has the wrong length, or the launch fails.
pub fn backward(
    kernels: &Kernels,
    (rows, classes): (usize, usize),
    (logits, labels): (&impl DevicePtr<f32>, &impl DevicePtr<i32>),
    dloss: &impl DevicePtr<f32>,
    accumulate: bool,
    dlogits: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "cross_entropy backward";
    let (count, elems) = check_rows(OP, rows, classes, logits.len())?;
    check_len(OP, "labels", labels.len(), rows)?;
    check_len(OP, "dloss", dloss.len(), 1)?;
    check_len(OP, "dlogits", dlogits.len(), elems)?;
    let ((zp, _z), (lp, _l)) = (input(kernels, logits, stream)?, input(kernels, labels, stream)?);
    let ((dp, _d), (out, _out)) = (input(kernels, dloss, stream)?, output(kernels, dlogits, stream)?);
    let args = [(rows as u64).into(), count.into(), zp, lp, dp, u32::from(accumulate).into(), out];
    // SAFETY: the buffers have the lengths of the extents (checked); `dlogits` is borrowed mutably.
    unsafe { kernels.launch((&BACKWARD, "f32"), blocks(rows), 0, &args, stream) }
}

/// Cross-entropy of probabilities as Keras computes it on plain arrays: `losses[row] = log Σ p - log p[label]` with `p`
/// clipped; [`mean`] ends it.
///
/// Shapes: `p [rows, classes]`, `labels, losses [rows]`.
///
/// # Errors
/// When an extent is zero, a buffer has the wrong length, or the launch fails.
pub fn probs_forward(
    kernels: &Kernels,
    (rows, classes): (usize, usize),
    (p, labels): (&impl DevicePtr<f32>, &impl DevicePtr<i32>),
    clip: Clip,
    losses: &mut impl DevicePtrMut<f64>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "cross_entropy_probs";
    let (count, _) = check_rows(OP, rows, classes, p.len())?;
    check_len(OP, "labels", labels.len(), rows)?;
    check_len(OP, "losses", losses.len(), rows)?;
    let ((pp, _p), (lp, _l)) = (input(kernels, p, stream)?, input(kernels, labels, stream)?);
    let (out, _out) = output(kernels, losses, stream)?;
    let args = [(rows as u64).into(), count.into(), pp, lp, clip.min.into(), clip.max.into(), out];
    // SAFETY: the buffers have the lengths of the extents (checked); `losses` is borrowed mutably.
    unsafe { kernels.launch((&PROBS, "f32"), blocks(rows), 0, &args, stream) }
}

/// Gradient of the mean of [`probs_forward`]: `dp = dloss / rows · (1 / Σ p - onehot(label) / p)`, 0 where the clip acts.
///
/// Shapes: `p, dp [rows, classes]`, `labels [rows]`, `dloss [1]`.
///
/// # Errors
/// When an extent is zero, a buffer has the wrong length, or the launch fails.
pub fn probs_backward(
    kernels: &Kernels,
    (rows, classes): (usize, usize),
    (p, labels): (&impl DevicePtr<f32>, &impl DevicePtr<i32>),
    clip: Clip,
    dloss: &impl DevicePtr<f32>,
    dp: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "cross_entropy_probs backward";
    let (count, elems) = check_rows(OP, rows, classes, p.len())?;
    check_len(OP, "labels", labels.len(), rows)?;
    check_len(OP, "dloss", dloss.len(), 1)?;
    check_len(OP, "dp", dp.len(), elems)?;
    let ((pp, _p), (lp, _l)) = (input(kernels, p, stream)?, input(kernels, labels, stream)?);
    let ((dlp, _d), (out, _out)) = (input(kernels, dloss, stream)?, output(kernels, dp, stream)?);
    let args = [(rows as u64).into(), count.into(), pp, lp, clip.min.into(), clip.max.into(), dlp, out];
    // SAFETY: the buffers have the lengths of the extents (checked); `dp` is borrowed mutably.
    unsafe { kernels.launch((&PROBS_BACKWARD, "f32"), blocks(rows), 0, &args, stream) }
}

/// Adds to `count` the rows whose largest logit is at the label; of equal logits the first counts.
///
/// Shapes: `logits [rows, classes]`, `labels [rows]`, `count [1]`.
///
/// # Errors
/// When an extent is zero, a buffer has the wrong length, or the launch fails.
pub fn correct(
    kernels: &Kernels,
    (rows, classes): (usize, usize),
    (logits, labels): (&impl DevicePtr<f32>, &impl DevicePtr<i32>),
    count: &mut impl DevicePtrMut<u32>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "accuracy";
    let (classes, _) = check_rows(OP, rows, classes, logits.len())?;
    check_len(OP, "labels", labels.len(), rows)?;
    check_len(OP, "count", count.len(), 1)?;
    let ((zp, _z), (lp, _l)) = (input(kernels, logits, stream)?, input(kernels, labels, stream)?);
    let (out, _out) = output(kernels, count, stream)?;
    // SAFETY: the buffers have the lengths of the extents (checked); `count` is borrowed mutably.
    unsafe {
        kernels.launch((&CORRECT, "f32"), blocks(rows), 0, &[(rows as u64).into(), classes.into(), zp, lp, out], stream)
    }
}
