//! `kernels/machine_code.txt` is what ptxas makes of the main loops on tensor cores: how much of a loop multiplies, how
//! it copies and loads, and what else it is made of. Nothing there may copy or load less than 16 bytes a lane.
//!
//! `WARPSMITH_UPDATE_RESOURCES=1 cargo test --test kernels machine_code` writes it anew; that takes ptxas and nvdisasm.

use super::{Case, nvcc, resources};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use warpsmith::cuda::ptx;

pub const CASES: &[Case] = &[
    ("machine_code::the_table_is_that_of_the_ptx", the_table_is_that_of_the_ptx),
    ("machine_code::main_loops_multiply_enough_and_move_whole_packs", main_loops),
    ("machine_code::what_nvdisasm_says_is_read", what_nvdisasm_says_is_read),
];

const ARCHITECTURES: [&str; 2] = ["sm_80", "sm_90"];

/// Instructions of one main loop.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Loop {
    /// All of them.
    instructions: u32,
    /// Those that multiply on tensor cores.
    mma: u32,
    /// Asynchronous copies to shared memory, and those of 16 bytes a lane.
    copies: [u32; 2],
    /// Loads of matrices, and those of four at a time.
    matrices: [u32; 2],
    /// Other accesses to shared memory.
    shared: u32,
    /// Other accesses to global memory.
    global: u32,
    /// Integer arithmetic, logic, comparisons and moves.
    integer: u32,
}

/// Kernels by name, their main loops in the order of the architectures.
type Table = BTreeMap<String, Vec<Loop>>;

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/machine_code.txt")
}

/// An instruction of a listing.
struct Instruction<'a> {
    address: u64,
    opcode: &'a str,
    /// The label that a branch names.
    target: Option<&'a str>,
}

impl Loop {
    fn add(&mut self, opcode: &str) {
        self.instructions += 1;
        let mut parts = opcode.split('.');
        let is_wide = parts.clone().any(|part| part == "128");
        match parts.next().unwrap_or_default() {
            "HMMA" | "IMMA" | "DMMA" => self.mma += 1,
            "LDGSTS" => {
                self.copies[0] += 1;
                self.copies[1] += u32::from(is_wide);
            }
            "LDSM" => {
                self.matrices[0] += 1;
                self.matrices[1] += u32::from(opcode.ends_with(".4"));
            }
            "LDS" | "STS" | "ATOMS" => self.shared += 1,
            "LDG" | "LD" | "STG" | "ST" | "ATOMG" | "RED" => self.global += 1,
            "IMAD" | "IADD3" | "LEA" | "LOP3" | "SHF" | "ISETP" | "SEL" | "VIADD" | "IABS" | "PRMT" | "MOV" => {
                self.integer += 1;
            }
            _ => {}
        }
    }
}

/// `/*0a10*/  @!P1 LDGSTS.E.BYPASS.128 [R1], [R2.64] ;`
fn instruction(line: &str) -> Option<Instruction<'_>> {
    let (address, rest) = line.trim_start().strip_prefix("/*")?.split_once("*/")?;
    let address = u64::from_str_radix(address, 16).ok()?;
    let mut words = rest.trim_start().trim_start_matches('{').split_whitespace().peekable();
    // What is never executed is padding, which takes its turn all the same.
    let is_padding = words.next_if(|word| word.starts_with('@')) == Some("@!PT");
    let opcode = words.next()?.trim_end_matches(';');
    let opcode = if is_padding { "NOP" } else { opcode };
    let target = rest.split_once("(.L_x_").map(|(_, label)| label.split(')').next().unwrap_or_default());
    Some(Instruction { address, opcode, target: target.filter(|_| opcode.starts_with("BRA")) })
}

