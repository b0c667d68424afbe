//! The whole comparison on the emulator, with libraries that compute by definition: buffers, order of operands, streams and
//! the verdict are those of a run on a GPU; times there are none.

use clap::Parser;
use std::path::Path;
use std::process::{Command, Output};
use warpsmith_peers::library::Library;
use warpsmith_peers::side_by_side::{Flags, run};

/// All that [`child`] is told.
const ARGUMENTS: &str = "SIDE_BY_SIDE_ARGUMENTS";

fn compile(folder: &Path, library: &str) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulated/fake_libraries.rs");
    let status = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into()))
        .args(["--edition", "2024", "--crate-type", "cdylib", "--crate-name", library, "--cfg", library])
        .args(["-C", "opt-level=3", "-A", "dead_code", "-A", "unused", "--out-dir"])
        .arg(folder)
        .arg(source)
        .status()
        .expect("rustc runs");
    assert!(status.success(), "the fake {library} does not compile");
}

/// Runs [`child`] where `folder` holds the libraries; `arguments` begin with the MiB of workspace.
fn side_by_side(folder: &Path, arguments: &str, env: &[(&str, &str)]) -> Output {
    Command::new(std::env::current_exe().expect("this test's path"))
        .args(["--exact", "child", "--ignored", "--nocapture"])
        .env("LD_LIBRARY_PATH", folder)
        .env(ARGUMENTS, format!("side_by_side --size 32 --batch 1 --workspace-mib {arguments}"))
        .envs(env.iter().copied())
        .output()
        .expect("the child runs")
}

#[test]
#[ignore = "a process of its own, which the other test starts"]
fn child() {
    warpsmith_emulator::install().unwrap();
    let arguments = std::env::var(ARGUMENTS).expect("the test says what to run");
    let wrong = run(&Flags::parse_from(arguments.split(' '))).unwrap();
    let report = warpsmith_emulator::report().unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    println!("{wrong} comparisons failed");
}

#[test]
fn results_are_compared_and_nothing_is_timed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let text = |output: &Output| {
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    // Without the libraries it says what is missing.
    if !Library::Cudnn.is_present() && !Library::Cublas.is_present() {
        let output = text(&side_by_side(folder.path(), "1", &[]));
        assert!(output.contains("nothing to compare with") && output.contains("nvidia-cudnn-cu12"), "{output}");
    }
    compile(folder.path(), "cublas");
    let json = folder.path().join("numbers.json");
    let output = text(&side_by_side(folder.path(), "1 --layer classifier --math f32 --pass fprop", &[]));
    assert!(output.contains("left out: device cuDNN"), "{output}");
    assert!(output.contains("cuBLAS not timed") && !output.contains("cuDNN not timed"), "{output}");

    compile(folder.path(), "cudnn");
    // 3x3 with and without stride, and 1x1: every type and pass, even though times were asked for.
    let arguments = format!("1 --bench --layer s1.c --json {}", json.display());
    let output = text(&side_by_side(folder.path(), &arguments, &[]));
    assert!(output.contains("nothing is timed") && output.contains("0 comparisons failed"), "{output}");
    let numbers: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let rows = numbers["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 5 * 9, "{output}");
    assert_eq!(numbers["evidence"]["cudnn_version"], 90_100);
    for row in rows {
        let share = row["cuDNN"]["share_of_tolerance"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&share), "{row}");
        assert_eq!((&row["cuDNN"]["algorithm"], &row["cuDNN"]["workspace_bytes"]), (&5.into(), &1000.into()));
        let is_product = !row["layer"].as_str().unwrap().contains("c2");
        assert_eq!(row["cuBLAS"]["share_of_tolerance"].is_number(), is_product, "{row}");
        assert!(row["us"].is_null() && row["cuDNN"]["ratio"].is_null(), "no time is made up: {row}");
    }

    // A library that is wrong in one value, or finds no algorithm, is told on.
    let arguments = "1 --layer s1.c1_first --math bf16";
    let output = text(&side_by_side(folder.path(), arguments, &[("FAKE_IS_WRONG", "1")]));
    assert!(output.contains("6 comparisons failed") && output.contains("first [0]"), "{output}");
    let output = text(&side_by_side(folder.path(), "0 --layer s1.c2 --math f32 --pass fprop", &[]));
    assert!(
        output.contains("none of its algorithms computes Fprop in f32") && output.contains("workspace"),
        "{output}"
    );
}
