//! Counters of a launch: sums over its operations, what they mean on a device, and how they are written down.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::count::profile::Profile;
use crate::exec::grid::{Launch, Outcome};
use crate::exec::op::{Kernel, MmaTy, Op};
use crate::exec::run::Site;

/// Counters of one launch.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// Kernel name.
    pub kernel: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory.
    pub dynamic_shared: u32,
    /// Static shared memory.
    pub static_shared: u32,
    /// Every counter by name, in the order of the JSON report.
    pub counters: BTreeMap<&'static str, u64>,
    /// Warp-instructions by class.
    pub classes: BTreeMap<&'static str, u64>,
    /// Share of a multiprocessor's threads that can be resident.
    pub occupancy: f64,
    /// Lower bounds of the time on the device, in microseconds, by resource.
    pub bounds_us: BTreeMap<&'static str, f64>,
    /// Registers of a thread, 0 if nobody said how many.
    pub registers: u32,
    /// Bytes of registers spilled to local memory by one thread, where `ptxas -v` was given.
    pub spill_bytes: u32,
    /// The operations that cost most memory traffic: PTX line, opcode, advice.
    pub hot: Vec<String>,
}

fn class(op: &Op, opcode: &str) -> &'static str {
    match op {
        Op::Mma(_) => "tensor",
        Op::LdMatrix(_) | Op::StMatrix(_) | Op::Wmma(_) | Op::MovMatrix { .. } => "matrix move",
        Op::Ld(_) | Op::LdParam { .. } => "load",
        Op::St(_) => "store",
        Op::Atom(_) => "atomic",
        Op::CpAsync(_) | Op::CpCommit | Op::CpWait(_) => "async copy",
        Op::Shfl { .. } | Op::Vote { .. } | Op::Match { .. } | Op::Redux { .. } | Op::ActiveMask { .. } => "warp",
        Op::Bar(_) | Op::WarpSync { .. } | Op::Fence { .. } => "barrier",
        Op::Bra { .. } | Op::Brx { .. } | Op::Exit | Op::Trap | Op::BadCall { .. } | Op::Syscall(_) | Op::Yield => {
            "control"
        }
        Op::Setp { .. } | Op::SetpLane { .. } | Op::Set { .. } | Op::Selp { .. } | Op::Logic { .. } => "compare",
        _ => {
            let base = opcode.split('.').next().unwrap_or("");
            match base {
                "cvt" => "convert",
                "mov" | "cvta" => "move",
                "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh" => "special",
                "and" | "or" | "xor" | "not" | "shl" | "shr" | "shf" | "lop3" | "prmt" | "bfe" | "bfi" => "logic",
                _ if opcode.ends_with("f64") => "f64",
                _ if opcode.ends_with("f32") => "f32",
                _ if opcode.contains("f16") => "half",
                _ => "integer",
            }
        }
    }
}

/// Floating-point operations of one lane.
fn flops(opcode: &str) -> u64 {
    let mut parts = opcode.split('.');
    let base = parts.next().unwrap_or("");
    let ty = parts.next_back().unwrap_or("");
    let per = match ty {
        "f32" | "f64" | "f16" | "bf16" => 1,
        "f16x2" | "bf16x2" => 2,
        _ => return 0,
    };
    match base {
        "add" | "sub" | "mul" | "div" | "min" | "max" | "sqrt" | "rcp" => per,
        "fma" | "mad" => 2 * per,
        _ => 0,
    }
}

