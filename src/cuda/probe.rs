//! Can a GPU be used here, and if not, why not?
//!
//! Two halves. [`read_inputs`] asks the build and the driver and judges nothing; [`decide`] judges and asks nothing, so that every
//! outcome is tested on a machine without a GPU.
//!
//! The driver is called through signatures of our own that return the code as a plain number. The generated ones return
//! a Rust enum, which a code newer than the enum would make invalid, and formatting such an error calls the driver
//! library again, which panics where there is none.
//!
//! ```
//! use warpsmith::cuda::probe::{DeviceInfo, ProbeInputs, decide};
//!
//! let gpu = DeviceInfo { name: "NVIDIA T4".into(), compute_capability: (7, 5), total_memory: 16 << 30 };
//! let inputs = ProbeInputs {
//!     missing_kernels: vec![],
//!     library_present: true,
//!     init_code: 0,
//!     driver_version: 12_040,
//!     devices: vec![gpu],
//! };
//! let error = decide(&inputs, None).unwrap_err();
//! assert!(error.reason().contains("compute capability 7.5"));
//! assert!(error.remedy().contains("8.0"));
//! ```

use crate::error::Error;
use cudarc::driver::sys;
use std::fmt;

/// The oldest driver that loads our PTX, as `cuDriverGetVersion` counts: PTX ISA 8.2 is CUDA 12.2.
pub const MIN_DRIVER_VERSION: i32 = 12_020;

/// The lowest compute capability that our kernels are built for.
pub const MIN_COMPUTE_CAPABILITY: (i32, i32) = (8, 0);

/// One GPU as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The driver's name for it.
    pub name: String,
    /// Major and minor compute capability.
    pub compute_capability: (i32, i32),
    /// Its memory in bytes.
    pub total_memory: usize,
}

impl fmt::Display for DeviceInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.compute_capability;
        let gib = self.total_memory as f64 / (1u64 << 30) as f64;
        write!(f, "{}, compute capability {major}.{minor}, {gib:.0} GiB", self.name)
    }
}

/// A GPU that the probe accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// Its number, as `cuda:N` counts.
    pub ordinal: usize,
    /// What the driver says of it.
    pub info: DeviceInfo,
}

/// All that the decision depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeInputs {
    /// Kernel files whose PTX was not built in; see [`missing_kernels`].
    pub missing_kernels: Vec<&'static str>,
    /// Whether the driver library (`libcuda.so`, `nvcuda.dll`) can be opened.
    pub library_present: bool,
    /// What `cuInit(0)` returned; 0 is success. Nothing below is read from the driver unless it is 0.
    pub init_code: i32,
    /// `cuDriverGetVersion`: `1000 * major + 10 * minor` of the newest CUDA that the driver serves.
    pub driver_version: i32,
    /// Every GPU that the driver shows, in its order.
    pub devices: Vec<DeviceInfo>,
}

/// Why no GPU can be used.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeError {
    /// There is no PTX for some of the kernels.
    MissingKernels {
        /// The kernel files.
        files: Vec<&'static str>,
    },
    /// The driver library cannot be opened.
    NoDriverLibrary,
    /// The driver library lacks a function that every driver has.
    MissingSymbol {
        /// The function.
        symbol: &'static str,
    },
    /// `cuInit` failed.
    InitFailed {
        /// What it returned.
        code: i32,
    },
    /// A query after `cuInit` failed.
    QueryFailed {
        /// The function.
        call: &'static str,
        /// What it returned.
        code: i32,
    },
    /// The driver is too old to load our PTX.
    DriverTooOld {
        /// Its version, as `cuDriverGetVersion` counts.
        version: i32,
    },
    /// The driver works and shows no GPU.
    NoDevice,
    /// The GPU asked for does not exist.
    NoSuchDevice {
        /// The number asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// The GPU (or the best of them) is older than our kernels.
    ComputeCapability {
        /// The GPU.
        device: DeviceInfo,
    },
}

