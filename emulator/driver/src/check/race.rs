//! Races. Every 4-byte word of global and shared memory remembers its last writer and two readers: launch, block, warp,
//! lane, and the logical time of that warp. Warps keep vector clocks that barriers join, so an access is ordered after
//! another exactly when a barrier, or a fence followed by an atomic, lies between them; between blocks both must reach
//! further than `.cta`. Lanes of one warp are ordered by
//! barriers and by `__syncwarp`, of which one with a part of the warp orders that part. Words written by several
//! threads byte by byte keep only the last of them: some races among bytes of one word go unseen, none is invented.
//! The records of earlier launches stay, and tell of those in other streams that nothing orders before this one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::check::arena::Arena;
use crate::check::finding::Kind;
use crate::check::order::{self, Act, Foreign, Operation};
use crate::exec::memory::{Intent, Request};
use crate::exec::op::{Access, Strength};
use crate::exec::regs::{LANES, lanes};
use crate::exec::run::{Block, Cx, Warp};
use crate::ptx::ast::Space;

/// Logical times of the warps of one block.
pub type Clock = [u32; 32];

/// What a block knows of others: the times up to which their work is ordered before its own.
pub type Seen = Arc<HashMap<u32, Clock>>;

const CLOCK_BITS: u32 = 17;
/// Blocks beyond this number are not tracked.
pub const MAX_BLOCKS: u64 = 1 << 19;
/// Launches before the records must be forgotten.
pub const MAX_LAUNCH: u32 = 1 << 12;

/// Parts of a packed record.
const LAUNCH: u64 = 0xfff << 52;
const THREAD: u64 = 0x7_ffff << 33 | 0x3ff << 23;
const LANE: u64 = 31 << 23;
const BYTES: u64 = 15;

#[derive(Clone, Copy)]
struct Record {
    launch: u32,
    block: u32,
    warp: u32,
    lane: u32,
    clock: u32,
    strong: Strength,
    bytes: u32,
}

impl Record {
    /// Records of shared memory live no longer than their launch: they need no number of it, and their clock has the room.
    fn pack(self, shared: bool) -> u64 {
        u64::from(if shared { self.clock >> CLOCK_BITS } else { self.launch }) << 52
            | u64::from(self.block) << 33
            | u64::from(self.warp) << 28
            | u64::from(self.lane) << 23
            | u64::from(self.clock & ((1 << CLOCK_BITS) - 1)) << 6
            | (self.strong as u64) << 4
            | u64::from(self.bytes)
    }

    fn unpack(v: u64, shared: bool) -> Record {
        let high = (v >> 52) as u32;
        Record {
            launch: if shared { 0 } else { high },
            block: (v >> 33) as u32 & 0x7_ffff,
            warp: (v >> 28) as u32 & 31,
            lane: (v >> 23) as u32 & 31,
            clock: (v >> 6) as u32 & ((1 << CLOCK_BITS) - 1) | if shared { high << CLOCK_BITS } else { 0 },
            strong: [Strength::Weak, Strength::Block, Strength::Device, Strength::Device][(v >> 4) as usize & 3],
            bytes: v as u32 & 15,
        }
    }
}

/// Whether two accesses are of the kind that may meet ("morally strong").
fn both_strong(old: &Record, strong: Strength, same_block: bool) -> bool {
    old.strong.min(strong) >= if same_block { Strength::Block } else { Strength::Device }
}

/// Whether the access in `old` comes before what any lane of this warp does now.
fn ordered(block: &Block, warp: &Warp, old: &Record) -> bool {
    if old.block != block.number {
        return block.seen.get(&old.block).is_some_and(|c| c[old.warp as usize] >= old.clock);
    }
    if old.warp == warp.id {
        return warp.together >= old.clock;
    }
    warp.clock[old.warp as usize] >= old.clock
}

/// Whether some `__syncwarp` with a part of the warp puts the access in `old` before what a lane does now.
fn paired(warp: &Warp, lane: usize, old: &Record) -> bool {
    old.warp == warp.id && warp.pairs.as_ref().is_some_and(|p| p[lane][old.lane as usize] >= old.clock)
}

