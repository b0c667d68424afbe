//! The committed PTX against its sources.

use std::path::{Path, PathBuf};
use std::process::Command;

pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernels")
}

/// nvcc 13.0.88, from `NVCC` or the path. Without it tests skip loudly, or fail under `WARPSMITH_REQUIRE_NVCC=1`.
pub fn nvcc(what_for: &str) -> Option<String> {
    let nvcc = std::env::var("NVCC").unwrap_or_else(|_| "nvcc".to_string());
    let found = Command::new(&nvcc).arg("--version").output();
    let version = found.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    if version.contains("V13.0.88") {
        return Some(nvcc);
    }
    let required = std::env::var("WARPSMITH_REQUIRE_NVCC").as_deref() == Ok("1");
    assert!(!required, "nvcc 13.0.88 is required and was not found");
    eprintln!("SKIPPED: nvcc 13.0.88 was not found (NVCC or PATH); {what_for}");
    None
}

pub fn blessing() -> bool {
    std::env::var("WARPSMITH_BLESS").as_deref() == Ok("1")
}

/// Takes out what depends on where the compiler and the source lie: folders of `.file`, and the mangled names of inlined
/// functions, which hold a hash of the path.
fn without_paths(ptx: &str) -> String {
    let mut out: Vec<String> = Vec::new();
    let mut names = false;
    for line in ptx.split('\n') {
        names |= line.contains(".section") && line.contains(".debug_str");
        if names && line.starts_with(".b8") {
            if out.last().is_some_and(|l| !l.starts_with(".b8")) {
                out.push(".b8 0".to_string());
            }
            continue;
        }
        match line.rsplit_once('/') {
            Some((start, name)) if line.contains(".file") => {
                let head = start.split('"').next().unwrap_or_default();
                out.push(format!("{head}\"{name}"));
            }
            _ => out.push(line.to_string()),
        }
    }
    out.join("\n")
}

#[test]
fn committed_ptx_is_what_nvcc_makes_of_the_sources() {
    let Some(nvcc) = nvcc("the committed PTX was not compared") else { return };
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|f| f.unwrap().file_name().into_string().unwrap())
        .filter_map(|n| n.strip_suffix(".cu").map(str::to_string))
        .collect();
    names.sort();
    assert!(names.len() >= 5, "{names:?}");
    let scratch = std::env::temp_dir().join(format!("warpsmith-nvcc-{}", std::process::id()));
    let run = |args: &[&str]| {
        let made = Command::new(&nvcc).args(args).arg("-o").arg(&scratch).current_dir(folder()).status().unwrap();
        assert!(made.success(), "nvcc {}", args.join(" "));
        let bytes = std::fs::read(&scratch).unwrap();
        std::fs::remove_file(&scratch).unwrap();
        bytes
    };
    let compare = |name: &str, fresh: Vec<u8>, args: &[&str]| {
        let file = folder().join(name);
        if blessing() {
            std::fs::write(&file, &fresh).unwrap();
        }
        assert!(std::fs::read(&file).is_ok_and(|old| old == fresh), "{name} is stale: nvcc {}", args.join(" "));
    };
    for name in names {
        let source = format!("{name}.cu");
        if name == "bundle" {
            for (file, options) in [
                (
                    "bundle.plain.fatbin",
                    &[
                        "--compress-mode=none",
                        "-gencode=arch=compute_75,code=compute_75",
                        "-gencode=arch=compute_80,code=compute_80",
                        "-gencode=arch=compute_90,code=compute_90",
                    ][..],
                ),
                ("bundle.compressed.fatbin", &["--compress-mode=size", "-gencode=arch=compute_80,code=compute_80"][..]),
                ("bundle.machine.fatbin", &["--compress-mode=none", "-gencode=arch=compute_80,code=sm_80"][..]),
            ] {
                let args = [&["--fatbin", &source[..]][..], options].concat();
                compare(file, run(&args), &args);
            }
            continue;
        }
        let mut args = vec!["-ptx", "-arch=compute_80", &source];
        if ["bugs", "known", "report"].contains(&&name[..]) {
            args.push("-lineinfo");
        }
        let fresh = String::from_utf8(run(&args)).unwrap();
        compare(&format!("{name}.ptx"), without_paths(&fresh).into_bytes(), &args);
    }
}
