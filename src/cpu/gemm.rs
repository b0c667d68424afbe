//! Single-precision matrix product: packed, cache-blocked and register-tiled, the core of convolution and linear.
//!
//! Three levels, after BLIS:
//!
//! - A *tile* of `mr x nr` results lives in registers while the depth (the summed index) runs by. Each step loads one
//!   row of B as vectors and multiplies it by one broadcast element of A per row.
//! - A *row block* of A, at most `MC` rows by `KC` deep, is copied next to each other so that it stays in the L2
//!   cache while every panel of B passes by. The copy is where convolution gathers its filter taps.
//! - B is packed once per call into *panels* of `nr` columns, `[panel][depth][nr]`, shared by all threads.
//!
//! A row of packed A is `LDA` floats long, a constant: the tile addresses its rows by displacement from one pointer,
//! no transposition is needed, and the odd multiple of a cache line keeps the rows in different cache sets.
//!
//! The tile is written once over `Lanes` and compiled for AVX-512 (14x32), AVX2 with FMA (6x16) and plain Rust
//! (6x8); [`Isa::detect`] picks one at run time. Every row count up to `mr` has its own code, so a short block costs
//! no padding.

use crate::error::{Error, Result};
use rayon::prelude::*;
use std::cell::{Cell, RefCell};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Depth of a block: a panel of B (`KC x 32` floats) and a few rows of A fit the first two cache levels.
pub(crate) const KC: usize = 384;
/// Longest chain of products that one register sums up before it is added to the sums so far. A float32 chain's rounding
/// error grows with its length: whole blocks of [`KC`] would double the error of a deep product.
const CHAIN: usize = 96;
/// Distance between packed rows of A, in floats: an odd number of cache lines.
pub(crate) const LDA: usize = KC + 16;
/// Rows of a block of A: `MC x KC` floats fill a fifth of a 1 MiB L2 cache.
pub(crate) const MC: usize = 144;
/// The largest tile of any instruction set.
const MR_MAX: usize = 14;
const NR_MAX: usize = 32;
/// Work is cut into at least this many pieces (where the problem allows), whatever the number of threads.
pub(crate) const PIECES: usize = 32;

/// Instruction set of the register tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isa {
    /// 16 lanes, 14x32 tile.
    Avx512,
    /// 8 lanes with fused multiply-add, 6x16 tile.
    Avx2,
    /// 4 lanes of plain Rust, 6x8 tile.
    Portable,
}

impl Isa {
    /// All instruction sets, fastest first.
    pub const ALL: [Isa; 3] = [Isa::Avx512, Isa::Avx2, Isa::Portable];

    /// Whether this processor can run it.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx512 | Isa::Avx2 => false,
            Isa::Portable => true,
        }
    }

    /// The fastest one this processor can run.
    pub fn detect() -> Isa {
        Isa::ALL.into_iter().find(|isa| isa.is_available()).unwrap_or(Isa::Portable)
    }

    /// Rows of the register tile.
    pub(crate) fn mr(self) -> usize {
        match self {
            Isa::Avx512 => 14,
            Isa::Avx2 | Isa::Portable => 6,
        }
    }

    /// Floats in a vector.
    pub(crate) fn lanes(self) -> usize {
        match self {
            Isa::Avx512 => 16,
            Isa::Avx2 => 8,
            Isa::Portable => 4,
        }
    }

    /// Columns of the register tile: two vectors.
    pub(crate) fn nr(self) -> usize {
        2 * self.lanes()
    }
}

/// Runs a closure compiled for an instruction set, so that the copies in it use its vectors.
#[inline(always)]
pub(crate) fn compiled_for<T>(isa: Isa, f: impl FnOnce() -> T) -> T {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn avx512<T>(f: impl FnOnce() -> T) -> T {
            f()
        }
        #[target_feature(enable = "avx2")]
        fn avx2<T>(f: impl FnOnce() -> T) -> T {
            f()
        }
        match isa {
            // SAFETY: an instruction set is only chosen after `is_available`.
            Isa::Avx512 => return unsafe { avx512(f) },
            // SAFETY: as above.
            Isa::Avx2 => return unsafe { avx2(f) },
            Isa::Portable => {}
        }
    }
    f()
}

thread_local! {
    static FORCED: Cell<Option<Isa>> = const { Cell::new(None) };
}

/// Runs `f` with every product that this thread starts on a given instruction set: for tests and measurements.
///
/// # Errors
/// When this processor lacks the instruction set.
#[doc(hidden)]
pub fn with_isa<T>(isa: Isa, f: impl FnOnce() -> T) -> Result<T> {
    if !isa.is_available() {
        return Err(Error::argument(
            "gemm",
            "an instruction set of this processor",
            format_args!("{isa:?}"),
            "use Isa::detect",
        ));
    }
    let before = FORCED.replace(Some(isa));
    let result = f();
    FORCED.set(before);
    Ok(result)
}

/// The instruction set for a call that this thread starts.
pub(crate) fn current_isa() -> Isa {
    FORCED.get().unwrap_or_else(Isa::detect)
}