/// Checks and records one request.
#[inline(never)]
pub fn access(cx: &mut Cx, block: &mut Block, warp: &Warp, pc: usize, r: &Request, intent: Intent, strong: Strength) {
    // First all lanes are checked, then all are recorded: lanes of one instruction do not race with each other. What raced
    // is recorded too: the next thread may race with it at another place.
    compare(cx, block, warp, pc, r, intent, strong, None);
    note(cx, block, warp, r, writes(intent), strong);
}

/// Where the records of a request lie, if there are any.
#[inline(always)]
fn records(cx: &Cx, block: &mut Block, r: &Request) -> Option<*mut u64> {
    let base = match r.space {
        Space::Global => cx.race,
        Space::Shared => block.shared_race.as_mut_ptr(),
        _ => return None,
    };
    (u64::from(block.number) < MAX_BLOCKS).then_some(base)
}

/// Checks a request. Stores say what they are about to write.
#[inline(never)]
pub fn compare(
    cx: &mut Cx,
    block: &mut Block,
    warp: &Warp,
    pc: usize,
    r: &Request,
    intent: Intent,
    strong: Strength,
    stored: Option<&Access>,
) {
    let Some(base) = records(cx, block, r) else { return };
    let writes = writes(intent);
    if let Some(foreign) = cx.foreign.filter(|f| f.has_uses() && r.space == Space::Global) {
        check_uses(cx, block, warp, pc, r, writes, foreign);
    }
    if writes {
        check::<3>(cx, block, warp, pc, r, intent, strong, stored, base);
    } else {
        check::<1>(cx, block, warp, pc, r, intent, strong, None, base);
    }
}

/// Records a request.
#[inline(never)]
pub fn note(cx: &Cx, block: &mut Block, warp: &Warp, r: &Request, writes: bool, strong: Strength) {
    let Some(base) = records(cx, block, r) else { return };
    let me = Record {
        launch: cx.launch_tag,
        block: block.number,
        warp: warp.id,
        lane: 0,
        clock: warp.clock[warp.id as usize],
        strong,
        bytes: 0,
    }
    .pack(r.space == Space::Shared);
    for lane in lanes(r.mask) {
        let me = me | (lane as u64) << LANE.trailing_zeros() | u64::from(byte_mask(r, lane));
        for w in 0..words(r) {
            // SAFETY: as in `check`.
            let slots = unsafe { slots(base, r.at[lane] / 4 + w) };
            record(slots, me, writes, r.space == Space::Shared, cx.foreign);
        }
    }
}

#[inline(always)]
fn writes(intent: Intent) -> bool {
    matches!(intent, Intent::Write | Intent::Atomic | Intent::CopyWrite)
}

/// Compares a request with the copies and fills of other streams that nothing orders before this launch.
#[inline(never)]
fn check_uses(cx: &mut Cx, block: &Block, warp: &Warp, pc: usize, r: &Request, writes: bool, foreign: &Foreign) {
    for lane in lanes(r.mask) {
        let at = r.view.base + r.at[lane];
        let range = at..at + u64::from(r.bytes);
        if let Some((at, u)) = foreign.conflict(&range, !writes) {
            return unordered(cx, block, warp, pc, lane, at, writes, (u.act, &u.by));
        }
    }
}

/// Reports a conflict with an operation of another stream.
#[inline(never)]
fn unordered(
    cx: &mut Cx,
    block: &Block,
    warp: &Warp,
    pc: usize,
    lane: usize,
    at: u64,
    writes: bool,
    first: (Act, &Operation),
) {
    let Some(foreign) = cx.foreign else { return };
    let act = if writes { Act::Write } else { Act::Read };
    let message = order::sentence((act, &foreign.me), first, at, cx.arena);
    cx.report(block, warp, pc, lane, Kind::StreamRace, message);
}

/// The first byte of a range that some launch used, and conflicts with a read or a write of all of it: its address, the
/// number of the launch, and whether that wrote.
pub fn find_launch(
    arena: &Arena,
    range: &std::ops::Range<u64>,
    reads: bool,
    which: impl Fn(u32) -> bool,
) -> Option<(u64, u32, bool)> {
    let base = arena.view().base;
    let (from, to) = (range.start - base, range.end - base);
    for word in from / 4..to.div_ceil(4) {
        // SAFETY: callers pass ranges of allocations, and there are three records per word of the arena.
        let slots = unsafe { slots(arena.race(), word) };
        for (i, slot) in slots.iter().enumerate().take(if reads { 1 } else { 3 }) {
            let old = Record::unpack(slot.load(Relaxed), false);
            let mine = |byte: u64| old.bytes >> byte & 1 != 0 && (from..to).contains(&(4 * word + byte));
            if old.bytes != 0
                && which(old.launch)
                && let Some(byte) = (0..4).find(|&b| mine(b))
            {
                return Some((base + 4 * word + byte, old.launch, i == 0));
            }
        }
    }
    None
}