impl ProbeError {
    /// What is wrong.
    pub fn reason(&self) -> String {
        match self {
            ProbeError::MissingKernels { files } => format!("built without the kernels of {}", files.join(", ")),
            ProbeError::NoDriverLibrary => "the CUDA driver library (libcuda.so, nvcuda.dll) was not found".into(),
            ProbeError::MissingSymbol { symbol } => format!("the CUDA driver library has no function {symbol}"),
            ProbeError::InitFailed { code } => format!("cuInit returned {}", describe_code(*code).0),
            ProbeError::QueryFailed { call, code } => format!("{call} returned {}", describe_code(*code).0),
            ProbeError::DriverTooOld { version } => format!(
                "the driver serves CUDA {}, the kernels need {}",
                version_text(*version),
                version_text(MIN_DRIVER_VERSION)
            ),
            ProbeError::NoDevice => "the driver shows no GPU".into(),
            ProbeError::NoSuchDevice { ordinal, count } => {
                format!("there is no cuda:{ordinal}, the driver shows {count} GPU(s), counted from 0")
            }
            ProbeError::ComputeCapability { device } => {
                let ((major, minor), (need_major, need_minor)) = (device.compute_capability, MIN_COMPUTE_CAPABILITY);
                format!(
                    "{} has compute capability {major}.{minor}, the kernels need {need_major}.{need_minor}",
                    device.name
                )
            }
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> String {
        match self {
            ProbeError::MissingKernels { .. } => {
                "build from a whole checkout (kernels/prebuilt), or with feature `compile-kernels` and nvcc; or use the CPU \
                 device"
                    .into()
            }
            ProbeError::NoDriverLibrary => "install the NVIDIA driver (R535 or newer); in a container, start it with \
                 the NVIDIA container runtime (`--gpus all`); or use the CPU device"
                .into(),
            ProbeError::MissingSymbol { .. } => {
                "the library found is not an NVIDIA driver or is damaged: check LD_LIBRARY_PATH and reinstall the \
                 driver; or use the CPU device"
                    .into()
            }
            ProbeError::InitFailed { code } | ProbeError::QueryFailed { code, .. } => {
                format!("{}; or use the CPU device", describe_code(*code).1)
            }
            ProbeError::DriverTooOld { .. } => {
                "update the NVIDIA driver to R535 or newer; or use the CPU device".into()
            }
            ProbeError::NoDevice => {
                "check `nvidia-smi -L` and that CUDA_VISIBLE_DEVICES does not hide the GPU; or use the CPU device"
                    .into()
            }
            ProbeError::NoSuchDevice { count: 0, .. } => ProbeError::NoDevice.remedy(),
            ProbeError::NoSuchDevice { count, .. } => {
                format!("choose cuda:0 to cuda:{} (CUDA_VISIBLE_DEVICES can hide GPUs)", count - 1)
            }
            ProbeError::ComputeCapability { .. } => {
                "use a GPU of compute capability 8.0 or newer (Ampere: A100, RTX 30, and later) or the CPU device"
                    .into()
            }
        }
    }

    /// As the crate's error, for the device that was asked for (`"cuda:0"`).
    pub fn into_error(self, device: impl fmt::Display) -> Error {
        Error::device(device, self.reason(), self.remedy())
    }
}

impl fmt::Display for ProbeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.reason(), self.remedy())
    }
}

impl std::error::Error for ProbeError {}

