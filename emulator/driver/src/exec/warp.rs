//! Operations across lanes and warps: shuffles, votes, matches, reductions, barriers, carries.

use super::op::*;
use super::regs::*;
use super::run::{Barrier, Block, Cx, Group, Partial, State, Stop, Warp};
use crate::check::finding::Kind;
use crate::check::race;

/// Operands of a `.sync` operation.
struct Operands {
    /// Result row and predicate.
    d: u32,
    p: u32,
    /// Source rows.
    sources: [u32; 3],
    /// Source predicate.
    test: Pred,
    /// Member mask row.
    mask: u32,
}

fn operands(op: &Op) -> Operands {
    let test = Pred { at: NONE, not: false };
    let none = Operands { d: NONE, p: NONE, sources: [NONE; 3], test, mask: NONE };
    match *op {
        Op::Shfl { d, p, a, b, c, mask, .. } => Operands { d, p, sources: [a, b, c], mask, ..none },
        Op::Vote { d, a, mask, .. } => Operands { d, test: a, mask, ..none },
        Op::Match { d, p, a, mask, .. } => Operands { d, p, sources: [a, NONE, NONE], mask, ..none },
        Op::Redux { d, a, mask, .. } => Operands { d, sources: [a, NONE, NONE], mask, ..none },
        Op::WarpSync { mask } => Operands { mask, ..none },
        _ => none,
    }
}

/// Whether lanes at these two operations meet, if their member masks are the same: the ISA asks for the same instruction
/// with the same qualifiers, not for the same place (`__shfl_sync` in both branches of an `if`).
fn alike(a: &Op, b: &Op) -> bool {
    match (a, b) {
        (Op::Shfl { mode: a, .. }, Op::Shfl { mode: b, .. }) => a == b,
        (Op::Vote { mode: a, .. }, Op::Vote { mode: b, .. }) => a == b,
        (Op::Match { all: a, wide: v, .. }, Op::Match { all: b, wide: w, .. }) => (a, v) == (b, w),
        (Op::Redux { rmw: a, signed: v, .. }, Op::Redux { rmw: b, signed: w, .. }) => (a, v) == (b, w),
        (Op::WarpSync { .. }, Op::WarpSync { .. }) => true,
        _ => false,
    }
}

/// The groups that wait at a `.sync` operation like the one at `pc` with this member mask.
pub fn partners(code: &[Inst], warp: &Warp, pc: usize, want: u32) -> impl Iterator<Item = usize> {
    let waits = move |g: &Group| g.state == State::Sync(want) && alike(&code[g.pc as usize].op, &code[pc].op);
    warp.groups.iter().enumerate().filter(move |(_, g)| waits(g)).map(|(i, _)| i)
}

/// A `.sync` operation of the lanes `m` of a group. Lanes with one member mask (tiles of a warp) take part in one of their
/// own; those whose mask names nobody who is still elsewhere are done at once, and the group goes on with them. Returns
/// the lanes that it goes on with: 0, if all must wait.
#[inline(never)]
pub fn sync(cx: &mut Cx, block: &Block, warp: &mut Warp, group: usize, pc: usize, m: u32) -> u32 {
    let code = &cx.kernel.code[..];
    let masks = *warp.regs.row(operands(&code[pc].op).mask);
    let mut left = m;
    let mut waiting = Vec::new();
    while left != 0 {
        let want = masks[left.trailing_zeros() as usize & 31];
        let part = lanes(left).filter(|&l| masks[l] == want).fold(0, |part, l| part | 1 << l);
        left &= !part;
        complain(cx, block, warp, pc, part, want);
        let missing = want & warp.live & !part;
        if missing == 0 {
            collective(cx, block, warp, &[(pc, part)]);
            continue;
        }
        let others: Vec<usize> = partners(code, warp, pc, want).collect();
        if others.iter().fold(missing, |left, &i| left & !warp.groups[i].mask) != 0 {
            waiting.push((part, want));
            continue;
        }
        let mut parts = vec![(pc, part)];
        parts.extend(others.iter().map(|&i| (warp.groups[i].pc as usize, warp.groups[i].mask)));
        collective(cx, block, warp, &parts);
        for &i in &others {
            warp.groups[i].state = State::Ready;
            warp.groups[i].pc += 1;
        }
        warp.groups[group].pc = pc as u32 + 1;
        unite(warp, group, &others);
    }
    let Group { join, mask, .. } = warp.groups[group];
    if let [(part, want)] = waiting[..]
        && part == mask
    {
        warp.groups[group].pc = pc as u32;
        warp.groups[group].state = State::Sync(want);
        return 0;
    }
    // Lanes that must wait leave the group, and meet it again where it meets others.
    let mut rest = mask;
    for (part, want) in waiting {
        warp.push(Group { pc: pc as u32, mask: part, join, state: State::Sync(want) });
        rest &= !part;
    }
    warp.groups[group].mask = rest;
    if rest == 0 {
        warp.groups[group].state = State::Dead;
    }
    rest
}

