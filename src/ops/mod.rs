//! Differentiable ops: each checks shapes once, dispatches to the device, and registers its own backward.
//!
//! Gradients of parameters are added (`+=`) to their accumulators; gradients of activations are written.
//!
//! On the CPU every tensor is f32. On a CUDA device activations may be bf16, in which case filters and weights are too;
//! biases, batch-norm parameters, losses and the gradients of parameters are f32 everywhere.
#![cfg_attr(not(feature = "cpu"), allow(unused_imports, dead_code))]

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
pub(crate) use elementwise::cast_into;
pub use elementwise::{add, add_assign, cast, normalization, relu, rescale, scale, sum};
pub use linear::linear;
pub use pool2d::{global_avg_pool, max_pool2d};
pub use softmax_kl::{softmax, softmax_kl};
pub use supcon::{ContrastiveLoss, NORM_EPS, contrastive_loss, l2_normalize, similarity_matrix};

use crate::autograd::Target;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::tensor::Tensor;
use crate::{DType, Error, Result};

/// Runs an op on the device of its tensors: the host twin on the device's threads, or the launchers on its stream.
macro_rules! on_device {
    ($device:expr, $op:literal, cpu: $cpu:expr, cuda($gpu:ident): $cuda:expr $(,)?) => {{
        let device: &crate::Device = $device;
        match device.kind() {
            #[cfg(feature = "cpu")]
            crate::device::Kind::Cpu => device.run_op($op, || -> crate::Result<()> { $cpu }),
            #[cfg(feature = "cuda")]
            crate::device::Kind::Cuda($gpu) => device.queue_op($gpu, $op, || -> crate::Result<()> { $cuda }),
        }
    }};
}
pub(crate) use on_device;

/// Names `$T` the Rust type of a float tensor's elements.
#[cfg(feature = "cuda")]
macro_rules! with_float {
    ($dtype:expr, $T:ident, $body:expr) => {
        match $dtype {
            crate::DType::Bf16 => {
                type $T = half::bf16;
                $body
            }
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}
#[cfg(feature = "cuda")]
use with_float;

/// `dz (= or +=) dloss * unit`: what is left to do in the backward pass of a loss whose forward pass computed the gradient.
fn scale_gradient(unit: &Tensor, dloss: &Tensor, Target { tensor, accumulate }: &Target) -> Result<()> {
    on_device!(
        unit.device(), "scale_gradient",
        cpu: {
            let (unit, dloss, mut dzs) = (unit.read::<f32>()?, dloss.item()?, tensor.write::<f32>()?);
            for (dz, g) in dzs.iter_mut().zip(&*unit) {
                *dz = if *accumulate { *dz + dloss * g } else { dloss * g };
            }
            Ok(())
        },
        cuda(gpu): cuda::elementwise::scale_by(
            gpu.kernels(),
            &unit.device_read()?,
            &dloss.device_read()?,
            *accumulate,
            &mut tensor.device_write()?,
            gpu.stream(),
        ),
    )
}

/// Checks that tensors are on one device and all f32, or all bf16 on a CUDA device.
fn check_floats(op: &'static str, tensors: &[(&str, &Tensor)]) -> Result<()> {
    let (name, first) = tensors[0];
    if first.dtype() != DType::Bf16 {
        return check_f32(op, tensors);
    }
    #[cfg(feature = "cuda")]
    let is_cuda = first.device().gpu().is_some();
    #[cfg(not(feature = "cuda"))]
    let is_cuda = false;
    if !is_cuda {
        return Err(Error::tensor(
            op,
            format_args!("`{name}` of f32"),
            first,
            "cast it first: bf16 computes on CUDA devices only",
        ));
    }
    check_device(op, tensors)?;
    match tensors.iter().find(|(_, tensor)| tensor.dtype() != DType::Bf16) {
        None => Ok(()),
        Some((other, tensor)) => {
            Err(Error::tensor(op, format_args!("`{other}` of bf16, as `{name}`"), *tensor, "cast it first"))
        }
    }
}

fn check_device(op: &'static str, tensors: &[(&str, &Tensor)]) -> Result<()> {
    for (name, tensor) in tensors {
        if tensor.device() != tensors[0].1.device() {
            return Err(Error::tensor(
                op,
                format_args!("`{name}` on the device of `{}`, {}", tensors[0].0, tensors[0].1.device()),
                tensor,
                "every call of Device::cpu or Device::cuda makes a device of its own: make one and clone its handle",
            ));
        }
    }
    Ok(())
}

/// Checks that tensors are f32 and on one device.
fn check_f32(op: &'static str, tensors: &[(&str, &Tensor)]) -> Result<()> {
    for (name, tensor) in tensors {
        if tensor.dtype() != DType::F32 {
            return Err(Error::tensor(op, format_args!("`{name}` of f32"), tensor, "cast it first"));
        }
    }
    check_device(op, tensors)
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
