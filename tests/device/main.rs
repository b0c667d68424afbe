//! What a CUDA device does where streams mix, where an op faults, and with what it keeps. Each test has the emulator to
//! itself, because it asks what the emulator found.
#![cfg(all(feature = "cuda", feature = "cpu", feature = "nn"))]

mod fault;
mod streams;

use std::sync::{Mutex, PoisonError};
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
