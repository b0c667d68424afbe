//! Kernels as Rust sees them: which entry points there are, their arguments, and the launch itself.

pub(crate) use super::queued::driver_error;
use super::queued::{Driver, OUT_OF_MEMORY, Queued, is_fault};
use crate::{Error, Result};
use cudarc::driver::sys::{self, CUfunction_attribute_enum, CUjit_option};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, DeviceSlice,
    DriverError, LaunchConfig, PushKernelArg, SyncOnDrop,
};
use cudarc::nvrtc::Ptx;
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::fmt::Display;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

/// PTX of every kernel file, by name.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Machine code and PTX of every kernel file, by name; with feature `compile-kernels` only.
const FATBINS: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

/// The PTX of all kernel files, by the name of the file.
pub fn ptx() -> &'static [(&'static str, &'static str)] {
    FILES
}

/// One kernel: a `__global__` function of a kernel file, once per suffix.
#[derive(Debug)]
pub struct Entry {
    /// Kernel file, `kernels/<file>.cu`.
    pub file: &'static str,
    /// Symbol without its suffix.
    pub name: &'static str,
    /// What follows the name and an underscore: the types it is compiled for.
    pub suffixes: &'static [&'static str],
    /// Threads per block, as its `__launch_bounds__` says.
    pub block: u32,
    /// Bytes of each parameter.
    pub params: &'static [usize],
}

/// Bytes of a pointer, of a `uint64_t`.
pub(crate) const U64: usize = 8;
/// Bytes of a pointer.
pub(crate) const PTR: usize = 8;
/// Bytes of a `uint32_t`.
pub(crate) const U32: usize = 4;
/// Bytes of a `float`.
pub(crate) const F32: usize = 4;

/// An argument of a launch: a value as it lies in memory.
#[derive(Clone, Copy)]
pub(crate) struct Arg {
    value: Words,
    bytes: usize,
}

/// Dynamic shared memory that every kernel may have; more must be asked for.
const SHARED_WITHOUT_ASKING: u32 = 48 << 10;

/// Room for an argument. What lies between its fields and behind it is never read.
#[derive(Clone, Copy)]
struct Words([MaybeUninit<u64>; ARG_WORDS]);

/// The largest argument, in words of 8 bytes.
const ARG_WORDS: usize = 12;

// SAFETY: plain words; the kernel reads the first of them, which `Arg::from` has written.
unsafe impl DeviceRepr for Words {}

impl<T: DeviceRepr + Copy> From<T> for Arg {
    fn from(value: T) -> Arg {
        const { assert!(size_of::<T>() <= 8 * ARG_WORDS && align_of::<T>() <= 8) };
        let mut words = [MaybeUninit::zeroed(); ARG_WORDS];
        // SAFETY: the words are large enough and aligned for a `T`, as just asserted; `DeviceRepr` says that its bytes
        // mean the same to the device.
        unsafe { words.as_mut_ptr().cast::<T>().write(value) };
        Arg { value: Words(words), bytes: size_of::<T>() }
    }
}

impl Arg {
    /// The value of an argument of 8 bytes, such as an address.
    pub(crate) fn word(self) -> u64 {
        assert_eq!(self.bytes, 8, "an argument of 8 bytes");
        // SAFETY: all 8 bytes were written; every such argument is a number or an address, without padding.
        unsafe { self.value.0[0].assume_init() }
    }
}

/// Blocks of a launch in up to two dimensions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Grid {
    pub x: u64,
    pub y: u64,
}

impl From<u64> for Grid {
    fn from(x: u64) -> Grid {
        Grid { x, y: 1 }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::bf16 {}
}

/// An element type that kernels are compiled for: `f32` or `bf16`.
///
/// No other type can be one: a kernel takes the size of an element from the suffix.
/// ```compile_fail
/// #[derive(Clone, Copy)]
/// struct Byte(u8);
/// impl warpsmith::cuda::Value for Byte {
///     const SUFFIX: &'static str = "f32";
/// }
/// ```
pub trait Value: sealed::Sealed + Copy + Send + Sync + 'static {
    /// What names it in a kernel's symbol.
    const SUFFIX: &'static str;
}

impl Value for f32 {
    const SUFFIX: &'static str = "f32";
}

impl Value for half::bf16 {
    const SUFFIX: &'static str = "bf16";
}

