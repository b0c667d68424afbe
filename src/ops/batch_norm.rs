#[cfg(feature = "cuda")]
use super::with_float;
use super::{check_device, check_f32, check_floats, check_shape, on_device};
use crate::autograd::{Target, Var};
#[cfg(feature = "cpu")]
use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda;
#[cfg(feature = "cuda")]
use crate::device::Scratch;
use crate::error::check_momentum;
#[cfg(feature = "cuda")]
use crate::tensor::DeviceReadGuard;
use crate::tensor::Tensor;
use crate::{DType, Error, Result};

/// The moving statistics of a batch norm and how they move.
pub struct RunningStatistics {
    /// Moving mean `[c]`; updated by a training pass.
    pub mean: Tensor,
    /// Moving variance `[c]`; updated by a training pass.
    pub var: Tensor,
    /// Weight of the old value.
    pub momentum: f32,
    /// Whether the unbiased batch variance enters the moving variance (Keras 2) or the population variance (Keras 3).
    pub unbiased: bool,
}

/// Batch normalisation over all axes but the last, optionally fused with ReLU.
///
/// `y = gamma · (x - m) / sqrt(v + eps) + beta`, then `max(y, 0)` when `relu`. In training `m, v` are the
/// batch's mean and population variance, and the moving statistics follow; otherwise `m, v` are the moving
/// statistics, which do not change.
///
/// # Shapes
/// `x`, `y` [.., c]; `gamma`, `beta` and the statistics `[c]`.
///
/// # Gradient
/// Through the batch statistics in training; the statistics are constants in inference. The gradient of
/// the ReLU at 0 is 0.
///
/// # Errors
/// When shapes, types or devices do not fit, there are no rows, or one variable is passed twice.
///
/// # Determinism
/// Bit-equal for any number of threads; statistics are merged in fixed order.
///
/// # Example
/// ```
/// use warpsmith::{DType, Device, Tape, Tensor, ops};
/// let device = Device::cpu()?;
/// let tape = Tape::no_grad();
/// let c = |value: f32| Tensor::full(&device, &[1], value);
/// let x = tape.constant(Tensor::from_slice(&device, &[2, 1], &[1.0f32, 3.0])?);
/// let (gamma, beta) = (tape.constant(c(1.0)?), tape.constant(c(0.0)?));
/// let running = ops::RunningStatistics { mean: c(0.0)?, var: c(1.0)?, momentum: 0.99, unbiased: false };
/// let y = ops::batch_norm(&x, &gamma, &beta, &running, 0.0, true, false)?;
/// assert_eq!(y.tensor().to_vec::<f32>()?, [-1.0, 1.0]);
/// assert!((running.mean.item()? - 0.02).abs() < 1e-6);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn batch_norm(
    x: &Var,
    gamma: &Var,
    beta: &Var,
    running: &RunningStatistics,
    eps: f32,
    training: bool,
    relu: bool,
) -> Result<Var> {
    const OP: &str = "batch_norm";
    let tables = [
        ("gamma", gamma.tensor()),
        ("beta", beta.tensor()),
        ("running_mean", &running.mean),
        ("running_var", &running.var),
    ];
    check_floats(OP, &[("x", x.tensor())])?;
    check_f32(OP, &tables)?;
    check_device(OP, &[("x", x.tensor()), tables[0]])?;
    let Some(&c) = x.shape().last().filter(|_| x.tensor().elems() > 0) else {
        return Err(Error::shape(
            OP,
            "a non-empty `x` [.., c]",
            format_args!("{:?}", x.shape()),
            "batch norm needs at least one row",
        ));
    };
    for (name, tensor) in tables {
        check_shape(OP, name, tensor, &[c])?;
    }
    if training {
        check_momentum(OP, running.momentum)?;
    }
    // Backward writes the three gradients at once.
    let nodes = [x.node(), gamma.node(), beta.node()];
    if (0..3).any(|i| nodes[i].is_some() && nodes[..i].contains(&nodes[i])) {
        return Err(Error::argument(
            OP,
            "three variables `x`, `gamma` and `beta`",
            "one of them twice",
            "make a variable for each with Tape::leaf or Tape::parameter",
        ));
    }
    let rows = x.tensor().elems() / c;
    let device = x.tensor().device();
    let y = Tensor::empty(device, x.shape(), x.tensor().dtype())?;
    let mean = Tensor::empty(device, &[c], DType::F32)?;
    let inv_std = Tensor::empty(device, &[c], DType::F32)?;
    if training {
        statistics(x.tensor(), rows, c, running, eps, &mean, &inv_std)?;
    } else {
        mean.copy_from(&running.mean)?;
        let var = &running.var;
        on_device!(
            device, "batch_norm.inv_std",
            cpu: cpu::batch_norm::inv_std(&var.read()?, eps, &mut inv_std.write()?),
            cuda(gpu): {
                let (var, mut inv_std) = (var.device_read()?, inv_std.device_write()?);
                cuda::batch_norm::inv_std(gpu.kernels(), &var, eps, &mut inv_std, gpu.stream())
            },
        )?;
    }
    {
        let (x, gamma, beta) = (x.tensor(), gamma.tensor(), beta.tensor());
        on_device!(
            device, "batch_norm.normalize",
            cpu: {
                let (means, inv_stds) = (mean.read()?, inv_std.read()?);
                let (gammas, betas) = (gamma.read()?, beta.read()?);
                let mut ys = y.write()?;
                cpu::batch_norm::normalize(rows, c, &x.read()?, &means, &inv_stds, &gammas, &betas, relu, &mut ys)
            },
            cuda(gpu): with_float!(x.dtype(), T, {
                let (x, mut y) = (x.device_read::<T>()?, y.device_write::<T>()?);
                let (mean, inv_std) = (&mean.device_read::<f32>()?, &inv_std.device_read()?);
                let (gamma, beta) = (&gamma.device_read()?, &beta.device_read()?);
                let tables = cuda::batch_norm::Tables { mean, inv_std, gamma, beta };
                let (kernels, none) = (gpu.kernels(), None::<&DeviceReadGuard<T>>);
                cuda::batch_norm::normalize(kernels, (rows, c), &x, &tables, none, relu, &mut y, gpu.stream())
            }),
        )?;
    }

    let (x_node, gamma_node, beta_node) = (x.node(), gamma.node(), beta.node());
    let inputs = [x, gamma, beta];
    let (x, gamma, beta) = (x.tensor().clone(), gamma.tensor().clone(), beta.tensor().clone());
    Var::record(OP, &inputs, y, move |dy, gradients| {
        let device = dy.device();
        let dgamma = gradients.accumulator(gamma_node, &[c], &gamma)?;
        let dbeta = gradients.accumulator(beta_node, &[c], &beta)?;
        // The residual stream sends a gradient to x beside this one: adding to it saves a pass.
        let target = gradients.target(x_node, x.shape(), &x)?;
        let accumulate = target.as_ref().is_some_and(|t| t.accumulate);
        let dx = target.map(|Target { tensor, .. }| tensor);
        let (dx, dgamma, dbeta) = (dx.as_ref(), dgamma.as_ref(), dbeta.as_ref());
        on_device!(
            device, "batch_norm.backward",
            cpu: {
                let mut dxs = dx.map(Tensor::write).transpose()?;
                let mut dgammas = dgamma.map(Tensor::write).transpose()?;
                let mut dbetas = dbeta.map(Tensor::write).transpose()?;
                let (xs, dys) = (&x.read()?, &dy.read()?);
                let (means, inv_stds, gammas, betas) = (&mean.read()?, &inv_std.read()?, &gamma.read()?, &beta.read()?);
                let (dxs, dgammas, dbetas) = (dxs.as_deref_mut(), dgammas.as_deref_mut(), dbetas.as_deref_mut());
                let backward = if training {
                    cpu::batch_norm::backward_train
                } else {
                    cpu::batch_norm::backward_inference
                };
                backward(rows, c, xs, dys, means, inv_stds, gammas, betas, relu, dxs, accumulate, dgammas, dbetas)
            },
            cuda(gpu): with_float!(x.dtype(), T, {
                use cuda::batch_norm::{Gradients, Statistics, Tables, backward, workspace_elems};
                let (x, dy) = (x.device_read::<T>()?, dy.device_read::<T>()?);
                let (mean, inv_std) = (&mean.device_read::<f32>()?, &inv_std.device_read()?);
                let (gamma, beta) = (&gamma.device_read()?, &beta.device_read()?);
                let mut dx = dx.map(Tensor::device_write::<T>).transpose()?;
                let mut dgamma = dgamma.map(Tensor::device_write::<f32>).transpose()?;
                let mut dbeta = dbeta.map(Tensor::device_write::<f32>).transpose()?;
                let gradients = Gradients {
                    dx: dx.as_mut(),
                    dresidual: None,
                    accumulate,
                    dgamma: dgamma.as_mut(),
                    dbeta: dbeta.as_mut(),
                };
                let statistics = if training { Statistics::OfBatch } else { Statistics::Constant };
                // Behind constant statistics there is nothing to sum up for dx.
                let sums = training || gradients.dgamma.is_some() || gradients.dbeta.is_some();
                let workspace = if sums { workspace_elems(rows, c) } else { 0 };
                backward(
                    gpu.kernels(),
                    (rows, c),
                    (&x, &dy),
                    &Tables { mean, inv_std, gamma, beta },
                    None::<&DeviceReadGuard<T>>,
                    relu,
                    statistics,
                    gradients,
                    &mut Scratch::<f32>::new(device, workspace)?,
                    gpu.stream(),
                )
            }),
        )
    })
}

