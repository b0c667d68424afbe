//! Optimisers and weight averaging over a model's arenas: one pass over the span table each.
#![cfg_attr(not(feature = "cpu"), allow(unused_variables, unused_imports, dead_code))]

mod adam;
mod sgd;
mod swa;

pub use adam::{Adam, AdamConfig};
pub use sgd::{Sgd, SgdConfig};
pub use swa::{Swa, recompute_batch_norm};

use crate::nn::Params;
use crate::problem::Span;
use crate::tensor::Tensor;
use crate::{DType, Error, Result};

/// The trainable set that an optimiser was built for.
#[derive(Debug, Clone)]
struct Trainable {
    spans: Vec<Span>,
    generation: u64,
}

impl Trainable {
    fn of(params: &Params) -> Trainable {
        Trainable { spans: params.spans(), generation: params.generation() }
    }

    /// The spans, if the trainable set has not changed since.
    fn spans(&self, op: &'static str, params: &Params) -> Result<&[Span]> {
        if self.generation == params.generation() {
            return Ok(&self.spans);
        }
        Err(Error::argument(
            op,
            "the trainable set that the optimiser was built for",
            "another one",
            "build the optimiser after freezing and unfreezing layers",
        ))
    }
}

/// State of the gradient arena's shape, starting at 0.
fn state(params: &Params) -> Result<Tensor> {
    Tensor::zeros(params.device(), params.gradients().shape(), DType::F32)
}
