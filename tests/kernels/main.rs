//! The CUDA kernels: their PTX is that of the sources, their entry points are those that Rust launches, and they compute
//! what the CPU does.
//!
//! They run on the emulator, with every check on, or with `WARPSMITH_CUDA=device` on a real GPU. After all of them the
//! emulator's report must be free of findings, and every kernel must have been launched.
//!
//! `WARPSMITH_SCHEDULES=16` runs the kernels' tests in 16 orders of blocks and warps, `8..16` in the usual one and the last
//! eight of these: what they read back must be the same to the last bit.

#[path = "../../build/nvcc.rs"]
#[allow(dead_code)] // build.rs uses the rest.
mod nvcc;

#[path = "../common/mod.rs"]
mod common;

#[path = "../../benches/kernels/ptx_hash.rs"]
mod ptx_hash;

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
#[cfg(feature = "train")]
mod procedures;
mod resources;
mod supcon;

use libtest_mimic::{Arguments, Trial};
use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;

/// A test by name.
type Case = (&'static str, fn());

/// Cases that launch single kernels.
const KERNELS: &[&[Case]] = &[
    augment::CASES,
    elementwise::CASES,
    gemm::CASES,
    optimisers::CASES,
    batch_norm::CASES,
    conv2d::CASES,
    pool2d::CASES,
    losses::CASES,
    supcon::CASES,
];

fn trial(&(name, case): &Case, is_long: bool) -> Trial {
    let run = move || {
        case();
        Ok(())
    };
    Trial::test(name, run).with_ignored_flag(is_long)
}

/// A case whose outputs are compared with those under the first schedule.
fn scheduled(&(name, case): &Case) -> Trial {
    static DIGESTS: Mutex<BTreeMap<&str, u64>> = Mutex::new(BTreeMap::new());
    let run = move || {
        gpu::digest(); // What the thread's last case has read.
        case();
        let digest = gpu::digest();
        match *DIGESTS.lock().unwrap().entry(name).or_insert(digest) {
            first if first == digest => Ok(()),
            _ => Err("what it computes depends on the order of blocks and warps".into()),
        }
    };
    Trial::test(name, run)
}

/// The orders of blocks and warps beside the usual one, which is number 0.
fn schedules() -> Range<u64> {
    let Ok(value) = std::env::var("WARPSMITH_SCHEDULES") else { return 1..1 };
    let (first, end) = value.split_once("..").unwrap_or(("1", &value));
    let number = |text: &str| text.parse::<u64>().expect("WARPSMITH_SCHEDULES: a number, or a range as 8..16");
    number(first).max(1)..number(end)
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    let others = [prebuilt::CASES, resources::CASES, machine_code::CASES, abi::CASES, device::CASES].concat();
    let long = [
        device::LONG_CASES,
        #[cfg(feature = "train")]
        procedures::LONG_CASES,
    ]
    .concat();
    let kernels = KERNELS.concat();
    let trials = others.iter().map(|case| trial(case, false)).chain(kernels.iter().map(scheduled));
    let trials = trials.chain(long.iter().map(|case| trial(case, true)));
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    // A part of the tests launches a part of the kernels.
    let whole = arguments.filter.is_none() && arguments.skip.is_empty() && !arguments.list && !arguments.ignored;
    if conclusion.has_failed() || arguments.list {
        return conclusion.exit_code();
    }
    arguments.quiet = true;
    for seed in schedules() {
        gpu::schedule(seed);
        println!("blocks and warps in order {seed} of {:?}", schedules());
        let conclusion = libtest_mimic::run(&arguments, kernels.iter().map(scheduled).collect());
        if conclusion.has_failed() {
            return conclusion.exit_code();
        }
    }
    if gpu::verdict(whole) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
