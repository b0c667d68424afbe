//! Where tensors live and ops run: the device handle and its memory pool.

use crate::{Error, Result};
use std::alloc::Layout;
use std::collections::BTreeMap;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Every buffer starts at a multiple of this many bytes (a cache line, an AVX-512 register).
const ALIGN: usize = 64;

/// A handle to a device. Clones are the same device; tensors of different devices do not mix.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    pool: Arc<Pool>,
    /// Time per op, while somebody wants to know.
    profile: Mutex<Option<BTreeMap<&'static str, OpTime>>>,
    #[cfg(feature = "cpu")]
    threads: Arc<rayon::ThreadPool>,
}

/// Time spent in one op.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OpTime {
    /// Calls.
    pub calls: u64,
    /// Wall seconds.
    pub seconds: f64,
}

/// The outcome of [`Device::auto`]: the device and why it was chosen.
#[derive(Debug, Clone)]
pub struct Auto {
    /// The chosen device.
    pub device: Device,
    /// One sentence for the user; the library itself never prints.
    pub reason: String,
}

/// Bytes that a device's pool holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes held by live tensors.
    pub in_use_bytes: usize,
    /// The highest value of `in_use_bytes` so far.
    pub peak_bytes: usize,
    /// Bytes taken from the system: live tensors and the cache.
    pub reserved_bytes: usize,
    /// Requests that went to the system rather than to the cache.
    pub system_allocations: u64,
}

#[cfg(feature = "cpu")]
fn build_threads(threads: usize) -> Result<Arc<rayon::ThreadPool>> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(|i| format!("warpsmith-{i}"))
        .build()
        .map(Arc::new)
        .map_err(|e| {
            Error::device("cpu", format_args!("could not start {threads} threads: {e}"), "ask for fewer threads")
        })
}

impl Device {
    /// The CPU, with one thread per available core. All such handles share one thread pool; each has its own memory pool.
    ///
    /// # Errors
    /// When the threads cannot be started.
    #[cfg(feature = "cpu")]
    pub fn cpu() -> Result<Device> {
        static SHARED: Mutex<Option<Arc<rayon::ThreadPool>>> = Mutex::new(None);
        let mut shared = lock(&SHARED);
        let threads = match &*shared {
            Some(threads) => threads.clone(),
            None => {
                let cores = std::thread::available_parallelism().map_or(1, usize::from);
                shared.insert(build_threads(cores)?).clone()
            }
        };
        Ok(Device(Arc::new(Inner { pool: Arc::new(Pool::new(true)), profile: Mutex::default(), threads })))
    }

    /// The CPU with `threads` threads of its own.
    ///
    /// # Errors
    /// When `threads` is 0 or they cannot be started.
    #[cfg(feature = "cpu")]
    pub fn cpu_with_threads(threads: usize) -> Result<Device> {
        if threads == 0 {
            return Err(Error::argument(
                "Device::cpu_with_threads",
                "at least 1 thread",
                0,
                "pass the number of cores to use",
            ));
        }
        Ok(Device(Arc::new(Inner {
            pool: Arc::new(Pool::new(true)),
            profile: Mutex::default(),
            threads: build_threads(threads)?,
        })))
    }

    /// The CPU without a cache: every tensor is one system allocation, freed at drop. For memory checkers.
    ///
    /// # Errors
    /// When the threads cannot be started.
    #[cfg(feature = "cpu")]
    pub fn cpu_uncached() -> Result<Device> {
        let Device(inner) = Device::cpu()?;
        Ok(Device(Arc::new(Inner {
            pool: Arc::new(Pool::new(false)),
            profile: Mutex::default(),
            threads: inner.threads.clone(),
        })))
    }

    /// The CUDA device number `ordinal`: an error in this version, which has no kernels yet.
    ///
    /// # Errors
    /// Always; the message carries what the probe found.
    #[cfg(feature = "cuda")]
    pub fn cuda(ordinal: usize) -> Result<Device> {
        let name = format!("cuda:{ordinal}");
        match crate::cuda::probe::probe_device(ordinal) {
            Err(problem) => Err(problem.into_error(name)),
            Ok(gpu) => Err(Error::device(
                name,
                format_args!("{} cannot be used by this version", gpu.info),
                "use the CPU device",
            )),
        }
    }