/// Words of a lane.
#[inline(always)]
fn words(r: &Request) -> u64 {
    u64::from(r.bytes).div_ceil(4)
}

/// Bytes of its words that a lane touches.
#[inline(always)]
fn byte_mask(r: &Request, lane: usize) -> u32 {
    if r.bytes >= 4 { 15 } else { ((1u32 << r.bytes) - 1) << (r.at[lane] & 3) }
}

/// Looks for a conflict with the first `SLOTS` records of the words of a request: a read only conflicts with the writer.
fn check<const SLOTS: usize>(
    cx: &mut Cx,
    block: &Block,
    warp: &Warp,
    pc: usize,
    r: &Request,
    intent: Intent,
    strong: Strength,
    stored: Option<&Access>,
    base: *mut u64,
) {
    let shared = r.space == Space::Shared;
    // Words that are accessed together were mostly written together: records differ in nothing but the lane. The last
    // one that no lane of this warp can conflict with, without its lane, vouches for all that look the same.
    let mut harmless = [0; SLOTS];
    for lane in lanes(r.mask) {
        for w in 0..words(r) {
            let word = r.at[lane] / 4 + w;
            // SAFETY: `memory::check` found the bytes inside the view, and there are three records per word of it.
            let slots = unsafe { slots(base, word) };
            for i in 0..SLOTS {
                let raw = slots[i].load(Acquire);
                if raw & BYTES == 0 || raw & !LANE == harmless[i] {
                    continue;
                }
                let old = Record::unpack(raw, shared);
                if !shared && old.launch != cx.launch_tag {
                    let overlap = old.bytes & byte_mask(r, lane);
                    match cx.foreign.filter(|f| f.launch(old.launch) && !both_strong(&old, strong, false)) {
                        None => harmless[i] = raw & !LANE,
                        Some(_) if overlap == 0 => {}
                        Some(f) => {
                            let first = if i == 0 { Act::Write } else { Act::Read };
                            let at = r.view.base + 4 * word + u64::from(overlap.trailing_zeros());
                            let first = (first, &f.by(old.launch));
                            return unordered(cx, block, warp, pc, lane, at, writes(intent), first);
                        }
                    }
                    continue;
                }
                let same_launch = !shared || old.block == block.number;
                let same_block = old.block == block.number;
                let before = both_strong(&old, strong, same_block) || ordered(block, warp, &old);
                if !same_launch || (before && intent != Intent::ReadOnly) {
                    harmless[i] = raw & !LANE;
                    continue;
                }
                let same_thread = (old.block, old.warp, old.lane) == (block.number, warp.id, lane as u32);
                if old.bytes & byte_mask(r, lane) == 0 {
                    continue;
                }
                if before || same_thread || (same_block && paired(warp, lane, &old)) {
                    if intent == Intent::ReadOnly {
                        return stale(cx, block, warp, pc, lane, r.view.base + 4 * word, &old);
                    }
                    continue;
                }
                // Whoever of two writers of one value comes last: the value stays.
                let overlap = old.bytes & byte_mask(r, lane);
                if i == 0
                    && strong == Strength::Weak
                    && old.strong == Strength::Weak
                    && stored.is_some_and(|a| same_value(warp, a, r, lane, word, overlap))
                {
                    continue;
                }
                conflict(cx, block, warp, pc, lane, r, 4 * word, intent, &old, i == 0, shared);
                return;
            }
        }
    }
}

/// # Safety
/// `word` must lie inside the memory that `base` keeps records for.
unsafe fn slots<'a>(base: *mut u64, word: u64) -> &'a [AtomicU64; 3] {
    // SAFETY: the caller vouches for the word; records are only ever accessed as atomics.
    unsafe { &*base.add(3 * word as usize).cast::<[AtomicU64; 3]>() }
}

