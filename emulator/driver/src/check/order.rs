//! Order between the operations of streams. Every operation has a place on a timeline (a stream, or a branch of a graph)
//! and a clock that says how far each timeline has come before it: through its own stream, events that the stream waited
//! for, the legacy default stream, and what the host had waited for when it asked for the operation. Of two operations
//! the one that runs second must know the first, or nothing but luck orders them.
//!
//! Launches leave their accesses in the records of `race`, word by word, under the number of the launch; copies, fills and
//! the ends of allocations are ranges in a list. What the host has waited for precedes all that it will ask for: when
//! nothing older is queued, it is forgotten.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::arena::Arena;
use super::race::{self, MAX_LAUNCH};

/// The number of an operation on its timeline.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stamp {
    timeline: u32,
    time: u32,
}

/// How far every timeline has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clock(Vec<u32>);

impl Clock {
    /// Whether an operation comes before whoever has this clock.
    pub fn knows(&self, s: Stamp) -> bool {
        self.0.get(s.timeline as usize).is_some_and(|&t| t >= s.time)
    }

    /// Takes over what another one knows.
    pub fn join(&mut self, other: &Clock) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a = (*a).max(*b);
        }
    }

    /// Keeps what another one knows too.
    pub fn meet(&mut self, other: &Clock) {
        self.0.truncate(other.0.len());
        for (a, b) in self.0.iter_mut().zip(&other.0) {
            *a = (*a).min(*b);
        }
    }

    /// The next operation on a timeline.
    pub fn advance(&mut self, timeline: u32) -> Stamp {
        let at = timeline as usize;
        self.0.resize(self.0.len().max(at + 1), 0);
        self.0[at] += 1;
        Stamp { timeline, time: self.0[at] }
    }
}

/// What an operation does to memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Reads it.
    Read,
    /// Writes it.
    Write,
    /// Begins its life.
    Allocate,
    /// Ends its life.
    Free,
}

impl Act {
    /// The class of a conflict, this act being the second.
    pub fn after(self, first: Act) -> &'static str {
        match (first, self) {
            (_, Act::Free) => "free after use",
            (Act::Allocate, _) => "use after allocation",
            (Act::Write | Act::Free, Act::Read) => "read after write",
            (Act::Read, _) => "write after read",
            _ => "write after write",
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Act::Read => "read",
            Act::Write => "written",
            Act::Allocate => "allocated",
            Act::Free => "freed",
        })
    }
}

/// An operation of a stream.
#[derive(Debug, Clone, Default)]
pub struct Operation {
    /// What it is and where: `kernel copy on stream 0x1010`.
    pub name: Arc<str>,
    /// Its place.
    pub stamp: Stamp,
    /// Grows in the order in which the program asked for operations.
    pub asked: u64,
}

/// A range that an operation used.
#[derive(Debug, Clone)]
pub struct Use {
    /// Addresses.
    pub range: Range<u64>,
    /// What was done to them.
    pub act: Act,
    /// Who did it.
    pub by: Operation,
}

impl Use {
    /// The first byte at which an access to `range` conflicts with this one.
    pub fn conflict(&self, range: &Range<u64>, reads: bool) -> Option<u64> {
        let at = self.range.start.max(range.start);
        (at < self.range.end.min(range.end) && !(reads && self.act == Act::Read)).then_some(at)
    }
}

/// The operations that nothing orders before one that is about to run.
#[derive(Debug)]
pub struct Foreign {
    /// Who is about to run.
    pub me: Operation,
    launches: HashMap<u32, Operation>,
    /// One bit for each number of a launch.
    tags: Vec<u64>,
    /// Ranges used by others.
    pub uses: Vec<Use>,
}

impl Foreign {
    /// Whether the launch of a number is one of them.
    #[inline(always)]
    pub fn launch(&self, tag: u32) -> bool {
        self.tags[tag as usize / 64] >> (tag % 64) & 1 != 0
    }

    /// Such a launch.
    pub fn by(&self, tag: u32) -> Operation {
        self.launches.get(&tag).cloned().unwrap_or_default()
    }
}

/// Ranges that are remembered; the oldest make room.
const MAX_USES: usize = 1 << 16;

/// Operations that have run and that something yet to run does not know.
#[derive(Debug, Default)]
pub struct History {
    launches: HashMap<u32, Operation>,
    uses: Vec<Use>,
}

impl History {
    /// A launch runs under a number.
    pub fn launch(&mut self, tag: u32, by: Operation) {
        if tag == 0 {
            // The records start anew.
            self.launches.clear();
        }
        self.launches.insert(tag, by);
    }

    /// A range is used.
    pub fn push(&mut self, u: Use) {
        if self.uses.len() >= MAX_USES {
            self.uses.drain(..MAX_USES / 2);
        }
        self.uses.push(u);
    }

