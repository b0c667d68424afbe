//! Calls that a program gets wrong, each beside the right ones.

use cudarc::driver::{LaunchConfig, PushKernelArg, result, sys};

use crate::{Turn, one_block};

fn kinds() -> Vec<(String, String)> {
    warpsmith_emulator::report().unwrap().findings.into_iter().map(|f| (f.kind, f.text)).collect()
}

#[test]
fn frees_that_are_wrong() {
    let _t = Turn::new();
    // SAFETY: the emulator answers wrong frees with errors.
    unsafe {
        // The repaired twin: freed once, at its first byte.
        let p = result::malloc_sync(256).unwrap();
        result::memset_d8_sync(p, 1, 256).unwrap();
        result::free_sync(p).unwrap();
        assert!(self::kinds().is_empty());
        let p = result::malloc_sync(256).unwrap();
        result::memset_d8_sync(p, 1, 256).unwrap();
        assert_eq!(result::free_sync(p + 16).unwrap_err().0, sys::cudaError_enum::CUDA_ERROR_INVALID_VALUE);
        result::free_sync(p).unwrap();
        assert!(result::free_sync(p).is_err());
    }
    let kinds = kinds();
    assert_eq!(kinds.len(), 2, "{kinds:?}");
    assert!(kinds[0].1.contains("invalid free") && kinds[0].1.contains("16 bytes inside allocation"), "{kinds:?}");
    assert!(kinds[1].1.contains("double free"), "{kinds:?}");
}

#[test]
fn frees_in_streams_that_are_wrong() {
    let t = Turn::new();
    let stream = t.context.new_stream().unwrap();
    // SAFETY: the emulator answers wrong frees with errors.
    unsafe {
        let p = result::malloc_async(stream.cu_stream(), 64).unwrap();
        result::memset_d8_async(p, 1, 64, stream.cu_stream()).unwrap();
        result::free_async(p, stream.cu_stream()).unwrap();
        // The first free is still queued.
        let e = result::free_async(p, stream.cu_stream()).unwrap_err();
        assert_eq!(e.0, sys::cudaError_enum::CUDA_ERROR_INVALID_VALUE);
        stream.synchronize().unwrap();
        assert!(result::free_async(p, stream.cu_stream()).is_err());
    }
    let kinds = kinds();
    assert_eq!(kinds.len(), 2, "{kinds:?}");
    assert!(kinds[0].1.contains("a stream has been asked to free it already"), "{kinds:?}");
    assert!(kinds[1].1.contains("double free") && kinds[1].1.contains("cuMemFreeAsync"), "{kinds:?}");
}

#[test]
fn device_addresses_where_host_addresses_belong() {
    let t = Turn::new();
    let stream = t.context.default_stream();
    let x = stream.clone_htod(&[7u32; 16]).unwrap();
    let y = stream.alloc_zeros::<u32>(16).unwrap();
    stream.synchronize().unwrap();
    use cudarc::driver::DevicePtr;
    let ((px, _a), (py, _b)) = (x.device_ptr(&stream), y.device_ptr(&stream));
    // SAFETY: the emulator answers with errors, and does not touch the addresses.
    unsafe {
        let code = sys::cuMemcpyHtoD_v2(py, px as *const _, 64);
        assert_eq!(code, sys::cudaError_enum::CUDA_ERROR_INVALID_VALUE);
        let code = sys::cuMemcpyDtoH_v2(px as *mut _, py, 64);
        assert_eq!(code, sys::cudaError_enum::CUDA_ERROR_INVALID_VALUE);
        // The repaired twins.
        assert_eq!(sys::cuMemcpyDtoD_v2(py, px, 64), sys::cudaError_enum::CUDA_SUCCESS);
    }
    assert_eq!(stream.clone_dtoh(&y).unwrap(), [7; 16]);
    let kinds = kinds();
    assert_eq!(kinds.len(), 2, "{kinds:?}");
    for (k, what) in kinds.iter().zip(["host-to-device copy", "device-to-host copy"]) {
        assert!(
            k.0 == "host-access" && k.1.contains(what) && k.1.contains("is a device address, 0 bytes inside"),
            "{k:?}"
        );
    }
}

