//! Launchers of `kernels/supcon.cu`: device twins of [`cpu::supcon`](crate::cpu::supcon).
//!
//! f32 computes in true f32, bf16 on tensor cores with f32 sums. The loss is in two passes, like an op and its gradient:
//! [`loss`] leaves unit rows and a few numbers per anchor behind, from which [`loss_backward`] starts. Losses and their
//! upstream gradients stay on the device.
//!
#![doc = include_str!("../../kernels/supcon.md")]

use super::launch::{
    Entry, F32, Grid, Kernels, PTR, U32, U64, Value, check_aligned, elems, input, output, rows_are_near,
};
use crate::error::{check_len, check_temperature};
use crate::problem::{Form, MeanOver, Supcon};
use crate::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, DeviceRepr};

/// Threads of a kernel with a warp per row, `LOSS_BLOCK` of loss_rows.cuh.
const ROWS_BLOCK: u32 = 256;
/// Side of a tile of similarities, and dimensions of a block of the gradient.
const SIDE: u32 = 64;
const CHUNK: u32 = 128;
/// Floats that measure an anchor in a part of the columns: `Measured` of supcon.cu.
const MEASURED_ELEMS: usize = 6;
/// A row of the unit matrix is a multiple of this long.
const PITCH: usize = 8;
/// Blocks that keep any GPU busy: two for each of an H100's 132 multiprocessors. Results must not depend on the device.
const BUSY: u32 = 264;

/// A class of tile.cuh that multiplies: threads, those that share a row of similarities, depth of a tile in bytes, stages.
#[derive(Clone, Copy)]
struct Math {
    threads: u32,
    sharers: u32,
    depth_bytes: u32,
    stages: u32,
}

const FMA_UNITS: Math = Math { threads: 256, sharers: 16, depth_bytes: 64, stages: 3 };
const TENSOR_CORES: Math = Math { threads: 128, sharers: 8, depth_bytes: 64, stages: 4 };

impl Math {
    fn of<T: Value>() -> Math {
        if size_of::<T>() == 2 { TENSOR_CORES } else { FMA_UNITS }
    }

    /// Bytes of the stages of a product in tiles of `rows + columns`.
    fn stage_bytes(self, extent: u32) -> u32 {
        self.stages * extent * self.depth_bytes
    }
}

const PROBLEM: usize = size_of::<Problem>();
const FLOATS: &[&str] = &["f32", "bf16"];

const fn rows(name: &'static str, params: &'static [usize]) -> Entry {
    Entry { file: "supcon", name, suffixes: FLOATS, block: ROWS_BLOCK, params }
}

/// In f32 and in bf16, whose blocks differ.
const fn tiles(name: &'static str, params: &'static [usize]) -> [Entry; 2] {
    [
        Entry { file: "supcon", name, suffixes: &["f32"], block: FMA_UNITS.threads, params },
        Entry { file: "supcon", name, suffixes: &["bf16"], block: TENSOR_CORES.threads, params },
    ]
}

static NORMALIZE: Entry = rows("l2_normalize", &[U64, U32, U32, F32, PTR, PTR]);
static NORMALIZE_BACKWARD: Entry = rows("l2_normalize_backward", &[U64, U32, F32, PTR, PTR, U32, PTR]);
static SIMILARITY: [Entry; 2] = tiles("similarity_matrix", &[U32, U32, PTR, F32, PTR]);
static SIMILARITY_GUARDED: [Entry; 2] = tiles("similarity_matrix_guarded", &[U32, U32, PTR, F32, PTR]);
static SIMILARITY_BACKWARD: [Entry; 2] = tiles("similarity_matrix_backward", &[U32, U32, PTR, F32, PTR, U32, PTR]);
static MEASURE: [Entry; 2] = tiles("supcon_measure", &[PROBLEM, U32, PTR, PTR, PTR]);
static MEAN: Entry = Entry {
    file: "supcon",
    name: "supcon_mean",
    suffixes: &["f32"],
    block: ROWS_BLOCK,
    params: &[PROBLEM, U32, PTR, PTR, PTR],
};
static GRADIENT: [Entry; 2] = tiles("supcon_gradient", &[PROBLEM, size_of::<Parts>(), PTR, PTR, PTR, PTR]);
static BACKWARD: Entry = rows("supcon_backward", &[PROBLEM, U32, PTR, PTR, PTR, PTR, U32, PTR]);

