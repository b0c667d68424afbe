#[cfg(feature = "cuda")]
use super::with_float;
use super::{check_floats, matrix, on_device, scale_gradient};
use crate::autograd::{Target, Var};
#[cfg(feature = "cpu")]
use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda::supcon as launch;
use crate::device::Kind;
#[cfg(feature = "cuda")]
use crate::device::Scratch;
use crate::error::check_temperature;
use crate::problem::{Form, MeanOver, Supcon};
use crate::tensor::Tensor;
use crate::{DType, Error, Result};

/// Floor under the squared norm of a row.
pub const NORM_EPS: f32 = 1e-12;

/// A contrastive loss over labelled embeddings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ContrastiveLoss {
    /// N-pairs with the diagonal: `mean_i [ logsumexp_j S_ij - mean_{j: y_j = y_i} S_ij ]`, the anchor itself among both.
    Npairs {
        /// Similarities are divided by it.
        temperature: f32,
    },
    /// Khosla's L_out: `-mean over positives of (S_ip - log Σ_{k≠i} exp S_ik)`, the anchor excluded everywhere.
    SupconOut {
        /// Similarities are divided by it.
        temperature: f32,
        /// Factor of the loss (temperature / base temperature in the authors' code).
        scale: f32,
        /// Whether anchors without a positive count in the mean (with the value 0).
        mean_over_all: bool,
    },
    /// Khosla's L_in: the mean over positives stands inside the logarithm.
    SupconIn {
        /// Similarities are divided by it.
        temperature: f32,
        /// Factor of the loss.
        scale: f32,
        /// Whether anchors without a positive count in the mean (with the value 0).
        mean_over_all: bool,
    },
}

impl ContrastiveLoss {
    fn settings(self, norm_eps: f32) -> Supcon {
        let mean = |all| if all { MeanOver::All } else { MeanOver::WithPositive };
        let (form, temperature, scale, mean_over) = match self {
            ContrastiveLoss::Npairs { temperature } => (Form::Npairs, temperature, 1.0, MeanOver::All),
            ContrastiveLoss::SupconOut { temperature, scale, mean_over_all } => {
                (Form::Out, temperature, scale, mean(mean_over_all))
            }
            ContrastiveLoss::SupconIn { temperature, scale, mean_over_all } => {
                (Form::In, temperature, scale, mean(mean_over_all))
            }
        };
        Supcon { form, temperature, norm_eps, scale, mean_over }
    }
}