/// Lanes that have met at a `.sync` operation stay together, if they are at one place and will meet others at one place.
fn unite(warp: &mut Warp, group: usize, others: &[usize]) {
    for (n, &i) in others.iter().enumerate() {
        let Group { pc, join, mask, .. } = warp.groups[i];
        let same = |&j: &usize| {
            let g = &warp.groups[j];
            (g.pc, g.join) == (pc, join) && g.state == State::Ready
        };
        if let Some(j) = std::iter::once(group).chain(others[..n].iter().copied()).find(same) {
            warp.groups[j].mask |= mask;
            warp.groups[i].state = State::Dead;
        }
    }
}

/// Reports member masks that do not name those who use them, or that name lanes which are gone.
fn complain(cx: &mut Cx, block: &Block, warp: &Warp, pc: usize, part: u32, want: u32) {
    let strangers = part & !want;
    if strangers != 0 {
        let message = format!("the lane executes the operation but is not in its member mask {want:#010x}");
        cx.report(block, warp, pc, strangers.trailing_zeros() as usize, Kind::WarpMask, message);
    }
    // Lanes that never existed may be named: `__shfl_sync(0xffffffff, …)` in the last warp of a block of 80 threads.
    let gone = want & !warp.live & warp.existing(block);
    if gone != 0 {
        let message = format!("member mask {want:#010x} names lanes that have exited ({gone:#010x})");
        cx.report(block, warp, pc, part.trailing_zeros() as usize & 31, Kind::WarpMask, message);
    }
}

/// A source of the lanes of an operation at one place or several.
fn gather(cx: &Cx, warp: &Warp, parts: &[(usize, u32)], source: usize) -> [u32; LANES] {
    let row = |pc: usize| warp.regs.row(operands(&cx.kernel.code[pc].op).sources[source]);
    let mut all = *row(parts[0].0);
    for &(pc, here) in &parts[1..] {
        let row = row(pc);
        for lane in lanes(here) {
            all[lane] = row[lane];
        }
    }
    all
}

/// Results of the lanes of an operation at one place or several: a row, a predicate or both.
fn scatter(cx: &Cx, warp: &mut Warp, parts: &[(usize, u32)], values: Option<&[u32; LANES]>, truth: u32) {
    for &(pc, here) in parts {
        let Operands { d, p, .. } = operands(&cx.kernel.code[pc].op);
        if let Some(values) = values {
            let row = warp.regs.row_mut(d);
            for lane in lanes(here) {
                row[lane] = values[lane];
            }
        }
        // A vote other than a ballot has nothing but a predicate.
        warp.set_pred(if values.is_some() { p } else { d }, truth, here);
    }
}