/// The main loops of a listing by kernel: of the loops with nearly the most products the shortest. Kernels without
/// products are left out.
fn read(listing: &str) -> BTreeMap<String, Loop> {
    let mut found = BTreeMap::new();
    for section in listing.split("\t.section\t.text.").skip(1) {
        let name = section.split(',').next().unwrap_or_default();
        let (mut code, mut labels, mut pending) = (Vec::new(), BTreeMap::new(), Vec::new());
        for line in section.lines() {
            if let Some(label) = line.strip_prefix(".L_x_").and_then(|label| label.strip_suffix(':')) {
                pending.push(label);
            } else if let Some(instruction) = instruction(line) {
                labels.extend(pending.drain(..).map(|label| (label, instruction.address)));
                code.push(instruction);
            }
        }
        let begins = |branch: &Instruction| labels.get(branch.target?).copied().filter(|&to| to < branch.address);
        let loops: Vec<Loop> = code
            .iter()
            .filter_map(|branch| {
                let begin = begins(branch)?;
                let mut all = Loop::default();
                let inside = code.iter().filter(|i| (begin..=branch.address).contains(&i.address));
                inside.for_each(|i| all.add(i.opcode));
                Some(all)
            })
            .collect();
        let most = loops.iter().map(|l| l.mma).max().unwrap_or(0);
        let main = loops.iter().filter(|l| l.mma > 0 && 2 * l.mma >= most).min_by_key(|l| l.instructions);
        found.extend(main.map(|main| (name.to_string(), *main)));
    }
    found
}

/// nvdisasm: what `NVDISASM` names, else beside nvcc, else in `PATH`.
fn nvdisasm(nvcc: &Path) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("NVDISASM").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "NVDISASM={}: no such file; unset it or name the program", path.display());
        return Some(path);
    }
    let mut tried = vec![nvcc.with_file_name("nvdisasm")];
    let path = std::env::var_os("PATH").unwrap_or_default();
    tried.extend(std::env::split_paths(&path).map(|folder| folder.join("nvdisasm")));
    tried.into_iter().find(|path| path.is_file())
}

/// The main loops of a PTX file, remembered in the target folder as rows of the table.
fn disassemble(tools: [&Path; 2], versions: &str, (name, text): (&str, &str), architecture: &str) -> Table {
    let mut hash = nvcc::Hash::EMPTY;
    // This file too: what it reads out of a listing is what is remembered.
    let reader = include_str!("machine_code.rs");
    [versions, architecture, text, reader].iter().for_each(|text| hash.add(text.as_bytes()));
    let key = format!("# {:016x}\n", hash.0);
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("machine_code");
    fs::create_dir_all(&folder).unwrap();
    let remembered = folder.join(format!("{name}.{architecture}.txt"));
    if let Some(rows) = fs::read_to_string(&remembered).ok().filter(|rows| rows.starts_with(&key)) {
        return parse(&rows);
    }
    let work = tempfile::tempdir_in(&folder).unwrap();
    let [from, cubin] = ["kernels.ptx", "kernels.cubin"].map(|name| work.path().join(name));
    fs::write(&from, text).unwrap();
    let run = |command: &mut Command| {
        let run = command.output().unwrap();
        assert!(run.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(run.stdout).unwrap()
    };
    run(Command::new(tools[0]).arg(format!("-arch={architecture}")).arg("-o").arg(&cubin).arg(&from));
    let listing = run(Command::new(tools[1]).arg("-c").arg(&cubin));
    let table: Table = read(&listing).into_iter().map(|(kernel, main)| (kernel, vec![main])).collect();
    // Renamed into place, so that nobody reads half of it.
    let whole = work.path().join("rows.txt");
    fs::write(&whole, key + &rows(&table)).unwrap();
    fs::rename(whole, remembered).unwrap();
    table
}

fn rows(table: &Table) -> String {
    let width = table.keys().map(String::len).max().unwrap_or(0);
    let mut text = String::new();
    for (kernel, loops) in table {
        write!(text, "{kernel:width$}").unwrap();
        for l in loops {
            let share = 100.0 * f64::from(l.mma) / f64::from(l.instructions);
            let [copies, wide] = l.copies;
            let [matrices, fours] = l.matrices;
            write!(
                text,
                "  {:>4} {:>3} {share:>3.0}% {copies:>2}/{wide:<2} {matrices:>2}/{fours:<2} {:>2} {:>2} {:>4}",
                l.instructions, l.mma, l.shared, l.global, l.integer
            )
            .unwrap();
        }
        text.push('\n');
    }
    text
}

fn print(version: &str, table: &Table) -> String {
    format!(
        "# What ptxas {version} makes of the main loops on tensor cores of prebuilt/*.ptx, on {}: on each of them\n\
         # instructions; mma among them, and their share; asynchronous copies / those of 16 bytes a lane; matrix loads /\n\
         # those of four matrices; other accesses to shared, to global memory; integer instructions.\n{}",
        ARCHITECTURES.join(" and on "),
        rows(table)
    )
}

fn parse(text: &str) -> Table {
    let mut table = Table::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let kernel = words.next().unwrap_or_else(|| panic!("an empty line in {}", path().display()));
        // Shares follow from the numbers.
        let numbers = words.filter(|word| !word.ends_with('%')).flat_map(|word| word.split('/'));
        let numbers: Vec<u32> = numbers.map(|n| n.parse().unwrap_or_else(|e| panic!("{line}: {e}"))).collect();
        let each = numbers.chunks(9).map(|n| match *n {
            [instructions, mma, copies, wide, matrices, fours, shared, global, integer] => {
                Loop { instructions, mma, copies: [copies, wide], matrices: [matrices, fours], shared, global, integer }
            }
            _ => panic!("nine numbers an architecture: {line}"),
        });
        table.insert(kernel.to_string(), each.collect());
    }
    table
}

