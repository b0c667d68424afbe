//! Order between streams: every way to order two operations, beside the same program without it.

use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;

use cudarc::driver::{CudaFunction, CudaStream, PushKernelArg, result, sys};
use sys::cudaError_enum::CUDA_SUCCESS as OK;

use crate::{Turn, one_block};

/// Findings, each as its kind and text.
fn found() -> Vec<(String, String)> {
    warpsmith_emulator::report().unwrap().findings.into_iter().map(|f| (f.kind, f.text)).collect()
}

/// What a scenario works with: a buffer of 256 floats, a second one, two streams that do not block, and a kernel.
struct Two {
    a: Arc<CudaStream>,
    b: Arc<CudaStream>,
    x: u64,
    y: u64,
    add: CudaFunction,
    // Last: what is dropped after it meets the next test. To unload a module waits for everything.
    t: Turn,
}

impl Two {
    fn new(seed: u64) -> Two {
        let t = Turn::new();
        warpsmith_emulator::configure("seed", &seed.to_string()).unwrap();
        // SAFETY: the scenarios order their streams themselves, or leave it as their bug.
        unsafe { t.context.disable_event_tracking() };
        let (a, b) = (t.context.new_stream().unwrap(), t.context.new_stream().unwrap());
        let add = t.kernel("vector_add");
        let (x, y) = (buffer(&[1f32; 256]), buffer(&[1f32; 256]));
        Two { a, b, x, y, add, t }
    }

    /// `z[i] = x[i] + y[i]` for `n` elements.
    fn add(&self, x: u64, y: u64, z: u64, n: i32, stream: &Arc<CudaStream>) {
        let mut launch = stream.launch_builder(&self.add);
        launch.arg(&x).arg(&y).arg(&z).arg(&n);
        // SAFETY: the arguments are those of the kernel; what is unordered is the point.
        unsafe { launch.launch(one_block(256)) }.unwrap();
    }

    /// Runs everything; the findings.
    fn end(self) -> Vec<(String, String)> {
        // Not a wait of the program: the report runs what is left.
        let found = found();
        self.t.context.synchronize().unwrap();
        // SAFETY: allocated in `new`, freed once.
        unsafe { result::free_sync(self.x).and_then(|()| result::free_sync(self.y)) }.unwrap();
        warpsmith_emulator::configure("seed", "0").unwrap();
        found
    }
}

/// Memory with contents, which the host has waited for.
fn buffer(v: &[f32]) -> u64 {
    // SAFETY: the size is that of the allocation.
    unsafe {
        let p = result::malloc_sync(std::mem::size_of_val(v)).unwrap();
        result::memcpy_htod_sync(p, v).unwrap();
        p
    }
}

fn set(p: u64, n: usize, stream: &Arc<CudaStream>) {
    // SAFETY: callers pass ranges of buffers.
    unsafe { result::memset_d8_async(p, 0, n, stream.cu_stream()) }.unwrap();
}

/// A part of a scenario.
type Step = fn(&Two);

/// Everything that orders stream `b` after what stream `a` has.
const WAYS: &[(&str, Step)] = &[
    ("event", |s| s.b.join(&s.a).unwrap()),
    ("event of an event", |s| {
        let c = s.t.context.new_stream().unwrap();
        c.join(&s.a).unwrap();
        s.b.join(&c).unwrap();
    }),
    ("stream synchronised", |s| s.a.synchronize().unwrap()),
    ("context synchronised", |s| s.t.context.synchronize().unwrap()),
    ("event synchronised", |s| s.a.record_event(None).unwrap().synchronize().unwrap()),
    ("event polled", |s| assert!(s.a.record_event(None).unwrap().is_complete())),
    // SAFETY: the stream exists.
    ("stream polled", |s| assert_eq!(unsafe { sys::cuStreamQuery(s.a.cu_stream()) }, OK)),
    ("copy to the host", |s| {
        let mut v = [0f32; 4];
        // SAFETY: the size is that of the array.
        unsafe { result::memcpy_dtoh_async(&mut v, s.x, s.a.cu_stream()) }.unwrap();
    }),
    ("memory freed", |_| {
        // SAFETY: freed once.
        unsafe {
            let p = result::malloc_sync(4).unwrap();
            result::memset_d8_sync(p, 0, 4).unwrap();
            result::free_sync(p).unwrap();
        }
    }),
];

