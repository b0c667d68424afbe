//! Where a launch loses most, in sentences: the line, what happens there, and why it costs. They are sorted by what they
//! cost at the rates of the device, which is an estimate that only serves to put the worst first.

use std::collections::BTreeMap;

use super::counters::Report;
use super::profile::Profile;
use crate::exec::grid::Outcome;
use crate::exec::op::{Kernel, Op};
use crate::exec::run::Site;

/// Sentences of a report, and the share of the largest bound that each must cost.
const MOST: usize = 8;
const WORTH: f64 = 0.01;

/// The operations of one opcode in one line of the source: loops that were unrolled make many of one.
#[derive(Default)]
struct Line {
    /// Lines of the PTX text.
    ptx: Vec<u32>,
    place: String,
    opcode: String,
    sum: Site,
    branch: bool,
}

/// What lines have to say, with what each costs. Lines of one opcode that say the same speak together: without -lineinfo
/// an unrolled loop is as many lines.
#[derive(Default)]
struct Advice(BTreeMap<(String, String, String), (f64, Vec<u32>)>);

impl Advice {
    fn line(&mut self, cost: f64, line: &Line, what: String) {
        let key = (line.place.clone(), line.opcode.clone(), what);
        let (sum, ptx) = self.0.entry(key).or_default();
        *sum += cost;
        ptx.extend(&line.ptx);
    }

    fn launch(&mut self, cost: f64, what: String) {
        self.0.insert((String::new(), String::new(), what), (cost, Vec::new()));
    }

    /// The sentences that cost at least so much, the worst first.
    fn sentences(self, least: f64) -> Vec<String> {
        let mut all: Vec<_> = self.0.into_iter().filter(|(_, (cost, _))| *cost >= least).collect();
        all.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
        let say = |((place, opcode, what), (_, ptx)): ((String, String, String), (f64, Vec<u32>))| {
            let mut lines: Vec<String> = ptx.iter().take(4).map(u32::to_string).collect();
            if ptx.len() > 4 {
                lines.push(format!("{} more", ptx.len() - 4));
            }
            match ptx.len() {
                0 => what,
                1 => format!("{place}PTX line {} {opcode}: {what}", lines[0]),
                _ => format!("{place}PTX lines {} {opcode}: {what}", lines.join(", ")),
            }
        };
        all.into_iter().take(MOST).map(say).collect()
    }
}

fn lines(kernel: &Kernel, outcome: &Outcome) -> Vec<Line> {
    let mut all: BTreeMap<[u32; 6], Line> = BTreeMap::new();
    for (i, (inst, s)) in kernel.code.iter().zip(&outcome.sites).enumerate() {
        if s.hits == 0 || matches!(inst.op, Op::Join) {
            continue;
        }
        let p = &kernel.places[i];
        let name = |file: u32, line: u32| match kernel.files.get(&file) {
            Some(f) if line > 0 => format!("{f}:{line}"),
            _ => String::new(),
        };
        let (source, call) = (name(p.file, p.line), name(p.inlined_at.0, p.inlined_at.1));
        let alone = if source.is_empty() { p.ptx } else { 0 };
        let line = all.entry([p.file, p.line, p.inlined_at.0, p.inlined_at.1, alone, kernel.opcodes[i]]).or_default();
        line.place = match (source.is_empty(), call.is_empty()) {
            (true, _) => String::new(),
            (_, true) => format!("{source}, "),
            _ => format!("{source} inlined at {call}, "),
        };
        line.opcode = kernel.opcode_names.get(kernel.opcodes[i] as usize).cloned().unwrap_or_default();
        line.branch = matches!(inst.op, Op::Bra { .. } | Op::Brx { .. });
        line.ptx.push(p.ptx);
        line.sum += *s;
    }
    all.into_values().collect()
}

/// What to look at first.
pub fn advice(r: &Report, kernel: &Kernel, outcome: &Outcome, p: &Profile) -> Vec<String> {
    let mut all = Advice::default();
    // Microseconds of the multiprocessors that have a block, and of memory.
    let clock = f64::from(p.clock_khz) * 1e-3;
    let per_clock = |n: u64| n as f64 / (clock * f64::from(r.busy));
    let per_byte = |n: u64| n as f64 / p.dram_gbs * 1e-3;
    let instructions = r.get("warp_instructions");
    let idle_lanes = 32 * instructions - r.get("thread_instructions");
    let divergent = r.get("divergent_branches");
    for line in lines(kernel, outcome) {
        let s = line.sum;
        let each = |n: u64, of: u64| n as f64 / of.max(1) as f64;
        // Few lanes cannot fill a sector: a request needs one, and as many as hold its bytes.
        let needed = s.requests.max(s.bytes.div_ceil(32));
        let waste = 32 * s.sectors.saturating_sub(needed);
        if s.sectors > needed + needed / 4 && waste > 1024 {
            let what = format!(
                "{:.1} sectors per request, {} % of the fetched bytes used (uncoalesced)",
                each(s.sectors, s.requests),
                100 * s.bytes / (32 * s.sectors)
            );
            all.line(per_byte(waste), &line, what);
        }
        let conflict = s.waves - s.ideal_waves;
        if conflict > s.ideal_waves / 4 && conflict > 32 {
            let what = format!(
                "{:.1} wavefronts per request where {:.1} would do (bank conflicts)",
                each(s.waves, s.shared_requests),
                each(s.ideal_waves, s.shared_requests)
            );
            all.line(per_clock(conflict), &line, what);
        }
        let requests = s.requests + s.shared_requests;
        if s.atomics > 0 && s.atomic_steps > requests + requests / 4 {
            let what = format!(
                "up to {:.1} lanes of a warp on one address, which take turns (contention)",
                each(s.atomic_steps, requests)
            );
            all.line(per_clock(s.atomic_steps - requests), &line, what);
        }
        if s.local_bytes > 0 {
            let what = format!(
                "{} B of local memory, which is memory and not registers: an array that is indexed at run time, or whose \
                 address is taken",
                s.local_bytes
            );
            all.line(per_clock(s.local_bytes / 128), &line, what);
        }
        // A branch that every warp takes in two ways costs what its sides lose together.
        if line.branch && s.divergent > s.hits / 16 && 10 * idle_lanes > 32 * instructions {
            let what =
                format!("the lanes of a warp part ways in {} of {} executions (divergence)", s.divergent, s.hits);
            let share = idle_lanes as f64 / 32.0 * each(s.divergent, divergent);
            all.line(per_clock(1) * share / 4.0, &line, what);
        }
    }
    let threads: u32 = r.block.iter().product();
    if !threads.is_multiple_of(32) {
        let missing = threads.next_multiple_of(32) - threads;
        let share = f64::from(missing) / f64::from(threads.next_multiple_of(32));
        let what = format!("a block of {threads} threads: {missing} lanes of its last warp do not exist");
        all.launch(per_clock(instructions) / 4.0 * share, what);
    }
    if let Some((address, n)) = outcome.words.hottest().filter(|h| h.1 > 32) {
        let total = outcome.words.total();
        let what = format!(
            "{n} of the {total} atomic operations on global memory go to the word at {address:#x}, one after the other"
        );
        all.launch(n as f64 / 32.0 / clock, what);
    }
    let bound = r.bounds_us.values().copied().fold(0.0, f64::max);
    all.sentences(WORTH * bound)
}
