//! Races. Every 4-byte word of global and shared memory remembers its last writer and two readers: launch, block, warp,
//! lane, and the logical time of that warp. Warps keep vector clocks that barriers join, so an access is ordered after
//! another exactly when a barrier, or a fence followed by an atomic, lies between them. Words written by several
//! threads byte by byte keep only the last of them: some races among bytes of one word go unseen, none is invented.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::check::finding::Kind;
use crate::exec::memory::{Intent, Request};
use crate::exec::regs::lanes;
use crate::exec::run::{Block, Cx, Warp};
use crate::ptx::ast::Space;

/// Logical times of the warps of one block.
pub type Clock = [u32; 32];

/// What a block knows of others: the times up to which their work is ordered before its own.
pub type Seen = Arc<HashMap<u32, Clock>>;

const CLOCK_BITS: u32 = 17;
/// Blocks beyond this number are not tracked.
pub const MAX_BLOCKS: u64 = 1 << 20;
/// Launches before the records must be forgotten.
pub const MAX_LAUNCH: u32 = 1 << 12;

#[derive(Clone, Copy)]
struct Record {
    launch: u32,
    block: u32,
    warp: u32,
    lane: u32,
    clock: u32,
    strong: bool,
    bytes: u32,
}

impl Record {
    fn pack(self) -> u64 {
        u64::from(self.launch) << 52
            | u64::from(self.block) << 32
            | u64::from(self.warp) << 27
            | u64::from(self.lane) << 22
            | u64::from(self.clock & ((1 << CLOCK_BITS) - 1)) << 5
            | u64::from(self.strong) << 4
            | u64::from(self.bytes)
    }

    fn unpack(v: u64) -> Record {
        Record {
            launch: (v >> 52) as u32,
            block: (v >> 32) as u32 & 0xf_ffff,
            warp: (v >> 27) as u32 & 31,
            lane: (v >> 22) as u32 & 31,
            clock: (v >> 5) as u32 & ((1 << CLOCK_BITS) - 1),
            strong: v >> 4 & 1 == 1,
            bytes: v as u32 & 15,
        }
    }
}

/// Whether the access in `old` comes before what this thread does now.
fn ordered(block: &Block, warp: &Warp, lane: u32, old: &Record) -> bool {
    if old.block != block.number {
        return block.seen.get(&old.block).is_some_and(|c| c[old.warp as usize] >= old.clock);
    }
    if old.warp == warp.id {
        return old.lane == lane || warp.clock[warp.id as usize] > old.clock;
    }
    warp.clock[old.warp as usize] >= old.clock
}

/// Checks and records one request.
pub fn access(cx: &mut Cx, block: &mut Block, warp: &Warp, pc: usize, r: &Request, intent: Intent, strong: bool) {
    let (base, shared) = match r.space {
        Space::Global => (cx.race, false),
        Space::Shared => (block.shared_race.as_mut_ptr(), true),
        _ => return,
    };
    if u64::from(block.number) >= MAX_BLOCKS {
        return;
    }
    let writes = matches!(intent, Intent::Write | Intent::Atomic | Intent::CopyWrite);
    let words = (r.bytes as u64).div_ceil(4);
    let byte_mask = |at: u64| if r.bytes >= 4 { 15 } else { ((1u32 << r.bytes) - 1) << (at & 3) };
    // First all lanes are checked, then all are recorded: lanes of one instruction do not race with each other. What raced
    // is recorded too: the next thread may race with it at another place.
    'check: for lane in lanes(r.mask) {
        for w in 0..words {
            let word = r.at[lane] / 4 + w;
            // SAFETY: `memory::check` found the bytes inside the view, and there are three records per word of it.
            let slots = unsafe { slots(base, word) };
            let tests = if writes { &slots[..] } else { &slots[..1] };
            for (i, slot) in tests.iter().enumerate() {
                let old = Record::unpack(slot.load(Relaxed));
                let same_launch =
                    old.bytes != 0 && old.launch == cx.launch_tag && (!shared || old.block == block.number);
                if !same_launch
                    || old.bytes & byte_mask(r.at[lane]) == 0
                    || (old.strong && strong)
                    || ordered(block, warp, lane as u32, &old)
                {
                    continue;
                }
                conflict(cx, block, warp, pc, lane, r, 4 * word, intent, &old, i == 0, shared);
                break 'check;
            }
        }
    }
    for lane in lanes(r.mask) {
        let me = Record {
            launch: cx.launch_tag,
            block: block.number,
            warp: warp.id,
            lane: lane as u32,
            clock: warp.clock[warp.id as usize],
            strong,
            bytes: byte_mask(r.at[lane]),
        };
        for w in 0..words {
            // SAFETY: as above.
            let slots = unsafe { slots(base, r.at[lane] / 4 + w) };
            record(slots, me, writes);
        }
    }
}

