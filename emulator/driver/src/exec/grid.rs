//! Launches: blocks onto worker threads, warps onto turns, and the detection of those that can never go on.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::alu::Level;
use super::async_copy::AsyncCopies;
use super::memory::{Private, WRITTEN};
use super::op::*;
use super::regs::*;
use super::run::*;
use super::warp as warp_ops;
use crate::check::arena::{Arena, LIVE};
use crate::check::finding::{Finding, Kind};
use crate::check::order::Foreign;
use crate::count::contention::Words;

/// A launch.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Dynamic shared memory.
    pub dynamic_shared: u32,
    /// The parameter block.
    pub params: Vec<u8>,
    /// All blocks may wait for each other.
    pub cooperative: bool,
}

/// How to run it.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Which checks run.
    pub checks: Checks,
    /// Order of blocks.
    pub seed: u64,
    /// Host vector level.
    pub level: Level,
    /// Launch number, never 0.
    pub epoch: u32,
    /// Worker threads.
    pub threads: usize,
    /// Blocks that can be resident together, for kernels whose blocks wait for each other.
    pub resident: usize,
    /// Number of multiprocessors, for `%nsmid`.
    pub sms: u32,
    /// When to give the launch up, and after how many seconds that is.
    pub deadline: Option<(Instant, u64)>,
    /// Where the barrier of a cooperative launch lies; `launch` sets it.
    pub workspace: u64,
}

/// What a launch did.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Counters by operation.
    pub sites: Vec<Site>,
    /// Sectors read at least once.
    pub unique_read: u64,
    /// Sectors written at least once.
    pub unique_write: u64,
    /// Atomic operations by word of global memory.
    pub words: Words,
    /// Barriers, counted per warp.
    pub barriers: u64,
    /// Findings in program order.
    pub findings: Vec<Finding>,
    /// The fault that ended the launch.
    pub fault: Option<Finding>,
    /// What device code printed.
    pub output: Vec<u8>,
}

/// Findings by operation and class, each with the place in block order where it was first made.
type Noted = BTreeMap<(usize, Kind), (u64, Finding)>;

struct Slot {
    block: Block,
    warps: Vec<Warp>,
    /// In which order the warps take turns.
    order: Vec<usize>,
}

enum Turn {
    /// Something ran.
    Ran,
    /// All threads have exited.
    Done,
    /// Every warp waits for somebody or spins.
    Stuck,
    /// A fault was reported.
    Fault,
}

