//! The decision through made-up inputs, and the reader through a made-up driver library in a child process.

use warpsmith::cuda::probe::{DeviceInfo, Gpu, ProbeError, ProbeInputs, decide, missing_kernels, probe, probe_device};

fn gpu(name: &str, compute_capability: (i32, i32)) -> DeviceInfo {
    DeviceInfo { name: name.into(), compute_capability, total_memory: 80 << 30 }
}

/// A machine on which all is well.
fn good() -> ProbeInputs {
    ProbeInputs {
        missing_kernels: Vec::new(),
        library_present: true,
        init_code: 0,
        driver_version: 12_020,
        devices: vec![gpu("NVIDIA T4", (7, 5)), gpu("NVIDIA A100", (8, 0)), gpu("NVIDIA H100", (9, 0))],
    }
}

#[track_caller]
fn assert_says(error: &ProbeError, reason: &str, remedy: &str) {
    assert!(error.reason().contains(reason), "{error:?}: reason is {:?}, not {reason:?}", error.reason());
    assert!(error.remedy().contains(remedy), "{error:?}: remedy is {:?}, not {remedy:?}", error.remedy());
    assert!(error.to_string().contains(reason) && error.to_string().contains(remedy));
}

#[test]
fn takes_the_first_gpu_that_is_new_enough() {
    assert_eq!(decide(&good(), None), Ok(Gpu { ordinal: 1, info: gpu("NVIDIA A100", (8, 0)) }));
    assert_eq!(decide(&good(), Some(2)), Ok(Gpu { ordinal: 2, info: gpu("NVIDIA H100", (9, 0)) }));
}

#[test]
fn kernels_that_were_not_built_in() {
    let ptx = warpsmith::cuda::ptx();
    assert_eq!(missing_kernels(ptx), Vec::<&str>::new());
    let part: Vec<_> = ptx.iter().copied().filter(|(name, _)| !["swa", "conv2d"].contains(name)).collect();
    assert_eq!(missing_kernels(&part), ["conv2d", "swa"]);
    // Neither a device asked for nor the first that would do is opened; the rest is not looked at.
    for ordinal in [None, Some(1)] {
        let inputs = ProbeInputs { missing_kernels: missing_kernels(&part), library_present: false, ..good() };
        let error = decide(&inputs, ordinal).unwrap_err();
        assert_eq!(error, ProbeError::MissingKernels { files: vec!["conv2d", "swa"] });
        assert_says(&error, "built without the kernels of conv2d, swa", "feature `compile-kernels`");
        assert!(error.remedy().contains("CPU device"));
    }
}

#[test]
fn no_driver_library() {
    // The other fields say nothing without the library and must not be looked at.
    let error = decide(&ProbeInputs { library_present: false, ..good() }, None).unwrap_err();
    assert_eq!(error, ProbeError::NoDriverLibrary);
    assert_says(&error, "driver library", "install the NVIDIA driver");
}

#[test]
fn every_known_init_code_has_a_name_and_a_remedy() {
    for (code, name, remedy) in [
        (2, "2 (out of memory)", "free"),
        (3, "3 (not initialized)", "fork"),
        (34, "34 (stub library)", "stubs"),
        (35, "35 (insufficient driver)", "R535"),
        (36, "36 (call requires newer driver)", "R535"),
        (46, "46 (device unavailable)", "exclusive"),
        (100, "100 (no device)", "CUDA_VISIBLE_DEVICES"),
        (101, "101 (invalid device)", "CUDA_VISIBLE_DEVICES"),
        (304, "304 (operating system error)", "/dev/nvidia"),
        (802, "802 (system not ready)", "fabric manager"),
        (803, "803 (system driver mismatch)", "reboot"),
        (804, "804 (compatibility not supported on this device)", "forward-compatibility"),
        (999, "999 (unknown error)", "nvidia_uvm"),
        (12_345, "cuInit returned 12345", "CUresult"),
        (-1, "cuInit returned -1", "CUresult"),
    ] {
        let error = decide(&ProbeInputs { init_code: code, ..good() }, None).unwrap_err();
        assert_eq!(error, ProbeError::InitFailed { code });
        assert_says(&error, name, remedy);
    }
}

#[test]
fn driver_too_old() {
    let error = decide(&ProbeInputs { driver_version: 12_010, ..good() }, None).unwrap_err();
    assert_eq!(error, ProbeError::DriverTooOld { version: 12_010 });
    assert_says(&error, "CUDA 12.1, the kernels need 12.2", "R535");
}

#[test]
fn no_device_and_no_such_device() {
    let empty = ProbeInputs { devices: Vec::new(), ..good() };
    let error = decide(&empty, None).unwrap_err();
    assert_eq!(error, ProbeError::NoDevice);
    assert_says(&error, "no GPU", "nvidia-smi");

    let error = decide(&empty, Some(0)).unwrap_err();
    assert_eq!(error, ProbeError::NoSuchDevice { ordinal: 0, count: 0 });
    assert_says(&error, "no cuda:0", "nvidia-smi");

    let error = decide(&good(), Some(3)).unwrap_err();
    assert_eq!(error, ProbeError::NoSuchDevice { ordinal: 3, count: 3 });
    assert_says(&error, "no cuda:3", "cuda:0 to cuda:2");
}

