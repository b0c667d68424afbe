//! Device memory. Programs see addresses in a range that is reserved and never mapped, so host code that dereferences a
//! device pointer faults at once. The bytes lie elsewhere at the same offset, and beside them one state byte for each:
//! whether it belongs to an allocation, and whether it was ever written.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

/// State bit: the byte belongs to a live allocation.
pub const LIVE: u8 = 1;
/// State bit: the byte was written.
pub const INIT: u8 = 2;
/// State bit: an asynchronous copy into the byte is still under way.
pub const PENDING: u8 = 4;
/// A byte that may be read.
pub const READY: u8 = LIVE | INIT;

/// Bytes kept free around every allocation.
pub const RED_ZONE: u64 = 512;
/// Alignment of allocations.
pub const ALIGN: u64 = 512;

/// Size of the reserved address range.
const RANGE: u64 = 1 << 37;

/// What is given back to the host together: for so many bytes, each mapping has whole large pages.
const WINDOW: u64 = 8 << 20;

/// A piece of memory as the interpreter sees it.
#[derive(Debug, Clone, Copy)]
pub struct View {
    /// First address.
    pub base: u64,
    /// Bytes.
    pub size: u64,
    /// The bytes.
    pub data: *mut u8,
    /// Their states.
    pub state: *mut u8,
}

/// One allocation, live or freed.
#[derive(Debug, Clone)]
pub struct Allocation {
    /// First address.
    pub base: u64,
    /// Bytes asked for.
    pub bytes: u64,
    /// What it is, for reports: `allocation 3`, `variable gcount`, `sub-allocation 7`.
    pub name: String,
    /// Freed, and by what.
    pub freed: Option<String>,
    /// Whether a kernel or copy ever touched it.
    pub used: bool,
    /// Declared by the program inside another allocation.
    pub sub: bool,
    /// Belongs to a module: no leak.
    pub module: bool,
    /// Parts of it were handed out by a pool of the program: bytes outside them are closed.
    pub divided: bool,
    /// Usable now; false between a stream-ordered allocation and its turn in the stream.
    pub open: bool,
}

#[derive(Debug, Default)]
struct Table {
    live: BTreeMap<u64, Allocation>,
    /// Declared sub-allocations, by address.
    subs: BTreeMap<u64, Allocation>,
    /// The latest freed allocations, oldest first.
    freed: VecDeque<Allocation>,
    next: u64,
    live_bytes: u64,
    count: u64,
}

impl Table {
    fn remember(&mut self, freed: Allocation) {
        self.freed.push_back(freed);
        if self.freed.len() > 4096 {
            self.freed.pop_front();
        }
    }

    /// What holds an address: the sub-allocation, if the program declared one there, else the allocation.
    fn innermost(&self, address: u64) -> Option<&Allocation> {
        let inside = |a: &&Allocation| address < a.base + a.bytes;
        let last = |m: &'_ BTreeMap<u64, Allocation>| m.range(..=address).next_back().map(|(&b, _)| b);
        let sub = last(&self.subs).and_then(|b| self.subs.get(&b)).filter(inside);
        sub.or_else(|| last(&self.live).and_then(|b| self.live.get(&b)).filter(inside))
    }
}

/// The device memory of one emulated GPU.
pub struct Arena {
    base: u64,
    data: *mut u8,
    state: *mut u8,
    /// Two u32 per 32-byte sector: launch numbers of the last read and write, for the count of unique bytes.
    touched: *mut u32,
    /// Three u64 per 4-byte word: the last write and two readers in the running launch, for race detection.
    race: *mut u64,
    total: u64,
    table: Mutex<Table>,
}

// SAFETY: the pointers refer to mappings that live as long as the arena; kernels that share them follow the rules of
// the emulated program, and the table is behind a lock.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

