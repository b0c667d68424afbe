//! Launchers of `kernels/swa.cu`: one launch for all parameters.
//!
//! How they walk over them is told in the chapter of [`adam`](super::adam).

use super::launch::{Entry, Kernels, PTR, input, optional_output, output};
use super::spans::{SPAN_BLOCK, SpanTable};
use crate::Result;
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, DeviceRepr};
use half::bf16;

static UPDATE: Entry =
    Entry { file: "swa", name: "swa_update", suffixes: &["f32"], block: SPAN_BLOCK, params: &[PTR; 4] };
static ASSIGN: Entry =
    Entry { file: "swa", name: "swa_assign", suffixes: &["f32"], block: SPAN_BLOCK, params: &[PTR; 4] };

pub(super) static ENTRIES: [&Entry; 2] = [&UPDATE, &ASSIGN];

/// What changes from snapshot to snapshot; it lies in device memory.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SwaStep {
    /// Snapshots that the average holds already.
    pub n: f32,
}

// SAFETY: one float, as `SwaStep` of swa.cu.
unsafe impl DeviceRepr for SwaStep {}
// SAFETY: floats alone: any bits are a value, zeros too.
unsafe impl bytemuck::Zeroable for SwaStep {}
// SAFETY: as above, and there is no padding.
unsafe impl bytemuck::Pod for SwaStep {}

/// Takes a snapshot: `average = (average · n + w) / (n + 1)`.
///
/// `params` has the parameter arena's layout, `average` the gradient arena's. `step` holds at least one value.
///
/// # Errors
/// When a buffer is shorter than the spans reach, or the launch fails.
pub fn update(
    kernels: &Kernels,
    spans: &SpanTable,
    step: &impl DevicePtr<SwaStep>,
    params: &impl DevicePtr<f32>,
    average: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "swa";
    spans.check(OP, &[("params", params.len())], &[("average", average.len())])?;
    if step.is_empty() {
        crate::error::check_len(OP, "step", 0, 1)?;
    }
    let ((spansp, _spans), (stepp, _step)) = (input(kernels, &spans.pieces, stream)?, input(kernels, step, stream)?);
    let ((wp, _w), (ap, _a)) = (input(kernels, params, stream)?, output(kernels, average, stream)?);
    // SAFETY: the pieces do not overlap and lie inside both arenas (checked); `average` is borrowed mutably.
    unsafe { kernels.launch((&UPDATE, "f32"), spans.blocks, 0, &[spansp, stepp, wp, ap], stream) }
}

/// Copies the averages into the parameters and their bf16 twin. Batch-norm statistics must be recomputed afterwards.
///
/// # Errors
/// When a buffer is shorter than the spans reach, or the launch fails.
pub fn assign(
    kernels: &Kernels,
    spans: &SpanTable,
    average: &impl DevicePtr<f32>,
    params: &mut impl DevicePtrMut<f32>,
    copy: Option<&mut impl DevicePtrMut<bf16>>,
    stream: &CudaStream,
) -> Result<()> {
    let copied = copy.as_ref().map_or(usize::MAX, |copy| copy.len());
    spans.check("swa", &[("params", params.len()), ("copy", copied)], &[("average", average.len())])?;
    let ((spansp, _spans), (ap, _a)) = (input(kernels, &spans.pieces, stream)?, input(kernels, average, stream)?);
    let ((wp, _w), (copyp, _copy)) = (output(kernels, params, stream)?, optional_output(kernels, copy, stream)?);
    // SAFETY: the pieces do not overlap and lie inside every buffer (checked), the written ones are borrowed mutably.
    unsafe { kernels.launch((&ASSIGN, "f32"), spans.blocks, 0, &[spansp, ap, wp, copyp], stream) }
}
