//! An unmodified cudarc on the emulated driver.

mod api;
mod command;
mod counters;
mod kernels;
mod misuse;
mod order;
mod transcripts;
mod twins;

use std::sync::{Arc, Mutex, MutexGuard};

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;

const BASIC: &str = include_str!("../kernels/basic.ptx");

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The device is shared by the process: tests take turns and start clean.
struct Turn {
    context: Arc<CudaContext>,
    module: Arc<CudaModule>,
    _turn: MutexGuard<'static, ()>,
}

impl Turn {
    fn new() -> Turn {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(|e| e.into_inner());
        warpsmith_emulator::install().unwrap();
        warpsmith_emulator::reset().unwrap();
        let context = CudaContext::new(0).unwrap();
        let module = context.load_module(Ptx::from_src(BASIC)).unwrap();
        Turn { context, module, _turn: turn }
    }

    fn kernel(&self, name: &str) -> CudaFunction {
        self.module.load_function(name).unwrap()
    }
}

fn one_block(threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (1, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

#[test]
fn vector_add() {
    let t = Turn::new();
    assert!(t.context.name().unwrap().contains("emulator"));
    assert_eq!(t.context.compute_capability().unwrap(), (8, 0));
    let stream = t.context.default_stream();
    let (x, y): (Vec<f32>, Vec<f32>) = (0..1000).map(|i| (i as f32, 2.0 * i as f32)).unzip();
    let (dx, dy) = (stream.clone_htod(&x).unwrap(), stream.clone_htod(&y).unwrap());
    let mut dz = stream.alloc_zeros::<f32>(1000).unwrap();
    let f = t.kernel("vector_add");
    let mut launch = stream.launch_builder(&f);
    launch.arg(&dx).arg(&dy).arg(&mut dz).arg(&1000i32);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch(LaunchConfig::for_num_elems(1000)) }.unwrap();
    let z = stream.clone_dtoh(&dz).unwrap();
    assert!((0..1000).all(|i| z[i] == 3.0 * i as f32));
    let report = warpsmith_emulator::report().unwrap();
    assert!(report.findings.is_empty(), "{}", report.table());
    let l = report.of("vector_add")[0];
    assert_eq!(l.get("global_load_bytes"), 8000);
    assert_eq!(l.get("unique_write_bytes"), 4000);
    assert_eq!(l.get("global_load_sectors"), 250);
    // One block: a single multiprocessor computes indices for longer than the memory takes.
    assert_eq!((l.bound().0, l.busy_multiprocessors), ("integer", 1));
    assert!(report.table().contains("100 % of the moved bytes used"), "{}", report.table());
    assert!(report.over_budget(r#"{"vector_add": {"global_load_bytes": 8000}}"#).unwrap().is_empty());
    let over = report.over_budget(r#"{"vector_add": {"global_load_bytes": 7999}, "other": {}}"#).unwrap();
    assert_eq!(
        over,
        [
            "kernel other has a budget and was never launched",
            "kernel vector_add: global_load_bytes is 8000, the budget is 7999"
        ]
    );
}

#[test]
fn an_illegal_read_is_a_driver_error_with_a_diagnosis_and_is_sticky() {
    let t = Turn::new();
    let stream = t.context.default_stream();
    let (dx, dy) = (stream.alloc_zeros::<f32>(1000).unwrap(), stream.alloc_zeros::<f32>(999).unwrap());
    let mut dz = stream.alloc_zeros::<f32>(1000).unwrap();
    let f = t.kernel("vector_add");
    let mut launch = stream.launch_builder(&f);
    launch.arg(&dx).arg(&dy).arg(&mut dz).arg(&1000i32);
    // SAFETY: the emulator catches what the arguments get wrong.
    unsafe { launch.launch(LaunchConfig::for_num_elems(1000)) }.unwrap();
    let error = stream.synchronize().unwrap_err();
    assert_eq!(error.0, sys::cudaError_enum::CUDA_ERROR_ILLEGAL_ADDRESS);
    let text = error.error_string().unwrap().to_string_lossy().into_owned();
    for words in [
        "out-of-bounds: global read of 4 bytes",
        "0 bytes past the end of allocation",
        "(3996 bytes",
        "kernel vector_add",
        "lane 7",
    ] {
        assert!(text.contains(words), "`{words}` is missing in: {text}");
    }
    assert!(stream.synchronize().is_err(), "the error stays");
    warpsmith_emulator::reset().unwrap();
    stream.synchronize().unwrap();
    drop((dx, dy, dz));
    warpsmith_emulator::reset().unwrap();
}

#[test]
fn shared_memory_above_48_kib_needs_the_attribute() {
    let t = Turn::new();
    let stream = t.context.default_stream();
    let x: Vec<f32> = (0..16384).map(|i| i as f32).collect();
    let dx = stream.clone_htod(&x).unwrap();
    let mut dy = stream.alloc_zeros::<f32>(16384).unwrap();
    let f = t.kernel("dynamic_shared");
    let config = LaunchConfig { shared_mem_bytes: 65536, ..one_block(256) };
    let mut launch = stream.launch_builder(&f);
    launch.arg(&dx).arg(&mut dy);
    // SAFETY: the arguments are those of the kernel.
    let refused = unsafe { launch.launch(config) }.unwrap_err();
    assert_eq!(refused.0, sys::cudaError_enum::CUDA_ERROR_INVALID_VALUE);
    assert!(refused.error_string().unwrap().to_string_lossy().contains("above 48 KiB set"));
    warpsmith_emulator::reset().unwrap();
    let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    f.set_attribute(attribute, 65536).unwrap();
    let mut launch = stream.launch_builder(&f);
    launch.arg(&dx).arg(&mut dy);
    // SAFETY: as above.
    unsafe { launch.launch(config) }.unwrap();
    let y = stream.clone_dtoh(&dy).unwrap();
    assert!((0..16384).all(|i| y[i] == x[16383 - i]));
    assert!(warpsmith_emulator::report().unwrap().findings.is_empty());
}

#[test]
fn launch_limits_are_those_of_the_device() {
    let t = Turn::new();
    let stream = t.context.default_stream();
    let f = t.kernel("speak");
    let mut launch = stream.launch_builder(&f);
    launch.arg(&0i32);
    // SAFETY: the launch is refused.
    let e = unsafe { launch.launch(one_block(1025)) }.unwrap_err();
    assert!(e.error_string().unwrap().to_string_lossy().contains("at most 1024"));
    assert_eq!(warpsmith_emulator::report().unwrap().findings[0].kind, "launch-limit");
    warpsmith_emulator::reset().unwrap();
    let mut launch = stream.launch_builder(&f);
    launch.arg(&0i32);
    // SAFETY: the argument is that of the kernel.
    unsafe { launch.launch(one_block(1024)) }.unwrap();
    stream.synchronize().unwrap();
    assert!(warpsmith_emulator::report().unwrap().findings.is_empty());
}

#[test]
fn a_missing_event_wait_shows() {
    for with_wait in [false, true] {
        let t = Turn::new();
        // cudarc would order the streams by itself.
        // SAFETY: the test waits for both streams before it frees anything.
        unsafe { t.context.disable_event_tracking() };
        let (first, second) = (t.context.new_stream().unwrap(), t.context.new_stream().unwrap());
        let x = first.clone_htod(&[1f32; 256]).unwrap();
        // Written once before: only the order of the two kernels is at stake.
        let mut y = first.clone_htod(&[3f32; 256]).unwrap();
        // SAFETY: written by the second kernel.
        let mut z = unsafe { second.alloc::<f32>(256) }.unwrap();
        first.synchronize().unwrap();
        second.synchronize().unwrap();
        let f = t.kernel("vector_add");
        let mut launch = first.launch_builder(&f);
        launch.arg(&x).arg(&x).arg(&mut y).arg(&256i32);
        // SAFETY: the arguments are those of the kernel.
        unsafe { launch.launch(one_block(256)) }.unwrap();
        if with_wait {
            second.join(&first).unwrap();
        }
        let mut launch = second.launch_builder(&f);
        launch.arg(&y).arg(&y).arg(&mut z).arg(&256i32);
        // SAFETY: as above.
        unsafe { launch.launch(one_block(256)) }.unwrap();
        second.synchronize().unwrap();
        let report = warpsmith_emulator::report().unwrap();
        if with_wait {
            assert!(report.findings.is_empty(), "{}", report.table());
            assert_eq!(second.clone_dtoh(&z).unwrap()[0], 4.0);
        } else {
            assert_eq!(report.findings.len(), 1, "{}", report.table());
            assert_eq!(report.findings[0].kind, "stream-race", "{}", report.table());
        }
        first.synchronize().unwrap();
    }
}

#[test]
fn a_captured_graph_replays() {
    let t = Turn::new();
    // SAFETY: one stream only.
    unsafe { t.context.disable_event_tracking() };
    let stream = t.context.new_stream().unwrap();
    let x = stream.clone_htod(&[1f32; 64]).unwrap();
    let mut y = stream.alloc_zeros::<f32>(64).unwrap();
    let f = t.kernel("vector_add");
    stream.begin_capture(sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    let y_in = y.clone_view();
    let mut launch = stream.launch_builder(&f);
    launch.arg(&x).arg(&y_in).arg(&mut y).arg(&64i32);
    // SAFETY: the arguments are those of the kernel; every lane reads and writes its own element.
    unsafe { launch.launch(one_block(64)) }.unwrap();
    assert!(stream.synchronize().is_err(), "waiting inside a capture");
    let flags = sys::CUgraphInstantiate_flags_enum::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    assert!(stream.end_capture(flags).is_err(), "the capture was broken by the wait");
    stream.begin_capture(sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_GLOBAL).unwrap();
    let y_in = y.clone_view();
    let mut launch = stream.launch_builder(&f);
    launch.arg(&x).arg(&y_in).arg(&mut y).arg(&64i32);
    // SAFETY: as above.
    unsafe { launch.launch(one_block(64)) }.unwrap();
    let graph = stream.end_capture(flags).unwrap().unwrap();
    for _ in 0..5 {
        graph.launch().unwrap();
    }
    assert_eq!(stream.clone_dtoh(&y).unwrap(), [5f32; 64]);
}

/// A second view of a buffer, as an in-place kernel needs it.
trait CloneView {
    fn clone_view(&self) -> u64;
}

impl CloneView for cudarc::driver::CudaSlice<f32> {
    fn clone_view(&self) -> u64 {
        use cudarc::driver::DevicePtr;
        let stream = self.stream().clone();
        self.device_ptr(&stream).0
    }
}

/// Host threads with streams of their own: nothing is lost, nothing waits for ever.
#[test]
fn many_host_threads() {
    let t = Turn::new();
    let context = &t.context;
    let f = &t.kernel("vector_add");
    std::thread::scope(|s| {
        for thread in 0..4 {
            s.spawn(move || {
                context.bind_to_thread().unwrap();
                let stream = context.new_stream().unwrap();
                for round in 0..40 {
                    let v = (100 * thread + round) as f32;
                    let x = stream.clone_htod(&[v; 300]).unwrap();
                    let mut y = stream.alloc_zeros::<f32>(300).unwrap();
                    let mut launch = stream.launch_builder(f);
                    launch.arg(&x).arg(&x).arg(&mut y).arg(&300i32);
                    // SAFETY: the arguments are those of the kernel.
                    unsafe { launch.launch(LaunchConfig::for_num_elems(300)) }.unwrap();
                    if round % 3 == 0 {
                        context.synchronize().unwrap();
                    }
                    assert_eq!(stream.clone_dtoh(&y).unwrap(), [2.0 * v; 300]);
                }
            });
        }
    });
    let report = warpsmith_emulator::report().unwrap();
    assert!(report.findings.is_empty(), "{}", report.table());
    assert_eq!(report.of("vector_add").len(), 160);
}

#[test]
fn a_cooperative_launch_may_wait_across_its_blocks() {
    let t = Turn::new();
    let stream = t.context.default_stream();
    let f = t.kernel("grid_barrier");
    let (arrived, x) = (stream.alloc_zeros::<u32>(1).unwrap(), stream.clone_htod(&[5i32, 6, 7]).unwrap());
    let y = stream.alloc_zeros::<i32>(6).unwrap();
    let mut launch = stream.launch_builder(&f);
    launch.arg(&arrived).arg(&x).arg(&y);
    // SAFETY: the arguments are those of the kernel.
    unsafe { launch.launch_cooperative(LaunchConfig { grid_dim: (3, 1, 1), ..one_block(64) }) }.unwrap();
    assert_eq!(stream.clone_dtoh(&y).unwrap(), [12, 14, 10, 10, 12, 14]);
    assert!(warpsmith_emulator::report().unwrap().findings.is_empty());
}

#[test]
fn an_unknown_instruction_is_refused_by_line() {
    let t = Turn::new();
    let bad = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k()\n{\n  wgmma.fence.sync.aligned;\n  ret;\n}\n";
    let e = t.context.load_module(Ptx::from_src(bad)).unwrap_err();
    let text = e.error_string().unwrap().to_string_lossy().into_owned();
    assert!(text.contains("PTX line 6: `wgmma.fence.sync.aligned` is not supported"), "{text}");
}