fn map(bytes: u64, hint: u64, access: i32) -> Result<*mut u8, String> {
    // SAFETY: an anonymous private mapping at a place of the kernel's choice touches no existing memory.
    let p = unsafe {
        libc::mmap(
            hint as *mut libc::c_void,
            bytes as usize,
            access,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if p == libc::MAP_FAILED {
        return Err(format!(
            "cannot reserve {} GiB of address space: {}; raise the limit (ulimit -v) for programs on the emulator",
            bytes >> 30,
            std::io::Error::last_os_error()
        ));
    }
    // A core dump of the program must not hold terabytes of emulated memory.
    // SAFETY: the range is the mapping that was just made.
    unsafe { libc::madvise(p, bytes as usize, libc::MADV_DONTDUMP) };
    if access != libc::PROT_NONE {
        // Kernels stride over pages: large ones save most of the address translation. Only a hint.
        // SAFETY: the range is the mapping that was just made.
        unsafe { libc::madvise(p, bytes as usize, libc::MADV_HUGEPAGE) };
    }
    Ok(p.cast())
}

impl Arena {
    /// Reserves the address range; `total` bytes can be live at once.
    pub fn new(total: u64) -> Result<Arena, String> {
        let rw = libc::PROT_READ | libc::PROT_WRITE;
        // A fixed hint keeps addresses equal from run to run; a second device lands elsewhere.
        let base = map(RANGE, 0x1000_0000_0000, libc::PROT_NONE)? as u64;
        Ok(Arena {
            base,
            data: map(RANGE, 0, rw)?,
            state: map(RANGE, 0, rw)?,
            touched: map(RANGE / 4, 0, rw)?.cast(),
            race: map(RANGE * 6, 0, rw)?.cast(),
            total,
            table: Mutex::new(Table { next: RED_ZONE, ..Table::default() }),
        })
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The whole range as the interpreter sees it.
    pub fn view(&self) -> View {
        View { base: self.base, size: RANGE, data: self.data, state: self.state }
    }

    /// Last-touch stamps, two per sector.
    pub fn touched(&self) -> *mut u32 {
        self.touched
    }

    /// Race records, three per word.
    pub fn race(&self) -> *mut u64 {
        self.race
    }

    /// Forgets every race record: the launch numbers in them are about to be used again.
    pub fn forget_races(&self) {
        // SAFETY: the mapping is ours; the pages read as zeros afterwards, which is "no record".
        unsafe { libc::madvise(self.race.cast(), (RANGE * 6) as usize, libc::MADV_DONTNEED) };
    }

    /// Whether an address lies in the device range.
    pub fn contains(&self, address: u64) -> bool {
        address.wrapping_sub(self.base) < RANGE
    }

    /// Free and total bytes.
    pub fn info(&self) -> (u64, u64) {
        let t = self.table();
        (self.total.saturating_sub(t.live_bytes), self.total)
    }

    /// From now on `total` bytes can be live at once; what is live stays.
    pub fn set_total(&mut self, total: u64) {
        self.total = total;
    }

    /// Allocates `bytes`; `None` when the device is full.
    pub fn alloc(&self, bytes: u64, name: Option<String>, module: bool) -> Option<u64> {
        let mut t = self.table();
        if bytes == 0 || t.live_bytes.checked_add(bytes)? > self.total {
            return None;
        }
        let span = bytes.next_multiple_of(ALIGN).checked_add(RED_ZONE)?;
        let mut at = t.next;
        let mut wrapped = false;
        // Addresses are used again only after the whole range was, so that stale pointers keep pointing at nothing.
        loop {
            if at + span > RANGE {
                if wrapped {
                    return None;
                }
                wrapped = true;
                at = RED_ZONE;
            }
            let end = self.base + at + span;
            match t.live.range(..end).next_back() {
                Some((&b, a)) if b + a.bytes + RED_ZONE > self.base + at => {
                    at = (b + a.bytes + RED_ZONE - self.base).next_multiple_of(ALIGN);
                }
                _ => break,
            }
        }
        let last = std::mem::replace(&mut t.next, at + span);
        if last / WINDOW != t.next / WINDOW {
            self.release(&t, last - 1, last);
        }
        t.count += 1;
        let base = self.base + at;
        let name = name.unwrap_or_else(|| format!("allocation {}", t.count));
        t.live_bytes += bytes;
        t.live.insert(
            base,
            Allocation { base, bytes, name, freed: None, used: false, sub: false, module, divided: false, open: true },
        );
        self.fill_state(base, bytes, LIVE);
        Some(base)
    }

    /// Closes a fresh allocation until its turn in a stream comes.
    pub fn close(&self, base: u64) {
        self.set_open(base, false);
    }

    /// Opens a closed allocation. Returns false if it is gone.
    pub fn open(&self, base: u64) -> bool {
        self.set_open(base, true)
    }

    fn set_open(&self, base: u64, open: bool) -> bool {
        let mut t = self.table();
        let Some(a) = t.live.get_mut(&base) else { return false };
        a.open = open;
        let bytes = a.bytes;
        self.fill_state(base, bytes, if open { LIVE } else { 0 });
        true
    }

    /// Whether any byte of an allocation was ever written.
    pub fn written(&self, a: &Allocation) -> bool {
        self.states(a.base, a.bytes).iter().any(|s| s & INIT != 0)
    }

    /// Copies the states of a range along with its bytes.
    pub fn copy_state(&self, dst: u64, src: u64, bytes: u64) {
        // SAFETY: callers checked both ranges against the table.
        unsafe {
            let (d, s) = (self.state.add((dst - self.base) as usize), self.state.add((src - self.base) as usize));
            std::ptr::copy(s, d, bytes as usize);
        }
    }

    /// Frees an allocation. The error tells a double free from an address that never was one.
    pub fn free(&self, base: u64, by: &str) -> Result<Allocation, String> {
        let mut t = self.table();
        let Some(mut a) = t.live.remove(&base) else {
            let at = t.freed.iter().rev().find(|a| a.base == base);
            return Err(match at {
                Some(a) => format!(
                    "double free of {base:#x}: {} of {} bytes was freed by {}",
                    a.name,
                    a.bytes,
                    a.freed.as_deref().unwrap_or("an earlier call")
                ),
                None => match t.live.range(..=base).next_back().filter(|(_, a)| base < a.base + a.bytes) {
                    Some((_, a)) => format!(
                        "invalid free of {base:#x}: it lies {} bytes inside {}, whose first byte is {:#x}",
                        base - a.base,
                        a.name,
                        a.base
                    ),
                    None => format!("invalid free of {base:#x}: no allocation starts there"),
                },
            });
        };
        t.live_bytes -= a.bytes;
        a.freed = Some(by.to_string());
        self.fill_state(base, a.bytes, 0);
        self.release(&t, base - self.base, base - self.base + a.bytes);
        let inside: Vec<u64> = t.subs.range(base..base + a.bytes).map(|(&b, _)| b).collect();
        for b in inside {
            t.subs.remove(&b);
        }
        t.remember(a.clone());
        Ok(a)
    }

    /// Gives what lies around a free range back to the host, as far as nothing there is live and to the ends of its windows.
    /// The window of the next allocation is kept until that has left it: its pages are about to be needed again.
    fn release(&self, t: &Table, from: u64, to: u64) {
        let below = t.live.range(..self.base + from).next_back().map_or(0, |(&base, a)| base - self.base + a.bytes);
        let above = t.live.range(self.base + to..).next().map_or(RANGE, |(&base, _)| base - self.base);
        let (mut from, mut to) = (below.max(from / WINDOW * WINDOW), above.min(to.next_multiple_of(WINDOW)));
        let current = t.next / WINDOW * WINDOW;
        if from < current {
            to = to.min(current);
        } else if from < current + WINDOW {
            from = current + WINDOW;
        }
        // Of this many bytes every mapping has whole pages, `touched` four times smaller.
        const WHOLE: u64 = 4 * 4096;
        let (from, to) = (from.next_multiple_of(WHOLE), to / WHOLE * WHOLE);
        if to <= from {
            return;
        }
        // Zeros are what bytes of no allocation have as their state, and sectors and words that nothing has touched.
        for (mapping, numerator, denominator) in self.mappings() {
            let (at, len) = (from * numerator / denominator, (to - from) * numerator / denominator);
            // SAFETY: the pages lie inside a mapping of ours, and what they are about belongs to no live allocation.
            unsafe { libc::madvise(mapping.add(at as usize).cast(), len as usize, libc::MADV_DONTNEED) };
        }
    }

    /// What is mapped, and how many bytes of it there are for one byte of device memory, as a fraction.
    fn mappings(&self) -> [(*mut u8, u64, u64); 4] {
        [(self.data, 1, 1), (self.state, 1, 1), (self.touched.cast(), 1, 4), (self.race.cast(), 6, 1)]
    }

    /// Sets the state of a range. The range must lie in the arena (callers check).
    fn fill_state(&self, base: u64, bytes: u64, state: u8) {
        // SAFETY: callers pass ranges of allocations, which lie inside the mapping.
        unsafe { std::ptr::write_bytes(self.state.add((base - self.base) as usize), state, bytes as usize) }
    }

    /// A part of an allocation that the program's own pool hands out: bytes outside it, up to the next one, are closed
    /// until they are handed out too.
    pub fn sub_alloc(&self, base: u64, bytes: u64) -> Result<(), String> {
        if bytes == 0 {
            return Err(format!("sub-allocation of 0 bytes at {base:#x}"));
        }
        let mut t = self.table();
        let parent = t.live.range(..=base).next_back().map(|(_, a)| a.clone());
        let Some(parent) = parent.filter(|a| base - a.base <= a.bytes && bytes <= a.bytes - (base - a.base)) else {
            return Err(format!("sub-allocation of {bytes} bytes at {base:#x} lies in no allocation"));
        };
        if let Some((_, other)) = t.subs.range(..base + bytes).next_back().filter(|(_, s)| s.base + s.bytes > base) {
            return Err(format!("sub-allocation of {bytes} bytes at {base:#x} overlaps {}", other.name));
        }
        if !parent.divided {
            // The first part closes the rest.
            self.fill_state(parent.base, parent.bytes, 0);
            if let Some(a) = t.live.get_mut(&parent.base) {
                a.divided = true;
            }
        }
        t.count += 1;
        let name = format!("sub-allocation {} of {}", t.count, parent.name);
        t.subs.insert(
            base,
            Allocation {
                base,
                bytes,
                name,
                freed: None,
                used: false,
                sub: true,
                module: false,
                divided: false,
                open: true,
            },
        );
        self.fill_state(base, bytes, LIVE);
        Ok(())
    }

    /// Whether a pool of the program hands out parts of the allocation that holds an address.
    pub fn divided(&self, address: u64) -> bool {
        let t = self.table();
        t.live.range(..=address).next_back().is_some_and(|(_, a)| a.divided)
    }

    /// Ends a sub-allocation: its bytes are closed again, unless the caller wants them kept open.
    pub fn sub_free(&self, base: u64, bytes: u64, keep_open: bool) -> Result<(), String> {
        let mut t = self.table();
        let Some(mut a) = t.subs.remove(&base) else {
            return Err(match t.freed.iter().rev().find(|a| a.sub && a.base == base) {
                Some(a) => format!("double free of {base:#x}: {} of {} bytes was freed already", a.name, a.bytes),
                None => format!("invalid free of {base:#x}: no sub-allocation starts there"),
            });
        };
        if a.bytes != bytes {
            let text = format!("free of {bytes} bytes at {base:#x}: {} has {} bytes", a.name, a.bytes);
            t.subs.insert(base, a);
            return Err(text);
        }
        // Closing the bytes forgets that they were written, which the allocation is asked for when it is freed.
        if self.written(&a)
            && let Some((_, parent)) = t.live.range_mut(..=base).next_back()
        {
            parent.used = true;
        }
        if !keep_open {
            self.fill_state(base, a.bytes, 0);
        }
        a.freed = Some("warpsmithEmuSubFree".to_string());
        t.remember(a);
        Ok(())
    }

    /// Opens bytes at a module variable so that they count as written.
    pub fn mark_init(&self, base: u64, bytes: u64) {
        self.fill_state(base, bytes, READY);
    }

    /// Notes that an allocation was used.
    pub fn mark_used(&self, address: u64) {
        let mut t = self.table();
        if let Some((_, a)) = t.live.range_mut(..=address).next_back() {
            a.used = true;
        }
    }

    /// Live allocations of the program, in address order.
    pub fn live(&self) -> Vec<Allocation> {
        self.table().live.values().filter(|a| !a.module).cloned().collect()
    }

    /// The live allocation that holds `address`, with its base.
    pub fn find(&self, address: u64) -> Option<Allocation> {
        let t = self.table();
        t.live.range(..=address).next_back().map(|(_, a)| a.clone()).filter(|a| address < a.base + a.bytes)
    }

    /// What holds an address: the sub-allocation, if the program declared one there, else the allocation.
    pub fn innermost(&self, address: u64) -> Option<Allocation> {
        self.table().innermost(address).cloned()
    }

    /// Where a device address points, in words.
    pub fn locate(&self, address: u64) -> String {
        match self.innermost(address) {
            Some(a) => {
                format!("{} bytes inside {} ({} bytes at {:#x})", address - a.base, a.name, a.bytes, a.base)
            }
            None => self.describe(address),
        }
    }

    /// Whether every byte of a range may be accessed; the error is the first one that may not.
    pub fn accessible(&self, base: u64, bytes: u64) -> Result<(), u64> {
        match first_without(self.states(base, bytes), LIVE) {
            Some(i) => Err(base + i as u64),
            None => Ok(()),
        }
    }

    /// The first byte of a range, counted from its start, that nobody wrote.
    pub fn first_unwritten(&self, base: u64, bytes: u64) -> Option<u64> {
        first_without(self.states(base, bytes), INIT).map(|i| i as u64)
    }

    /// States of a range that lies inside one allocation.
    fn states(&self, base: u64, bytes: u64) -> &[u8] {
        // SAFETY: callers pass ranges of allocations, which lie inside the mapping.
        unsafe { std::slice::from_raw_parts(self.state.add((base - self.base) as usize), bytes as usize) }
    }

    /// A sentence that says what lies at an address that may not be accessed.
    pub fn describe(&self, address: u64) -> String {
        let t = self.table();
        let inside = |a: &Allocation| address >= a.base && address < a.base + a.bytes;
        if let Some((_, a)) = t.live.range(..=address).next_back().filter(|(_, a)| inside(a) && !a.open) {
            return format!(
                "{} bytes inside {} ({} bytes at {:#x}), which its stream has not allocated yet",
                address - a.base,
                a.name,
                a.bytes,
                a.base
            );
        }
        let sub_parent = t.live.range(..=address).next_back().map(|(_, a)| a).filter(|a| inside(a));
        if let Some(a) = t.freed.iter().rev().find(|a| inside(a)).filter(|a| a.sub || sub_parent.is_none()) {
            return format!(
                "{} bytes inside {} ({} bytes at {:#x}), which was freed by {}",
                address - a.base,
                a.name,
                a.bytes,
                a.base,
                a.freed.as_deref().unwrap_or("an earlier call")
            );
        }
        let pool = if sub_parent.is_some() { &t.subs } else { &t.live };
        let below = pool.range(..=address).next_back().map(|(_, a)| a);
        let above = pool.range(address..).next().map(|(_, a)| a);
        let past = below.map(|a| (address - (a.base + a.bytes).min(address), a));
        let before = above.map(|a| (a.base - address, a));
        match (past, before) {
            (Some((p, a)), Some((b, _))) if p <= b => past_text(p, a),
            (_, Some((b, a))) => format!("{b} bytes before {} ({} bytes at {:#x})", a.name, a.bytes, a.base),
            (Some((p, a)), None) => past_text(p, a),
            (None, None) => "nowhere near an allocation: there is none".to_string(),
        }
    }
}

/// The first byte whose state lacks a bit. Whole pieces are looked at together: copies may be large.
fn first_without(states: &[u8], bit: u8) -> Option<usize> {
    let lacks = |piece: &[u8]| piece.iter().fold(u8::MAX, |all, s| all & s) & bit == 0;
    let (n, piece) = states.chunks(4096).enumerate().find(|(_, piece)| lacks(piece))?;
    Some(4096 * n + piece.iter().position(|s| s & bit == 0)?)
}

fn past_text(distance: u64, a: &Allocation) -> String {
    format!("{distance} bytes past the end of {} ({} bytes at {:#x})", a.name, a.bytes, a.base)
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `new` with this size and nothing refers to it any more.
        unsafe { libc::munmap(self.base as *mut libc::c_void, RANGE as usize) };
        for (mapping, numerator, denominator) in self.mappings() {
            // SAFETY: as above.
            unsafe { libc::munmap(mapping.cast(), (RANGE * numerator / denominator) as usize) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_keep_red_zones_and_say_what_lies_where() {
        let a = Arena::new(1 << 20).unwrap();
        let p = a.alloc(100, None, false).unwrap();
        let q = a.alloc(100, None, false).unwrap();
        assert!(q - p >= 100 + RED_ZONE);
        assert_eq!(a.describe(p + 104), format!("4 bytes past the end of allocation 1 (100 bytes at {p:#x})"));
        assert_eq!(a.describe(q - 8), format!("8 bytes before allocation 2 (100 bytes at {q:#x})"));
        a.free(p, "cuMemFree").unwrap();
        assert!(a.describe(p + 4).contains("which was freed by cuMemFree"), "{}", a.describe(p + 4));
        assert!(a.free(p, "cuMemFree").unwrap_err().contains("double free"));
        assert!(a.free(q + 4, "cuMemFree").unwrap_err().contains("4 bytes inside allocation 2"));
        assert_eq!(a.alloc(2 << 20, None, false), None, "more than the device holds");
        assert_eq!(a.info(), ((1 << 20) - 100, 1 << 20));
    }

    #[test]
    fn sub_allocations_close_the_bytes_between_them() {
        let a = Arena::new(1 << 20).unwrap();
        let p = a.alloc(4096, None, false).unwrap();
        a.sub_alloc(p, 256).unwrap();
        a.sub_alloc(p + 512, 256).unwrap();
        assert_eq!((a.accessible(p, 256), a.accessible(p + 200, 100)), (Ok(()), Err(p + 256)));
        a.mark_init(p, 100);
        assert_eq!((a.first_unwritten(p, 100), a.first_unwritten(p + 10, 100)), (None, Some(90)));
        assert!(a.describe(p + 260).contains("4 bytes past the end of sub-allocation"), "{}", a.describe(p + 260));
        assert!(a.sub_alloc(p + 128, 16).unwrap_err().contains("overlaps"));
        assert!(a.sub_free(p, 255, false).unwrap_err().contains("has 256 bytes"));
        a.sub_free(p, 256, false).unwrap();
        assert!(a.sub_free(p, 256, false).unwrap_err().contains("double free"));
        assert!(a.describe(p).contains("freed by warpsmithEmuSubFree"), "{}", a.describe(p));
        assert!(a.sub_alloc(p + 4000, 256).unwrap_err().contains("lies in no allocation"));
    }
    /// Bytes of the host's memory that an arena holds for its first `bytes`.
    fn resident(a: &Arena, bytes: u64) -> usize {
        let of = |(mapping, numerator, denominator): (*mut u8, u64, u64)| {
            let mut pages = vec![0u8; (bytes * numerator / denominator).div_ceil(4096) as usize];
            // SAFETY: the range is the beginning of a mapping, and there is a byte for each of its pages.
            let answer = unsafe { libc::mincore(mapping.cast(), 4096 * pages.len(), pages.as_mut_ptr()) };
            assert_eq!(answer, 0);
            4096 * pages.iter().filter(|page| **page & 1 == 1).count()
        };
        a.mappings().map(of).iter().sum()
    }

    #[test]
    fn freed_memory_goes_back_to_the_host() {
        for bytes in [100, 70_000, 3 << 20, 40 << 20] {
            let a = Arena::new(1 << 30).unwrap();
            let touch = |p: u64, bytes: u64| {
                let at = p - a.base;
                for (mapping, numerator, denominator) in a.mappings() {
                    let (at, len) = (at * numerator / denominator, bytes * numerator / denominator);
                    // SAFETY: the range belongs to an allocation, and nothing runs on it.
                    unsafe { std::ptr::write_bytes(mapping.add(at as usize), READY, len as usize) };
                }
            };
            let kept = a.alloc(5000, None, false).unwrap();
            touch(kept, 5000);
            let mut end = 0;
            // In an order of their own, and one more that makes the last window an old one.
            let mut pair = [0; 2];
            while end < 200 << 20 {
                for p in &mut pair {
                    *p = a.alloc(bytes, None, false).unwrap();
                    touch(*p, bytes);
                    end = *p + bytes - a.base;
                }
                a.free(pair[1], "cuMemFree").unwrap();
                a.free(pair[0], "cuMemFree").unwrap();
            }
            let held = resident(&a, end);
            // The window of the next allocation, and the edges of what is kept.
            assert!(held <= 9 * WINDOW as usize, "{bytes}: {held} bytes");
            assert!(held >= 8 * 4096, "what is live stays");
            assert_eq!(a.first_unwritten(kept, 5000), None);
            // SAFETY: as above.
            assert!(unsafe { std::slice::from_raw_parts(a.data.add((kept - a.base) as usize), 5000) } == [READY; 5000]);
        }
    }
}