/// `12040` as `12.4`.
fn version_text(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// A driver code as number and name, and what to do about it. Only codes that `cuInit` and the queries are known to
/// give have a text of their own.
fn describe_code(code: i32) -> (String, &'static str) {
    let (name, remedy) = match code {
        2 => ("out of memory", "free host or GPU memory: other processes may hold all of it"),
        3 => (
            "not initialized",
            "the driver refuses this process: do not fork after CUDA was used, and check that the driver is not being unloaded",
        ),
        34 => (
            "stub library",
            "the library found is the toolkit's link-time stub: take its `stubs` folder off LD_LIBRARY_PATH",
        ),
        35 => ("insufficient driver", "update the NVIDIA driver to R535 or newer"),
        36 => ("call requires newer driver", "update the NVIDIA driver to R535 or newer"),
        46 => ("device unavailable", "another process holds the GPU in exclusive mode: stop it or change the mode"),
        100 => (
            "no device",
            "check `nvidia-smi -L` and that CUDA_VISIBLE_DEVICES does not hide the GPU; in a container, pass the GPU in",
        ),
        101 => ("invalid device", "check that CUDA_VISIBLE_DEVICES names GPUs that exist"),
        304 => ("operating system error", "check that this user may open /dev/nvidia*"),
        802 => ("system not ready", "start the NVIDIA fabric manager, which GPUs on an NVSwitch need"),
        803 => (
            "system driver mismatch",
            "the driver library and the kernel module differ in version: reboot, or in a container use the host's library",
        ),
        804 => (
            "compatibility not supported on this device",
            "the forward-compatibility library serves data-centre GPUs only: take it off LD_LIBRARY_PATH and update the driver",
        ),
        999 => (
            "unknown error",
            "reload the kernel module nvidia_uvm or reboot, and look at `dmesg` for NVRM or Xid lines",
        ),
        _ => ("", "look the code up under CUresult in the CUDA driver documentation"),
    };
    if name.is_empty() { (code.to_string(), remedy) } else { (format!("{code} ({name})"), remedy) }
}

/// Judges the inputs: the GPU to use, or why there is none.
///
/// `ordinal` asks for one GPU; `None` takes the first that is new enough.
///
/// # Errors
/// One [`ProbeError`] per cause, in this order: kernels, driver library, `cuInit`,
/// driver version, no GPU, no such GPU, compute capability.
pub fn decide(inputs: &ProbeInputs, ordinal: Option<usize>) -> Result<Gpu, ProbeError> {
    if !inputs.missing_kernels.is_empty() {
        return Err(ProbeError::MissingKernels { files: inputs.missing_kernels.clone() });
    }
    if !inputs.library_present {
        return Err(ProbeError::NoDriverLibrary);
    }
    if inputs.init_code != 0 {
        return Err(ProbeError::InitFailed { code: inputs.init_code });
    }
    if inputs.driver_version < MIN_DRIVER_VERSION {
        return Err(ProbeError::DriverTooOld { version: inputs.driver_version });
    }
    let gpu = |ordinal: usize| Gpu { ordinal, info: inputs.devices[ordinal].clone() };
    let new_enough = |device: &DeviceInfo| device.compute_capability >= MIN_COMPUTE_CAPABILITY;
    let count = inputs.devices.len();
    match ordinal {
        Some(ordinal) if ordinal >= count => Err(ProbeError::NoSuchDevice { ordinal, count }),
        Some(ordinal) if new_enough(&inputs.devices[ordinal]) => Ok(gpu(ordinal)),
        Some(ordinal) => Err(ProbeError::ComputeCapability { device: inputs.devices[ordinal].clone() }),
        None => match inputs.devices.iter().position(new_enough) {
            Some(ordinal) => Ok(gpu(ordinal)),
            None => match inputs.devices.iter().max_by_key(|device| device.compute_capability) {
                Some(best) => Err(ProbeError::ComputeCapability { device: best.clone() }),
                None => Err(ProbeError::NoDevice),
            },
        },
    }
}

/// The kernel files that launchers need and `built`, a list of names and PTX as [`ptx`](super::ptx) gives it, lacks.
pub fn missing_kernels(built: &[(&str, &str)]) -> Vec<&'static str> {
    let mut missing: Vec<&'static str> = super::entries().iter().map(|entry| entry.file).collect();
    missing.sort_unstable();
    missing.dedup();
    missing.retain(|file| !built.iter().any(|(name, _)| name == file));
    missing
}

/// The first GPU that can be used.
///
/// # Errors
/// Why there is none.
pub fn probe() -> Result<Gpu, ProbeError> {
    probe_ordinal(None)
}

/// As [`probe`], for the GPU `cuda:ordinal`.
///
/// # Errors
/// Why it cannot be used.
pub fn probe_device(ordinal: usize) -> Result<Gpu, ProbeError> {
    probe_ordinal(Some(ordinal))
}

fn probe_ordinal(ordinal: Option<usize>) -> Result<Gpu, ProbeError> {
    decide(&read_inputs()?, ordinal)
}

type CuInit = unsafe extern "C" fn(flags: u32) -> i32;
type CuDriverGetVersion = unsafe extern "C" fn(version: *mut i32) -> i32;
type CuDeviceGetCount = unsafe extern "C" fn(count: *mut i32) -> i32;
type CuDeviceGet = unsafe extern "C" fn(device: *mut i32, ordinal: i32) -> i32;
type CuDeviceGetName = unsafe extern "C" fn(name: *mut u8, len: i32, device: i32) -> i32;
type CuDeviceGetAttribute = unsafe extern "C" fn(value: *mut i32, attribute: i32, device: i32) -> i32;
type CuDeviceTotalMem = unsafe extern "C" fn(bytes: *mut usize, device: i32) -> i32;

const COMPUTE_CAPABILITY_MAJOR: i32 = 75;
const COMPUTE_CAPABILITY_MINOR: i32 = 76;

