//! Launchers of `kernels/batch_norm.cu`: device twins of [`cpu::batch_norm`](crate::cpu::batch_norm), with an optional
//! residual that is added before the ReLU.
//!
//! A step in training mode is [`statistics`], [`normalize`] and later [`backward`] with [`Statistics::OfBatch`];
//! inference and frozen layers are [`inv_std`] of the running variance, [`normalize`] and [`backward`] with
//! [`Statistics::Constant`].
//!
#![doc = include_str!("../../kernels/batch_norm.md")]

use super::launch::{Arg, Entry, F32, Kernels, PTR, U32, Value, elems, input, optional_input, optional_output, output};
use super::rows::{ROWS_BLOCK, Rows};
use crate::error::{check_len, check_momentum};
use crate::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, DeviceRepr};

const FLOATS: &[&str] = &["f32", "bf16"];
const ROWS: usize = size_of::<Rows>();
const TABLES: usize = size_of::<TablePointers>();
const RUNNING: usize = size_of::<RunningPointers>();
/// Channels of a merge's block.
const MERGE_CHANNELS: u32 = 8;

const fn entry(name: &'static str, suffixes: &'static [&'static str], params: &'static [usize]) -> Entry {
    Entry { file: "batch_norm", name, suffixes, block: ROWS_BLOCK, params }
}

static STATISTICS: Entry = entry("batch_norm_statistics", FLOATS, &[ROWS, PTR, PTR]);
static STATISTICS_MERGE: Entry =
    entry("batch_norm_statistics_merge", &["f32"], &[ROWS, U32, PTR, F32, RUNNING, PTR, PTR, PTR]);
static INV_STD: Entry = entry("batch_norm_inv_std", &["f32"], &[U32, PTR, F32, PTR]);
static NORMALIZE: Entry = entry("batch_norm_normalize", FLOATS, &[ROWS, PTR, TABLES, PTR, U32, PTR]);
static BACKWARD_REDUCE: Entry = entry("batch_norm_backward_reduce", FLOATS, &[ROWS, PTR, PTR, TABLES, PTR, U32, PTR]);
static BACKWARD_MERGE: Entry = entry("batch_norm_backward_merge", &["f32"], &[ROWS, U32, PTR, PTR, PTR, PTR, PTR]);
static BACKWARD_APPLY: Entry =
    entry("batch_norm_backward_apply", FLOATS, &[ROWS, PTR, PTR, TABLES, PTR, PTR, U32, U32, PTR, PTR]);

pub(super) static ENTRIES: [&Entry; 7] =
    [&STATISTICS, &STATISTICS_MERGE, &INV_STD, &NORMALIZE, &BACKWARD_REDUCE, &BACKWARD_MERGE, &BACKWARD_APPLY];

/// `Tables` of batch_norm.cu: mean, inv_std, gamma, beta.
#[repr(C)]
#[derive(Clone, Copy)]
struct TablePointers([u64; 4]);

// SAFETY: four device addresses in the order of `Tables`.
unsafe impl DeviceRepr for TablePointers {}

/// `Running` of batch_norm.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct RunningPointers {
    mean: u64,
    var: u64,
    momentum: f64,
    correction: f64,
}

// SAFETY: two device addresses and two doubles in the order of `Running`.
unsafe impl DeviceRepr for RunningPointers {}

/// Per-channel tables `[c]` of one normalisation.
#[derive(Clone, Copy)]
pub struct Tables<'a, P: DevicePtr<f32>> {
    /// Mean.
    pub mean: &'a P,
    /// `1 / sqrt(var + eps)`.
    pub inv_std: &'a P,
    /// Scale.
    pub gamma: &'a P,
    /// Offset.
    pub beta: &'a P,
}

impl<P: DevicePtr<f32>> Tables<'_, P> {
    fn check(&self, op: &'static str, c: usize) -> Result<()> {
        check_len(op, "mean", self.mean.len(), c)?;
        check_len(op, "inv_std", self.inv_std.len(), c)?;
        check_len(op, "gamma", self.gamma.len(), c)?;
        check_len(op, "beta", self.beta.len(), c)
    }
}

/// Running statistics that a training step moves: `running = running · momentum + batch · (1 - momentum)`.
pub struct Running<'a, P: DevicePtrMut<f32>> {
    /// Running mean `[c]`.
    pub mean: &'a mut P,
    /// Running variance `[c]`.
    pub var: &'a mut P,
    /// Weight of the old value.
    pub momentum: f32,
    /// The batch variance enters as `var · rows / max(rows - 1, 1)` (Keras 2) instead of as it is (Keras 3).
    pub unbiased: bool,
}

