//! Calls at a limit and just past it: the one is silent, the other an error whose words say what the limit is.

use cudarc::driver::sys::{self, CUresult, cudaError_enum as Code};
use cudarc::driver::{CudaFunction, LaunchConfig, result};
use cudarc::nvrtc::Ptx;

use crate::{Turn, command};

fn findings() -> Vec<(String, String)> {
    let found = warpsmith_emulator::report().unwrap().findings;
    warpsmith_emulator::reset().unwrap();
    found.into_iter().map(|f| (f.kind, f.text)).collect()
}

/// Every copy and memset of the API, of as many bytes as fit and of one more.
#[test]
fn copies_and_memsets_at_the_end_of_an_allocation() {
    let t = Turn::new();
    let stream = t.context.new_stream().unwrap();
    let s = stream.cu_stream();
    // SAFETY: freed below.
    let (a, b) = unsafe { (result::malloc_sync(64).unwrap(), result::malloc_sync(128).unwrap()) };
    let mut host = [7u8; 256];
    let h = host.as_mut_ptr();
    type Call<'a> = (&'a str, &'a str, Box<dyn Fn(usize) -> CUresult + 'a>);
    // SAFETY: host memory is larger than what is copied; the emulator answers what goes past the device's.
    let calls: [Call; 15] = unsafe {
        [
            ("cuMemcpyHtoD", "host-to-device copy", Box::new(|n| sys::cuMemcpyHtoD_v2(a, h.cast(), n))),
            ("cuMemcpyHtoDAsync", "host-to-device copy", Box::new(|n| sys::cuMemcpyHtoDAsync_v2(a, h.cast(), n, s))),
            ("cuMemcpyDtoH", "device-to-host copy", Box::new(|n| sys::cuMemcpyDtoH_v2(h.cast(), a, n))),
            ("cuMemcpyDtoHAsync", "device-to-host copy", Box::new(|n| sys::cuMemcpyDtoHAsync_v2(h.cast(), a, n, s))),
            ("cuMemcpyDtoD, to", "copy", Box::new(|n| sys::cuMemcpyDtoD_v2(a, b, n))),
            ("cuMemcpyDtoD, from", "copy", Box::new(|n| sys::cuMemcpyDtoD_v2(b, a, n))),
            ("cuMemcpyDtoDAsync, to", "copy", Box::new(|n| sys::cuMemcpyDtoDAsync_v2(a, b, n, s))),
            ("cuMemcpyDtoDAsync, from", "copy", Box::new(|n| sys::cuMemcpyDtoDAsync_v2(b, a, n, s))),
            ("cuMemcpy, to", "copy", Box::new(|n| sys::cuMemcpy(a, b, n))),
            ("cuMemcpy, from", "copy", Box::new(|n| sys::cuMemcpy(b, a, n))),
            ("cuMemsetD8", "memset", Box::new(|n| sys::cuMemsetD8_v2(a, 1, n))),
            ("cuMemsetD8Async", "memset", Box::new(|n| sys::cuMemsetD8Async(a, 1, n, s))),
            // Of larger elements, one more element.
            ("cuMemsetD16", "memset", Box::new(|n| sys::cuMemsetD16_v2(a, 1, n.div_ceil(2)))),
            ("cuMemsetD32", "memset", Box::new(|n| sys::cuMemsetD32_v2(a, 1, n.div_ceil(4)))),
            ("cuMemsetD32Async", "memset", Box::new(|n| sys::cuMemsetD32Async(a, 1, n.div_ceil(4), s))),
        ]
    };
    // SAFETY: the size is that of the allocation.
    unsafe { result::memset_d8_sync(b, 1, 128).unwrap() };
    for (name, what, call) in &calls {
        assert_eq!(call(64), Code::CUDA_SUCCESS, "{name}");
        stream.synchronize().unwrap();
        t.context.synchronize().unwrap();
        assert_eq!(findings(), [], "{name} of 64 bytes");
        assert_eq!(call(65), Code::CUDA_ERROR_INVALID_VALUE, "{name}");
        let found = findings();
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        assert!(found[0].0 == "api-bounds" && found[0].1.starts_with("api-bounds: "), "{name}: {found:?}");
        for words in [*what, &format!(" bytes at {a:#x}: the range ends "), " past the end of allocation ", "(64 bytes"]
        {
            assert!(found[0].1.contains(words), "{name}: `{words}` is missing in: {}", found[0].1);
        }
    }
    drop(calls);
    // SAFETY: allocated above; a null host address is what is tested.
    unsafe {
        assert_eq!(sys::cuMemcpyHtoD_v2(a, std::ptr::null(), 4), Code::CUDA_ERROR_INVALID_VALUE);
        let e = cudarc::driver::DriverError(Code::CUDA_ERROR_INVALID_VALUE);
        let text = e.error_string().unwrap().to_string_lossy().into_owned();
        assert_eq!(text, "host-to-device copy: the host address is null");
        assert_eq!(sys::cuMemcpyHtoD_v2(a, std::ptr::null(), 0), Code::CUDA_SUCCESS, "nothing is copied");
        result::free_sync(a).unwrap();
        result::free_sync(b).unwrap();
    }
}

