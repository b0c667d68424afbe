//! Launchers of `kernels/softmax_kl.cu`: device twins of [`cpu::softmax_kl`](crate::cpu::softmax_kl).
//!
//! Losses per row go to a buffer of f64, which [`cross_entropy::mean`](super::cross_entropy::mean) averages.
//!
//! How the kernels work is told in the chapter of [`cross_entropy`](super::cross_entropy).

use super::cross_entropy::{LOSS_BLOCK, blocks, check_rows};
use super::launch::{Entry, F32, Kernels, PTR, U32, U64, input, optional_output, output};
use crate::Result;
use crate::error::{check_len, check_temperature};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};

const fn entry(name: &'static str, params: &'static [usize]) -> Entry {
    Entry { file: "softmax_kl", name, suffixes: &["f32"], block: LOSS_BLOCK, params }
}

static SOFTMAX: Entry = entry("softmax", &[U64, U32, PTR, F32, PTR]);
static SOFTMAX_BACKWARD: Entry = entry("softmax_backward", &[U64, U32, PTR, PTR, F32, PTR]);
static KL_DIV: Entry = entry("kl_div", &[U64, U32, PTR, PTR, PTR]);
static KL_DIV_BACKWARD: Entry = entry("kl_div_backward", &[U64, U32, PTR, PTR, PTR, PTR]);
static DISTILL: Entry = entry("softmax_kl", &[U64, U32, PTR, PTR, F32, PTR, PTR, PTR]);

pub(super) static ENTRIES: [&Entry; 5] = [&SOFTMAX, &SOFTMAX_BACKWARD, &KL_DIV, &KL_DIV_BACKWARD, &DISTILL];

/// `probs = softmax(logits / temperature)` per row.
///
/// Shapes: `logits, probs [rows, classes]`.
///
/// # Errors
/// When an extent is zero, a buffer has the wrong length, the temperature is not positive, or the launch fails.
pub fn softmax(
    kernels: &Kernels,
    (rows, classes): (usize, usize),
    logits: &impl DevicePtr<f32>,
    temperature: f32,
    probs: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "softmax";
    let (count, elems) = check_rows(OP, rows, classes, logits.len())?;
    check_len(OP, "probs", probs.len(), elems)?;
    check_temperature(OP, temperature)?;
    let ((zp, _z), (out, _out)) = (input(kernels, logits, stream)?, output(kernels, probs, stream)?);
    let args = [(rows as u64).into(), count.into(), zp, temperature.into(), out];
    // SAFETY: the buffers have the lengths of the extents (checked); `probs` is borrowed mutably.
    unsafe { kernels.launch((&SOFTMAX, "f32"), blocks(rows), 0, &args, stream) }
}

/// Gradient of [`softmax`]: `dlogits = probs · (dprobs - Σ dprobs · probs) / temperature`.
///
/// Shapes: all `[rows, classes]`.
///
/// # Errors
/// As [`softmax`].
pub fn softmax_backward(
    kernels: &Kernels,
    (rows, classes): (usize, usize),
    (probs, dprobs): (&impl DevicePtr<f32>, &impl DevicePtr<f32>),
    temperature: f32,
    dlogits: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "softmax backward";
    let (count, elems) = check_rows(OP, rows, classes, probs.len())?;
    check_len(OP, "dprobs", dprobs.len(), elems)?;
    check_len(OP, "dlogits", dlogits.len(), elems)?;
    check_temperature(OP, temperature)?;
    let ((yp, _y), (dyp, _dy)) = (input(kernels, probs, stream)?, input(kernels, dprobs, stream)?);
    let (out, _out) = output(kernels, dlogits, stream)?;
    let args = [(rows as u64).into(), count.into(), yp, dyp, temperature.into(), out];
    // SAFETY: the buffers have the lengths of the extents (checked); `dlogits` is borrowed mutably.
    unsafe { kernels.launch((&SOFTMAX_BACKWARD, "f32"), blocks(rows), 0, &args, stream) }
}

