//! RandAugment against plain augmentation, from the same initial weights.
//!
//! `cargo run --release --example randaugment` trains both on the bundled CIFAR-10 images.

mod common;

use clap::Parser;
use std::process::ExitCode;
use warpsmith::recipes::randaugment::Config;

/// Train the same network with plain augmentation and with RandAugment on CIFAR-10; score both on the test images, clean
/// and over-saturated.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    flags: common::Flags,
}

fn main() -> ExitCode {
    common::main::<Config>("randaugment", Cli::parse().flags, Vec::new())
}
