//! Launchers of `kernels/conv2d.cu`: device twins of [`cpu::conv2d`](crate::cpu::conv2d).
//!
//! bf16 runs on tensor cores, f32 in true f32 on FMA units, or on tensor cores in tf32 where [`Plan::tf32`] asks for it; sums
//! are f32, and so are gradients of filters and biases. A [`Plan`] says in which tiles a pass is computed. To make one takes
//! the host a few microseconds: it can be made for every call, or once and kept.
//!
#![doc = include_str!("../../kernels/conv2d.md")]

use super::launch::{Arg, Entry, Grid, Kernels, PTR, U32, U64, Value, input, optional_input, output, rows_are_near};
use super::rows::{ROWS_BLOCK, Rows};
use crate::error::check_len;
use crate::problem::Conv2dProblem;
use crate::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, DeviceRepr};

const F32: &[&str] = &["f32"];
const BF16: &[&str] = &["bf16"];
const TF32: &[&str] = &["tf32"];
const FLOATS: &[&str] = &["f32", "bf16"];
const BLOCK: u32 = 256;

/// One kernel of a pass per row of [`TILES`], and last the one that takes any shape and alignment.
macro_rules! pass {
    ($pass:literal, tf32) => {
        [
            gemm(concat!("conv2d_", $pass, "_implicit_gemm_128x128"), TF32, TENSOR_CORES_TF32),
            gemm(concat!("conv2d_", $pass, "_implicit_gemm_128x64"), TF32, TENSOR_CORES_TF32),
            gemm(concat!("conv2d_", $pass, "_implicit_gemm_64x64"), TF32, TENSOR_CORES_TF32),
        ]
    };
    ($pass:literal, plain $suffixes:expr, $math:expr) => {
        [
            gemm(concat!("conv2d_", $pass, "_gemm_128x128"), $suffixes, $math),
            gemm(concat!("conv2d_", $pass, "_gemm_128x64"), $suffixes, $math),
            gemm(concat!("conv2d_", $pass, "_gemm_64x64"), $suffixes, $math),
        ]
    };
    ($pass:literal, $suffixes:expr, $math:expr) => {
        [
            gemm(concat!("conv2d_", $pass, "_implicit_gemm_128x128"), $suffixes, $math),
            gemm(concat!("conv2d_", $pass, "_implicit_gemm_128x64"), $suffixes, $math),
            gemm(concat!("conv2d_", $pass, "_implicit_gemm_64x64"), $suffixes, $math),
            gemm(concat!("conv2d_", $pass, "_implicit_gemm_guarded"), $suffixes, $math),
        ]
    };
}

