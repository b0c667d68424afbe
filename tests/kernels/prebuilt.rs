//! `kernels/prebuilt` is what nvcc makes of the sources.
//!
//! `WARPSMITH_UPDATE_PTX=1 cargo test --test kernels prebuilt` writes it anew.

use super::gpu::gpu;
use super::{Case, nvcc, ptx_hash};
use cudarc::nvrtc::Ptx;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

pub const CASES: &[Case] = &[
    ("prebuilt::ptx_is_that_of_the_sources", prebuilt_ptx_is_that_of_the_sources),
    ("prebuilt::the_manifest_names_every_kernel_and_no_other", the_manifest_names_every_kernel_and_no_other),
    ("prebuilt::a_changed_source_is_stale", a_changed_source_is_stale),
    ("prebuilt::the_counters_are_of_these_kernels", the_counters_are_of_these_kernels),
    ("prebuilt::machine_code_for_several_architectures_loads", a_fatbin_loads),
];

fn kernels() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels")
}

fn set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value == "1")
}

fn prebuilt_ptx_is_that_of_the_sources() {
    let kernels = kernels();
    let Some(nvcc) = nvcc::find().unwrap() else {
        assert!(!set("WARPSMITH_REQUIRE_NVCC"), "WARPSMITH_REQUIRE_NVCC=1, and there is no nvcc");
        eprintln!("SKIPPED: no nvcc, so the prebuilt PTX is not compared with what the sources give");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut manifest = String::new();
    for name in nvcc::names(&kernels).unwrap() {
        let ptx = nvcc::compile(&nvcc, &kernels, &name, folder.path()).unwrap();
        let path = kernels.join(format!("prebuilt/{name}.ptx"));
        if set("WARPSMITH_UPDATE_PTX") {
            fs::write(&path, &ptx).unwrap();
        }
        let prebuilt = fs::read_to_string(&path).unwrap_or_default();
        assert!(prebuilt == ptx, "{} is not what nvcc 13.0 makes of {name}.cu: renew it", path.display());
        writeln!(manifest, "{name} {:016x}", nvcc::source_hash(&kernels, &name).unwrap()).unwrap();
    }
    if set("WARPSMITH_UPDATE_PTX") {
        fs::write(kernels.join("prebuilt/manifest.txt"), &manifest).unwrap();
    }
    assert_eq!(fs::read_to_string(kernels.join("prebuilt/manifest.txt")).unwrap(), manifest);
}

/// Kind (1: PTX, 2: machine code) and architecture of what a fatbin holds.
fn fatbin_entries(fatbin: &[u8]) -> Vec<(u16, u32)> {
    let half = |at: usize| u16::from_le_bytes(fatbin[at..][..2].try_into().unwrap());
    let word = |at: usize| u32::from_le_bytes(fatbin[at..][..4].try_into().unwrap());
    assert_eq!(word(0), 0xba55_ed50, "a fatbin");
    let mut entries = Vec::new();
    let mut at = half(6) as usize;
    while at < fatbin.len() {
        entries.push((half(at), word(at + 28)));
        at += word(at + 4) as usize + word(at + 8) as usize;
    }
    entries
}

/// What feature `compile-kernels` embeds beside the PTX.
fn a_fatbin_loads() {
    let Some(nvcc) = nvcc::find().unwrap() else {
        assert!(!set("WARPSMITH_REQUIRE_NVCC"), "WARPSMITH_REQUIRE_NVCC=1, and there is no nvcc");
        eprintln!("SKIPPED: no nvcc, so no machine code is made");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("adam.fatbin");
    nvcc::fatbin(&nvcc, &kernels().join("prebuilt/adam.ptx"), &to).unwrap();
    let fatbin = fs::read(&to).unwrap();
    let entries = fatbin_entries(&fatbin).into_iter().collect::<BTreeSet<_>>();
    let wanted = nvcc::ARCHITECTURES.map(|name| (2, name["sm_".len()..].parse().unwrap()));
    assert!(wanted.iter().all(|entry| entries.contains(entry)), "{entries:?}");
    let module = gpu().kernels.context().load_module(Ptx::from_binary(fatbin)).unwrap();
    module.load_function("adam_f32").unwrap();
    let broken = folder.path().join("broken.ptx");
    fs::write(&broken, "no PTX").unwrap();
    let error = nvcc::fatbin(&nvcc, &broken, &to).unwrap_err();
    assert!(error.contains("could not compile") && error.contains("broken.ptx"), "{error}");
}

fn the_manifest_names_every_kernel_and_no_other() {
    if set("WARPSMITH_UPDATE_PTX") {
        return; // The files are being renewed beside this test.
    }
    let kernels = kernels();
    assert_eq!(nvcc::stale(&kernels).unwrap(), Vec::<String>::new());
    let names = nvcc::names(&kernels).unwrap();
    assert_eq!(nvcc::manifest(&kernels).unwrap().into_keys().collect::<Vec<_>>(), names);
    let mut files: Vec<String> = fs::read_dir(kernels.join("prebuilt"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let mut expected: Vec<String> = names.iter().map(|name| format!("{name}.ptx")).collect();
    expected.push("manifest.txt".into());
    expected.sort();
    assert_eq!(files, expected);
}

/// Counting takes minutes; that it was done for other kernels shows at once.
fn the_counters_are_of_these_kernels() {
    if set("WARPSMITH_UPDATE_PTX") {
        return; // What is built in is older than what is being written.
    }
    let text = fs::read_to_string(kernels().join("COUNTERS.md")).unwrap();
    let counted = text.split("PTX with the hash ").nth(1).and_then(|rest| rest.get(..16)).unwrap_or("none");
    assert_eq!(
        counted,
        format!("{:016x}", ptx_hash::ptx_hash()),
        "kernels/COUNTERS.md is of other kernels: renew it with `cargo bench --bench kernels -- --table \
         kernels/COUNTERS.md`",
    );
}

fn a_changed_source_is_stale() {
    if set("WARPSMITH_UPDATE_PTX") {
        return; // The files are being renewed beside this test.
    }
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: PathBuf, to: PathBuf| {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    };
    for sub in ["", "include", "prebuilt"] {
        for entry in fs::read_dir(kernels().join(sub)).unwrap().flatten().filter(|entry| entry.path().is_file()) {
            copy(entry.path(), folder.path().join(sub).join(entry.file_name()));
        }
    }
    assert_eq!(nvcc::stale(folder.path()).unwrap(), Vec::<String>::new());
    let path = folder.path().join("adam.cu");
    let source = fs::read_to_string(&path).unwrap();
    fs::write(&path, source.replace('\n', "\r\n")).unwrap();
    assert_eq!(nvcc::stale(folder.path()).unwrap(), Vec::<String>::new(), "line ends do not count");
    fs::write(&path, source + "\n// more\n").unwrap();
    assert_eq!(nvcc::stale(folder.path()).unwrap(), ["adam"]);
}
