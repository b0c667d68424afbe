//! What the driver says about the launches of a program.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use crate::Error;

/// Names of the counters. One that never moved may be absent from a launch; [`Launch::get`] gives 0 for it.
pub const COUNTERS: [&str; 34] = [
    "atomic_operations",
    "atomic_steps",
    "barriers",
    "blocks",
    "divergent_branches",
    "f32_flops",
    "f64_flops",
    "global_atomic_requests",
    "global_atomic_sectors",
    "global_load_bytes",
    "global_load_distinct_bytes",
    "global_load_requests",
    "global_load_sectors",
    "global_load_wide_bytes",
    "global_store_bytes",
    "global_store_distinct_bytes",
    "global_store_requests",
    "global_store_sectors",
    "global_store_wide_bytes",
    "half_flops",
    "hottest_atomic_operations",
    "local_load_bytes",
    "local_store_bytes",
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
    /// Blocks that a multiprocessor holds at a time.
    #[serde(default)]
    pub resident_blocks: u32,
    /// What there would have to be more of for another: threads, blocks, shared memory, registers.
    #[serde(default)]
    pub occupancy_limit: String,
    /// Multiprocessors of the device.
    #[serde(default)]
    pub multiprocessors: u32,
    /// Those that have a block.
    #[serde(default)]
    pub busy_multiprocessors: u32,
    /// How often the grid fills all places for blocks: below 1 some stay empty.
    #[serde(default)]
    pub waves: f64,
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

    /// The bound if caches caught nothing.
    fn uncached(&self) -> f64 {
        self.bounds_us.get("dram_if_uncached").copied().unwrap_or(0.0).max(self.bound().1)
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

    /// Tables for people: findings first, then which kernels cost most, then one block per kernel and shape.
    pub fn table(&self) -> String {
        let mut s = self.words();
        let mut groups: Vec<Vec<&Launch>> = Vec::new();
        for l in &self.launches {
            match groups.iter_mut().find(|g| same(g[0], l)) {
                Some(g) => g.push(l),
                None => groups.push(vec![l]),
            }
        }
        if groups.len() > 1 {
            s += &summary(&groups);
        }
        // Of a long program, the shapes that cost most, in the order in which they came.
        let mut costs: Vec<f64> = groups.iter().map(|g| time(g)).collect();
        costs.sort_by(|a, b| b.total_cmp(a));
        let least = costs.get(BLOCKS - 1).copied().unwrap_or(0.0);
        let shown: Vec<_> = groups.iter().filter(|g| time(g) >= least).collect();
        for g in &shown {
            s += &block(g, &self.profile);
        }
        if shown.len() < groups.len() {
            let left = groups.len() - shown.len();
            let _ = writeln!(s, "\n{left} more shapes cost less than {least:.3} us each; the JSON report has all");
        }
        if !self.live.is_empty() {
            let bytes: u64 = self.live.iter().map(|l| l.bytes).sum();
            let plural = if self.live.len() > 1 { "s" } else { "" };
            let _ = writeln!(s, "\nnot freed     {bytes} B in {} allocation{plural}", self.live.len());
        }
        s
    }
}

/// Launches of one kernel and shape: one of them stands for all.
fn same(a: &Launch, b: &Launch) -> bool {
    let shape = |l: &Launch| (l.grid, l.block, l.dynamic_shared, l.registers, l.multiprocessors);
    a.kernel == b.kernel && shape(a) == shape(b)
}

/// Shapes that a table shows in full.
const BLOCKS: usize = 16;

/// The time that launches take at least.
fn time(group: &[&Launch]) -> f64 {
    group.iter().map(|l| l.bound().1).sum()
}

/// What a bound is called in tables.
fn resource(name: &str) -> &str {
    match name {
        "dram_compulsory" => "unavoidable memory traffic",
        "dram_if_uncached" => "memory traffic without caches",
        "issue" => "instruction issue",
        "shared" => "shared memory",
        "f32" => "f32 arithmetic",
        "f64" => "f64 arithmetic",
        "half" => "half arithmetic",
        "integer" => "integer arithmetic",
        "special" => "special functions",
        "shuffle" => "warp shuffles",
        "tensor_half" => "tensor cores (half)",
        "tensor_tf32" => "tensor cores (tf32)",
        "tensor_f64" => "tensor cores (f64)",
        "tensor_int8" => "tensor cores (int8)",
        other => other,
    }
}

fn slowest<'a>(group: &[&'a Launch]) -> &'a Launch {
    // The first of equals.
    let mut launches = group.iter();
    let first = launches.next().copied().unwrap_or_else(|| unreachable!("a group has a launch"));
    launches.fold(first, |a, b| if b.bound().1 > a.bound().1 { b } else { a })
}

