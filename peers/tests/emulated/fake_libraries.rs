//! cuDNN and cuBLAS as far as the comparison calls them, by definition and on the host. `main.rs` compiles it into
//! libcudnn.so and libcublas.so.
//!
//! Device memory is copied through the driver that the process has loaded, in order on the stream that the handle was given.
#![allow(non_snake_case, clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks, clippy::too_many_arguments)]

use std::ffi::{CStr, c_char, c_void};

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: i32) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

const RTLD_LAZY: i32 = 1;
const FLOAT: i32 = 0;
const FMA_MATH: i32 = 3;
/// What the one algorithm that the finder may recommend is called, and needs.
const ALGORITHM: i32 = 5;
const WORKSPACE: usize = 1000;

fn driver<F: Copy>(symbol: &CStr) -> F {
    unsafe {
        let library = dlopen(c"libcuda.so".as_ptr(), RTLD_LAZY);
        let function = dlsym(library, symbol.as_ptr());
        assert!(!function.is_null(), "no {symbol:?}");
        std::mem::transmute_copy(&function)
    }
}

pub struct Handle {
    stream: u64,
}

impl Handle {
    fn bytes(&self, address: u64, bytes: usize) -> Vec<u8> {
        let copy: unsafe extern "C" fn(*mut u8, u64, usize, u64) -> i32 = driver(c"cuMemcpyDtoHAsync_v2");
        let synchronize: unsafe extern "C" fn(u64) -> i32 = driver(c"cuStreamSynchronize");
        let mut values = vec![0; bytes];
        assert_eq!(unsafe { (copy(values.as_mut_ptr(), address, bytes, self.stream), synchronize(self.stream)) }, (0, 0));
        values
    }

    fn read(&self, address: u64, is_f32: bool, n: usize) -> Vec<f32> {
        if is_f32 {
            let bytes = self.bytes(address, 4 * n);
            return bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        }
        let bytes = self.bytes(address, 2 * n);
        bytes.chunks_exact(2).map(|b| f32::from_le_bytes([0, 0, b[0], b[1]])).collect()
    }

    fn write(&self, address: u64, is_f32: bool, mut values: Vec<f32>) {
        if std::env::var_os("FAKE_IS_WRONG").is_some() {
            values[0] += 100.0;
        }
        let bytes: Vec<u8> = match is_f32 {
            true => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            false => values.iter().flat_map(|x| ((x.to_bits() + 0x8000) >> 16).to_le_bytes()[..2].to_vec()).collect(),
        };
        let copy: unsafe extern "C" fn(u64, *const u8, usize, u64) -> i32 = driver(c"cuMemcpyHtoDAsync_v2");
        let synchronize: unsafe extern "C" fn(u64) -> i32 = driver(c"cuStreamSynchronize");
        assert_eq!(unsafe { (copy(address, bytes.as_ptr(), bytes.len(), self.stream), synchronize(self.stream)) }, (0, 0));
    }
}

unsafe extern "C" fn create(handle: *mut *mut Handle) -> i32 {
    unsafe { *handle = Box::into_raw(Box::new(Handle { stream: u64::MAX })) };
    0
}

unsafe extern "C" fn destroy(handle: *mut Handle) -> i32 {
    drop(unsafe { Box::from_raw(handle) });
    0
}

unsafe extern "C" fn set_stream(handle: *mut Handle, stream: u64) -> i32 {
    unsafe { (*handle).stream = stream };
    0
}

extern "C" fn text(_code: i32) -> *const c_char {
    c"a fake's code".as_ptr()
}

#[cfg(cudnn)]
pub mod cudnn {
    use super::*;

    /// A descriptor of any kind: the numbers that it was set to.
    pub type Numbers = [i32; 8];

    #[unsafe(no_mangle)]
    pub extern "C" fn cudnnGetVersion() -> usize {
        90_100
    }
    #[unsafe(no_mangle)]
    pub extern "C" fn cudnnGetErrorString(code: i32) -> *const c_char {
        text(code)
    }
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn cudnnCreate(handle: *mut *mut Handle) -> i32 {
        unsafe { create(handle) }
    }
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn cudnnDestroy(handle: *mut Handle) -> i32 {
        unsafe { destroy(handle) }
    }
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn cudnnSetStream(handle: *mut Handle, stream: u64) -> i32 {
        unsafe { set_stream(handle, stream) }
    }