impl Report {
    /// Sums up a launch.
    pub fn new(kernel: &Kernel, launch: &Launch, outcome: &Outcome, profile: &Profile, registers: u32) -> Report {
        let mut c: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut classes: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut tensor: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut hot: Vec<(u64, String)> = Vec::new();
        let mut add = |name, v: u64| *c.entry(name).or_insert(0) += v;
        for (i, (inst, s)) in kernel.code.iter().zip(&outcome.sites).enumerate() {
            if s.hits == 0 || matches!(inst.op, Op::Join) {
                continue;
            }
            let opcode = kernel.opcode_names.get(kernel.opcodes[i] as usize).map_or("", String::as_str);
            add("warp_instructions", s.hits);
            add("thread_instructions", s.lanes);
            *classes.entry(class(&inst.op, opcode)).or_insert(0) += s.hits;
            add("divergent_branches", s.divergent);
            match &inst.op {
                Op::Mma(m) => {
                    let m = &kernel.mmas[*m as usize];
                    let work = 2 * u64::from(m.m * m.n * m.k) * s.hits;
                    add("tensor_flops", work);
                    let pipe = match m.a_ty {
                        MmaTy::F16 | MmaTy::Bf16 => "tensor_half",
                        MmaTy::Tf32 => "tensor_tf32",
                        MmaTy::F64 => "tensor_f64",
                        _ => "tensor_int8",
                    };
                    *tensor.entry(pipe).or_insert(0) += work;
                }
                Op::St(_) => {
                    add("global_store_requests", s.requests);
                    add("global_store_sectors", s.sectors);
                    add("global_store_bytes", s.bytes);
                    shared(&mut add, s, true);
                }
                Op::Atom(_) => {
                    add("global_atomic_requests", s.requests);
                    add("global_atomic_sectors", s.sectors);
                    add("shared_atomic_requests", s.shared_requests);
                    add("shared_wavefronts", s.waves);
                    add("shared_ideal_wavefronts", s.ideal_waves);
                }
                Op::CpAsync(_) => {
                    add("global_load_requests", s.requests);
                    add("global_load_sectors", s.sectors);
                    add("global_load_bytes", s.bytes);
                    shared(&mut add, s, true);
                }
                Op::StMatrix(_) => shared(&mut add, s, true),
                Op::Wmma(i) if !kernel.wmmas[*i as usize].load => {
                    add("global_store_requests", s.requests);
                    add("global_store_sectors", s.sectors);
                    add("global_store_bytes", s.bytes);
                    shared(&mut add, s, true);
                }
                Op::Ld(_) | Op::LdMatrix(_) | Op::Wmma(_) => {
                    add("global_load_requests", s.requests);
                    add("global_load_sectors", s.sectors);
                    add("global_load_bytes", s.bytes);
                    shared(&mut add, s, false);
                }
                _ => {
                    let one = flops(opcode) * s.lanes;
                    if opcode.ends_with("f64") {
                        add("f64_flops", one);
                    } else {
                        add("f32_flops", one);
                    }
                }
            }
            // Where in the source, if the kernel was compiled with -lineinfo, and in the PTX.
            let place = &kernel.places[i];
            let line = match kernel.files.get(&place.file) {
                Some(file) if place.line > 0 => format!("{file}:{}, PTX line {}", place.line, place.ptx),
                _ => format!("PTX line {}", place.ptx),
            };
            let waste = (32 * s.sectors).saturating_sub(s.bytes);
            if waste > s.bytes / 4 && waste > 1024 {
                let per = s.sectors as f64 / s.requests.max(1) as f64;
                let text = format!(
                    "{line} {opcode}: {per:.1} sectors per request, {} % of the fetched bytes used (uncoalesced)",
                    100 * s.bytes / (32 * s.sectors)
                );
                hot.push((waste, text));
            }
            let conflict = s.waves - s.ideal_waves;
            if conflict > s.ideal_waves / 4 && conflict > 32 {
                let text = format!(
                    "{line} {opcode}: {:.1} wavefronts per request where {:.1} would do (bank conflicts)",
                    s.waves as f64 / s.shared_requests.max(1) as f64,
                    s.ideal_waves as f64 / s.shared_requests.max(1) as f64
                );
                hot.push((128 * conflict, text));
            }
        }
        add("barriers", outcome.barriers);
        add("unique_read_bytes", 32 * outcome.unique_read);
        add("unique_write_bytes", 32 * outcome.unique_write);
        hot.sort_by_key(|h| std::cmp::Reverse(h.0));
        let blocks: u64 = launch.grid.iter().map(|&d| u64::from(d)).product();
        let threads: u32 = launch.block.iter().product();
        add("blocks", blocks);
        add("threads", blocks * u64::from(threads));
        let resident = profile.blocks_per_sm(kernel, registers, threads, launch.dynamic_shared);
        let occupancy = f64::from(resident * threads.next_multiple_of(32)) / f64::from(profile.threads_per_sm);
        let get = |n: &str| c.get(n).copied().unwrap_or(0) as f64;
        let sm_clock_us = f64::from(profile.clock_khz) * 1e-3 * f64::from(profile.sms);
        let sectors = get("global_load_sectors") + get("global_store_sectors") + get("global_atomic_sectors");
        let compulsory = get("unique_read_bytes") + get("unique_write_bytes");
        let peak = |flops: f64, gflops: f64| flops / gflops * 1e-3;
        let mut bounds_us = BTreeMap::from([
            ("dram_compulsory", compulsory / profile.dram_gbs * 1e-3),
            ("dram_if_uncached", 32.0 * sectors / profile.dram_gbs * 1e-3),
            ("f32", peak(get("f32_flops"), profile.f32_gflops)),
            ("f64", peak(get("f64_flops"), profile.f64_gflops)),
            // Four schedulers issue one warp-instruction per clock each; shared memory serves one wavefront per clock.
            ("issue", get("warp_instructions") / (4.0 * sm_clock_us)),
            ("shared", get("shared_wavefronts") / sm_clock_us),
        ]);
        for (pipe, work) in tensor {
            let rate = match pipe {
                "tensor_half" => profile.half_tensor_gflops,
                "tensor_tf32" => profile.tf32_tensor_gflops,
                "tensor_f64" => profile.f64_tensor_gflops,
                _ => profile.int8_tensor_gops,
            };
            bounds_us.insert(pipe, peak(work as f64, rate));
        }
        Report {
            kernel: kernel.name.clone(),
            grid: launch.grid,
            block: launch.block,
            dynamic_shared: launch.dynamic_shared,
            static_shared: kernel.shared_bytes,
            counters: c,
            classes,
            occupancy,
            registers,
            spill_bytes: 0,
            bounds_us,
            hot: hot.into_iter().take(5).map(|h| h.1).collect(),
        }
    }