#[test]
fn copies_inside_the_device_that_overlap() {
    let t = Turn::new();
    let stream = t.context.default_stream();
    let x = stream.clone_htod(&[7u32; 64]).unwrap();
    use cudarc::driver::DevicePtr;
    let (p, _used) = x.device_ptr(&stream);
    let copy = |to: u64, bytes: usize| {
        // SAFETY: the ranges lie inside the buffer.
        unsafe { result::memcpy_dtod_async(p + to, p, bytes, stream.cu_stream()) }.unwrap();
        kinds()
    };
    assert_eq!(copy(128, 128), [], "side by side");
    let found = copy(64, 128);
    assert_eq!(found.len(), 1, "{found:?}");
    let words = "64 bytes of the source, 64 bytes inside allocation";
    assert!(found[0].0 == "overlap" && found[0].1.contains(words), "{found:?}");
    assert_eq!(copy(0, 4).len(), 2, "onto itself");
}

/// A bug in a kernel that is launched again and again is one finding that counts.
#[test]
fn the_same_bug_in_every_launch() {
    let t = Turn::new();
    let stream = t.context.default_stream();
    let bugs = t.context.load_module(cudarc::nvrtc::Ptx::from_src(include_str!("../kernels/bugs.ptx"))).unwrap();
    let f = bugs.load_function("uninitialised_shared").unwrap();
    let y = stream.alloc_zeros::<f32>(64).unwrap();
    for _ in 0..5 {
        let mut launch = stream.launch_builder(&f);
        launch.arg(&y).arg(&62i32);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.launch(one_block(64)) }.unwrap();
    }
    let found = warpsmith_emulator::report().unwrap().findings;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].count, 5 * 2);
    assert!(
        found[0].text.ends_with("; 10 times") && found[0].text.contains("shared read of 4 bytes at 0xf8"),
        "{found:?}"
    );
}

#[test]
fn copies_out_of_memory_that_nobody_wrote() {
    let t = Turn::new();
    let stream = t.context.default_stream();
    // SAFETY: unwritten on purpose.
    let mut x = unsafe { stream.alloc::<f32>(64) }.unwrap();
    stream.memcpy_htod(&[1f32; 60], &mut x.slice_mut(0..60)).unwrap();
    stream.clone_dtoh(&x.slice(0..60)).unwrap();
    assert!(kinds().is_empty(), "the written part");
    stream.clone_dtoh(&x).unwrap();
    let kinds = kinds();
    assert_eq!(kinds.len(), 1, "{kinds:?}");
    assert!(
        kinds[0].0 == "uninitialised" && kinds[0].1.contains("byte 240 was never written, 240 bytes inside"),
        "{kinds:?}"
    );
}

/// A pool as a program would write one: one allocation, parts of it handed out with room between them, and the emulator
/// told about each through the two C functions.
struct TestPool {
    base: u64,
    next: u64,
}

impl TestPool {
    fn new(bytes: usize) -> TestPool {
        // SAFETY: the memory is given back in `drop`.
        let base = unsafe { result::malloc_sync(bytes) }.unwrap();
        TestPool { base, next: base }
    }

    fn alloc(&mut self, bytes: u64) -> u64 {
        let p = self.next;
        self.next += bytes.next_multiple_of(256) + 256;
        warpsmith_emulator::sub_alloc(p, bytes).unwrap();
        p
    }
}

impl Drop for TestPool {
    fn drop(&mut self) {
        // After a fault the call fails, as on a GPU.
        // SAFETY: allocated in `new`, freed once.
        let _ = unsafe { result::free_sync(self.base) };
    }
}

/// Runs `copy(x, y, n)` of the planted bugs; the kinds and texts of what it did.
fn copied(t: &Turn, x: u64, y: u64, n: i32) -> Vec<(String, String)> {
    let stream = t.context.default_stream();
    let bugs = t.context.load_module(cudarc::nvrtc::Ptx::from_src(include_str!("../kernels/bugs.ptx"))).unwrap();
    let f = bugs.load_function("copy").unwrap();
    let mut launch = stream.launch_builder(&f);
    launch.arg(&x).arg(&y).arg(&n);
    // SAFETY: the emulator answers with errors.
    unsafe { launch.launch(LaunchConfig::for_num_elems(n as u32)) }.unwrap();
    let _ = stream.synchronize();
    let found = kinds();
    warpsmith_emulator::reset().unwrap();
    found
}

