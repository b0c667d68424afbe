//! What the crate promises about itself as a dependency.

use std::collections::BTreeSet;
use std::process::Command;

/// The lean build is what people link for the kernels alone; every crate here is one that they pay for.
const LEAN_CRATES: [&str; 11] = [
    "bytemuck",
    "cfg-if",
    "cudarc",
    "half",
    "libloading",
    "proc-macro2",
    "quote",
    "syn",
    "unicode-ident",
    "zerocopy",
    "zerocopy-derive",
];

#[test]
fn the_lean_build_has_these_crates_and_no_more() {
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["tree", "--edges", "normal", "--prefix", "none", "--format", "{p}", "--offline", "--locked"])
        .args(["--package", "warpsmith", "--no-default-features", "--features", "cuda"])
        .output()
        .expect("cargo tree runs");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("crate names are UTF-8");
    let crates: BTreeSet<&str> =
        text.lines().filter_map(|line| line.split(' ').next()).filter(|name| *name != "warpsmith").collect();
    assert_eq!(crates, BTreeSet::from(LEAN_CRATES), "left: cargo tree; right: the pinned list");
}
