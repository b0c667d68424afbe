//! FixRes: train small, fine-tune the last layers at the test size, compare with training at the test size.
//!
//! `cargo run --release --example fixres` does all three on the bundled flower photos.

mod common;

use clap::Parser;
use std::process::ExitCode;
use warpsmith::recipes::fixres::Config;

/// Train on small random crops of tf_flowers photos, fine-tune the last layers at the test size, and compare with
/// training at the test size from scratch.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    flags: common::Flags,
    /// Rows and columns at the test size
    #[arg(long, value_name = "N", value_parser = common::positive(), allow_negative_numbers = true)]
    #[arg(conflicts_with = "resume")]
    test_size: Option<u64>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let extra = cli.test_size.map(|size| format!("test_size={size}"));
    common::main::<Config>("fixres", cli.flags, extra.into_iter().collect())
}