/// Supervised contrastive loss of un-normalised embeddings; rows are L2-normalised inside.
///
/// `S = n nᵀ / T` over all `batch · views` rows; the similarity matrix is never stored. Finite for anchors
/// without positives and for rows of zeros.
///
/// # Shapes
/// `z` [batch, dim] or [batch, views, dim], `labels` i32 `[batch]`, result `[1]`.
///
/// # Gradient
/// To `z`, through the normalisation; a row under the norm floor has a constant normaliser.
///
/// # Errors
/// When shapes or types do not fit or the temperature is not positive.
///
/// # Determinism
/// Bit-equal for any number of threads.
///
/// Source: Khosla et al.: "Supervised contrastive learning" (2020); Sohn: "Improved deep metric learning with
/// multi-class n-pair loss objective" (2016).
///
/// # Example
/// ```
/// use warpsmith::ops::{self, ContrastiveLoss};
/// use warpsmith::{Device, Tape, Tensor};
/// let device = Device::cpu()?;
/// let z = Tape::no_grad().constant(Tensor::from_slice(&device, &[2, 2], &[1.0f32, 0.0, 0.0, 1.0])?);
/// let labels = Tensor::from_slice(&device, &[2], &[0i32, 0])?;
/// let loss = ops::contrastive_loss(&z, &labels, ContrastiveLoss::Npairs { temperature: 1.0 })?;
/// assert!((loss.tensor().item()? - ((1f32.exp() + 1.0).ln() - 0.5)).abs() < 1e-6);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn contrastive_loss(z: &Var, labels: &Tensor, kind: ContrastiveLoss) -> Result<Var> {
    const OP: &str = "contrastive_loss";
    check_floats(OP, &[("z", z.tensor())])?;
    let (batch, views, dim) = match *z.shape() {
        [batch, dim] => (batch, 1, dim),
        [batch, views, dim] => (batch, views, dim),
        _ => {
            return Err(Error::shape(
                OP,
                "`z` [batch, dim] or [batch, views, dim]",
                format_args!("{:?}", z.shape()),
                "reshape it",
            ));
        }
    };
    if labels.dtype() != DType::I32 || labels.shape() != [batch] || labels.device() != z.tensor().device() {
        return Err(Error::tensor(
            OP,
            format_args!("`labels` i32 [{batch}] on the device of `z`"),
            labels,
            "pass one label per sample, not per view",
        ));
    }
    let z_value = z.tensor().clone();
    let device = z_value.device().clone();
    let settings = kind.settings(NORM_EPS);
    check_temperature(OP, settings.temperature)?;
    let loss = Tensor::empty(&device, &[1], DType::F32)?;
    match device.kind() {
        #[cfg(feature = "cpu")]
        Kind::Cpu => {
            // Value and gradient share the walk over the tiles; backward only scales.
            let gradient = z.node().is_some().then(|| Tensor::empty(&device, z.shape(), DType::F32)).transpose()?;
            device.run_op(OP, || {
                let mut dzs = gradient.as_ref().map(Tensor::write).transpose()?;
                let dzs = dzs.as_deref_mut().map(|dzs| (1.0, dzs));
                let (zs, labels) = (z_value.read()?, labels.read()?);
                loss.write()?[0] = cpu::supcon::loss(&settings, batch, views, dim, &zs, &labels, dzs)?;
                Ok(())
            })?;
            let node = z.node();
            Var::record(OP, &[z], loss, move |dloss, gradients| {
                let Some(unit) = gradient else { return Ok(()) };
                let Some(target) = gradients.target(node, unit.shape(), &unit)? else { return Ok(()) };
                scale_gradient(&unit, &dloss, &target)
            })
        }
        #[cfg(feature = "cuda")]
        Kind::Cuda(gpu) => {
            let plan = launch::Plan::new(&settings, batch, views, dim)?;
            // Unit rows and a few numbers per anchor, which backward starts from.
            let unit = Tensor::empty(&device, &[plan.unit_elems()], z_value.dtype())?;
            let state = Tensor::empty(&device, &[plan.state_elems()], DType::F32)?;
            device.queue_op(gpu, OP, || {
                with_float!(z_value.dtype(), T, {
                    let inputs = (&z_value.device_read::<T>()?, &labels.device_read()?);
                    let (mut unit, mut state, mut loss) =
                        (unit.device_write()?, state.device_write()?, loss.device_write()?);
                    let mut workspace = Scratch::new(&device, plan.workspace_elems())?;
                    let kept = (&mut unit, &mut state);
                    launch::loss::<T>(gpu.kernels(), &plan, inputs, kept, &mut loss, &mut workspace, gpu.stream())
                })
            })?;
            let (node, labels, gpu, device) = (z.node(), labels.clone(), gpu.clone(), device.clone());
            Var::record(OP, &[z], loss, move |dloss, gradients| {
                let Some(Target { tensor, accumulate }) = gradients.target(node, z_value.shape(), &z_value)? else {
                    return Ok(());
                };
                device.queue_op(&gpu, "contrastive_loss.backward", || {
                    with_float!(z_value.dtype(), T, {
                        let inputs = (&z_value.device_read::<T>()?, &labels.device_read()?);
                        let kept = (&unit.device_read()?, &state.device_read()?);
                        let (dloss, mut dz) = (dloss.device_read()?, tensor.device_write()?);
                        let mut workspace = Scratch::new(&device, plan.workspace_elems())?;
                        let (kernels, stream) = (gpu.kernels(), gpu.stream());
                        launch::loss_backward::<T>(
                            kernels,
                            &plan,
                            inputs,
                            kept,
                            &dloss,
                            accumulate,
                            &mut dz,
                            &mut workspace,
                            stream,
                        )
                    })
                })
            })
        }
    }
}

