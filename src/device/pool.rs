//! The caching allocator of a device: freed blocks are kept by size and handed out again, so that a training step asks
//! the system for nothing after warm-up.

// A build with one kind of device leaves out half of every match.
#![cfg_attr(not(all(feature = "cpu", feature = "cuda")), allow(unused_variables))]

use super::{MemoryStats, lock};
use crate::Result;
#[cfg(feature = "cpu")]
use std::alloc::Layout;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Every block starts at a multiple of this many bytes (a cache line, an AVX-512 register) and is a multiple long.
const ALIGN: usize = 64;

/// Where a pool takes memory from.
pub(super) enum Source {
    /// The system's allocator. Fresh memory is zeroed, so tensors never expose uninitialised bytes.
    #[cfg(feature = "cpu")]
    Host,
    /// The driver.
    #[cfg(feature = "cuda")]
    Cuda(Arc<super::Gpu>),
}

#[cfg(feature = "cpu")]
fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, ALIGN).expect("sizes are checked by Source::take")
}

impl Source {
    /// The address of `size` fresh bytes; `None` when there are not as many.
    fn take(&self, size: usize) -> Result<Option<usize>> {
        match self {
            #[cfg(feature = "cpu")]
            Source::Host if size > isize::MAX as usize - ALIGN => Ok(None),
            #[cfg(feature = "cpu")]
            Source::Host => {
                // SAFETY: `size` is at least ALIGN (Pool::allocate rounds up, and asks for nothing where nothing is needed), so the layout is not zero-sized.
                let pointer = unsafe { std::alloc::alloc_zeroed(layout(size)) };
                Ok((!pointer.is_null()).then(|| pointer.expose_provenance()))
            }
            #[cfg(feature = "cuda")]
            Source::Cuda(gpu) => gpu.take(size),
        }
    }

    fn give_back(&self, address: usize, size: usize) {
        match self {
            #[cfg(feature = "cpu")]
            // SAFETY: the address came from `alloc_zeroed` with this same layout and is freed once.
            Source::Host => unsafe {
                std::alloc::dealloc(std::ptr::with_exposed_provenance_mut(address), layout(size));
            },
            #[cfg(feature = "cuda")]
            Source::Cuda(gpu) => gpu.give_back(address),
        }
    }

    /// Says which of a block's bytes are in use, to memory checkers that can be told.
    fn lend(&self, address: usize, bytes: usize) {
        match self {
            #[cfg(feature = "cpu")]
            Source::Host => {}
            #[cfg(feature = "cuda")]
            Source::Cuda(gpu) => gpu.lend(address, bytes),
        }
    }

    /// Ends what `lend` said.
    fn reclaim(&self, address: usize, bytes: usize) {
        match self {
            #[cfg(feature = "cpu")]
            Source::Host => {}
            #[cfg(feature = "cuda")]
            Source::Cuda(gpu) => gpu.reclaim(address, bytes),
        }
    }

    fn out_of_memory(&self, size: usize, stats: &MemoryStats) -> crate::Error {
        match self {
            #[cfg(feature = "cpu")]
            Source::Host => crate::Error::device(
                "cpu",
                format_args!(
                    "out of memory: requested {size} bytes with {} in use and {} reserved",
                    stats.in_use_bytes, stats.reserved_bytes
                ),
                "use a smaller batch or smaller images",
            ),
            #[cfg(feature = "cuda")]
            Source::Cuda(gpu) => gpu.out_of_memory(size, stats),
        }
    }
}

pub(super) struct Pool {
    source: Source,
    cached: bool,
    state: Mutex<PoolState>,
}

struct PoolState {
    /// Addresses of cached blocks by size.
    free: BTreeMap<usize, Vec<usize>>,
    stats: MemoryStats,
}

impl Pool {
    pub(super) fn new(source: Source, cached: bool) -> Arc<Pool> {
        let stats = MemoryStats { in_use_bytes: 0, peak_bytes: 0, reserved_bytes: 0, system_allocations: 0 };
        Arc::new(Pool { source, cached, state: Mutex::new(PoolState { free: BTreeMap::new(), stats }) })
    }

    pub(super) fn stats(&self) -> MemoryStats {
        lock(&self.state).stats
    }

    pub(super) fn reset_peak(&self) {
        let mut state = lock(&self.state);
        state.stats.peak_bytes = state.stats.in_use_bytes;
    }

    /// Gives the cached blocks back to the system.
    pub(super) fn trim(&self) {
        self.trim_locked(&mut lock(&self.state));
    }

    fn trim_locked(&self, state: &mut PoolState) {
        for (size, blocks) in std::mem::take(&mut state.free) {
            state.stats.reserved_bytes -= size * blocks.len();
            for address in blocks {
                self.source.give_back(address, size);
            }
        }
    }

    pub(super) fn allocate(self_: &Arc<Pool>, bytes: usize) -> Result<Block> {
        if bytes == 0 {
            // An empty tensor has an address, aligned as any, and no memory.
            return Ok(Block { address: ALIGN, size: 0, bytes, pool: self_.clone() });
        }
        let size = bytes.checked_next_multiple_of(ALIGN).unwrap_or(usize::MAX);
        let mut state = lock(&self_.state);
        // Best fit, but never a block more than half again as large: it would sit on memory that a
        // later request of the right size has to take from the system.
        let fit = state.free.range(size..=size.saturating_add(size / 2)).next().map(|(&s, _)| s);
        let (address, size) = match fit {
            Some(found) => {
                let blocks = state.free.get_mut(&found).expect("the key was just found");
                let address = blocks.pop().expect("empty lists are removed");
                if blocks.is_empty() {
                    state.free.remove(&found);
                }
                (address, found)
            }
            None => {
                let address = match self_.source.take(size)? {
                    Some(address) => Some(address),
                    // Blocks of other sizes may be what the system is short of.
                    None => {
                        self_.trim_locked(&mut state);
                        self_.source.take(size)?
                    }
                };
                let address = address.ok_or_else(|| self_.source.out_of_memory(size, &state.stats))?;
                state.stats.reserved_bytes += size;
                state.stats.system_allocations += 1;
                (address, size)
            }
        };
        state.stats.in_use_bytes += size;
        state.stats.peak_bytes = state.stats.peak_bytes.max(state.stats.in_use_bytes);
        drop(state);
        if self_.cached {
            self_.source.lend(address, bytes);
        }
        Ok(Block { address, size, bytes, pool: self_.clone() })
    }
}

#[cfg(feature = "cuda")]
impl crate::cuda::Cache for Pool {
    fn trim(&self) {
        Pool::trim(self);
    }

    fn usage(&self) -> String {
        self.stats().usage()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.trim();
    }
}

/// A piece of a device's memory owned by a tensor's storage; goes back to its pool at drop.
pub(crate) struct Block {
    address: usize,
    size: usize,
    /// What was asked for: the rest of `size` is not to be touched.
    bytes: usize,
    pool: Arc<Pool>,
}

impl Block {
    /// Where it begins: an address of the host with exposed provenance, or of the GPU.
    pub(crate) fn address(&self) -> usize {
        self.address
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if self.size == 0 {
            return;
        }
        let Pool { source, cached, state } = &*self.pool;
        if *cached {
            source.reclaim(self.address, self.bytes);
        }
        let mut state = lock(state);
        state.stats.in_use_bytes -= self.size;
        if *cached {
            // What is queued on the device's one stream comes before whatever the next owner queues.
            state.free.entry(self.size).or_default().push(self.address);
        } else {
            state.stats.reserved_bytes -= self.size;
            source.give_back(self.address, self.size);
        }
    }
}
