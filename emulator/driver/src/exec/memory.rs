//! Loads, stores and atomics of a warp: addresses to bytes, with every byte checked and every sector counted.

use super::op::{Access, Atomic, Kernel, NONE, Rmw, SharedVar, Strength};
use super::regs::*;
use super::run::{Block, Cx, Stop, Warp};
use super::slow::{Kind as LaneKind, Spec};
use crate::check::arena::{INIT, LIVE, PENDING, READY, View};
use crate::check::finding::Kind;
use crate::check::race;
use crate::count::contention;
use crate::ptx::ast::{Space, Ty};

/// Generic addresses of shared memory start here.
pub const SHARED_WINDOW: u64 = 0x0400_0000_0000;
/// Generic addresses of local memory start here.
pub const LOCAL_WINDOW: u64 = 0x0401_0000_0000;
/// Generic addresses of the parameter block start here.
pub const PARAM_WINDOW: u64 = 0x0402_0000_0000;
/// Size of a window.
const WINDOW: u64 = 1 << 32;

/// The state space of a generic address.
#[inline(always)]
pub fn space_of(address: u64) -> Space {
    if address.wrapping_sub(SHARED_WINDOW) < WINDOW {
        Space::Shared
    } else if address.wrapping_sub(LOCAL_WINDOW) < WINDOW {
        Space::Local
    } else if address.wrapping_sub(PARAM_WINDOW) < WINDOW {
        Space::Param
    } else {
        Space::Global
    }
}

/// The number of the window that holds a generic address; all of global memory is one.
#[inline(always)]
fn window_of(address: u64) -> u64 {
    (address.wrapping_sub(SHARED_WINDOW) / WINDOW).min(3)
}

/// Per-lane addresses of an operand.
#[inline(always)]
pub fn addresses(regs: &Regs, row: Row, offset: i64) -> [u64; LANES] {
    let mut out = [0; LANES];
    if row.wide {
        let r = regs.row64(row.at);
        for i in 0..LANES {
            out[i] = r[i].wrapping_add(offset as u64);
        }
    } else {
        let r = regs.row(row.at);
        for i in 0..LANES {
            out[i] = u64::from(r[i].wrapping_add(offset as u32));
        }
    }
    out
}

/// A request whose lanes all go to one state space: offsets into a view.
pub struct Request {
    /// The space, never `Generic`.
    pub space: Space,
    /// Where the bytes are.
    pub view: View,
    /// Offset of each lane in the view, before the stride.
    pub at: [u64; LANES],
    /// Added once per lane (local memory: one slice per thread).
    pub stride: u64,
    /// Lanes that take part.
    pub mask: u32,
    /// Bytes of one lane.
    pub bytes: u32,
    /// `at` ascends by `bytes` from the first lane, all lanes active.
    pub dense: bool,
}

impl Request {
    /// Offset of a lane in the view's memory.
    #[inline(always)]
    fn offset(&self, lane: usize) -> usize {
        (self.at[lane] + self.stride * lane as u64) as usize
    }
}

/// What a request is going to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Read.
    Read,
    /// Read through a cache that does not see writes of the same kernel.
    ReadOnly,
    /// Write.
    Write,
    /// Read and write in one step.
    Atomic,
    /// Read by an asynchronous copy.
    CopyRead,
    /// Write by an asynchronous copy.
    CopyWrite,
}

impl Intent {
    fn verb(self) -> &'static str {
        match self {
            Intent::Read | Intent::ReadOnly => "read",
            Intent::Write => "write",
            Intent::Atomic => "atomic access",
            Intent::CopyRead => "asynchronous copy from here",
            Intent::CopyWrite => "asynchronous copy to here",
        }
    }

    fn reads(self) -> bool {
        !matches!(self, Intent::Write | Intent::CopyWrite)
    }
}

/// Builds the request of the lanes of `mask` that lie in the space of the first of them; returns the lanes left over.
#[inline(always)]
pub fn request(
    cx: &Cx,
    block: &Block,
    warp: &Warp,
    space: Space,
    addr: &[u64; LANES],
    mask: u32,
    bytes: u32,
) -> (Request, u32) {
    let mut rest = 0;
    let mut mine = mask;
    let mut generic = false;
    let space = if space == Space::Generic {
        generic = true;
        let first = space_of(addr[mask.trailing_zeros() as usize & 31]);
        let window = window_of(addr[mask.trailing_zeros() as usize & 31]);
        for i in 0..LANES {
            rest |= u32::from(window_of(addr[i]) != window) << i;
        }
        rest &= mask;
        mine &= !rest;
        first
    } else {
        space
    };
    let (view, stride) = match space {
        Space::Shared => {
            let base = if generic { SHARED_WINDOW } else { 0 };
            (View { base, ..block.shared.view() }, 0)
        }
        Space::Local => {
            let base = if generic { LOCAL_WINDOW } else { 0 };
            let size = u64::from(cx.kernel.local_bytes);
            (View { base, size, ..warp.local.view() }, size)
        }
        Space::Param => (View { base: if generic { PARAM_WINDOW } else { 0 }, ..cx.params.view() }, 0),
        _ => (cx.global, 0),
    };
    let mut at = [0; LANES];
    for i in 0..LANES {
        at[i] = addr[i].wrapping_sub(view.base);
    }
    let first = at[0];
    let mut dense = mine == ALL && stride == 0;
    for i in 0..LANES {
        dense &= at[i] == first.wrapping_add(i as u64 * u64::from(bytes));
    }
    (Request { space, view, at, stride, mask: mine, bytes, dense }, rest)
}

/// Whether the state bytes of a warp's request for `bytes` bytes a lane, side by side from `p` on, all have the bits that
/// `reads` asks for.
///
/// # Safety
/// `32 · bytes` bytes from `p` on must lie inside a state mapping.
#[inline(always)]
unsafe fn ready(p: *const u8, bytes: usize, reads: bool) -> bool {
    // SAFETY: the caller vouches for the range; other threads may write it, which can only change a verdict about a
    // program that races with itself.
    let s = unsafe { std::slice::from_raw_parts(p, bytes * LANES) };
    let want = if reads { READY } else { LIVE };
    let mut differs = [0; LANES];
    for piece in s.chunks_exact(LANES) {
        for i in 0..LANES {
            differs[i] |= piece[i] ^ want;
        }
    }
    differs.iter().fold(0, |all, d| all | d) & (want | PENDING) == 0
}