/// The batch's mean and `1 / sqrt(var + eps)`; the moving statistics follow.
fn statistics(
    x: &Tensor,
    rows: usize,
    c: usize,
    running: &RunningStatistics,
    eps: f32,
    mean: &Tensor,
    inv_std: &Tensor,
) -> Result<()> {
    let device = x.device();
    let var = Tensor::empty(device, &[c], DType::F32)?;
    let RunningStatistics { mean: running_mean, var: running_var, momentum, unbiased } = running;
    let (momentum, unbiased) = (*momentum, *unbiased);
    on_device!(
        device, "batch_norm.statistics",
        cpu: {
            let (mut means, mut vars) = (mean.write()?, var.write()?);
            let (mut running_mean, mut running_var) = (running_mean.write()?, running_var.write()?);
            cpu::batch_norm::statistics(rows, c, &x.read()?, &mut means, &mut vars)?;
            let (mean, var) = (&mut running_mean, &mut running_var);
            cpu::batch_norm::update_running(mean, var, &means, &vars, rows, momentum, unbiased)?;
            cpu::batch_norm::inv_std(&vars, eps, &mut inv_std.write()?)
        },
        cuda(gpu): with_float!(x.dtype(), T, {
            use cuda::batch_norm::{Running, statistics, workspace_elems};
            let (mut running_mean, mut running_var) = (running_mean.device_write::<f32>()?, running_var.device_write()?);
            let running = Running { mean: &mut running_mean, var: &mut running_var, momentum, unbiased };
            let (mut mean, mut var, mut inv_std) = (mean.device_write()?, var.device_write()?, inv_std.device_write()?);
            let mut workspace = Scratch::<f32>::new(device, workspace_elems(rows, c))?;
            let tables = [&mut mean, &mut var, &mut inv_std];
            let x = x.device_read::<T>()?;
            statistics(gpu.kernels(), (rows, c), &x, eps, Some(running), tables, &mut workspace, gpu.stream())
        }),
    )
}
