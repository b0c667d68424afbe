//! Where tensors live and ops run: the device handle and its memory pool.

#[cfg(feature = "cuda")]
mod gpu;
mod pool;
#[cfg(feature = "cuda")]
mod scratch;

#[cfg(all(feature = "cuda", feature = "train"))]
use crate::data::on_device::Resident;
use crate::{Error, Result};
#[cfg(feature = "cuda")]
pub use gpu::{CudaOptions, Gpu};
pub(crate) use pool::Block;
use pool::{Pool, Source};
#[cfg(feature = "cuda")]
pub(crate) use scratch::{Draws, InUse, Kept, Scratch};
use std::collections::BTreeMap;
use std::fmt;
#[cfg(feature = "cuda")]
use std::sync::Weak;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A handle to a device. Clones are the same device; tensors of different devices do not mix.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    kind: Kind,
    pool: Arc<Pool>,
    /// Time per op, while somebody wants to know.
    profile: Mutex<Option<BTreeMap<&'static str, OpTime>>>,
    #[cfg(feature = "cuda")]
    kept: KeptValues,
    /// Data sets in the device's memory.
    #[cfg(all(feature = "cuda", feature = "train"))]
    resident_sets: Arc<Resident>,
    /// Of the host: ops of the CPU device run on them, and batches are prepared on them for every device.
    #[cfg(feature = "cpu")]
    threads: Arc<rayon::ThreadPool>,
}

/// Values that kernels read by pointer, at addresses that stay. Each is locked until the launch that reads it is queued: a
/// worker may prepare the batch of a later step meanwhile.
#[cfg(feature = "cuda")]
#[derive(Default)]
struct KeptValues {
    dropout: Mutex<Draws>,
    #[cfg(feature = "train")]
    augment: Mutex<Draws>,
    one: Mutex<Kept<f32>>,
}

/// Where a device computes: what ops dispatch on.
pub(crate) enum Kind {
    /// On the host's threads.
    #[cfg(feature = "cpu")]
    Cpu,
    /// On a GPU, through its driver.
    #[cfg(feature = "cuda")]
    Cuda(Arc<Gpu>),
}

/// What a device's convolutions and linear layers multiply in. Sums, losses, parameters, their gradients and the
/// optimiser's state are f32 in every one of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Precision {
    /// f32: the default, and all that the CPU has.
    #[default]
    F32,
    /// On tensor cores: activations and weights are f32, and rounded to tf32 (10 bits of mantissa) where they are
    /// multiplied.
    Tf32,
    /// Mixed precision on tensor cores: models made on the device keep activations, and a copy of the weights, in bf16 (7
    /// bits of mantissa).
    Bf16,
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Precision::F32 => "f32",
            Precision::Tf32 => "tf32",
            Precision::Bf16 => "bf16",
        })
    }
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

#[cfg(feature = "cuda")]
impl MemoryStats {
    /// What a report of memory that ran out says.
    fn usage(&self) -> String {
        format!("{} bytes in use, {} at the peak", self.in_use_bytes, self.peak_bytes)
    }
}