/// Sets the same states to `READY`.
///
/// # Safety
/// As for `ready`.
#[inline(always)]
unsafe fn set_ready(p: *mut u8, bytes: usize) {
    for i in 0..bytes {
        // SAFETY: the caller vouches for the range.
        unsafe { p.add(i * LANES).cast::<[u8; LANES]>().write([READY; LANES]) }
    }
}

/// Checks every byte of a request. Faults stop the kernel; softer findings are noted and the access goes on.
#[inline(always)]
pub fn check(
    cx: &mut Cx,
    block: &Block,
    warp: &Warp,
    pc: usize,
    r: &Request,
    intent: Intent,
    used: u32,
) -> Result<(), Stop> {
    let bytes = u64::from(r.bytes);
    if r.dense && r.space != Space::Param {
        let total = bytes * LANES as u64;
        let inside = r.at[0] < r.view.size && total <= r.view.size - r.at[0] && r.at[0] & (bytes - 1) == 0;
        let state = |at: u64| {
            // SAFETY: called only for ranges inside the view, of which every byte has a state.
            unsafe { ready(r.view.state.add(at as usize), bytes as usize, intent.reads()) }
        };
        if inside && (!cx.checks.memory || state(r.at[0])) {
            return Ok(());
        }
    } else if (r.space != Space::Param || intent == Intent::Read) && sound(r, intent, cx.checks.memory) {
        return Ok(());
    }
    check_lanes(cx, block, warp, pc, r, intent, used)
}

/// Whether every lane is aligned and inside the view, and every byte in the state that the intent asks for. A `false` is
/// no verdict yet: `check_lanes` finds out what is wrong, and with which lane.
#[inline(always)]
fn sound(r: &Request, intent: Intent, states: bool) -> bool {
    let bytes = u64::from(r.bytes);
    let Some(last) = r.view.size.checked_sub(bytes) else { return false };
    let mut bad = 0;
    for i in 0..LANES {
        bad |= u32::from((r.at[i] > last) | (r.at[i] & (bytes - 1) != 0)) << i;
    }
    if bad & r.mask != 0 {
        return false;
    }
    if !states {
        return true;
    }
    let want = if intent.reads() { READY } else { LIVE };
    // All bits by which a state differs from the wanted one, over all lanes: one load a lane.
    macro_rules! differences {
        ($word:ty) => {{
            let pattern = <$word>::from_ne_bytes([want; size_of::<$word>()]);
            let mut any = 0;
            for lane in lanes(r.mask) {
                // SAFETY: the lane's bytes were just found inside the view, of which every byte has a state.
                any |= unsafe { r.view.state.add(r.offset(lane)).cast::<$word>().read_unaligned() } ^ pattern;
            }
            any & <$word>::from_ne_bytes([want | PENDING; size_of::<$word>()]) == 0
        }};
    }
    match r.bytes {
        1 => differences!(u8),
        2 => differences!(u16),
        4 => differences!(u32),
        8 => differences!(u64),
        16 => differences!(u128),
        _ => false,
    }
}

/// Copies 4, 8 or 16 bytes in one move, other sizes byte by byte.
///
/// # Safety
/// `n` bytes must be readable at `from` and writable at `to`, and the two must not overlap.
#[inline(always)]
pub unsafe fn copy_small(from: *const u8, to: *mut u8, n: usize) {
    // SAFETY: the caller vouches for both ranges.
    unsafe {
        match n {
            4 => to.cast::<u32>().write_unaligned(from.cast::<u32>().read_unaligned()),
            8 => to.cast::<u64>().write_unaligned(from.cast::<u64>().read_unaligned()),
            16 => to.cast::<u128>().write_unaligned(from.cast::<u128>().read_unaligned()),
            _ => std::ptr::copy_nonoverlapping(from, to, n),
        }
    }
}

/// Fills 1, 2, 4, 8 or 16 bytes in one move, other sizes byte by byte.
///
/// # Safety
/// `n` bytes must be writable at `to`.
#[inline(always)]
pub unsafe fn fill_small(to: *mut u8, value: u8, n: usize) {
    let all = u128::from_ne_bytes([value; 16]);
    // SAFETY: the caller vouches for the range.
    unsafe {
        match n {
            1 => to.write(value),
            2 => to.cast::<u16>().write_unaligned(all as u16),
            4 => to.cast::<u32>().write_unaligned(all as u32),
            8 => to.cast::<u64>().write_unaligned(all as u64),
            16 => to.cast::<u128>().write_unaligned(all),
            _ => std::ptr::write_bytes(to, value, n),
        }
    }
}

/// Asks the host for the memory that this operation will touch two rounds from now, if it goes on in even steps: a warp
/// runs many rounds of a grid-stride loop in a row, whose steps are too long for the prefetchers of the host.
#[inline(always)]
fn look_ahead(cx: &mut Cx, pc: usize, first: u64, bytes: usize) {
    let last = std::mem::replace(&mut cx.last[pc], first);
    let step = first.wrapping_sub(last);
    let next = first.wrapping_add(step.wrapping_mul(2));
    let (size, bytes) = (cx.global.size, bytes * LANES);
    // The prefetchers of the host see short steps themselves.
    if step.wrapping_add(2048) <= 4096 || next >= size || bytes as u64 > size - next {
        return;
    }
    let at = next as usize;
    let lines = |p: *const u8, bytes: usize| {
        let mut i = 0;
        while i < bytes {
            prefetch(p.wrapping_add(i));
            i += 64;
        }
    };
    lines(cx.global.data.wrapping_add(at), bytes);
    if cx.checks.memory {
        lines(cx.global.state.wrapping_add(at), bytes);
    }
    if cx.checks.count {
        prefetch(cx.touched.wrapping_add(at / 16).cast());
    }
    if cx.checks.races {
        lines(cx.race.cast::<u8>().wrapping_add(6 * at), 6 * bytes);
    }
}

/// A hint that this memory will be needed soon.
#[inline(always)]
fn prefetch(p: *const u8) {
    // SAFETY: a hint never faults, whatever the address, and every x86-64 processor has it.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = p;
}