/// What orders nothing, though it may look like it.
const NO_WAYS: &[(&str, Step)] = &[
    ("nothing", |_| {}),
    ("event the wrong way round", |s| s.a.join(&s.b).unwrap()),
    ("event recorded too early", |s| {
        let early = s.b.record_event(None).unwrap();
        s.b.wait(&early).unwrap();
    }),
    ("other stream synchronised", |s| s.b.synchronize().unwrap()),
    // The legacy default stream waits only for streams that block.
    ("legacy stream synchronised", |_| {
        // SAFETY: the legacy stream always exists.
        assert_eq!(unsafe { sys::cuStreamSynchronize(null_mut()) }, OK);
    }),
    ("a report", |_| drop(found())),
    ("stream made and destroyed", |s| drop(s.t.context.new_stream().unwrap())),
];

/// Two operations that need an order.
const PAIRS: &[(&str, &str, Step, Step)] = &[
    (
        "kernel vector_add",
        "kernel vector_add",
        |s| s.add(s.x, s.x, s.y, 256, &s.a),
        |s| s.add(s.y, s.y, s.x, 256, &s.b),
    ),
    ("memset", "kernel vector_add", |s| set(s.y, 1024, &s.a), |s| s.add(s.y, s.x, s.x, 256, &s.b)),
    ("kernel vector_add", "memset", |s| s.add(s.y, s.y, s.x, 256, &s.a), |s| set(s.y, 1024, &s.b)),
    // Readers in between do not hide the first one.
    (
        "kernel vector_add",
        "memset",
        |s| s.add(s.y, s.y, s.x, 128, &s.a),
        |s| {
            s.add(s.y, s.y, s.x + 512, 128, &s.b);
            set(s.y, 1024, &s.b);
        },
    ),
    ("memset", "memset", |s| set(s.y, 1024, &s.a), |s| set(s.y + 1020, 4, &s.b)),
    (
        "kernel vector_add",
        "copy from the device range",
        |s| s.add(s.x, s.x, s.y, 256, &s.a),
        // SAFETY: both ranges lie inside their buffers.
        |s| unsafe { result::memcpy_dtod_async(s.x + 16, s.y, 16, s.b.cu_stream()) }.unwrap(),
    ),
    (
        "host-to-device copy",
        "kernel vector_add",
        // SAFETY: the range lies inside the buffer; pageable memory is copied at once.
        |s| unsafe { result::memcpy_htod_async(s.y + 512, &[2f32; 128], s.a.cu_stream()) }.unwrap(),
        |s| s.add(s.y, s.x, s.x, 256, &s.b),
    ),
];

#[test]
fn every_way_to_order_two_streams_and_none() {
    for seed in [0, 1, 2, 3] {
        for &(first_name, second_name, first, second) in PAIRS {
            for (way, order) in WAYS {
                let s = Two::new(seed);
                first(&s);
                order(&s);
                second(&s);
                let found = s.end();
                assert!(found.is_empty(), "{first_name}, {way}, {second_name}, seed {seed}: {found:?}");
            }
            for (way, order) in NO_WAYS {
                let s = Two::new(seed);
                let streams = [&s.a, &s.b].map(|x| format!("on stream {:#x}", x.cu_stream() as u64));
                first(&s);
                order(&s);
                second(&s);
                let found = s.end();
                let context = format!("{first_name}, {way}, {second_name}, seed {seed}: {found:?}");
                assert!(!found.is_empty() && found.iter().all(|f| f.0 == "stream-race"), "{context}");
                // Whoever ran second tells; both are named, with their streams, the memory, and what to do.
                for words in [
                    first_name,
                    second_name,
                    &streams[0],
                    &streams[1],
                    "bytes inside allocation",
                    "(1024 bytes at",
                    ", and nothing orders that and ",
                    &format!("{first_name} {} was asked for first: record an event behind it and let", streams[0]),
                ] {
                    assert!(found.iter().any(|f| f.1.contains(words)), "`{words}` is missing: {context}");
                }
            }
        }
    }
}

