//! Launcher of `kernels/sgd.cu`: one launch for all parameters.
//!
//! How it walks over them is told in the chapter of [`adam`](super::adam).

use super::launch::{Entry, Kernels, PTR, input, optional_output, output};
use super::spans::{SPAN_BLOCK, SpanTable};
use crate::Result;
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, DeviceRepr};
use half::bf16;

static SGD: Entry = Entry { file: "sgd", name: "sgd", suffixes: &["f32"], block: SPAN_BLOCK, params: &[PTR; 6] };

pub(super) static ENTRIES: [&Entry; 1] = [&SGD];

/// What may change from step to step; it lies in device memory.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdStep {
    /// Learning rate.
    pub rate: f32,
    /// Weight of the old velocity.
    pub momentum: f32,
    /// Added to the gradient as `weight_decay · w`.
    pub weight_decay: f32,
}

// SAFETY: three floats in declaration order, as `SgdStep` of sgd.cu.
unsafe impl DeviceRepr for SgdStep {}
// SAFETY: floats alone: any bits are a value, zeros too.
unsafe impl bytemuck::Zeroable for SgdStep {}
// SAFETY: as above, and there is no padding.
unsafe impl bytemuck::Pod for SgdStep {}

/// One step on every span: `velocity = momentum · velocity - rate (g + weight_decay · w)`, `w += velocity`; without a
/// velocity `w -= rate (g + weight_decay · w)`, whatever the momentum.
///
/// `params` and `copy`, its bf16 twin where there is one, have the parameter arena's layout; `grads` and `velocity` the
/// gradient arena's. `step` holds at least one value.
///
/// # Errors
/// When a buffer is shorter than the spans reach, or the launch fails.
pub fn step(
    kernels: &Kernels,
    spans: &SpanTable,
    step: &impl DevicePtr<SgdStep>,
    params: &mut impl DevicePtrMut<f32>,
    grads: &impl DevicePtr<f32>,
    velocity: Option<&mut impl DevicePtrMut<f32>>,
    copy: Option<&mut impl DevicePtrMut<bf16>>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "sgd";
    let copied = copy.as_ref().map_or(usize::MAX, |copy| copy.len());
    let velocities = velocity.as_ref().map_or(usize::MAX, |velocity| velocity.len());
    let of_params = [("params", params.len()), ("copy", copied)];
    spans.check(OP, &of_params, &[("grads", grads.len()), ("velocity", velocities)])?;
    if step.is_empty() {
        crate::error::check_len(OP, "step", 0, 1)?;
    }
    let ((spansp, _spans), (stepp, _step)) = (input(kernels, &spans.pieces, stream)?, input(kernels, step, stream)?);
    let ((wp, _w), (gp, _g)) = (output(kernels, params, stream)?, input(kernels, grads, stream)?);
    let ((up, _u), (copyp, _copy)) =
        (optional_output(kernels, velocity, stream)?, optional_output(kernels, copy, stream)?);
    let args = [spansp, stepp, wp, gp, up, copyp];
    // SAFETY: the pieces do not overlap and lie inside every buffer (checked), all written ones are borrowed mutably.
    unsafe { kernels.launch((&SGD, "f32"), spans.blocks, 0, &args, stream) }
}