#[inline(never)]
fn check_lanes(
    cx: &mut Cx,
    block: &Block,
    warp: &Warp,
    pc: usize,
    r: &Request,
    intent: Intent,
    used: u32,
) -> Result<(), Stop> {
    let bytes = u64::from(r.bytes);
    if r.space == Space::Param && intent != Intent::Read {
        let lane = r.mask.trailing_zeros() as usize & 31;
        let message = format!("{}: kernel parameters cannot be written", access_text(cx, r, lane, intent));
        cx.report(block, warp, pc, lane, Kind::OutOfBounds, message);
        return Err(Stop::Fault);
    }
    let want = if intent.reads() { READY } else { LIVE };
    let care = want | PENDING;
    let all_used = used == u32::MAX;
    let pattern = u64::from_ne_bytes([want; 8]);
    let care_pattern = u64::from_ne_bytes([care; 8]);
    for lane in lanes(r.mask) {
        let at = r.at[lane];
        if at & (bytes - 1) != 0 {
            return Err(fault(cx, block, warp, pc, lane, r, Kind::Misaligned, intent, 0));
        }
        if at >= r.view.size || bytes > r.view.size - at {
            return Err(fault(cx, block, warp, pc, lane, r, Kind::OutOfBounds, intent, r.view.size.saturating_sub(at)));
        }
        if !cx.checks.memory {
            continue;
        }
        // SAFETY: the lane's range was just found inside the view; accesses are 1 to 16 bytes, powers of two, aligned.
        let bad = unsafe {
            let p = r.view.state.add(r.offset(lane));
            match bytes {
                1 => u64::from(*p) ^ u64::from(want),
                2 => u64::from(*p.cast::<u16>()) ^ (pattern & 0xffff),
                4 => u64::from(*p.cast::<u32>()) ^ (pattern & 0xffff_ffff),
                8 => *p.cast::<u64>() ^ pattern,
                _ => (0..bytes as usize / 8).fold(0, |b, i| b | (*p.cast::<u64>().add(i) ^ pattern)),
            }
        };
        if bad & care_pattern == 0 {
            continue;
        }
        for i in 0..r.bytes {
            // SAFETY: as above.
            let s = unsafe { *r.view.state.add(r.offset(lane) + i as usize) };
            if s & LIVE == 0 {
                return Err(fault(cx, block, warp, pc, lane, r, Kind::OutOfBounds, intent, u64::from(i)));
            }
            let unused = !all_used && used >> i & 1 == 0;
            if s & care == want || unused {
                continue;
            }
            let kind = if s & PENDING != 0 { Kind::MissingWait } else { Kind::Uninitialised };
            let text = access_text(cx, r, lane, intent);
            let message = if kind == Kind::MissingWait {
                format!("{text}: byte {i} belongs to an asynchronous copy that no cp.async.wait has completed")
            } else {
                let origin = origin(cx, r, lane, u64::from(i));
                format!("{text}: byte {i} was never written{origin}")
            };
            cx.report(block, warp, pc, lane, kind, message);
            break;
        }
    }
    Ok(())
}

fn access_text(cx: &Cx, r: &Request, lane: usize, intent: Intent) -> String {
    let space = match r.space {
        Space::Shared => "shared",
        Space::Local => "local",
        Space::Param => "param",
        _ => "global",
    };
    let address = r.at[lane].wrapping_add(r.view.base);
    let _ = cx;
    format!("{space} {} of {} bytes at {address:#x}", intent.verb(), r.bytes)
}

fn origin(cx: &Cx, r: &Request, lane: usize, byte: u64) -> String {
    if r.space != Space::Global {
        return String::new();
    }
    let address = r.at[lane].wrapping_add(r.view.base).wrapping_add(byte);
    cx.arena
        .innermost(address)
        .map(|a| {
            format!(
                " since {} ({} bytes at {:#x}) was made, {} bytes into it",
                a.name,
                a.bytes,
                a.base,
                address - a.base
            )
        })
        .unwrap_or_default()
}

#[inline(never)]
#[allow(clippy::too_many_arguments)]
fn fault(
    cx: &mut Cx,
    block: &Block,
    warp: &Warp,
    pc: usize,
    lane: usize,
    r: &Request,
    kind: Kind,
    intent: Intent,
    byte: u64,
) -> Stop {
    let text = access_text(cx, r, lane, intent);
    let address = r.at[lane].wrapping_add(r.view.base);
    let mut kind = kind;
    let message = if kind == Kind::Misaligned {
        let place = match r.space {
            Space::Global if cx.arena.contains(address) => format!("; it lies {}", cx.arena.locate(address)),
            _ => String::new(),
        };
        format!("{text}: the address must be a multiple of {}{place}", r.bytes)
    } else if r.space == Space::Global || r.space == Space::Const {
        let first_bad = address.wrapping_add(byte);
        if cx.arena.contains(address) {
            let what = cx.arena.describe(first_bad);
            if what.contains("which was freed") {
                kind = Kind::UseAfterFree;
            } else if what.contains("has not allocated yet") {
                kind = Kind::StreamOrder;
            }
            let start = if byte == 0 { "it starts" } else { "its last bytes lie" };
            format!("{text}: {start} {what}")
        } else {
            format!("{text}: not a device address (null or host pointer?)")
        }
    } else {
        let name = match r.space {
            Space::Shared => "shared memory of this block",
            Space::Local => "local memory of this thread",
            _ => "parameter block",
        };
        let (at, size) = (r.at[lane], r.view.size);
        let first_bad = at.wrapping_add(byte);
        if r.space == Space::Shared && first_bad < r.view.size {
            let start = if byte == 0 { "it starts" } else { "its last bytes lie" };
            let message = format!("{text}: {start} {}", between_variables(cx.kernel, first_bad));
            cx.report(block, warp, pc, lane, kind, message);
            return Stop::Fault;
        }
        // Offsets are unsigned: those before the memory look enormous (and 32 bits wide in shared memory).
        let before = if at > u64::MAX / 2 { at.wrapping_neg() } else { (1u64 << 32).saturating_sub(at) };
        let distance = if at < size {
            format!("its last bytes lie 0 bytes past the end of the {name}")
        } else if before > 0 && before < at - size {
            format!("it starts {before} bytes before the {name}")
        } else {
            format!("it starts {} bytes past the end of the {name}", at - size)
        };
        let size = match (r.space, size.checked_sub(cx.kernel.dynamic_place.into())) {
            (Space::Shared, Some(dynamic)) => u64::from(cx.kernel.dynamic_at) + dynamic,
            (Space::Shared, None) => u64::from(cx.kernel.shared_bytes),
            _ => size,
        };
        format!("{text}: {distance} ({size} bytes)")
    };
    cx.report(block, warp, pc, lane, kind, message);
    Stop::Fault
}