#[test]
fn compute_capability_too_low_names_the_best_gpu() {
    let old = ProbeInputs { devices: vec![gpu("NVIDIA P100", (6, 0)), gpu("NVIDIA T4", (7, 5))], ..good() };
    let error = decide(&old, None).unwrap_err();
    assert_says(&error, "NVIDIA T4 has compute capability 7.5, the kernels need 8.0", "8.0 or newer");
    // Asked for by number, it is that GPU's error, even where another one would do.
    let error = decide(&good(), Some(0)).unwrap_err();
    assert_eq!(error, ProbeError::ComputeCapability { device: gpu("NVIDIA T4", (7, 5)) });
}

#[test]
fn becomes_the_crate_error() {
    let error = ProbeError::NoDevice.into_error("cuda:0").to_string();
    assert!(error.starts_with("device cuda:0: the driver shows no GPU; check"), "{error}");
}

/// Whatever the machine, the probe answers; it neither panics nor makes up a GPU.
#[test]
fn the_real_probe_answers() {
    assert!(matches!(
        probe_device(usize::MAX),
        Err(ProbeError::NoDriverLibrary | ProbeError::NoSuchDevice { .. } | ProbeError::InitFailed { .. })
            | Err(ProbeError::NoDevice | ProbeError::DriverTooOld { .. } | ProbeError::MissingSymbol { .. })
            | Err(ProbeError::QueryFailed { .. })
    ));
    assert_eq!(probe().ok(), probe().ok());
}

/// The reader against a driver library that we compile: each child process opens another fake.
#[cfg(target_os = "linux")]
mod reader {
    use super::probe;
    use std::path::Path;
    use std::process::Command;

    /// Runs in the child only: prints what the real probe finds.
    #[test]
    #[ignore = "run by the other tests in a child process with a fake driver library"]
    fn child() {
        match probe() {
            Ok(gpu) => println!("<found cuda:{} {} {}>", gpu.ordinal, gpu.info, gpu.info.total_memory),
            Err(error) => println!("<failed {error:?}>"),
        }
    }

    fn compile_fake(folder: &Path, flags: &[&str]) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/fake_libcuda.rs");
        let status = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into()))
            .args(["--edition", "2024", "--crate-type", "cdylib", "--crate-name", "cuda"])
            .args(flags)
            .arg("--out-dir")
            .arg(folder)
            .arg(source)
            .status()
            .expect("rustc runs");
        assert!(status.success(), "the fake driver library does not compile");
    }

    fn probe_in_child(folder: &Path, env: &[(&str, &str)]) -> String {
        let output = Command::new(std::env::current_exe().expect("this test's path"))
            .args(["--exact", "probe::reader::child", "--ignored", "--nocapture"])
            .env("LD_LIBRARY_PATH", folder)
            .envs(env.iter().copied())
            .output()
            .expect("the child runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "child failed: {text}{}", String::from_utf8_lossy(&output.stderr));
        let (start, end) = (text.find('<').expect("an answer"), text.find('>').expect("an answer"));
        text[start + 1..end].to_string()
    }

    #[test]
    fn reads_what_the_driver_says() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        compile_fake(folder.path(), &[]);
        let ask = |env: &[(&str, &str)]| probe_in_child(folder.path(), env);
        // cuda:0 of the fake is 7.5, cuda:1 is 8.5.
        let found = ask(&[("FAKE_VERSION", "12040"), ("FAKE_COUNT", "2")]);
        assert_eq!(found, "found cuda:1 Fake GPU 1, compute capability 8.5, 32 GiB 34359738368");
        assert_eq!(ask(&[("FAKE_INIT", "803")]), "failed InitFailed { code: 803 }");
        // A code that the generated enum of cudarc does not know.
        assert_eq!(ask(&[("FAKE_INIT", "36")]), "failed InitFailed { code: 36 }");
        assert_eq!(ask(&[("FAKE_VERSION", "11080")]), "failed DriverTooOld { version: 11080 }");
        assert_eq!(ask(&[("FAKE_VERSION", "12020")]), "failed NoDevice");
        let failed = ask(&[("FAKE_VERSION", "12020"), ("FAKE_COUNT_CODE", "999")]);
        assert_eq!(failed, "failed QueryFailed { call: \"cuDeviceGetCount\", code: 999 }");
    }

    #[test]
    fn a_library_without_a_function_is_an_error_not_a_panic() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        compile_fake(folder.path(), &["--cfg", "no_total_mem"]);
        let failed = probe_in_child(folder.path(), &[("FAKE_VERSION", "12040"), ("FAKE_COUNT", "1")]);
        assert_eq!(failed, "failed MissingSymbol { symbol: \"cuDeviceTotalMem_v2\" }");
    }
}