    /// A GPU where kernels, driver and GPU are present, else the CPU, with the reason.
    ///
    /// # Errors
    /// When no device can be used at all.
    ///
    /// # Example
    /// ```
    /// let auto = warpsmith::Device::auto()?;
    /// println!("{}: {}", auto.device, auto.reason);
    /// # Ok::<(), warpsmith::Error>(())
    /// ```
    pub fn auto() -> Result<Auto> {
        #[cfg(feature = "cuda")]
        let reason = match crate::cuda::probe::probe() {
            Err(problem) => problem.reason(),
            Ok(gpu) => format!("{} cannot be used by this version", gpu.info),
        };
        #[cfg(not(feature = "cuda"))]
        let reason = "built without feature `cuda`".to_string();
        #[cfg(feature = "cpu")]
        return Ok(Auto { device: Device::cpu()?, reason });
        #[cfg(not(feature = "cpu"))]
        Err(Error::device("auto", reason, "build with feature `cpu` to run on the host"))
    }

    /// Number of host threads that ops use.
    pub fn threads(&self) -> usize {
        #[cfg(feature = "cpu")]
        return self.0.threads.current_num_threads();
        #[cfg(not(feature = "cpu"))]
        1
    }

    /// Runs `f` on this device's threads: every op inside uses them without a hop per call.
    pub fn run<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        #[cfg(feature = "cpu")]
        return self.0.threads.install(f);
        #[cfg(not(feature = "cpu"))]
        f()
    }

    /// Runs the host twin of an op, and times it while profiling is on.
    #[cfg(feature = "cpu")]
    pub(crate) fn run_op<R: Send>(&self, op: &'static str, f: impl FnOnce() -> R + Send) -> R {
        let started = lock(&self.0.profile).is_some().then(std::time::Instant::now);
        let result = self.run(f);
        if let (Some(started), Some(table)) = (started, &mut *lock(&self.0.profile)) {
            let time = table.entry(op).or_default();
            time.calls += 1;
            time.seconds += started.elapsed().as_secs_f64();
        }
        result
    }

    /// Starts timing every op, from nothing.
    pub fn start_profile(&self) {
        *lock(&self.0.profile) = Some(BTreeMap::new());
    }

    /// Stops timing and returns the time per op since [`Device::start_profile`], the longest first.
    pub fn end_profile(&self) -> Vec<(&'static str, OpTime)> {
        let mut list: Vec<_> = lock(&self.0.profile).take().unwrap_or_default().into_iter().collect();
        list.sort_by(|a, b| b.1.seconds.total_cmp(&a.1.seconds));
        list
    }

    /// The threads that ops run on, for workers that prepare batches.
    #[cfg(feature = "train")]
    pub(crate) fn thread_pool(&self) -> Arc<rayon::ThreadPool> {
        self.0.threads.clone()
    }

    /// What the memory pool holds now and held at its peak.
    pub fn memory(&self) -> MemoryStats {
        lock(&self.0.pool.state).stats
    }

    /// Starts a new peak at the present use.
    pub fn reset_peak_memory(&self) {
        let mut state = lock(&self.0.pool.state);
        state.stats.peak_bytes = state.stats.in_use_bytes;
    }

    /// Gives cached memory that no tensor uses back to the system.
    pub fn trim_memory(&self) {
        lock(&self.0.pool.state).trim();
    }

    pub(crate) fn allocate(&self, bytes: usize) -> Result<Block> {
        Pool::allocate(&self.0.pool, bytes)
    }
}

impl PartialEq for Device {
    fn eq(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Device {}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cpu ({} threads)", self.threads())
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({self})")
    }
}

/// Locks a mutex whose data stays consistent even if a holder panicked.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Caching allocator: freed blocks are kept by size and handed out again, so that a training step
/// asks the system for nothing after warm-up.
struct Pool {
    cached: bool,
    state: Mutex<PoolState>,
}

struct PoolState {
    free: BTreeMap<usize, Vec<Memory>>,
    stats: MemoryStats,
}