#[test]
fn bugs_inside_a_pool_of_the_program() {
    let t = Turn::new();
    let mut pool = TestPool::new(1 << 16);
    let (a, b, c) = (pool.alloc(400), pool.alloc(400), pool.alloc(400));
    let ones = vec![1f32; 100];
    // SAFETY: the sizes are those of the parts.
    unsafe { result::memcpy_htod_sync(a, &ones) }.unwrap();
    assert_eq!(copied(&t, a, b, 100), [], "the repaired twin of all that follows");
    let expect = |found: Vec<(String, String)>, kind: &str, words: &[&str]| {
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, kind, "{found:?}");
        for w in words {
            assert!(found[0].1.contains(w), "`{w}` is missing in: {}", found[0].1);
        }
    };
    let past = "0 bytes past the end of sub-allocation";
    expect(copied(&t, a, b, 101), "out-of-bounds", &["global read of 4 bytes", past, "(400 bytes", "kernel copy"]);
    assert_eq!(copied(&t, b + 4, a + 4, 99), [], "inside both parts");
    expect(copied(&t, c, a, 100), "uninitialised", &["since sub-allocation", "0 bytes into it", "100 times"]);
    // API calls are held to the parts too.
    // SAFETY: the emulator answers with errors.
    unsafe {
        assert!(result::memcpy_htod_sync(a, &[0f32; 101]).is_err());
        assert!(result::memset_d8_sync(a, 0, 401).is_err());
        assert!(result::memset_d8_sync(a + 500, 0, 4).is_err());
    }
    let found = kinds();
    assert!(found.len() == 3 && found.iter().all(|f| f.0 == "api-bounds"), "{found:?}");
    assert!(found[0].1.contains("reaches a byte that lies 0 bytes past the end of sub-allocation"), "{found:?}");
    assert!(found[2].1.contains("the range starts 100 bytes past the end of sub-allocation"), "{found:?}");
    warpsmith_emulator::reset().unwrap();
    warpsmith_emulator::sub_free(b, 400).unwrap();
    expect(copied(&t, b, a, 100), "use-after-free", &["0 bytes inside sub-allocation", "freed by warpsmithEmuSubFree"]);
    for (at, bytes, words) in
        [(b, 400, "double free"), (a + 4, 400, "no sub-allocation starts there"), (a, 100, "has 400 bytes")]
    {
        let e = warpsmith_emulator::sub_free(at, bytes).unwrap_err().to_string();
        assert!(e.starts_with("invalid-free") && e.contains(words), "{e}");
    }
    assert_eq!(kinds().len(), 3);
    let e = warpsmith_emulator::sub_alloc(a + 16, 16).unwrap_err().to_string();
    assert!(e.contains("overlaps sub-allocation"), "{e}");
    let e = warpsmith_emulator::sub_alloc(pool.base + (1 << 16) - 8, 16).unwrap_err().to_string();
    assert!(e.contains("lies in no allocation"), "{e}");
    warpsmith_emulator::reset().unwrap();
    // Handed out again, the part is unwritten again.
    warpsmith_emulator::sub_alloc(b, 400).unwrap();
    expect(copied(&t, b, a, 100), "uninitialised", &["since sub-allocation"]);
    assert_eq!(copied(&t, a, b, 100), []);
    assert_eq!(copied(&t, b, a, 100), []);
}

/// Graphs keep using the parts that a pool handed out while they were captured.
#[test]
fn parts_that_a_graph_uses() {
    let t = Turn::new();
    // SAFETY: one stream only.
    unsafe { t.context.disable_event_tracking() };
    let stream = t.context.new_stream().unwrap();
    let f = t.kernel("vector_add");
    let mut pool = TestPool::new(1 << 14);
    let (x, y) = (pool.alloc(256), pool.alloc(256));
    // SAFETY: the sizes are those of the parts.
    unsafe { result::memcpy_htod_sync(x, &[1f32; 64]).and_then(|()| result::memset_d8_sync(y, 0, 256)) }.unwrap();
    t.context.synchronize().unwrap();
    stream.begin_capture(sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    let z = pool.alloc(256);
    for (p, q, r) in [(x, x, z), (z, y, y)] {
        let mut launch = stream.launch_builder(&f);
        launch.arg(&p).arg(&q).arg(&r).arg(&64i32);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.launch(one_block(64)) }.unwrap();
    }
    warpsmith_emulator::sub_free(z, 256).unwrap();
    let flags = sys::CUgraphInstantiate_flags_enum::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flags).unwrap().unwrap();
    graph.launch().unwrap();
    graph.launch().unwrap();
    stream.synchronize().unwrap();
    let mut back = [0f32; 64];
    // SAFETY: the size is that of the part.
    unsafe { result::memcpy_dtoh_sync(&mut back, y) }.unwrap();
    assert_eq!(back, [4f32; 64]);
    assert!(kinds().is_empty(), "{:?}", kinds());
}

