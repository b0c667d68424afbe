//! The interpreter: one warp, one group of converged lanes, one operation at a time.

use std::collections::{BTreeMap, HashMap, VecDeque};

use super::alu::Level;
use super::async_copy::{self, AsyncCopies};
use super::memory::{self, LOCAL_WINDOW, Private, SHARED_WINDOW};
use super::op::*;
use super::regs::*;
use super::{syscall, tensor, warp as warp_ops, wmma};
use crate::check::arena::{Arena, View};
use crate::check::finding::{Finding, Kind, Where};
use crate::check::order::Foreign;
use crate::check::race::{self, Clock, Seen};
use crate::count::contention::Words;
use crate::ptx::ast::Space;

/// Operations a warp runs before another gets its turn, at its next branch.
pub const QUANTUM: i32 = 20_000;

/// Which checks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// Allocation, initialisation and pending-copy state of every byte. Bounds of the device range always hold.
    pub memory: bool,
    /// Races in shared and global memory.
    pub races: bool,
    /// Counters of memory traffic.
    pub count: bool,
}

impl Checks {
    /// Everything.
    pub const ALL: Checks = Checks { memory: true, races: true, count: true };
    /// Memory, without races.
    pub const MEMORY: Checks = Checks { memory: true, races: false, count: true };
    /// Nothing but what the emulator needs for itself.
    pub const NONE: Checks = Checks { memory: false, races: false, count: false };
}

/// Counters of one operation of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Site {
    /// Times a warp executed it.
    pub hits: u64,
    /// Lanes over all of them.
    pub lanes: u64,
    /// Requests to global memory.
    pub requests: u64,
    /// 32-byte sectors they touched.
    pub sectors: u64,
    /// Bytes they asked for.
    pub bytes: u64,
    /// Those bytes, each once in a request however many lanes ask for it.
    pub distinct_bytes: u64,
    /// Requests to shared memory.
    pub shared_requests: u64,
    /// Wavefronts they took.
    pub waves: u64,
    /// The fewest wavefronts they could have taken.
    pub ideal_waves: u64,
    /// Branches that split the warp.
    pub divergent: u64,
    /// Requests to local memory.
    pub local_requests: u64,
    /// Bytes they asked for.
    pub local_bytes: u64,
    /// Atomic operations of lanes.
    pub atomics: u64,
    /// The steps they take if lanes on one address go one after the other.
    pub atomic_steps: u64,
}

impl std::ops::AddAssign for Site {
    fn add_assign(&mut self, b: Site) {
        self.hits += b.hits;
        self.lanes += b.lanes;
        self.requests += b.requests;
        self.sectors += b.sectors;
        self.bytes += b.bytes;
        self.distinct_bytes += b.distinct_bytes;
        self.shared_requests += b.shared_requests;
        self.waves += b.waves;
        self.ideal_waves += b.ideal_waves;
        self.divergent += b.divergent;
        self.local_requests += b.local_requests;
        self.local_bytes += b.local_bytes;
        self.atomics += b.atomics;
        self.atomic_steps += b.atomic_steps;
    }
}

/// Why a group stopped running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The launch is over: a fault was reported.
    Fault,
    /// The quantum is spent.
    Yield,
    /// The group waits, was merged, or exited.
    Parked,
}

/// Where a group of lanes stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Can run.
    Ready,
    /// Waits at barrier number `.0`.
    Barrier(u32),
    /// Waits for other lanes of the warp at a `.sync` operation with this member mask.
    Sync(u32),
    /// Gone.
    Dead,
}

/// Lanes that run together.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// Next operation.
    pub pc: u32,
    /// Lanes.
    pub mask: u32,
    /// Where they meet others again: index of a join, or `NONE`.
    pub join: u32,
    /// What they do.
    pub state: State,
}

/// A place where diverged lanes meet.
#[derive(Debug, Clone, Copy)]
pub struct Meeting {
    /// The operation.
    pub pc: u32,
    expected: u32,
    /// Lanes that are there.
    pub arrived: u32,
    outer: u32,
}