/// One cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

/// A buffer that only grows, aligned to cache lines. Its contents are unspecified between uses.
#[derive(Default)]
pub(crate) struct Scratch(Vec<Line>);

impl Scratch {
    /// The first `elems` floats, growing the buffer where needed.
    pub(crate) fn floats(&mut self, elems: usize) -> &mut [f32] {
        let lines = elems.div_ceil(16);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0.0; 16]));
        }
        // SAFETY: `Line` is exactly 16 floats without padding, and the vector holds at least `elems / 16` of them.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast::<f32>(), elems) }
    }
}

thread_local! {
    /// Packed A of the task that runs on this thread.
    pub(crate) static ROWS: RefCell<Scratch> = RefCell::default();
    /// Packed B of the task that runs on this thread (wgrad packs B per task).
    pub(crate) static COLS: RefCell<Scratch> = RefCell::default();
    static SHARED: RefCell<Scratch> = RefCell::default();
}

/// Lends this thread's buffer for what all tasks of a call share (packed B, partial sums).
///
/// The buffer is taken out of its cell meanwhile: while this thread waits for its tasks it may run a task of another
/// call, which then finds an empty cell and grows a buffer of its own.
pub(crate) fn with_shared<T>(elems: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    let mut scratch = SHARED.take();
    let result = f(scratch.floats(elems));
    SHARED.set(scratch);
    result
}

/// A pointer that tasks may share. Whoever dereferences it states why its elements are disjoint.
#[derive(Clone, Copy)]
pub(crate) struct Shared(pub *mut f32);
// SAFETY: the pointer itself is plain data; every dereference carries its own proof of disjointness.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// The pointer. A method, so that closures capture the whole struct and stay `Sync`.
    pub(crate) fn get(self) -> *mut f32 {
        self.0
    }
}

/// A vector of floats: the operations that a tile needs.
///
/// Every function is inlined into a caller that enables the instruction set.
trait Lanes: Copy {
    /// Floats in the vector.
    const N: usize;
    /// # Safety
    /// The processor has the instruction set (all functions); `p` is valid for `N` floats (`load`, `store`).
    unsafe fn splat(x: f32) -> Self;
    /// See [`Lanes::splat`].
    unsafe fn load(p: *const f32) -> Self;
    /// See [`Lanes::splat`].
    unsafe fn store(self, p: *mut f32);
    /// See [`Lanes::splat`].
    unsafe fn add(self, other: Self) -> Self;
    /// `self + a * b`; see [`Lanes::splat`].
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    /// Asks for a cache line that will be written soon; any pointer is allowed.
    fn prefetch(p: *const f32);
    /// Seen as two rows of blocks of `D` floats: exchanges the odd blocks of `a` with the even blocks of `b`. `D` is a
    /// power of two below `N`; see [`Lanes::splat`].
    unsafe fn exchange<const D: usize>(a: &mut Self, b: &mut Self);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    #[derive(Clone, Copy)]
    pub(super) struct F32x16(__m512);