/// Rows scaled to unit length: `n = z / sqrt(max(Σ z², 1e-12))`.
///
/// # Shapes
/// `z` and result [n, dim].
///
/// # Gradient
/// `(dn - n (n·dn)) / |z|`; `dn · 1e6` for a row under the floor.
///
/// # Errors
/// When `z` is not a matrix of f32 or, on a CUDA device, bf16.
///
/// # Determinism
/// Bit-equal for any number of threads.
///
/// # Example
/// ```
/// use warpsmith::{Device, Tape, Tensor, ops};
/// let z = Tape::no_grad().constant(Tensor::from_slice(&Device::cpu()?, &[1, 2], &[3.0f32, 4.0])?);
/// let n = ops::l2_normalize(&z)?.tensor().to_vec::<f32>()?;
/// assert!((n[0] - 0.6).abs() < 1e-6 && (n[1] - 0.8).abs() < 1e-6);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn l2_normalize(z: &Var) -> Result<Var> {
    const OP: &str = "l2_normalize";
    check_floats(OP, &[("z", z.tensor())])?;
    let [n, dim] = matrix(OP, "z", z.tensor())?;
    let zs = z.tensor();
    let y = Tensor::empty(zs.device(), &[n, dim], zs.dtype())?;
    on_device!(
        zs.device(), "l2_normalize",
        cpu: cpu::supcon::l2_normalize(n, dim, NORM_EPS, &zs.read()?, &mut y.write()?),
        cuda(gpu): with_float!(zs.dtype(), T, {
            let (z, mut y) = (zs.device_read::<T>()?, y.device_write()?);
            launch::l2_normalize(gpu.kernels(), (n, dim), NORM_EPS, &z, &mut y, gpu.stream())
        }),
    )?;
    let (node, zs) = (z.node(), zs.clone());
    Var::record(OP, &[z], y, move |dy, gradients| {
        let Some(Target { tensor, accumulate }) = gradients.target(node, zs.shape(), &zs)? else { return Ok(()) };
        on_device!(
            dy.device(), "l2_normalize.backward",
            cpu: {
                let (zs, dys, mut dzs) = (zs.read()?, dy.read()?, tensor.write()?);
                cpu::supcon::l2_normalize_backward(n, dim, NORM_EPS, &zs, &dys, accumulate, &mut dzs)
            },
            cuda(gpu): with_float!(zs.dtype(), T, {
                let (z, dy, mut dz) = (zs.device_read::<T>()?, dy.device_read()?, tensor.device_write()?);
                let (kernels, stream) = (gpu.kernels(), gpu.stream());
                launch::l2_normalize_backward(kernels, (n, dim), NORM_EPS, (&z, &dy), accumulate, &mut dz, stream)
            }),
        )
    })
}

/// Similarity of all pairs of rows: `sim = z zᵀ / temperature`.
///
/// # Shapes
/// `z` [n, dim] (unit rows for cosine similarity), result [n, n].
///
/// # Gradient
/// `(dsim + dsimᵀ) z / temperature`.
///
/// # Errors
/// When `z` is not a matrix of f32 or, on a CUDA device, bf16, or the temperature is not positive.
///
/// # Determinism
/// Bit-equal for any number of threads.
///
/// # Example
/// ```
/// use warpsmith::{Device, Tape, Tensor, ops};
/// let z = Tape::no_grad().constant(Tensor::from_slice(&Device::cpu()?, &[2, 1], &[1.0f32, -1.0])?);
/// assert_eq!(ops::similarity_matrix(&z, 0.5)?.tensor().to_vec::<f32>()?, [2.0, -2.0, -2.0, 2.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn similarity_matrix(z: &Var, temperature: f32) -> Result<Var> {
    const OP: &str = "similarity_matrix";
    check_floats(OP, &[("z", z.tensor())])?;
    let [n, dim] = matrix(OP, "z", z.tensor())?;
    check_temperature(OP, temperature)?;
    let zs = z.tensor();
    let sim = Tensor::empty(zs.device(), &[n, n], zs.dtype())?;
    on_device!(
        zs.device(), "similarity_matrix",
        cpu: cpu::supcon::similarity_matrix(n, dim, &zs.read()?, temperature, &mut sim.write()?),
        cuda(gpu): with_float!(zs.dtype(), T, {
            let (z, mut sim) = (zs.device_read::<T>()?, sim.device_write()?);
            launch::similarity_matrix(gpu.kernels(), (n, dim), &z, temperature, &mut sim, gpu.stream())
        }),
    )?;
    let (node, zs) = (z.node(), zs.clone());
    Var::record(OP, &[z], sim, move |dy, gradients| {
        let Some(Target { tensor, accumulate }) = gradients.target(node, zs.shape(), &zs)? else { return Ok(()) };
        on_device!(
            dy.device(), "similarity_matrix.backward",
            cpu: {
                let (zs, dys, mut dzs) = (zs.read()?, dy.read()?, tensor.write()?);
                cpu::supcon::similarity_matrix_backward(n, dim, &zs, temperature, &dys, accumulate, &mut dzs)
            },
            cuda(gpu): with_float!(zs.dtype(), T, {
                let (z, dy, mut dz) = (zs.device_read::<T>()?, dy.device_read()?, tensor.device_write()?);
                let (kernels, stream) = (gpu.kernels(), gpu.stream());
                launch::similarity_matrix_backward(kernels, (n, dim), (&z, &dy), temperature, accumulate, &mut dz, stream)
            }),
        )
    })
}