const fn gemm(name: &'static str, suffixes: &'static [&'static str], math: Math) -> Entry {
    const PARAMS: &[usize] = &[size_of::<Conv2dProblem>(), size_of::<Parts>(), PTR, PTR, size_of::<Finish>()];
    Entry { file: "conv2d", name, suffixes, block: math.threads, params: PARAMS }
}

static FPROP_F32: [Entry; 4] = pass!("fprop", F32, FMA_UNITS);
static DGRAD_F32: [Entry; 4] = pass!("dgrad", F32, FMA_UNITS);
static WGRAD_F32: [Entry; 4] = pass!("wgrad", F32, FMA_UNITS);
static FPROP_BF16: [Entry; 4] = pass!("fprop", BF16, TENSOR_CORES);
static DGRAD_BF16: [Entry; 4] = pass!("dgrad", BF16, TENSOR_CORES);
static WGRAD_BF16: [Entry; 4] = pass!("wgrad", BF16, TENSOR_CORES);
static FPROP_TF32: [Entry; 3] = pass!("fprop", tf32);
static DGRAD_TF32: [Entry; 3] = pass!("dgrad", tf32);
static WGRAD_TF32: [Entry; 3] = pass!("wgrad", tf32);
/// Kernels of a pass over plain matrices, a row of [`TILES`] each.
static FPROP_PLAIN: [[Entry; 3]; 2] =
    [pass!("fprop", plain BF16, TENSOR_CORES), pass!("fprop", plain TF32, TENSOR_CORES_TF32)];
static DGRAD_PLAIN: [[Entry; 3]; 2] =
    [pass!("dgrad", plain BF16, TENSOR_CORES), pass!("dgrad", plain TF32, TENSOR_CORES_TF32)];
static WGRAD_PLAIN: [[Entry; 3]; 2] =
    [pass!("wgrad", plain BF16, TENSOR_CORES), pass!("wgrad", plain TF32, TENSOR_CORES_TF32)];
static REDUCE: Entry = Entry {
    file: "conv2d",
    name: "conv2d_reduce_parts",
    suffixes: FLOATS,
    block: BLOCK,
    params: &[U64, U32, U32, PTR, size_of::<Finish>()],
};
static BIAS_GRAD: Entry = Entry {
    file: "conv2d",
    name: "conv2d_bias_grad",
    suffixes: FLOATS,
    block: ROWS_BLOCK,
    params: &[size_of::<Rows>(), PTR, PTR],
};

pub(super) static ENTRIES: [&Entry; 53] = {
    let passes = [&FPROP_F32, &DGRAD_F32, &WGRAD_F32, &FPROP_BF16, &DGRAD_BF16, &WGRAD_BF16];
    let tf32 = [&FPROP_TF32, &DGRAD_TF32, &WGRAD_TF32];
    let plain = [&FPROP_PLAIN, &DGRAD_PLAIN, &WGRAD_PLAIN];
    let mut entries = [&REDUCE; 53];
    let mut i = 0;
    while i < 51 {
        entries[i] = match i {
            0..24 => &passes[i / 4][i % 4],
            24..33 => &tf32[(i - 24) / 3][i % 3],
            _ => &plain[(i - 33) / 6][(i - 33) / 3 % 2][i % 3],
        };
        i += 1;
    }
    entries[51] = &BIAS_GRAD;
    entries
};

// SAFETY: 17 u32 in the order of `Conv2dProblem` in problem.cuh.
unsafe impl DeviceRepr for Conv2dProblem {}

/// `Parts` of conv2d.cu.
#[repr(C)]
#[derive(Clone, Copy)]
struct Parts {
    count: u32,
    tiles: u32,
}

// SAFETY: the fields of `Parts` in conv2d.cu, in their order.
unsafe impl DeviceRepr for Parts {}

/// `Finish` of tile.cuh: addresses, 0 for null.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Finish {
    pub bias: u64,
    pub residual: u64,
    pub out: u64,
    pub partials: u64,
}

// SAFETY: the fields of `Finish` in tile.cuh, in their order.
unsafe impl DeviceRepr for Finish {}

/// A class of tile.cuh that multiplies: its constants, and what a tile costs on an H100.
#[derive(Clone, Copy)]
struct Math {
    threads: u32,
    bk: u32,
    stages: u32,
    /// Time of one element of a 128 x 128 tile, BK deep, in picoseconds.
    step_ps: f64,
}

const TENSOR_CORES: Math = Math { threads: 128, bk: 32, stages: 4, step_ps: 14.0 };
const TENSOR_CORES_TF32: Math = Math { threads: 128, bk: 16, stages: 4, step_ps: 14.0 };
const FMA_UNITS: Math = Math { threads: 256, bk: 16, stages: 3, step_ps: 70.0 };

/// Tiles to choose from: `BM`, `BN`, and how much longer an element of theirs takes than one of the largest.
const TILES: [(u32, u32, f64); 3] = [(128, 128, 1.0), (128, 64, 1.15), (64, 64, 1.35)];
/// The row of [`TILES`] that the guarded kernels are compiled with.
const GUARDED: usize = 2;
/// Multiprocessors that a plan is made for, an H100's: results must not depend on the device.
const MULTIPROCESSORS: u64 = 132;
/// Floats of partial sums at most: 64 MiB.
const PARTIAL_ELEMS: u64 = 16 << 20;

/// Which result of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pass {
    /// `y`.
    Fprop,
    /// `dx`.
    Dgrad,
    /// `dw`.
    Wgrad,
}

