//! What a CUDA device has besides its memory: the context, the one stream that ops are queued on, the kernels, pinned
//! staging for copies, and words for what goes wrong.

use super::{MemoryStats, Precision, lock};
use crate::cuda::probe::{self, DeviceInfo};
use crate::cuda::{Driver, FREE_MEMORY, Kernels, OUT_OF_MEMORY, free_memory};
use crate::{Error, Result};
use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, SyncOnDrop, result, sys};
use std::fmt;
#[cfg(feature = "train")]
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};

/// Copies from and to the host go through this many pinned buffers in turn, so that the host fills or empties one while
/// another is under way.
const STAGES: usize = 2;
/// Bytes of each: enough that the cost of a copy's start does not show.
const STAGE_BYTES: usize = 4 << 20;
/// A step or the indices of a batch take one of these instead: as many as a program queues ahead of the GPU in a few steps.
const SMALL_STAGES: usize = 64;
const SMALL_STAGE_BYTES: usize = 16 << 10;

/// How a CUDA device is opened; see [`Device::cuda_with`](super::Device::cuda_with).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CudaOptions {
    /// The GPU's number, as `cuda:N` counts.
    pub ordinal: usize,
    /// What convolutions and linear layers multiply in.
    pub precision: Precision,
    /// Whether freed memory is kept for the next tensor. Without it every tensor is an allocation of the driver, freed
    /// at drop: slow, and what a memory checker wants.
    pub cached: bool,
}

impl Default for CudaOptions {
    fn default() -> Self {
        CudaOptions { ordinal: 0, precision: Precision::F32, cached: true }
    }
}

/// The driver side of a CUDA device.
pub struct Gpu {
    options: CudaOptions,
    info: DeviceInfo,
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    kernels: Kernels,
    /// For uploads and for downloads: who waits for results must not keep a worker from sending the next batch, and a few
    /// numbers for a step must not wait until the GPU has come to the last ones.
    uploads: Mutex<Staging>,
    small_uploads: Mutex<Staging>,
    downloads: Mutex<Staging>,
    checker: Option<Checker>,
    /// What data sets hold of the memory.
    #[cfg(feature = "train")]
    data_set_bytes: AtomicUsize,
}

/// Entry points by which a memory checker that stands in for the driver learns what a pool hands out.
struct Checker {
    alloc: unsafe extern "C" fn(u64, u64) -> u32,
    free: unsafe extern "C" fn(u64, u64) -> u32,
}

#[derive(Default)]
struct Staging {
    /// As many as have been needed so far.
    stages: Vec<Stage>,
    /// The one to use next.
    turn: usize,
}

/// A pinned buffer, and the event after the last copy out of it or into it.
struct Stage {
    pointer: *mut u8,
    bytes: usize,
    done: CudaEvent,
}

// SAFETY: pinned memory belongs to the context, not to a thread; a Stage is used under the Staging lock.
unsafe impl Send for Stage {}

impl Stage {
    fn new(gpu: &Gpu, bytes: usize) -> Driver<Stage> {
        let done = gpu.context.new_event(None)?;
        // SAFETY: the memory is written in full before anybody reads it.
        let pointer: *mut u8 = gpu.kernels.taking_memory(|| unsafe { result::malloc_host(bytes, 0) })?.cast();
        // SAFETY: as many bytes were just allocated.
        unsafe { pointer.write_bytes(0, bytes) };
        Ok(Stage { pointer, bytes, done })
    }

    /// The first `len` bytes, once the last copy has ended.
    fn wait(&mut self, len: usize) -> Driver<&mut [u8]> {
        self.done.synchronize()?;
        // SAFETY: the stage holds so many bytes, written when it was made; no copy uses them now.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.pointer, len.min(self.bytes)) })
    }
}

impl Staging {
    /// The one whose turn it is of `count` stages of `bytes`.
    fn next(&mut self, gpu: &Gpu, count: usize, bytes: usize) -> Driver<&mut Stage> {
        let turn = self.turn;
        if self.stages.len() == turn {
            self.stages.push(Stage::new(gpu, bytes)?);
        }
        self.turn = (turn + 1) % count;
        Ok(&mut self.stages[turn])
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The copy must have ended; if the context is lost nothing is in flight.
        let _ = self.done.synchronize();
        // SAFETY: `pointer` came from malloc_host and is freed once.
        let _ = unsafe { result::free_host(self.pointer.cast()) };
    }
}

