//! Products of matrices by cuBLAS: a 1x1 convolution that takes every pixel once, and the fully connected layer.

use crate::Math;
use crate::cudnn::{bind, check_lengths};
use crate::library::{Library, functions};
use cudarc::cublas::sys::{cublasGemmAlgo_t, cublasOperation_t};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut};
use std::ffi::{c_int, c_void};
use std::sync::Arc;
use warpsmith::cuda::Value;
use warpsmith::cuda::conv2d::Pass;
use warpsmith::problem::Conv2dProblem;
use warpsmith::{Error, Result};

type Handle = *mut c_void;
type Pointer = u64;

functions! {
    Functions of Library::Cublas;
    create = cublasCreate_v2(*mut Handle);
    destroy = cublasDestroy_v2(Handle);
    version = cublasGetVersion_v2(Handle, *mut c_int);
    set_stream = cublasSetStream_v2(Handle, *mut c_void);
    set_workspace = cublasSetWorkspace_v2(Handle, Pointer, usize);
    gemm = cublasGemmEx(
        Handle, i32, i32, c_int, c_int, c_int, *const f32, Pointer, i32, c_int, Pointer, i32, c_int,
        *const f32, Pointer, i32, c_int, i32, i32,
    );
}

fn check(call: &str, code: i32, doing: impl std::fmt::Display) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(Library::Cublas.failed(call, code, doing)) }
}

/// A pass as cuBLAS's column-major product `c[m,n] = op(a)[m,k] · op(b)[k,n]`.
///
/// A row-major matrix read column by column is its transpose, so every result is computed as its transpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gemm {
    /// Whether cuBLAS's `a` is the second operand of the pass, and `b` the first.
    pub swapped: bool,
    /// Whether to transpose `a`, `b`.
    pub transposed: [bool; 2],
    /// Rows, columns and depth of the product.
    pub extents: [i32; 3],
    /// Distance between columns of `a`, `b`, `c` in memory.
    pub leading: [i32; 3],
}

impl Gemm {
    /// The product that a pass is, where it is one; operands as in [`Convolution::run`](crate::cudnn::Convolution::run).
    ///
    /// # Errors
    /// When the filter is not 1x1, or strides or pads, or an extent is 2^31 or more.
    pub fn new(pass: Pass, p: &Conv2dProblem) -> Result<Gemm> {
        const OP: &str = "cuBLAS";
        let pads = [p.pad_top, p.pad_bottom, p.pad_left, p.pad_right];
        if (p.r, p.s, p.stride_h, p.stride_w, pads) != (1, 1, 1, 1, [0; 4]) {
            let hint = "compare other convolutions with cuDNN";
            return Err(Error::argument(OP, "a 1x1 filter without stride and padding", format_args!("{p:?}"), hint));
        }
        let extent = |value: usize| {
            i32::try_from(value).map_err(|_| Error::shape(OP, "extents below 2^31", value, "use a smaller batch"))
        };
        let (rows, k, c) = (extent(p.gemm_m())?, extent(p.gemm_n())?, extent(p.gemm_k())?);
        Ok(match pass {
            // yᵀ[k,rows] = w[k,c] · xᵀ[c,rows]
            Pass::Fprop => Gemm { swapped: true, transposed: [true, false], extents: [k, rows, c], leading: [c, c, k] },
            // dxᵀ[c,rows] = wᵀ[c,k] · dyᵀ[k,rows]
            Pass::Dgrad => {
                Gemm { swapped: false, transposed: [false, false], extents: [c, rows, k], leading: [c, k, c] }
            }
            // dwᵀ[c,k] = xᵀ[c,rows] · dy[rows,k]
            Pass::Wgrad => {
                Gemm { swapped: false, transposed: [false, true], extents: [c, k, rows], leading: [c, k, c] }
            }
        })
    }
}

/// A handle to cuBLAS, which queues on one stream and works in memory of its own.
pub struct Cublas {
    functions: Functions,
    handle: Handle,
    stream: Arc<CudaStream>,
    version: i32,
    /// Freed after the handle, which works in it.
    _workspace: CudaSlice<u8>,
}

impl Cublas {
    /// Opens the library.
    ///
    /// # Errors
    /// When it is missing or refuses the GPU, or there is no memory for the workspace.
    pub fn new(stream: &Arc<CudaStream>, workspace_bytes: usize) -> Result<Cublas> {
        let functions = Functions::load()?;
        bind(stream)?;
        let mut workspace = stream.alloc_zeros::<u8>(workspace_bytes).map_err(|error| {
            let reason = format!("{workspace_bytes} bytes of workspace for cuBLAS: {error}");
            Error::device("cuda", reason, "allow a smaller workspace")
        })?;
        let address = workspace.device_ptr_mut(stream).0;
        let (mut handle, mut version) = (std::ptr::null_mut(), 0);
        // SAFETY: the pointer is to a live handle; the stream's context is current.
        check("cublasCreate", unsafe { (functions.create)(&mut handle) }, "this GPU")?;
        let mut cublas = Cublas { functions, handle, stream: stream.clone(), version, _workspace: workspace };
        // SAFETY: the handle was just made, the stream lives as long as it.
        check("cublasSetStream", unsafe { (functions.set_stream)(handle, stream.cu_stream().cast()) }, "our stream")?;
        // SAFETY: the memory has that many bytes, lives as long as the handle, and nobody else uses it.
        let code = unsafe { (functions.set_workspace)(handle, address, workspace_bytes) };
        check("cublasSetWorkspace", code, format_args!("{workspace_bytes} bytes"))?;
        // SAFETY: the pointer is to a live number.
        check("cublasGetVersion", unsafe { (functions.version)(handle, &mut version) }, "this library")?;
        cublas.version = version;
        Ok(cublas)
    }