pub(super) static ENTRIES: [&Entry; 14] = [
    &NORMALIZE,
    &NORMALIZE_BACKWARD,
    &SIMILARITY[0],
    &SIMILARITY[1],
    &SIMILARITY_GUARDED[0],
    &SIMILARITY_GUARDED[1],
    &SIMILARITY_BACKWARD[0],
    &SIMILARITY_BACKWARD[1],
    &MEASURE[0],
    &MEASURE[1],
    &MEAN,
    &GRADIENT[0],
    &GRADIENT[1],
    &BACKWARD,
];

fn of<T: Value>(entries: &'static [Entry; 2]) -> (&'static Entry, &'static str) {
    (&entries[usize::from(size_of::<T>() == 2)], T::SUFFIX)
}

/// `Supcon` of supcon.cu.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Problem {
    n: u32,
    views: u32,
    dim: u32,
    pitch: u32,
    form: u32,
    mean_over: u32,
    temperature: f32,
    norm_eps: f32,
    scale: f32,
}

// SAFETY: the fields of `Supcon` in supcon.cu, in their order.
unsafe impl DeviceRepr for Problem {}

/// `Parts` of product.cuh, in tiles of `SIDE` columns.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
struct Parts {
    count: u32,
    tiles: u32,
}

// SAFETY: the fields of `Parts` in product.cuh, in their order.
unsafe impl DeviceRepr for Parts {}

impl Parts {
    /// Enough parts of `tiles` for `blocks` times as many blocks to keep a GPU busy.
    fn new(tiles: u32, blocks: u32) -> Parts {
        let tiles_per_part = tiles.div_ceil((BUSY / blocks).clamp(1, tiles));
        Parts { count: tiles.div_ceil(tiles_per_part), tiles: tiles_per_part }
    }
}

/// How a loss over `batch` samples in `views` views with embeddings of `dim` numbers is computed: made once, it costs
/// nothing per step.
///
/// # Example
/// ```
/// use warpsmith::cuda::supcon::Plan;
/// use warpsmith::problem::Supcon;
/// let plan = Plan::new(&Supcon::default(), 265, 1, 128)?;
/// assert_eq!((plan.unit_elems(), plan.state_elems()), (265 * 128, 3 * 265 + 1));
/// assert!(plan.workspace_elems() < 265 * 265 * 3);
/// # Ok::<(), warpsmith::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    problem: Problem,
    measure: Parts,
    gradient: Parts,
}

impl Plan {
    /// A plan with these settings.
    ///
    /// # Errors
    /// When an extent is zero or exceeds what kernels count in 32 bits, or temperature or floor are not positive.
    pub fn new(settings: &Supcon, batch: usize, views: usize, dim: usize) -> Result<Plan> {
        const OP: &str = "supcon";
        let n = batch.saturating_mul(views);
        let [n, dim] = extents(OP, n, dim)?;
        // A plan is for either type: the larger one decides.
        if !rows_are_near(dim.next_multiple_of(PITCH as u32) as usize, size_of::<f32>()) {
            return Err(Error::shape(OP, "embeddings of fewer than 2^27 dimensions", dim, "project them to fewer"));
        }
        check_temperature(OP, settings.temperature)?;
        check_eps(OP, settings.norm_eps)?;
        let form = match settings.form {
            Form::Npairs => 0,
            Form::Out => 1,
            Form::In => 2,
        };
        let mean_over = match settings.mean_over {
            MeanOver::WithPositive => 0,
            MeanOver::All => 1,
        };
        let problem = Problem {
            n,
            views: views as u32,
            dim,
            pitch: dim.next_multiple_of(PITCH as u32),
            form,
            mean_over,
            temperature: settings.temperature,
            norm_eps: settings.norm_eps,
            scale: settings.scale,
        };
        let (tiles, chunks) = (n.div_ceil(SIDE), dim.div_ceil(CHUNK));
        let gradient = Parts::new(tiles, tiles.saturating_mul(chunks));
        Ok(Plan { problem, measure: Parts::new(tiles, tiles), gradient })
    }

    /// Elements of the unit rows.
    pub fn unit_elems(&self) -> usize {
        self.problem.n as usize * self.problem.pitch as usize
    }

    /// Floats of what the backward pass must know of the anchors.
    pub fn state_elems(&self) -> usize {
        3 * self.problem.n as usize + 1
    }

    /// Floats that a call needs while it runs.
    pub fn workspace_elems(&self) -> usize {
        let measured = self.measure.count as usize * MEASURED_ELEMS;
        let gradients = self.gradient.count as usize * self.problem.dim as usize;
        self.problem.n as usize * measured.max(gradients)
    }