const LIMITS: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry any() { ret; }
.visible .entry at_most_96() .maxntid 96, 1, 1 { ret; }
.visible .entry exactly_64() .reqntid 64, 1, 1 { ret; }
.visible .entry statically() { .shared .align 4 .b8 tile[40000]; .reg .b32 %r<2>; mov.u32 %r0, tile; ret; }
";

#[test]
fn launches_at_the_limits_of_the_device() {
    let t = Turn::new();
    let module = t.context.load_module(Ptx::from_src(LIMITS)).unwrap();
    let stream = t.context.default_stream();
    let try_ = |f: &CudaFunction, config: LaunchConfig, cooperative: bool| {
        let mut launch = stream.launch_builder(f);
        // SAFETY: the kernels have no arguments.
        let said = unsafe { if cooperative { launch.launch_cooperative(config) } else { launch.launch(config) } };
        said.map(|_| ()).map_err(|e| e.0).and_then(|()| stream.synchronize().map_err(|e| e.0))
    };
    type Dim = (u32, u32, u32);
    type Shape = (Dim, Dim, u32);
    let launch = |name: &str, grid: Dim, block: Dim, shared: u32| {
        let f = module.load_function(name).unwrap();
        try_(&f, LaunchConfig { grid_dim: grid, block_dim: block, shared_mem_bytes: shared }, false)
    };
    let one = (1, 1, 1);
    // Kernel, the grid, block and dynamic shared memory that fit and those that do not, and what is said then.
    let cases: [(&str, Shape, Shape, Code, &str); 10] = [
        (
            "any",
            (one, (1024, 1, 1), 0),
            (one, (1025, 1, 1), 0),
            Code::CUDA_ERROR_INVALID_VALUE,
            "kernel any: a block of [1025, 1, 1] threads: at most 1024, and 64 in z",
        ),
        (
            "any",
            (one, (32, 32, 1), 0),
            (one, (32, 33, 1), 0),
            Code::CUDA_ERROR_INVALID_VALUE,
            "kernel any: a block of [32, 33, 1] threads: at most 1024, and 64 in z",
        ),
        (
            "any",
            (one, (1, 1, 64), 0),
            (one, (1, 1, 65), 0),
            Code::CUDA_ERROR_INVALID_VALUE,
            "kernel any: a block of [1, 1, 65] threads: at most 1024, and 64 in z",
        ),
        (
            "any",
            ((1, 65535, 1), one, 0),
            ((1, 65536, 1), one, 0),
            Code::CUDA_ERROR_INVALID_VALUE,
            "kernel any: a grid of [1, 65536, 1] blocks: 1 to 2^31-1 in x, 65535 in y and z",
        ),
        (
            "any",
            ((1, 1, 65535), one, 0),
            ((1, 1, 65536), one, 0),
            Code::CUDA_ERROR_INVALID_VALUE,
            "kernel any: a grid of [1, 1, 65536] blocks",
        ),
        (
            "any",
            (one, one, 0),
            ((0, 1, 1), one, 0),
            Code::CUDA_ERROR_INVALID_VALUE,
            "a grid of [0, 1, 1] blocks: 1 to 2^31-1",
        ),
        (
            "at_most_96",
            (one, (96, 1, 1), 0),
            (one, (97, 1, 1), 0),
            Code::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES,
            "kernel at_most_96: a block of 97 threads, __launch_bounds__ promised at most 96",
        ),
        (
            "exactly_64",
            (one, (64, 1, 1), 0),
            (one, (32, 2, 1), 0),
            Code::CUDA_ERROR_INVALID_VALUE,
            "kernel exactly_64: a block of [32, 2, 1] threads, .reqntid demands [64, 1, 1]",
        ),
        (
            "any",
            (one, one, 49152),
            (one, one, 49153),
            Code::CUDA_ERROR_INVALID_VALUE,
            "kernel any: 49153 bytes of dynamic and 0 of static shared memory: above 48 KiB set \
             CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES first (limit now 49152)",
        ),
        (
            "statically",
            (one, one, 9152),
            (one, one, 9153),
            Code::CUDA_ERROR_INVALID_VALUE,
            "kernel statically: 9153 bytes of dynamic and 40000 of static shared memory: above 48 KiB set",
        ),
    ];
    for (name, fits, too_much, code, words) in cases {
        assert_eq!(launch(name, fits.0, fits.1, fits.2), Ok(()), "{words}");
        assert_eq!(findings(), [], "{words}");
        assert_eq!(launch(name, too_much.0, too_much.1, too_much.2), Err(code), "{words}");
        let found = findings();
        assert!(found.len() == 1 && found[0].0 == "launch-limit" && found[0].1.contains(words), "{words}: {found:?}");
    }
    // The opt-in, and what is above it.
    let f = module.load_function("any").unwrap();
    let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    let most = 163 << 10;
    f.set_attribute(attribute, most).unwrap();
    let config = |shared: i32| LaunchConfig { grid_dim: one, block_dim: one, shared_mem_bytes: shared as u32 };
    assert_eq!(try_(&f, config(most), false), Ok(()));
    assert_eq!(findings(), []);
    assert_eq!(f.set_attribute(attribute, most + 1).unwrap_err().0, Code::CUDA_ERROR_INVALID_VALUE);
    let found = findings();
    assert!(found[0].1.contains("166913 bytes of dynamic beside 0 of static shared memory"), "{found:?}");
    assert!(found[0].1.contains("the device lets a block opt in to 166912"), "{found:?}");
    // Cooperative blocks must be resident together: two of 1024 threads per multiprocessor.
    let blocks = |n: u32| LaunchConfig { grid_dim: (n, 1, 1), block_dim: (1024, 1, 1), shared_mem_bytes: 0 };
    assert_eq!(try_(&f, blocks(216), true), Ok(()));
    assert_eq!(findings(), []);
    assert_eq!(try_(&f, blocks(217), true), Err(Code::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE));
    let found = findings();
    assert!(found[0].1.contains("kernel any: 217 blocks, at most 216 are resident together"), "{found:?}");
}

/// The repaired twins of what only a process can show: a limit of time that is kept, memory that is freed, device memory
/// that is copied instead of dereferenced.
#[test]
fn programs_that_end_well_have_nothing_to_report() {
    let (code, text) = command::emulate("clean", &["--limit", "60"]);
    assert_eq!(code, Some(0), "{text}");
    for words in ["finding", "time-limit", "leak", "no report"] {
        assert!(!text.contains(words), "`{words}` in: {text}");
    }
    assert!(text.contains("vector_add") && !text.contains("\nlive "), "{text}");
}