/// A sentence about an address between the shared variables of a kernel: the nearest of them.
fn between_variables(kernel: &Kernel, at: u64) -> String {
    let at = at as u32;
    let below = kernel.shared_vars.iter().rfind(|v| v.at + v.bytes <= at);
    let above = kernel.shared_vars.iter().find(|v| v.at > at);
    let text =
        |v: &SharedVar| format!("the shared variable `{}` ({} bytes at {:#x})", source_name(&v.name), v.bytes, v.at);
    let past = below.map(|v| (at - (v.at + v.bytes), format!("past the end of {}", text(v))));
    let before = match above {
        Some(v) => (v.at - at, format!("before {}", text(v))),
        None => (kernel.dynamic_place - at, "before the dynamic shared memory".to_string()),
    };
    let (distance, what) = past.filter(|p| p.0 <= before.0).unwrap_or(before);
    format!("{distance} bytes {what}")
}

/// The name that a variable of a function has in the source: nvcc calls `s` of `f` `_ZZ1fE1s`.
fn source_name(symbol: &str) -> &str {
    symbol
        .match_indices('E')
        .filter(|_| symbol.starts_with("_ZZ"))
        .filter_map(|(i, _)| {
            let tail = &symbol[i + 1..];
            let digits = tail.bytes().take_while(u8::is_ascii_digit).count();
            let length: usize = tail[..digits].parse().ok()?;
            tail.get(digits..digits + length)
        })
        .next_back()
        .unwrap_or(symbol)
}

/// Counts a request: sectors and unique bytes of global memory, wavefronts of shared memory.
#[inline(always)]
pub fn count(cx: &mut Cx, pc: usize, r: &Request, write: bool) {
    if !cx.checks.count {
        return;
    }
    match r.space {
        Space::Global | Space::Const => count_global(cx, pc, r, write),
        Space::Shared => {
            let (waves, ideal) = if r.dense && r.at[0].is_multiple_of(128) && r.bytes >= 4 {
                (r.bytes as u64 / 4, r.bytes as u64 / 4)
            } else {
                wavefronts(&r.at, r.mask, r.bytes)
            };
            let site = &mut cx.sites[pc];
            site.shared_requests += 1;
            site.waves += waves;
            site.ideal_waves += ideal;
        }
        Space::Local => {
            let site = &mut cx.sites[pc];
            site.local_requests += 1;
            site.local_bytes += u64::from(r.mask.count_ones() * r.bytes);
        }
        _ => {}
    }
}

#[inline(always)]
fn count_global(cx: &mut Cx, pc: usize, r: &Request, write: bool) {
    if r.dense {
        return count_dense(cx, pc, r.at[0], u64::from(r.bytes), write);
    }
    // Lanes have at most 16 bytes and are aligned: they never straddle a sector, and two share all their bytes or none.
    let (mut places, mut sectors) = (Distinct::new(), Distinct::new());
    let mut fresh = 0;
    for lane in lanes(r.mask) {
        if places.is_new(r.at[lane]) && sectors.is_new(r.at[lane] / 32) {
            fresh += stamp(cx, r.at[lane] / 32, write);
        }
    }
    let asked = |lanes: usize| lanes as u64 * u64::from(r.bytes);
    let bytes = [asked(r.mask.count_ones() as usize), asked(places.n)];
    note_global(cx, pc, sectors.n as u64, bytes, fresh, write);
}

/// The different numbers among those of the lanes.
struct Distinct {
    seen: [u64; LANES],
    n: usize,
    highest: u64,
}

impl Distinct {
    #[inline(always)]
    fn new() -> Distinct {
        Distinct { seen: [u64::MAX; LANES], n: 0, highest: 0 }
    }

    /// Whether a number is none of the earlier ones. They mostly ascend: one beyond the highest needs no search.
    #[inline(always)]
    fn is_new(&mut self, number: u64) -> bool {
        let seen = &self.seen[..self.n];
        if seen.last() == Some(&number) || (number <= self.highest && seen.contains(&number)) {
            return false;
        }
        self.seen[self.n] = number;
        self.n += 1;
        self.highest = self.highest.max(number);
        true
    }
}

/// Counts a request whose lanes lie side by side.
#[inline(always)]
fn count_dense(cx: &mut Cx, pc: usize, first: u64, bytes: u64, write: bool) {
    let total = bytes * LANES as u64;
    let (from, to) = (first / 32, (first + total - 1) / 32);
    let mut fresh = 0;
    for s in from..=to {
        fresh += stamp(cx, s, write);
    }
    note_global(cx, pc, to - from + 1, [total; 2], fresh, write);
}

/// Stamps a sector with this launch; 1 if it is the first touch.
#[inline(always)]
fn stamp(cx: &Cx, sector: u64, write: bool) -> u64 {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    // SAFETY: `check` found the request inside the arena, and there are two stamps per sector of it. The stamp is
    // atomic because blocks run on several threads and each first touch must count once.
    let s = unsafe { &*cx.touched.add(2 * sector as usize + write as usize).cast::<AtomicU32>() };
    if s.load(Relaxed) == cx.epoch {
        return 0;
    }
    if cx.alone {
        // A lone worker saves the locked exchange, which costs more than all the rest.
        s.store(cx.epoch, Relaxed);
        return 1;
    }
    u64::from(s.swap(cx.epoch, Relaxed) != cx.epoch)
}

/// `bytes`: of all lanes, and each once.
#[inline(always)]
fn note_global(cx: &mut Cx, pc: usize, sectors: u64, bytes: [u64; 2], fresh: u64, write: bool) {
    let site = &mut cx.sites[pc];
    site.requests += 1;
    site.sectors += sectors;
    site.bytes += bytes[0];
    site.distinct_bytes += bytes[1];
    if write {
        cx.unique_write += fresh;
    } else {
        cx.unique_read += fresh;
    }
}