/// One warp of a running block.
pub struct Warp {
    /// Index in the block.
    pub id: u32,
    /// Registers.
    pub regs: Regs,
    /// Local memory of its 32 threads.
    pub local: Private,
    /// Groups of converged lanes.
    pub groups: Vec<Group>,
    /// Meeting points of diverged lanes.
    pub joins: Vec<Meeting>,
    /// Lanes that exist and have not exited.
    pub live: u32,
    /// Carry bits of `add.cc` and its kin.
    pub carry: u32,
    /// `cp.async` under way.
    pub copies: AsyncCopies,
    /// Logical time of every warp of the block, as far as this one knows.
    pub clock: Clock,
    /// The time up to which all that its lanes did comes before what any of them does now.
    pub together: u32,
    /// The same for single lanes, as some `__syncwarp` with parts of the warp have made it: `[of one][about another]`.
    pub pairs: Option<Box<[[u32; LANES]; LANES]>>,
    /// The clock at the last fence.
    pub released: Option<Clock>,
    /// The clock at the last fence that reached other blocks.
    pub released_wide: Option<Clock>,
    /// Group that ran last.
    pub turn: usize,
    /// Turns without progress, and the number at which to look for an endless loop.
    pub idle: (u32, u32),
    /// Operations until its next turn ends: short for a warp that was caught spinning.
    pub quantum: i32,
    /// Caught in a loop that only others can end.
    pub spinning: bool,
}

/// A part of a warp that waits at a barrier.
#[derive(Debug, Clone, Copy)]
pub struct Partial {
    /// The warp.
    pub warp: u32,
    /// The operation.
    pub pc: u32,
    /// Those of its lanes that came.
    pub lanes: u32,
    /// The barrier is one that the others must reach too, unless they exit.
    pub amiss: bool,
    /// Counted as a whole warp, the others having exited.
    pub whole: bool,
}

/// A barrier of a block.
#[derive(Debug, Clone, Default)]
pub struct Barrier {
    /// Threads that arrived.
    pub arrived: u32,
    /// Threads it waits for; 0: all of the block.
    pub expected: u32,
    /// Groups that wait: warp, group index.
    pub waiting: Vec<(u32, u32)>,
    /// Warps that arrived.
    pub warps: u32,
    /// Threads whose predicate was true.
    pub trues: u32,
    /// Lanes that arrived without the rest of their warp.
    pub partial: Vec<Partial>,
    /// Joined clocks of those who arrived.
    pub clock: Clock,
    /// Joined clocks of their last fences.
    pub released: Clock,
    /// Joined clocks of their last fences that reached other blocks.
    pub released_wide: Clock,
}

/// One running block.
pub struct Block {
    /// Linear number in the grid.
    pub number: u32,
    /// Index in the grid.
    pub index: [u32; 3],
    /// Shared memory.
    pub shared: Private,
    /// Race records of shared memory, three per word.
    pub shared_race: Vec<u64>,
    /// Clocks published to the block at shared addresses, and at global ones (`race::global`).
    pub published: HashMap<u64, Clock>,
    /// What this block knows of others.
    pub seen: Seen,
    /// Barriers 0 to 15.
    pub barriers: Vec<Barrier>,
    /// Threads of the block.
    pub threads: u32,
    /// Threads that have exited.
    pub exited: u32,
    /// Joined clocks of those: an exit counts as an arrival at the barriers of the whole block.
    pub exit_clock: Clock,
    /// Barriers that completed: the scheduler wakes their groups.
    pub wake: Vec<Barrier>,
}