/// Runs a launch. Kernels whose blocks can see each other's work run on one thread, in an order that the seed decides;
/// the others use all threads, and their results cannot depend on the order.
/// `foreign` is what runs beside it in other streams.
pub fn launch(kernel: &Kernel, arena: &Arena, spec: &Launch, options: &Options, foreign: Option<&Foreign>) -> Outcome {
    let mut params = Private::new(spec.params.len(), WRITTEN);
    params.bytes_mut().copy_from_slice(&spec.params);
    let blocks = spec.grid.iter().map(|&d| u64::from(d)).product::<u64>();
    let threads = spec.block.iter().product::<u32>();
    let coupled = kernel.coupled || spec.cooperative;
    let workers = if coupled || blocks * u64::from(threads) < 4096 {
        1
    } else {
        options.threads.clamp(1, usize::try_from(blocks).unwrap_or(usize::MAX))
    };
    // Cooperative groups synchronise a grid through a counter that the driver provides: its size, then the counter.
    let mut options = *options;
    if spec.cooperative && kernel.specials.iter().any(|s| matches!(s.0, Special::EnvReg(1 | 2))) {
        let at = arena.alloc(8, Some("the barrier of a cooperative launch".to_string()), true).unwrap_or(0);
        if at != 0 {
            let view = arena.view();
            // SAFETY: the eight bytes were just allocated, and they are aligned.
            unsafe { view.data.add((at - view.base) as usize).cast::<[u32; 2]>().write([8, 0]) }
            arena.mark_init(at, 8);
        }
        options.workspace = at;
    }
    let options = &options;
    let next = AtomicU64::new(0);
    let failed = AtomicU64::new(u64::MAX);
    let total = Mutex::new((Outcome::default(), BTreeMap::new()));
    let work = || {
        let mut cx = Cx { foreign, ..context(kernel, arena, &params, spec, options, workers == 1) };
        if coupled {
            run_coupled(&mut cx, spec, options, blocks);
        } else {
            run_independent(&mut cx, spec, options, blocks, &next, &failed);
        }
        let mut sum = total.lock().unwrap_or_else(|e| e.into_inner());
        merge(&mut sum.0, &cx);
        for (key, (order, finding)) in cx.findings {
            merge_finding(&mut sum.1, key, order, finding);
        }
    };
    if workers == 1 {
        work();
    } else {
        std::thread::scope(|s| {
            for _ in 0..workers {
                s.spawn(work);
            }
        });
    }
    if options.workspace != 0 {
        // The address came from `alloc`, so freeing it cannot fail.
        let _ = arena.free(options.workspace, "the end of the launch");
    }
    let (mut out, findings): (Outcome, Noted) = total.into_inner().unwrap_or_else(|e| e.into_inner());
    let failed = failed.load(Ordering::Relaxed);
    // After a fault only what lies before it in block order is certain to have happened.
    let mut fault: Option<(u64, Finding)> = None;
    for ((_, kind), (order, finding)) in findings {
        if order >> 16 > failed {
            continue;
        }
        let ends = kind.fatal() || (kind == Kind::DivergentBarrier && finding.message.contains("must be below 16"));
        if ends && fault.as_ref().is_none_or(|(o, _)| order < *o) {
            fault = Some((order, finding.clone()));
        }
        out.findings.push(finding);
    }
    out.fault = fault.map(|f| f.1);
    out
}

fn merge(out: &mut Outcome, cx: &Cx) {
    out.sites.resize(cx.sites.len(), Site::default());
    let (mut hits, mut lanes) = (0, 0);
    for ((a, b), [h, l]) in out.sites.iter_mut().zip(&cx.sites).zip(&cx.stretches) {
        (hits, lanes) = (hits + h, lanes + l);
        *a += Site { hits: b.hits + hits as u64, lanes: b.lanes + lanes as u64, ..*b };
    }
    out.unique_read += cx.unique_read;
    out.unique_write += cx.unique_write;
    out.words.add(&cx.words);
    out.barriers += cx.barriers;
    out.output.extend_from_slice(&cx.output);
}

fn merge_finding(all: &mut Noted, key: (usize, Kind), order: u64, f: Finding) {
    match all.get_mut(&key) {
        None => {
            all.insert(key, (order, f));
        }
        Some((first, known)) => {
            let count = known.count + f.count;
            if order < *first {
                (*first, *known) = (order, f);
            }
            known.count = count;
        }
    }
}

fn context<'a>(
    kernel: &'a Kernel,
    arena: &'a Arena,
    params: &'a Private,
    spec: &Launch,
    options: &Options,
    alone: bool,
) -> Cx<'a> {
    Cx {
        kernel,
        arena,
        global: arena.view(),
        params,
        block_dim: spec.block,
        checks: options.checks,
        sites: vec![Site::default(); kernel.code.len()],
        stretches: vec![[0; 2]; kernel.code.len()],
        unique_read: 0,
        unique_write: 0,
        words: Words::default(),
        barriers: 0,
        epoch: options.epoch,
        launch_tag: options.epoch % crate::check::race::MAX_LAUNCH,
        touched: arena.touched(),
        race: arena.race(),
        foreign: None,
        last: vec![0; kernel.code.len()],
        alone,
        published: HashMap::new(),
        findings: BTreeMap::new(),
        output: Vec::new(),
        progress: false,
        fine: false,
        out_of_step: false,
        ticks: 0,
        level: options.level,
        deadline: options.deadline,
    }
}

/// The block that runs at a place of the order: identity for seed 0, else a walk with a stride that visits every block.
fn permute(place: u64, blocks: u64, seed: u64) -> u64 {
    if seed == 0 || blocks < 3 {
        return place;
    }
    let mix = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut stride = mix % (blocks - 1) + 1;
    while gcd(stride, blocks) != 1 {
        stride += 1;
    }
    let at = u128::from(place) * u128::from(stride) + u128::from(mix >> 32);
    (at % u128::from(blocks)) as u64
}

