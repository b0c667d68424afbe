//! Differentiable ops: each checks shapes once, dispatches to the device, and registers its own backward.
//!
//! Gradients of parameters are added (`+=`) to their accumulators; gradients of activations are written.
#![cfg_attr(not(feature = "cpu"), allow(unused_variables, unused_imports, dead_code))]

mod batch_norm;
mod conv2d;
mod cross_entropy;
mod dropout;
mod elementwise;
mod linear;
mod pool2d;
mod softmax_kl;
mod supcon;

pub use batch_norm::{RunningStatistics, batch_norm};
pub use conv2d::conv2d;
pub use cross_entropy::{correct_count, cross_entropy, cross_entropy_per_sample};
pub use dropout::dropout;
pub use elementwise::{add, add_assign, cast, normalization, relu, rescale, scale, sum};
pub use linear::linear;
pub use pool2d::{global_avg_pool, max_pool2d};
pub use softmax_kl::{softmax, softmax_kl};
pub use supcon::{ContrastiveLoss, NORM_EPS, contrastive_loss, l2_normalize, similarity_matrix};

use crate::tensor::Tensor;
use crate::{DType, Error, Result};

/// Runs the body on the device's threads where the host twins are compiled in.
macro_rules! on_cpu {
    ($device:expr, $op:literal, $body:block) => {{
        #[cfg(feature = "cpu")]
        {
            $device.run_op($op, || $body)
        }
        #[cfg(not(feature = "cpu"))]
        {
            Err::<(), crate::Error>(crate::Error::device(
                $device,
                concat!("`", $op, "` has no implementation in this build"),
                "build with feature `cpu`",
            ))
        }
    }};
}
pub(crate) use on_cpu;

/// Checks that tensors are f32 and on one device.
fn check_f32(op: &'static str, tensors: &[(&str, &Tensor)]) -> Result<()> {
    for (name, tensor) in tensors {
        if tensor.dtype() != DType::F32 {
            return Err(Error::tensor(op, format_args!("`{name}` of f32"), tensor, "cast it first"));
        }
        if tensor.device() != tensors[0].1.device() {
            return Err(Error::tensor(
                op,
                format_args!("`{name}` on the device of `{}`, {}", tensors[0].0, tensors[0].1.device()),
                tensor,
                "every call of Device::cpu makes a device of its own: make one and clone its handle",
            ));
        }
    }
    Ok(())
}

/// Checks a shape.
fn check_shape(op: &'static str, name: &str, tensor: &Tensor, shape: &[usize]) -> Result<()> {
    if tensor.shape() == shape {
        return Ok(());
    }
    Err(Error::shape(
        op,
        format_args!("`{name}` of shape {shape:?}"),
        format_args!("{:?}", tensor.shape()),
        "check the layer's extents",
    ))
}

/// The two extents of a matrix.
fn matrix(op: &'static str, name: &str, tensor: &Tensor) -> Result<[usize; 2]> {
    tensor.shape().try_into().map_err(|_| {
        Error::shape(
            op,
            format_args!("`{name}` with 2 axes"),
            format_args!("{:?}", tensor.shape()),
            "reshape it to [rows, columns]",
        )
    })
}