    /// As `cublasGetVersion` counts: 120903 is 12.9.3.
    pub fn version(&self) -> i32 {
        self.version
    }

    /// Queues a pass that [`Gemm::new`] takes: `out = `, nothing is added. `out` may be of f32 where the operands are bf16,
    /// as our gradients of filters are.
    ///
    /// # Errors
    /// When the pass is no plain product, a buffer has the wrong length or type, or the call fails.
    pub fn run<T: Value, O: Value>(
        &self,
        pass: Pass,
        math: Math,
        problem: &Conv2dProblem,
        (a, b): (&impl DevicePtr<T>, &impl DevicePtr<T>),
        out: &mut impl DevicePtrMut<O>,
    ) -> Result<()> {
        check_lengths::<T>(math, pass, problem, [a.len(), b.len(), out.len()])?;
        let Gemm { swapped, transposed, extents: [m, n, k], leading: [lda, ldb, ldc] } = Gemm::new(pass, problem)?;
        let ((a, _a), (b, _b)) = (a.device_ptr(&self.stream), b.device_ptr(&self.stream));
        let (c, _c) = out.device_ptr_mut(&self.stream);
        let (a, b) = if swapped { (b, a) } else { (a, b) };
        let [ta, tb] = transposed.map(|transposed| {
            (if transposed { cublasOperation_t::CUBLAS_OP_T } else { cublasOperation_t::CUBLAS_OP_N }) as i32
        });
        let operands = Math::cublas_data_type(T::SUFFIX) as i32;
        let result = Math::cublas_data_type(O::SUFFIX) as i32;
        let (compute, algorithm) = (math.cublas_compute_type() as i32, cublasGemmAlgo_t::CUBLAS_GEMM_DFALT as i32);
        let (one, zero) = (1.0f32, 0.0f32);
        bind(&self.stream)?;
        // SAFETY: the buffers hold the matrices of the pass in these types (checked), which `Gemm` describes; `out` is
        // borrowed mutably; scales are f32 for every type of sums in f32.
        let code = unsafe {
            let (h, gemm) = (self.handle, self.functions.gemm);
            gemm(
                h, ta, tb, m, n, k, &one, a, operands, lda, b, operands, ldb, &zero, c, result, ldc, compute, algorithm,
            )
        };
        check("cublasGemmEx", code, format_args!("{pass:?} in {} of {problem:?}", math.name()))
    }
}

impl Drop for Cublas {
    fn drop(&mut self) {
        // Nothing can be done about a code here.
        // SAFETY: the handle is ours and this its last use.
        unsafe { (self.functions.destroy)(self.handle) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cudarc::cublas::sys;

    #[test]
    fn every_function_is_found_where_the_library_is() {
        match Functions::load() {
            Ok(_) => assert!(Library::Cublas.is_present()),
            Err(error) => {
                assert!(!Library::Cublas.is_present(), "{error}");
                assert!(error.to_string().contains("pip install nvidia-cublas-cu12"), "{error}");
            }
        }
    }

    /// Compiles only as long as cuBLAS's header, as cudarc has translated it, says what `Functions` says.
    #[test]
    fn signatures_are_those_of_the_header() {
        type Data = *const c_void;
        type GemmEx = unsafe fn(
            sys::cublasHandle_t,
            sys::cublasOperation_t,
            sys::cublasOperation_t,
            c_int,
            c_int,
            c_int,
            Data,
            Data,
            sys::cudaDataType,
            c_int,
            Data,
            sys::cudaDataType,
            c_int,
            Data,
            *mut c_void,
            sys::cudaDataType,
            c_int,
            sys::cublasComputeType_t,
            sys::cublasGemmAlgo_t,
        ) -> sys::cublasStatus_t;
        let _: GemmEx = sys::cublasGemmEx;
        let _: unsafe fn(sys::cublasHandle_t, *mut c_void, usize) -> sys::cublasStatus_t = sys::cublasSetWorkspace_v2;
        let _: unsafe fn(sys::cublasHandle_t, *mut c_int) -> sys::cublasStatus_t = sys::cublasGetVersion_v2;
        assert_eq!(size_of::<sys::cublasStatus_t>(), size_of::<i32>());
    }
}
