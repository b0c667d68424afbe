//! Our convolutions beside cuDNN's and cuBLAS's, for every distinct layer of ResNet50V2.
//!
//! `cargo bench -p warpsmith-peers -- [--size 72] [--batch 128] [--math f32,tf32,bf16] [--pass fprop,dgrad,wgrad]
//! [--layer s2] [--rounds 21]`, see [`warpsmith_peers::side_by_side`].

use clap::Parser;
use std::process::ExitCode;
use warpsmith_peers::side_by_side::{Flags, run};

fn main() -> ExitCode {
    let mut flags = Flags::parse();
    flags.json.get_or_insert_with(|| concat!(env!("CARGO_TARGET_TMPDIR"), "/side_by_side.json").into());
    match run(&flags) {
        Ok(0) => return ExitCode::SUCCESS,
        Ok(wrong) => eprintln!("side_by_side: {wrong} comparisons failed, see above"),
        Err(error) => eprintln!("side_by_side: {error}"),
    }
    ExitCode::FAILURE
}