    macro_rules! descriptors {
        ($($create:ident $destroy:ident)*) => {$(
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $create(descriptor: *mut *mut Numbers) -> i32 {
                unsafe { *descriptor = Box::into_raw(Box::default()) };
                0
            }
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $destroy(descriptor: *mut Numbers) -> i32 {
                drop(unsafe { Box::from_raw(descriptor) });
                0
            }
        )*};
    }
    descriptors! {
        cudnnCreateTensorDescriptor cudnnDestroyTensorDescriptor
        cudnnCreateFilterDescriptor cudnnDestroyFilterDescriptor
        cudnnCreateConvolutionDescriptor cudnnDestroyConvolutionDescriptor
    }

    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn cudnnSetTensor4dDescriptor(
        d: *mut Numbers,
        format: i32,
        of: i32,
        n: i32,
        c: i32,
        h: i32,
        w: i32,
    ) -> i32 {
        assert_eq!(format, 1, "NHWC");
        unsafe { *d = [n, c, h, w, of, 0, 0, 0] };
        0
    }
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn cudnnSetFilter4dDescriptor(
        d: *mut Numbers,
        of: i32,
        format: i32,
        k: i32,
        c: i32,
        r: i32,
        s: i32,
    ) -> i32 {
        assert_eq!(format, 1, "NHWC");
        unsafe { *d = [k, c, r, s, of, 0, 0, 0] };
        0
    }
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn cudnnSetConvolution2dDescriptor(
        d: *mut Numbers,
        pad_h: i32,
        pad_w: i32,
        stride_h: i32,
        stride_w: i32,
        dilation_h: i32,
        dilation_w: i32,
        mode: i32,
        sums: i32,
    ) -> i32 {
        assert_eq!((mode, sums), (1, FLOAT), "cross-correlation, f32 sums");
        unsafe { *d = [pad_h, pad_w, stride_h, stride_w, dilation_h, dilation_w, 0, 0] };
        0
    }
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn cudnnSetConvolutionMathType(d: *mut Numbers, math: i32) -> i32 {
        unsafe { (*d)[6] = math };
        0
    }

    #[repr(C)]
    pub struct Perf {
        algo: i32,
        status: i32,
        time: f32,
        memory: usize,
        determinism: i32,
        math: i32,
        reserved: [i32; 3],
    }

    macro_rules! finders {
        ($($find:ident)*) => {$(
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $find(
                _handle: *mut Handle,
                _a: *mut Numbers,
                _a_data: u64,
                _b: *mut Numbers,
                _b_data: u64,
                window: *mut Numbers,
                _out: *mut Numbers,
                _out_data: u64,
                _wanted: i32,
                found: *mut i32,
                results: *mut Perf,
                _workspace: u64,
                _workspace_bytes: usize,
            ) -> i32 {
                let math = unsafe { (*window)[6] };
                // The faster ones are no use: one failed, the other needs more than anybody gives it.
                let tried = [(0, 3, 0), (1, 0, usize::MAX), (ALGORITHM, 0, WORKSPACE)];
                for (i, (algo, status, memory)) in tried.into_iter().enumerate() {
                    let perf = Perf { algo, status, time: i as f32, memory, determinism: 0, math, reserved: [0; 3] };
                    unsafe { results.add(i).write(perf) };
                }
                unsafe { *found = 3 };
                0
            }
        )*};
    }
    finders! {
        cudnnFindConvolutionForwardAlgorithmEx
        cudnnFindConvolutionBackwardDataAlgorithmEx
        cudnnFindConvolutionBackwardFilterAlgorithmEx
    }

    /// Calls `term` with the places in `x`, `w` and `y` of every product of a convolution.
    fn products(x: &Numbers, w: &Numbers, y: &Numbers, window: &Numbers, mut term: impl FnMut(usize, usize, usize)) {
        let [n, c, h, width] = [x[0], x[1], x[2], x[3]];
        let ([k, r, s], [p, q]) = ([w[0], w[2], w[3]], [y[2], y[3]]);
        assert_eq!([y[0], y[1], w[1]], [n, k, c]);
        for (image, row, column) in (0..n).flat_map(|i| (0..p).flat_map(move |j| (0..q).map(move |l| (i, j, l)))) {
            for (tap_h, tap_w) in (0..r).flat_map(|i| (0..s).map(move |j| (i, j))) {
                let from_h = row * window[2] - window[0] + tap_h * window[4];
                let from_w = column * window[3] - window[1] + tap_w * window[5];
                if from_h < 0 || from_h >= h || from_w < 0 || from_w >= width {
                    continue;
                }
                for filter in 0..k {
                    for channel in 0..c {
                        let at_x = ((image * h + from_h) * width + from_w) * c + channel;
                        let at_w = ((filter * r + tap_h) * s + tap_w) * c + channel;
                        let at_y = ((image * p + row) * q + column) * k + filter;
                        term(at_x as usize, at_w as usize, at_y as usize);
                    }
                }
            }
        }
    }

    fn elems(d: &Numbers) -> usize {
        d[..4].iter().map(|&extent| extent as usize).product()
    }

