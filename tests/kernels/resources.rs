//! `kernels/resources.txt` is what ptxas says of the prebuilt PTX: registers, static shared memory, stack and spills of
//! every kernel on every architecture that we look at. Nothing may spill.
//!
//! `WARPSMITH_UPDATE_RESOURCES=1 cargo test --test kernels resources` writes it anew.

use super::{Case, nvcc};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use warpsmith::cuda::{entries, ptx};

pub const CASES: &[Case] = &[
    ("resources::the_table_is_that_of_the_ptx", the_table_is_that_of_the_ptx),
    ("resources::the_table_names_every_kernel_and_nothing_spills", nothing_spills),
    ("resources::what_ptxas_says_is_read", what_ptxas_says_is_read),
];

const ARCHITECTURES: [&str; 4] = ["sm_80", "sm_90", "sm_100", "sm_120"];

/// What one kernel takes: registers of a thread, bytes of static shared memory, of stack, of spills (loads and stores).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Resources {
    registers: u32,
    shared: u32,
    stack: u32,
    spills: u32,
}

/// Kernels by name, their resources in the order of the architectures.
type Table = BTreeMap<String, Vec<Resources>>;

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/resources.txt")
}

fn set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value == "1")
}

/// Reads what `ptxas -v` says.
fn read(said: &str) -> BTreeMap<String, Resources> {
    // The number in front of a unit.
    let number = |line: &str, unit: &str| -> u32 {
        let before = line.split(unit).next().filter(|before| before.len() < line.len());
        before.and_then(|before| before.split_whitespace().last()?.parse().ok()).unwrap_or(0)
    };
    let mut found: BTreeMap<String, Resources> = BTreeMap::new();
    let (mut kernel, mut function) = (String::new(), String::new());
    for line in said.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().unwrap_or_default().to_string();
            found.insert(kernel.clone(), Resources::default());
        } else if let Some((_, name)) = line.split_once("Function properties for ") {
            function = name.trim().to_string();
        }
        let Some(resources) = found.get_mut(&kernel) else { continue };
        if line.contains("bytes stack frame") && function == kernel {
            resources.stack = number(line, " bytes stack frame");
            resources.spills = number(line, " bytes spill stores") + number(line, " bytes spill loads");
        } else if line.contains("Used ") {
            resources.registers = number(line, " registers");
            resources.shared = number(line, " bytes smem");
        }
    }
    found
}

/// What ptxas says of a PTX, remembered in the target folder: compiling all of them takes minutes.
fn compile(ptxas: &Path, version: &str, (name, text): (&str, &str), architecture: &str) -> String {
    let mut hash = nvcc::Hash::EMPTY;
    [version, architecture, text].iter().for_each(|text| hash.add(text.as_bytes()));
    let key = format!("{:016x}\n", hash.0);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ptxas");
    fs::create_dir_all(&folder).unwrap();
    let remembered = folder.join(format!("{name}.{architecture}.txt"));
    if let Some(said) = fs::read_to_string(&remembered).ok().and_then(|text| Some(text.strip_prefix(&key)?.to_string()))
    {
        return said;
    }
    let work = tempfile::tempdir_in(&folder).unwrap();
    let from = work.path().join("kernels.ptx");
    fs::write(&from, text).unwrap();
    let arch = format!("-arch={architecture}");
    let run = Command::new(ptxas).args(["-v", &arch, "-o"]).arg(work.path().join("cubin")).arg(&from).output().unwrap();
    let said = String::from_utf8(run.stderr).unwrap();
    assert!(run.status.success(), "ptxas cannot compile {name}.ptx for {architecture}:\n{said}");
    // Renamed into place, so that nobody reads half of it.
    let whole = work.path().join("said.txt");
    fs::write(&whole, key + &said).unwrap();
    fs::rename(whole, remembered).unwrap();
    said
}

fn measured(ptxas: &Path, version: &str) -> Table {
    let mut jobs: Vec<_> =
        ptx().iter().flat_map(|&file| ARCHITECTURES.map(|architecture| (file, architecture))).collect();
    // The longest last, where they are taken from.
    jobs.sort_by_key(|((_, text), _)| text.len());
    let (jobs, found) = (Mutex::new(jobs), Mutex::new(BTreeMap::new()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let Some((file, architecture)) = jobs.lock().unwrap().pop() else { return };
                    let kernels = read(&compile(ptxas, version, file, architecture));
                    found.lock().unwrap().insert((architecture, file.0), kernels);
                }
            });
        }
    });
    let found = found.into_inner().unwrap();
    let mut table = Table::new();
    for architecture in ARCHITECTURES {
        for (file, _) in ptx() {
            for (kernel, resources) in &found[&(architecture, *file)] {
                table.entry(kernel.clone()).or_default().push(*resources);
            }
        }
    }
    table
}

