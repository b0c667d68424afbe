//! Embeds the kernels' PTX: the prebuilt one, or with feature `compile-kernels` what nvcc makes of the sources here, and
//! the machine code that it makes of that.

#[path = "build/nvcc.rs"]
#[allow(dead_code)] // The tests use the rest.
mod nvcc;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn main() {
    if let Err(why) = run() {
        eprintln!("error: {why}");
        std::process::exit(1);
    }
}

fn variable(name: &str) -> Result<PathBuf, String> {
    std::env::var_os(name).map(PathBuf::from).ok_or_else(|| format!("{name} is not set: cargo sets it for build.rs"))
}

fn run() -> Result<(), String> {
    let kernels = variable("CARGO_MANIFEST_DIR")?.join("kernels");
    let out = variable("OUT_DIR")?;
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build/nvcc.rs");
    println!("cargo::rerun-if-changed=kernels");
    let compiles = std::env::var_os("CARGO_FEATURE_COMPILE_KERNELS").is_some();
    let folder = if compiles { compiled(&kernels, &out)? } else { prebuilt(&kernels)? };

    let (mut table, mut fatbins) = (String::from("&[\n"), String::from("&[\n"));
    for name in nvcc::names(&kernels)? {
        let path = folder.join(format!("{name}.ptx"));
        // A kernel file whose PTX was never made is stale, as said above: no device opens then (src/cuda/probe.rs).
        if !path.is_file() {
            continue;
        }
        writeln!(table, "    ({name:?}, include_str!({path:?})),").expect("a String grows");
        if compiles {
            let path = path.with_extension("fatbin");
            writeln!(fatbins, "    ({name:?}, include_bytes!({path:?})),").expect("a String grows");
        }
    }
    for (name, table) in [("kernels.rs", table), ("fatbins.rs", fatbins)] {
        let path = out.join(name);
        std::fs::write(&path, table + "]\n").map_err(|e| format!("{}: {e}", path.display()))?;
    }
    Ok(())
}

fn prebuilt(kernels: &Path) -> Result<PathBuf, String> {
    let stale = nvcc::stale(kernels)?;
    if !stale.is_empty() {
        println!(
            "cargo::warning=kernels/prebuilt is older than the sources of {}: build with --features compile-kernels, or \
             renew it with WARPSMITH_UPDATE_PTX=1 cargo test --test kernels prebuilt",
            stale.join(", ")
        );
    }
    Ok(kernels.join("prebuilt"))
}

fn compiled(kernels: &Path, out: &Path) -> Result<PathBuf, String> {
    for name in ["NVCC", "CUDA_HOME", "CUDA_PATH", "PATH", "VIRTUAL_ENV"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let nvcc = nvcc::find()?.ok_or(
        "feature compile-kernels needs nvcc, which was not found: set NVCC to the program or CUDA_HOME to the toolkit, \
         or build without the feature",
    )?;
    let folder = out.join("ptx");
    std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    for name in nvcc::names(kernels)? {
        let ptx = nvcc::compile(&nvcc, kernels, &name, &folder)?;
        let path = folder.join(format!("{name}.ptx"));
        std::fs::write(&path, ptx).map_err(|e| format!("{}: {e}", path.display()))?;
        nvcc::fatbin(&nvcc, &path, &path.with_extension("fatbin"))?;
    }
    Ok(folder)
}