    /// A counter by name, 0 if it never moved.
    pub fn get(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    /// The resource whose bound is the largest, and that bound in microseconds. `dram_if_uncached` is left out: caches
    /// decide how much of it is real.
    pub fn bound(&self) -> (&'static str, f64) {
        let real = self.bounds_us.iter().filter(|(n, _)| **n != "dram_if_uncached");
        real.fold(("none", 0.0), |best, (&n, &t)| if t > best.1 { (n, t) } else { best })
    }

    /// As one JSON object.
    pub fn json(&self) -> String {
        let mut s = String::new();
        let numbers = |m: &BTreeMap<&'static str, u64>| {
            m.iter().map(|(k, v)| format!("{}:{v}", quote(k))).collect::<Vec<_>>().join(",")
        };
        let bounds = self.bounds_us.iter().map(|(k, v)| format!("{}:{v:.6}", quote(k))).collect::<Vec<_>>().join(",");
        let hot = self.hot.iter().map(|h| quote(h)).collect::<Vec<_>>().join(",");
        let _ = write!(
            s,
            "{{\"kernel\":{},\"grid\":{:?},\"block\":{:?},\"dynamic_shared\":{},\"static_shared\":{},\"registers\":{},\
             \"spill_bytes\":{},\"counters\":{{{}}},\
             \"classes\":{{{}}},\"occupancy\":{:.4},\"bounds_us\":{{{bounds}}},\"hot\":[{hot}]}}",
            quote(&self.kernel),
            self.grid,
            self.block,
            self.dynamic_shared,
            self.static_shared,
            self.registers,
            self.spill_bytes,
            numbers(&self.counters),
            numbers(&self.classes),
            self.occupancy,
        );
        s
    }
}

fn shared(add: &mut impl FnMut(&'static str, u64), s: &Site, store: bool) {
    add(if store { "shared_store_requests" } else { "shared_load_requests" }, s.shared_requests);
    add("shared_wavefronts", s.waves);
    add("shared_ideal_wavefronts", s.ideal_waves);
}

/// A JSON string.
pub fn quote(s: &str) -> String {
    let mut out = String::from("\"");
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (c as u32) < 32 => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
