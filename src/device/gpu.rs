//! What a CUDA device has besides its memory: the context, the one stream that ops are queued on, the kernels, pinned
//! staging for uploads, and words for what goes wrong.

use super::{MemoryStats, Precision, lock};
use crate::cuda::probe::{self, DeviceInfo};
use crate::cuda::{Kernels, driver_error};
use crate::{Error, Result};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, result, sys};
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex};

/// Uploads go through this many pinned buffers in turn, so that the host fills one while another is being sent.
const STAGES: usize = 2;
/// Bytes of each: enough that the cost of a copy's start does not show.
const STAGE_BYTES: usize = 4 << 20;
/// Ops that an asynchronous fault names: the last ones before it was noticed.
const RECENT_OPS: usize = 4;

type Driver<T> = std::result::Result<T, DriverError>;

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
    staging: Mutex<Staging>,
    recent: Mutex<VecDeque<&'static str>>,
    checker: Option<Checker>,
}

/// Entry points by which a memory checker that stands in for the driver learns what a pool hands out.
struct Checker {
    alloc: unsafe extern "C" fn(u64, u64) -> u32,
    free: unsafe extern "C" fn(u64, u64) -> u32,
}

#[derive(Default)]
struct Staging {
    stages: Vec<Stage>,
    next: usize,
}

/// A pinned buffer, and the event after the last copy out of it.
struct Stage {
    pointer: *mut u8,
    sent: CudaEvent,
}

// SAFETY: pinned memory belongs to the context, not to a thread; a Stage is used under the Staging lock.
unsafe impl Send for Stage {}

impl Drop for Stage {
    fn drop(&mut self) {
        // The copy out of it must have ended; if the context is lost nothing is in flight.
        let _ = self.sent.synchronize();
        // SAFETY: `pointer` came from malloc_host and is freed once.
        let _ = unsafe { result::free_host(self.pointer.cast()) };
    }
}

