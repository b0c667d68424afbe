//! `cp.async`: the bytes are read when the copy is issued and delivered at the wait that covers it. Until then the
//! destination holds a poison pattern and is marked pending, so that a missing wait cannot go unnoticed.

use super::memory::{self, Intent};
use super::op::{CpAsync, NONE, Strength};
use super::regs::*;
use super::run::{Block, Cx, Queue, Stop, Warp};
use crate::check::arena::{LIVE, PENDING, READY};
use crate::check::race;
use crate::ptx::ast::Space;

/// One lane's copy.
#[derive(Debug, Clone, Copy)]
struct Copy {
    lane: u8,
    bytes: u8,
    dst: u32,
    data: [u8; 16],
}

/// The copies a warp has under way.
#[derive(Debug, Default)]
pub struct AsyncCopies {
    /// Issued, not committed.
    open: Vec<Copy>,
    /// Committed groups, oldest first, with the lanes that committed them.
    groups: Queue<(u32, Vec<Copy>)>,
    /// Emptied lists, to be used again.
    spare: Vec<Vec<Copy>>,
}

impl AsyncCopies {
    /// `cp.async.commit_group`.
    pub fn commit(&mut self, m: u32) {
        let mut list = self.spare.pop().unwrap_or_default();
        if m == ALL {
            std::mem::swap(&mut list, &mut self.open);
        } else {
            list.extend(self.open.iter().filter(|c| m >> c.lane & 1 != 0));
            self.open.retain(|c| m >> c.lane & 1 == 0);
        }
        self.groups.push_back((m, list));
    }

    /// Forgets everything (a new block starts).
    pub fn clear(&mut self) {
        self.open.clear();
        self.groups.clear();
    }
}

/// `cp.async`.
pub fn issue(cx: &mut Cx, block: &mut Block, warp: &mut Warp, c: &CpAsync, pc: usize, mask: u32) -> Result<(), Stop> {
    let dst = memory::addresses(&warp.regs, c.dst.0, c.dst.1);
    let src = memory::addresses(&warp.regs, c.src.0, c.src.1);
    let (to, _) = memory::request(cx, block, warp, Space::Shared, &dst, mask, c.bytes);
    memory::check(cx, block, warp, pc, &to, Intent::CopyWrite, u32::MAX)?;
    let ignored = c.ignore.map_or(0, |p| warp.pred(p));
    // Lanes that read the whole piece go together; shorter reads lane by lane.
    let mut whole = mask & !ignored;
    let mut lengths = [c.bytes; LANES];
    if c.src_bytes.at != NONE {
        for lane in lanes(mask) {
            lengths[lane] = warp.regs.row(c.src_bytes.at)[lane].min(c.bytes);
            if lengths[lane] < c.bytes {
                whole &= !(1 << lane);
            }
        }
    }
    for lane in lanes(ignored) {
        lengths[lane] = 0;
    }
    let (from, _) = memory::request(cx, block, warp, Space::Global, &src, mask, c.bytes);
    if whole != 0 {
        let some;
        let part = if whole == mask {
            &from
        } else {
            some = memory::request(cx, block, warp, Space::Global, &src, whole, c.bytes).0;
            &some
        };
        memory::check(cx, block, warp, pc, part, Intent::CopyRead, u32::MAX)?;
        memory::count(cx, pc, part, false);
        if cx.checks.races {
            race::access(cx, block, warp, pc, part, Intent::CopyRead, Strength::Weak);
        }
    }
    for lane in lanes(mask & !whole) {
        // A short read is checked byte by byte: its length need not be a power of two.
        for i in 0..lengths[lane] {
            let mut at = src;
            at[lane] = at[lane].wrapping_add(u64::from(i));
            let (byte, _) = memory::request(cx, block, warp, Space::Global, &at, 1 << lane, 1);
            memory::check(cx, block, warp, pc, &byte, Intent::CopyRead, u32::MAX)?;
        }
    }
    memory::count(cx, pc, &to, true);
    if cx.checks.races {
        race::access(cx, block, warp, pc, &to, Intent::CopyWrite, Strength::Weak);
    }
    warp.copies.open.reserve(LANES);
    for lane in lanes(mask) {
        let mut copy = Copy { lane: lane as u8, bytes: c.bytes as u8, dst: to.at[lane] as u32, data: [0; 16] };
        // SAFETY: both ranges were checked above; the state bytes lie beside the data.
        unsafe {
            if lengths[lane] > 0 {
                let p = from.view.data.add(from.at[lane] as usize);
                memory::copy_small(p, copy.data.as_mut_ptr(), lengths[lane] as usize);
            }
            memory::fill_small(to.view.data.add(to.at[lane] as usize), 0xff, c.bytes as usize);
            memory::fill_small(to.view.state.add(to.at[lane] as usize), LIVE | PENDING, c.bytes as usize);
        }
        warp.copies.open.push(copy);
    }
    Ok(())
}

/// `cp.async.wait_group` (at most `keep` groups stay pending) and `cp.async.wait_all` (`NONE`).
pub fn wait(block: &mut Block, warp: &mut Warp, keep: u32, m: u32) {
    let view = block.shared.view();
    let deliver = |c: &Copy| {
        // SAFETY: the destination was checked when the copy was issued, and shared memory does not move.
        unsafe {
            memory::copy_small(c.data.as_ptr(), view.data.add(c.dst as usize), c.bytes as usize);
            memory::fill_small(view.state.add(c.dst as usize), READY, c.bytes as usize);
        }
    };
    let copies = &mut warp.copies;
    if keep == NONE {
        copies.open.retain(|c| {
            let mine = m >> c.lane & 1 != 0;
            if mine {
                deliver(c);
            }
            !mine
        });
    }
    let keep = if keep == NONE { 0 } else { keep };
    // Whole warps, the usual case: everything but the newest groups is due.
    if m == ALL && copies.groups.iter().all(|(owners, _)| *owners == ALL) {
        while copies.groups.len() > keep as usize {
            let Some((_, mut list)) = copies.groups.pop_front() else { break };
            list.drain(..).for_each(|c| deliver(&c));
            copies.spare.push(list);
        }
        return;
    }
    // Groups are counted per lane, from the newest.
    let mut newer = [0u32; LANES];
    let mut due = vec![0u32; copies.groups.len()];
    for (i, (owners, _)) in copies.groups.iter().enumerate().rev() {
        let mut ready = 0;
        for lane in lanes(*owners & m) {
            if newer[lane] >= keep {
                ready |= 1 << lane;
            }
            newer[lane] += 1;
        }
        due[i] = ready;
    }
    for (i, (owners, list)) in copies.groups.iter_mut().enumerate() {
        let ready = due[i];
        if ready == 0 {
            continue;
        }
        list.retain(|c| {
            let mine = ready >> c.lane & 1 != 0;
            if mine {
                deliver(c);
            }
            !mine
        });
        *owners &= !ready;
    }
    while copies.groups.front().is_some_and(|(owners, _)| *owners == 0) {
        if let Some((_, list)) = copies.groups.pop_front() {
            copies.spare.push(list);
        }
    }
}
