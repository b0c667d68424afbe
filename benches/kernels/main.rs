//! Every kernel over the problems of ResNet50V2: `cargo bench --bench kernels -- [PART OF A NAME] [--batch 128]`.
//!
//! Each case is first compared with its CPU twin. On a GPU it is then timed by device events, and its rates stand
//! beside the peaks of the device. Without one nothing is timed: the emulator's counters are printed instead, with the
//! time that the slowest resource of an A100 and of an H100 takes at least. Both write JSON (`--json FILE`).
//!
//! `--table kernels/COUNTERS.md` writes the table that is kept in the repository, from counters alone.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../common/resnet50v2.rs"]
mod resnet50v2;

mod bars;
mod cases;
mod counted;
mod floor;
mod measured;
mod ptx_hash;
mod rig;
mod roofline;
mod step;
mod table;

use cases::{Case, Images};
use clap::Parser;
use rig::Fallible;
use std::path::PathBuf;
use std::process::ExitCode;
use warpsmith::cuda::probe;

/// Measures kernels on a GPU, or counts what they do on the emulator.
#[derive(Parser)]
struct Options {
    /// Parts of names `op/dtype/layer`; a case is chosen when it holds one of them.
    filters: Vec<String>,
    /// Side of the images.
    #[arg(long, default_value_t = 72)]
    size: u32,
    /// Images of a batch.
    #[arg(long, default_value_t = 128)]
    batch: u32,
    /// Where the results are written.
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/kernels.json"))]
    json: PathBuf,
    /// Writes the table of the cases' counters to this file, with three counted training steps, and does nothing else.
    #[arg(long)]
    table: Option<PathBuf>,
    /// Where the parts of that table are kept, so that an interrupted run goes on.
    #[arg(long, default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/counters"))]
    parts: PathBuf,
    /// Counts the launches of a training step in this precision (bf16, tf32, f32), on the emulator.
    #[arg(long, conflicts_with = "table")]
    step: Option<String>,
    /// Prints the names of the chosen cases and stops.
    #[arg(long)]
    list: bool,
    /// Seconds of a case's measurement on a GPU.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Compares with the baseline of this name, which `--save-baseline` has made.
    #[arg(long)]
    baseline: Option<String>,
    /// Keeps the measurement under this name.
    #[arg(long, default_value = "base")]
    save_baseline: String,
    /// cargo adds it.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Why there is no GPU to measure on, or `None` where there is one.
fn no_gpu() -> Option<String> {
    match probe() {
        Err(problem) => Some(problem.reason()),
        Ok(gpu) if gpu.info.name.contains("warpsmith emulator") => Some(format!("{} is no GPU", gpu.info.name)),
        Ok(_) => None,
    }
}

fn run(options: &Options) -> Fallible<()> {
    let chosen = |case: &Case| {
        let id = case.id();
        options.filters.is_empty() || options.filters.iter().any(|filter| id.contains(filter.as_str()))
    };
    if options.size < 32 || options.batch == 0 {
        return Err("--size is at least 32, --batch at least 1".into());
    }
    let images = Images { size: options.size, batch: options.batch };
    let cases: Vec<Case> = cases::all(images).into_iter().filter(chosen).collect();
    if cases.is_empty() {
        return Err(format!("no case holds {:?} in its name; --list prints all", options.filters).into());
    }
    if let Some(path) = &options.table {
        table::write(path, images, cases, &options.parts)?;
        println!("written: {}", path.display());
        return Ok(());
    }
    if options.list {
        cases.iter().for_each(|case| println!("{:<60} {}", case.id(), case.problem));
        return Ok(());
    }
    let mut results = match (no_gpu(), &options.step) {
        (_, Some(precision)) => step::count(images, precision)?,
        (Some(reason), None) => {
            println!("No GPU to measure on ({reason}): these are counters of the emulator, and no times of a GPU.");
            counted::print(&cases)?
        }
        (None, None) => measured::measure(&cases, options)?,
    };
    results["made_from"] = table::made_from(images);
    let mut text = serde_json::to_string_pretty(&results)?;
    text.push('\n');
    std::fs::write(&options.json, text).map_err(|e| format!("writing {}: {e}", options.json.display()))?;
    println!("written: {}", options.json.display());
    Ok(())
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