/// Notes a packed access in the records of a word.
#[inline(always)]
fn record(slots: &[AtomicU64; 3], me: u64, writes: bool, shared: bool, foreign: Option<&Foreign>) {
    // The same thread at the same time: its bytes add up.
    let joined = |old: u64| if (old ^ me) & !BYTES == 0 { old | me } else { me };
    if writes {
        let whole = me & BYTES == BYTES;
        // Whoever sees the record of a store sees its value too: see `same_value`.
        slots[0].store(if whole { me } else { joined(slots[0].load(Relaxed)) }, Release);
        return;
    }
    // Two different readers are enough to contradict any writer; the older of them makes room.
    let first = slots[1].load(Relaxed);
    let differs = first ^ me;
    // Readers of launches in other streams stay as long as this one does not know them.
    let foreign = foreign.filter(|_| !shared);
    let stays = |raw: u64| foreign.is_some_and(|f| raw & BYTES != 0 && f.launch((raw >> 52) as u32));
    let another = (shared || differs & LAUNCH == 0) && first & BYTES != 0 && differs & THREAD != 0;
    if (another && !stays(slots[2].load(Relaxed))) || stays(first) {
        slots[2].store(first, Relaxed);
    }
    slots[1].store(joined(first), Relaxed);
}

/// Whether a lane is about to store what some bytes of a word hold already.
#[inline(never)]
fn same_value(warp: &Warp, a: &Access, r: &Request, lane: usize, word: u64, bytes: u32) -> bool {
    let mut new = [0; 16];
    for (piece, &row) in new.chunks_exact_mut(a.elem as usize).zip(&a.regs) {
        piece.copy_from_slice(&warp.regs.lane(row, lane).to_le_bytes()[..a.elem as usize]);
    }
    (0..4).filter(|b| bytes >> b & 1 != 0).map(|b| 4 * word + b).all(|at| {
        // SAFETY: `memory::check` found the bytes of the lane inside the view, and `bytes` are some of them. Other host
        // threads may write them now, which can only change a verdict about a program that races with itself.
        let old = unsafe { r.view.data.add(at as usize).read_volatile() };
        old == new[(at - r.at[lane]) as usize]
    })
}

/// Reports a read through the read-only cache of a word that the same launch has written.
#[inline(never)]
fn stale(cx: &mut Cx, block: &Block, warp: &Warp, pc: usize, lane: usize, address: u64, old: &Record) {
    let message = format!(
        "read after write at global address {address:#x} ({}): the word was written by block {} (warp {}, lane {}) of this \
         launch, and `.nc` reads through a cache that may not see it: what __ldg and const __restrict__ pointers read must \
         not change while the kernel runs",
        cx.arena.locate(address),
        old.block,
        old.warp,
        old.lane
    );
    cx.report(block, warp, pc, lane, Kind::GlobalRace, message);
}

#[inline(never)]
#[allow(clippy::too_many_arguments)]
fn conflict(
    cx: &mut Cx,
    block: &Block,
    warp: &Warp,
    pc: usize,
    lane: usize,
    r: &Request,
    word: u64,
    intent: Intent,
    old: &Record,
    old_wrote: bool,
    shared: bool,
) {
    let writes = writes(intent);
    let class = match (old_wrote, writes) {
        (true, false) => "read after write",
        (true, true) => "write after write",
        _ => "write after read",
    };
    let verb = if old_wrote { "written" } else { "read" };
    let atomic = match old.strong {
        Strength::Weak => "",
        Strength::Block if old.block != block.number => " atomically, but only for its own block,",
        _ => " atomically",
    };
    let (who, remedy) = if old.block != block.number {
        (
            format!("block {} (warp {}, lane {})", old.block, old.warp, old.lane),
            "blocks of a launch are unordered unless a fence and an atomic order them",
        )
    } else if old.warp != warp.id {
        (format!("warp {}, lane {}", old.warp, old.lane), "no barrier lies between them")
    } else {
        (format!("lane {} of the same warp", old.lane), "no __syncwarp or barrier lies between them")
    };
    let (kind, space) = if shared { (Kind::SharedRace, "shared") } else { (Kind::GlobalRace, "global") };
    let address = word + r.view.base;
    let place = if shared { String::new() } else { format!(" ({})", cx.arena.locate(address)) };
    let message =
        format!("{class} at {space} address {address:#x}{place}: the word was {verb}{atomic} by {who}, and {remedy}");
    cx.report(block, warp, pc, lane, kind, message);
}

