//! Calls that a program gets wrong, and the command that runs programs.

use std::process::Command;

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
fn copies_past_the_end_unused_memory_and_leaks() {
    let _t = Turn::new();
    // SAFETY: the emulator answers wrong copies with errors.
    unsafe {
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
    assert!(kinds[1].1.contains("freed without ever being used"), "{kinds:?}");
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

/// The programs that the command runs are this test binary again, told by a variable what to do.
#[test]
fn child_program() {
    let Ok(what) = std::env::var("WARPSMITH_TEST_CHILD") else { return };
    let context = cudarc::driver::CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let x = stream.clone_htod(&[1f32; 64]).unwrap();
    if what == "dereference" {
        use cudarc::driver::DevicePtr;
        let p = x.device_ptr(&stream).0;
        // SAFETY: none: this is the bug, and the process must die of it.
        let v = unsafe { (p as *const f32).read_volatile() };
        println!("a device pointer was readable: {v}");
        return;
    }
    let mut y = stream.alloc_zeros::<f32>(64).unwrap();
    let module = context.load_module(cudarc::nvrtc::Ptx::from_src(include_str!("../kernels/basic.ptx"))).unwrap();
    let f = module.load_function("vector_add").unwrap();
    let n = if what == "bug" { 65i32 } else { 64 };
    let mut launch = stream.launch_builder(&f);
    launch.arg(&x).arg(&x).arg(&mut y).arg(&n);
    // SAFETY: the emulator answers with an error.
    unsafe { launch.launch(LaunchConfig::for_num_elems(128)) }.unwrap();
    if let Err(e) = stream.synchronize() {
        println!("the program saw: {}", e.error_string().unwrap().to_string_lossy());
    }
}

fn emulate(what: &str, options: &[&str]) -> (Option<i32>, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_warpsmith-emulate"))
        .args(options)
        .arg("--")
        .arg(std::env::current_exe().unwrap())
        .args(["misuse::child_program", "--exact", "--nocapture"])
        .env("WARPSMITH_TEST_CHILD", what)
        .output()
        .unwrap();
    let text = [&out.stdout[..], &out.stderr[..]].concat();
    (out.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn the_command_runs_programs_and_fails_on_findings() {
    let (code, text) = emulate("clean", &["--profile", "sm_90", "--checks", "all"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("vector_add") && text.contains("on sm_90") && !text.contains("finding"), "{text}");
    let json = std::env::temp_dir().join(format!("warpsmith-report-{}.json", std::process::id()));
    let option = format!("json={}", json.display());
    let (code, text) = emulate("bug", &["--report", &option]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("finding  out-of-bounds: global read of 4 bytes"), "{text}");
    let report = std::fs::read_to_string(&json).unwrap();
    std::fs::remove_file(&json).unwrap();
    assert!(report.contains("\"kind\":\"out-of-bounds\""), "{report}");
    let (code, text) = emulate("dereference", &[]);
    assert!(code != Some(0) && !text.contains("was readable"), "{text}");
    let out = Command::new(env!("CARGO_BIN_EXE_warpsmith-emulate"))
        .args(["--profile", "sm_30", "--", "true"])
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&out.stderr).contains("expected sm_80 or sm_90"));
}

/// Where nvcc is present the committed PTX must be what it makes of the sources beside it.
#[test]
fn committed_ptx_is_what_nvcc_makes_of_the_sources() {
    let nvcc = std::env::var("NVCC").unwrap_or_else(|_| "nvcc".to_string());
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels");
    let found = Command::new(&nvcc).arg("--version").output();
    let version = found.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    if !version.contains("V13.0.88") {
        assert!(
            std::env::var("WARPSMITH_REQUIRE_NVCC").as_deref() != Ok("1"),
            "nvcc 13.0.88 is required and was not found"
        );
        eprintln!("SKIPPED: nvcc 13.0.88 was not found (NVCC or PATH); the committed PTX was not compared");
        return;
    }
    for name in ["basic", "tensor", "bugs", "inventory", "patterns"] {
        let out = std::env::temp_dir().join(format!("warpsmith-{name}-{}.ptx", std::process::id()));
        let made = Command::new(&nvcc)
            .args(["-ptx", "-arch=compute_80", &format!("{name}.cu"), "-o"])
            .arg(&out)
            .current_dir(&folder)
            .status()
            .unwrap();
        assert!(made.success(), "nvcc failed on {name}.cu");
        let fresh = std::fs::read_to_string(&out).unwrap();
        std::fs::remove_file(&out).unwrap();
        let committed = std::fs::read_to_string(folder.join(format!("{name}.ptx"))).unwrap();
        assert!(fresh == committed, "{name}.ptx is stale: nvcc -ptx -arch=compute_80 {name}.cu -o {name}.ptx");
    }
}