#[test]
fn what_needs_no_order() {
    for seed in [0, 1, 2, 3] {
        // Parts that meet inside a sector, and readers of the same.
        let s = Two::new(seed);
        let c = s.t.context.new_stream().unwrap();
        let (x, y) = (s.x, s.y);
        s.add(x, x, y, 99, &s.a);
        s.add(x, x, y + 4 * 99, 156, &s.b);
        set(y + 1020, 3, &c);
        // SAFETY: the range is the last byte of the buffer.
        unsafe { result::memset_d8_async(y + 1023, 0, 1, null_mut()) }.unwrap();
        // Atomics of two streams on one word.
        let (sum, reduce) = (buffer(&[0f32]), s.t.kernel("reduce_sum"));
        for stream in [&s.a, &s.b] {
            let mut launch = stream.launch_builder(&reduce);
            launch.arg(&x).arg(&sum).arg(&256i32);
            // SAFETY: the arguments are those of the kernel.
            unsafe { launch.launch(one_block(256)) }.unwrap();
        }
        let found = s.end();
        assert!(found.is_empty(), "seed {seed}: {found:?}");
        // SAFETY: allocated above.
        unsafe { result::free_sync(sum) }.unwrap();
    }
}

#[test]
fn streams_that_synchronise_with_the_legacy_stream() {
    for seed in [0, 1, 2, 3] {
        for blocking in [true, false] {
            let s = Two::new(seed);
            let mut raw = [null_mut(); 2];
            for r in &mut raw {
                // SAFETY: the place is valid; the streams are destroyed below.
                assert_eq!(unsafe { sys::cuStreamCreate(r, u32::from(!blocking)) }, OK);
            }
            // SAFETY: the ranges lie inside the buffers.
            unsafe {
                result::memset_d8_async(s.y, 0, 1024, raw[0]).unwrap();
                // Any work in between orders blocking streams.
                result::memset_d8_async(s.x, 0, 4, null_mut()).unwrap();
                result::memset_d8_async(s.y, 1, 1024, raw[1]).unwrap();
                assert_eq!(sys::cuStreamDestroy_v2(raw[0]), OK);
                assert_eq!(sys::cuStreamDestroy_v2(raw[1]), OK);
            }
            let found = s.end();
            if blocking {
                assert!(found.is_empty(), "seed {seed}: {found:?}");
            } else {
                assert_eq!(found.len(), 1, "seed {seed}: {found:?}");
                assert!(found[0].0 == "stream-race" && found[0].1.contains("write after write"), "{found:?}");
            }
        }
    }
}

/// `cuMemset` and copies on the device return at once: streams that do not block must wait for the legacy stream.
#[test]
fn calls_without_a_stream_that_do_not_wait() {
    for wait in [true, false] {
        let s = Two::new(0);
        // SAFETY: the range is the buffer.
        unsafe { result::memset_d8_sync(s.y, 0, 1024) }.unwrap();
        if wait {
            // SAFETY: the legacy stream always exists.
            assert_eq!(unsafe { sys::cuStreamSynchronize(null_mut()) }, OK);
        }
        s.add(s.y, s.y, s.x, 256, &s.a);
        let found = s.end();
        match wait {
            true => assert!(found.is_empty(), "{found:?}"),
            false => assert!(found[0].1.contains("written by memset on the legacy default stream"), "{found:?}"),
        }
    }
}

