//! Supervised contrastive learning: pretrain an encoder, then a classifier on it; compare with plain training.
//!
//! `cargo run --release --example supervised_contrastive` trains all three on the bundled CIFAR-10 images.

mod common;

use clap::{Parser, ValueEnum};
use std::process::ExitCode;
use warpsmith::recipes::supcon::Config;

/// Train a baseline, pretrain an encoder with a contrastive loss, and train a classifier on the frozen encoder, all on
/// CIFAR-10.
#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    flags: common::Flags,
    /// Contrastive loss: the document's n-pairs form, or L_out of Khosla et al.
    #[arg(long, value_enum, conflicts_with = "resume")]
    loss: Option<Loss>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Loss {
    Npairs,
    Khosla,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let extra = cli.loss.map(|loss| match loss {
        Loss::Npairs => "loss=npairs".to_string(),
        Loss::Khosla => "loss=khosla".to_string(),
    });
    common::main::<Config>("supervised_contrastive", cli.flags, extra.into_iter().collect())
}