/// Kernels by the time that all their launches take at least.
fn summary(groups: &[Vec<&Launch>]) -> String {
    let mut kernels: BTreeMap<&str, Vec<&Launch>> = BTreeMap::new();
    for g in groups {
        kernels.entry(&g[0].kernel).or_default().extend(g);
    }
    let all: f64 = kernels.values().map(|g| time(g)).sum();
    let mut sorted: Vec<&Vec<&Launch>> = kernels.values().collect();
    sorted.sort_by(|a, b| time(b).total_cmp(&time(a)));
    let mut s = String::from("\nat least us  share  without caches us  launches  kernel, limited by\n");
    for g in sorted {
        let l = slowest(g);
        let share = if all > 0.0 { 100.0 * time(g) / all } else { 0.0 };
        let limit = resource(l.bound().0);
        let uncached: f64 = g.iter().map(|l| l.uncached()).sum();
        let _ =
            writeln!(s, "{:>11.3}  {share:>3.0} %  {uncached:>17.3}  {:>8}  {}, {limit}", time(g), g.len(), l.kernel);
    }
    s
}

fn size(d: [u32; 3]) -> String {
    format!("{}x{}x{}", d[0], d[1], d[2])
}

/// All about one kernel and shape.
fn block(group: &[&Launch], profile: &str) -> String {
    let mut s = String::new();
    let l = slowest(group);
    let g = |c: &str| l.get(c);
    let ratio = |a: u64, b: u64| if b == 0 { 0.0 } else { a as f64 / b as f64 };
    let differ = group.iter().any(|o| o.counters != l.counters);
    let shared = match l.dynamic_shared {
        0 => format!("{} B", l.static_shared),
        d => format!("{}+{d} B (static+dynamic)", l.static_shared),
    };
    let registers = match (l.registers, l.spill_bytes) {
        (0, _) => String::new(),
        (r, 0) => format!("  registers {r}"),
        (r, s) => format!("  registers {r} (spills {s} B)"),
    };
    let _ = writeln!(
        s,
        "\n{}  grid {}  block {}  shared {shared}{registers}  launches {}{}",
        l.kernel,
        size(l.grid),
        size(l.block),
        group.len(),
        if differ { " (the slowest is shown)" } else { "" }
    );
    let limit = match l.occupancy {
        o if o > 0.999 => String::new(),
        _ => format!(", limited by {}", l.occupancy_limit),
    };
    let (blocks, sms) = (g("blocks"), u64::from(l.multiprocessors));
    let filled = match l.waves {
        _ if blocks == 1 => format!("1 block leaves {} of {sms} multiprocessors idle", sms - blocks),
        _ if blocks < sms => format!("{blocks} blocks leave {} of {sms} multiprocessors idle", sms - blocks),
        w if w <= 1.0 => format!("{blocks} blocks run at once and take {:.0} % of the places", 100.0 * w),
        // The last wave takes as long as a full one.
        w if w < 4.0 && w.fract() > 0.0 => {
            format!("{blocks} blocks in {w:.2} waves, the last one {:.0} % full", 100.0 * w.fract())
        }
        w => format!("{blocks} blocks in {w:.2} waves"),
    };
    let _ = writeln!(
        s,
        "  grid          {filled}; {} fit a multiprocessor at a time: occupancy {:.0} %{limit}",
        l.resident_blocks,
        100.0 * l.occupancy
    );
    let wi = g("warp_instructions");
    let mut classes: Vec<_> = l.classes.iter().collect();
    classes.sort_by(|a, b| b.1.cmp(a.1));
    let mix: Vec<String> =
        classes.iter().take(6).map(|(c, n)| format!("{c} {:.0} %", 100.0 * ratio(**n, wi))).collect();
    let _ = writeln!(
        s,
        "  instructions  {wi} of warps, {:.1} of 32 lanes active: {}",
        ratio(g("thread_instructions"), wi),
        mix.join(", ")
    );
    for (what, name) in [("load ", "load"), ("store", "store")] {
        let count = |counter: &str| g(&format!("global_{name}_{counter}"));
        let (req, sec, bytes, distinct) =
            (count("requests"), count("sectors"), count("bytes"), count("distinct_bytes"));
        if req > 0 {
            let used = 100.0 * ratio(distinct, 32 * sec);
            let shared = match ratio(bytes, distinct) {
                1.0 => String::new(),
                lanes => format!(", each by {lanes:.1} lanes"),
            };
            let each = ratio(sec, req);
            let _ = writeln!(
                s,
                "  global {what}  {req} requests, {each:.2} sectors each, {used:.0} % of the moved bytes used{shared}"
            );
        }
    }
    let once = g("unique_read_bytes") + g("unique_write_bytes");
    let moved = 32 * (g("global_load_sectors") + g("global_store_sectors") + g("global_atomic_sectors"));
    let _ = writeln!(
        s,
        "  traffic       {} B read, {} B written, each sector once; {moved} B ({:.1} times) if caches caught nothing",
        g("unique_read_bytes"),
        g("unique_write_bytes"),
        ratio(moved, once)
    );
    let (waves, ideal) = (g("shared_wavefronts"), g("shared_ideal_wavefronts"));
    if waves > 0 {
        let _ = writeln!(
            s,
            "  shared        {waves} wavefronts, {:.2} times the conflict-free number",
            ratio(waves, ideal)
        );
    }
    let (atomics, steps) = (g("atomic_operations"), g("atomic_steps"));
    if atomics > 0 {
        let requests = g("global_atomic_requests") + g("shared_atomic_requests");
        let hottest = match g("hottest_atomic_operations") {
            0 => String::new(),
            n => format!("; {n} on one word of global memory"),
        };
        let _ = writeln!(
            s,
            "  atomics       {atomics} operations in {requests} requests, {:.1} lanes of each on one address{hottest}",
            ratio(steps, requests)
        );
    }
    let (read, written) = (g("local_load_bytes"), g("local_store_bytes"));
    if read + written > 0 {
        let _ = writeln!(s, "  local         {read} B read, {written} B written: memory of threads, not registers");
    }
    let work: Vec<String> = [
        ("tensor_flops", "tensor FLOP"),
        ("f32_flops", "f32 FLOP"),
        ("f64_flops", "f64 FLOP"),
        ("half_flops", "half FLOP"),
        ("divergent_branches", "divergent branches"),
        ("barriers", "barriers"),
    ]
    .iter()
    .filter(|w| g(w.0) > 0)
    .map(|w| format!("{} {}", g(w.0), w.1))
    .collect();
    if !work.is_empty() {
        let _ = writeln!(s, "  work          {}", work.join(", "));
    }
    let (name, us) = l.bound();
    let mut all: Vec<_> = l.bounds_us.iter().filter(|b| *b.1 > 0.0 && *b.1 >= 0.05 * us).collect();
    all.sort_by(|a, b| b.1.total_cmp(a.1));
    let all: Vec<String> = all.iter().map(|(n, t)| format!("{} {t:.3}", resource(n))).collect();
    let uncached = match l.uncached() {
        t if t > us => format!("; {t:.3} us if caches caught nothing"),
        _ => String::new(),
    };
    let _ = writeln!(s, "  at least      {us:.3} us on {profile}, limited by {}{uncached}", resource(name));
    let _ = writeln!(s, "  bounds in us  {}", all.join("; "));
    for h in &l.hot {
        let _ = writeln!(s, "  look at       {h}");
    }
    s
}