    fn check(&self, op: &'static str, [z, labels, unit, state, workspace]: [usize; 5]) -> Result<()> {
        let p = &self.problem;
        check_len(op, "z", z, elems(op, &[p.n as usize, p.dim as usize])?)?;
        check_len(op, "labels", labels, (p.n / p.views) as usize)?;
        check_len(op, "unit", unit, self.unit_elems())?;
        check_len(op, "state", state, self.state_elems())?;
        if workspace >= self.workspace_elems() {
            return Ok(());
        }
        let expected = format!("a workspace of at least {} floats", self.workspace_elems());
        Err(Error::shape(op, expected, workspace, "ask Plan::workspace_elems"))
    }

    fn grid(&self, parts: Parts, chunks: u32) -> Grid {
        let across = u64::from(self.problem.n.div_ceil(SIDE)) * u64::from(chunks);
        Grid { x: across, y: u64::from(parts.count) }
    }
}

fn extents(op: &'static str, n: usize, dim: usize) -> Result<[u32; 2]> {
    if [n, dim].iter().all(|&extent| extent > 0 && extent < 1 << 30) {
        return Ok([n as u32, dim as u32]);
    }
    let got = format!("[{n}, {dim}]");
    Err(Error::shape(op, "positive extents [rows, dim] below 2^30", got, "check the extents"))
}

fn check_eps(op: &'static str, eps: f32) -> Result<()> {
    if eps > 0.0 && eps.is_finite() {
        return Ok(());
    }
    Err(Error::argument(op, "a positive floor under the squared norm", eps, "1e-12 is usual"))
}

fn row_blocks(n: u32) -> u64 {
    u64::from(n.div_ceil(ROWS_BLOCK / 32))
}

/// `y = z / sqrt(max(Σ z², eps))` per row. A row of zeros stays zero.
///
/// Shapes: `z, y [n, dim]`.
///
/// # Errors
/// When an extent is zero, a buffer has the wrong length, `eps` is not positive, or the launch fails.
pub fn l2_normalize<T: Value>(
    kernels: &Kernels,
    (n, dim): (usize, usize),
    eps: f32,
    z: &impl DevicePtr<T>,
    y: &mut impl DevicePtrMut<T>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "l2_normalize";
    let [rows, columns] = extents(OP, n, dim)?;
    check_len(OP, "z", z.len(), elems(OP, &[n, dim])?)?;
    check_len(OP, "y", y.len(), elems(OP, &[n, dim])?)?;
    check_eps(OP, eps)?;
    let ((zp, _z), (yp, _y)) = (input(kernels, z, stream)?, output(kernels, y, stream)?);
    let args = [u64::from(rows).into(), columns.into(), columns.into(), eps.into(), zp, yp];
    // SAFETY: both buffers hold `n` rows of `dim` (checked); `y` is borrowed mutably.
    unsafe { kernels.launch((&NORMALIZE, T::SUFFIX), row_blocks(rows), 0, &args, stream) }
}

/// Gradient of [`l2_normalize`]: `dz (= or += with accumulate) (dy - y (y · dy)) / |z|`; for a row under the floor the
/// normaliser is the constant `1 / sqrt(eps)`.
///
/// Shapes: `z, dy, dz [n, dim]`.
///
/// # Errors
/// As [`l2_normalize`].
pub fn l2_normalize_backward<T: Value>(
    kernels: &Kernels,
    (n, dim): (usize, usize),
    eps: f32,
    (z, dy): (&impl DevicePtr<T>, &impl DevicePtr<T>),
    accumulate: bool,
    dz: &mut impl DevicePtrMut<T>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "l2_normalize backward";
    let [rows, columns] = extents(OP, n, dim)?;
    check_len(OP, "z", z.len(), elems(OP, &[n, dim])?)?;
    check_len(OP, "dy", dy.len(), elems(OP, &[n, dim])?)?;
    check_len(OP, "dz", dz.len(), elems(OP, &[n, dim])?)?;
    check_eps(OP, eps)?;
    let ((zp, _z), (dyp, _dy)) = (input(kernels, z, stream)?, input(kernels, dy, stream)?);
    let (dzp, _dz) = output(kernels, dz, stream)?;
    let args = [u64::from(rows).into(), columns.into(), eps.into(), zp, dyp, u32::from(accumulate).into(), dzp];
    // SAFETY: the buffers hold `n` rows of `dim` (checked); `dz` is borrowed mutably.
    unsafe { kernels.launch((&NORMALIZE_BACKWARD, T::SUFFIX), row_blocks(rows), 0, &args, stream) }
}

