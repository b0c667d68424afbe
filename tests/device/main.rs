//! What a CUDA device does where streams mix, where an op faults, and with what it keeps. Each test has the emulator to
//! itself, because it asks what the emulator found.
#![cfg(all(feature = "cuda", feature = "cpu", feature = "nn"))]

mod fault;
mod kept;
mod memory;
mod streams;
#[cfg(feature = "train")]
mod training;

use std::sync::{Mutex, PoisonError};
use warpsmith::Device;
use warpsmith::device::CudaOptions;
use warpsmith_emulator::Finding;

/// Runs a test on the emulator; what that found.
fn emulated(test: impl FnOnce()) -> Vec<Finding> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    warpsmith_emulator::install().unwrap();
    warpsmith_emulator::reset().unwrap();
    test();
    warpsmith_emulator::report().unwrap().findings
}

/// A device where every tensor is an allocation of the driver.
fn uncached() -> Device {
    Device::cuda_with(CudaOptions { cached: false, ..CudaOptions::default() }).unwrap()
}

/// How many allocations the driver and the pool make for `work`: the emulator numbers them.
fn allocations(device: &Device, work: impl FnOnce()) -> u64 {
    let number = || {
        let mark = device.gpu().unwrap().stream().alloc_zeros::<u8>(1).unwrap();
        let live = warpsmith_emulator::report().unwrap().live;
        drop(mark);
        let number = |name: &str| name.split_whitespace().last()?.parse::<u64>().ok();
        live.iter().filter_map(|allocation| number(&allocation.name)).max().expect("the mark at least")
    };
    let before = number();
    work();
    number() - before - 1
}