/// Offset of the first lane in device memory, if a warp in step asks for pieces that lie side by side and nothing is
/// wrong with any of them: most traffic of most kernels. Anything else, findings included, takes the general way.
#[inline(always)]
fn side_by_side(cx: &Cx, warp: &Warp, a: &Access, bytes: u64, mask: u32, intent: Intent) -> Option<usize> {
    let whole = a.elem >= 4 && a.regs.iter().all(|r| r.at != NONE && r.wide == (a.elem == 8));
    if mask != ALL || a.space != Space::Global || !a.addr.wide || cx.checks.races || !whole {
        return None;
    }
    let row = warp.regs.row64(a.addr.at);
    let mut differs = 0;
    for i in 0..LANES {
        differs |= row[i].wrapping_sub(row[0]) ^ (i as u64 * bytes);
    }
    let at = row[0].wrapping_add(a.offset as u64).wrapping_sub(cx.global.base);
    let total = bytes * LANES as u64;
    if differs != 0 || at & (bytes - 1) != 0 || at >= cx.global.size || total > cx.global.size - at {
        return None;
    }
    // SAFETY: the range was just found inside the view, of which every byte has a state.
    let sound = || unsafe { ready(cx.global.state.add(at as usize), bytes as usize, intent.reads()) };
    (!cx.checks.memory || sound()).then_some(at as usize)
}

/// The counting and the hints of a request that `side_by_side` accepted.
#[inline(always)]
fn account_dense(cx: &mut Cx, pc: usize, at: usize, bytes: u64, write: bool) {
    look_ahead(cx, pc, at as u64, bytes as usize);
    if cx.checks.count {
        count_dense(cx, pc, at as u64, bytes, write);
    }
}

/// Wavefronts a shared-memory request needs, and the fewest its distinct words could need: 32 banks of 4 bytes; requests
/// of 8 and 16 bytes go in halves and quarters of a warp. Lanes are aligned to their size, so that a lane covers one of
/// the 32, 16 or 8 equal parts of the banks, and a phase has as many lanes as there are parts.
#[inline(always)]
pub fn wavefronts(at: &[u64; LANES], mask: u32, bytes: u32) -> (u64, u64) {
    let shift = bytes.max(4).trailing_zeros();
    let parts = 128u32 >> shift;
    let mut taken = 0;
    for i in 0..LANES {
        let part = (at[i] >> shift) as u32 & (parts - 1);
        taken |= (mask >> i & 1) << ((i as u32 & !(parts - 1)) | part);
    }
    // The distinct words of a phase never exceed one wavefront.
    let phases = match parts {
        32 => u64::from(mask != 0),
        16 => u64::from(mask & 0xffff != 0) + u64::from(mask >> 16 != 0),
        _ => (0..4).map(|q| u64::from(mask >> (8 * q) & 0xff != 0)).sum(),
    };
    if taken.count_ones() == mask.count_ones() { (phases, phases) } else { (conflicts(at, mask, shift), phases) }
}

/// The wavefronts of lanes that meet in a bank: in each phase, the most distinct places that one part of the banks holds.
#[inline(never)]
fn conflicts(at: &[u64; LANES], mask: u32, shift: u32) -> u64 {
    const END: u8 = u8::MAX;
    let parts = 128usize >> shift;
    let mut waves = 0;
    for phase in (0..LANES).step_by(parts) {
        // The lanes with distinct places, as one chain for each part.
        let (mut chain, mut next, mut length) = ([END; LANES], [END; LANES], [0u8; LANES]);
        let mut most = 0;
        'lane: for lane in lanes(mask & (u32::MAX >> (32 - parts)) << phase) {
            let place = at[lane] >> shift;
            let part = place as usize & (parts - 1);
            let mut other = chain[part];
            while other != END {
                if at[other as usize] >> shift == place {
                    continue 'lane;
                }
                other = next[other as usize];
            }
            next[lane] = chain[part];
            chain[part] = lane as u8;
            length[part] += 1;
            most = most.max(length[part]);
        }
        waves += u64::from(most);
    }
    waves
}

/// Fills a row from every `step` bytes.
///
/// # Safety
/// An element must be readable at each place.
#[inline(always)]
unsafe fn gather<T: Copy>(p: *const u8, step: usize, row: &mut [T; LANES]) {
    // SAFETY: the caller vouches for the places; with this step they are one piece.
    unsafe {
        if step == size_of::<T>() {
            *row = p.cast::<[T; LANES]>().read_unaligned();
        } else {
            for i in 0..LANES {
                row[i] = p.add(i * step).cast::<T>().read_unaligned();
            }
        }
    }
}

/// Writes a row to every `step` bytes.
///
/// # Safety
/// An element must be writable at each place.
#[inline(always)]
unsafe fn scatter<T: Copy>(p: *mut u8, step: usize, row: &[T; LANES]) {
    // SAFETY: the caller vouches for the places; with this step they are one piece.
    unsafe {
        if step == size_of::<T>() {
            p.cast::<[T; LANES]>().write_unaligned(*row);
        } else {
            for i in 0..LANES {
                p.add(i * step).cast::<T>().write_unaligned(row[i]);
            }
        }
    }
}

/// Reads element `e` of every lane into a row.
///
/// # Safety
/// `check` must have accepted the request.
#[inline(always)]
unsafe fn read_row(regs: &mut Regs, r: &Request, e: u32, elem: u32, signed: bool, dst: Row) {
    let skip = (e * elem) as usize;
    // SAFETY: the caller checked that every active lane's bytes lie inside the view.
    unsafe {
        if r.dense && elem == r.bytes && !signed {
            let p = r.view.data.add(r.at[0] as usize);
            if elem == 4 && !dst.wide {
                *regs.row_mut(dst.at) = p.cast::<[u32; LANES]>().read_unaligned();
                return;
            }
            if elem == 8 && dst.wide {
                *regs.row64_mut(dst.at) = p.cast::<[u64; LANES]>().read_unaligned();
                return;
            }
        }
        if elem == 4 && !dst.wide {
            let d = regs.row_mut(dst.at);
            if r.dense {
                let (p, step) = (r.view.data.add(r.at[0] as usize + skip), r.bytes as usize);
                for i in 0..LANES {
                    d[i] = p.add(i * step).cast::<u32>().read();
                }
            } else {
                for i in lanes(r.mask) {
                    d[i] = r.view.data.add(r.offset(i) + skip).cast::<u32>().read();
                }
            }
            return;
        }
        for i in lanes(r.mask) {
            let p = r.view.data.add(r.offset(i) + skip);
            let v = match (elem, signed) {
                (1, false) => u64::from(p.read()),
                (1, true) => p.cast::<i8>().read() as u64,
                (2, false) => u64::from(p.cast::<u16>().read()),
                (2, true) => p.cast::<i16>().read() as u64,
                (4, false) => u64::from(p.cast::<u32>().read()),
                (4, true) => p.cast::<i32>().read() as u64,
                _ => p.cast::<u64>().read(),
            };
            regs.set_lane(dst, i, v);
        }
    }
}

