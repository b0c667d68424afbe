//! What the counters of a case may say at most.

use crate::cases::{Case, Units};
use crate::counted::Counters;
use std::fmt;
use warpsmith_emulator::Launch;

/// Sectors that a memory-bound case touches, of the compulsory bytes; and the inverse, of what it asks of them.
const MOST_BYTES: f64 = 1.05;
/// Wavefronts of shared memory in kernels on tensor cores, of the number without bank conflicts.
const MOST_WAVEFRONTS: f64 = 1.05;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bar {
    /// Unique bytes, of the compulsory ones.
    Bytes,
    /// Bytes that the sectors of all accesses hold, of those asked for.
    Coalesced,
    /// Wavefronts, of the number without bank conflicts.
    Wavefronts,
}

impl fmt::Display for Bar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bar::Bytes => "unique bytes, of the compulsory ones",
            Bar::Coalesced => "bytes of the touched sectors, of those asked for",
            Bar::Wavefronts => "wavefronts of shared memory, of the number without bank conflicts",
        })
    }
}

/// The bars that a case misses, each with what it has instead.
pub fn misses(case: &Case, launches: &[Launch]) -> Vec<(Bar, f64)> {
    let counters = Counters(launches);
    let mut missed = Vec::new();
    if case.units == Units::Memory {
        missed.push((Bar::Bytes, counters.unique_bytes() as f64 / case.bytes as f64, MOST_BYTES));
        missed.push((Bar::Coalesced, 1.0 / counters.used(), MOST_BYTES));
    }
    if counters.instructions_per_mma().is_some() {
        missed.push((Bar::Wavefronts, counters.wavefronts(), MOST_WAVEFRONTS));
    }
    missed.into_iter().filter(|(_, value, most)| value > most).map(|(bar, value, _)| (bar, value)).collect()
}
