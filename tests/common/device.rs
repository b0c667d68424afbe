//! The device that tests of ops, layers and golden tensors run on: the CPU, or with `WARPSMITH_TEST_DEVICE=cuda` a GPU or
//! the emulator (`warpsmith-emulate -- cargo test ..`).

use std::sync::OnceLock;
use warpsmith::Device;

/// The CPU (a device of its own with every call), or the one CUDA device of this process, uncached so that a memory
/// checker sees every tensor.
pub fn device() -> Device {
    if !is_cuda() {
        return Device::cpu().expect("the CPU is always there");
    }
    #[cfg(feature = "cuda")]
    {
        use warpsmith::device::CudaOptions;
        static CUDA: OnceLock<Device> = OnceLock::new();
        let options = CudaOptions { cached: false, ..CudaOptions::default() };
        CUDA.get_or_init(|| Device::cuda_with(options).unwrap_or_else(|e| panic!("{e}"))).clone()
    }
    #[cfg(not(feature = "cuda"))]
    panic!("built without feature `cuda`")
}

/// As [`device`], but with a memory pool of its own on either side, and one that caches.
pub fn own_device() -> Device {
    #[cfg(feature = "cuda")]
    if is_cuda() {
        return Device::cuda(0).unwrap_or_else(|e| panic!("{e}"));
    }
    device()
}

/// Whether [`device`] is a CUDA device.
pub fn is_cuda() -> bool {
    match std::env::var("WARPSMITH_TEST_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => false,
        Ok("cuda") => true,
        Ok(other) => panic!("WARPSMITH_TEST_DEVICE is `cpu` or `cuda`, not `{other}`"),
    }
}