/// How a pass over a problem is computed: in which tiles, and the depth of the product in how many parts.
///
/// # Example
/// ```
/// use warpsmith::cuda::conv2d::{Pass, Plan};
/// use warpsmith::problem::{Conv2dProblem, Window};
/// // The last stage of ResNet50V2 at 32x32: few results, deep sums.
/// let problem = Conv2dProblem::new([265, 1, 1, 512], [512, 3, 3, 512], Window::square(1, 1))?;
/// let plan = Plan::new::<half::bf16>(Pass::Fprop, &problem)?;
/// assert_eq!(plan.workspace_elems(), plan.parts() as usize * problem.y_elems());
/// assert!(plan.parts() > 1);
/// # Ok::<(), warpsmith::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    pass: Pass,
    problem: Conv2dProblem,
    /// As the kernel sees it: [`flattened`].
    flat: Conv2dProblem,
    /// `f32`, `bf16` or `tf32`.
    kind: &'static str,
    tile: usize,
    parts: u32,
}

impl Plan {
    /// The plan with the least predicted time; the same for every device, so that results are.
    ///
    /// # Errors
    /// When the problem contradicts itself or its extents exceed what kernels count in 32 bits.
    pub fn new<T: Value>(pass: Pass, problem: &Conv2dProblem) -> Result<Plan> {
        Ok(best(Plan::candidates::<T>(pass, problem)?))
    }

