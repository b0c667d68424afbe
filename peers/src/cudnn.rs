//! Convolutions by cuDNN: NHWC activations, KRSC filters, cross-correlation, f32 sums.
//!
//! Through the calls that frameworks have used since cuDNN 7 and that release 9 still has. Its finder runs every algorithm
//! that fits the workspace and the fastest is kept. What the newer graph interface adds (fusion with what follows) is not
//! compared here.

use crate::Math;
use crate::library::{Library, functions};
use cudarc::cudnn::sys::{cudnnConvolutionMode_t, cudnnMathType_t, cudnnTensorFormat_t};
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut};
use std::ffi::{c_int, c_void};
use std::sync::Arc;
use warpsmith::cuda::Value;
use warpsmith::cuda::conv2d::Pass;
use warpsmith::problem::Conv2dProblem;
use warpsmith::{Error, Result};

type Handle = *mut c_void;
type Descriptor = *mut c_void;
type Pointer = u64;

/// The oldest release whose functions and codes are those used here.
const MIN_VERSION: usize = 90_000;
/// More than any pass has algorithms, each with two types of math.
const MAX_RESULTS: usize = 32;

/// `cudnnConvolutionFwdAlgoPerf_t`, `cudnnConvolutionBwdDataAlgoPerf_t` and `cudnnConvolutionBwdFilterAlgoPerf_t`, which
/// differ in the name of the first field's enum only.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct AlgoPerf {
    algo: i32,
    status: i32,
    time: f32,
    memory: usize,
    determinism: i32,
    math_type: i32,
    reserved: [c_int; 3],
}

functions! {
    /// The three `find` functions are alike but for what their operands mean, and so are the three that run a pass.
    Functions of Library::Cudnn;
    create = cudnnCreate(*mut Handle);
    destroy = cudnnDestroy(Handle);
    set_stream = cudnnSetStream(Handle, *mut c_void);
    create_tensor = cudnnCreateTensorDescriptor(*mut Descriptor);
    destroy_tensor = cudnnDestroyTensorDescriptor(Descriptor);
    set_tensor = cudnnSetTensor4dDescriptor(Descriptor, i32, i32, c_int, c_int, c_int, c_int);
    create_filter = cudnnCreateFilterDescriptor(*mut Descriptor);
    destroy_filter = cudnnDestroyFilterDescriptor(Descriptor);
    set_filter = cudnnSetFilter4dDescriptor(Descriptor, i32, i32, c_int, c_int, c_int, c_int);
    create_convolution = cudnnCreateConvolutionDescriptor(*mut Descriptor);
    destroy_convolution = cudnnDestroyConvolutionDescriptor(Descriptor);
    set_convolution =
        cudnnSetConvolution2dDescriptor(Descriptor, c_int, c_int, c_int, c_int, c_int, c_int, i32, i32);
    set_math_type = cudnnSetConvolutionMathType(Descriptor, i32);
    find_fprop = cudnnFindConvolutionForwardAlgorithmEx(
        Handle, Descriptor, Pointer, Descriptor, Pointer, Descriptor, Descriptor, Pointer,
        c_int, *mut c_int, *mut AlgoPerf, Pointer, usize,
    );
    find_dgrad = cudnnFindConvolutionBackwardDataAlgorithmEx(
        Handle, Descriptor, Pointer, Descriptor, Pointer, Descriptor, Descriptor, Pointer,
        c_int, *mut c_int, *mut AlgoPerf, Pointer, usize,
    );
    find_wgrad = cudnnFindConvolutionBackwardFilterAlgorithmEx(
        Handle, Descriptor, Pointer, Descriptor, Pointer, Descriptor, Descriptor, Pointer,
        c_int, *mut c_int, *mut AlgoPerf, Pointer, usize,
    );
    run_fprop = cudnnConvolutionForward(
        Handle, *const f32, Descriptor, Pointer, Descriptor, Pointer, Descriptor, i32,
        Pointer, usize, *const f32, Descriptor, Pointer,
    );
    run_dgrad = cudnnConvolutionBackwardData(
        Handle, *const f32, Descriptor, Pointer, Descriptor, Pointer, Descriptor, i32,
        Pointer, usize, *const f32, Descriptor, Pointer,
    );
    run_wgrad = cudnnConvolutionBackwardFilter(
        Handle, *const f32, Descriptor, Pointer, Descriptor, Pointer, Descriptor, i32,
        Pointer, usize, *const f32, Descriptor, Pointer,
    );
}

