//! The CUDA kernels: their PTX is that of the sources, their entry points are those that Rust launches, and they compute
//! what the CPU does.
//!
//! They run on the emulator, with every check on, or with `WARPSMITH_CUDA=device` on a real GPU. After all of them the
//! emulator's report must be free of findings, and every kernel must have been launched.

#[path = "../../build/nvcc.rs"]
#[allow(dead_code)] // build.rs uses the rest.
mod nvcc;

#[path = "../common/mod.rs"]
mod common;

mod abi;
mod augment;
mod batch_norm;
mod conv2d;
mod device;
mod elementwise;
mod gemm;
mod gpu;
mod losses;
mod machine_code;
mod optimisers;
mod pool2d;
mod prebuilt;
mod resources;
mod supcon;

use libtest_mimic::{Arguments, Trial};
use std::process::ExitCode;

/// A test by name.
type Case = (&'static str, fn());

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cases = [
        prebuilt::CASES,
        resources::CASES,
        machine_code::CASES,
        abi::CASES,
        augment::CASES,
        elementwise::CASES,
        gemm::CASES,
        optimisers::CASES,
        batch_norm::CASES,
        conv2d::CASES,
        pool2d::CASES,
        losses::CASES,
        supcon::CASES,
        device::CASES,
    ]
    .concat();
    let trial = |&(name, case): &Case, is_long: bool| {
        let run = move || {
            case();
            Ok(())
        };
        Trial::test(name, run).with_ignored_flag(is_long)
    };
    let trials = cases.iter().map(|case| trial(case, false));
    let trials = trials.chain(device::LONG_CASES.iter().map(|case| trial(case, true)));
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    // A part of the tests launches a part of the kernels.
    let whole = arguments.filter.is_none() && arguments.skip.is_empty() && !arguments.list && !arguments.ignored;
    if whole && !conclusion.has_failed() && !gpu::verdict() {
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}