/// A fence: what the warp knows now is what its next atomic may publish, to other blocks only if the fence is `wide`.
pub fn fence(warp: &mut Warp, wide: bool) {
    warp.released = Some(warp.clock);
    if wide {
        warp.released_wide = Some(warp.clock);
    }
    tick(warp);
}

/// Lets time pass for a warp.
pub fn tick(warp: &mut Warp) {
    warp.clock[warp.id as usize] += 1;
}

/// Orders the accesses of lanes that meet at a `__syncwarp`: what they did so far before what they do from now on.
pub fn meet(warp: &mut Warp, here: u32) {
    let now = warp.clock[warp.id as usize];
    if here == warp.live {
        warp.together = now;
    } else {
        let pairs = warp.pairs.get_or_insert_with(|| Box::new([[0; LANES]; LANES]));
        let mut known = [0; LANES];
        for lane in lanes(here) {
            for (a, b) in known.iter_mut().zip(&pairs[lane]) {
                *a = (*a).max(*b);
            }
        }
        for lane in lanes(here) {
            known[lane] = now;
        }
        for lane in lanes(here) {
            pairs[lane] = known;
        }
    }
    tick(warp);
}

/// A warp learns what others knew. They may have learned of its own accesses: those come before it then too.
pub fn learn(warp: &mut Warp, from: &Clock) {
    join(&mut warp.clock, from);
    warp.together = warp.together.max(from[warp.id as usize]);
}

/// Joins two clocks.
pub fn join(into: &mut Clock, from: &Clock) {
    for (a, b) in into.iter_mut().zip(from) {
        *a = (*a).max(*b);
    }
}

/// The place of a global address among those of a block.
fn global(at: u64) -> u64 {
    at | 1 << 63
}

/// An atomic takes over what was published at its address, and publishes what a fence before it covered.
pub fn synchronise(cx: &mut Cx, block: &mut Block, warp: &mut Warp, r: &Request, strong: Strength, release: bool) {
    if release {
        fence(warp, strong == Strength::Device);
    }
    for lane in lanes(r.mask) {
        let at = r.at[lane];
        let key = if r.space == Space::Shared { at } else { global(at) };
        if let Some(place) = block.published.get(&key) {
            learn(warp, place);
        }
        if let Some(c) = &warp.released {
            join(block.published.entry(key).or_insert([0; 32]), c);
        }
        if r.space == Space::Shared || strong != Strength::Device {
            continue;
        }
        if let Some(known) = cx.published.get(&at)
            && !Arc::ptr_eq(known, &block.seen)
        {
            let seen = Arc::make_mut(&mut block.seen);
            for (&b, c) in known.iter() {
                join(seen.entry(b).or_insert([0; 32]), c);
            }
        }
        if let Some(c) = &warp.released_wide {
            let place = Arc::make_mut(cx.published.entry(at).or_default());
            join(place.entry(block.number).or_insert([0; 32]), c);
            for (&b, c) in block.seen.iter() {
                join(place.entry(b).or_insert([0; 32]), c);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::order::{Clock, History};

    fn reader(launch: u32, block: u32) -> u64 {
        Record { launch, block, warp: 0, lane: 0, clock: 1, strong: Strength::Weak, bytes: 15 }.pack(false)
    }

    #[test]
    fn readers_of_unordered_launches_are_not_displaced_by_many_of_this_one() {
        let (mut a, b, mut history) = (Clock::default(), Clock::default(), History::default());
        let other = Operation { stamp: a.advance(0), ..Operation::default() };
        history.launch(5, other);
        for (clock, kept) in [(&b, true), (&a, false)] {
            let foreign = history.foreign(&Operation::default(), clock);
            let slots: [AtomicU64; 3] = Default::default();
            record(&slots, reader(5, 0), false, false, None);
            for block in 0..4 {
                record(&slots, reader(6, block), false, false, foreign.as_ref());
            }
            let launches = slots.map(|s| Record::unpack(s.into_inner(), false).launch);
            assert_eq!(launches, [0, 6, if kept { 5 } else { 6 }]);
        }
    }
}
