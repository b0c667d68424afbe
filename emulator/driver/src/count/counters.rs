//! Counters of a launch: sums over its operations, what they mean on a device, and how they are written down.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::advice::advice;
use super::pipes::{class, flops, unit};
use super::profile::Profile;
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
    /// Blocks that a multiprocessor holds at a time, and what there would have to be more of for another.
    pub resident: (u32, &'static str),
    /// Multiprocessors of the device.
    pub sms: u32,
    /// Multiprocessors that have a block.
    pub busy: u32,
    /// How often the grid fills all places for blocks: below 1 some stay empty.
    pub waves: f64,
    /// Lower bounds of the time on the device, in microseconds, by resource.
    pub bounds_us: BTreeMap<&'static str, f64>,
    /// Registers of a thread, 0 if nobody said how many.
    pub registers: u32,
    /// Bytes of registers spilled to local memory by one thread, where `ptxas -v` was given.
    pub spill_bytes: u32,
    /// What wastes most: line, opcode, reason.
    pub hot: Vec<String>,
}

impl Report {
    /// Sums up a launch.
    pub fn new(kernel: &Kernel, launch: &Launch, outcome: &Outcome, profile: &Profile, registers: u32) -> Report {
        let mut c: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut classes: BTreeMap<&'static str, u64> = BTreeMap::new();
        let mut tensor: BTreeMap<&'static str, u64> = BTreeMap::new();
        // Clocks of one multiprocessor, by unit.
        let mut units: BTreeMap<&'static str, f64> = BTreeMap::new();
        let mut issued = 0;
        let mut add = |name, v: u64| *c.entry(name).or_insert(0) += v;
        for (i, (inst, s)) in kernel.code.iter().zip(&outcome.sites).enumerate() {
            if s.hits == 0 || matches!(inst.op, Op::Join) {
                continue;
            }
            let opcode = kernel.opcode_names.get(kernel.opcodes[i] as usize).map_or("", String::as_str);
            add("warp_instructions", s.hits);
            add("thread_instructions", s.lanes);
            add("divergent_branches", s.divergent);
            // Moves and parameters become operands of other instructions.
            let class = class(&inst.op, opcode);
            if class != "move" && !matches!(inst.op, Op::LdParam { .. }) {
                issued += s.hits;
            }
            *classes.entry(class).or_insert(0) += s.hits;
            if let Some((name, rate)) = unit(&inst.op, opcode, profile) {
                *units.entry(name).or_insert(0.0) += 32.0 * s.hits as f64 / rate;
            }
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
                    global(&mut add, s, lane_bytes(kernel, &inst.op), true);
                    add("local_store_bytes", s.local_bytes);
                    shared(&mut add, s, true);
                }
                Op::Atom(_) => {
                    add("global_atomic_requests", s.requests);
                    add("global_atomic_sectors", s.sectors);
                    add("shared_atomic_requests", s.shared_requests);
                    add("atomic_operations", s.atomics);
                    add("atomic_steps", s.atomic_steps);
                    add("shared_wavefronts", s.waves);
                    add("shared_ideal_wavefronts", s.ideal_waves);
                }
                Op::CpAsync(_) => {
                    global(&mut add, s, lane_bytes(kernel, &inst.op), false);
                    shared(&mut add, s, true);
                }
                Op::StMatrix(_) => shared(&mut add, s, true),
                Op::Wmma(i) if !kernel.wmmas[*i as usize].load => {
                    global(&mut add, s, lane_bytes(kernel, &inst.op), true);
                    shared(&mut add, s, true);
                }
                Op::Ld(_) | Op::LdMatrix(_) | Op::Wmma(_) => {
                    add("local_load_bytes", s.local_bytes);
                    global(&mut add, s, lane_bytes(kernel, &inst.op), false);
                    shared(&mut add, s, false);
                }
                _ => {
                    let (counter, one) = flops(opcode);
                    add(counter, one * s.lanes);
                }
            }
        }
        add("barriers", outcome.barriers);
        add("unique_read_bytes", 32 * outcome.unique_read);
        add("unique_write_bytes", 32 * outcome.unique_write);
        add("hottest_atomic_operations", outcome.words.hottest().map_or(0, |h| h.1));
        let blocks: u64 = launch.grid.iter().map(|&d| u64::from(d)).product();
        let threads: u32 = launch.block.iter().product();
        add("blocks", blocks);
        add("threads", blocks * u64::from(threads));
        let resident = profile.residency(kernel, registers, threads, launch.dynamic_shared);
        let occupancy = f64::from(resident.0 * threads.next_multiple_of(32)) / f64::from(profile.threads_per_sm);
        let busy = u32::try_from(blocks).unwrap_or(u32::MAX).clamp(1, profile.sms);
        let get = |n: &str| c.get(n).copied().unwrap_or(0) as f64;
        // A grid of few blocks leaves multiprocessors without work: what a multiprocessor limits takes so much longer.
        let sm_clock_us = f64::from(profile.clock_khz) * 1e-3 * f64::from(busy);
        let sectors = get("global_load_sectors") + get("global_store_sectors") + get("global_atomic_sectors");
        let compulsory = get("unique_read_bytes") + get("unique_write_bytes");
        let mut bounds_us = BTreeMap::from([
            ("dram_compulsory", compulsory / profile.dram_gbs * 1e-3),
            ("dram_if_uncached", 32.0 * sectors / profile.dram_gbs * 1e-3),
            // Four schedulers issue one warp-instruction per clock each; shared memory serves one wavefront per clock.
            ("issue", issued as f64 / (4.0 * sm_clock_us)),
            ("shared", get("shared_wavefronts") / sm_clock_us),
        ]);
        for (unit, clocks) in units {
            bounds_us.insert(unit, clocks / sm_clock_us);
        }
        for (pipe, work) in tensor {
            let rate = match pipe {
                "tensor_half" => profile.half_tensor_gflops,
                "tensor_tf32" => profile.tf32_tensor_gflops,
                "tensor_f64" => profile.f64_tensor_gflops,
                _ => profile.int8_tensor_gops,
            };
            let share = f64::from(busy) / f64::from(profile.sms);
            bounds_us.insert(pipe, work as f64 / (rate * share) * 1e-3);
        }
        let mut report = Report {
            kernel: kernel.name.clone(),
            grid: launch.grid,
            block: launch.block,
            dynamic_shared: launch.dynamic_shared,
            static_shared: kernel.shared_bytes,
            counters: c,
            classes,
            occupancy,
            resident,
            sms: profile.sms,
            busy,
            waves: blocks as f64 / f64::from((resident.0 * profile.sms).max(1)),
            registers,
            spill_bytes: 0,
            bounds_us,
            hot: Vec::new(),
        };
        report.hot = advice(&report, kernel, outcome, profile);
        report
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
             \"classes\":{{{}}},\"occupancy\":{:.4},\"resident_blocks\":{},\"occupancy_limit\":{},\"multiprocessors\":{},\
             \"busy_multiprocessors\":{},\"waves\":{:.4},\"bounds_us\":{{{bounds}}},\"hot\":[{hot}]}}",
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
            self.resident.0,
            quote(self.resident.1),
            self.sms,
            self.busy,
            self.waves,
        );
        s
    }
}

/// Bytes that a lane asks global memory for in one request, where that can be 16.
fn lane_bytes(kernel: &Kernel, op: &Op) -> u32 {
    match op {
        Op::Ld(i) | Op::St(i) => {
            let access = &kernel.accesses[*i as usize];
            access.elem * access.regs.len() as u32
        }
        Op::CpAsync(i) => kernel.copies[*i as usize].bytes,
        // Fragments of `wmma` go register by register.
        _ => 0,
    }
}

fn global(add: &mut impl FnMut(&'static str, u64), s: &Site, lane_bytes: u32, store: bool) {
    let [requests, sectors, bytes, distinct, wide] = if store {
        [
            "global_store_requests",
            "global_store_sectors",
            "global_store_bytes",
            "global_store_distinct_bytes",
            "global_store_wide_bytes",
        ]
    } else {
        [
            "global_load_requests",
            "global_load_sectors",
            "global_load_bytes",
            "global_load_distinct_bytes",
            "global_load_wide_bytes",
        ]
    };
    add(requests, s.requests);
    add(sectors, s.sectors);
    add(bytes, s.bytes);
    add(distinct, s.distinct_bytes);
    add(wide, if lane_bytes == 16 { s.distinct_bytes } else { 0 });
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
