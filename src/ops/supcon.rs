use super::{check_f32, matrix, on_cpu};
use crate::autograd::{Target, Var};
#[cfg(feature = "cpu")]
use crate::cpu;
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

#[cfg(feature = "cpu")]
impl ContrastiveLoss {
    fn settings(self, norm_eps: f32) -> cpu::supcon::Supcon {
        use cpu::supcon::{Form, MeanOver, Supcon};
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
    check_f32(OP, &[("z", z.tensor())])?;
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
    let device = z.tensor().device();
    let loss = Tensor::empty(device, &[1], DType::F32)?;
    // Value and gradient share the walk over the tiles; backward only scales.
    let gradient = z.node().is_some().then(|| Tensor::empty(device, z.shape(), DType::F32)).transpose()?;
    {
        let (zs, ls, mut out) = (z.tensor().read::<f32>()?, labels.read::<i32>()?, loss.write::<f32>()?);
        let mut dzs = gradient.as_ref().map(Tensor::write::<f32>).transpose()?;
        let (zs, ls, out, dzs) = (&*zs, &*ls, &mut out[0], dzs.as_deref_mut());
        on_cpu!(device, "contrastive_loss", {
            let settings = kind.settings(NORM_EPS);
            cpu::supcon::loss(&settings, batch, views, dim, zs, ls, dzs.map(|dzs| (1.0, dzs))).map(|value| *out = value)
        })?;
    }
    let node = z.node();
    Var::record(OP, &[z], loss, move |dy, gradients| {
        let Some(unit) = gradient else { return Ok(()) };
        let dloss = dy.item()?;
        let Some(Target { tensor, accumulate }) = gradients.target(node, unit.shape(), &unit)? else { return Ok(()) };
        let (unit, mut dzs) = (unit.read::<f32>()?, tensor.write::<f32>()?);
        for (dz, g) in dzs.iter_mut().zip(&*unit) {
            *dz = if accumulate { *dz + dloss * g } else { dloss * g };
        }
        Ok(())
    })
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
/// When `z` is not an f32 matrix.
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
    check_f32(OP, &[("z", z.tensor())])?;
    let [n, dim] = matrix(OP, "z", z.tensor())?;
    let device = z.tensor().device();
    let y = Tensor::empty(device, &[n, dim], DType::F32)?;
    {
        let (zs, mut ys) = (z.tensor().read::<f32>()?, y.write::<f32>()?);
        let (zs, ys) = (&*zs, &mut *ys);
        on_cpu!(device, "l2_normalize", { cpu::supcon::l2_normalize(n, dim, NORM_EPS, zs, ys) })?;
    }
    let (node, saved) = (z.node(), z.tensor().clone());
    Var::record(OP, &[z], y, move |dy, gradients| {
        let Some(Target { tensor, accumulate }) = gradients.target(node, saved.shape(), &saved)? else { return Ok(()) };
        let (zs, dys, mut dzs) = (saved.read::<f32>()?, dy.read::<f32>()?, tensor.write::<f32>()?);
        let (zs, dys, dzs) = (&*zs, &*dys, &mut *dzs);
        on_cpu!(dy.device(), "l2_normalize.backward", {
            cpu::supcon::l2_normalize_backward(n, dim, NORM_EPS, zs, dys, accumulate, dzs)
        })
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
/// When `z` is not an f32 matrix or the temperature is not positive.
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
    check_f32(OP, &[("z", z.tensor())])?;
    let [n, dim] = matrix(OP, "z", z.tensor())?;
    let device = z.tensor().device();
    let sim = Tensor::empty(device, &[n, n], DType::F32)?;
    {
        let (zs, mut sims) = (z.tensor().read::<f32>()?, sim.write::<f32>()?);
        let (zs, sims) = (&*zs, &mut *sims);
        on_cpu!(device, "similarity_matrix", { cpu::supcon::similarity_matrix(n, dim, zs, temperature, sims) })?;
    }
    let (node, saved) = (z.node(), z.tensor().clone());
    Var::record(OP, &[z], sim, move |dy, gradients| {
        let Some(Target { tensor, accumulate }) = gradients.target(node, saved.shape(), &saved)? else { return Ok(()) };
        let (zs, dys, mut dzs) = (saved.read::<f32>()?, dy.read::<f32>()?, tensor.write::<f32>()?);
        let (zs, dys, dzs) = (&*zs, &*dys, &mut *dzs);
        on_cpu!(dy.device(), "similarity_matrix.backward", {
            cpu::supcon::similarity_matrix_backward(n, dim, zs, temperature, dys, accumulate, dzs)
        })
    })
}
