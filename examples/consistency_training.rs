//! Consistency training: a student on noisy images matches a teacher on clean ones.
//!
//! `cargo run --release --example consistency_training` trains both on the bundled CIFAR-10 images.

mod common;

use clap::Parser;
use std::process::ExitCode;
use warpsmith::recipes::consistency::Config;

/// Train a teacher on clean CIFAR-10 images and a student on RandAugment-noised ones that matches it; score both under
/// CIFAR-10-C's corruptions.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    flags: common::Flags,
}

fn main() -> ExitCode {
    common::main::<Config>("consistency_training", Cli::parse().flags, Vec::new())
}