#[test]
fn lives_of_stream_ordered_memory() {
    for seed in [0, 1, 2, 3] {
        for ordered in [true, false] {
            let s = Two::new(seed);
            // SAFETY: used in another stream before it is freed, as far as the order goes.
            unsafe {
                let p = result::malloc_async(s.a.cu_stream(), 1024).unwrap();
                set(p, 1024, &s.a);
                s.b.join(&s.a).unwrap();
                s.add(p, p, s.x, 256, &s.b);
                s.b.synchronize().unwrap_or_default();
                s.add(p, p, s.y, 256, &s.b);
                if ordered {
                    s.a.join(&s.b).unwrap();
                } else {
                    // The kernel has run, as it happens, when the memory goes.
                    drop(found());
                }
                result::free_async(p, s.a.cu_stream()).unwrap();
            }
            let found = s.end();
            if ordered {
                assert!(found.is_empty(), "seed {seed}: {found:?}");
            } else {
                assert_eq!(found.len(), 1, "seed {seed}: {found:?}");
                assert_eq!(found[0].0, "stream-race");
                for words in ["cuMemFreeAsync of 1024 bytes", "free after use", "read by kernel vector_add on stream"] {
                    assert!(found[0].1.contains(words), "`{words}` is missing: {found:?}");
                }
            }
        }
    }
}

/// Branches of a graph are unordered, its runs are not.
#[test]
fn branches_and_runs_of_a_graph() {
    for seed in [0, 1, 2, 3] {
        for joined in [true, false] {
            let s = Two::new(seed);
            let (sa, sb) = (s.a.cu_stream(), s.b.cu_stream());
            let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
            let (mut graph, mut exec) = (null_mut(), null_mut());
            let other = s.t.context.new_stream().unwrap();
            // SAFETY: the places are valid, and the ranges lie inside the buffers.
            unsafe {
                assert_eq!(sys::cuStreamBeginCapture_v2(sa, mode), OK);
                set(s.x, 1024, &s.a);
                s.b.join(&s.a).unwrap();
                set(s.y, 1024, &s.b);
                if joined {
                    s.a.join(&s.b).unwrap();
                }
                s.add(s.x, s.y, s.x, 256, &s.a);
                s.a.join(&s.b).unwrap();
                assert_eq!(sys::cuStreamEndCapture(sa, &mut graph), OK);
                assert_eq!(sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0), OK);
                // Runs of one graph follow each other, in whatever streams.
                assert_eq!(sys::cuGraphLaunch(exec, sa), OK);
                assert_eq!(sys::cuGraphLaunch(exec, sb), OK);
                assert_eq!(sys::cuGraphLaunch(exec, other.cu_stream()), OK);
                assert_eq!(sys::cuGraphDestroy(graph), OK);
            }
            let found = found();
            if joined {
                assert!(found.is_empty(), "seed {seed}: {found:?}");
            } else {
                assert!(!found.is_empty() && found.iter().all(|f| f.0 == "stream-race"), "seed {seed}: {found:?}");
                assert!(found[0].1.contains("memset on stream") && found[0].1.contains("kernel vector_add on stream"));
            }
            // SAFETY: destroyed once.
            unsafe { assert_eq!(sys::cuGraphExecDestroy(exec), OK) };
            s.end();
        }
    }
}

/// A host function may tell a thread of the program that its stream has come so far.
#[test]
fn a_host_function_is_news_for_the_host() {
    unsafe extern "C" fn nothing(_: *mut c_void) {}
    let s = Two::new(0);
    set(s.y, 1024, &s.a);
    // SAFETY: the function takes what it is given.
    assert_eq!(unsafe { sys::cuLaunchHostFunc(s.a.cu_stream(), Some(nothing), null_mut()) }, OK);
    drop(found());
    set(s.y, 1024, &s.b);
    let found = s.end();
    assert!(found.is_empty(), "{found:?}");
}