fn check(call: &str, code: i32, doing: impl std::fmt::Display) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(Library::Cudnn.failed(call, code, doing)) }
}

/// Extents as cuDNN's descriptors take them: N C H W whatever the layout in memory, which is NHWC and KRSC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extents {
    /// `[n, c, h, w]` of `x` and `dx`.
    pub x: [i32; 4],
    /// `[k, c, r, s]` of `w` and `dw`.
    pub w: [i32; 4],
    /// `[n, k, p, q]` of `y` and `dy`.
    pub y: [i32; 4],
    /// Rows on either side, columns on either side.
    pub pads: [i32; 2],
    /// Of rows, of columns.
    pub strides: [i32; 2],
    /// Of rows, of columns.
    pub dilations: [i32; 2],
}

impl Extents {
    /// cuDNN pads both sides alike. So does ResNet50V2, whose padding is symmetric in every layer, also where a stride of 2
    /// never reaches the last padded row. A problem that pads its sides differently is refused: whoever needs it pads
    /// the image in memory first, which is a cost that no comparison should hide.
    ///
    /// # Errors
    /// When padding differs between opposite sides, or a tensor has 2^31 elements or more.
    pub fn new(p: &Conv2dProblem) -> Result<Extents> {
        const OP: &str = "cuDNN convolution";
        if p.pad_top != p.pad_bottom || p.pad_left != p.pad_right {
            let got = format!("{} and {}, {} and {}", p.pad_top, p.pad_bottom, p.pad_left, p.pad_right);
            let expected = "the same padding above as below, and left as right";
            return Err(Error::argument(OP, expected, got, "pad the image first"));
        }
        if [p.x_elems(), p.w_elems(), p.y_elems()].iter().any(|&elems| elems > i32::MAX as usize) {
            let got = format!("{p:?}");
            return Err(Error::shape(OP, "tensors of fewer than 2^31 elements", got, "use a smaller batch"));
        }
        let extent = |value: u32| {
            let fits = i32::try_from(value).map_err(|_| value);
            fits.map_err(|got| Error::shape(OP, "extents below 2^31", got, "use a smaller problem"))
        };
        let extents = |values: [u32; 4]| -> Result<[i32; 4]> {
            Ok([extent(values[0])?, extent(values[1])?, extent(values[2])?, extent(values[3])?])
        };
        Ok(Extents {
            x: extents([p.n, p.c, p.h, p.w])?,
            w: extents([p.k, p.c, p.r, p.s])?,
            y: extents([p.n, p.k, p.p, p.q])?,
            pads: [extent(p.pad_top)?, extent(p.pad_left)?],
            strides: [extent(p.stride_h)?, extent(p.stride_w)?],
            dilations: [extent(p.dilation_h)?, extent(p.dilation_w)?],
        })
    }
}

/// A convolution as cuDNN's descriptors.
struct Description {
    x: Owned,
    filter: Owned,
    y: Owned,
    window: Owned,
}

impl Functions {
    fn describe(&self, e: &Extents, math: Math) -> Result<Description> {
        let create = |create: unsafe extern "C" fn(*mut Descriptor) -> i32, destroy| -> Result<Owned> {
            let mut raw = std::ptr::null_mut();
            // SAFETY: the pointer is to a live descriptor.
            check("creating a descriptor", unsafe { create(&mut raw) }, format_args!("{e:?}"))?;
            Ok(Owned { raw, destroy })
        };
        let (layout, of) = (cudnnTensorFormat_t::CUDNN_TENSOR_NHWC as i32, math.cudnn_data_type() as i32);
        let tensor = |[n, c, h, w]: [i32; 4]| {
            let tensor = create(self.create_tensor, self.destroy_tensor)?;
            // SAFETY: the descriptor is live and a tensor's.
            let code = unsafe { (self.set_tensor)(tensor.raw, layout, of, n, c, h, w) };
            check("cudnnSetTensor4dDescriptor", code, format_args!("{e:?}")).map(|()| tensor)
        };
        let filter = create(self.create_filter, self.destroy_filter)?;
        let [k, c, r, s] = e.w;
        // SAFETY: the descriptor is live and a filter's.
        let code = unsafe { (self.set_filter)(filter.raw, of, layout, k, c, r, s) };
        check("cudnnSetFilter4dDescriptor", code, format_args!("{e:?}"))?;
        let window = create(self.create_convolution, self.destroy_convolution)?;
        let ([pad_h, pad_w], [stride_h, stride_w], [dilation_h, dilation_w]) = (e.pads, e.strides, e.dilations);
        let (mode, sums) = (cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION as i32, Math::F32.cudnn_data_type() as i32);
        // SAFETY: the descriptor is live and a convolution's.
        let code = unsafe {
            let set = self.set_convolution;
            set(window.raw, pad_h, pad_w, stride_h, stride_w, dilation_h, dilation_w, mode, sums)
        };
        check("cudnnSetConvolution2dDescriptor", code, format_args!("{e:?}"))?;
        // SAFETY: as above.
        let code = unsafe { (self.set_math_type)(window.raw, math.cudnn_math_type() as i32) };
        check("cudnnSetConvolutionMathType", code, format_args!("{e:?}"))?;
        Ok(Description { x: tensor(e.x)?, filter, y: tensor(e.y)?, window })
    }
}