fn the_table_is_that_of_the_ptx() {
    let nvcc = nvcc::find().unwrap().filter(|nvcc| nvcc.with_file_name("ptxas").is_file());
    let Some((ptxas, nvdisasm)) = nvcc.and_then(|nvcc| Some((nvcc.with_file_name("ptxas"), nvdisasm(&nvcc)?))) else {
        let required = std::env::var_os("WARPSMITH_REQUIRE_NVCC").is_some_and(|value| value == "1");
        assert!(!required, "WARPSMITH_REQUIRE_NVCC=1, and there is no ptxas beside an nvcc, or no nvdisasm");
        eprintln!(
            "SKIPPED: no ptxas or no nvdisasm, so kernels/machine_code.txt is not compared with the prebuilt PTX"
        );
        return;
    };
    let [version, reader] = [&ptxas, &nvdisasm].map(|tool| resources::version(tool));
    let versions = format!("{version} {reader}");
    let mut table = Table::new();
    for architecture in ARCHITECTURES {
        // What does not multiply on tensor cores takes no time to be disassembled.
        for &file in ptx().iter().filter(|(_, text)| text.contains("mma.sync")) {
            for (kernel, mut main) in disassemble([&ptxas, &nvdisasm], &versions, file, architecture) {
                table.entry(kernel).or_default().append(&mut main);
            }
        }
    }
    resources::compare(&path(), &print(&version, &table), "machine_code");
}