/// Asks the driver, without creating a context.
///
/// # Errors
/// [`ProbeError::MissingSymbol`] and [`ProbeError::QueryFailed`], where the driver itself is broken. A missing library
/// and a failing `cuInit` are inputs to [`decide`].
pub fn read_inputs() -> Result<ProbeInputs, ProbeError> {
    let mut inputs = ProbeInputs {
        missing_kernels: missing_kernels(super::ptx()),
        library_present: false,
        init_code: 0,
        driver_version: 0,
        devices: Vec::new(),
    };
    // SAFETY: opens the library and closes it; the CUDA driver may be opened from any thread at any time.
    inputs.library_present = unsafe { sys::is_culib_present() };
    if !inputs.library_present {
        return Ok(inputs);
    }
    // SAFETY: the type is the C signature of this name in cuda.h, with the enum CUresult as the int that it is in C.
    let cu_init: CuInit = unsafe { symbol("cuInit") }?;
    // SAFETY: takes no pointers; 0 is the only value that flags may have.
    inputs.init_code = unsafe { cu_init(0) };
    if inputs.init_code != 0 {
        return Ok(inputs);
    }

    // SAFETY: as for cuInit: each type is the C signature of that name in cuda.h (CUdevice is an int).
    let get_version: CuDriverGetVersion = unsafe { symbol("cuDriverGetVersion") }?;
    // SAFETY: as above.
    let get_count: CuDeviceGetCount = unsafe { symbol("cuDeviceGetCount") }?;
    // SAFETY: as above.
    let get_device: CuDeviceGet = unsafe { symbol("cuDeviceGet") }?;
    // SAFETY: as above.
    let get_name: CuDeviceGetName = unsafe { symbol("cuDeviceGetName") }?;
    // SAFETY: as above.
    let get_attribute: CuDeviceGetAttribute = unsafe { symbol("cuDeviceGetAttribute") }?;
    // SAFETY: as above.
    let total_mem: CuDeviceTotalMem = unsafe { symbol("cuDeviceTotalMem_v2") }?;

    // SAFETY: the pointer is to a live i32.
    check("cuDriverGetVersion", unsafe { get_version(&mut inputs.driver_version) })?;
    let mut count = 0;
    // SAFETY: the pointer is to a live i32.
    check("cuDeviceGetCount", unsafe { get_count(&mut count) })?;
    for ordinal in 0..count {
        let mut device = 0;
        // SAFETY: the pointer is to a live i32; the ordinal is below the count.
        check("cuDeviceGet", unsafe { get_device(&mut device, ordinal) })?;
        let mut name = [0u8; 256];
        // SAFETY: the driver writes at most the 256 bytes that it is told of.
        check("cuDeviceGetName", unsafe { get_name(name.as_mut_ptr(), name.len() as i32, device) })?;
        let (mut major, mut minor) = (0, 0);
        for (attribute, value) in [(COMPUTE_CAPABILITY_MAJOR, &mut major), (COMPUTE_CAPABILITY_MINOR, &mut minor)] {
            // SAFETY: the pointer is to a live i32; the device came from cuDeviceGet.
            check("cuDeviceGetAttribute", unsafe { get_attribute(value, attribute, device) })?;
        }
        let mut total_memory = 0;
        // SAFETY: the pointer is to a live usize; the device came from cuDeviceGet.
        check("cuDeviceTotalMem", unsafe { total_mem(&mut total_memory, device) })?;
        let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
        inputs.devices.push(DeviceInfo {
            name: String::from_utf8_lossy(name).into_owned(),
            compute_capability: (major, minor),
            total_memory,
        });
    }
    Ok(inputs)
}

fn check(call: &'static str, code: i32) -> Result<(), ProbeError> {
    if code == 0 { Ok(()) } else { Err(ProbeError::QueryFailed { call, code }) }
}

/// A function of the driver library.
///
/// # Safety
/// `F` is the C signature of `symbol`, and the library has been found present (else cudarc panics).
unsafe fn symbol<F: Copy>(symbol: &'static str) -> Result<F, ProbeError> {
    // SAFETY: the caller has found the library present; it is opened once and never closed.
    let library = unsafe { sys::culib() };
    // SAFETY: the caller vouches for the type; the copied pointer stays valid, as the library is never closed.
    match unsafe { library.get::<F>(symbol) } {
        Ok(function) => Ok(*function),
        Err(_) => Err(ProbeError::MissingSymbol { symbol }),
    }
}
