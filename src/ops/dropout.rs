#[cfg(feature = "cuda")]
use super::with_float;
use super::{check_floats, on_device};
use crate::autograd::Var;
#[cfg(feature = "cpu")]
use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::rng::Stream;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Dropout: keeps each element with probability `1 - rate` and multiplies it by `1 / (1 - rate)`.
///
/// The mask is a pure function of `stream` (seed, step, op), the sample's data-set index in `indices`
/// and the element's place in its sample, so it does not depend on batch position or threads.
///
/// # Shapes
/// `x` and `y` [n, ..]; `indices` `[n]`.
///
/// # Gradient
/// The same mask and factor on `dy`.
///
/// # Errors
/// When `rate` is not in [0, 1) or `indices` does not have one entry per sample.
///
/// # Determinism
/// Exact.
///
/// # Example
/// ```
/// use warpsmith::rng::Stream;
/// use warpsmith::{Device, Tape, Tensor, ops};
/// let x = Tape::no_grad().constant(Tensor::full(&Device::cpu()?, &[1, 100], 1.0f32)?);
/// let stream = Stream { seed: 1, step: 0, index: 0, op: 0 };
/// let y = ops::dropout(&x, 0.5, stream, &[7])?.tensor().to_vec::<f32>()?;
/// assert!(y.iter().all(|&v| v == 0.0 || v == 2.0));
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn dropout(x: &Var, rate: f32, stream: Stream, indices: &[u32]) -> Result<Var> {
    check_floats("dropout", &[("x", x.tensor())])?;
    let samples = x.shape().first().copied().unwrap_or(0);
    crate::error::check_len("dropout", "indices", indices.len(), samples)?;
    let y = masked(x.tensor(), rate, stream, indices)?;
    let (node, indices) = (x.node(), indices.to_vec());
    Var::record("dropout", &[x], y, move |dy, gradients| gradients.add(node, masked(&dy, rate, stream, &indices)?))
}

fn masked(x: &Tensor, rate: f32, stream: Stream, indices: &[u32]) -> Result<Tensor> {
    if !(0.0..1.0).contains(&rate) {
        let hint = "the rate is the share of values that become 0";
        return Err(Error::argument("dropout", "a rate in [0, 1)", rate, hint));
    }
    let device = x.device();
    let y = Tensor::empty(device, x.shape(), x.dtype())?;
    on_device!(
        device, "dropout",
        cpu: cpu::dropout::dropout(stream, rate, indices, &x.read()?, &mut y.write()?),
        cuda(gpu): with_float!(x.dtype(), T, {
            let mut draws = device.dropout_draws();
            let (step, indices) = draws.set(device, stream.step, indices)?;
            let (x, mut y) = (x.device_read::<T>()?, y.device_write()?);
            cuda::dropout::dropout(gpu.kernels(), stream, step, rate, indices, &x, &mut y, gpu.stream())
        }),
    )?;
    Ok(y)
}
