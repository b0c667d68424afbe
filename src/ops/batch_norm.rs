use super::{check_f32, check_shape, on_cpu};
use crate::autograd::{Target, Var};
#[cfg(feature = "cpu")]
use crate::cpu;
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
    check_f32(
        OP,
        &[
            ("x", x.tensor()),
            ("gamma", gamma.tensor()),
            ("beta", beta.tensor()),
            ("running_mean", &running.mean),
            ("running_var", &running.var),
        ],
    )?;
    let Some(&c) = x.shape().last().filter(|_| x.tensor().elems() > 0) else {
        return Err(Error::shape(
            OP,
            "a non-empty `x` [.., c]",
            format_args!("{:?}", x.shape()),
            "batch norm needs at least one row",
        ));
    };
    for (name, tensor) in [
        ("gamma", gamma.tensor()),
        ("beta", beta.tensor()),
        ("running_mean", &running.mean),
        ("running_var", &running.var),
    ] {
        check_shape(OP, name, tensor, &[c])?;
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
    let y = Tensor::empty(device, x.shape(), DType::F32)?;
    let mean = Tensor::empty(device, &[c], DType::F32)?;
    let inv_std = Tensor::empty(device, &[c], DType::F32)?;
    {
        let xs = x.tensor().read::<f32>()?;
        let (gammas, betas) = (gamma.tensor().read::<f32>()?, beta.tensor().read::<f32>()?);
        let (mut means, mut inv_stds, mut ys) = (mean.write::<f32>()?, inv_std.write::<f32>()?, y.write::<f32>()?);
        let (xs, gammas, betas) = (&*xs, &*gammas, &*betas);
        let (means, inv_stds, ys) = (&mut *means, &mut *inv_stds, &mut *ys);
        if training {
            let var = Tensor::empty(device, &[c], DType::F32)?;
            let mut vars = var.write::<f32>()?;
            let (mut running_mean, mut running_var) = (running.mean.write::<f32>()?, running.var.write::<f32>()?);
            let (vars, running_mean, running_var) = (&mut *vars, &mut *running_mean, &mut *running_var);
            let (momentum, unbiased) = (running.momentum, running.unbiased);
            on_cpu!(device, "batch_norm.statistics", {
                cpu::batch_norm::statistics(rows, c, xs, means, vars)?;
                cpu::batch_norm::update_running(running_mean, running_var, means, vars, rows, momentum, unbiased)?;
                cpu::batch_norm::inv_std(vars, eps, inv_stds)
            })?;
        } else {
            let (running_mean, running_var) = (running.mean.read::<f32>()?, running.var.read::<f32>()?);
            means.copy_from_slice(&running_mean);
            let running_var = &*running_var;
            on_cpu!(device, "batch_norm", { cpu::batch_norm::inv_std(running_var, eps, inv_stds) })?;
        }
        let (means, inv_stds) = (&*means, &*inv_stds);
        on_cpu!(device, "batch_norm.normalize", {
            cpu::batch_norm::normalize(rows, c, xs, means, inv_stds, gammas, betas, relu, ys)
        })?;
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
        let (xs, dys) = (x.read::<f32>()?, dy.read::<f32>()?);
        let (gammas, betas) = (gamma.read::<f32>()?, beta.read::<f32>()?);
        let (means, inv_stds) = (mean.read::<f32>()?, inv_std.read::<f32>()?);
        let mut dxs = dx.as_ref().map(Tensor::write::<f32>).transpose()?;
        let mut dgammas = dgamma.as_ref().map(Tensor::write::<f32>).transpose()?;
        let mut dbetas = dbeta.as_ref().map(Tensor::write::<f32>).transpose()?;
        let (xs, dys, gammas, betas, means, inv_stds) = (&*xs, &*dys, &*gammas, &*betas, &*means, &*inv_stds);
        let (dxs, dgammas, dbetas) = (dxs.as_deref_mut(), dgammas.as_deref_mut(), dbetas.as_deref_mut());
        on_cpu!(device, "batch_norm.backward", {
            if training {
                cpu::batch_norm::backward_train(
                    rows, c, xs, dys, means, inv_stds, gammas, betas, relu, dxs, accumulate, dgammas, dbetas,
                )
            } else {
                cpu::batch_norm::backward_inference(
                    rows, c, xs, dys, means, inv_stds, gammas, betas, relu, dxs, accumulate, dgammas, dbetas,
                )
            }
        })
    })
}