impl Gpu {
    pub(super) fn open(options: CudaOptions) -> Result<Gpu> {
        let name = format!("cuda:{}", options.ordinal);
        let found = probe::probe_device(options.ordinal).map_err(|problem| problem.into_error(&name))?;
        let open = || -> Driver<_> {
            let context = CudaContext::new(options.ordinal)?;
            // SAFETY: every op is queued on the one stream made below, so that nothing needs ordering by events.
            unsafe { context.disable_event_tracking() };
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
            staging: Mutex::default(),
            recent: Mutex::default(),
            checker: Checker::find(),
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

    /// Waits for everything queued so far.
    ///
    /// # Errors
    /// When something queued earlier failed on the GPU: kernels run asynchronously, so this is where that shows.
    pub fn synchronize(&self) -> Result<()> {
        let outcome = self.context.bind_to_thread().and_then(|()| self.stream.synchronize());
        self.settle(outcome)
    }

    /// After a synchronisation: forgets the ops before it, or says that one of them failed.
    fn settle(&self, outcome: Driver<()>) -> Result<()> {
        let recent = std::mem::take(&mut *lock(&self.recent));
        outcome.map_err(|error| {
            let ops: Vec<&str> = recent.iter().rev().copied().collect();
            let ops = if ops.is_empty() { "none since the last wait".to_string() } else { ops.join(", ") };
            Error::device(
                self,
                format_args!("an op failed on the GPU: {error}; queued last: {ops}"),
                "the context is lost: start again, with CUDA_LAUNCH_BLOCKING=1 to have the op named exactly",
            )
        })
    }

    /// Notes that an op is about to be queued.
    pub(super) fn note(&self, op: &'static str) {
        let mut recent = lock(&self.recent);
        if recent.back() == Some(&op) {
            return;
        }
        if recent.len() == RECENT_OPS {
            recent.pop_front();
        }
        recent.push_back(op);
    }

    fn error(&self, doing: impl fmt::Display, error: DriverError) -> Error {
        driver_error(format_args!("cuda:{}: {doing}", self.options.ordinal), error)
    }

    /// Queues a copy of host bytes to `address`. The source may be reused at once.
    ///
    /// # Safety
    /// `bytes.len()` bytes from `address` belong to the caller.
    pub(crate) unsafe fn upload(&self, address: usize, bytes: &[u8]) -> Result<()> {
        let fail = |e| self.error("uploading", e);
        self.context.bind_to_thread().map_err(fail)?;
        let mut staging = lock(&self.staging);
        let Staging { stages, next } = &mut *staging;
        for (i, chunk) in bytes.chunks(STAGE_BYTES).enumerate() {
            if stages.len() < STAGES {
                // SAFETY: the memory is written before it is read.
                let pointer = unsafe { result::malloc_host(STAGE_BYTES, 0) }.map_err(fail)?.cast();
                stages.push(Stage { pointer, sent: self.context.new_event(None).map_err(fail)? });
                *next = stages.len() - 1;
            }
            let stage = &stages[*next];
            *next = (*next + 1) % STAGES;
            self.settle_stage(stage.sent.synchronize())?;
            // SAFETY: the stage holds STAGE_BYTES, the last copy out of it has ended, and the lock keeps others away.
            let staged = unsafe {
                std::ptr::copy_nonoverlapping(chunk.as_ptr(), stage.pointer, chunk.len());
                std::slice::from_raw_parts(stage.pointer, chunk.len())
            };
            let target = (address + i * STAGE_BYTES) as u64;
            // SAFETY: the caller owns the target; the stage is not written again before the event below.
            unsafe { result::memcpy_htod_async(target, staged, self.stream.cu_stream()) }.map_err(fail)?;
            stage.sent.record(&self.stream).map_err(fail)?;
        }
        Ok(())
    }

    /// Waiting for a stage succeeds while nothing failed; what did belongs to the ops before it.
    fn settle_stage(&self, outcome: Driver<()>) -> Result<()> {
        if outcome.is_ok() { Ok(()) } else { self.settle(outcome) }
    }

    /// Copies device bytes to the host, after everything queued so far.
    ///
    /// # Safety
    /// `bytes.len()` bytes from `address` belong to the caller.
    pub(crate) unsafe fn download(&self, address: usize, bytes: &mut [u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.context.bind_to_thread().map_err(|e| self.error("downloading", e))?;
        // SAFETY: the caller owns the source; the copy has ended when the stream is synchronised below, while `bytes`
        // is still borrowed.
        let queued = unsafe { result::memcpy_dtoh_async(bytes, address as u64, self.stream.cu_stream()) };
        self.settle(queued.and_then(|()| self.stream.synchronize()))
    }

    /// Queues a copy between two places of the device.
    ///
    /// # Safety
    /// Both ranges belong to the caller and do not overlap.
    pub(crate) unsafe fn copy(&self, from: usize, to: usize, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let fail = |e| self.error("copying", e);
        self.context.bind_to_thread().map_err(fail)?;
        // SAFETY: the caller's contract.
        unsafe { result::memcpy_dtod_async(to as u64, from as u64, bytes, self.stream.cu_stream()) }.map_err(fail)
    }

    /// Queues the clearing of a range.
    ///
    /// # Safety
    /// The range belongs to the caller.
    pub(crate) unsafe fn zero(&self, address: usize, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let fail = |e| self.error("clearing", e);
        self.context.bind_to_thread().map_err(fail)?;
        // SAFETY: the caller's contract.
        unsafe { result::memset_d8_async(address as u64, 0, bytes, self.stream.cu_stream()) }.map_err(fail)
    }

    /// Memory of the GPU that nobody has taken.
    ///
    /// # Errors
    /// When the driver does not answer.
    #[cfg(feature = "train")]
    pub(crate) fn free_bytes(&self) -> Result<usize> {
        self.context.mem_get_info().map(|(free, _)| free).map_err(|e| self.error("asking for free memory", e))
    }

    /// Number of multiprocessors.
    ///
    /// # Errors
    /// When the driver does not answer.
    #[cfg(feature = "train")]
    pub(crate) fn multiprocessors(&self) -> Result<usize> {
        let attribute = sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let count = self.context.attribute(attribute).map_err(|e| self.error("counting multiprocessors", e))?;
        Ok(count.max(1) as usize)
    }

    /// Memory for the pool.
    pub(super) fn take(&self, size: usize) -> Result<Option<usize>> {
        let fail = |e| self.error(format_args!("allocating {size} bytes"), e);
        self.context.bind_to_thread().map_err(fail)?;
        // SAFETY: what is in the memory does not matter: tensors are written before they are read, and any bytes are
        // valid elements.
        match unsafe { result::malloc_sync(size) } {
            Ok(address) => Ok(Some(address as usize)),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => Ok(None),
            Err(error) => Err(fail(error)),
        }
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
        let free = match self.context.mem_get_info() {
            Ok((free, total)) => format!("{free} of {total} bytes free on the GPU"),
            Err(error) => format!("free memory unknown ({error})"),
        };
        Error::device(
            self,
            format_args!(
                "out of memory: requested {size} bytes with {} in use, {} at the peak; {free}",
                stats.in_use_bytes, stats.peak_bytes
            ),
            "use a smaller batch or smaller images, or stop other processes on the GPU (`nvidia-smi`)",
        )
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