    /// A plan for f32 tensors on tensor cores: products of 10 bits of mantissa, sums in f32. Channels that are no whole
    /// tiles or packs are computed in true f32.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn tf32(pass: Pass, problem: &Conv2dProblem) -> Result<Plan> {
        Ok(best(Plan::tf32_candidates(pass, problem)?))
    }

    /// All plans worth a measurement, for a search on a real device.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn candidates<T: Value>(pass: Pass, problem: &Conv2dProblem) -> Result<Vec<Plan>> {
        Plan::of_kind(T::SUFFIX, pass, problem)
    }

    /// As [`Plan::candidates`], for [`Plan::tf32`].
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub fn tf32_candidates(pass: Pass, problem: &Conv2dProblem) -> Result<Vec<Plan>> {
        Plan::of_kind("tf32", pass, problem)
    }

    fn of_kind(kind: &'static str, pass: Pass, problem: &Conv2dProblem) -> Result<Vec<Plan>> {
        check(problem)?;
        let mut plans = Vec::new();
        for tile in 0..TILES.len() {
            for parts in [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64] {
                let plan = Plan { pass, problem: *problem, flat: flattened(problem), kind, tile, parts };
                let deep = plan.depth().div_ceil(plan.math().bk);
                // A part is worth its start when it is a few tiles deep.
                let fits = plan.result_elems() as u64 <= PARTIAL_ELEMS / u64::from(parts) && deep >= 4 * parts;
                if parts == 1 || fits {
                    plans.push(plan);
                }
            }
        }
        Ok(plans)
    }

    /// What is computed.
    pub fn pass(&self) -> Pass {
        self.pass
    }

    /// The problem that this is a plan for.
    pub fn problem(&self) -> &Conv2dProblem {
        &self.problem
    }

    /// Rows and columns of a tile.
    pub fn tile(&self) -> (u32, u32) {
        (TILES[self.tile].0, TILES[self.tile].1)
    }

    /// Parts of the depth, which are added in their order.
    pub fn parts(&self) -> u32 {
        self.parts
    }

    /// Floats of workspace that the pass needs; a buffer of one float will do where it is 0.
    pub fn workspace_elems(&self) -> usize {
        if self.parts == 1 { 0 } else { self.parts as usize * self.result_elems() }
    }

    fn math(&self) -> Math {
        match self.kind {
            "bf16" => TENSOR_CORES,
            "tf32" => TENSOR_CORES_TF32,
            _ => FMA_UNITS,
        }
    }

    fn result_elems(&self) -> usize {
        match self.pass {
            Pass::Fprop => self.problem.y_elems(),
            Pass::Dgrad => self.problem.x_elems(),
            Pass::Wgrad => self.problem.w_elems(),
        }
    }

    /// Products of matrices, one per residue of a strided dgrad, and rows and columns of the largest.
    fn extents(&self) -> (u64, u32, u32) {
        let p = &self.flat;
        match self.pass {
            Pass::Fprop => (1, p.n * p.p * p.q, p.k),
            Pass::Dgrad => {
                // A stride longer than the image has no more residues than pixels.
                let residues = u64::from(p.stride_h.min(p.h)) * u64::from(p.stride_w.min(p.w));
                (residues, p.n * p.h.div_ceil(p.stride_h) * p.w.div_ceil(p.stride_w), p.c)
            }
            Pass::Wgrad => (1, p.k, p.r * p.s * p.c),
        }
    }

    /// Depth of the product, of the deepest residue.
    fn depth(&self) -> u32 {
        let p = &self.flat;
        let taps = |taps: u32, stride: u32, dilation: u32| {
            let (mut divisor, mut rest) = (stride, dilation);
            while rest != 0 {
                (divisor, rest) = (rest, divisor % rest);
            }
            taps.div_ceil(stride / divisor)
        };
        match self.pass {
            Pass::Fprop => p.r * p.s * p.c,
            Pass::Dgrad => taps(p.r, p.stride_h, p.dilation_h) * taps(p.s, p.stride_w, p.dilation_w) * p.k,
            Pass::Wgrad => p.n * p.p * p.q,
        }
    }

    fn grid(&self, tile: usize) -> Grid {
        let (bm, bn, _) = TILES[tile];
        let (slices, rows, columns) = self.extents();
        let tiles = u64::from(rows.div_ceil(bm)) * u64::from(columns.div_ceil(bn));
        Grid { x: slices * tiles, y: u64::from(self.parts) }
    }

    fn tiles_per_part(&self) -> u32 {
        self.depth().div_ceil(self.math().bk).div_ceil(self.parts)
    }

    /// Time on an H100 by a model of waves of blocks; only good for comparing plans.
    fn predicted_us(&self) -> f64 {
        let (bm, bn, factor) = TILES[self.tile];
        let grid = self.grid(self.tile);
        let waves = (grid.x * grid.y).div_ceil(MULTIPROCESSORS) as f64;
        // Filling the ring and the epilogue take about as long as four tiles.
        let tiles = f64::from(self.tiles_per_part()) + 4.0;
        let products = waves * tiles * f64::from(bm * bn) * factor * self.math().step_ps;
        // Partial sums are written and read at 3 TB/s, by one more kernel.
        let partials = if self.parts == 1 { 0.0 } else { 2e6 + 8.0 / 3.0 * self.workspace_elems() as f64 };
        (products + partials) * 1e-6
    }

    /// Whether the pieces of 16 bytes that the kernels copy are aligned and whole, and not too many to count in 32 bits
    /// within what a tile spans.
    fn is_aligned(&self, operands: [Arg; 2]) -> bool {
        let p = &self.flat;
        let pack = 16 / self.elem_bytes();
        let near = rows_are_near(p.gemm_k().max(p.k as usize), self.elem_bytes() as usize);
        let aligned = near && p.c.is_multiple_of(pack) && operands.iter().all(|o| o.word().is_multiple_of(16));
        let packs_of_k = self.pass == Pass::Fprop || p.k.is_multiple_of(pack);
        if !aligned || !packs_of_k || self.is_gemm() {
            return aligned && packs_of_k;
        }
        let whole = match self.pass {
            Pass::Fprop => p.c >= self.math().bk,
            Pass::Dgrad => p.k.is_multiple_of(self.math().bk),
            Pass::Wgrad => true,
        };
        let (image, pixels) = match self.pass {
            Pass::Dgrad => {
                ([p.p, p.q, p.k], u64::from((p.h / p.stride_h).max(1)) * u64::from((p.w / p.stride_w).max(1)))
            }
            _ => ([p.h, p.w, p.c], u64::from(p.p) * u64::from(p.q)),
        };
        let [rows, columns, channels] = image.map(u64::from);
        let images = (128 / pixels + 2).min(u64::from(p.n));
        // A window may begin as far outside its image as its last tap is from its first.
        let down = u64::from(p.r - 1) * u64::from(p.dilation_h);
        let right = u64::from(p.s - 1) * u64::from(p.dilation_w);
        let span = images * rows * columns + down * columns + right;
        whole && span * channels / u64::from(pack) < 1 << 31
    }

    /// Whether the matrices are plain ones, for which there are kernels on tensor cores.
    fn is_gemm(&self) -> bool {
        self.kind != "f32" && is_plain(&self.flat)
    }

    fn elem_bytes(&self) -> u32 {
        if self.kind == "bf16" { 2 } else { 4 }
    }

    fn entries(&self) -> &'static [Entry] {
        if self.is_gemm() {
            let kind = usize::from(self.kind == "tf32");
            return match self.pass {
                Pass::Fprop => &FPROP_PLAIN[kind],
                Pass::Dgrad => &DGRAD_PLAIN[kind],
                Pass::Wgrad => &WGRAD_PLAIN[kind],
            };
        }
        self.implicit_entries()
    }

    /// The kernels that take any window; last of bf16 and f32 the guarded one.
    fn implicit_entries(&self) -> &'static [Entry] {
        match (self.pass, self.kind) {
            (Pass::Fprop, "bf16") => &FPROP_BF16,
            (Pass::Dgrad, "bf16") => &DGRAD_BF16,
            (Pass::Wgrad, "bf16") => &WGRAD_BF16,
            (Pass::Fprop, "tf32") => &FPROP_TF32,
            (Pass::Dgrad, "tf32") => &DGRAD_TF32,
            (Pass::Wgrad, "tf32") => &WGRAD_TF32,
            (Pass::Fprop, _) => &FPROP_F32,
            (Pass::Dgrad, _) => &DGRAD_F32,
            (Pass::Wgrad, _) => &WGRAD_F32,
        }
    }

    /// The plan must be for this pass and type, and the workspace large enough.
    fn check<T: Value>(&self, op: &'static str, pass: Pass, workspace: usize) -> Result<()> {
        let fits = self.kind == T::SUFFIX || (self.kind, T::SUFFIX) == ("tf32", "f32");
        if self.pass != pass || !fits {
            return Err(Error::argument(
                op,
                format_args!("a plan for {pass:?} in {}", T::SUFFIX),
                format_args!("one for {:?} in {}", self.pass, self.kind),
                "make it with Plan::new of that pass and type",
            ));
        }
        if workspace >= self.workspace_elems() {
            return Ok(());
        }
        let expected = format!("a workspace of at least {} floats", self.workspace_elems());
        Err(Error::shape(op, expected, workspace, "ask Plan::workspace_elems"))
    }

    /// Queues the product and, with several parts, their sum. `columns` are those of the result.
    ///
    /// # Safety
    /// Operands, `finish` and the workspace are valid for the plan's problem, the written ones this call's alone.
    unsafe fn launch(
        &self,
        kernels: &Kernels,
        operands: [Arg; 2],
        finish: Finish,
        (reduce, columns): (&'static str, u32),
        workspace: Arg,
        stream: &CudaStream,
    ) -> Result<()> {
        let aligned = self.is_aligned(operands);
        if !aligned && self.kind == "tf32" {
            // There is no guarded kernel in tf32: true f32 is as good.
            let plan = Plan { kind: "f32", ..*self };
            // SAFETY: the caller's contract is the same.
            return unsafe { plan.launch(kernels, operands, finish, (reduce, columns), workspace, stream) };
        }
        let math = self.math();
        let (entry, tile) = match aligned {
            true => (&self.entries()[self.tile], self.tile),
            false => (&self.implicit_entries()[TILES.len()], GUARDED),
        };
        let stage = (TILES[tile].0 + TILES[tile].1) * math.bk * self.elem_bytes();
        let parts = Parts { count: self.parts, tiles: self.tiles_per_part() };
        let partials = if self.parts == 1 { 0 } else { workspace.word() };
        let args = [self.flat.into(), parts.into(), operands[0], operands[1], Finish { partials, ..finish }.into()];
        // SAFETY: the caller's contract; the grid has a block per tile, part and residue.
        unsafe { kernels.launch((entry, self.kind), self.grid(tile), stage * math.stages, &args, stream)? };
        if self.parts == 1 {
            return Ok(());
        }
        let elems = self.result_elems() as u64;
        let args = [elems.into(), columns.into(), self.parts.into(), workspace, finish.into()];
        // SAFETY: the parts that the first kernel has written, and the caller's contract.
        unsafe { kernels.launch((&REDUCE, reduce), elems.div_ceil(4 * u64::from(BLOCK)), 0, &args, stream) }
    }
}