/// Where the mean and variance of a normalisation came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Statistics {
    /// From `x` itself, as in training: the gradient flows through them.
    OfBatch,
    /// From elsewhere, as in inference and frozen layers.
    Constant,
}

fn values<T>() -> u32 {
    if size_of::<T>() == 2 { 8 } else { 4 }
}

/// Extents that are not zero, and channels that a kernel counts in 32 bits: the division for a pass over the matrix,
/// and that for sums over its rows; and the elements of `x`, which has `x_len`.
fn matrix<T>(op: &'static str, rows: usize, c: usize, x_len: usize) -> Result<([Rows; 2], usize)> {
    let channels = u32::try_from(c).ok().filter(|&c| c > 0 && c < 1 << 24 && rows > 0);
    let Some(channels) = channels else {
        let got = format!("[{rows}, {c}]");
        return Err(Error::shape(op, "a matrix [rows, c] with 0 < c < 2^24 and rows > 0", got, "check the extents"));
    };
    let elems = elems(op, &[rows, c])?;
    check_len(op, "x", x_len, elems)?;
    Ok(([Rows::new(rows, channels, values::<T>()), Rows::summed(rows, channels, values::<T>())], elems))
}

/// Floats of workspace that [`statistics`] and [`backward`] need for `[rows, c]`, whatever the element type.
///
/// # Example
/// ```
/// assert!(warpsmith::cuda::batch_norm::workspace_elems(41_472, 64) < 100_000);
/// ```
pub fn workspace_elems(rows: usize, c: usize) -> usize {
    let c32 = u32::try_from(c).unwrap_or(u32::MAX).max(1);
    let blocks = |values| Rows::summed(rows.max(1), c32, values).blocks() as usize;
    (2 * blocks(4).max(blocks(8)) + 2).saturating_mul(c)
}

/// Mean, variance and `inv_std` of every channel over all rows, and a step of the running statistics where given.
///
/// Shapes: `x [rows, c]`, `mean, var, inv_std [c]`; `workspace` at least [`workspace_elems`].
///
/// # Errors
/// When an extent is zero, a buffer is too short, the momentum is outside `[0, 1]`, or a launch fails.
pub fn statistics<T: Value, P: DevicePtrMut<f32>>(
    kernels: &Kernels,
    (rows, c): (usize, usize),
    x: &impl DevicePtr<T>,
    eps: f32,
    running: Option<Running<P>>,
    [mean, var, inv_std]: [&mut P; 3],
    workspace: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "batch_norm statistics";
    let ([_, m], _) = matrix::<T>(OP, rows, c, x.len())?;
    for (name, table) in [("mean", &*mean), ("var", &*var), ("inv_std", &*inv_std)] {
        check_len(OP, name, table.len(), c)?;
    }
    check_workspace(OP, workspace.len(), rows, c)?;
    let ((xp, _x), (partials, _w)) = (input(kernels, x, stream)?, output(kernels, workspace, stream)?);
    // SAFETY: `x` holds the matrix and the workspace a partial result per block; both are this call's alone.
    unsafe { kernels.launch((&STATISTICS, T::SUFFIX), m.grid(values::<T>()), 0, &[m.into(), xp, partials], stream)? };

    let ((meanp, _m), (varp, _v)) = (output(kernels, mean, stream)?, output(kernels, var, stream)?);
    let (stdp, _s) = output(kernels, inv_std, stream)?;
    let mut pointers = RunningPointers { mean: 0, var: 0, momentum: 0.0, correction: 0.0 };
    let mut guards = Vec::new();
    if let Some(Running { mean, var, momentum, unbiased }) = running {
        check_len(OP, "running mean", mean.len(), c)?;
        check_len(OP, "running var", var.len(), c)?;
        check_momentum(OP, momentum)?;
        pointers.momentum = f64::from(momentum);
        pointers.correction = if unbiased { rows as f64 / rows.saturating_sub(1).max(1) as f64 } else { 1.0 };
        for (buffer, pointer) in [(mean, &mut pointers.mean), (var, &mut pointers.var)] {
            let (address, guard) = output(kernels, buffer, stream)?;
            *pointer = address.word();
            guards.push(guard);
        }
    }
    let blocks = u64::from(m.c.div_ceil(MERGE_CHANNELS));
    let args = [m.into(), m.blocks().into(), partials, eps.into(), pointers.into(), meanp, varp, stdp];
    // SAFETY: the partial results were queued before on the same stream; every table holds `c` values and is borrowed
    // mutably.
    unsafe { kernels.launch((&STATISTICS_MERGE, "f32"), blocks, 0, &args, stream) }
}