/// # Safety
/// `word` must lie inside the memory that `base` keeps records for.
unsafe fn slots<'a>(base: *mut u64, word: u64) -> &'a [AtomicU64; 3] {
    // SAFETY: the caller vouches for the word; records are only ever accessed as atomics.
    unsafe { &*base.add(3 * word as usize).cast::<[AtomicU64; 3]>() }
}

fn record(slots: &[AtomicU64; 3], me: Record, writes: bool) {
    let same_agent = |old: &Record| {
        old.bytes != 0
            && old.launch == me.launch
            && old.block == me.block
            && old.warp == me.warp
            && old.lane == me.lane
            && old.strong == me.strong
            && old.clock == me.clock
    };
    if writes {
        let old = Record::unpack(slots[0].load(Relaxed));
        let bytes = if same_agent(&old) { old.bytes | me.bytes } else { me.bytes };
        slots[0].store(Record { bytes, ..me }.pack(), Relaxed);
        return;
    }
    // Two different readers are enough to contradict any writer; the older of them makes room.
    let first = Record::unpack(slots[1].load(Relaxed));
    let bytes = if same_agent(&first) { first.bytes | me.bytes } else { me.bytes };
    let different = first.launch == me.launch
        && first.bytes != 0
        && (first.block, first.warp, first.lane) != (me.block, me.warp, me.lane);
    if different {
        slots[2].store(first.pack(), Relaxed);
    }
    slots[1].store(Record { bytes, ..me }.pack(), Relaxed);
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
    let writes = matches!(intent, Intent::Write | Intent::Atomic | Intent::CopyWrite);
    let class = match (old_wrote, writes) {
        (true, false) => "read after write",
        (true, true) => "write after write",
        _ => "write after read",
    };
    let verb = if old_wrote { "written" } else { "read" };
    let atomic = if old.strong { " atomically" } else { "" };
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

/// A fence: what the warp knows now is what its next atomic may publish.
pub fn fence(warp: &mut Warp) {
    warp.released = Some(warp.clock);
    tick(warp);
}

/// Lets time pass for a warp.
pub fn tick(warp: &mut Warp) {
    warp.clock[warp.id as usize] += 1;
}

/// Joins two clocks.
pub fn join(into: &mut Clock, from: &Clock) {
    for (a, b) in into.iter_mut().zip(from) {
        *a = (*a).max(*b);
    }
}

/// An atomic takes over what was published at its address, and publishes what a fence before it covered.
pub fn synchronise(cx: &mut Cx, block: &mut Block, warp: &mut Warp, r: &Request, release: bool) {
    if release {
        fence(warp);
    }
    for lane in lanes(r.mask) {
        let at = r.at[lane];
        if r.space == Space::Shared {
            let place = block.published.entry(at).or_insert([0; 32]);
            join(&mut warp.clock, place);
            if let Some(c) = &warp.released {
                join(place, c);
            }
            continue;
        }
        if let Some(known) = cx.published.get(&at) {
            if let Some(c) = known.get(&block.number) {
                join(&mut warp.clock, c);
            }
            if !Arc::ptr_eq(known, &block.seen) {
                let seen = Arc::make_mut(&mut block.seen);
                for (&b, c) in known.iter() {
                    join(seen.entry(b).or_insert([0; 32]), c);
                }
            }
        }
        if let Some(c) = &warp.released {
            let place = Arc::make_mut(cx.published.entry(at).or_default());
            join(place.entry(block.number).or_insert([0; 32]), c);
            for (&b, c) in block.seen.iter() {
                join(place.entry(b).or_insert([0; 32]), c);
            }
        }
    }
}