/// A `.sync` operation for lanes that are all there: places, and the lanes at each of them.
fn collective(cx: &mut Cx, block: &Block, warp: &mut Warp, parts: &[(usize, u32)]) {
    let here = parts.iter().fold(0, |here, part| here | part.1);
    let first = &cx.kernel.code[parts[0].0].op;
    match *first {
        Op::Shfl { mode, .. } => shfl(cx, block, warp, parts, here, mode),
        Op::Vote { mode, .. } => {
            let tests = parts.iter().map(|&(pc, here)| warp.pred(operands(&cx.kernel.code[pc].op).test) & here);
            let v = tests.fold(0, |v, part| v | part);
            let truth = match mode {
                Vote::Ballot => return scatter(cx, warp, parts, Some(&[v; LANES]), 0),
                Vote::All => v == here,
                Vote::Any => v != 0,
                Vote::Uni => v == 0 || v == here,
            };
            scatter(cx, warp, parts, None, if truth { ALL } else { 0 });
        }
        Op::Match { all, wide, .. } => {
            let mut values = [0; LANES];
            for &(pc, here) in parts {
                let row = Row { at: operands(&cx.kernel.code[pc].op).sources[0], wide };
                for lane in lanes(here) {
                    values[lane] = warp.regs.lane(row, lane);
                }
            }
            let mut same = [0; LANES];
            let mut hits = 0;
            for lane in lanes(here) {
                let mates = lanes(here).filter(|&l| values[l] == values[lane]).fold(0, |m, l| m | 1u32 << l);
                same[lane] = if all && mates != here { 0 } else { mates };
                hits |= u32::from(mates == here) << lane;
            }
            scatter(cx, warp, parts, Some(&same), hits);
        }
        Op::Redux { rmw, signed, .. } => {
            let row = gather(cx, warp, parts, 0);
            let mut values = lanes(here).map(|l| row[l]);
            let Some(first) = values.next() else { return };
            let v = values.fold(first, |x, y| match (rmw, signed) {
                (Rmw::And, _) => x & y,
                (Rmw::Or, _) => x | y,
                (Rmw::Xor, _) => x ^ y,
                (Rmw::Min, true) => (x as i32).min(y as i32) as u32,
                (Rmw::Max, true) => (x as i32).max(y as i32) as u32,
                (Rmw::Min, false) => x.min(y),
                (Rmw::Max, false) => x.max(y),
                _ => x.wrapping_add(y),
            });
            scatter(cx, warp, parts, Some(&[v; LANES]), 0);
        }
        // `bar.warp.sync` orders the memory accesses of its lanes.
        _ => race::meet(warp, here),
    }
}

fn shfl(cx: &mut Cx, block: &Block, warp: &mut Warp, parts: &[(usize, u32)], here: u32, mode: Shfl) {
    let [src, by, clamp] = [0, 1, 2].map(|i| gather(cx, warp, parts, i));
    let mut values = [0; LANES];
    let mut valid = 0u32;
    let mut absent = None;
    for lane in lanes(here) {
        let (me, by) = (lane as i32, (by[lane] & 31) as i32);
        let segment = (clamp[lane] >> 8 & 31) as i32;
        let bound = (me & segment) | (clamp[lane] as i32 & 31 & !segment);
        let low = me & segment;
        let (j, ok) = match mode {
            Shfl::Up => (me - by, me - by >= bound),
            Shfl::Down => (me + by, me + by <= bound),
            Shfl::Bfly => (me ^ by, me ^ by <= bound),
            Shfl::Idx => {
                let j = low | (by & !segment);
                (j, j <= bound)
            }
        };
        let j = if ok { j as usize & 31 } else { lane };
        valid |= u32::from(ok) << lane;
        if here >> j & 1 == 0 {
            absent.get_or_insert((lane, j));
        }
        values[lane] = src[j];
    }
    scatter(cx, warp, parts, Some(&values), valid);
    if let Some((lane, j)) = absent {
        let message = match warp.existing(block) >> j & 1 {
            0 => format!("the lane reads lane {j}, which does not exist: the block has {} threads", block.threads),
            _ => format!("the lane reads lane {j}, which takes no part in this shuffle (lanes {here:#010x})"),
        };
        let pc = parts.iter().find(|part| part.1 >> lane & 1 != 0).map_or(0, |part| part.0);
        cx.report(block, warp, pc, lane, Kind::WarpMask, message);
    }
}