/// The kernels of one context. Modules are loaded when the first of their kernels is launched.
///
/// # Example
/// ```no_run
/// use cudarc::driver::CudaContext;
/// use warpsmith::cuda::{Kernels, elementwise};
/// let context = CudaContext::new(0)?;
/// let (kernels, stream) = (Kernels::new(&context), context.default_stream());
/// let x = stream.clone_htod(&[-1.0f32, 2.0])?;
/// let mut y = stream.alloc_zeros::<f32>(2)?;
/// elementwise::relu(&kernels, &x, &mut y, &stream)?;
/// assert_eq!(stream.clone_dtoh(&y)?, [0.0, 2.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Kernels {
    context: Arc<CudaContext>,
    modules: Mutex<HashMap<&'static str, Arc<CudaModule>>>,
    functions: Mutex<HashMap<(&'static str, &'static str), CudaFunction>>,
    queued: Queued,
    cache: OnceLock<Weak<dyn Cache>>,
}

/// What takes the context's memory beside launchers and modules, and keeps some of it for later: a device's pool.
pub(crate) trait Cache: Send + Sync {
    /// Gives what is not in use back to the driver.
    fn trim(&self);
    /// What is in use, for the report that no memory is left.
    fn usage(&self) -> String;
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernels(cuda:{})", self.context.ordinal())
    }
}

/// Bytes of the compiler's log that are asked for: its first errors.
const LOG_BYTES: usize = 8 << 10;

/// Loads PTX into a context; `name` is what errors call it. Where the driver's compiler refuses it, the error holds the
/// compiler's log.
///
/// # Errors
/// When the driver refuses the PTX.
pub fn load_ptx(context: &Arc<CudaContext>, name: &str, ptx: &str) -> Result<Arc<CudaModule>> {
    context.load_module(Ptx::from_src(ptx)).map_err(|error| {
        if !is_about_ptx(error) {
            return driver_error(format_args!("loading the kernels of `{name}`"), error);
        }
        refused(context, name, ptx, error)
    })
}

/// Whether a load may have failed because of what was loaded.
fn is_about_ptx(error: DriverError) -> bool {
    !is_fault(error) && error != OUT_OF_MEMORY
}

/// The error for PTX that the driver has refused.
fn refused(context: &CudaContext, name: &str, ptx: &str, error: DriverError) -> Error {
    let log = compiler_log(ptx);
    Error::device(
        format_args!("cuda:{}", context.ordinal()),
        format_args!(
            "the driver could not load the kernels of `{name}`: {error}{}{log}",
            if log.is_empty() { "" } else { ": " }
        ),
        "update the driver to R535 (CUDA 12.2) or newer",
    )
}

/// Memory of the GPU that nobody has taken, in words.
pub(crate) fn free_memory(context: &CudaContext) -> String {
    match context.mem_get_info() {
        Ok((free, total)) => format!("{free} of {total} bytes free on the GPU"),
        Err(error) => format!("free memory unknown ({error})"),
    }
}

/// What the driver's compiler says about PTX that it has refused; the context is current.
fn compiler_log(ptx: &str) -> String {
    let Ok(source) = CString::new(ptx) else { return "there is a NUL in it".into() };
    let mut log = vec![0u8; LOG_BYTES];
    let mut options = [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(LOG_BYTES)];
    let mut module = std::ptr::null_mut();
    // SAFETY: the image is terminated; there are two options, whose values are a buffer and its size.
    let code = unsafe {
        let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
        sys::cuModuleLoadDataEx(&mut module, source.as_ptr().cast(), 2, options, values)
    };
    if code == sys::CUresult::CUDA_SUCCESS {
        // SAFETY: it was loaded just now, and nobody else knows of it.
        unsafe { sys::cuModuleUnload(module) };
    }
    let text = log.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).trim().to_string()
}

/// The product of a caller's extents: elements of a buffer. The numbers come from outside, so it may exceed the address
/// space.
pub(crate) fn elems(op: &'static str, extents: &[usize]) -> Result<usize> {
    let product = extents.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
    product.ok_or_else(|| {
        let got = format!("{extents:?}");
        Error::shape(op, "extents whose product fits the address space", got, "check the extents")
    })
}