/// `sim[i, j] = z_i · z_j / temperature`. Pass unit-norm rows for cosine similarities.
///
/// Shapes: `z [n, dim]`, `sim [n, n]`.
///
/// # Errors
/// When an extent is zero, a buffer has the wrong length, the temperature is not positive, or the launch fails.
pub fn similarity_matrix<T: Value>(
    kernels: &Kernels,
    (n, dim): (usize, usize),
    z: &impl DevicePtr<T>,
    temperature: f32,
    sim: &mut impl DevicePtrMut<T>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "similarity_matrix";
    let [rows, depth] = extents(OP, n, dim)?;
    check_len(OP, "z", z.len(), elems(OP, &[n, dim])?)?;
    check_len(OP, "sim", sim.len(), elems(OP, &[n, n])?)?;
    check_temperature(OP, temperature)?;
    let ((zp, _z), (simp, _sim)) = (input(kernels, z, stream)?, output(kernels, sim, stream)?);
    let row_bytes = dim * size_of::<T>();
    let aligned = [zp.word(), row_bytes as u64].iter().all(|bytes| bytes.is_multiple_of(16));
    let aligned = aligned && rows_are_near(dim, size_of::<T>());
    let entry = of::<T>(if aligned { &SIMILARITY } else { &SIMILARITY_GUARDED });
    let blocks = u64::from(rows.div_ceil(SIDE)).pow(2);
    let args = [rows.into(), depth.into(), zp, temperature.into(), simp];
    let shared = Math::of::<T>().stage_bytes(2 * SIDE);
    // SAFETY: `z` holds `n` rows of `dim`, `sim` the square (checked), which is borrowed mutably; a block per tile.
    unsafe { kernels.launch(entry, blocks, shared, &args, stream) }
}

/// Gradient of [`similarity_matrix`]: `dz (= or += with accumulate) (dsim + dsimᵀ) z / temperature`.
///
/// Shapes: `z, dz [n, dim]`, `dsim [n, n]`.
///
/// # Errors
/// As [`similarity_matrix`].
pub fn similarity_matrix_backward<T: Value>(
    kernels: &Kernels,
    (n, dim): (usize, usize),
    (z, dsim): (&impl DevicePtr<T>, &impl DevicePtr<T>),
    temperature: f32,
    accumulate: bool,
    dz: &mut impl DevicePtrMut<T>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "similarity_matrix backward";
    let [rows, columns] = extents(OP, n, dim)?;
    check_len(OP, "z", z.len(), elems(OP, &[n, dim])?)?;
    check_len(OP, "dz", dz.len(), elems(OP, &[n, dim])?)?;
    check_len(OP, "dsim", dsim.len(), elems(OP, &[n, n])?)?;
    check_temperature(OP, temperature)?;
    let ((zp, _z), (dsimp, _dsim)) = (input(kernels, z, stream)?, input(kernels, dsim, stream)?);
    let (dzp, _dz) = output(kernels, dz, stream)?;
    let blocks = u64::from(rows.div_ceil(SIDE)) * u64::from(columns.div_ceil(SIDE));
    let args = [rows.into(), columns.into(), zp, temperature.into(), dsimp, u32::from(accumulate).into(), dzp];
    let shared = Math::of::<T>().stage_bytes(2 * SIDE);
    // SAFETY: the buffers have the lengths of the extents (checked), and `dz`, which only the thread that writes an
    // element reads, is borrowed mutably; a block per tile.
    unsafe { kernels.launch(of::<T>(&SIMILARITY_BACKWARD), blocks, shared, &args, stream) }
}