/// A barrier. `None`: the group goes on at once.
pub fn bar(cx: &mut Cx, block: &mut Block, warp: &mut Warp, group: usize, pc: usize, b: &Bar, m: u32) -> Option<Stop> {
    let first = m.trailing_zeros() as usize & 31;
    let id = warp.regs.row(b.id.at)[first];
    let count = if b.count.at == NONE { 0 } else { warp.regs.row(b.count.at)[first] };
    if id > 15 || count % 32 != 0 || (count > 0 && count > block.threads.next_multiple_of(32)) {
        let message = format!(
            "barrier {id} with {count} threads: the number must be below 16, the count a multiple of 32 up to the block"
        );
        cx.report(block, warp, pc, first, Kind::DivergentBarrier, message);
        return Some(Stop::Fault);
    }
    if m != warp.live {
        retire(cx, block, warp, Some(group));
    }
    let amiss = b.aligned && m != warp.live && !cx.out_of_step;
    if amiss && b.arrive {
        divergent(cx, block, warp, pc, m);
    }
    cx.barriers += 1;
    let trues = b.red.map_or(0, |(_, p, _)| (warp.pred(p) & m).count_ones());
    let barrier = &mut block.barriers[id as usize];
    if barrier.arrived > 0 && barrier.expected != count {
        let before = barrier.expected;
        let message = format!("barrier {id} is used with {count} threads while others wait for {before} (0 means all)");
        cx.report(block, warp, pc, first, Kind::DivergentBarrier, message);
    }
    let barrier = &mut block.barriers[id as usize];
    barrier.expected = count;
    // With a count the hardware counts whole warps.
    barrier.arrived += if count > 0 && m == warp.live { 32 } else { m.count_ones() };
    barrier.warps |= 1 << warp.id;
    barrier.trues += trues;
    race::join(&mut barrier.clock, &warp.clock);
    if let Some(fenced) = &warp.released {
        race::join(&mut barrier.released, fenced);
    }
    if let Some(fenced) = &warp.released_wide {
        race::join(&mut barrier.released_wide, fenced);
    }
    race::tick(warp);
    if !b.arrive {
        if m != warp.live {
            // Lanes that are elsewhere now may be about to exit, which is no divergence: `judge` looks again.
            barrier.partial.push(Partial { warp: warp.id, pc: pc as u32, lanes: m, amiss, whole: false });
        }
        barrier.waiting.push((warp.id, group as u32));
        warp.groups[group].state = State::Barrier(id);
    }
    if complete(cx, block, warp, pc, id as usize) {
        return Some(Stop::Yield);
    }
    if b.arrive { None } else { Some(Stop::Parked) }
}

/// Reports lanes of a warp that reach a barrier while others of it, which have not exited, are elsewhere.
fn divergent(cx: &mut Cx, block: &Block, warp: &Warp, pc: usize, m: u32) {
    let missing = warp.live & !m;
    if missing == 0 {
        return;
    }
    let message = format!(
        "the barrier is reached by lanes {m:#010x} of the warp while lanes {missing:#010x} are elsewhere: bar.sync must be \
         executed by all threads of the warp together"
    );
    cx.report(block, warp, pc, m.trailing_zeros() as usize & 31, Kind::DivergentBarrier, message);
}

/// The verdict about warps that reached a barrier in parts.
pub fn judge(cx: &mut Cx, block: &Block, warps: &[Warp], barrier: &Barrier) {
    for p in barrier.partial.iter().filter(|p| p.amiss) {
        divergent(cx, block, &warps[p.warp as usize], p.pc as usize, p.lanes);
    }
}