    /// Forgets what everything yet to run knows.
    pub fn forget(&mut self, common: &Clock) {
        self.launches.retain(|_, o| !common.knows(o.stamp));
        self.uses.retain(|u| !common.knows(u.by.stamp));
    }

    /// Memory is gone, and what was done to it with it.
    pub fn forget_range(&mut self, range: &Range<u64>) {
        self.uses.retain(|u| u.range.start < range.start || u.range.end > range.end);
    }

    /// What an operation with this clock does not know; `None` if it knows everything.
    pub fn foreign(&self, me: &Operation, clock: &Clock) -> Option<Foreign> {
        let launches: HashMap<u32, Operation> =
            self.launches.iter().filter(|(_, o)| !clock.knows(o.stamp)).map(|(&t, o)| (t, o.clone())).collect();
        let uses: Vec<Use> = self.uses.iter().filter(|u| !clock.knows(u.by.stamp)).cloned().collect();
        if launches.is_empty() && uses.is_empty() {
            return None;
        }
        let mut tags = vec![0; MAX_LAUNCH as usize / 64];
        for tag in launches.keys() {
            tags[*tag as usize / 64] |= 1 << (tag % 64);
        }
        Some(Foreign { me: me.clone(), launches, tags, uses })
    }

    /// The first conflict of a range with what nothing orders before it, as a sentence.
    pub fn conflict(
        &self,
        me: &Operation,
        clock: &Clock,
        range: &Range<u64>,
        act: Act,
        arena: &Arena,
    ) -> Option<(String, Arc<str>)> {
        let foreign = self.foreign(me, clock)?;
        let reads = act == Act::Read;
        let with_use = || {
            let hit = |u: &Use| u.conflict(range, reads).map(|at| (at, u.act, u.by.clone()));
            foreign.uses.iter().find_map(hit)
        };
        let with_launch = || {
            if foreign.launches.is_empty() {
                return None;
            }
            let (at, tag, wrote) = race::find_launch(arena, range, reads, |tag| foreign.launch(tag))?;
            Some((at, if wrote { Act::Write } else { Act::Read }, foreign.launches.get(&tag)?.clone()))
        };
        let (at, first, who) = with_use().or_else(with_launch)?;
        Some((sentence((act, me), (first, &who), at, arena), who.name))
    }
}

/// What is wrong between two operations, of which the second found the traces of the first, and what to do.
pub fn sentence((act, me): (Act, &Operation), (first, who): (Act, &Operation), at: u64, arena: &Arena) -> String {
    let earlier = if who.asked < me.asked { who } else { me };
    format!(
        "{} at global address {at:#x} ({}): it was {first} by {}, and nothing orders that and {}. {} was asked for first: \
         record an event behind it and let the stream of the other wait for that (cuEventRecord, cuStreamWaitEvent), or \
         synchronise between the two",
        act.after(first),
        arena.locate(at),
        who.name,
        me.name,
        earlier.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(name: &str, stamp: Stamp, asked: u64) -> Operation {
        Operation { name: name.into(), stamp, asked }
    }

    #[test]
    fn clocks_know_what_they_joined() {
        let (mut a, mut b) = (Clock::default(), Clock::default());
        let (first, second) = (a.advance(0), b.advance(3));
        assert!(a.knows(first) && !a.knows(second) && !b.knows(first));
        b.join(&a);
        let third = a.advance(0);
        assert!(b.knows(first) && b.knows(second) && !b.knows(third) && a.knows(third));
    }

    #[test]
    fn ranges_conflict_where_they_overlap_and_one_writes() {
        let arena = Arena::new(1 << 20).unwrap();
        let p = arena.alloc(256, None, false).unwrap();
        let (mut a, mut b, mut h) = (Clock::default(), Clock::default(), History::default());
        let by = operation("memset on stream 0x10", a.advance(0), 2);
        h.push(Use { range: p..p + 128, act: Act::Write, by });
        let me = operation("memset on stream 0x20", b.advance(1), 1);
        assert_eq!(h.conflict(&me, &b, &(p + 128..p + 256), Act::Write, &arena), None, "the other half");
        assert_eq!(h.conflict(&me, &a, &(p..p + 128), Act::Read, &arena), None, "ordered");
        let (text, _) = h.conflict(&me, &b, &(p + 127..p + 256), Act::Read, &arena).unwrap();
        for words in [
            "read after write",
            "127 bytes inside",
            "written by memset on stream 0x10",
            "memset on stream 0x20 was asked for first",
        ] {
            assert!(text.contains(words), "`{words}` is missing in: {text}");
        }
        h.forget(&a);
        assert_eq!(h.conflict(&me, &b, &(p..p + 256), Act::Free, &arena), None, "the host has waited");
    }
}