#[test]
fn copies_past_the_end_unused_memory_and_leaks() {
    let _t = Turn::new();
    // SAFETY: the emulator answers wrong copies with errors.
    unsafe {
        // The repaired twins: a copy that fits, memory that is used.
        let p = result::malloc_sync(64).unwrap();
        result::memcpy_htod_sync(p, &[0u8; 64]).unwrap();
        result::free_sync(p).unwrap();
        assert!(self::kinds().is_empty());
        let p = result::malloc_sync(64).unwrap();
        assert!(result::memcpy_htod_sync(p, &[0u8; 65]).is_err());
        result::free_sync(p).unwrap();
        let leak = result::malloc_sync(48).unwrap();
        let report = warpsmith_emulator::report().unwrap();
        assert_eq!(report.live.iter().filter(|l| l.address == leak && l.bytes == 48).count(), 1);
        result::memset_d8_sync(leak, 0, 48).unwrap();
        result::free_sync(leak).unwrap();
    }
    let kinds = kinds();
    assert_eq!(kinds[0].0, "api-bounds");
    assert!(kinds[0].1.contains("the range ends 1 bytes past the end of allocation"), "{kinds:?}");
    assert_eq!(kinds[1].0, "unused");
    assert!(kinds[1].1.contains("was freed, and no kernel, copy or memset had ever written to it"), "{kinds:?}");
    assert_eq!(kinds.len(), 2);
}

#[test]
fn memory_used_before_its_stream_ordered_life_or_after_it() {
    for early in [true, false] {
        let t = Turn::new();
        // SAFETY: one test, its own order.
        unsafe { t.context.disable_event_tracking() };
        let (a, b) = (t.context.new_stream().unwrap(), t.context.new_stream().unwrap());
        let y = b.alloc_zeros::<f32>(64).unwrap();
        b.synchronize().unwrap();
        let f = t.kernel("vector_add");
        // SAFETY: the emulator answers with errors.
        unsafe {
            let p = result::malloc_async(a.cu_stream(), 256).unwrap();
            if !early {
                result::memset_d8_async(p, 0, 256, a.cu_stream()).unwrap();
                result::free_async(p, a.cu_stream()).unwrap();
                a.synchronize().unwrap();
            }
            let y_in = y.len() as i32;
            let mut launch = b.launch_builder(&f);
            launch.arg(&p).arg(&p).arg(&y).arg(&y_in);
            launch.launch(one_block(64)).unwrap();
            let e = b.synchronize().unwrap_err();
            assert_eq!(e.0, sys::cudaError_enum::CUDA_ERROR_ILLEGAL_ADDRESS);
        }
        let kinds = kinds();
        let (kind, words) = if early {
            ("stream-order", "which its stream has not allocated yet")
        } else {
            ("use-after-free", "freed by cuMemFreeAsync")
        };
        assert!(kinds[0].0 == kind && kinds[0].1.contains(words), "{kinds:?}");
        warpsmith_emulator::reset().unwrap();
        drop(y);
    }
}

#[test]
fn memory_used_between_its_allocation_and_its_free_in_other_streams() {
    // The repaired twin: events order the streams, under every seed.
    for seed in ["0", "1", "2", "3"] {
        let t = Turn::new();
        warpsmith_emulator::configure("seed", seed).unwrap();
        // SAFETY: one test, its own order.
        unsafe { t.context.disable_event_tracking() };
        let (a, b) = (t.context.new_stream().unwrap(), t.context.new_stream().unwrap());
        let y = b.alloc_zeros::<f32>(64).unwrap();
        let f = t.kernel("vector_add");
        // SAFETY: memory is used inside its life and freed once.
        unsafe {
            let p = result::malloc_async(a.cu_stream(), 256).unwrap();
            result::memset_d8_async(p, 0, 256, a.cu_stream()).unwrap();
            b.join(&a).unwrap();
            let n = 64i32;
            let mut launch = b.launch_builder(&f);
            launch.arg(&p).arg(&p).arg(&y).arg(&n);
            launch.launch(one_block(64)).unwrap();
            a.join(&b).unwrap();
            result::free_async(p, a.cu_stream()).unwrap();
            a.synchronize().unwrap();
            b.synchronize().unwrap();
        }
        assert!(kinds().is_empty(), "seed {seed}: {:?}", kinds());
        // Before the turn ends: the next test may run between two rounds.
        warpsmith_emulator::configure("seed", "0").unwrap();
    }
}