    impl Lanes for F32x16 {
        const N: usize = 16;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the trait's contract: the processor has AVX-512.
            F32x16(unsafe { _mm512_set1_ps(x) })
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: the trait's contract: AVX-512, and `p` is valid for 16 floats.
            F32x16(unsafe { _mm512_loadu_ps(p) })
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: the trait's contract: AVX-512, and `p` is valid for 16 floats.
            unsafe { _mm512_storeu_ps(p, self.0) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the trait's contract: the processor has AVX-512.
            F32x16(unsafe { _mm512_add_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            // SAFETY: the trait's contract: the processor has AVX-512.
            F32x16(unsafe { _mm512_fmadd_ps(a.0, b.0, self.0) })
        }
        #[inline(always)]
        fn prefetch(p: *const f32) {
            // SAFETY: a prefetch does not fault, whatever the pointer.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        }
        #[inline(always)]
        unsafe fn exchange<const D: usize>(a: &mut Self, b: &mut Self) {
            // Lane `j` of the new rows as an index into the old ones laid end to end.
            const fn index<const D: usize>(second: bool) -> [i32; 16] {
                let mut index = [0; 16];
                let mut j = 0;
                while j < 16 {
                    let source = match (second, j & D != 0) {
                        (false, false) => j,
                        (false, true) => 16 + j - D,
                        (true, false) => j + D,
                        (true, true) => 16 + j,
                    };
                    index[j] = source as i32;
                    j += 1;
                }
                index
            }
            let (first, second) = const { (index::<D>(false), index::<D>(true)) };
            // SAFETY: the trait's contract: the processor has AVX-512; an index holds 16 integers.
            unsafe {
                let (x, y) = (a.0, b.0);
                a.0 = _mm512_permutex2var_ps(x, _mm512_loadu_si512(first.as_ptr().cast()), y);
                b.0 = _mm512_permutex2var_ps(x, _mm512_loadu_si512(second.as_ptr().cast()), y);
            }
        }
    }

    #[derive(Clone, Copy)]
    pub(super) struct F32x8(__m256);

    impl Lanes for F32x8 {
        const N: usize = 8;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the trait's contract: the processor has AVX2 and FMA.
            F32x8(unsafe { _mm256_set1_ps(x) })
        }
        #[inline(always)]
        unsafe fn load(p: *const f32) -> Self {
            // SAFETY: the trait's contract: AVX2, and `p` is valid for 8 floats.
            F32x8(unsafe { _mm256_loadu_ps(p) })
        }
        #[inline(always)]
        unsafe fn store(self, p: *mut f32) {
            // SAFETY: the trait's contract: AVX2, and `p` is valid for 8 floats.
            unsafe { _mm256_storeu_ps(p, self.0) }
        }
        #[inline(always)]
        unsafe fn add(self, other: Self) -> Self {
            // SAFETY: the trait's contract: the processor has AVX2.
            F32x8(unsafe { _mm256_add_ps(self.0, other.0) })
        }
        #[inline(always)]
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            // SAFETY: the trait's contract: the processor has FMA.
            F32x8(unsafe { _mm256_fmadd_ps(a.0, b.0, self.0) })
        }
        #[inline(always)]
        fn prefetch(p: *const f32) {
            // SAFETY: a prefetch does not fault, whatever the pointer.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
        }
        #[inline(always)]
        unsafe fn exchange<const D: usize>(a: &mut Self, b: &mut Self) {
            // SAFETY: the trait's contract: the processor has AVX2.
            unsafe {
                let (x, y) = (a.0, b.0);
                (a.0, b.0) = match D {
                    1 => (
                        _mm256_blend_ps::<0b1010_1010>(x, _mm256_moveldup_ps(y)),
                        _mm256_blend_ps::<0b1010_1010>(_mm256_movehdup_ps(x), y),
                    ),
                    2 => (_mm256_shuffle_ps::<0b01_00_01_00>(x, y), _mm256_shuffle_ps::<0b11_10_11_10>(x, y)),
                    4 => (_mm256_permute2f128_ps::<0x20>(x, y), _mm256_permute2f128_ps::<0x31>(x, y)),
                    _ => unreachable!("blocks of {D} in a vector of 8"),
                };
            }
        }
    }
}

/// Four floats that every 64-bit processor's baseline vectorises.
#[derive(Clone, Copy)]
struct F32x4([f32; 4]);

impl Lanes for F32x4 {
    const N: usize = 4;
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        F32x4([x; 4])
    }
    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self {
        // SAFETY: the trait's contract: `p` is valid for 4 floats; the read is unaligned.
        F32x4(unsafe { p.cast::<[f32; 4]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32) {
        // SAFETY: the trait's contract: `p` is valid for 4 floats; the write is unaligned.
        unsafe { p.cast::<[f32; 4]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn add(mut self, other: Self) -> Self {
        for i in 0..4 {
            self.0[i] += other.0[i];
        }
        self
    }
    #[inline(always)]
    unsafe fn fma(mut self, a: Self, b: Self) -> Self {
        // Not `mul_add`: without the instruction that is a library call per element.
        for i in 0..4 {
            self.0[i] += a.0[i] * b.0[i];
        }
        self
    }
    #[inline(always)]
    fn prefetch(_: *const f32) {}
    #[inline(always)]
    unsafe fn exchange<const D: usize>(a: &mut Self, b: &mut Self) {
        for j in (0..4).filter(|j| j & D != 0) {
            std::mem::swap(&mut a.0[j], &mut b.0[j - D]);
        }
    }
}

/// A run of depth positions of B: `len` rows of a panel from row `start` on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub start: usize,
    pub len: usize,
}

/// One register tile's work: `c[rows[i] + j] = sum_k a(i, k) * b(k, j)`, plus whatever the options add.
struct Tile<'a> {
    /// Packed A: row `i`, depth `k` at `i * LDA + k` (row panels) or `k * rows + i` (column panels).
    a: *const f32,
    /// Panel of B.
    b: *const f32,
    /// Depth positions of the panel, in the order of packed A.
    runs: &'a [Run],
    /// C at the tile's first column.
    c: *mut f32,
    /// Offset of every row in C.
    rows: &'a [usize],
    /// Columns that exist.
    cols: usize,
    /// `+=` instead of `=`.
    add: bool,
    /// One number per column to add, or null.
    bias: *const f32,
    /// A tensor of C's layout to add, at the tile's first column, or null.
    residual: *const f32,
}

/// The register tile: `R` rows by `V` vectors.
///
/// # Safety
/// The processor has the instruction set of `L`; `t.rows.len() == R`; the pointers are valid for the extents that
/// [`Tile`] names, and nobody else touches the tile's part of C.
#[inline(always)]
unsafe fn tile<L: Lanes, const R: usize, const V: usize, const COLUMN_PANELS: bool>(t: &Tile) {
    let (row_step, depth_step) = if COLUMN_PANELS { (1, R) } else { (LDA, 1) };
    let rows: &[usize; R] = t.rows.try_into().expect("one offset per row");
    // SAFETY: the function's contract covers every pointer below: packed A holds R rows of the runs' total length,
    // the panel of B holds V vectors at every depth of the runs, and C, bias and residual hold `cols` columns.
    unsafe {
        let mut acc = [[L::splat(0.0); V]; R];
        // The results' lines arrive while the products are summed.
        for i in 0..R {
            for v in 0..V {
                L::prefetch(t.c.wrapping_add(rows[i] + v * L::N));
            }
        }
        let mut a = t.a;
        // Where a chain ends, the sums so far; read only after they were written.
        let mut sums = MaybeUninit::<[f32; MR_MAX * NR_MAX]>::uninit();
        let sums = sums.as_mut_ptr().cast::<f32>();
        let (mut has_sums, mut left) = (false, CHAIN);
        for run in t.runs {
            let mut b = t.b.add(run.start * V * L::N);
            let mut rest = run.len;
            while rest > 0 {
                if left == 0 {
                    for i in 0..R {
                        for v in 0..V {
                            let sum = sums.add((i * V + v) * L::N);
                            if has_sums {
                                acc[i][v] = L::load(sum).add(acc[i][v]);
                            }
                            acc[i][v].store(sum);
                            acc[i][v] = L::splat(0.0);
                        }
                    }
                    (has_sums, left) = (true, CHAIN);
                }
                let len = rest.min(left);
                (rest, left) = (rest - len, left - len);
                for _ in 0..len {
                    let mut row = [L::splat(0.0); V];
                    for v in 0..V {
                        row[v] = L::load(b.add(v * L::N));
                    }
                    for i in 0..R {
                        let x = L::splat(*a.add(i * row_step));
                        for v in 0..V {
                            acc[i][v] = acc[i][v].fma(x, row[v]);
                        }
                    }
                    a = a.add(depth_step);
                    b = b.add(V * L::N);
                }
            }
        }
        if has_sums {
            for i in 0..R {
                for v in 0..V {
                    acc[i][v] = L::load(sums.add((i * V + v) * L::N)).add(acc[i][v]);
                }
            }
        }
        // The loops over the accumulators are simple enough to be unrolled: an accumulator that is indexed by a
        // variable would live in memory, not in a register.
        let plain = t.cols == V * L::N && t.bias.is_null() && t.residual.is_null();
        if plain && !t.add {
            for i in 0..R {
                for v in 0..V {
                    acc[i][v].store(t.c.add(rows[i] + v * L::N));
                }
            }
            return;
        }
        if plain {
            for i in 0..R {
                for v in 0..V {
                    let c = t.c.add(rows[i] + v * L::N);
                    L::load(c).add(acc[i][v]).store(c);
                }
            }
            return;
        }
        for i in 0..R {
            for v in 0..V {
                acc[i][v].store(sums.add((i * V + v) * L::N));
            }
        }
        for i in 0..R {
            let (c, sums) = (t.c.add(rows[i]), sums.add(i * V * L::N));
            let residual = if t.residual.is_null() { t.residual } else { t.residual.add(rows[i]) };
            let whole = if t.cols == V * L::N { t.cols } else { 0 };
            for j in (0..whole).step_by(L::N) {
                let mut sum = L::load(sums.add(j));
                if t.add {
                    sum = L::load(c.add(j)).add(sum);
                }
                if !t.bias.is_null() {
                    sum = sum.add(L::load(t.bias.add(j)));
                }
                if !residual.is_null() {
                    sum = sum.add(L::load(residual.add(j)));
                }
                sum.store(c.add(j));
            }
            // A panel that is not full: only the columns that exist.
            for j in whole..t.cols {
                let mut sum = *sums.add(j);
                if t.add {
                    sum += *c.add(j);
                }
                if !t.bias.is_null() {
                    sum += *t.bias.add(j);
                }
                if !residual.is_null() {
                    sum += *residual.add(j);
                }
                *c.add(j) = sum;
            }
        }
    }
}

/// [`tile`] compiled for AVX-512.
///
/// # Safety
/// As [`tile`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn tile_avx512<const R: usize, const V: usize, const COLUMN_PANELS: bool>(t: &Tile) {
    // SAFETY: same contract; the feature is enabled here.
    unsafe { tile::<x86::F32x16, R, V, COLUMN_PANELS>(t) }
}

/// [`tile`] compiled for AVX2 with FMA.
///
/// # Safety
/// As [`tile`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_avx2<const R: usize, const V: usize, const COLUMN_PANELS: bool>(t: &Tile) {
    // SAFETY: same contract; the features are enabled here.
    unsafe { tile::<x86::F32x8, R, V, COLUMN_PANELS>(t) }
}