/// What is copied 16 bytes at a time must begin at a multiple of them.
pub(crate) fn check_aligned(op: &'static str, name: &str, pointer: Arg) -> Result<()> {
    if pointer.word().is_multiple_of(16) {
        return Ok(());
    }
    let (expected, got) = (format!("`{name}` aligned to 16 bytes"), format!("address {:#x}", pointer.word()));
    Err(Error::argument(op, expected, got, "pass a buffer of its own instead of a view"))
}

/// Rows that a thread of tile.cuh steps over at most from one of its pieces to the next.
const STEP_ROWS: u64 = 64;

/// Whether the tiles of kernels that are not guarded can walk over rows of `row_elems` elements: they count the packs of 16
/// bytes between a thread's pieces in 32 bits.
pub(crate) fn rows_are_near(row_elems: usize, elem_bytes: usize) -> bool {
    row_elems as u64 * elem_bytes as u64 / 16 < (1 << 31) / STEP_ROWS
}

impl Kernels {
    /// The kernels of `context`, none of them loaded yet.
    pub fn new(context: &Arc<CudaContext>) -> Kernels {
        Kernels {
            context: context.clone(),
            modules: Mutex::default(),
            functions: Mutex::default(),
            queued: Queued::default(),
            cache: OnceLock::new(),
        }
    }

    /// Says who else takes the context's memory.
    #[cfg(feature = "nn")]
    pub(crate) fn share_memory(&self, cache: Weak<dyn Cache>) {
        // Said once, by the device that the kernels are made for.
        let _ = self.cache.set(cache);
    }

    /// A call that may take memory: where the driver has none left, it is made again after the cache was given back.
    pub(crate) fn taking_memory<T>(&self, mut call: impl FnMut() -> Driver<T>) -> Driver<T> {
        match (call(), self.cache()) {
            (Err(OUT_OF_MEMORY), Some(cache)) => {
                cache.trim();
                call()
            }
            (answer, _) => answer,
        }
    }

    fn cache(&self) -> Option<Arc<dyn Cache>> {
        self.cache.get().and_then(Weak::upgrade)
    }

    /// Values of the host in device memory of their own; `what` is what errors call them.
    pub(super) fn upload<T: DeviceRepr>(
        &self,
        what: &str,
        values: &[T],
        stream: &Arc<CudaStream>,
    ) -> Result<CudaSlice<T>> {
        self.taking_memory(|| stream.clone_htod(values))
            .map_err(|e| self.error(format_args!("uploading {what} of {} bytes", size_of_val(values)), e))
    }

    /// The context whose kernels these are.
    pub fn context(&self) -> &Arc<CudaContext> {
        &self.context
    }