fn best(plans: Vec<Plan>) -> Plan {
    let best = plans.into_iter().min_by(|a, b| a.predicted_us().total_cmp(&b.predicted_us()));
    best.expect("there are candidates for every problem")
}

/// Whether the windows are 1x1 and take every pixel once: a plain GEMM.
fn is_plain(p: &Conv2dProblem) -> bool {
    let single = (p.r, p.s, p.stride_h, p.stride_w) == (1, 1, 1, 1) && (p.pad_top, p.pad_left) == (0, 0);
    single && (p.p, p.q) == (p.h, p.w)
}

/// A plain GEMM as an image of one row. Strides longer than the padded image, of which there is one window, as long as
/// that: kernels calculate with them in an int.
fn flattened(p: &Conv2dProblem) -> Conv2dProblem {
    if !is_plain(p) {
        let stride_h = p.stride_h.min(p.h + p.pad_top + p.pad_bottom);
        let stride_w = p.stride_w.min(p.w + p.pad_left + p.pad_right);
        return Conv2dProblem { stride_h, stride_w, ..*p };
    }
    let pixels = p.gemm_m() as u32;
    Conv2dProblem { n: 1, h: 1, w: pixels, p: 1, q: pixels, ..*p }
}

/// Pixels and depths stay below this: kernels count them in 32 bits.
const EXTENT: usize = 1 << 30;
/// Padded extents of an image stay below this: before wgrad wraps a position around, it has gone up to three times as far.
const PADDED: usize = 1 << 29;