/// A supervised contrastive loss of un-normalised embeddings, which are normalised to `unit`. `unit` and `state` are for
/// [`loss_backward`].
///
/// Shapes: `z [batch, views, dim]`, `labels [batch]`, `loss [1]`; `unit`, `state` and `workspace` of the plan's lengths,
/// `unit` aligned to 16 bytes. The similarity matrix is never stored.
///
/// # Errors
/// When a buffer has the wrong length or alignment, or a launch fails.
pub fn loss<T: Value>(
    kernels: &Kernels,
    plan: &Plan,
    (z, labels): (&impl DevicePtr<T>, &impl DevicePtr<i32>),
    (unit, state): (&mut impl DevicePtrMut<T>, &mut impl DevicePtrMut<f32>),
    loss: &mut impl DevicePtrMut<f32>,
    workspace: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "supcon";
    plan.check(OP, [z.len(), labels.len(), unit.len(), state.len(), workspace.len()])?;
    check_len(OP, "loss", loss.len(), 1)?;
    let p = plan.problem;
    let ((zp, _z), (lp, _l)) = (input(kernels, z, stream)?, input(kernels, labels, stream)?);
    let ((up, _u), (sp, _s)) = (output(kernels, unit, stream)?, output(kernels, state, stream)?);
    let ((out, _out), (wp, _w)) = (output(kernels, loss, stream)?, output(kernels, workspace, stream)?);
    check_aligned(OP, "unit", up)?;
    let args = [u64::from(p.n).into(), p.dim.into(), p.pitch.into(), p.norm_eps.into(), zp, up];
    // SAFETY: `z` and `unit` have the lengths of the plan (checked); `unit` is borrowed mutably.
    unsafe { kernels.launch((&NORMALIZE, T::SUFFIX), row_blocks(p.n), 0, &args, stream)? };
    let args = [p.into(), plan.measure.tiles.into(), up, lp, wp];
    let math = Math::of::<T>();
    let measures = math.sharers * (SIDE + 4) * MEASURED_ELEMS as u32 * F32 as u32;
    let shared = math.stage_bytes(2 * SIDE).max(measures);
    // SAFETY: unit rows as just written, aligned as just checked, a label per sample (checked); the workspace, which is
    // borrowed mutably, holds every part's measures.
    unsafe { kernels.launch(of::<T>(&MEASURE), plan.grid(plan.measure, 1), shared, &args, stream)? };
    let args = [p.into(), plan.measure.count.into(), wp, sp, out];
    // SAFETY: the measures just written; `state` and `loss`, of the plan's lengths, are borrowed mutably.
    unsafe { kernels.launch((&MEAN, "f32"), 1, 0, &args, stream) }
}

/// Gradient of [`loss`], times `dloss`, to the embeddings; `dz` is written, or with `accumulate` added to.
///
/// Shapes: `z, dz [batch, views, dim]`, `labels [batch]`, `dloss [1]`; `unit` and `state` as [`loss`] has left them, and
/// `workspace` of the plan's length.
///
/// # Errors
/// As [`loss`].
pub fn loss_backward<T: Value>(
    kernels: &Kernels,
    plan: &Plan,
    (z, labels): (&impl DevicePtr<T>, &impl DevicePtr<i32>),
    (unit, state): (&impl DevicePtr<T>, &impl DevicePtr<f32>),
    dloss: &impl DevicePtr<f32>,
    accumulate: bool,
    dz: &mut impl DevicePtrMut<T>,
    workspace: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "supcon backward";
    plan.check(OP, [z.len(), labels.len(), unit.len(), state.len(), workspace.len()])?;
    check_len(OP, "dloss", dloss.len(), 1)?;
    check_len(OP, "dz", dz.len(), z.len())?;
    let p = plan.problem;
    let ((zp, _z), (lp, _l)) = (input(kernels, z, stream)?, input(kernels, labels, stream)?);
    let ((up, _u), (sp, _s)) = (input(kernels, unit, stream)?, input(kernels, state, stream)?);
    let ((dlp, _dl), (dzp, _dz)) = (input(kernels, dloss, stream)?, output(kernels, dz, stream)?);
    let (wp, _w) = output(kernels, workspace, stream)?;
    check_aligned(OP, "unit", up)?;
    let math = Math::of::<T>();
    let slopes = SIDE * SIDE * size_of::<T>() as u32;
    // A stage of the gradient holds 64 rows of slopes and 128 columns, one of the similarities 64 and 64 rows.
    let shared = slopes + math.stage_bytes(SIDE + CHUNK);
    let args = [p.into(), plan.gradient.into(), up, lp, sp, wp];
    let grid = plan.grid(plan.gradient, p.dim.div_ceil(CHUNK));
    // SAFETY: unit rows, aligned as just checked, state and labels of the plan's lengths (checked); the workspace, which
    // is borrowed mutably, holds every part's gradient.
    unsafe { kernels.launch(of::<T>(&GRADIENT), grid, shared, &args, stream)? };
    let args = [p.into(), plan.gradient.count.into(), zp, wp, sp, dlp, u32::from(accumulate).into(), dzp];
    // SAFETY: the parts just written; `z` and `dz` have the plan's length (checked), and `dz` is borrowed mutably.
    unsafe { kernels.launch((&BACKWARD, T::SUFFIX), row_blocks(p.n), 0, &args, stream) }
}
