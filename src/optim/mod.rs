//! Optimisers and weight averaging over a model's arenas: one pass over the span table each.
#![cfg_attr(not(feature = "cpu"), allow(unused_variables))]

mod adam;
mod sgd;
mod swa;

pub use adam::{Adam, AdamConfig};
pub use sgd::{Sgd, SgdConfig};
pub use swa::{Swa, recompute_batch_norm};

#[cfg(feature = "cuda")]
use crate::cuda::SpanTable;
#[cfg(feature = "cuda")]
use crate::device::Scratch;
use crate::nn::Params;
use crate::problem::Span;
use crate::tensor::Tensor;
use crate::{DType, Device, Error, Result};

/// The trainable set that an optimiser was built for.
#[derive(Debug, Clone)]
struct Trainable {
    device: Device,
    spans: Vec<Span>,
    generation: u64,
    layout: u64,
}

impl Trainable {
    fn of(params: &Params) -> Trainable {
        Trainable {
            device: params.device().clone(),
            spans: params.spans(),
            generation: params.generation(),
            layout: params.layout(),
        }
    }

    /// The spans, if the trainable set has not changed since. That of a second model is the same one if it lies on the
    /// same device in the same places.
    fn spans(&self, op: &'static str, params: &Params) -> Result<&[Span]> {
        let built_for = (self.generation, self.layout, &self.device);
        if built_for == (params.generation(), params.layout(), params.device()) {
            return Ok(&self.spans);
        }
        Err(Error::argument(
            op,
            "the trainable set that the optimiser was built for",
            "another one",
            "build the optimiser after freezing and unfreezing layers, and one for each model",
        ))
    }
}

/// What a CUDA device holds of an optimiser beside its state: the spans, and the values of a step, at an address that
/// does not change.
#[cfg(feature = "cuda")]
struct OnGpu<S> {
    spans: SpanTable,
    step: Scratch<S>,
}

#[cfg(feature = "cuda")]
impl<S: bytemuck::Pod> OnGpu<S> {
    /// `None` on the CPU.
    fn new(params: &Params) -> Result<Option<OnGpu<S>>> {
        let Some(gpu) = params.device().gpu() else { return Ok(None) };
        let (values, gradients) = (params.values().elems(), params.gradients().elems());
        let spans = SpanTable::new(gpu.kernels(), &params.spans(), values, gradients, gpu.stream())?;
        Ok(Some(OnGpu { spans, step: Scratch::zeros(params.device(), 1)? }))
    }

    /// Sets the values of the step that is queued next.
    fn of(this: &mut Option<Self>, step: S) -> Result<&mut Self> {
        let this = this.as_mut().expect("made with the optimiser, on a CUDA device");
        this.step.copy_from_slice(&[step])?;
        Ok(this)
    }
}

/// State of the gradient arena's shape, starting at 0.
fn state(params: &Params) -> Result<Tensor> {
    Tensor::zeros(params.device(), params.gradients().shape(), DType::F32)
}