/// The thread pool that all devices share, with a thread per available core.
#[cfg(feature = "cpu")]
fn shared_threads() -> Result<Arc<rayon::ThreadPool>> {
    static SHARED: Mutex<Option<Arc<rayon::ThreadPool>>> = Mutex::new(None);
    let mut shared = lock(&SHARED);
    match &*shared {
        Some(threads) => Ok(threads.clone()),
        None => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            Ok(shared.insert(build_threads(cores)?).clone())
        }
    }
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
    #[cfg(feature = "cpu")]
    fn on_host(cached: bool, threads: Arc<rayon::ThreadPool>) -> Device {
        Device(Arc::new(Inner {
            kind: Kind::Cpu,
            pool: Pool::new(Source::Host, cached),
            profile: Mutex::default(),
            #[cfg(feature = "cuda")]
            kept: KeptValues::default(),
            #[cfg(all(feature = "cuda", feature = "train"))]
            resident_sets: Arc::default(),
            threads,
        }))
    }

    /// The CPU, with one thread per available core. All such handles share one thread pool; each has its own memory pool.
    ///
    /// # Errors
    /// When the threads cannot be started.
    #[cfg(feature = "cpu")]
    pub fn cpu() -> Result<Device> {
        Ok(Device::on_host(true, shared_threads()?))
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
        Ok(Device::on_host(true, build_threads(threads)?))
    }

    /// The CPU without a cache: every tensor is one system allocation, freed at drop. For memory checkers.
    ///
    /// # Errors
    /// When the threads cannot be started.
    #[cfg(feature = "cpu")]
    pub fn cpu_uncached() -> Result<Device> {
        Ok(Device::on_host(false, shared_threads()?))
    }

    /// The CUDA device number `ordinal`. Its ops are queued on one stream and run asynchronously; reading a tensor waits.
    ///
    /// # Errors
    /// When it cannot be used: no driver, no such GPU, driver or GPU too old; each with what to do.
    #[cfg(feature = "cuda")]
    pub fn cuda(ordinal: usize) -> Result<Device> {
        Device::cuda_with(CudaOptions { ordinal, ..CudaOptions::default() })
    }

    /// As [`Device::cuda`], with options: tensor cores, a pool that keeps nothing.
    ///
    /// # Errors
    /// As [`Device::cuda`].
    #[cfg(feature = "cuda")]
    pub fn cuda_with(options: CudaOptions) -> Result<Device> {
        let gpu = Arc::new(Gpu::open(options)?);
        let pool = Pool::new(Source::Cuda(gpu.clone()), options.cached);
        let cache: Weak<Pool> = Arc::downgrade(&pool);
        gpu.kernels().share_memory(cache);
        Ok(Device(Arc::new(Inner {
            pool,
            kind: Kind::Cuda(gpu),
            profile: Mutex::default(),
            kept: KeptValues::default(),
            #[cfg(feature = "train")]
            resident_sets: Arc::default(),
            #[cfg(feature = "cpu")]
            threads: shared_threads()?,
        })))
    }

    /// The driver side of a CUDA device, for kernels of one's own: context, stream, launchers' kernels. `None` on the CPU.
    #[cfg(feature = "cuda")]
    pub fn gpu(&self) -> Option<&Arc<Gpu>> {
        match &self.0.kind {
            #[cfg(feature = "cpu")]
            Kind::Cpu => None,
            Kind::Cuda(gpu) => Some(gpu),
        }
    }

    /// What convolutions and linear layers multiply in.
    pub fn precision(&self) -> Precision {
        match &self.0.kind {
            #[cfg(feature = "cpu")]
            Kind::Cpu => Precision::F32,
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => gpu.options().precision,
        }
    }

    #[cfg(feature = "cuda")]
    fn kept<'a, V: Default>(&self, values: &'a Mutex<V>) -> InUse<'a, V> {
        InUse { values: lock(values), keeps: self.gpu().is_some_and(|gpu| gpu.options().cached) }
    }

    /// What dropout's masks are drawn for.
    #[cfg(feature = "cuda")]
    pub(crate) fn dropout_draws(&self) -> InUse<'_, Draws> {
        self.kept(&self.0.kept.dropout)
    }

    /// What augmentations are drawn for.
    #[cfg(all(feature = "cuda", feature = "train"))]
    pub(crate) fn augment_draws(&self) -> InUse<'_, Draws> {
        self.kept(&self.0.kept.augment)
    }

    /// The data sets that lie in the device's memory.
    #[cfg(all(feature = "cuda", feature = "train"))]
    pub(crate) fn resident_sets(&self) -> &Arc<Resident> {
        &self.0.resident_sets
    }

    /// The number 1.
    #[cfg(feature = "cuda")]
    pub(crate) fn one(&self) -> InUse<'_, Kept<f32>> {
        self.kept(&self.0.kept.one)
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.0.kind
    }

    /// Waits until everything queued on the device has ended.
    ///
    /// # Errors
    /// When an op failed on the GPU. Nothing on the CPU, where ops have ended when they return.
    pub fn synchronize(&self) -> Result<()> {
        match &self.0.kind {
            #[cfg(feature = "cpu")]
            Kind::Cpu => Ok(()),
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => gpu.synchronize(),
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
            Ok(gpu) => match Device::cuda(gpu.ordinal) {
                Ok(device) => return Ok(Auto { device, reason: gpu.info.to_string() }),
                Err(problem) => problem.to_string(),
            },
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
        self.timed(op, || self.run(f))
    }

    /// Queues an op on the GPU, and while profiling is on waits for its end to time it.
    #[cfg(feature = "cuda")]
    pub(crate) fn queue_op(&self, gpu: &Gpu, op: &'static str, f: impl FnOnce() -> Result<()>) -> Result<()> {
        let queue = || f().map(|()| gpu.note(op));
        if lock(&self.0.profile).is_none() {
            return queue();
        }
        gpu.synchronize()?;
        self.timed(op, || queue().and_then(|()| gpu.synchronize()))
    }

    fn timed<R>(&self, op: &'static str, f: impl FnOnce() -> R) -> R {
        let started = lock(&self.0.profile).is_some().then(std::time::Instant::now);
        let result = f();
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
        self.0.pool.stats()
    }

    /// Starts a new peak at the present use.
    pub fn reset_peak_memory(&self) {
        self.0.pool.reset_peak();
    }

    /// Gives cached memory that no tensor uses back to the system.
    pub fn trim_memory(&self) {
        self.0.pool.trim();
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
        match &self.0.kind {
            #[cfg(feature = "cpu")]
            Kind::Cpu => write!(f, "cpu ({} threads)", self.threads()),
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => gpu.fmt(f),
        }
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