/// A free that nothing orders after the use is told in every order: in some the use comes too late, in the others the
/// free does not know of it.
#[test]
fn a_free_that_races_with_a_use() {
    let mut seen = Vec::new();
    for seed in 1..12 {
        let t = Turn::new();
        warpsmith_emulator::configure("seed", &format!("{seed}")).unwrap();
        // SAFETY: one test, its own order.
        unsafe { t.context.disable_event_tracking() };
        let (a, b) = (t.context.new_stream().unwrap(), t.context.new_stream().unwrap());
        let y = b.alloc_zeros::<f32>(64).unwrap();
        let f = t.kernel("vector_add");
        // SAFETY: the emulator answers with errors.
        unsafe {
            let p = result::malloc_async(a.cu_stream(), 256).unwrap();
            result::memset_d8_async(p, 0, 256, a.cu_stream()).unwrap();
            b.join(&a).unwrap();
            let n = 64i32;
            let mut launch = b.launch_builder(&f);
            launch.arg(&p).arg(&p).arg(&y).arg(&n);
            launch.launch(one_block(64)).unwrap();
            result::free_async(p, a.cu_stream()).unwrap();
        }
        let _ = t.context.synchronize();
        seen.extend(kinds());
        warpsmith_emulator::reset().unwrap();
        drop(y);
        // Before the turn ends: the next test may run between two rounds.
        warpsmith_emulator::configure("seed", "0").unwrap();
    }
    assert_eq!(seen.len(), 11, "{seen:?}");
    let (late, unordered): (Vec<_>, Vec<_>) = seen.into_iter().partition(|(kind, _)| kind == "use-after-free");
    assert!(!late.is_empty() && late.iter().all(|(_, t)| t.contains("freed by cuMemFreeAsync")), "{late:?}");
    let words = "free after use";
    assert!(!unordered.is_empty() && unordered.iter().all(|(k, t)| k == "stream-race" && t.contains(words)));
}

#[test]
fn copies_in_streams_before_and_after_the_life_of_memory() {
    for early in [true, false] {
        let t = Turn::new();
        // SAFETY: one test, its own order.
        unsafe { t.context.disable_event_tracking() };
        let (a, b) = (t.context.new_stream().unwrap(), t.context.new_stream().unwrap());
        // SAFETY: the emulator answers with errors.
        unsafe {
            let p = result::malloc_async(a.cu_stream(), 256).unwrap();
            if !early {
                result::memset_d8_async(p, 0, 256, a.cu_stream()).unwrap();
                a.synchronize().unwrap();
            }
            result::memset_d8_async(p, 1, 256, b.cu_stream()).unwrap();
            if !early {
                result::free_async(p, a.cu_stream()).unwrap();
                a.synchronize().unwrap();
            }
            let e = b.synchronize().unwrap_err();
            assert_eq!(e.0, sys::cudaError_enum::CUDA_ERROR_ILLEGAL_ADDRESS);
        }
        let kinds = kinds();
        let (kind, words) = if early {
            ("stream-order", "memset of 256 bytes")
        } else {
            ("use-after-free", "which was freed by cuMemFreeAsync")
        };
        assert!(kinds[0].0 == kind && kinds[0].1.contains(words), "{kinds:?}");
        warpsmith_emulator::reset().unwrap();
    }
}

#[test]
fn profiles_and_options() {
    let t = Turn::new();
    warpsmith_emulator::configure("profile", "sm_90").unwrap();
    assert_eq!(t.context.compute_capability().unwrap(), (9, 0));
    assert!(t.context.name().unwrap().contains("H100"));
    warpsmith_emulator::configure("profile", "sm_80").unwrap();
    assert!(warpsmith_emulator::configure("profile", "sm_30").unwrap_err().to_string().contains("sm_80|sm_90"));
}

#[test]
fn cooperative_launches_must_fit() {
    let t = Turn::new();
    let f = t.kernel("speak");
    let stream = t.context.default_stream();
    let mut launch = stream.launch_builder(&f);
    launch.arg(&0i32);
    let config = LaunchConfig { grid_dim: (100_000, 1, 1), block_dim: (1024, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the launch is refused.
    let e = unsafe { launch.launch_cooperative(config) }.unwrap_err();
    assert_eq!(e.0, sys::cudaError_enum::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE);
}