    /// Waits for everything queued on `stream` so far: kernels run asynchronously, so this is where their faults show.
    ///
    /// # Errors
    /// When something queued earlier failed on the GPU; the error names what these kernels' launchers queued last. When
    /// the stream is of another device.
    ///
    /// # Example
    /// ```no_run
    /// use cudarc::driver::CudaContext;
    /// use warpsmith::cuda::{Kernels, elementwise};
    /// let context = CudaContext::new(0)?;
    /// let (kernels, stream) = (Kernels::new(&context), context.new_stream()?);
    /// let x = stream.clone_htod(&[-1.0f32, 2.0])?;
    /// let mut y = stream.alloc_zeros::<f32>(2)?;
    /// elementwise::relu(&kernels, &x, &mut y, &stream)?;
    /// // device cuda:0: an op failed on the GPU: ...; queued last: relu; noticed while waiting
    /// kernels.synchronize(&stream)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn synchronize(&self, stream: &CudaStream) -> Result<()> {
        self.check_stream("waiting", stream)?;
        self.queued.wait(stream, || stream.synchronize()).map_err(|error| self.error("waiting", error))
    }

    fn check_stream(&self, doing: &str, stream: &CudaStream) -> Result<()> {
        let (got, expected) = (stream.context().ordinal(), self.context.ordinal());
        if got == expected {
            return Ok(());
        }
        Err(Error::device(
            format_args!("cuda:{expected}"),
            format_args!("{doing}: the stream is of cuda:{got}"),
            "use a stream of the context that the kernels were made for",
        ))
    }

    /// What was queued last.
    #[cfg(feature = "nn")]
    pub(crate) fn queued(&self) -> &Queued {
        &self.queued
    }

    /// A driver's error, after what failed before it.
    pub(super) fn error(&self, doing: impl Display, error: DriverError) -> Error {
        self.error_on(format_args!("cuda:{}", self.context.ordinal()), doing, error)
    }

    /// As [`Kernels::error`], with another name of the device.
    pub(crate) fn error_on(&self, device: impl Display, doing: impl Display, error: DriverError) -> Error {
        match error {
            OUT_OF_MEMORY => {
                let usage = self.cache().map_or_else(String::new, |cache| cache.usage() + "; ");
                let doing = format_args!("{doing}, with {usage}{}", free_memory(&self.context));
                self.queued.error(device, doing, error)
            }
            _ => self.queued.error(device, doing, error),
        }
    }

    fn module(&self, file: &'static str) -> Result<Arc<CudaModule>> {
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = modules.get(file) {
            return Ok(module.clone());
        }
        let (_, ptx) = FILES.iter().find(|(name, _)| *name == file).ok_or_else(|| {
            Error::device("cuda", format_args!("no kernel file `{file}` was built in"), "build from a whole checkout")
        })?;
        let load = || match FATBINS.iter().find(|(name, _)| *name == file) {
            // Nothing is left for the driver to compile on the GPUs that it was made for.
            Some((_, fatbin)) => self.context.load_module(Ptx::from_binary(fatbin.to_vec())),
            None => self.context.load_module(Ptx::from_src(*ptx)),
        };
        let module = self.taking_memory(load).map_err(|error| match is_about_ptx(error) {
            true => refused(&self.context, file, ptx, error),
            false => self.error(format_args!("loading the kernels of `{file}`"), error),
        })?;
        modules.insert(file, module.clone());
        Ok(module)
    }

    fn function(&self, entry: &'static Entry, suffix: &'static str) -> Result<CudaFunction> {
        if let Some(function) = self.functions.lock().unwrap_or_else(PoisonError::into_inner).get(&(entry.name, suffix))
        {
            return Ok(function.clone());
        }
        let symbol = format!("{}_{suffix}", entry.name);
        let module = self.module(entry.file)?;
        // A driver that loads lazily does so now.
        let function = self
            .taking_memory(|| module.load_function(&symbol))
            .map_err(|error| self.error(format_args!("finding the kernel {symbol}"), error))?;
        self.functions.lock().unwrap_or_else(PoisonError::into_inner).insert((entry.name, suffix), function.clone());
        Ok(function)
    }

    /// Queues a kernel on `stream`; a grid of no blocks is nothing to do.
    ///
    /// # Safety
    /// Every pointer among `args` is valid on the device for what the kernel's header says of it until the kernel
    /// has ended, what it writes is nobody else's meanwhile, and the grid is that of the header.
    pub(crate) unsafe fn launch(
        &self,
        (entry, suffix): (&'static Entry, &'static str),
        grid: impl Into<Grid>,
        shared_bytes: u32,
        args: &[Arg],
        stream: &CudaStream,
    ) -> Result<()> {
        let grid: Grid = grid.into();
        if grid.x == 0 || grid.y == 0 {
            return Ok(());
        }
        self.check_stream(entry.name, stream)?;
        let symbol = || format!("{}_{suffix}", entry.name);
        let sizes: Vec<usize> = args.iter().map(|arg| arg.bytes).collect();
        if sizes != entry.params || grid.x > i32::MAX as u64 || grid.y > 65_535 {
            return Err(Error::shape(
                "launch",
                format_args!(
                    "{}: parameters of {:?} bytes, and at most 2^31 - 1 x 65535 blocks",
                    symbol(),
                    entry.params
                ),
                format_args!("{sizes:?}, {grid:?}"),
                "split the tensor",
            ));
        }
        let function = self.function(entry, suffix)?;
        if shared_bytes > SHARED_WITHOUT_ASKING {
            let attribute = CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, shared_bytes as i32).map_err(|e| {
                self.error(format_args!("giving {} {shared_bytes} bytes of shared memory", symbol()), e)
            })?;
        }
        let mut launch = stream.launch_builder(&function);
        for arg in args {
            launch.arg(&arg.value);
        }
        let config = LaunchConfig {
            grid_dim: (grid.x as u32, grid.y as u32, 1),
            block_dim: (entry.block, 1, 1),
            shared_mem_bytes: shared_bytes,
        };
        // SAFETY: the caller's contract; number and sizes of the arguments were just compared with the kernel's.
        unsafe { launch.launch(config) }.map_err(|e| self.error(format_args!("launching {}", symbol()), e))?;
        self.queued.note(entry.name, stream);
        Ok(())
    }
}