/// [`tile`] in plain Rust.
///
/// # Safety
/// As [`tile`].
unsafe fn tile_portable<const R: usize, const V: usize, const COLUMN_PANELS: bool>(t: &Tile) {
    // SAFETY: same contract; no instruction set is needed.
    unsafe { tile::<F32x4, R, V, COLUMN_PANELS>(t) }
}

/// Runs the tile compiled for an instruction set, a number of rows and a number of vectors.
///
/// # Safety
/// As [`tile`], with `vectors` 1 or 2 and at most `isa.mr()` rows.
unsafe fn run_tile(isa: Isa, vectors: usize, column_panels: bool, t: &Tile) {
    macro_rules! by_rows {
        ($f:ident, $v:literal, $columns:literal, [$($r:literal)*]) => {
            match t.rows.len() {
                // SAFETY: the caller's contract, and the row count matches.
                $($r => unsafe { $f::<$r, $v, $columns>(t) },)*
                rows => unreachable!("{rows} rows in a tile"),
            }
        };
    }
    macro_rules! by_shape {
        ($f:ident, $rows:tt) => {
            match (vectors, column_panels) {
                (1, false) => by_rows!($f, 1, false, $rows),
                (1, true) => by_rows!($f, 1, true, $rows),
                (_, false) => by_rows!($f, 2, false, $rows),
                (_, true) => by_rows!($f, 2, true, $rows),
            }
        };
    }
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => by_shape!(tile_avx512, [1 2 3 4 5 6 7 8 9 10 11 12 13 14]),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => by_shape!(tile_avx2, [1 2 3 4 5 6]),
        _ => by_shape!(tile_portable, [1 2 3 4 5 6]),
    }
}