/// A handle to cuDNN, which queues on one stream.
pub struct Cudnn {
    functions: Functions,
    handle: Handle,
    stream: Arc<CudaStream>,
    version: usize,
}

impl Cudnn {
    /// Opens the library.
    ///
    /// # Errors
    /// When it is missing, older than release 9, or refuses the GPU.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Cudnn> {
        type Version = unsafe extern "C" fn() -> usize;
        // SAFETY: the C signature.
        let version = unsafe { Library::Cudnn.function::<Version>("cudnnGetVersion") }?;
        // SAFETY: takes nothing.
        let version = unsafe { version() };
        if version < MIN_VERSION {
            let reason = format!("release 9 is needed, this is version number {version}");
            return Err(Error::device(Library::Cudnn, reason, "pip install --upgrade nvidia-cudnn-cu12"));
        }
        let functions = Functions::load()?;
        bind(stream)?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: the pointer is to a live handle; the stream's context is current.
        check("cudnnCreate", unsafe { (functions.create)(&mut handle) }, "this GPU")?;
        let cudnn = Cudnn { functions, handle, stream: stream.clone(), version };
        // SAFETY: the handle was just made, the stream lives as long as it.
        check("cudnnSetStream", unsafe { (functions.set_stream)(handle, stream.cu_stream().cast()) }, "our stream")?;
        Ok(cudnn)
    }

    /// As `cudnnGetVersion` counts: 91002 is 9.10.2.
    pub fn version(&self) -> usize {
        self.version
    }

    /// A pass over a problem, by the algorithm that the finder measured as fastest among those that compute in `math` and
    /// need no more than `workspace`. The finder overwrites `out` and the workspace.
    ///
    /// Operands are those of [`Convolution::run`].
    ///
    /// # Errors
    /// When the problem cannot be described to cuDNN, a buffer has the wrong length or type, or no algorithm is left.
    pub fn convolution<T: Value>(
        &self,
        pass: Pass,
        math: Math,
        problem: &Conv2dProblem,
        (a, b): (&impl DevicePtr<T>, &impl DevicePtr<T>),
        out: &mut impl DevicePtrMut<T>,
        workspace: &mut impl DevicePtrMut<u8>,
    ) -> Result<Convolution<'_>> {
        let doing = format!("{pass:?} in {} of {problem:?}", math.name());
        check_lengths::<T>(math, pass, problem, [a.len(), b.len(), out.len()])?;
        let f = &self.functions;
        let Description { x, filter, y, window } = f.describe(&Extents::new(problem)?, math)?;
        let (descriptors, find) = match pass {
            Pass::Fprop => ([x, filter, y], f.find_fprop),
            Pass::Dgrad => ([filter, y, x], f.find_dgrad),
            Pass::Wgrad => ([x, y, filter], f.find_wgrad),
        };
        bind(&self.stream)?;
        let (mut found, mut results) = (0, [AlgoPerf::default(); MAX_RESULTS]);
        let workspace_bytes = workspace.len();
        let code = {
            let ((a, _a), (b, _b)) = (a.device_ptr(&self.stream), b.device_ptr(&self.stream));
            let (out, _out) = out.device_ptr_mut(&self.stream);
            let (workspace, _workspace) = workspace.device_ptr_mut(&self.stream);
            let [da, db, dout] = descriptors.each_ref().map(|descriptor| descriptor.raw);
            let wanted = MAX_RESULTS as c_int;
            // SAFETY: the descriptors are live and in the order of this pass; the buffers have the lengths and type
            // that they say (checked), `out` and the workspace are borrowed mutably; there are `wanted` results.
            unsafe {
                let (found, results) = (&mut found, results.as_mut_ptr());
                let (handle, window) = (self.handle, window.raw);
                find(handle, da, a, db, b, window, dout, out, wanted, found, results, workspace, workspace_bytes)
            }
        };
        check("the finder", code, &doing)?;
        let results = &results[..(found.max(0) as usize).min(MAX_RESULTS)];
        let best = fastest(results, math, workspace_bytes).ok_or_else(|| {
            let reason = format!("none of its algorithms computes {doing} within {workspace_bytes} bytes");
            Error::device(Library::Cudnn, reason, "allow a larger workspace")
        })?;
        // SAFETY: the descriptor is live; the number came from the finder.
        check("cudnnSetConvolutionMathType", unsafe { (f.set_math_type)(window.raw, best.math_type) }, &doing)?;
        let AlgoPerf { algo, memory, math_type, .. } = best;
        Ok(Convolution { cudnn: self, pass, math, problem: *problem, descriptors, window, algo, memory, math_type })
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        // Nothing can be done about a code here.
        // SAFETY: the handle is ours and this its last use; convolutions borrow it.
        unsafe { (self.functions.destroy)(self.handle) };
    }
}