/// Writes element `e` of every lane from a row.
///
/// # Safety
/// `check` must have accepted the request.
#[inline(always)]
unsafe fn write_row(regs: &Regs, r: &Request, e: u32, elem: u32, src: Row) {
    let skip = (e * elem) as usize;
    // SAFETY: the caller checked that every active lane's bytes lie inside the view.
    unsafe {
        if r.dense && elem == r.bytes {
            let p = r.view.data.add(r.at[0] as usize);
            if elem == 4 && !src.wide {
                p.cast::<[u32; LANES]>().write_unaligned(*regs.row(src.at));
                return;
            }
            if elem == 8 && src.wide {
                p.cast::<[u64; LANES]>().write_unaligned(*regs.row64(src.at));
                return;
            }
        }
        if elem == 4 && !src.wide {
            let s = regs.row(src.at);
            for i in lanes(r.mask) {
                r.view.data.add(r.offset(i) + skip).cast::<u32>().write(s[i]);
            }
            return;
        }
        for i in lanes(r.mask) {
            let p = r.view.data.add(r.offset(i) + skip);
            let v = regs.lane(src, i);
            match elem {
                1 => p.write(v as u8),
                2 => p.cast::<u16>().write(v as u16),
                4 => p.cast::<u32>().write(v as u32),
                _ => p.cast::<u64>().write(v),
            }
        }
    }
}

/// Marks the bytes of a write as written.
#[inline(always)]
pub fn mark_written(r: &Request) {
    // SAFETY: `check` accepted the request, so the state bytes of every active lane exist.
    unsafe {
        if r.dense {
            set_ready(r.view.state.add(r.at[0] as usize), r.bytes as usize);
        } else {
            for lane in lanes(r.mask) {
                fill_small(r.view.state.add(r.offset(lane)), READY, r.bytes as usize);
            }
        }
    }
}

/// A load.
#[inline(always)]
pub fn ld(cx: &mut Cx, block: &mut Block, warp: &mut Warp, a: &Access, pc: usize, mask: u32) -> Result<(), Stop> {
    let bytes = a.elem * a.regs.len() as u32;
    if let Some(at) = side_by_side(cx, warp, a, u64::from(bytes), mask, Intent::Read) {
        account_dense(cx, pc, at, u64::from(bytes), false);
        for (e, dst) in a.regs.iter().enumerate() {
            // SAFETY: `side_by_side` found `bytes` bytes for each lane from `at` on; the element is one of them.
            unsafe {
                let p = cx.global.data.add(at + e * a.elem as usize);
                if a.elem == 8 {
                    gather(p, bytes as usize, warp.regs.row64_mut(dst.at));
                } else {
                    gather(p, bytes as usize, warp.regs.row_mut(dst.at));
                }
            }
        }
        return Ok(());
    }
    let addr = addresses(&warp.regs, a.addr, a.offset);
    let mut left = mask;
    while left != 0 {
        let (r, rest) = request(cx, block, warp, a.space, &addr, left, bytes);
        left = rest;
        if r.dense && r.space == Space::Global {
            look_ahead(cx, pc, r.at[0], r.bytes as usize);
        }
        check(cx, block, warp, pc, &r, Intent::Read, a.used)?;
        count(cx, pc, &r, false);
        if cx.checks.races {
            let intent = if a.readonly { Intent::ReadOnly } else { Intent::Read };
            race::access(cx, block, warp, pc, &r, intent, a.strong);
            if a.strong != Strength::Weak {
                race::synchronise(cx, block, warp, &r, a.strong, false);
            }
        }
        for (e, &dst) in a.regs.iter().enumerate() {
            if dst.at != NONE {
                // SAFETY: `check` accepted the request.
                unsafe { read_row(&mut warp.regs, &r, e as u32, a.elem, a.signed, dst) }
            }
        }
    }
    Ok(())
}

/// Lanes of one store that write different values to one address: which of them stays is open. The same value from
/// several lanes is harmless and common. Lanes of a store have one size and natural alignment, so that they meet at equal
/// addresses or not at all.
#[inline(never)]
fn clash(cx: &mut Cx, block: &Block, warp: &Warp, a: &Access, pc: usize, r: &Request) {
    if !matches!(r.space, Space::Global | Space::Shared) {
        return;
    }
    // Ascending addresses cannot meet.
    let mut ascends = r.mask == ALL;
    for i in 1..LANES {
        ascends &= r.at[i] > r.at[i - 1];
    }
    if ascends {
        return;
    }
    // A table of lanes by address; twice as many places as lanes keep the search short.
    let mut table = [u8::MAX; 2 * LANES];
    for lane in lanes(r.mask) {
        let mut i = (r.at[lane] / u64::from(r.bytes)) as usize % table.len();
        while table[i] != u8::MAX && r.at[table[i] as usize] != r.at[lane] {
            i = (i + 1) % table.len();
        }
        if table[i] == u8::MAX {
            table[i] = lane as u8;
            continue;
        }
        let other = table[i] as usize;
        let cut = if a.elem == 8 { u64::MAX } else { (1 << (8 * a.elem)) - 1 };
        if a.regs.iter().any(|&s| (warp.regs.lane(s, lane) ^ warp.regs.lane(s, other)) & cut != 0) {
            let (kind, space) = match r.space {
                Space::Shared => (Kind::SharedRace, "shared"),
                _ => (Kind::GlobalRace, "global"),
            };
            let address = r.at[lane].wrapping_add(r.view.base);
            let message = format!(
                "write after write at {space} address {address:#x}: lane {other} writes another value in the same \
                 instruction, and which of them stays is open"
            );
            cx.report(block, warp, pc, lane, kind, message);
            return;
        }
    }
}