impl Gpu {
    pub(super) fn open(options: CudaOptions) -> Result<Gpu> {
        let name = format!("cuda:{}", options.ordinal);
        let found = probe::probe_device(options.ordinal).map_err(|problem| problem.into_error(&name))?;
        let open = || -> Driver<_> {
            // Its events stay on: tensors order themselves (`Gpu::on_stream`), but a `CudaSlice` that somebody makes on
            // this context and uses on two streams relies on them.
            let context = CudaContext::new(options.ordinal)?;
            let stream = context.new_stream()?;
            Ok((context, stream))
        };
        let (context, stream) = open().map_err(|e| {
            let hint = "another process may hold the GPU in exclusive mode or all of its memory: see `nvidia-smi`";
            Error::device(&name, format_args!("could not open {}: {e}", found.info), hint)
        })?;
        Ok(Gpu {
            options,
            info: found.info,
            kernels: Kernels::new(&context),
            context,
            stream,
            uploads: Mutex::default(),
            small_uploads: Mutex::default(),
            downloads: Mutex::default(),
            checker: Checker::find(),
            #[cfg(feature = "train")]
            data_set_bytes: AtomicUsize::new(0),
        })
    }

    /// The stream that every op of the device is queued on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The kernels, loaded for the device's context.
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// The context.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// What the driver says of the GPU.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// How the device was opened.
    pub fn options(&self) -> CudaOptions {
        self.options
    }

    /// Waits for everything queued on [`Gpu::stream`] so far; [`Kernels::synchronize`] waits for other streams.
    ///
    /// # Errors
    /// When something queued earlier failed on the GPU: kernels run asynchronously, so this is where that shows.
    pub fn synchronize(&self) -> Result<()> {
        self.check("waiting", self.kernels.queued().wait(&self.stream, || self.stream.synchronize()))
    }

    /// Names what was just queued on [`Gpu::stream`], for the report of a fault: kernels run asynchronously, and the call
    /// that notices is not to blame. Ops and launchers of this crate do so themselves.
    pub fn note(&self, op: &'static str) {
        self.kernels.queued().note(op, &self.stream);
    }

    /// The driver's answer to any call; what failed before the call is said first.
    fn check<T>(&self, doing: impl fmt::Display, answer: Driver<T>) -> Result<T> {
        answer.map_err(|error| self.kernels.error_on(self, doing, error))
    }