impl PoolState {
    /// Gives the cached blocks back to the system.
    fn trim(&mut self) {
        let freed = std::mem::take(&mut self.free);
        let bytes: usize = freed.iter().map(|(size, blocks)| size * blocks.len()).sum();
        self.stats.reserved_bytes -= bytes;
    }
}

impl Pool {
    // Only CPU devices exist so far.
    #[cfg_attr(not(feature = "cpu"), allow(dead_code))]
    fn new(cached: bool) -> Pool {
        let stats = MemoryStats { in_use_bytes: 0, peak_bytes: 0, reserved_bytes: 0, system_allocations: 0 };
        Pool { cached, state: Mutex::new(PoolState { free: BTreeMap::new(), stats }) }
    }

    fn allocate(self_: &Arc<Pool>, bytes: usize) -> Result<Block> {
        let size = bytes.max(1).div_ceil(ALIGN) * ALIGN;
        let mut state = lock(&self_.state);
        // Best fit, but never a block more than half again as large: it would sit on memory that a
        // later request of the right size has to take from the system.
        let fit = state.free.range(size..=size + size / 2).next().map(|(&s, _)| s);
        let memory = match fit {
            Some(found) => {
                let blocks = state.free.get_mut(&found).expect("the key was just found");
                let memory = blocks.pop().expect("empty lists are removed");
                if blocks.is_empty() {
                    state.free.remove(&found);
                }
                memory
            }
            None => {
                // Blocks of other sizes may be what the system is short of.
                let retry = || {
                    state.trim();
                    Memory::new(size)
                };
                let memory = Memory::new(size).or_else(retry).ok_or_else(|| {
                    Error::device(
                        "cpu",
                        format_args!(
                            "out of memory: requested {size} bytes with {} in use and {} reserved",
                            state.stats.in_use_bytes, state.stats.reserved_bytes
                        ),
                        "use a smaller batch or smaller images",
                    )
                })?;
                state.stats.reserved_bytes += size;
                state.stats.system_allocations += 1;
                memory
            }
        };
        state.stats.in_use_bytes += memory.size;
        state.stats.peak_bytes = state.stats.peak_bytes.max(state.stats.in_use_bytes);
        drop(state);
        Ok(Block { memory: Some(memory), pool: self_.clone() })
    }
}

/// A piece of host memory owned by a tensor's storage; goes back to its pool at drop.
pub(crate) struct Block {
    memory: Option<Memory>,
    pool: Arc<Pool>,
}

impl Block {
    pub(crate) fn ptr(&self) -> NonNull<u8> {
        self.memory.as_ref().map_or(NonNull::dangling(), |m| m.ptr)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else { return };
        let mut state = lock(&self.pool.state);
        state.stats.in_use_bytes -= memory.size;
        if self.pool.cached {
            state.free.entry(memory.size).or_default().push(memory);
        } else {
            state.stats.reserved_bytes -= memory.size;
        }
    }
}

/// One system allocation. Fresh memory is zeroed, so tensors never expose uninitialised bytes.
struct Memory {
    ptr: NonNull<u8>,
    size: usize,
}

impl Memory {
    fn layout(size: usize) -> Layout {
        Layout::from_size_align(size, ALIGN).expect("sizes are checked by Memory::new")
    }

    fn new(size: usize) -> Option<Memory> {
        if size > isize::MAX as usize - ALIGN {
            return None;
        }
        // SAFETY: `size` is at least ALIGN (Pool::allocate rounds up from 1), so the layout is not zero-sized.
        let ptr = unsafe { std::alloc::alloc_zeroed(Self::layout(size)) };
        NonNull::new(ptr).map(|ptr| Memory { ptr, size })
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `ptr` came from `alloc_zeroed` with this same layout and is freed once.
        unsafe { std::alloc::dealloc(self.ptr.as_ptr(), Self::layout(self.size)) }
    }
}

// SAFETY: Memory owns its allocation exclusively; nothing in it is tied to a thread.
unsafe impl Send for Memory {}
// SAFETY: a shared Memory only hands out its address; access to the bytes is governed by Storage's borrow table.
unsafe impl Sync for Memory {}