    macro_rules! passes {
        ($($run:ident($a:ident, $b:ident, $out:ident): $x:ident $w:ident $y:ident;)*) => {$(
            #[unsafe(no_mangle)]
            pub unsafe extern "C" fn $run(
                handle: *mut Handle,
                alpha: *const f32,
                a: *mut Numbers,
                a_data: u64,
                b: *mut Numbers,
                b_data: u64,
                window: *mut Numbers,
                algo: i32,
                _workspace: u64,
                workspace_bytes: usize,
                beta: *const f32,
                out: *mut Numbers,
                out_data: u64,
            ) -> i32 {
                let (handle, a, b, window, out) = unsafe { (&*handle, &*a, &*b, &*window, &*out) };
                if (algo, unsafe { (*alpha, *beta) }) != (ALGORITHM, (1.0, 0.0)) || workspace_bytes < WORKSPACE {
                    return 2000;
                }
                assert_eq!([a[4], b[4]], [out[4]; 2], "one type");
                assert!(window[6] == 1 || (window[6] == FMA_MATH && a[4] == FLOAT), "tensor cores, or true f32");
                let is_f32 = a[4] == FLOAT;
                let $a = handle.read(a_data, is_f32, elems(a));
                let $b = handle.read(b_data, is_f32, elems(b));
                let mut sums = vec![0.0; elems(out)];
                {
                    let ($a, $b, $out) = ((a, &$a), (b, &$b), (out, ()));
                    products($x.0, $w.0, $y.0, window, |at_x, at_w, at_y| {
                        let at = Places { x: at_x, w: at_w, y: at_y };
                        sums[at.$out] += $a.1[at.$a] * $b.1[at.$b];
                    });
                }
                handle.write(out_data, is_f32, sums);
                0
            }
        )*};
    }
    struct Places {
        x: usize,
        w: usize,
        y: usize,
    }
    passes! {
        cudnnConvolutionForward(x, w, y): x w y;
        cudnnConvolutionBackwardData(w, y, x): x w y;
        cudnnConvolutionBackwardFilter(x, y, w): x w y;
    }
}

#[cfg(cublas)]
pub mod cublas {
    use super::*;

    #[unsafe(no_mangle)]
    pub extern "C" fn cublasGetStatusString(code: i32) -> *const c_char {
        text(code)
    }
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn cublasCreate_v2(handle: *mut *mut Handle) -> i32 {
        unsafe { create(handle) }
    }
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn cublasDestroy_v2(handle: *mut Handle) -> i32 {
        unsafe { destroy(handle) }
    }
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn cublasSetStream_v2(handle: *mut Handle, stream: u64) -> i32 {
        unsafe { set_stream(handle, stream) }
    }
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn cublasGetVersion_v2(_handle: *mut Handle, version: *mut i32) -> i32 {
        unsafe { *version = 120_000 };
        0
    }
    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn cublasSetWorkspace_v2(_handle: *mut Handle, address: u64, bytes: usize) -> i32 {
        if address == 0 || bytes == 0 { 7 } else { 0 }
    }

    #[unsafe(no_mangle)]
    pub unsafe extern "C" fn cublasGemmEx(
        handle: *mut Handle,
        ta: i32,
        tb: i32,
        m: i32,
        n: i32,
        k: i32,
        alpha: *const f32,
        a: u64,
        a_type: i32,
        lda: i32,
        b: u64,
        b_type: i32,
        ldb: i32,
        beta: *const f32,
        c: u64,
        c_type: i32,
        ldc: i32,
        compute: i32,
        algo: i32,
    ) -> i32 {
        let handle = unsafe { &*handle };
        // f32 or tf32 of f32, f32 of bf16; the default algorithm.
        let known = [(68, 0), (77, 0), (68, 14)].contains(&(compute, a_type)) && a_type == b_type;
        if !known || algo != -1 || unsafe { (*alpha, *beta) } != (1.0, 0.0) {
            return 15;
        }
        let [m, n, k, lda, ldb, ldc] = [m, n, k, lda, ldb, ldc].map(|extent| extent as usize);
        let a = handle.read(a, a_type == 0, lda * if ta == 0 { k } else { m });
        let b = handle.read(b, b_type == 0, ldb * if tb == 0 { n } else { k });
        let mut sums = vec![0.0; ldc * n];
        for (row, column) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let a = |i: usize| a[if ta == 0 { row + i * lda } else { i + row * lda }];
            let b = |i: usize| b[if tb == 0 { i + column * ldb } else { column + i * ldb }];
            sums[row + column * ldc] = (0..k).map(|i| a(i) * b(i)).sum();
        }
        handle.write(c, c_type == 0, sums);
        0
    }
}
