//! Finds nvcc, compiles kernels to PTX and on to machine code, and tells whether prebuilt PTX is older than its sources.
//!
//! Part of build.rs and, for the same answers, of the kernel tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Flags of every kernel. No contraction of `a * b + c`: kernels write `fmaf` where they want it, so that everything
/// else rounds as the CPU does. Sources carry no line numbers: those would embed paths.
pub const FLAGS: [&str; 5] = ["-ptx", "-arch=compute_80", "-std=c++17", "-O3", "-fmad=false"];

/// The PTX version that the result is marked with: drivers from R535 (CUDA 12.2) on load it, and nothing newer is used.
pub const PTX_VERSION: &str = ".version 8.2";

/// What a fatbin holds machine code for, as far as nvcc knows it; on newer GPUs the driver compiles the PTX in it.
pub const ARCHITECTURES: [&str; 4] = ["sm_80", "sm_90", "sm_100", "sm_120"];

/// The names of the kernel files, `kernels/<name>.cu`.
pub fn names(kernels: &Path) -> Result<Vec<String>, String> {
    Ok(files(kernels, "cu")?.iter().filter_map(|path| Some(path.file_stem()?.to_str()?.to_string())).collect())
}

fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut list: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    list.retain(|path| path.extension().is_some_and(|e| e == extension));
    list.sort();
    Ok(list)
}

/// A hash of texts one behind the other: FNV-1a, 64 bits.
pub struct Hash(pub u64);

impl Hash {
    pub const EMPTY: Hash = Hash(0xcbf2_9ce4_8422_2325);

    pub fn add(&mut self, text: &[u8]) {
        // A checkout with CRLF line ends is no other source.
        for &byte in text.iter().filter(|&&byte| byte != b'\r') {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

/// A hash of everything that a kernel's PTX depends on: its source, the headers, the flags.
pub fn source_hash(kernels: &Path, name: &str) -> Result<u64, String> {
    let mut hash = Hash::EMPTY;
    hash.add(FLAGS.join(" ").as_bytes());
    hash.add(PTX_VERSION.as_bytes());
    for path in [vec![kernels.join(format!("{name}.cu"))], files(&kernels.join("include"), "cuh")?].concat() {
        hash.add(&std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?);
    }
    Ok(hash.0)
}

/// The hashes that the prebuilt PTX was made from, by name.
pub fn manifest(kernels: &Path) -> Result<BTreeMap<String, u64>, String> {
    let path = kernels.join("prebuilt/manifest.txt");
    let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let parse = |line: &str| {
        let (name, hash) = line.split_once(' ')?;
        Some((name.to_string(), u64::from_str_radix(hash, 16).ok()?))
    };
    text.lines()
        .map(|line| parse(line).ok_or_else(|| format!("{}: expected `name hash`, got `{line}`", path.display())))
        .collect()
}

/// The kernels whose prebuilt PTX is missing or older than its sources.
pub fn stale(kernels: &Path) -> Result<Vec<String>, String> {
    let manifest = manifest(kernels)?;
    let mut stale = Vec::new();
    for name in names(kernels)? {
        let fresh = manifest.get(&name) == Some(&source_hash(kernels, &name)?);
        if !fresh || !kernels.join(format!("prebuilt/{name}.ptx")).is_file() {
            stale.push(name);
        }
    }
    Ok(stale)
}

/// nvcc: what `NVCC` names, else in `CUDA_HOME`, `CUDA_PATH`, `PATH`, the active Python environment, the standard folder.
///
/// `Ok(None)` where there is none; an error when a variable is set and wrong.
pub fn find() -> Result<Option<PathBuf>, String> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = variable("NVCC") {
        return match path.is_file() {
            true => Ok(Some(path)),
            false => Err(format!("NVCC={}: no such file; unset it or name the nvcc program", path.display())),
        };
    }
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        if let Some(folder) = variable(name) {
            let path = folder.join("bin/nvcc");
            return match path.is_file() {
                true => Ok(Some(path)),
                false => Err(format!("{name}={}: it holds no bin/nvcc; unset it or correct it", folder.display())),
            };
        }
    }
    let mut tried: Vec<PathBuf> = Vec::new();
    if let Some(path) = std::env::var_os("PATH") {
        tried.extend(std::env::split_paths(&path).map(|folder| folder.join("nvcc")));
    }
    if let Some(environment) = variable("VIRTUAL_ENV") {
        // The Python packages put it below lib/pythonX.Y/site-packages.
        let versions = std::fs::read_dir(environment.join("lib")).into_iter().flatten().flatten();
        tried.extend(versions.map(|version| version.path().join("site-packages/nvidia/cu13/bin/nvcc")));
    }
    tried.push("/usr/local/cuda/bin/nvcc".into());
    Ok(tried.into_iter().find(|path| path.is_file()))
}

/// Compiles `kernels/<name>.cu` to PTX.
pub fn compile(nvcc: &Path, kernels: &Path, name: &str, folder: &Path) -> Result<String, String> {
    let out = folder.join(format!("{name}.ptx"));
    // Relative paths from the kernels' folder: the result must not depend on where that lies.
    let run = Command::new(nvcc)
        .current_dir(kernels)
        .args(FLAGS)
        .args(["-I", "include", "-o"])
        .arg(&out)
        .arg(format!("{name}.cu"))
        .output()
        .map_err(|e| format!("{}: {e}", nvcc.display()))?;
    succeeded(&run, &format!("{name}.cu"))?;
    let ptx = std::fs::read_to_string(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    // A hint of PTX 8.3, which older versions do not know, about loads of which a part is used.
    let known = ptx.lines().filter(|line| !line.trim_start().starts_with(".pragma \"used_bytes_mask"));
    let lines = known.map(|line| if line.starts_with(".version ") { PTX_VERSION } else { line });
    Ok(lines.collect::<Vec<_>>().join("\n") + "\n")
}

/// Compiles PTX to machine code for all [`ARCHITECTURES`]: a fatbin of it and of the PTX.
pub fn fatbin(nvcc: &Path, ptx: &Path, to: &Path) -> Result<(), String> {
    let failed = |e| format!("{}: {e}", nvcc.display());
    let known = Command::new(nvcc).arg("--list-gpu-code").output().map_err(failed)?;
    let known = String::from_utf8_lossy(&known.stdout);
    let known = ARCHITECTURES.iter().filter(|architecture| known.lines().any(|line| line.trim() == **architecture));
    let mut run = Command::new(nvcc);
    // The emulator reads no compressed ones.
    run.args(["-fatbin", "--no-compress", "--threads=0", "-gencode=arch=compute_80,code=compute_80"]);
    run.args(known.map(|architecture| format!("-gencode=arch=compute_80,code={architecture}")));
    let run = run.arg("-o").arg(to).arg(ptx).output().map_err(failed)?;
    succeeded(&run, &ptx.display().to_string())
}

fn succeeded(run: &Output, what: &str) -> Result<(), String> {
    if run.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&run.stderr);
    // The first error is the cause; the hundreds after it are consequences.
    Err(format!("nvcc could not compile {what}:\n{}", said.lines().take(12).collect::<Vec<_>>().join("\n")))
}