/// A store.
#[inline(always)]
pub fn st(cx: &mut Cx, block: &mut Block, warp: &mut Warp, a: &Access, pc: usize, mask: u32) -> Result<(), Stop> {
    let bytes = a.elem * a.regs.len() as u32;
    if let Some(at) = side_by_side(cx, warp, a, u64::from(bytes), mask, Intent::Write) {
        account_dense(cx, pc, at, u64::from(bytes), true);
        for (e, src) in a.regs.iter().enumerate() {
            // SAFETY: `side_by_side` found `bytes` bytes for each lane from `at` on; the element is one of them.
            unsafe {
                let p = cx.global.data.add(at + e * a.elem as usize);
                if a.elem == 8 {
                    scatter(p, bytes as usize, warp.regs.row64(src.at));
                } else {
                    scatter(p, bytes as usize, warp.regs.row(src.at));
                }
            }
        }
        // SAFETY: the states of the bytes that were just written.
        unsafe { set_ready(cx.global.state.add(at), bytes as usize) }
        cx.progress = true;
        return Ok(());
    }
    let addr = addresses(&warp.regs, a.addr, a.offset);
    let mut left = mask;
    while left != 0 {
        let (r, rest) = request(cx, block, warp, a.space, &addr, left, bytes);
        left = rest;
        if r.dense && r.space == Space::Global {
            look_ahead(cx, pc, r.at[0], r.bytes as usize);
        }
        check(cx, block, warp, pc, &r, Intent::Write, u32::MAX)?;
        count(cx, pc, &r, true);
        if cx.checks.races && a.strong != Strength::Weak {
            race::access(cx, block, warp, pc, &r, Intent::Write, a.strong);
            race::synchronise(cx, block, warp, &r, a.strong, a.release);
        } else if cx.checks.races {
            race::compare(cx, block, warp, pc, &r, Intent::Write, Strength::Weak, Some(a));
            if !r.dense {
                clash(cx, block, warp, a, pc, &r);
            }
        }
        for (e, &src) in a.regs.iter().enumerate() {
            // SAFETY: `check` accepted the request.
            unsafe { write_row(&warp.regs, &r, e as u32, a.elem, src) }
        }
        mark_written(&r);
        if cx.checks.races && a.strong == Strength::Weak {
            race::note(cx, block, warp, &r, true, Strength::Weak);
        }
    }
    cx.progress = true;
    Ok(())
}

/// Loads `bytes` bytes into every lane of one row: a part of a wider operation.
pub fn load(
    cx: &mut Cx,
    block: &mut Block,
    warp: &mut Warp,
    space: Space,
    addr: &[u64; LANES],
    mask: u32,
    pc: usize,
    bytes: u32,
    dst: Row,
) -> Result<(), Stop> {
    let mut left = mask;
    while left != 0 {
        let (r, rest) = request(cx, block, warp, space, addr, left, bytes);
        left = rest;
        check(cx, block, warp, pc, &r, Intent::Read, u32::MAX)?;
        count(cx, pc, &r, false);
        if cx.checks.races {
            race::access(cx, block, warp, pc, &r, Intent::Read, Strength::Weak);
        }
        // SAFETY: `check` accepted the request.
        unsafe { read_row(&mut warp.regs, &r, 0, bytes, false, dst) }
    }
    Ok(())
}

/// Stores `bytes` bytes of every lane of one row.
pub fn store(
    cx: &mut Cx,
    block: &mut Block,
    warp: &mut Warp,
    space: Space,
    addr: &[u64; LANES],
    mask: u32,
    pc: usize,
    bytes: u32,
    src: Row,
) -> Result<(), Stop> {
    let mut left = mask;
    while left != 0 {
        let (r, rest) = request(cx, block, warp, space, addr, left, bytes);
        left = rest;
        check(cx, block, warp, pc, &r, Intent::Write, u32::MAX)?;
        count(cx, pc, &r, true);
        if cx.checks.races {
            race::access(cx, block, warp, pc, &r, Intent::Write, Strength::Weak);
        }
        // SAFETY: `check` accepted the request.
        unsafe { write_row(&warp.regs, &r, 0, bytes, src) }
        mark_written(&r);
    }
    Ok(())
}

/// One lane of `atom` or `red`: the new value.
fn rmw(op: Rmw, ty: Ty, ftz: bool, old: u64, b: u64, c: u64) -> u64 {
    let bits = 8 * ty.bytes();
    let cut = |v: u64| if bits == 64 { v } else { v & ((1 << bits) - 1) };
    let extend = |v: u64| (v << (64 - bits)) as i64 >> (64 - bits);
    if ty.float() {
        let kind = match op {
            Rmw::Add => LaneKind::Add,
            Rmw::Min => LaneKind::Min,
            Rmw::Max => LaneKind::Max,
            _ => return if op == Rmw::Cas && old != cut(b) { old } else { cut(if op == Rmw::Cas { c } else { b }) },
        };
        return Spec { ftz, ..Spec::new(kind, ty) }.eval(old, b, 0);
    }
    let b = cut(b);
    cut(match op {
        Rmw::And => old & b,
        Rmw::Or => old | b,
        Rmw::Xor => old ^ b,
        Rmw::Add => old.wrapping_add(b),
        Rmw::Min if ty.signed() => extend(old).min(extend(b)) as u64,
        Rmw::Max if ty.signed() => extend(old).max(extend(b)) as u64,
        Rmw::Min => old.min(b),
        Rmw::Max => old.max(b),
        Rmw::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        Rmw::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        Rmw::Exch | Rmw::Popc => b,
        Rmw::Cas => {
            if old == b {
                cut(c)
            } else {
                old
            }
        }
    })
}