fn print(version: &str, table: &Table) -> String {
    let mut text = format!(
        "# What ptxas {version} makes of prebuilt/*.ptx on {}: on each of them registers of a thread,\n\
         # bytes of static shared memory, of stack, of spills.\n",
        ARCHITECTURES.join(", ")
    );
    let width = table.keys().map(String::len).max().unwrap_or(0);
    for (kernel, resources) in table {
        write!(text, "{kernel:width$}").unwrap();
        for r in resources {
            write!(text, "  {:>3} {:>5} {} {}", r.registers, r.shared, r.stack, r.spills).unwrap();
        }
        text.push('\n');
    }
    text
}

fn parse(text: &str) -> Table {
    let mut table = Table::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let kernel = words.next().unwrap_or_else(|| panic!("an empty line in {}", path().display()));
        let numbers: Vec<u32> = words.map(|word| word.parse().unwrap_or_else(|e| panic!("{line}: {e}"))).collect();
        assert_eq!(numbers.len(), 4 * ARCHITECTURES.len(), "{line}");
        let each = numbers.chunks(4).map(|n| Resources { registers: n[0], shared: n[1], stack: n[2], spills: n[3] });
        table.insert(kernel.to_string(), each.collect());
    }
    table
}

fn the_table_is_that_of_the_ptx() {
    let ptxas = nvcc::find().unwrap().map(|nvcc| nvcc.with_file_name("ptxas")).filter(|ptxas| ptxas.is_file());
    let Some(ptxas) = ptxas else {
        assert!(!set("WARPSMITH_REQUIRE_NVCC"), "WARPSMITH_REQUIRE_NVCC=1, and there is no ptxas beside an nvcc");
        eprintln!("SKIPPED: no ptxas, so kernels/resources.txt is not compared with the prebuilt PTX");
        return;
    };
    let version = version(&ptxas);
    compare(&path(), &print(&version, &measured(&ptxas, &version)), "resources");
}

/// The version of a tool of the CUDA toolkit.
pub fn version(tool: &Path) -> String {
    let said = String::from_utf8(Command::new(tool).arg("--version").output().unwrap().stdout).unwrap();
    // "Cuda compilation tools, release 13.0, V13.0.88"
    let version = said.split(", V").nth(1).and_then(|rest| rest.split_whitespace().next());
    version.unwrap_or_else(|| panic!("no version in {said}")).to_string()
}

/// Whether the kept tables are to be written anew.
pub fn is_renewed() -> bool {
    set("WARPSMITH_UPDATE_RESOURCES")
}

/// Fails unless the kept file has this text, or writes it; `test` is what renews it.
pub fn compare(path: &Path, text: &str, test: &str) {
    if is_renewed() {
        fs::write(path, text).unwrap();
    }
    let kept = fs::read_to_string(path).unwrap_or_default();
    let (old, new): (BTreeSet<&str>, BTreeSet<&str>) = (kept.lines().collect(), text.lines().collect());
    let differ =
        |sign: &str, lines: Vec<&&str>| lines.iter().map(|line| format!("{sign} {line}\n")).collect::<String>();
    assert!(
        kept == text,
        "{}: renew it with WARPSMITH_UPDATE_RESOURCES=1 cargo test --test kernels {test}\n{}{}",
        path.display(),
        differ("-", old.difference(&new).collect()),
        differ("+", new.difference(&old).collect())
    );
}

fn nothing_spills() {
    if is_renewed() {
        return; // The table is being renewed beside this test.
    }
    let table = parse(&fs::read_to_string(path()).unwrap());
    let known = entries().into_iter().flat_map(|e| e.suffixes.iter().map(move |suffix| format!("{}_{suffix}", e.name)));
    assert_eq!(table.keys().cloned().collect::<BTreeSet<_>>(), known.collect());
    let spilling: Vec<_> = table.iter().filter(|(_, each)| each.iter().any(|resources| resources.spills > 0)).collect();
    assert!(spilling.is_empty(), "spills: {spilling:#?}");
}

fn what_ptxas_says_is_read() {
    let said = "ptxas info    : 0 bytes gmem\n\
        ptxas info    : Compiling entry function 'adam_f32' for 'sm_90'\n\
        ptxas info    : Function properties for helper\n    \
            96 bytes stack frame, 7 bytes spill stores, 7 bytes spill loads\n\
        ptxas info    : Function properties for adam_f32\n    \
            16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads\n\
        ptxas info    : Used 46 registers, used 1 barriers, 24 bytes cumulative stack size, 1024 bytes smem\n\
        ptxas info    : Compiling entry function 'swa_f32' for 'sm_90'\n\
        ptxas info    : Function properties for swa_f32\n    \
            0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
        ptxas info    : Used 8 registers, used 0 barriers, 368 bytes cmem[0]\n";
    let adam = Resources { registers: 46, shared: 1024, stack: 16, spills: 20 };
    let swa = Resources { registers: 8, ..Resources::default() };
    assert_eq!(read(said), BTreeMap::from([("adam_f32".to_string(), adam), ("swa_f32".to_string(), swa)]));
    let table = Table::from([("adam_f32".to_string(), vec![adam; 4]), ("swa_f32".to_string(), vec![swa; 4])]);
    assert_eq!(parse(&print("13.0.88", &table)), table);
}