/// Everything a worker needs to run blocks of one launch.
pub struct Cx<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Device memory.
    pub arena: &'a Arena,
    /// All of it as a view.
    pub global: View,
    /// Parameter block.
    pub params: &'a Private,
    /// Extents of a block.
    pub block_dim: [u32; 3],
    /// Which checks run.
    pub checks: Checks,
    /// Counters by operation.
    pub sites: Vec<Site>,
    /// Hits and lanes of stretches of vector operations: added where a stretch begins, taken off behind its end, so the
    /// sum up to an operation is what it has beyond `sites`.
    pub stretches: Vec<[i64; 2]>,
    /// First touches of sectors by reads.
    pub unique_read: u64,
    /// First touches of sectors by writes.
    pub unique_write: u64,
    /// Atomic operations by word of global memory.
    pub words: Words,
    /// Barriers that all threads passed, counted per warp.
    pub barriers: u64,
    /// Launch number for last-touch stamps.
    pub epoch: u32,
    /// Launch number for race records.
    pub launch_tag: u32,
    /// Last-touch stamps.
    pub touched: *mut u32,
    /// Race records.
    pub race: *mut u64,
    /// What nothing orders before this launch.
    pub foreign: Option<&'a Foreign>,
    /// Where each operation last touched global memory, for prefetches.
    pub last: Vec<u64>,
    /// No other worker runs blocks of this launch.
    pub alone: bool,
    /// Clocks published to all blocks at global addresses.
    pub published: HashMap<u64, Seen>,
    /// Findings so far, by operation and class.
    pub findings: BTreeMap<(usize, Kind), (u64, Finding)>,
    /// Text printed by device code.
    pub output: Vec<u8>,
    /// Memory changed, or a warp passed a barrier or exited, since the scheduler last looked.
    pub progress: bool,
    /// Lanes of some warp were let go past a meeting point because others spin: warps are no longer in step.
    pub out_of_step: bool,
    /// Stop at every branch, to watch a loop turn by turn.
    pub fine: bool,
    /// Operations executed, the time of `%clock`.
    pub ticks: u64,
    /// Host vector level.
    pub level: Level,
    /// When to give the launch up, and after how many seconds that is.
    pub deadline: Option<(std::time::Instant, u64)>,
}

impl Cx<'_> {
    /// Notes a finding. The same operation doing the same thing again only counts.
    #[inline(never)]
    pub fn report(&mut self, block: &Block, warp: &Warp, pc: usize, lane: usize, kind: Kind, message: String) {
        let order = u64::from(block.number) << 16 | u64::from(warp.id) << 8 | lane as u64;
        if let Some((first, f)) = self.findings.get_mut(&(pc, kind)) {
            f.count += 1;
            if order >= *first {
                return;
            }
            // The report names the lowest block, warp and lane whatever the order of execution.
            let count = f.count;
            let place = self.place(block, warp, pc, lane);
            self.findings.insert((pc, kind), (order, Finding { kind, message, place: Some(place), count }));
            return;
        }
        let place = self.place(block, warp, pc, lane);
        self.findings.insert((pc, kind), (order, Finding { kind, message, place: Some(place), count: 1 }));
    }

    fn place(&self, block: &Block, warp: &Warp, pc: usize, lane: usize) -> Where {
        let p = self.kernel.places.get(pc).copied().unwrap_or_default();
        let t = warp.id * 32 + lane as u32;
        let [x, y, _] = self.block_dim;
        let at = |file: u32, line: u32| match self.kernel.files.get(&file) {
            Some(f) if line > 0 => format!("{f}:{line}"),
            _ => String::new(),
        };
        let mut source = at(p.file, p.line);
        let call = at(p.inlined_at.0, p.inlined_at.1);
        if !call.is_empty() {
            source += &format!(" inlined at {call}");
        }
        Where {
            kernel: self.kernel.name.clone(),
            block: block.index,
            warp: warp.id,
            lane: lane as u32,
            thread: [t % x, t / x % y, t / (x * y)],
            source,
            ptx_line: p.ptx,
            opcode: self.opcode(pc).to_string(),
        }
    }

    /// Opcode text of an operation.
    pub fn opcode(&self, pc: usize) -> &str {
        let i = self.kernel.opcodes.get(pc).copied().unwrap_or(0);
        self.kernel.opcode_names.get(i as usize).map_or("?", String::as_str)
    }
}