fn check_workspace(op: &'static str, got: usize, rows: usize, c: usize) -> Result<()> {
    let needed = workspace_elems(rows, c);
    if got >= needed {
        return Ok(());
    }
    Err(Error::shape(op, format_args!("a workspace of at least {needed} floats"), got, "ask workspace_elems"))
}

/// `out = 1 / sqrt(var + eps)`.
///
/// # Errors
/// When the buffers differ in length, or the launch fails.
pub fn inv_std(
    kernels: &Kernels,
    var: &impl DevicePtr<f32>,
    eps: f32,
    out: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "batch_norm inv_std";
    check_len(OP, "out", out.len(), var.len())?;
    let c = u32::try_from(var.len())
        .map_err(|_| Error::shape(OP, "fewer than 2^32 channels", var.len(), "check the extents"))?;
    let ((varp, _v), (outp, _o)) = (input(kernels, var, stream)?, output(kernels, out, stream)?);
    let blocks = u64::from(c.div_ceil(ROWS_BLOCK));
    // SAFETY: both buffers hold `c` values, and `out` is borrowed mutably.
    unsafe { kernels.launch((&INV_STD, "f32"), blocks, 0, &[c.into(), varp, eps.into(), outp], stream) }
}

/// The addresses of the four tables, with the guards of their use.
fn pointers<'a, P: DevicePtr<f32>>(
    kernels: &Kernels,
    tables: &Tables<'a, P>,
    stream: &'a CudaStream,
) -> Result<(Arg, [cudarc::driver::SyncOnDrop<'a>; 4])> {
    let ((mean, m), (inv_std, s)) = (input(kernels, tables.mean, stream)?, input(kernels, tables.inv_std, stream)?);
    let ((gamma, g), (beta, b)) = (input(kernels, tables.gamma, stream)?, input(kernels, tables.beta, stream)?);
    let words = [mean, inv_std, gamma, beta].map(|pointer| pointer.word());
    Ok((TablePointers(words).into(), [m, s, g, b]))
}

/// `y = gamma · (x - mean) · inv_std + beta (+ residual)`, then `max(y, 0)` with `relu`.
///
/// Shapes: `x, y, residual [rows, c]`, tables `[c]`.
///
/// # Errors
/// When an extent is zero, a buffer has the wrong length, or the launch fails.
pub fn normalize<T: Value, P: DevicePtr<f32>>(
    kernels: &Kernels,
    (rows, c): (usize, usize),
    x: &impl DevicePtr<T>,
    tables: &Tables<P>,
    residual: Option<&impl DevicePtr<T>>,
    relu: bool,
    y: &mut impl DevicePtrMut<T>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "batch_norm normalize";
    let ([m, _], elems) = matrix::<T>(OP, rows, c, x.len())?;
    tables.check(OP, c)?;
    check_len(OP, "y", y.len(), elems)?;
    if let Some(residual) = residual {
        check_len(OP, "residual", residual.len(), elems)?;
    }
    let ((xp, _x), (tablesp, _t)) = (input(kernels, x, stream)?, pointers(kernels, tables, stream)?);
    let ((rp, _r), (yp, _y)) = (optional_input(kernels, residual, stream)?, output(kernels, y, stream)?);
    let args = [m.into(), xp, tablesp, rp, u32::from(relu).into(), yp];
    // SAFETY: the matrices and tables have the lengths that `m` says, and `y` is borrowed mutably.
    unsafe { kernels.launch((&NORMALIZE, T::SUFFIX), m.grid(values::<T>()), 0, &args, stream) }
}

/// What [`backward`] writes; what is not wanted is left out.
pub struct Gradients<'a, X, P> {
    /// `[rows, c]`, `=` or `+=`.
    pub dx: Option<&'a mut X>,
    /// Gradient to the residual `[rows, c]`, `=` or `+=` as `dx`; needs a `dx`.
    pub dresidual: Option<&'a mut X>,
    /// Whether `dx` and `dresidual` are added to.
    pub accumulate: bool,
    /// `[c]`, always `+=`.
    pub dgamma: Option<&'a mut P>,
    /// `[c]`, always `+=`.
    pub dbeta: Option<&'a mut P>,
}

