//! Launchers of `kernels/gemm.cu`: products of row-major matrices, from the first step of the study ladder to tensor cores.
//!
#![doc = include_str!("../../kernels/gemm.md")]

use super::conv2d::Finish;
use super::launch::{Arg, Entry, Kernels, PTR, U32, Value, elems, input, output, rows_are_near};
use crate::error::check_len;
use crate::{Error, Result};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};
use half::bf16;

const PARAMS: &[usize] = &[U32, U32, U32, PTR, PTR, size_of::<Finish>()];
/// Side of a block's square of results in the naive kernel.
const SIDE: u32 = 16;
/// Threads, depth and stages of `TensorCores` in tile.cuh.
const TENSOR: (u32, u32, u32) = (128, 32, 4);

const fn entry(name: &'static str, suffixes: &'static [&'static str], block: u32) -> Entry {
    Entry { file: "gemm", name, suffixes, block, params: PARAMS }
}

static NAIVE: Entry = entry("gemm_naive", &["f32", "bf16"], SIDE * SIDE);
static TENSOR_CORE: Entry = entry("gemm_tensor_core", &["bf16"], TENSOR.0);
static TENSOR_CORE_GUARDED: Entry = entry("gemm_tensor_core_guarded", &["bf16"], TENSOR.0);

pub(super) static ENTRIES: [&Entry; 3] = [&NAIVE, &TENSOR_CORE, &TENSOR_CORE_GUARDED];

/// Extents in 32 bits, with buffers of their size.
fn check(op: &'static str, [m, n, k]: [usize; 3], [a, b, c]: [usize; 3]) -> Result<[u32; 3]> {
    if [m, n, k].iter().any(|&extent| extent >= 1 << 30) {
        let hint = "multiply in parts";
        return Err(Error::shape(op, "extents below 2^30", format_args!("m {m}, n {n}, k {k}"), hint));
    }
    check_len(op, "a", a, elems(op, &[m, k])?)?;
    check_len(op, "b", b, elems(op, &[k, n])?)?;
    check_len(op, "c", c, elems(op, &[m, n])?)?;
    Ok([m, n, k].map(|extent| extent as u32))
}

/// Queues a kernel whose blocks compute `tile` rows and columns.
///
/// # Safety
/// The pointers are valid for the extents, `c` for nobody else meanwhile.
unsafe fn launch(
    kernels: &Kernels,
    entry: (&'static Entry, &'static str),
    ([m, n, k], tile, shared): ([u32; 3], u32, u32),
    [a, b, c]: [Arg; 3],
    accumulate: bool,
    stream: &CudaStream,
) -> Result<()> {
    let residual = if accumulate { c.word() } else { 0 };
    let finish = Finish { bias: 0, residual, out: c.word(), partials: 0 };
    let blocks = u64::from(m.div_ceil(tile)) * u64::from(n.div_ceil(tile));
    let args = [m.into(), n.into(), k.into(), a, b, finish.into()];
    // SAFETY: the caller's contract; a block per tile.
    unsafe { kernels.launch(entry, blocks, shared, &args, stream) }
}

/// `c[m,n] (= or += with accumulate) a[m,k] · b[k,n]`, a thread per result.
///
/// # Errors
/// When a buffer has the wrong length, an extent is 2^30 or more, or the launch fails.
pub fn naive<T: Value>(
    kernels: &Kernels,
    [m, n, k]: [usize; 3],
    (a, b): (&impl DevicePtr<T>, &impl DevicePtr<T>),
    accumulate: bool,
    c: &mut impl DevicePtrMut<T>,
    stream: &CudaStream,
) -> Result<()> {
    let extents = check("gemm.naive", [m, n, k], [a.len(), b.len(), c.len()])?;
    let ((ap, _a), (bp, _b)) = (input(kernels, a, stream)?, input(kernels, b, stream)?);
    let (cp, _c) = output(kernels, c, stream)?;
    // SAFETY: the buffers have the lengths of the extents (checked), and `c` is borrowed mutably.
    unsafe { launch(kernels, (&NAIVE, T::SUFFIX), (extents, SIDE, 0), [ap, bp, cp], accumulate, stream) }
}

/// `c[m,n] (= or += with accumulate) a[m,k] · b[k,n]` on tensor cores, sums in f32.
///
/// # Errors
/// When a buffer has the wrong length, an extent is 2^30 or more, or the launch fails.
pub fn tensor_core(
    kernels: &Kernels,
    [m, n, k]: [usize; 3],
    (a, b): (&impl DevicePtr<bf16>, &impl DevicePtr<bf16>),
    accumulate: bool,
    c: &mut impl DevicePtrMut<bf16>,
    stream: &CudaStream,
) -> Result<()> {
    let extents = check("gemm.tensor_core", [m, n, k], [a.len(), b.len(), c.len()])?;
    let ((ap, _a), (bp, _b)) = (input(kernels, a, stream)?, input(kernels, b, stream)?);
    let (cp, _c) = output(kernels, c, stream)?;
    let packs = [n, k].iter().all(|&row| row.is_multiple_of(8) && rows_are_near(row, size_of::<bf16>()));
    let aligned = packs && [ap, bp].iter().all(|pointer| pointer.word().is_multiple_of(16));
    let (entry, tile) = if aligned { (&TENSOR_CORE, 128) } else { (&TENSOR_CORE_GUARDED, 64) };
    let shared = 2 * tile * TENSOR.1 * size_of::<bf16>() as u32 * TENSOR.2;
    // SAFETY: the buffers have the lengths of the extents (checked), and `c` is borrowed mutably.
    unsafe { launch(kernels, (entry, bf16::SUFFIX), (extents, tile, shared), [ap, bp, cp], accumulate, stream) }
}