/// Transposes the `N x N` block at `from`, whose columns are `col_stride` apart, to rows of `width` floats at `to`: in
/// log2(N) rounds, in the last of which halves change places between rows `N/2` apart.
///
/// # Safety
/// The processor has `L`'s instruction set; `from` is valid for `(N - 1) * col_stride + N` floats and `to` for
/// `(N - 1) * width + N`.
#[inline(always)]
unsafe fn transpose_block<L: Lanes>(from: *const f32, col_stride: usize, to: *mut f32, width: usize) {
    macro_rules! round {
        ($block:ident, $d:literal) => {
            if $d < L::N {
                for i in (0..L::N).filter(|i| i & $d == 0) {
                    let (a, b) = $block.split_at_mut(i + $d);
                    // SAFETY: the caller's contract.
                    unsafe { L::exchange::<$d>(&mut a[i], &mut b[0]) };
                }
            }
        };
    }
    // SAFETY: the caller's contract.
    let mut block = [unsafe { L::splat(0.0) }; 16];
    for (j, column) in block[..L::N].iter_mut().enumerate() {
        // SAFETY: column `j` lies in the caller's block.
        *column = unsafe { L::load(from.add(j * col_stride)) };
    }
    round!(block, 1);
    round!(block, 2);
    round!(block, 4);
    round!(block, 8);
    for (k, row) in block[..L::N].iter().enumerate() {
        // SAFETY: row `k` lies in the caller's lines.
        unsafe { row.store(to.add(k * width)) };
    }
}