/// The fastest of the finder's results that is allowed. The finder also tries cuDNN's default math, which on these GPUs
/// is tf32 for f32.
fn fastest(results: &[AlgoPerf], math: Math, workspace_bytes: usize) -> Option<AlgoPerf> {
    let allowed = |result: &&AlgoPerf| {
        let true_f32 = result.math_type == cudnnMathType_t::CUDNN_FMA_MATH as i32;
        result.status == 0 && result.memory <= workspace_bytes && (math != Math::F32 || true_f32)
    };
    results.iter().filter(allowed).min_by(|a, b| a.time.total_cmp(&b.time)).copied()
}

/// A descriptor that is destroyed at the end.
struct Owned {
    raw: Descriptor,
    destroy: unsafe extern "C" fn(Descriptor) -> i32,
}

impl Drop for Owned {
    fn drop(&mut self) {
        // SAFETY: created with `destroy`'s counterpart, and this is its last use.
        unsafe { (self.destroy)(self.raw) };
    }
}

/// Makes the stream's context current: cuDNN and cuBLAS take the current one.
pub(crate) fn bind(stream: &CudaStream) -> Result<()> {
    stream.context().bind_to_thread().map_err(|error| {
        Error::device("cuda", format_args!("making the context current: {error}"), "start the program again")
    })
}

/// Elements of the operands and the result of a pass.
pub(crate) fn lengths(pass: Pass, p: &Conv2dProblem) -> [usize; 3] {
    match pass {
        Pass::Fprop => [p.x_elems(), p.w_elems(), p.y_elems()],
        Pass::Dgrad => [p.w_elems(), p.y_elems(), p.x_elems()],
        Pass::Wgrad => [p.x_elems(), p.y_elems(), p.w_elems()],
    }
}

/// Buffers must be of the math's type and hold what the problem says.
pub(crate) fn check_lengths<T: Value>(math: Math, pass: Pass, p: &Conv2dProblem, got: [usize; 3]) -> Result<()> {
    if T::SUFFIX != math.suffix() {
        let expected = format!("buffers of {}", math.suffix());
        return Err(Error::argument("peers", expected, T::SUFFIX, "tf32 is a way to multiply f32"));
    }
    let expected = lengths(pass, p);
    if got == expected {
        return Ok(());
    }
    let expected = format!("{pass:?} with operands and result of {expected:?} elements");
    Err(Error::shape("peers", expected, format_args!("{got:?}"), "pass the buffers of the problem"))
}

/// One pass over one problem by one algorithm.
pub struct Convolution<'a> {
    cudnn: &'a Cudnn,
    pass: Pass,
    math: Math,
    problem: Conv2dProblem,
    /// Of both operands and the result.
    descriptors: [Owned; 3],
    window: Owned,
    algo: i32,
    memory: usize,
    math_type: i32,
}

