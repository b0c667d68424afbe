//! What the driver says about the launches of a program.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::Error;

/// Names of the counters. One that never moved may be absent from a launch; [`Launch::get`] gives 0 for it.
pub const COUNTERS: [&str; 24] = [
    "barriers",
    "blocks",
    "divergent_branches",
    "f32_flops",
    "f64_flops",
    "global_atomic_requests",
    "global_atomic_sectors",
    "global_load_bytes",
    "global_load_requests",
    "global_load_sectors",
    "global_store_bytes",
    "global_store_requests",
    "global_store_sectors",
    "shared_atomic_requests",
    "shared_ideal_wavefronts",
    "shared_load_requests",
    "shared_store_requests",
    "shared_wavefronts",
    "tensor_flops",
    "thread_instructions",
    "threads",
    "unique_read_bytes",
    "unique_write_bytes",
    "warp_instructions",
];

/// Everything since the last reset.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Device profile.
    pub profile: String,
    /// The context is lost to a fault, as a GPU's would be: no later call worked, not even those that free memory.
    #[serde(default)]
    pub faulted: bool,
    /// Every launch in order.
    pub launches: Vec<Launch>,
    /// Findings in order.
    pub findings: Vec<Finding>,
    /// Allocations that are alive now; at the end of a program, its leaks.
    pub live: Vec<Live>,
    /// From `warpsmith-emulate`: a sentence per process of the program that ended without a report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreported: Vec<String>,
}

/// One launch.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Launch {
    /// Kernel name.
    pub kernel: String,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory in bytes.
    pub dynamic_shared: u32,
    /// Static shared memory in bytes.
    pub static_shared: u32,
    /// Registers of a thread: what `ptxas -v` said, else the bound in the PTX, else 0.
    #[serde(default)]
    pub registers: u32,
    /// Bytes a thread spills to local memory, where `ptxas -v` was given.
    #[serde(default)]
    pub spill_bytes: u32,
    /// Counters by name.
    pub counters: BTreeMap<String, u64>,
    /// Warp-instructions by class.
    pub classes: BTreeMap<String, u64>,
    /// Theoretical occupancy, 0 to 1; registers count only where they are known.
    pub occupancy: f64,
    /// Lower bounds of the time on the device in microseconds, by resource.
    pub bounds_us: BTreeMap<String, f64>,
    /// The costliest operations, with the reason.
    pub hot: Vec<String>,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Class, such as `out-of-bounds`.
    pub kind: String,
    /// Kernel, or empty for calls of the program.
    pub kernel: String,
    /// The whole sentence.
    pub text: String,
    /// How often the same instruction did it.
    pub count: u64,
}

/// A live allocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// Its name in findings.
    pub name: String,
    /// Address.
    pub address: u64,
    /// Size.
    pub bytes: u64,
}

impl Launch {
    /// A counter, 0 if it never moved.
    pub fn get(&self, counter: &str) -> u64 {
        self.counters.get(counter).copied().unwrap_or(0)
    }

    /// The resource that bounds the time, and the bound. Memory counts at its compulsory traffic.
    pub fn bound(&self) -> (&str, f64) {
        let real = self.bounds_us.iter().filter(|(n, _)| *n != "dram_if_uncached");
        real.fold(("none", 0.0), |best, (n, &t)| if t > best.1 { (n, t) } else { best })
    }
}

impl Report {
    /// Adds what another process did. Memory that a faulted one could not free any more is left out.
    pub fn add(&mut self, other: Report) {
        self.profile = match self.profile.is_empty() {
            true => other.profile,
            false => std::mem::take(&mut self.profile),
        };
        self.live.retain(|_| !self.faulted);
        self.live.extend(other.live.into_iter().filter(|_| !other.faulted));
        self.faulted |= other.faulted;
        self.launches.extend(other.launches);
        self.findings.extend(other.findings);
        self.unreported.extend(other.unreported);
    }

    /// The launches of one kernel.
    pub fn of(&self, kernel: &str) -> Vec<&Launch> {
        self.launches.iter().filter(|l| l.kernel == kernel).collect()
    }

    /// At the end of a program: one sentence per allocation that it never freed. After a fault there are none, because
    /// the program could not free anything any more.
    pub fn leaks(&self) -> Vec<String> {
        let live = self.live.iter().filter(|_| !self.faulted);
        live.map(|l| format!("leak: {} ({} bytes at {:#x}) was never freed", l.name, l.bytes, l.address)).collect()
    }

    /// Compares with budgets: `{"kernel": {"counter": most}}`, summed over the launches of a kernel. Returns one sentence
    /// per excess and per kernel that never ran.
    pub fn over_budget(&self, budgets: &str) -> Result<Vec<String>, Error> {
        let budgets: BTreeMap<String, BTreeMap<String, u64>> = serde_json::from_str(budgets)
            .map_err(|e| Error::new(format!("budgets: {e}; expected {{\"kernel\": {{\"counter\": most}}}}")))?;
        let mut out = Vec::new();
        for (kernel, limits) in budgets {
            let launches = self.of(&kernel);
            if launches.is_empty() {
                out.push(format!("kernel {kernel} has a budget and was never launched"));
            }
            for (counter, most) in limits {
                // A name that does not exist would never be exceeded.
                if !COUNTERS.contains(&&counter[..]) {
                    let known = COUNTERS.join(", ");
                    return Err(Error::new(format!(
                        "budgets: kernel {kernel}: no counter `{counter}`; there are {known}"
                    )));
                }
                let sum: u64 = launches.iter().map(|l| l.get(&counter)).sum();
                if sum > most {
                    out.push(format!("kernel {kernel}: {counter} is {sum}, the budget is {most}"));
                }
            }
        }
        Ok(out)
    }