/// In which order the warps of a block take turns: by number for seed 0, else shuffled for each block.
fn shuffle(order: &mut [usize], block: u64, seed: u64) {
    if seed == 0 {
        return;
    }
    // A slot is used again for other blocks: the order must not depend on which.
    order.iter_mut().enumerate().for_each(|(place, warp)| *warp = place);
    let mut random = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ block).wrapping_mul(0xd134_2543_de82_ef95);
    for last in (1..order.len()).rev() {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(last, (random >> 33) as usize % (last + 1));
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn run_independent(cx: &mut Cx, spec: &Launch, options: &Options, blocks: u64, next: &AtomicU64, failed: &AtomicU64) {
    let mut slot = new_slot(cx, spec, options);
    loop {
        let place = next.fetch_add(1, Ordering::Relaxed);
        if place >= blocks {
            return;
        }
        let number = permute(place, blocks, options.seed);
        if number > failed.load(Ordering::Relaxed) {
            continue;
        }
        start(cx, &mut slot, spec, number, options.seed);
        loop {
            match turn(cx, &mut slot) {
                Turn::Ran => {}
                Turn::Done => break,
                Turn::Stuck => {
                    if retire(cx, &mut slot) {
                        continue;
                    }
                    if release(&mut slot) {
                        cx.out_of_step = true;
                        continue;
                    }
                    deadlock(cx, std::slice::from_ref(&slot), true);
                    failed.fetch_min(number, Ordering::Relaxed);
                    return;
                }
                Turn::Fault => {
                    failed.fetch_min(number, Ordering::Relaxed);
                    break;
                }
            }
        }
    }
}

/// Blocks that may wait for each other: one at first, and another whenever nobody can go on, as long as they fit.
fn run_coupled(cx: &mut Cx, spec: &Launch, options: &Options, blocks: u64) {
    let mut slots: Vec<Slot> = Vec::new();
    let mut free: Vec<Slot> = Vec::new();
    let mut place = 0;
    let mut admit = if spec.cooperative { blocks } else { 1 };
    loop {
        while admit > 0 && place < blocks && slots.len() < options.resident.max(1) {
            let mut slot = free.pop().unwrap_or_else(|| new_slot(cx, spec, options));
            start(cx, &mut slot, spec, permute(place, blocks, options.seed), options.seed);
            slots.push(slot);
            place += 1;
            admit -= 1;
        }
        if slots.is_empty() {
            return;
        }
        let mut stuck = 0;
        let mut i = 0;
        while i < slots.len() {
            match turn(cx, &mut slots[i]) {
                Turn::Ran => i += 1,
                Turn::Stuck => {
                    stuck += 1;
                    i += 1;
                }
                Turn::Done => {
                    free.push(slots.swap_remove(i));
                    admit = 1;
                }
                Turn::Fault => return,
            }
            if cx.progress {
                cx.progress = false;
                stuck = 0;
                for w in slots.iter_mut().flat_map(|s| &mut s.warps) {
                    w.spinning = false;
                    w.idle = (0, 1);
                }
            }
        }
        if !slots.is_empty() && stuck == slots.len() {
            if place < blocks && slots.len() < options.resident.max(1) {
                admit = 1;
            } else if slots.iter_mut().any(|s| retire(cx, s)) {
                // The next turn completes the barriers that waited for these threads.
            } else if slots.iter_mut().any(release) {
                cx.out_of_step = true;
            } else {
                deadlock(cx, &slots, place == blocks);
                return;
            }
        }
    }
}

fn new_slot(cx: &Cx, spec: &Launch, options: &Options) -> Slot {
    let kernel = cx.kernel;
    let threads = spec.block.iter().product::<u32>();
    let last = kernel.shared_vars.last().map_or(0, |v| v.at + v.bytes);
    let shared = if spec.dynamic_shared == 0 { last } else { kernel.dynamic_place + spec.dynamic_shared };
    let warps: Vec<Warp> = (0..threads.div_ceil(32))
        .map(|id| {
            let mut regs = Regs::new(kernel.words as usize, kernel.preds as usize);
            for &(row, v) in &kernel.consts {
                for lane in 0..LANES {
                    regs.set_lane(row, lane, v);
                }
            }
            // Predicate 1 is true, predicate 0 stays false.
            regs.preds[1] = ALL;
            for &(special, row) in &kernel.specials {
                for lane in 0..LANES {
                    let v = static_special(special, spec, options, kernel, id, lane as u32);
                    regs.set_lane(row, lane, v);
                }
            }
            Warp {
                id,
                regs,
                local: Private::new(kernel.local_bytes as usize * LANES, LIVE),
                groups: Vec::new(),
                joins: Vec::new(),
                live: 0,
                carry: 0,
                copies: AsyncCopies::default(),
                clock: [0; 32],
                together: 0,
                pairs: None,
                released: None,
                released_wide: None,
                turn: 0,
                idle: (0, 1),
                spinning: false,
                quantum: QUANTUM,
            }
        })
        .collect();
    let race_words = if cx.checks.races { 3 * (shared as usize).div_ceil(4) } else { 0 };
    Slot {
        block: Block {
            number: 0,
            index: [0; 3],
            shared: Private::new(shared as usize, LIVE),
            shared_race: vec![0; race_words],
            published: HashMap::new(),
            seen: Arc::default(),
            barriers: vec![Barrier::default(); 16],
            threads,
            exited: 0,
            exit_clock: [0; 32],
            wake: Vec::new(),
        },
        order: (0..warps.len()).collect(),
        warps,
    }
}

fn static_special(s: Special, spec: &Launch, options: &Options, kernel: &Kernel, warp: u32, lane: u32) -> u64 {
    let t = warp * 32 + lane;
    let [x, y, _] = spec.block;
    let v = match s {
        Special::Tid(0) => t % x,
        Special::Tid(1) => t / x % y,
        Special::Tid(_) => t / (x * y),
        Special::Ntid(i) => spec.block.get(i as usize).copied().unwrap_or(0),
        Special::Nctaid(i) => spec.grid.get(i as usize).copied().unwrap_or(0),
        Special::LaneId => lane,
        Special::WarpId => warp,
        Special::NWarpId => 64,
        Special::NSmId => options.sms,
        Special::GridId => options.epoch,
        Special::LaneMaskEq => 1 << lane,
        Special::LaneMaskLe => u32::MAX >> (31 - lane),
        Special::LaneMaskLt => (1 << lane) - 1,
        Special::LaneMaskGe => u32::MAX << lane,
        Special::LaneMaskGt => (u32::MAX << lane) & !(1 << lane),
        Special::DynamicSmem => spec.dynamic_shared,
        Special::TotalSmem => kernel.shared_bytes + spec.dynamic_shared,
        Special::EnvReg(1) => (options.workspace >> 32) as u32,
        Special::EnvReg(2) => options.workspace as u32,
        Special::Ctaid(_) | Special::SmId | Special::EnvReg(_) => 0,
    };
    u64::from(v)
}

/// Puts a block into a slot.
fn start(cx: &mut Cx, slot: &mut Slot, spec: &Launch, number: u64, seed: u64) {
    let [gx, gy, _] = spec.grid.map(u64::from);
    let index = [(number % gx) as u32, (number / gx % gy) as u32, (number / (gx * gy)) as u32];
    shuffle(&mut slot.order, number, seed);
    let block = &mut slot.block;
    block.number = number as u32;
    block.index = index;
    block.exited = 0;
    block.exit_clock = [0; 32];
    block.published.clear();
    block.seen = Arc::default();
    block.barriers.fill(Barrier::default());
    block.wake.clear();
    block.shared.reset();
    let mut end = 0;
    for v in &cx.kernel.shared_vars {
        block.shared.close(end, v.at);
        end = v.at + v.bytes;
    }
    block.shared.close(end, cx.kernel.dynamic_place);
    for warp in &mut slot.warps {
        for &(special, row) in &cx.kernel.specials {
            let v = match special {
                Special::Ctaid(i) => index[i as usize],
                Special::SmId => (number % 108) as u32,
                _ => continue,
            };
            for lane in 0..LANES {
                warp.regs.set_lane(row, lane, u64::from(v));
            }
        }
        warp.live = warp.existing(block);
        warp.groups.clear();
        warp.groups.push(Group { pc: 0, mask: warp.live, join: NONE, state: State::Ready });
        warp.joins.clear();
        warp.copies.clear();
        warp.clock = [0; 32];
        warp.together = 0;
        warp.pairs = None;
        warp.clock[warp.id as usize] = 1;
        warp.released = None;
        warp.released_wide = None;
        warp.turn = 0;
        warp.idle = (0, 1);
        warp.spinning = false;
        warp.quantum = QUANTUM;
        if cx.kernel.local_bytes > 0 {
            warp.local.reset();
        }
    }
}

/// The next group of a warp that can run, after the one that ran last.
fn ready(code: &[Inst], warp: &Warp) -> Option<usize> {
    let n = warp.groups.len();
    (1..=n).map(|i| (warp.turn + i) % n).find(|&i| match warp.groups[i].state {
        State::Ready => true,
        State::Sync(want) => {
            // Those it waits for may have come, or left, since.
            let partners = warp_ops::partners(code, warp, warp.groups[i].pc as usize, want);
            partners.fold(want & warp.live, |left, i| left & !warp.groups[i].mask) == 0
        }
        _ => false,
    })
}

/// One turn of every warp of a block.
fn turn(cx: &mut Cx, slot: &mut Slot) -> Turn {
    let Slot { block, warps, order } = slot;
    if let Some((_, seconds)) = cx.deadline.filter(|d| Instant::now() > d.0)
        && let Some(warp) = warps.iter().find(|w| w.live != 0)
    {
        let group = warp.groups.iter().find(|g| g.state == State::Ready).or(warp.groups.first());
        let (pc, mask) = group.map_or((0, warp.live), |g| (g.pc, g.mask));
        let message = format!("the launch has not ended after {seconds} seconds; this is one of the places it is at");
        cx.report(block, warp, pc as usize, mask.trailing_zeros() as usize & 31, Kind::TimeLimit, message);
        return Turn::Fault;
    }
    let mut able = false;
    let mut alive = false;
    for &w in order.iter() {
        if warps[w].live == 0 {
            continue;
        }
        alive = true;
        // A warp keeps its turn until its quantum is spent or no group of it can go on.
        loop {
            let warp = &mut warps[w];
            let Some(group) = ready(&cx.kernel.code, warp) else { break };
            warp.turn = group;
            warp.groups[group].state = State::Ready;
            let before = std::mem::replace(&mut cx.progress, false);
            let stop = run_group(cx, block, warp, group);
            let progress = cx.progress;
            cx.progress |= before;
            if stop == Stop::Fault {
                return Turn::Fault;
            }
            if stop == Stop::Yield {
                warps[w].quantum = (2 * warps[w].quantum).min(QUANTUM);
            }
            if stop == Stop::Yield && !progress {
                idle(cx, block, &mut warps[w], group);
            } else {
                warps[w].spinning = false;
                warps[w].idle = (0, 1);
            }
            able |= !warps[w].spinning;
            for barrier in std::mem::take(&mut block.wake) {
                warp_ops::wake(cx, block, warps, &barrier);
                able = true;
            }
            if stop == Stop::Yield || warps[w].live == 0 {
                break;
            }
        }
    }
    if !alive {
        return Turn::Done;
    }
    if block.exited > 0 {
        warp_ops::settle_barriers(cx, block, warps);
        for barrier in std::mem::take(&mut block.wake) {
            warp_ops::wake(cx, block, warps, &barrier);
            able = true;
        }
    }
    if warps.iter().all(|w| w.live == 0) {
        return Turn::Done;
    }
    if able { Turn::Ran } else { Turn::Stuck }
}

/// A turn passed in which the warp changed nothing. At growing distances the loop it is in is watched turn by turn: if
/// the registers come back to what they were, nothing inside the warp will ever end it.
fn idle(cx: &mut Cx, block: &mut Block, warp: &mut Warp, group: usize) {
    warp.idle.0 += 1;
    if warp.idle.0 < warp.idle.1 || warp.spinning {
        return;
    }
    warp.idle.1 *= 2;
    let place = |w: &Warp| (w.groups[group].pc, w.groups[group].mask);
    // A copy rather than a hash: in a loop that computes, the comparison ends at the first register that changed.
    let (start, regs) = (place(warp), warp.regs.clone());
    cx.fine = true;
    for _ in 0..256 {
        let stop = run_group(cx, block, warp, group);
        if stop != Stop::Yield || cx.progress {
            cx.fine = false;
            return;
        }
        if place(warp) == start && warp.regs == regs {
            cx.fine = false;
            warp.spinning = !others_ready(warp, group);
            warp.quantum = 128;
            return;
        }
    }
    cx.fine = false;
}

/// Lanes that wait for those of their warp that stand at a barrier, only to exit with them: lets them exit.
fn retire(cx: &mut Cx, slot: &mut Slot) -> bool {
    let Slot { block, warps, .. } = slot;
    let waits = |w: &&mut Warp| w.groups.iter().any(|g| matches!(g.state, State::Barrier(_)));
    warps.iter_mut().filter(waits).any(|w| warp_ops::retire(cx, block, w, None))
}

/// Lanes that wait at a meeting point may hold what the others of their warp need, be it that those spin or that they
/// stand at a `.sync` operation whose mask names the waiting ones: lets the waiting ones of one warp go on.
fn release(slot: &mut Slot) -> bool {
    let blocked = |w: &Warp| w.spinning || w.groups.iter().any(|g| matches!(g.state, State::Sync(_)));
    slot.warps.iter_mut().filter(|w| blocked(w)).any(|w| {
        let released = w.release_waiters();
        w.spinning &= !released;
        released
    })
}

fn others_ready(warp: &Warp, group: usize) -> bool {
    warp.groups.iter().enumerate().any(|(i, g)| i != group && g.state == State::Ready)
}

/// Reports who waits for what.
fn deadlock(cx: &mut Cx, slots: &[Slot], all_started: bool) {
    let mut lines = Vec::new();
    let mut at = None;
    for slot in slots {
        for barrier in &slot.block.barriers {
            warp_ops::judge(cx, &slot.block, &slot.warps, barrier);
        }
        for warp in slot.warps.iter().filter(|w| w.live != 0) {
            for g in warp.groups.iter().filter(|g| g.state != State::Dead) {
                let (pc, what) = match g.state {
                    State::Barrier(id) => {
                        let b = &slot.block.barriers[id as usize];
                        let missing: Vec<String> =
                            slot.warps.iter().filter(|w| b.warps >> w.id & 1 == 0).map(|w| w.id.to_string()).collect();
                        let missing = match missing.is_empty() {
                            true => "other threads of the same warps".to_string(),
                            false => format!("warps {}", missing.join(", ")),
                        };
                        (g.pc - 1, format!("waits at barrier {id} for {missing}"))
                    }
                    State::Sync(want) => (g.pc, format!("waits for lanes {:#010x} of its warp", want & !g.mask)),
                    _ => (g.pc, "spins in a loop that nothing can end".to_string()),
                };
                at.get_or_insert((slot, warp, pc, g.mask));
                if lines.len() < 8 {
                    let line = cx.kernel.places.get(pc as usize).map_or(0, |p| p.ptx);
                    lines.push(format!(
                        "block {} warp {} lanes {:#010x} {what} (PTX line {line})",
                        slot.block.number, warp.id, g.mask
                    ));
                }
            }
        }
    }
    if !all_started {
        lines.push("the remaining blocks have no room to start".to_string());
    }
    if let Some((slot, warp, pc, mask)) = at {
        let message = format!("no thread can go on: {}", lines.join("; "));
        cx.report(&slot.block, warp, pc as usize, mask.trailing_zeros() as usize & 31, Kind::Deadlock, message);
    }
}