fn check(p: &Conv2dProblem) -> Result<()> {
    const OP: &str = "conv2d";
    p.check(OP)?;
    let [n, h, w, k] = [p.n, p.h, p.w, p.k].map(|extent| extent as usize);
    let padded_h = h + p.pad_top as usize + p.pad_bottom as usize;
    let padded_w = w + p.pad_left as usize + p.pad_right as usize;
    let pixels = (n * h * w).max(p.gemm_m());
    let depth = p.gemm_k().max(p.r as usize * p.s as usize * k);
    let tap = if p.r > 1 { p.dilation_h as usize * w.max(p.q as usize) } else { 0 };
    if padded_h.max(padded_w) < PADDED && [pixels, depth, tap].iter().all(|&extent| extent < EXTENT) {
        return Ok(());
    }
    Err(Error::shape(
        OP,
        "fewer than 2^29 padded rows and columns, 2^30 pixels, filter elements (r s c, r s k) and pixels between two taps",
        format_args!("{p:?}"),
        "split the batch or the channels",
    ))
}

/// `y = conv(x, w) (+ bias) (+ residual)`.
///
/// Shapes: `x [n,h,w,c]`, `w [k,r,s,c]`, `bias [k]`, `residual, y [n,p,q,k]`; `workspace` of [`Plan::workspace_elems`].
///
/// # Errors
/// When the plan is for another pass or type, a buffer has the wrong length, or a launch fails.
pub fn fprop<T: Value>(
    kernels: &Kernels,
    plan: &Plan,
    (x, w): (&impl DevicePtr<T>, &impl DevicePtr<T>),
    bias: Option<&impl DevicePtr<f32>>,
    residual: Option<&impl DevicePtr<T>>,
    y: &mut impl DevicePtrMut<T>,
    workspace: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "conv2d.fprop";
    let p = &plan.problem;
    plan.check::<T>(OP, Pass::Fprop, workspace.len())?;
    check_len(OP, "x", x.len(), p.x_elems())?;
    check_len(OP, "w", w.len(), p.w_elems())?;
    check_len(OP, "y", y.len(), p.y_elems())?;
    if let Some(bias) = bias {
        check_len(OP, "bias", bias.len(), p.k as usize)?;
    }
    if let Some(residual) = residual {
        check_len(OP, "residual", residual.len(), p.y_elems())?;
    }
    let ((xp, _x), (wp, _w)) = (input(kernels, x, stream)?, input(kernels, w, stream)?);
    let ((bias, _b), (residual, _r)) =
        (optional_input(kernels, bias, stream)?, optional_input(kernels, residual, stream)?);
    let ((yp, _y), (workspace, _ws)) = (output(kernels, y, stream)?, output(kernels, workspace, stream)?);
    let finish = Finish { bias: bias.word(), residual: residual.word(), out: yp.word(), partials: 0 };
    // SAFETY: all buffers have the lengths of the plan's problem (checked); `y` and the workspace are borrowed mutably.
    unsafe { plan.launch(kernels, [xp, wp], finish, (T::SUFFIX, p.k), workspace, stream) }
}