/// Gradient of [`normalize`].
///
/// The ReLU's mask is computed again from `x` with the arithmetic of [`normalize`], so it agrees with the forward pass
/// bit for bit.
///
/// Shapes: `x, dy, residual [rows, c]`, tables `[c]`; `workspace` at least [`workspace_elems`].
///
/// # Errors
/// When an extent is zero, a buffer has the wrong length, or a launch fails.
pub fn backward<T: Value, X: DevicePtrMut<T>, P: DevicePtrMut<f32>>(
    kernels: &Kernels,
    (rows, c): (usize, usize),
    (x, dy): (&impl DevicePtr<T>, &impl DevicePtr<T>),
    tables: &Tables<impl DevicePtr<f32>>,
    residual: Option<&impl DevicePtr<T>>,
    relu: bool,
    statistics: Statistics,
    gradients: Gradients<X, P>,
    workspace: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "batch_norm backward";
    let ([m, summed], elems) = matrix::<T>(OP, rows, c, x.len())?;
    tables.check(OP, c)?;
    let Gradients { dx, dresidual, accumulate, dgamma, dbeta } = gradients;
    check_len(OP, "dy", dy.len(), elems)?;
    let matrices = [("dx", dx.as_ref().map(|b| b.len())), ("dresidual", dresidual.as_ref().map(|b| b.len()))];
    let vectors = [("dgamma", dgamma.as_ref().map(|b| b.len())), ("dbeta", dbeta.as_ref().map(|b| b.len()))];
    for (list, wanted) in [(matrices, elems), (vectors, c)] {
        for (name, len) in list.into_iter().filter_map(|(name, len)| Some((name, len?))) {
            check_len(OP, name, len, wanted)?;
        }
    }
    if let Some(residual) = residual {
        check_len(OP, "residual", residual.len(), elems)?;
    }
    if dresidual.is_some() && dx.is_none() {
        return Err(Error::argument(OP, "dx with dresidual", "dresidual alone", "both are written in one pass"));
    }
    let of_batch = statistics == Statistics::OfBatch && dx.is_some();
    let reduces = of_batch || dgamma.is_some() || dbeta.is_some();
    if reduces {
        check_workspace(OP, workspace.len(), rows, c)?;
    }

    let ((xp, _x), (dyp, _dy)) = (input(kernels, x, stream)?, input(kernels, dy, stream)?);
    let ((tablesp, _t), (rp, _r)) = (pointers(kernels, tables, stream)?, optional_input(kernels, residual, stream)?);
    let (stdp, _s) = input(kernels, tables.inv_std, stream)?;
    let (means, _w) = output(kernels, workspace, stream)?;
    // The workspace begins with the means that the second pass subtracts; the partial sums follow.
    let partials: Arg = (means.word() + 8 * c as u64).into();
    let means = if of_batch { means } else { 0u64.into() };
    let relu = u32::from(relu);
    if reduces {
        let grid = summed.grid(values::<T>());
        let args = [summed.into(), xp, dyp, tablesp, rp, relu.into(), partials];
        // SAFETY: the matrices and tables have the lengths that `m` says; the workspace holds 2 c floats per block
        // behind the first 2 c.
        unsafe { kernels.launch((&BACKWARD_REDUCE, T::SUFFIX), grid, 0, &args, stream)? };
        let ((dgp, _dg), (dbp, _db)) =
            (optional_output(kernels, dgamma, stream)?, optional_output(kernels, dbeta, stream)?);
        let blocks = u64::from(m.c.div_ceil(MERGE_CHANNELS));
        let args = [summed.into(), summed.blocks().into(), partials, stdp, means, dgp, dbp];
        // SAFETY: the partial sums were queued before on the same stream; the outputs hold `c` values each.
        unsafe { kernels.launch((&BACKWARD_MERGE, "f32"), blocks, 0, &args, stream)? };
    }
    if dx.is_some() {
        let ((dxp, _dx), (drp, _dr)) =
            (optional_output(kernels, dx, stream)?, optional_output(kernels, dresidual, stream)?);
        let args = [m.into(), xp, dyp, tablesp, means, rp, relu.into(), u32::from(accumulate).into(), dxp, drp];
        // SAFETY: as above; `dx` and `dresidual` hold the matrix and are borrowed mutably.
        unsafe { kernels.launch((&BACKWARD_APPLY, T::SUFFIX), m.grid(values::<T>()), 0, &args, stream)? };
    }
    Ok(())
}