/// `losses[row] = Σ p · log(p / q)`, both clipped to `[1e-7, 1]` as Keras does.
///
/// Shapes: `p, q [rows, classes]`, `losses [rows]`.
///
/// # Errors
/// When an extent is zero, a buffer has the wrong length, or the launch fails.
pub fn kl_div(
    kernels: &Kernels,
    (rows, classes): (usize, usize),
    (p, q): (&impl DevicePtr<f32>, &impl DevicePtr<f32>),
    losses: &mut impl DevicePtrMut<f64>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "kl_div";
    let (count, elems) = check_rows(OP, rows, classes, p.len())?;
    check_len(OP, "q", q.len(), elems)?;
    check_len(OP, "losses", losses.len(), rows)?;
    let ((pp, _p), (qp, _q)) = (input(kernels, p, stream)?, input(kernels, q, stream)?);
    let (out, _out) = output(kernels, losses, stream)?;
    // SAFETY: the buffers have the lengths of the extents (checked); `losses` is borrowed mutably.
    unsafe {
        kernels.launch((&KL_DIV, "f32"), blocks(rows), 0, &[(rows as u64).into(), count.into(), pp, qp, out], stream)
    }
}

/// Gradient of the mean of [`kl_div`] to `q`: `dq = -dloss · p / (q · rows)`, 0 where the clip acts on `q`.
///
/// Shapes: `p, q, dq [rows, classes]`, `dloss [1]`.
///
/// # Errors
/// As [`kl_div`].
pub fn kl_div_backward(
    kernels: &Kernels,
    (rows, classes): (usize, usize),
    (p, q): (&impl DevicePtr<f32>, &impl DevicePtr<f32>),
    dloss: &impl DevicePtr<f32>,
    dq: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "kl_div backward";
    let (count, elems) = check_rows(OP, rows, classes, p.len())?;
    check_len(OP, "q", q.len(), elems)?;
    check_len(OP, "dloss", dloss.len(), 1)?;
    check_len(OP, "dq", dq.len(), elems)?;
    let ((pp, _p), (qp, _q)) = (input(kernels, p, stream)?, input(kernels, q, stream)?);
    let ((dlp, _d), (out, _out)) = (input(kernels, dloss, stream)?, output(kernels, dq, stream)?);
    let args = [(rows as u64).into(), count.into(), pp, qp, dlp, out];
    // SAFETY: the buffers have the lengths of the extents (checked); `dq` is borrowed mutably.
    unsafe { kernels.launch((&KL_DIV_BACKWARD, "f32"), blocks(rows), 0, &args, stream) }
}

/// Distillation in one pass: `losses[row] = KL(softmax(teacher / T) ‖ softmax(student / T))`, and with
/// `gradient = Some((dloss, dstudent))` the gradient of their mean to the student's logits times `dloss`.
///
/// Shapes: `teacher, student, dstudent [rows, classes]`, `losses [rows]`, `dloss [1]`.
///
/// # Errors
/// When an extent is zero, a buffer has the wrong length, the temperature is not positive, or the launch fails.
pub fn distill<G: DevicePtrMut<f32>>(
    kernels: &Kernels,
    (rows, classes): (usize, usize),
    (teacher, student): (&impl DevicePtr<f32>, &impl DevicePtr<f32>),
    temperature: f32,
    losses: &mut impl DevicePtrMut<f64>,
    gradient: Option<(&impl DevicePtr<f32>, &mut G)>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "softmax_kl";
    let (count, elems) = check_rows(OP, rows, classes, teacher.len())?;
    check_len(OP, "student_logits", student.len(), elems)?;
    check_len(OP, "losses", losses.len(), rows)?;
    check_temperature(OP, temperature)?;
    let (dloss, dstudent) = gradient.unzip();
    if let (Some(dloss), Some(dstudent)) = (&dloss, &dstudent) {
        check_len(OP, "dloss", dloss.len(), 1)?;
        check_len(OP, "dstudent", dstudent.len(), elems)?;
    }
    let ((tp, _t), (sp, _s)) = (input(kernels, teacher, stream)?, input(kernels, student, stream)?);
    let (out, _out) = output(kernels, losses, stream)?;
    let (dlp, _dl) = super::launch::optional_input(kernels, dloss, stream)?;
    let (dsp, _ds) = optional_output(kernels, dstudent, stream)?;
    let args = [(rows as u64).into(), count.into(), tp, sp, temperature.into(), dlp, out, dsp];
    // SAFETY: the buffers have the lengths of the extents (checked); the written ones are borrowed mutably.
    unsafe { kernels.launch((&DISTILL, "f32"), blocks(rows), 0, &args, stream) }
}