impl Convolution<'_> {
    /// The algorithm, as cuDNN's enum of the pass counts.
    pub fn algorithm(&self) -> i32 {
        self.algo
    }

    /// `cudnnMathType_t` of the algorithm.
    pub fn math_type(&self) -> i32 {
        self.math_type
    }

    /// Bytes of workspace that the algorithm needs.
    pub fn workspace_bytes(&self) -> usize {
        self.memory
    }

    /// Queues the pass: `out = `, nothing is added. Operands `(x, w)` give `y`, `(w, dy)` give `dx`, and `(x, dy)` give
    /// `dw`, which unlike ours is of the operands' type.
    ///
    /// # Errors
    /// When a buffer has the wrong length or type, or the call fails.
    pub fn run<T: Value>(
        &self,
        (a, b): (&impl DevicePtr<T>, &impl DevicePtr<T>),
        out: &mut impl DevicePtrMut<T>,
        workspace: &mut impl DevicePtrMut<u8>,
    ) -> Result<()> {
        check_lengths::<T>(self.math, self.pass, &self.problem, [a.len(), b.len(), out.len()])?;
        let workspace_bytes = workspace.len();
        if workspace_bytes < self.memory {
            let expected = format!("a workspace of at least {} bytes", self.memory);
            return Err(Error::shape("cuDNN", expected, workspace_bytes, "pass the finder's workspace"));
        }
        bind(&self.cudnn.stream)?;
        let (f, stream) = (&self.cudnn.functions, &self.cudnn.stream);
        let run = match self.pass {
            Pass::Fprop => f.run_fprop,
            Pass::Dgrad => f.run_dgrad,
            Pass::Wgrad => f.run_wgrad,
        };
        let ((a, _a), (b, _b)) = (a.device_ptr(stream), b.device_ptr(stream));
        let ((out, _out), (workspace, _ws)) = (out.device_ptr_mut(stream), workspace.device_ptr_mut(stream));
        let [da, db, dout] = self.descriptors.each_ref().map(|descriptor| descriptor.raw);
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: the descriptors are live and in the order of this pass; the buffers have the lengths and type that they
        // say (checked), `out` and the workspace, of a sufficient size, are borrowed mutably; scales are f32 for both types.
        let code = unsafe {
            let (handle, window) = (self.cudnn.handle, self.window.raw);
            run(handle, &one, da, a, db, b, window, self.algo, workspace, workspace_bytes, &zero, dout, out)
        };
        check("the convolution", code, format_args!("{:?} of {:?}", self.pass, self.problem))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cudarc::cudnn::sys;
    use std::mem::offset_of;

    #[test]
    fn one_struct_stands_for_the_results_of_all_three_finders() {
        macro_rules! same {
            ($theirs:ty) => {
                assert_eq!(size_of::<AlgoPerf>(), size_of::<$theirs>());
                assert_eq!(offset_of!(AlgoPerf, algo), offset_of!($theirs, algo));
                assert_eq!(offset_of!(AlgoPerf, status), offset_of!($theirs, status));
                assert_eq!(offset_of!(AlgoPerf, time), offset_of!($theirs, time));
                assert_eq!(offset_of!(AlgoPerf, memory), offset_of!($theirs, memory));
                assert_eq!(offset_of!(AlgoPerf, determinism), offset_of!($theirs, determinism));
                assert_eq!(offset_of!(AlgoPerf, math_type), offset_of!($theirs, mathType));
                assert_eq!(offset_of!(AlgoPerf, reserved), offset_of!($theirs, reserved));
            };
        }
        same!(sys::cudnnConvolutionFwdAlgoPerf_t);
        same!(sys::cudnnConvolutionBwdDataAlgoPerf_t);
        same!(sys::cudnnConvolutionBwdFilterAlgoPerf_t);
    }

    /// Compiles only as long as cuDNN's header, as cudarc has translated it, says what `Functions` says.
    #[test]
    fn signatures_are_those_of_the_header() {
        type Data = *const c_void;
        type Out = *mut c_void;
        type Run<A, B, C, Algo> = unsafe fn(
            sys::cudnnHandle_t,
            Data,
            A,
            Data,
            B,
            Data,
            sys::cudnnConvolutionDescriptor_t,
            Algo,
            Out,
            usize,
            Data,
            C,
            Out,
        ) -> sys::cudnnStatus_t;
        type Find<A, B, C, Perf> = unsafe fn(
            sys::cudnnHandle_t,
            A,
            Data,
            B,
            Data,
            sys::cudnnConvolutionDescriptor_t,
            C,
            Out,
            c_int,
            *mut c_int,
            *mut Perf,
            Out,
            usize,
        ) -> sys::cudnnStatus_t;
        type Tensor = sys::cudnnTensorDescriptor_t;
        type Filter = sys::cudnnFilterDescriptor_t;
        let _: Run<Tensor, Filter, Tensor, sys::cudnnConvolutionFwdAlgo_t> = sys::cudnnConvolutionForward;
        let _: Run<Filter, Tensor, Tensor, sys::cudnnConvolutionBwdDataAlgo_t> = sys::cudnnConvolutionBackwardData;
        let _: Run<Tensor, Tensor, Filter, sys::cudnnConvolutionBwdFilterAlgo_t> = sys::cudnnConvolutionBackwardFilter;
        let _: Find<Tensor, Filter, Tensor, sys::cudnnConvolutionFwdAlgoPerf_t> =
            sys::cudnnFindConvolutionForwardAlgorithmEx;
        let _: Find<Filter, Tensor, Tensor, sys::cudnnConvolutionBwdDataAlgoPerf_t> =
            sys::cudnnFindConvolutionBackwardDataAlgorithmEx;
        let _: Find<Tensor, Tensor, Filter, sys::cudnnConvolutionBwdFilterAlgoPerf_t> =
            sys::cudnnFindConvolutionBackwardFilterAlgorithmEx;
        assert_eq!(size_of::<sys::cudnnDataType_t>(), size_of::<i32>());
        assert_eq!(size_of::<sys::cudnnStatus_t>(), size_of::<i32>());
    }

    /// cuDNN itself says what output extents its descriptors give. It needs no GPU for that, only the library: without it
    /// the error is looked at.
    #[test]
    fn the_library_agrees_on_every_layer() {
        let functions = match Functions::load() {
            Err(error) => {
                assert!(!Library::Cudnn.is_present(), "{error}");
                assert!(error.to_string().contains("pip install nvidia-cudnn-cu12"), "{error}");
                return;
            }
            Ok(functions) => functions,
        };
        type Output =
            unsafe extern "C" fn(Descriptor, Descriptor, Descriptor, *mut i32, *mut i32, *mut i32, *mut i32) -> i32;
        // SAFETY: the C signature.
        let output = unsafe { Library::Cudnn.function::<Output>("cudnnGetConvolution2dForwardOutputDim") }.unwrap();
        for size in [32, 72, 96, 224] {
            for layer in crate::layers::convolutions(size, 4).unwrap() {
                let e = Extents::new(&layer.problem).unwrap();
                for math in Math::ALL {
                    let Description { x, filter, window, .. } = functions.describe(&e, math).unwrap();
                    let mut y = [0; 4];
                    let [n, k, p, q] = &mut y;
                    // SAFETY: live descriptors of the kinds that the function takes, and live numbers.
                    let code = unsafe { output(window.raw, x.raw, filter.raw, n, k, p, q) };
                    assert_eq!((code, y), (0, e.y), "{}", layer.name);
                }
            }
        }
    }

    #[test]
    fn only_allowed_algorithms_are_taken() {
        let result = |algo, status, time, memory, math_type| AlgoPerf {
            algo,
            status,
            time,
            memory,
            math_type,
            ..AlgoPerf::default()
        };
        let results = [
            result(0, 9, 0.1, 0, 3),    // failed
            result(1, 0, 0.2, 0, 0),    // default math: tf32 for f32
            result(2, 0, 0.3, 2000, 3), // beyond the workspace
            result(3, 0, 0.5, 1000, 3),
            result(4, 0, 0.4, 1000, 3),
        ];
        let best = |math| fastest(&results, math, 1000).map(|result| result.algo);
        assert_eq!(best(Math::F32), Some(4));
        assert_eq!(best(Math::Tf32), Some(1));
        assert_eq!(best(Math::Bf16), Some(1));
        assert_eq!(fastest(&results[..3], Math::F32, 1000).map(|result| result.algo), None);
    }
}