/// An atomic or a reduction; lanes take effect in ascending order.
pub fn atom(cx: &mut Cx, block: &mut Block, warp: &mut Warp, a: &Atomic, pc: usize, mask: u32) -> Result<(), Stop> {
    let addr = addresses(&warp.regs, a.addr, a.offset);
    let mut left = mask;
    while left != 0 {
        let (r, rest) = request(cx, block, warp, a.space, &addr, left, a.ty.bytes());
        left = rest;
        check(cx, block, warp, pc, &r, Intent::Atomic, u32::MAX)?;
        count(cx, pc, &r, true);
        if cx.checks.count {
            contention::note(cx, pc, &r);
        }
        if cx.checks.races {
            // A compare-and-swap counts as a read: the loops around it start from a plain read (as in the programming
            // guide), which the swap itself validates. Plain writes still conflict with it.
            let intent = if a.rmw == Rmw::Cas { Intent::Read } else { Intent::Atomic };
            race::access(cx, block, warp, pc, &r, intent, a.strong);
            race::synchronise(cx, block, warp, &r, a.strong, a.release);
        }
        // Atomic f32 sums flush subnormals in global memory and keep them in shared memory.
        let ftz = a.ty == Ty::F32 && r.space == Space::Global;
        for lane in lanes(r.mask) {
            // SAFETY: `check` found the bytes inside the view. Kernels with atomics on global memory run their blocks
            // on one thread, so nothing else touches them now.
            unsafe {
                let p = r.view.data.add(r.offset(lane));
                let old = match a.ty.bytes() {
                    2 => u64::from(p.cast::<u16>().read()),
                    4 => u64::from(p.cast::<u32>().read()),
                    _ => p.cast::<u64>().read(),
                };
                let b = warp.regs.lane(a.b, lane);
                let c = if a.c.at == NONE { 0 } else { warp.regs.lane(a.c, lane) };
                let new = rmw(a.rmw, a.ty, ftz, old, b, c);
                if new != old {
                    cx.progress = true;
                }
                match a.ty.bytes() {
                    2 => p.cast::<u16>().write(new as u16),
                    4 => p.cast::<u32>().write(new as u32),
                    _ => p.cast::<u64>().write(new),
                }
                if a.dst.at != NONE {
                    warp.regs.set_lane(a.dst, lane, old);
                }
            }
        }
        mark_written(&r);
    }
    Ok(())
}

/// A small memory of its own: the shared memory of a block, the local memory of a warp, the parameter block.
#[derive(Debug)]
pub struct Private {
    data: Vec<u128>,
    state: Vec<u128>,
    /// Pointers to the two buffers, taken once: views hand them out while the owner is borrowed.
    view: View,
}

// SAFETY: the pointers refer to the buffers beside them, which move with the struct.
unsafe impl Send for Private {}
// SAFETY: shared only as the parameter block, which nobody writes while a launch runs.
unsafe impl Sync for Private {}

impl Private {
    /// `bytes` bytes in the given state.
    pub fn new(bytes: usize, state: u8) -> Private {
        let words = bytes.div_ceil(16);
        let s = u128::from_ne_bytes([state; 16]);
        let (mut data, mut state) = (vec![0u128; words], vec![s; words]);
        let view =
            View { base: 0, size: bytes as u64, data: data.as_mut_ptr().cast(), state: state.as_mut_ptr().cast() };
        Private { data, state, view }
    }

    /// Back to unwritten. The bytes keep a poison value, so that code which reads them anyway goes visibly wrong.
    pub fn reset(&mut self) {
        // SAFETY: both buffers hold that many words; they are written through the same pointers as everywhere else.
        unsafe {
            std::ptr::write_bytes(self.view.data, 0xff, 16 * self.data.len());
            std::ptr::write_bytes(self.view.state, LIVE, 16 * self.state.len());
        }
    }

    /// Closes the bytes between two addresses, as far as there are such.
    pub fn close(&mut self, from: u32, to: u32) {
        let (from, to) = (from as usize, (to as usize).min(self.view.size as usize));
        if from < to {
            // SAFETY: the range was just cut to the buffer.
            unsafe { std::ptr::write_bytes(self.view.state.add(from), 0, to - from) }
        }
    }

    /// As the interpreter sees it, at address 0.
    pub fn view(&self) -> View {
        self.view
    }

    /// The bytes.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: `data` holds at least `size` bytes, plain words without invalid patterns.
        unsafe { std::slice::from_raw_parts_mut(self.view.data, self.view.size as usize) }
    }
}

/// Bits that mark a byte as written and readable.
pub const WRITTEN: u8 = LIVE | INIT;

#[cfg(test)]
mod tests {
    use super::*;

    /// The same by words and sets, as the definition says it.
    fn by_words(at: &[u64; LANES], mask: u32, bytes: u32) -> (u64, u64) {
        let (mut waves, mut ideal) = (0, 0);
        let lanes_of_phase = if bytes <= 4 { 32 } else { 128 / bytes as usize };
        for phase in 0..LANES / lanes_of_phase {
            let mut words = std::collections::BTreeSet::new();
            for lane in (phase * lanes_of_phase..(phase + 1) * lanes_of_phase).filter(|l| mask >> l & 1 != 0) {
                words.extend((0..u64::from(bytes).div_ceil(4)).map(|w| at[lane] / 4 + w));
            }
            waves += (0..32).map(|bank| words.iter().filter(|&w| w % 32 == bank).count() as u64).max().unwrap_or(0);
            ideal += words.len().div_ceil(32) as u64;
        }
        (waves, ideal)
    }

    #[test]
    fn wavefronts_agree_with_their_definition() {
        let mut seed = 1u64;
        let mut random = || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            seed >> 33
        };
        for round in 0..20_000 {
            let bytes = 1 << (round % 5);
            let range = 1 << (random() % 14);
            let at = std::array::from_fn(|_| random() % range * u64::from(bytes));
            let mask = if round % 3 == 0 { ALL } else { (random() & random()) as u32 | (random() << 31) as u32 };
            assert_eq!(wavefronts(&at, mask, bytes), by_words(&at, mask, bytes), "{at:?} {mask:#x} {bytes}");
        }
    }

    #[test]
    fn wavefronts_of_known_patterns() {
        let at = |f: &dyn Fn(u64) -> u64| std::array::from_fn::<u64, LANES, _>(|i| f(i as u64));
        assert_eq!(wavefronts(&at(&|i| 4 * i), ALL, 4), (1, 1), "one word per bank");
        assert_eq!(wavefronts(&at(&|_| 64), ALL, 4), (1, 1), "broadcast");
        assert_eq!(wavefronts(&at(&|i| 8 * i), ALL, 4), (2, 1), "stride 2");
        assert_eq!(wavefronts(&at(&|i| 128 * i), ALL, 4), (32, 1), "one bank");
        assert_eq!(wavefronts(&at(&|i| 132 * i), ALL, 4), (1, 1), "padded column");
        assert_eq!(wavefronts(&at(&|i| 16 * i), ALL, 16), (4, 4), "float4 row");
        assert_eq!(wavefronts(&at(&|i| 8 * i), ALL, 8), (2, 2), "double row");
        assert_eq!(wavefronts(&at(&|i| 4 * i), 0xff, 4), (1, 1));
    }
}