impl Warp {
    /// Lanes that have a thread: not all, in the last warp of many blocks.
    pub fn existing(&self, block: &Block) -> u32 {
        let threads = block.threads - self.id * 32;
        if threads >= 32 { ALL } else { (1 << threads) - 1 }
    }

    /// Reads a predicate.
    #[inline(always)]
    pub fn pred(&self, p: Pred) -> u32 {
        let v = self.regs.preds[p.at as usize];
        if p.not { !v } else { v }
    }

    /// Writes the active lanes of a predicate; `NONE` is a sink.
    #[inline(always)]
    pub fn set_pred(&mut self, at: u32, v: u32, mask: u32) {
        if at != NONE {
            let p = &mut self.regs.preds[at as usize];
            *p = (*p & !mask) | (v & mask);
        }
    }

    /// Lanes exit: nobody waits for them any more.
    pub fn leave(&mut self, cx: &mut Cx, block: &mut Block, mask: u32) {
        self.live &= !mask;
        for j in &mut self.joins {
            j.expected &= !mask;
            j.arrived &= !mask;
        }
        block.exited += mask.count_ones();
        race::join(&mut block.exit_clock, &self.clock);
        race::tick(self);
        cx.progress = true;
    }

    /// Releases every meeting point at which all its lanes have arrived.
    pub fn settle(&mut self) {
        for i in 0..self.joins.len() {
            let j = self.joins[i];
            if j.arrived != 0 && j.arrived == j.expected {
                self.joins[i].expected = 0;
                self.joins[i].arrived = 0;
                self.push(Group { pc: j.pc, mask: j.arrived, join: j.outer, state: State::Ready });
            }
        }
        while self.joins.last().is_some_and(|j| j.expected == 0) {
            self.joins.pop();
        }
    }

    /// Lanes that wait at a meeting point while the others spin: lets them go on alone.
    pub fn release_waiters(&mut self) -> bool {
        for i in (0..self.joins.len()).rev() {
            let j = self.joins[i];
            if j.arrived != 0 {
                self.joins[i].expected &= !j.arrived;
                self.joins[i].arrived = 0;
                self.push(Group { pc: j.pc, mask: j.arrived, join: j.outer, state: State::Ready });
                return true;
            }
        }
        false
    }

    /// Adds a group of lanes.
    pub fn push(&mut self, g: Group) {
        match self.groups.iter_mut().find(|g| g.state == State::Dead) {
            Some(slot) => *slot = g,
            None => self.groups.push(g),
        }
    }
}