/// Writes, with the vectors of an instruction set that is available, element `(k, j)` of a B whose rows are neighbours, `from[k + j * col_stride]`, to `lines[k * width + j]`, for
/// `valid` columns.
fn transpose_lines(isa: Isa, from: &[f32], col_stride: usize, valid: usize, lines: &mut [f32], width: usize) {
    /// Depth that is done for all columns before the next: long enough a run of each column for the prefetcher, short
    /// enough for its lines to stay in the L1 cache.
    const DEPTH: usize = 64;

    /// # Safety
    /// The processor has `L`'s instruction set.
    #[inline(always)]
    unsafe fn run<L: Lanes>(from: &[f32], col_stride: usize, valid: usize, lines: &mut [f32], width: usize) {
        let depth = lines.len() / width;
        let reach = valid.checked_sub(1).map_or(Some(0), |last| last.checked_mul(col_stride)?.checked_add(depth));
        assert!(valid <= width && reach.is_some_and(|reach| reach <= from.len()));
        let whole = valid / L::N * L::N;
        for k0 in (0..depth).step_by(DEPTH) {
            let end = depth.min(k0 + DEPTH);
            let blocks = (end - k0) / L::N * L::N + k0;
            for j in (0..whole).step_by(L::N) {
                for k in (k0..blocks).step_by(L::N) {
                    let (from, to) = (from[j * col_stride + k..].as_ptr(), lines[k * width + j..].as_mut_ptr());
                    // SAFETY: columns `j..j + N` and rows `k..k + N` lie inside `from` by the assertion, and inside
                    // `lines` because `whole <= width` and `blocks <= depth`.
                    unsafe { transpose_block::<L>(from, col_stride, to, width) };
                }
            }
            // What is left below the blocks, and right of them.
            for (rows, columns) in [(blocks..end, 0..whole), (k0..end, whole..valid)] {
                for k in rows {
                    for j in columns.clone() {
                        lines[k * width + j] = from[j * col_stride + k];
                    }
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn avx512(from: &[f32], col_stride: usize, valid: usize, lines: &mut [f32], width: usize) {
        // SAFETY: the feature is enabled here.
        unsafe { run::<x86::F32x16>(from, col_stride, valid, lines, width) }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn avx2(from: &[f32], col_stride: usize, valid: usize, lines: &mut [f32], width: usize) {
        // SAFETY: the features are enabled here.
        unsafe { run::<x86::F32x8>(from, col_stride, valid, lines, width) }
    }
    match isa {
        // SAFETY: an instruction set is only chosen after `is_available`.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { avx512(from, col_stride, valid, lines, width) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { avx2(from, col_stride, valid, lines, width) },
        // SAFETY: plain Rust needs no instruction set.
        _ => unsafe { run::<F32x4>(from, col_stride, valid, lines, width) },
    }
}

/// How the columns of a packed B are cut: panels of two vectors, the last one of one vector where that is enough.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels {
    pub isa: Isa,
    /// Rows of B.
    pub depth: usize,
    /// Columns of B.
    pub cols: usize,
}

impl Panels {
    /// Number of panels.
    pub fn count(self) -> usize {
        self.cols.div_ceil(self.isa.nr())
    }

    /// Columns that panel `j` holds, existing or zero.
    pub fn width(self, j: usize) -> usize {
        if self.cols - j * self.isa.nr() <= self.isa.lanes() { self.isa.lanes() } else { self.isa.nr() }
    }

    /// Columns of panel `j` that exist.
    pub fn valid(self, j: usize) -> usize {
        self.isa.nr().min(self.cols - j * self.isa.nr())
    }

    /// Where panel `j` begins.
    pub fn start(self, j: usize) -> usize {
        j * self.isa.nr() * self.depth
    }

    /// Floats that all panels take.
    pub fn elems(self) -> usize {
        self.count() * self.isa.nr() * self.depth
    }

    /// Packs the rows of B that `runs` names; row `k` begins at `b[row(k)]` and its columns are `col_stride` apart.
    pub fn pack(
        self,
        b: &[f32],
        runs: &[Run],
        row: impl Fn(usize) -> usize + Sync,
        col_stride: usize,
        packed: &mut [f32],
    ) {
        self.pack_panels(runs, packed, |first, valid, start, lines, width| {
            for (k, line) in lines.chunks_exact_mut(width).enumerate() {
                let from = &b[row(start + k) + first * col_stride..];
                if col_stride == 1 {
                    line[..valid].copy_from_slice(&from[..valid]);
                } else {
                    for j in 0..valid {
                        line[j] = from[j * col_stride];
                    }
                }
            }
        });
    }

    /// As [`Panels::pack`] for a B whose rows are neighbours in memory: element `(k, j)` is `b[k + j * col_stride]`.
    pub fn pack_transposed(self, b: &[f32], runs: &[Run], col_stride: usize, packed: &mut [f32]) {
        self.pack_panels(runs, packed, |first, valid, start, lines, width| {
            transpose_lines(self.isa, &b[start + first * col_stride..], col_stride, valid, lines, width);
        });
    }

    /// Calls `fill(first column, existing columns, first row, lines, width)` for every panel and run, in parallel,
    /// and sets the columns that do not exist to zero.
    fn pack_panels(
        self,
        runs: &[Run],
        packed: &mut [f32],
        fill: impl Fn(usize, usize, usize, &mut [f32], usize) + Sync,
    ) {
        let panel_elems = (self.isa.nr() * self.depth).max(1);
        packed[..self.elems()].par_chunks_mut(panel_elems).enumerate().for_each(|(j, panel)| {
            let (width, valid) = (self.width(j), self.valid(j));
            for run in runs {
                let lines = &mut panel[run.start * width..][..run.len * width];
                compiled_for(self.isa, || fill(j * self.isa.nr(), valid, run.start, lines, width));
                for line in lines.chunks_exact_mut(width) {
                    line[valid..].fill(0.0);
                }
            }
        });
    }
}

/// Where a product goes and what is added on the way.
pub(crate) struct Output<'a> {
    /// C.
    pub c: Shared,
    /// One number per column.
    pub bias: Option<&'a [f32]>,
    /// A tensor of C's layout.
    pub residual: Option<&'a [f32]>,
}

/// Multiplies a packed row block by some panels of B.
///
/// `a` holds `rows.len()` rows of [`LDA`] floats; row `i` goes to `c[rows[i]..][..cols]`.
///
/// # Safety
/// Every `rows[i] + panels.cols` lies within C (and within the residual), the bias has a number for every column, and
/// no other task touches these rows and columns of C meanwhile.
pub(crate) unsafe fn row_block(
    panels: Panels,
    a: &[f32],
    runs: &[Run],
    packed_b: &[f32],
    which: Range<usize>,
    rows: &[usize],
    out: &Output,
    add: bool,
    last: bool,
) {
    let isa = panels.isa;
    assert!(a.len() >= rows.len() * LDA && packed_b.len() >= panels.elems() && which.end <= panels.count());
    assert!(runs.iter().all(|run| run.start + run.len <= panels.depth));
    assert!(runs.iter().map(|run| run.len).sum::<usize>() <= KC);
    for j in which {
        let col = j * isa.nr();
        for (i, rows) in rows.chunks(isa.mr()).enumerate() {
            let t = Tile {
                a: a[i * isa.mr() * LDA..].as_ptr(),
                b: packed_b[panels.start(j)..].as_ptr(),
                runs,
                // In bounds by the caller's contract, for every row.
                c: out.c.get().wrapping_add(col),
                rows,
                cols: panels.valid(j),
                add,
                bias: out.bias.filter(|_| last).map_or(std::ptr::null(), |bias| bias[col..].as_ptr()),
                residual: out.residual.filter(|_| last).map_or(std::ptr::null(), |r| r[col..].as_ptr()),
            };
            // SAFETY: packed A has these rows and packed B this panel, as asserted above; C, bias and residual are
            // the caller's contract.
            unsafe { run_tile(isa, panels.width(j) / isa.lanes(), false, &t) }
        }
    }
}

/// Adds a product of packed column panels to `c[row * ldc + col]`: `C += A^T B` with the depth outermost in memory.
///
/// `a` holds panels of at most `mr` rows, `[panel][depth][rows of the panel]`.
///
/// # Safety
/// `c` is valid for `rows` rows of `ldc` floats up to `panels.cols` columns, and no other task touches them meanwhile.
pub(crate) unsafe fn column_block(panels: Panels, a: &[f32], packed_b: &[f32], rows: usize, c: *mut f32, ldc: usize) {
    let (isa, depth) = (panels.isa, panels.depth);
    assert!(a.len() >= rows * depth && packed_b.len() >= panels.elems() && isa.mr() <= 16);
    let runs = [Run { start: 0, len: depth }];
    let offsets: [usize; 16] = std::array::from_fn(|i| i * ldc);
    for j in 0..panels.count() {
        for first in (0..rows).step_by(isa.mr()) {
            let t = Tile {
                a: a[first * depth..].as_ptr(),
                b: packed_b[panels.start(j)..].as_ptr(),
                runs: &runs,
                // In bounds by the caller's contract.
                c: c.wrapping_add(first * ldc + j * isa.nr()),
                rows: &offsets[..isa.mr().min(rows - first)],
                cols: panels.valid(j),
                add: true,
                bias: std::ptr::null(),
                residual: std::ptr::null(),
            };
            // SAFETY: packed A has these rows and packed B this panel, as asserted above; C is the caller's contract.
            unsafe { run_tile(isa, panels.width(j) / isa.lanes(), true, &t) }
        }
    }
}

/// Cuts `total` into equal parts of at most `limit`, each (but the last) a multiple of `unit`.
pub(crate) fn even_parts(total: usize, limit: usize, unit: usize) -> usize {
    let parts = total.div_ceil(limit).max(1);
    total.div_ceil(parts).next_multiple_of(unit).max(unit)
}

/// A matrix seen through strides: element `(i, j)` at `data[i * row_stride + j * col_stride]`.
#[derive(Debug, Clone, Copy)]
pub struct Strided<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Distance between rows, in elements.
    pub row_stride: usize,
    /// Distance between columns, in elements.
    pub col_stride: usize,
}

impl<'a> Strided<'a> {
    /// A row-major matrix of `cols` columns.
    pub fn row_major(data: &'a [f32], cols: usize) -> Self {
        Strided { data, row_stride: cols, col_stride: 1 }
    }

    /// The transpose of a row-major matrix of `cols` columns.
    pub fn transposed(data: &'a [f32], cols: usize) -> Self {
        Strided { data, row_stride: 1, col_stride: cols }
    }

    /// Fails when an element of a `rows x cols` matrix would lie beyond the slice.
    fn check(&self, name: &str, rows: usize, cols: usize) -> Result<()> {
        check_span(name, self.data.len(), rows, cols, self.row_stride, self.col_stride)
    }
}

/// Fails when element `(rows - 1, cols - 1)` lies beyond `len` elements.
fn check_span(name: &str, len: usize, rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> Result<()> {
    if rows == 0 || cols == 0 {
        return Ok(());
    }
    let last = (rows - 1)
        .checked_mul(row_stride)
        .zip((cols - 1).checked_mul(col_stride))
        .and_then(|(i, j)| i.checked_add(j))
        .and_then(|last| last.checked_add(1));
    match last {
        Some(needed) if needed <= len => Ok(()),
        _ => Err(Error::shape(
            "gemm",
            format_args!("a {rows} x {cols} matrix with strides {row_stride}, {col_stride} in `{name}`"),
            format_args!("{len} elements"),
            "pass a longer slice or smaller strides",
        )),
    }
}

/// `C = A B`, or `C += A B` with `accumulate`: `c[i * ldc + j] (+)= sum_k a(i, k) * b(k, j)`.
///
/// # Shapes
/// `a` is `m x k`, `b` is `k x n`, both through strides of their own; `c` is row-major, `m` rows `ldc` apart, of
/// which the first `n` columns are written.
///
/// # Gradient
/// `dA = dC B^T` and `dB = A^T dC`: the same function with [`Strided::transposed`].
///
/// # Errors
/// When a slice is too short for its extents and strides, or `ldc < n`.
///
/// # Determinism
/// Bit-equal for every number of threads. Instruction sets differ in rounding.
///
/// # Source
/// Blocking after Van Zee and van de Geijn, "BLIS: A Framework for Rapidly Instantiating BLAS Functionality" (2015).
///
/// # Example
/// ```
/// use warpsmith::cpu::gemm::{Strided, gemm};
/// let z = [3.0, 4.0, 1.0, 0.0]; // two embeddings of two numbers
/// let mut sim = [0.0; 4];
/// gemm(2, 2, 2, Strided::row_major(&z, 2), Strided::transposed(&z, 2), &mut sim, 2, false)?;
/// assert_eq!(sim, [25.0, 3.0, 3.0, 1.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn gemm(
    m: usize,
    n: usize,
    k: usize,
    a: Strided,
    b: Strided,
    c: &mut [f32],
    ldc: usize,
    accumulate: bool,
) -> Result<()> {
    a.check("a", m, k)?;
    b.check("b", k, n)?;
    if ldc < n {
        return Err(Error::argument("gemm", format_args!("ldc >= n = {n}"), ldc, "rows of C must not overlap"));
    }
    check_span("c", c.len(), m, n, ldc, 1)?;
    if m == 0 || n == 0 {
        return Ok(());
    }
    let isa = current_isa();
    // B is packed in pieces of at most 16 MiB.
    let (depth_limit, cols_limit) = (4 * KC, 2048);
    let out = Output { c: Shared(c.as_mut_ptr()), bias: None, residual: None };
    for col in (0..n).step_by(cols_limit) {
        for deep in (0..k.max(1)).step_by(depth_limit) {
            let panels = Panels { isa, depth: depth_limit.min(k - deep), cols: cols_limit.min(n - col) };
            let origin = deep * b.row_stride + col * b.col_stride;
            with_shared(panels.elems(), |packed| {
                let all = [Run { start: 0, len: panels.depth }];
                match (panels.depth, b.row_stride) {
                    (0, _) => {}
                    (_, 1) => panels.pack_transposed(&b.data[origin..], &all, b.col_stride, packed),
                    _ => panels.pack(&b.data[origin..], &all, |k| k * b.row_stride, b.col_stride, packed),
                }
                let rows = even_parts(m, MC / isa.mr() * isa.mr(), isa.mr());
                let blocks = m.div_ceil(rows);
                let which = panels.count().div_ceil(PIECES.div_ceil(blocks)).max(4);
                let pieces = panels.count().div_ceil(which);
                let packed = &*packed;
                (0..blocks * pieces).into_par_iter().with_max_len(1).for_each(|task| {
                    let (row, piece) = (task / pieces * rows, task % pieces);
                    let offsets: Vec<usize> = (row..m.min(row + rows)).map(|i| i * ldc + col).collect();
                    let which = piece * which..panels.count().min((piece + 1) * which);
                    ROWS.with_borrow_mut(|scratch| {
                        let packed_a = scratch.floats(offsets.len() * LDA);
                        let step = even_parts(panels.depth, KC, 1);
                        for start in (0..panels.depth.max(1)).step_by(step) {
                            let len = step.min(panels.depth - start);
                            for (i, line) in packed_a.chunks_exact_mut(LDA).enumerate() {
                                let origin = (row + i) * a.row_stride + (deep + start) * a.col_stride;
                                if a.col_stride == 1 {
                                    line[..len].copy_from_slice(&a.data[origin..][..len]);
                                    continue;
                                }
                                for (kk, to) in line[..len].iter_mut().enumerate() {
                                    *to = a.data[origin + kk * a.col_stride];
                                }
                            }
                            let add = accumulate || deep > 0 || start > 0;
                            // SAFETY: `check_span` proved that C holds these rows, and a task's rows and columns
                            // are its own.
                            unsafe {
                                let runs = [Run { start, len }];
                                row_block(panels, packed_a, &runs, packed, which.clone(), &offsets, &out, add, false);
                            }
                        }
                    });
                });
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every number of columns, with and without blocks, tails below and to the right; nothing beyond is touched.
    #[test]
    fn transposed_panels_hold_every_element_and_touch_no_other() {
        for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for (width, depth) in
                [isa.lanes(), isa.nr()].into_iter().flat_map(|w| [1, 7, 16, 63, 64, 130].map(|d| (w, d)))
            {
                for (valid, spare) in (0..=width).flat_map(|valid| [0, 5].map(|spare| (valid, spare))) {
                    let stride = depth + spare;
                    let from: Vec<f32> = (0..(valid.max(1) - 1) * stride + depth).map(|i| i as f32).collect();
                    let mut lines = vec![-1.0; depth * width + 16];
                    transpose_lines(isa, &from, stride, valid, &mut lines[..depth * width], width);
                    for (i, &got) in lines.iter().enumerate() {
                        let (k, j) = (i / width, i % width);
                        let want = if k < depth && j < valid { from[j * stride + k] } else { -1.0 };
                        assert_eq!(
                            got, want,
                            "{isa:?} width {width} depth {depth} valid {valid} stride {stride} at {i}"
                        );
                    }
                }
            }
        }
    }
}