    /// An address for work on `stream`, to be kept until that is queued. On a stream other than the device's, the work
    /// comes after all that the device has queued, and is waited for when the guard drops: what the device does with the
    /// memory next, or whom its pool gives it to, comes after the work too.
    pub(crate) fn on_stream<'a>(&self, address: usize, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        if *stream == *self.stream {
            return (address as u64, SyncOnDrop::Record(None));
        }
        if stream.join(&self.stream).is_err() {
            // Then the host waits. If that fails too the context is lost, which the launch will say.
            stream.context().record_err(self.stream.synchronize());
        }
        (address as u64, SyncOnDrop::Sync(Some(stream)))
    }

    /// Queues a copy of host bytes to `address`. The source may be reused at once.
    ///
    /// # Safety
    /// `bytes.len()` bytes from `address` belong to the caller.
    pub(crate) unsafe fn upload(&self, address: usize, bytes: &[u8]) -> Result<()> {
        let (staging, count, size) = match bytes.len() {
            0..=SMALL_STAGE_BYTES => (&self.small_uploads, SMALL_STAGES, SMALL_STAGE_BYTES),
            _ => (&self.uploads, STAGES, STAGE_BYTES),
        };
        let mut staging = lock(staging);
        let mut send = |target: usize, chunk: &[u8]| -> Driver<()> {
            let stage = staging.next(self, count, size)?;
            let staged = stage.wait(chunk.len())?;
            staged.copy_from_slice(chunk);
            // SAFETY: the caller owns the target; the stage is not written again before the event below.
            unsafe { result::memcpy_htod_async(target as u64, staged, self.stream.cu_stream()) }?;
            stage.done.record(&self.stream)
        };
        self.check("uploading", self.context.bind_to_thread())?;
        for (i, chunk) in bytes.chunks(size).enumerate() {
            self.check(format_args!("uploading {} bytes", bytes.len()), send(address + i * size, chunk))?;
        }
        Ok(())
    }

    /// Copies device bytes to the host, after everything queued so far.
    ///
    /// # Safety
    /// `bytes.len()` bytes from `address` belong to the caller.
    pub(crate) unsafe fn download(&self, address: usize, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut staging = lock(&self.downloads);
        let len = bytes.len();
        let fetch = || -> Driver<()> {
            self.context.bind_to_thread()?;
            let Staging { stages, .. } = &mut *staging;
            let starts: Vec<usize> = (0..len).step_by(STAGE_BYTES).collect();
            while stages.len() < starts.len().min(STAGES) {
                stages.push(Stage::new(self, STAGE_BYTES)?);
            }
            let queue = |stage: &mut Stage, start: usize| -> Driver<()> {
                let landing = stage.wait(len - start)?;
                // SAFETY: the caller owns the source; nobody reads the stage before the event below.
                unsafe { result::memcpy_dtoh_async(landing, (address + start) as u64, self.stream.cu_stream()) }?;
                stage.done.record(&self.stream)
            };
            for (i, &start) in starts.iter().enumerate().take(STAGES) {
                queue(&mut stages[i], start)?;
            }
            for (i, chunk) in bytes.chunks_mut(STAGE_BYTES).enumerate() {
                let stage = &mut stages[i % STAGES];
                chunk.copy_from_slice(stage.wait(chunk.len())?);
                if let Some(&start) = starts.get(i + STAGES) {
                    queue(stage, start)?;
                }
            }
            Ok(())
        };
        self.check(format_args!("downloading {len} bytes"), self.kernels.queued().wait(&self.stream, fetch))
    }

    /// Queues a copy between two places of the device.
    ///
    /// # Safety
    /// Both ranges belong to the caller and do not overlap.
    pub(crate) unsafe fn copy(&self, from: usize, to: usize, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller's contract.
        let copy = || unsafe { result::memcpy_dtod_async(to as u64, from as u64, bytes, self.stream.cu_stream()) };
        self.check("copying", self.context.bind_to_thread().and_then(|()| copy()))?;
        self.note("copy");
        Ok(())
    }

    /// Queues the clearing of a range.
    ///
    /// # Safety
    /// The range belongs to the caller.
    pub(crate) unsafe fn zero(&self, address: usize, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: the caller's contract.
        let clear = || unsafe { result::memset_d8_async(address as u64, 0, bytes, self.stream.cu_stream()) };
        self.check("clearing", self.context.bind_to_thread().and_then(|()| clear()))?;
        self.note("zero");
        Ok(())
    }

    /// Memory of the GPU that nobody has taken.
    ///
    /// # Errors
    /// When the driver does not answer.
    #[cfg(feature = "train")]
    pub(crate) fn free_bytes(&self) -> Result<usize> {
        self.check("asking for free memory", self.context.mem_get_info()).map(|(free, _)| free)
    }

    /// What data sets hold of the memory.
    #[cfg(feature = "train")]
    pub(crate) fn data_set_bytes(&self) -> &AtomicUsize {
        &self.data_set_bytes
    }

    /// Number of multiprocessors.
    ///
    /// # Errors
    /// When the driver does not answer.
    #[cfg(feature = "train")]
    pub(crate) fn multiprocessors(&self) -> Result<usize> {
        let attribute = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let count = self.check("counting multiprocessors", self.context.attribute(attribute))?;
        Ok(count.max(1) as usize)
    }

    /// Memory for the pool.
    pub(super) fn take(&self, size: usize) -> Result<Option<usize>> {
        // SAFETY: what is in the memory does not matter: tensors are written before they are read, and any bytes are
        // valid elements.
        let answer = self.context.bind_to_thread().and_then(|()| unsafe { result::malloc_sync(size) });
        if answer == Err(OUT_OF_MEMORY) {
            return Ok(None);
        }
        self.check(format_args!("allocating {size} bytes"), answer).map(|address| Some(address as usize))
    }

    /// Memory back from the pool. The driver waits for whatever still uses it.
    pub(super) fn give_back(&self, address: usize) {
        // After a fault the driver refuses; the memory is gone with the context then.
        let _ = self.context.bind_to_thread();
        // SAFETY: the address came from `take` and is given back once.
        let _ = unsafe { result::free_sync(address as u64) };
    }

    pub(super) fn lend(&self, address: usize, bytes: usize) {
        if let Some(checker) = self.checker.as_ref().filter(|_| bytes > 0) {
            // SAFETY: the checker only notes the numbers.
            unsafe { (checker.alloc)(address as u64, bytes as u64) };
        }
    }

    pub(super) fn reclaim(&self, address: usize, bytes: usize) {
        if let Some(checker) = self.checker.as_ref().filter(|_| bytes > 0) {
            // SAFETY: the checker only notes the numbers.
            unsafe { (checker.free)(address as u64, bytes as u64) };
        }
    }

    pub(super) fn out_of_memory(&self, size: usize, stats: &MemoryStats) -> Error {
        let (usage, free) = (stats.usage(), free_memory(&self.context));
        Error::device(self, format_args!("out of memory: requested {size} bytes with {usage}; {free}"), FREE_MEMORY)
    }
}

impl Checker {
    fn find() -> Option<Checker> {
        // SAFETY: the device was just opened, so the library is present; it is opened once and never closed.
        let library = unsafe { sys::culib() };
        // SAFETY: this is the type of both functions where they exist, which is in a checker only.
        let find = |name: &str| unsafe { library.get::<unsafe extern "C" fn(u64, u64) -> u32>(name) }.map(|f| *f).ok();
        Some(Checker { alloc: find("warpsmithEmuSubAlloc")?, free: find("warpsmithEmuSubFree")? })
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cuda:{} ({})", self.options.ordinal, self.info.name)
    }
}
