//! Launcher of `kernels/adam.cu`: one launch for all parameters.
//!
#![doc = include_str!("../../kernels/optimisers.md")]

use super::launch::{Entry, Kernels, PTR, input, optional_output, output};
use super::spans::{SPAN_BLOCK, SpanTable};
use crate::Result;
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, DeviceRepr};
use half::bf16;

static ADAM: Entry = Entry { file: "adam", name: "adam", suffixes: &["f32"], block: SPAN_BLOCK, params: &[PTR; 7] };

pub(super) static ENTRIES: [&Entry; 1] = [&ADAM];

/// What changes from step to step; it lies in device memory.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamStep {
    /// `α √(1 - β₂ᵗ) / (1 - β₁ᵗ)`.
    pub rate: f32,
    /// `1 - β₁`.
    pub share_1: f32,
    /// `1 - β₂`.
    pub share_2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
}

// SAFETY: four floats in declaration order, as `AdamStep` of adam.cu.
unsafe impl DeviceRepr for AdamStep {}
// SAFETY: floats alone: any bits are a value, zeros too.
unsafe impl bytemuck::Zeroable for AdamStep {}
// SAFETY: as above, and there is no padding.
unsafe impl bytemuck::Pod for AdamStep {}

impl AdamStep {
    /// The values of step `t`, counted from 1; the arithmetic is f64, in which `1 - 0.999` is exact enough.
    pub fn new(learning_rate: f32, beta_1: f64, beta_2: f64, eps: f32, t: u64) -> AdamStep {
        let t = t as f64;
        AdamStep {
            rate: (f64::from(learning_rate) * (1.0 - beta_2.powf(t)).sqrt() / (1.0 - beta_1.powf(t))) as f32,
            share_1: (1.0 - beta_1) as f32,
            share_2: (1.0 - beta_2) as f32,
            eps,
        }
    }
}

/// One step of Adam on every span: `m += (g - m) share_1`, `v += (g² - v) share_2`, `w -= rate · m / (√v + eps)`.
///
/// `params` and `copy`, its bf16 twin where there is one, have the parameter arena's layout; `grads`, `m` and `v` the
/// gradient arena's. `step` holds at least one value.
///
/// # Errors
/// When a buffer is shorter than the spans reach, or the launch fails.
pub fn step(
    kernels: &Kernels,
    spans: &SpanTable,
    step: &impl DevicePtr<AdamStep>,
    params: &mut impl DevicePtrMut<f32>,
    grads: &impl DevicePtr<f32>,
    (m, v): (&mut impl DevicePtrMut<f32>, &mut impl DevicePtrMut<f32>),
    copy: Option<&mut impl DevicePtrMut<bf16>>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "adam";
    let copied = copy.as_ref().map_or(usize::MAX, |copy| copy.len());
    let of_params = [("params", params.len()), ("copy", copied)];
    spans.check(OP, &of_params, &[("grads", grads.len()), ("m", m.len()), ("v", v.len())])?;
    if step.is_empty() {
        crate::error::check_len(OP, "step", 0, 1)?;
    }
    let ((spansp, _spans), (stepp, _step)) = (input(kernels, &spans.pieces, stream)?, input(kernels, step, stream)?);
    let ((wp, _w), (gp, _g)) = (output(kernels, params, stream)?, input(kernels, grads, stream)?);
    let ((mp, _m), (vp, _v)) = (output(kernels, m, stream)?, output(kernels, v, stream)?);
    let (copyp, _copy) = optional_output(kernels, copy, stream)?;
    let args = [spansp, stepp, wp, gp, mp, vp, copyp];
    // SAFETY: the pieces do not overlap and lie inside every buffer (checked), all written ones are borrowed mutably.
    unsafe { kernels.launch((&ADAM, "f32"), spans.blocks, 0, &args, stream) }
}