    /// The part of the table that is sentences: findings, and processes that left no report.
    pub fn words(&self) -> String {
        let mut s = String::new();
        for f in &self.findings {
            let _ = writeln!(s, "finding  {}", f.text);
        }
        for u in &self.unreported {
            let _ = writeln!(s, "no report  {u}");
        }
        s
    }

    /// Tables for people: findings first, then one block per kernel and shape.
    pub fn table(&self) -> String {
        let mut s = self.words();
        let mut groups: Vec<(&Launch, u64)> = Vec::new();
        for l in &self.launches {
            match groups.iter_mut().find(|(g, _)| same(g, l)) {
                Some(g) => g.1 += 1,
                None => groups.push((l, 1)),
            }
        }
        for (l, n) in groups {
            let threads: u32 = l.block.iter().product();
            let _ = writeln!(
                s,
                "\n{}  grid {:?}  block {:?}  shared {}+{} B  occupancy {:.0} %{}  launches {n}",
                l.kernel,
                l.grid,
                l.block,
                l.static_shared,
                l.dynamic_shared,
                100.0 * l.occupancy,
                match (l.registers, l.spill_bytes) {
                    (0, _) => String::new(),
                    (r, 0) => format!("  registers {r}"),
                    (r, s) => format!("  registers {r} (spills {s} B)"),
                }
            );
            let g = |c: &str| l.get(c);
            let ratio = |a: u64, b: u64| if b == 0 { 0.0 } else { a as f64 / b as f64 };
            let wi = g("warp_instructions");
            let mut classes: Vec<_> = l.classes.iter().collect();
            classes.sort_by(|a, b| b.1.cmp(a.1));
            let mix: Vec<String> =
                classes.iter().take(6).map(|(c, n)| format!("{c} {:.0} %", 100.0 * ratio(**n, wi))).collect();
            let _ = writeln!(
                s,
                "  instructions  {wi} of warps ({:.1} lanes active of {})  {}",
                ratio(g("thread_instructions"), wi),
                threads.min(32),
                mix.join(", ")
            );
            for (what, name) in [("load ", "load"), ("store", "store")] {
                let (req, sec, bytes) = (
                    g(&format!("global_{name}_requests")),
                    g(&format!("global_{name}_sectors")),
                    g(&format!("global_{name}_bytes")),
                );
                if req > 0 {
                    let _ = writeln!(
                        s,
                        "  global {what}  {req} requests, {:.2} sectors each, {:.0} % of the moved bytes used",
                        ratio(sec, req),
                        100.0 * ratio(bytes, 32 * sec)
                    );
                }
            }
            let _ = writeln!(
                s,
                "  traffic       {} B read once, {} B written once; {} B requested in all",
                g("unique_read_bytes"),
                g("unique_write_bytes"),
                g("global_load_bytes") + g("global_store_bytes")
            );
            let (waves, ideal) = (g("shared_wavefronts"), g("shared_ideal_wavefronts"));
            if waves > 0 {
                let _ = writeln!(
                    s,
                    "  shared        {waves} wavefronts, {:.2} times the conflict-free number",
                    ratio(waves, ideal)
                );
            }
            let _ = writeln!(
                s,
                "  work          {} tensor FLOP, {} f32 FLOP, {} f64 FLOP; {} divergent branches, {} barriers, {} atomics",
                g("tensor_flops"),
                g("f32_flops"),
                g("f64_flops"),
                g("divergent_branches"),
                g("barriers"),
                g("global_atomic_requests") + g("shared_atomic_requests")
            );
            let (name, us) = l.bound();
            let mut all: Vec<_> = l.bounds_us.iter().filter(|b| *b.1 > 0.0).collect();
            all.sort_by(|a, b| b.1.total_cmp(a.1));
            let all: Vec<String> = all.iter().map(|(n, t)| format!("{n} {t:.3}")).collect();
            let _ = writeln!(s, "  at least      {us:.3} us ({name}) on {}: {}", self.profile, all.join(", "));
            for h in &l.hot {
                let _ = writeln!(s, "  look at       {h}");
            }
        }
        if !self.live.is_empty() {
            let bytes: u64 = self.live.iter().map(|l| l.bytes).sum();
            let _ = writeln!(s, "\nlive          {} allocations, {bytes} B", self.live.len());
        }
        s
    }
}

fn same(a: &Launch, b: &Launch) -> bool {
    a.kernel == b.kernel && a.grid == b.grid && a.block == b.block && a.counters == b.counters
}