/// Gradient to the input: `dx =` the adjoint of [`fprop`]. A strided one multiplies no zeros: pixels are sorted by
/// their residue modulo the stride, and each residue has its own taps.
///
/// Shapes: `w [k,r,s,c]`, `dy [n,p,q,k]`, `dx [n,h,w,c]`; `workspace` of [`Plan::workspace_elems`].
///
/// # Errors
/// When the plan is for another pass or type, a buffer has the wrong length, or a launch fails.
pub fn dgrad<T: Value>(
    kernels: &Kernels,
    plan: &Plan,
    (w, dy): (&impl DevicePtr<T>, &impl DevicePtr<T>),
    dx: &mut impl DevicePtrMut<T>,
    workspace: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "conv2d.dgrad";
    let p = &plan.problem;
    plan.check::<T>(OP, Pass::Dgrad, workspace.len())?;
    check_len(OP, "w", w.len(), p.w_elems())?;
    check_len(OP, "dy", dy.len(), p.y_elems())?;
    check_len(OP, "dx", dx.len(), p.x_elems())?;
    let ((wp, _w), (dyp, _dy)) = (input(kernels, w, stream)?, input(kernels, dy, stream)?);
    let ((dxp, _dx), (workspace, _ws)) = (output(kernels, dx, stream)?, output(kernels, workspace, stream)?);
    let finish = Finish { bias: 0, residual: 0, out: dxp.word(), partials: 0 };
    // SAFETY: all buffers have the lengths of the plan's problem (checked); `dx` and the workspace are borrowed mutably.
    unsafe { plan.launch(kernels, [wp, dyp], finish, (T::SUFFIX, p.c), workspace, stream) }
}

/// Gradient to the filters: `dw +=` the adjoint of [`fprop`], in f32 for every type.
///
/// Shapes: `x [n,h,w,c]`, `dy [n,p,q,k]`, `dw [k,r,s,c]`; `workspace` of [`Plan::workspace_elems`].
///
/// # Errors
/// When the plan is for another pass or type, a buffer has the wrong length, or a launch fails.
pub fn wgrad<T: Value>(
    kernels: &Kernels,
    plan: &Plan,
    (x, dy): (&impl DevicePtr<T>, &impl DevicePtr<T>),
    dw: &mut impl DevicePtrMut<f32>,
    workspace: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "conv2d.wgrad";
    let p = &plan.problem;
    plan.check::<T>(OP, Pass::Wgrad, workspace.len())?;
    check_len(OP, "x", x.len(), p.x_elems())?;
    check_len(OP, "dy", dy.len(), p.y_elems())?;
    check_len(OP, "dw", dw.len(), p.w_elems())?;
    let ((xp, _x), (dyp, _dy)) = (input(kernels, x, stream)?, input(kernels, dy, stream)?);
    let ((dwp, _dw), (workspace, _ws)) = (output(kernels, dw, stream)?, output(kernels, workspace, stream)?);
    let finish = Finish { bias: 0, residual: dwp.word(), out: dwp.word(), partials: 0 };
    let columns = p.gemm_k() as u32;
    // SAFETY: all buffers have the lengths of the plan's problem (checked); `dw`, read and written by the same threads,
    // and the workspace are borrowed mutably.
    unsafe { plan.launch(kernels, [xp, dyp], finish, ("f32", columns), workspace, stream) }
}