/// Runs one group of a warp until it stops.
pub fn run_group(cx: &mut Cx, block: &mut Block, warp: &mut Warp, group: usize) -> Stop {
    match cx.level {
        // SAFETY: the level was chosen by asking the processor.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { run_avx512(cx, block, warp, group) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { run_avx2(cx, block, warp, group) },
        _ => run(cx, block, warp, group),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,popcnt,lzcnt")]
unsafe fn run_avx512(cx: &mut Cx, block: &mut Block, warp: &mut Warp, group: usize) -> Stop {
    run(cx, block, warp, group)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,bmi1,bmi2,popcnt,lzcnt")]
unsafe fn run_avx2(cx: &mut Cx, block: &mut Block, warp: &mut Warp, group: usize) -> Stop {
    run(cx, block, warp, group)
}

#[inline(always)]
fn run(cx: &mut Cx, block: &mut Block, warp: &mut Warp, group: usize) -> Stop {
    let kernel = cx.kernel;
    let code = &kernel.code[..];
    let Group { mut pc, mut mask, .. } = warp.groups[group];
    let quantum = if cx.fine { 0 } else { warp.quantum };
    let mut left = quantum;
    let base = warp.regs.base();
    loop {
        // SAFETY: lowering ends every function with `Exit` and resolves every target inside the code.
        let mut inst = unsafe { code.get_unchecked(pc as usize) };
        // Vector operations without a guard cannot stop, jump or change the mask, so a stretch of them is counted at once.
        let first = pc as usize;
        while let Inst { op: Op::Alu { f, o }, guard: Pred { at: NONE, .. } } = inst {
            // SAFETY: lowering gave the operation rows of this register file, and chose the function for this host.
            unsafe { f(base, o, mask) }
            pc += 1;
            // SAFETY: as above; the operation was not the last, for that is an `Exit`.
            inst = unsafe { code.get_unchecked(pc as usize) };
        }
        let at = pc as usize;
        if at != first {
            let lanes = i64::from(mask.count_ones());
            for (end, sign) in [(first, 1), (at, -1)] {
                // SAFETY: `stretches` is as long as the code.
                let [h, l] = unsafe { cx.stretches.get_unchecked_mut(end) };
                *h += sign;
                *l += sign * lanes;
            }
            left -= (at - first) as i32;
        }
        let mut m = mask;
        if inst.guard.at != NONE {
            m &= warp.pred(inst.guard);
        }
        // SAFETY: `sites` is as long as the code.
        let site = unsafe { cx.sites.get_unchecked_mut(at) };
        site.hits += 1;
        site.lanes += u64::from(m.count_ones());
        left -= 1;
        macro_rules! stop {
            ($stop:expr) => {{
                warp.groups[group].pc = pc;
                warp.groups[group].mask = mask;
                cx.ticks += (quantum - left) as u64;
                return $stop;
            }};
        }
        macro_rules! check {
            ($r:expr) => {
                if let Err(s) = $r {
                    stop!(s)
                }
            };
        }
        // A guard that is false everywhere skips the operation, branches included.
        if m == 0 && !matches!(inst.op, Op::Join) {
            pc += 1;
            continue;
        }
        match &inst.op {
            Op::Alu { f, o } => {
                // SAFETY: as for the operations without a guard.
                unsafe { f(base, o, m) }
            }
            Op::Setp { f, a, b, swap, d, q, combine } => {
                let (a, b) = if *swap { (b, a) } else { (a, b) };
                // SAFETY: as for `Alu`.
                let v = unsafe { f(base, *a, *b) };
                set_preds(warp, v, *d, *q, *combine, m);
            }
            Op::Bra { target, join } => {
                if m == mask {
                    pc = *target;
                } else {
                    site.divergent += 1;
                    // The lanes that fall through go first; the others become a group of their own.
                    let taken = m;
                    let meeting = split(warp, group, *join, mask);
                    mask &= !taken;
                    warp.push(Group { pc: *target, mask: taken, join: meeting, state: State::Ready });
                    warp.groups[group].mask = mask;
                    warp.groups[group].join = meeting;
                    pc += 1;
                }
                if left <= 0 {
                    stop!(Stop::Yield);
                }
                continue;
            }
            Op::Join => {
                let j = warp.groups[group].join;
                if j != NONE && warp.joins[j as usize].pc == pc {
                    let meeting = &mut warp.joins[j as usize];
                    meeting.arrived |= mask;
                    if meeting.arrived == meeting.expected {
                        // The last to arrive goes on with all of them; the outer meeting may be here as well.
                        mask = meeting.expected;
                        let outer = meeting.outer;
                        meeting.expected = 0;
                        meeting.arrived = 0;
                        warp.groups[group].mask = mask;
                        warp.groups[group].join = outer;
                        while warp.joins.last().is_some_and(|j| j.expected == 0) {
                            warp.joins.pop();
                        }
                        continue;
                    }
                    warp.groups[group].state = State::Dead;
                    stop!(Stop::Parked);
                }
            }
            Op::Ld(i) => check!(memory::ld(cx, block, warp, &kernel.accesses[*i as usize], at, m)),
            Op::St(i) => check!(memory::st(cx, block, warp, &kernel.accesses[*i as usize], at, m)),
            Op::LdParam { d, offset, bytes, signed } => {
                let v = param(cx.params, *offset, *bytes, *signed);
                if m == ALL && !d.wide {
                    *warp.regs.row_mut(d.at) = [v as u32; LANES];
                } else if m == ALL {
                    *warp.regs.row64_mut(d.at) = [v; LANES];
                } else {
                    for lane in lanes(m) {
                        warp.regs.set_lane(*d, lane, v);
                    }
                }
            }
            Op::Mma(i) => {
                if m != ALL {
                    let message = "mma.sync must be executed by all 32 lanes together".to_string();
                    cx.report(block, warp, at, m.trailing_zeros() as usize, Kind::WarpMask, message);
                }
                tensor::mma(&mut warp.regs, &kernel.mmas[*i as usize]);
            }
            Op::LdMatrix(i) => check!(tensor::ldmatrix(cx, block, warp, &kernel.matrices[*i as usize], at, m)),
            Op::Selp { d, a, b, p, wide } => {
                let p = warp.pred(*p);
                if *wide {
                    let (x, y) = (*warp.regs.row64(*a), *warp.regs.row64(*b));
                    let r = warp.regs.row64_mut(*d);
                    for i in 0..LANES {
                        let v = if p >> i & 1 != 0 { x[i] } else { y[i] };
                        r[i] = if m >> i & 1 != 0 { v } else { r[i] };
                    }
                } else {
                    let (x, y) = (*warp.regs.row(*a), *warp.regs.row(*b));
                    let r = warp.regs.row_mut(*d);
                    for i in 0..LANES {
                        let v = if p >> i & 1 != 0 { x[i] } else { y[i] };
                        r[i] = if m >> i & 1 != 0 { v } else { r[i] };
                    }
                }
            }
            Op::Logic { f, d, a, b } => {
                let (x, y) = (warp.pred(*a), warp.pred(*b));
                let v = match f {
                    Logic::And => x & y,
                    Logic::Or => x | y,
                    Logic::Xor => x ^ y,
                    Logic::Mov => x,
                    Logic::Not => !x,
                };
                warp.set_pred(*d, v, m);
            }
            Op::CpAsync(i) => check!(async_copy::issue(cx, block, warp, &kernel.copies[*i as usize], at, m)),
            Op::CpCommit => warp.copies.commit(m),
            Op::CpWait(n) => async_copy::wait(block, warp, *n, m),
            Op::Lane { spec, d, s } => lane_op(kernel, warp, *spec, *d, s, m),
            Op::SetpLane { spec, a, b, d, q, combine } => {
                let v = compare(kernel, warp, *spec, *a, *b, m);
                set_preds(warp, v, *d, *q, *combine, m);
            }
            Op::Set { spec, a, b, d, one, combine } => {
                let v = combined(warp, compare(kernel, warp, *spec, *a, *b, m), *combine);
                for lane in lanes(m) {
                    warp.regs.set_lane(*d, lane, if v >> lane & 1 != 0 { *one } else { 0 });
                }
            }
            Op::Carry { d, a, b, subtract, carry_in, carry_out } => {
                warp_ops::carry(warp, [*d, *a, *b], *subtract, *carry_in, *carry_out, m)
            }
            Op::MadCarry { d, a, b, c, high, signed, carry_in, carry_out } => {
                warp_ops::mad_carry(warp, [*d, *a, *b, *c], *high, *signed, *carry_in, *carry_out, m)
            }
            Op::Atom(i) => check!(memory::atom(cx, block, warp, &kernel.atomics[*i as usize], at, m)),
            Op::StMatrix(i) => check!(tensor::stmatrix(cx, block, warp, &kernel.matrices[*i as usize], at, m)),
            Op::Wmma(i) => check!(wmma::transfer(cx, block, warp, &kernel.wmmas[*i as usize], at, m)),
            Op::MovMatrix { d, a } => tensor::movmatrix(&mut warp.regs, *d, *a),
            Op::Shfl { .. } | Op::Vote { .. } | Op::Match { .. } | Op::Redux { .. } | Op::WarpSync { .. } => {
                warp.groups[group].pc = pc;
                mask = warp_ops::sync(cx, block, warp, group, at, m);
                if mask == 0 {
                    cx.ticks += (quantum - left) as u64;
                    return Stop::Parked;
                }
            }
            Op::ActiveMask { d } => {
                for lane in lanes(m) {
                    warp.regs.row_mut(*d)[lane] = m;
                }
            }
            Op::Bar(i) => {
                if m != mask {
                    let join = warp.groups[group].join;
                    warp.push(Group { pc: pc + 1, mask: mask & !m, join, state: State::Ready });
                    mask = m;
                    warp.groups[group].mask = m;
                }
                pc += 1;
                if let Some(s) = warp_ops::bar(cx, block, warp, group, at, &kernel.bars[*i as usize], m) {
                    stop!(s);
                }
                continue;
            }
            Op::Fence { wide } => {
                if cx.checks.races {
                    race::fence(warp, *wide);
                }
            }
            Op::Brx { index, table, join } => {
                let row = *warp.regs.row(*index);
                let targets = &kernel.tables[*table as usize];
                let mut ways: Vec<(u32, u32)> = Vec::new();
                for lane in lanes(m) {
                    let Some(&t) = targets.get(row[lane] as usize) else {
                        let message = format!("index {} of a table of {} targets", row[lane], targets.len());
                        cx.report(block, warp, at, lane, Kind::Trap, message);
                        stop!(Stop::Fault);
                    };
                    match ways.iter_mut().find(|w| w.0 == t) {
                        Some(w) => w.1 |= 1 << lane,
                        None => ways.push((t, 1 << lane)),
                    }
                }
                if m != mask {
                    ways.push((pc + 1, mask & !m));
                }
                if ways.len() > 1 {
                    site.divergent += 1;
                    let meeting = split(warp, group, *join, mask);
                    for &(t, lanes) in &ways[1..] {
                        warp.push(Group { pc: t, mask: lanes, join: meeting, state: State::Ready });
                    }
                    warp.groups[group].join = meeting;
                }
                (pc, mask) = ways[0];
                warp.groups[group].mask = mask;
                if left <= 0 {
                    stop!(Stop::Yield);
                }
                continue;
            }
            Op::Exit => {
                warp.leave(cx, block, m);
                mask &= !m;
                warp.groups[group].mask = mask;
                if mask == 0 {
                    warp.groups[group].state = State::Dead;
                }
                warp.settle();
                if mask == 0 {
                    stop!(Stop::Parked);
                }
            }
            Op::Trap => {
                cx.report(block, warp, at, m.trailing_zeros() as usize, Kind::Trap, "trap executed".to_string());
                stop!(Stop::Fault);
            }
            Op::BadCall { at: row } => {
                let lane = m.trailing_zeros() as usize & 31;
                let message = format!(
                    "indirect call to {:#x}: no function of this module that fits the prototype has this address \
                     (recursion through pointers is not supported)",
                    warp.regs.lane(*row, lane)
                );
                cx.report(block, warp, at, lane, Kind::Trap, message);
                stop!(Stop::Fault);
            }
            Op::Syscall(i) => check!(syscall::call(cx, block, warp, &kernel.syscalls[*i as usize], at, m)),
            Op::Clock { d, nanoseconds } => {
                let now = cx.ticks + (quantum - left) as u64;
                let v = if *nanoseconds { now } else { 4 * now };
                for lane in lanes(m) {
                    warp.regs.set_lane(*d, lane, v);
                }
            }
            Op::IsSpace { space, d, a } => {
                let mut v = 0;
                for lane in lanes(m) {
                    let x = warp.regs.lane(*a, lane);
                    let constant = kernel.constants.iter().any(|c| (c.0..c.1).contains(&x));
                    let is = match space {
                        Space::Const => constant,
                        Space::Global => cx.arena.contains(x) && !constant,
                        s => memory::space_of(x) == *s,
                    };
                    v |= u32::from(is) << lane;
                }
                warp.set_pred(*d, v, m);
            }
            Op::Yield => {
                pc += 1;
                stop!(Stop::Yield);
            }
            Op::Nop => {}
        }
        pc += 1;
    }
}

/// The meeting point of a branch: an existing one at the same place serves loops whose lanes leave one by one.
fn split(warp: &mut Warp, group: usize, join: u32, mask: u32) -> u32 {
    let outer = warp.groups[group].join;
    if join == NONE || (outer != NONE && warp.joins[outer as usize].pc == join) {
        return outer;
    }
    warp.joins.push(Meeting { pc: join, expected: mask, arrived: 0, outer });
    warp.joins.len() as u32 - 1
}

#[inline(always)]
fn combined(warp: &Warp, v: u32, combine: Combine) -> u32 {
    match combine {
        Combine::None => v,
        Combine::And(c) => v & warp.pred(c),
        Combine::Or(c) => v | warp.pred(c),
        Combine::Xor(c) => v ^ warp.pred(c),
    }
}

#[inline(always)]
fn set_preds(warp: &mut Warp, v: u32, d: u32, q: u32, combine: Combine, m: u32) {
    // p = (a rel b) op c, q = !(a rel b) op c.
    let p = combined(warp, v, combine);
    if q != NONE {
        let q_value = combined(warp, !v, combine);
        warp.set_pred(q, q_value, m);
    }
    warp.set_pred(d, p, m);
}

#[inline(never)]
fn lane_op(kernel: &Kernel, warp: &mut Warp, spec: u32, d: Row, s: &[Row; 3], m: u32) {
    let spec = &kernel.specs[spec as usize];
    for lane in lanes(m) {
        let get = |r: Row| if r.at == NONE { 0 } else { warp.regs.lane(r, lane) };
        let v = spec.eval(get(s[0]), get(s[1]), get(s[2]));
        warp.regs.set_lane(d, lane, v);
    }
}

#[inline(never)]
fn compare(kernel: &Kernel, warp: &Warp, spec: u32, a: Row, b: Row, m: u32) -> u32 {
    let spec = &kernel.specs[spec as usize];
    let mut v = 0;
    for lane in lanes(m) {
        v |= (spec.eval(warp.regs.lane(a, lane), warp.regs.lane(b, lane), 0) as u32) << lane;
    }
    v
}

/// Reads a kernel parameter; lowering checked the range.
#[inline(always)]
fn param(params: &Private, offset: u32, bytes: u32, signed: bool) -> u64 {
    let view = params.view();
    debug_assert!(u64::from(offset + bytes) <= view.size);
    // SAFETY: lowering rejects parameter accesses outside the parameter block, and the launch makes the block that large.
    unsafe {
        let p = view.data.add(offset as usize);
        match (bytes, signed) {
            (1, false) => u64::from(p.read()),
            (1, true) => p.cast::<i8>().read() as u64,
            (2, false) => u64::from(p.cast::<u16>().read_unaligned()),
            (2, true) => p.cast::<i16>().read_unaligned() as u64,
            (4, false) => u64::from(p.cast::<u32>().read_unaligned()),
            (4, true) => p.cast::<i32>().read_unaligned() as u64,
            _ => p.cast::<u64>().read_unaligned(),
        }
    }
}

/// Text of the generic windows, for lowering `cvta`.
pub const WINDOWS: [(Space, u64); 2] = [(Space::Shared, SHARED_WINDOW), (Space::Local, LOCAL_WINDOW)];

/// Queue type of pending copies, shared with `async_copy`.
pub type Queue<T> = VecDeque<T>;