/// The exit that follows an operation at once, with nothing in between.
fn exit_at(code: &[Inst], mut pc: usize) -> Option<usize> {
    loop {
        match code.get(pc)? {
            Inst { op: Op::Join | Op::Nop, .. } => pc += 1,
            Inst { op: Op::Exit, guard: Pred { at: NONE, .. } } => return Some(pc),
            _ => return None,
        }
    }
}

/// Lanes with nothing left to do but to exit, exit: those on their way to the exit, and those that wait for others to
/// meet them in front of it (`if (i >= n) return;`). Barriers do not wait for threads that have exited, so these must
/// not wait for lanes at a barrier. `running` is the group that is running, if one is.
pub fn retire(cx: &mut Cx, block: &mut Block, warp: &mut Warp, running: Option<usize>) -> bool {
    let code = &cx.kernel.code[..];
    let mut gone = 0;
    let mut leave = |pc: u32, lanes: u32| match exit_at(code, pc as usize) {
        Some(exit) if lanes != 0 => {
            cx.sites[exit].hits += 1;
            cx.sites[exit].lanes += u64::from(lanes.count_ones());
            gone |= lanes;
            true
        }
        _ => false,
    };
    for (i, g) in warp.groups.iter_mut().enumerate() {
        if Some(i) != running && g.state == State::Ready && leave(g.pc, g.mask) {
            g.state = State::Dead;
        }
    }
    for j in &warp.joins {
        leave(j.pc, j.arrived);
    }
    if gone != 0 {
        warp.leave(cx, block, gone);
        warp.settle();
    }
    gone != 0
}

/// Completes a barrier if everybody it waits for has come.
fn complete(cx: &mut Cx, block: &mut Block, warp: &Warp, pc: usize, id: usize) -> bool {
    let barrier = &block.barriers[id];
    let done = if barrier.expected > 0 {
        barrier.arrived >= barrier.expected
    } else {
        barrier.arrived > 0 && barrier.arrived + block.exited >= block.threads
    };
    if !done {
        return false;
    }
    if barrier.expected == 0 && block.exited > 0 {
        let message = format!(
            "barrier {id} completed although {} of {} threads of the block had exited without reaching it",
            block.exited, block.threads
        );
        cx.report(block, warp, pc, 0, Kind::DivergentBarrier, message);
    }
    let mut barrier = std::mem::take(&mut block.barriers[id]);
    if barrier.expected == 0 {
        race::join(&mut barrier.clock, &block.exit_clock);
    }
    cx.progress = true;
    block.wake.push(barrier);
    true
}

/// Completes barriers that only waited for threads which have exited meanwhile.
pub fn settle_barriers(cx: &mut Cx, block: &mut Block, warps: &[Warp]) {
    for id in 0..block.barriers.len() {
        if block.barriers[id].arrived > 0 {
            count_whole_warps(&mut block.barriers[id], warps);
            let Some(&(w, g)) = block.barriers[id].waiting.first() else { continue };
            let warp = &warps[w as usize];
            let pc = warp.groups[g as usize].pc as usize - 1;
            complete(cx, block, warp, pc, id);
        }
    }
}

/// Counted barriers count whole warps: lanes whose warp has no others left by now make one.
fn count_whole_warps(barrier: &mut Barrier, warps: &[Warp]) {
    for i in 0..if barrier.expected > 0 { barrier.partial.len() } else { 0 } {
        let warp = barrier.partial[i].warp;
        let parts = || barrier.partial.iter().filter(|p| p.warp == warp);
        let here = parts().fold(0, |lanes, p| lanes | p.lanes);
        if warps[warp as usize].live & !here == 0 && !parts().any(|p| p.whole) {
            barrier.arrived += 32 - here.count_ones();
            barrier.partial[i].whole = true;
        }
    }
}