/// The bars: CUTLASS's kernels of the same tile, compiled by the same ptxas, multiply with 32 % of the instructions of
/// their main loops in fprop, 33 % in dgrad, 29 % in strided dgrad and 19 % in wgrad. At most a quarter less will do.
fn main_loops() {
    if resources::is_renewed() {
        return; // The table is being renewed beside this test.
    }
    let table = parse(&fs::read_to_string(path()).unwrap());
    let with_mma: BTreeSet<String> = ptx().iter().flat_map(|(_, text)| tensor_kernels(text)).collect();
    assert_eq!(table.keys().cloned().collect::<BTreeSet<_>>(), with_mma, "kernels on tensor cores");
    for (kernel, loops) in &table {
        assert_eq!(loops.len(), ARCHITECTURES.len(), "{kernel}");
        for (l, architecture) in loops.iter().zip(ARCHITECTURES) {
            // Guarded kernels copy element by element, and the shapes that need them are small. The gradient of a similarity
            // matrix, which no training step takes, is always computed by one.
            if !kernel.contains("guarded") && kernel != "similarity_matrix_backward_bf16" {
                assert_eq!(l.copies[0], l.copies[1], "{kernel} on {architecture}: copies of less than 16 bytes");
                assert_eq!(
                    l.matrices[0], l.matrices[1],
                    "{kernel} on {architecture}: loads of less than four matrices"
                );
                // Around its two products the loop of supcon_gradient reads the labels and states of a tile of columns.
                let registers = if kernel.starts_with("supcon_gradient") { 4 } else { 0 };
                assert!(l.global <= registers, "{kernel} on {architecture}: global memory through registers");
            }
        }
    }
    for (pass, anchor) in [("fprop", 0.32), ("dgrad", 0.33), ("wgrad", 0.19)] {
        let kernel = format!("conv2d_{pass}_implicit_gemm_128x128_bf16");
        for (l, architecture) in table[&kernel].iter().zip(ARCHITECTURES) {
            let share = f64::from(l.mma) / f64::from(l.instructions);
            assert!(share >= 0.75 * anchor, "{kernel} on {architecture}: {share:.3} of the main loop multiply");
        }
    }
}

/// Names of the entries of a PTX file that hold a product on tensor cores.
fn tensor_kernels(ptx: &str) -> Vec<String> {
    let entries = ptx.split(".entry ").skip(1).filter(|entry| entry.contains("mma.sync"));
    entries.map(|entry| entry.split('(').next().unwrap_or_default().trim().to_string()).collect()
}

fn what_nvdisasm_says_is_read() {
    let listing = "\t.section\t.text.product_bf16,\"ax\",@progbits\n\
        .text.product_bf16:\n        \
        /*0000*/                   MOV R1, c[0x0][0x28] ;\n\
        .L_x_1:\n        \
        /*0010*/              @!P0 LDGSTS.E.BYPASS.128 [R2], [R4.64] ;\n        \
        /*0020*/                   LDGSTS.E [R2], [R4.64] ;\n        \
        /*0030*/                   LDSM.16.M88.4 R8, [R3] ;\n\
        .L_x_2:\n        \
        /*0040*/                   HMMA.16816.F32.BF16 R8, R8, R12, R8 ;\n        \
        /*0050*/             @!PT  LDS RZ, [RZ] ;\n        \
        /*0060*/                   IADD3 R2, R2, 0x10, RZ ;\n        \
        /*0070*/               @P1 BRA `(.L_x_2) ;\n        \
        /*0080*/                   LDS.128 R4, [R3] ;\n        \
        /*0090*/                   HMMA.16816.F32.BF16 R8, R8, R12, R8 ;\n        \
        /*00a0*/               @P0 BRA `(.L_x_1) ;\n        \
        /*00b0*/                   STG.E.128 [R2.64], R8 ;\n        \
        /*00c0*/                   EXIT ;\n\
        \t.section\t.text.copy_f32,\"ax\",@progbits\n\
        .L_x_3:\n        \
        /*0000*/                   LDG.E R1, [R2.64] ;\n        \
        /*0010*/                   BRA `(.L_x_3);\n";
    let inner = Loop { instructions: 4, mma: 1, integer: 1, ..Loop::default() };
    assert_eq!(read(listing), BTreeMap::from([("product_bf16".to_string(), inner)]));
    // A loop with far fewer products is not the main one.
    let more = listing.replace("LDS.128 R4, [R3]", "HMMA.16816.F32.BF16 R8, R8, R12, R8");
    let outer = Loop { instructions: 10, mma: 3, copies: [2, 1], matrices: [1, 1], integer: 1, ..Loop::default() };
    assert_eq!(read(&more)["product_bf16"], outer);
    let table = Table::from([("product_bf16".to_string(), vec![inner, outer])]);
    assert_eq!(parse(&print("13.0.88", &table)), table);
    assert_eq!(tensor_kernels(".visible .entry a_f32(\n)\n{ mma.sync }\n.visible .entry b(\n)\n{ }"), ["a_f32"]);
}