/// A buffer must lie on the device that the kernels are loaded on.
fn check_device<T>(kernels: &Kernels, buffer: &impl DeviceSlice<T>) -> Result<()> {
    let (got, expected) = (buffer.stream().context().ordinal(), kernels.context.ordinal());
    if got == expected {
        return Ok(());
    }
    Err(Error::device(
        format_args!("cuda:{expected}"),
        format_args!("a buffer lies on cuda:{got}"),
        "copy it to the device of the kernels",
    ))
}

/// The address of a buffer that is read; keep the guard until the launch is queued.
pub(crate) fn input<'a, T>(
    kernels: &Kernels,
    x: &'a impl DevicePtr<T>,
    stream: &'a CudaStream,
) -> Result<(Arg, SyncOnDrop<'a>)> {
    check_device(kernels, x)?;
    let (pointer, guard) = x.device_ptr(stream);
    Ok((pointer.into(), guard))
}

/// The address of a buffer that is written; keep the guard until the launch is queued.
pub(crate) fn output<'a, T>(
    kernels: &Kernels,
    y: &'a mut impl DevicePtrMut<T>,
    stream: &'a CudaStream,
) -> Result<(Arg, SyncOnDrop<'a>)> {
    check_device(kernels, y)?;
    let (pointer, guard) = y.device_ptr_mut(stream);
    Ok((pointer.into(), guard))
}

/// The address of a buffer that is read and may be left out: null.
pub(crate) fn optional_input<'a, T>(
    kernels: &Kernels,
    x: Option<&'a impl DevicePtr<T>>,
    stream: &'a CudaStream,
) -> Result<(Arg, Option<SyncOnDrop<'a>>)> {
    match x {
        None => Ok((0u64.into(), None)),
        Some(x) => input(kernels, x, stream).map(|(pointer, guard)| (pointer, Some(guard))),
    }
}

/// The address of a buffer that is written and may be left out: null.
pub(crate) fn optional_output<'a, T>(
    kernels: &Kernels,
    y: Option<&'a mut impl DevicePtrMut<T>>,
    stream: &'a CudaStream,
) -> Result<(Arg, Option<SyncOnDrop<'a>>)> {
    match y {
        None => Ok((0u64.into(), None)),
        Some(y) => output(kernels, y, stream).map(|(pointer, guard)| (pointer, Some(guard))),
    }
}

#[cfg(test)]
mod tests {
    use super::{elems, rows_are_near};

    #[test]
    fn products_of_extents_do_not_wrap() {
        assert_eq!(elems("op", &[3, 1 << 20, 5]).unwrap(), 15 << 20);
        assert_eq!(elems("op", &[]).unwrap(), 1);
        let message = elems("op", &[1 << 33, 1 << 31]).unwrap_err().to_string();
        assert!(
            message.contains("fits the address space") && message.contains("[8589934592, 2147483648]"),
            "{message}"
        );
    }

    #[test]
    fn what_lies_between_the_pieces_of_a_thread_fits_32_bits() {
        // `Offset::of` of tile.cuh: threads / pieces of a deep row, of 64 bytes, times the row, in packs.
        let fits =
            |threads: u64, row: usize, bytes: u64| i32::try_from(threads / 4 * row as u64 / (16 / bytes)).is_ok();
        for (row, near) in [((1 << 27) - 4, true), (1 << 27, false), ((1 << 30) - 8, false)] {
            assert_eq!((rows_are_near(row, 4), fits(256, row, 4)), (near, near), "f32, {row}");
        }
        for row in [8, (1 << 28) - 8, 1 << 28, 1 << 29, (1 << 30) - 8] {
            assert!(!rows_are_near(row, 2) || fits(128, row, 2), "bf16, {row}");
        }
        assert!(rows_are_near((1 << 28) - 8, 2) && !rows_are_near(1 << 29, 2));
    }
}