/// Wakes the groups of a completed barrier.
pub fn wake(cx: &mut Cx, block: &Block, warps: &mut [Warp], barrier: &Barrier) {
    judge(cx, block, warps, barrier);
    for &(w, g) in &barrier.waiting {
        let warp = &mut warps[w as usize];
        let group = &mut warp.groups[g as usize];
        group.state = State::Ready;
        let (mask, pc) = (group.mask, group.pc as usize - 1);
        race::learn(warp, &barrier.clock);
        // What all threads wrote before their own fences may be published by one of them behind the barrier.
        if barrier.released != [0; 32] {
            race::join(warp.released.get_or_insert([0; 32]), &barrier.released);
        }
        if barrier.released_wide != [0; 32] {
            race::join(warp.released_wide.get_or_insert([0; 32]), &barrier.released_wide);
        }
        let Op::Bar(i) = cx.kernel.code[pc].op else { continue };
        match cx.kernel.bars[i as usize].red {
            Some((Rmw::Popc, _, d)) => {
                for lane in lanes(mask) {
                    warp.regs.row_mut(d)[lane] = barrier.trues;
                }
            }
            Some((Rmw::And, _, d)) => warp.set_pred(d, if barrier.trues == barrier.arrived { ALL } else { 0 }, mask),
            Some((_, _, d)) => warp.set_pred(d, if barrier.trues > 0 { ALL } else { 0 }, mask),
            None => {}
        }
    }
}

/// `add.cc`, `addc.cc`, `sub.cc`, `subc.cc`.
pub fn carry(warp: &mut Warp, [d, a, b]: [Row; 3], subtract: bool, carry_in: bool, carry_out: bool, m: u32) {
    for lane in lanes(m) {
        let (x, y) = (warp.regs.lane(a, lane), warp.regs.lane(b, lane));
        let bits = if d.wide { 64 } else { 32 };
        let modulus = 1u128 << bits;
        let c = u128::from(carry_in && warp.carry >> lane & 1 != 0);
        // A subtraction adds the complement, and its carry is the absence of a borrow. The ISA only says that the flag
        // passes the borrow on; the 128-bit division of nvcc reads it with `addc` and takes 1 for "not negative".
        let (y, c) = match (subtract, carry_in) {
            (false, _) => (u128::from(y), c),
            (true, false) => (modulus - 1 - u128::from(y), 1),
            (true, true) => (modulus - 1 - u128::from(y), c),
        };
        let sum = u128::from(x) + y + c;
        warp.regs.set_lane(d, lane, (sum & (modulus - 1)) as u64);
        if carry_out {
            warp.carry = (warp.carry & !(1 << lane)) | u32::from(sum >= modulus) << lane;
        }
    }
}

/// `mad.cc` and `madc`.
pub fn mad_carry(
    warp: &mut Warp,
    [d, a, b, c]: [Row; 4],
    high: bool,
    signed: bool,
    carry_in: bool,
    carry_out: bool,
    m: u32,
) {
    let bits = if d.wide { 64 } else { 32 };
    let modulus = 1u128 << bits;
    for lane in lanes(m) {
        let (x, y, z) = (warp.regs.lane(a, lane), warp.regs.lane(b, lane), warp.regs.lane(c, lane));
        let extend = |v: u64| i128::from((v << (64 - bits)) as i64 >> (64 - bits));
        let product =
            if signed { extend(x).wrapping_mul(extend(y)) as u128 } else { u128::from(x).wrapping_mul(u128::from(y)) };
        let part = if high { product >> bits } else { product } & (modulus - 1);
        let sum = part + u128::from(z) + u128::from(carry_in && warp.carry >> lane & 1 != 0);
        warp.regs.set_lane(d, lane, (sum & (modulus - 1)) as u64);
        if carry_out {
            warp.carry = (warp.carry & !(1 << lane)) | u32::from(sum >= modulus) << lane;
        }
    }
}