/// Floats of workspace that [`bias_grad`] needs for `rows = n p q` of `k` channels, whatever the element type.
pub fn bias_grad_workspace_elems(rows: usize, k: usize) -> usize {
    let channels = u32::try_from(k).unwrap_or(u32::MAX).max(1);
    let blocks = |values| Rows::summed(rows.max(1), channels, values).blocks() as usize;
    blocks(4).max(blocks(8)).saturating_mul(k)
}

/// Gradient to the bias: `db[k] += sum over n, p, q of dy`, in f32 for every type.
///
/// Shapes: `dy [n,p,q,k]`, `db [k]`; `workspace` of [`bias_grad_workspace_elems`].
///
/// # Errors
/// When the problem contradicts itself, a buffer has the wrong length, or a launch fails.
pub fn bias_grad<T: Value>(
    kernels: &Kernels,
    problem: &Conv2dProblem,
    dy: &impl DevicePtr<T>,
    db: &mut impl DevicePtrMut<f32>,
    workspace: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    const OP: &str = "conv2d.bias_grad";
    check(problem)?;
    let (rows, k) = (problem.gemm_m(), problem.k as usize);
    check_len(OP, "dy", dy.len(), problem.y_elems())?;
    check_len(OP, "db", db.len(), k)?;
    let needed = bias_grad_workspace_elems(rows, k);
    if workspace.len() < needed {
        let expected = format!("a workspace of at least {needed} floats");
        return Err(Error::shape(OP, expected, workspace.len(), "ask bias_grad_workspace_elems"));
    }
    let values = if size_of::<T>() == 2 { 8 } else { 4 };
    let m = Rows::summed(rows, problem.k, values);
    let ((dyp, _dy), (dbp, _db)) = (input(kernels, dy, stream)?, output(kernels, db, stream)?);
    let (partials, _ws) = output(kernels, workspace, stream)?;
    // SAFETY: `dy` holds the matrix and the workspace a sum per block of rows (checked); it is borrowed mutably.
    unsafe { kernels.launch((&BIAS_GRAD, T::SUFFIX), m.grid(values), 0, &[m.into(), dyp, partials], stream)? };
    let finish = Finish { bias: 0, residual: dbp.word(), out: dbp.word(), partials: 0 };
    let args = [(k as u64).into(), problem.k.into(), m.blocks().into(), partials, finish.into()];
    // SAFETY: the sums that the first kernel has written, and `db`, borrowed mutably.
    unsafe { kernels.launch((&REDUCE, "f32"), (k as u64).div_ceil(4 * u64::from(BLOCK)), 0, &args, stream) }
}

#[cfg(test)]
mod tests {
    use super::{GUARDED, Pass, Plan};
    use crate::problem::{Conv2dProblem, Window};

    #[test]
    fn a_grid_has_room_for_every_residue() {
        // 65,536 residues: more than a grid is high.
        let problem = Conv2dProblem::new([1, 256, 256, 1], [1, 1, 1, 1], Window::square(0, 256)).unwrap();
        for plan in Plan::candidates::<f32>(Pass::Dgrad, &problem).unwrap() {
            for tile in [plan.tile, GUARDED] {
                let grid = plan.grid(tile);
                assert!(grid.x <= i32::MAX as u64 && grid.y <= 65_535, "{grid:?}");
                assert_eq!(grid.x * grid.y, u64::from(plan.parts) << 16, "a tile for every residue and part");
            }
        }
    }
}
