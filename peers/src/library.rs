//! Which libraries there are, and their functions.
//!
//! cudarc finds and opens the libraries. Its own declarations panic where a function is missing and return Rust enums,
//! which a code that is newer than the enum would make invalid. So functions are looked up here, by their symbols and
//! C signatures, and codes are numbers.

use cudarc::{cublas, cudnn, driver};
use std::ffi::CStr;
use std::fmt;
use warpsmith::cuda::ProbeError;
use warpsmith::{Error, Result};

/// A library that kernels are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// Convolutions.
    Cudnn,
    /// Products of matrices.
    Cublas,
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Library::Cudnn => "cuDNN",
            Library::Cublas => "cuBLAS",
        })
    }
}

impl Library {
    /// Whether the library can be opened.
    pub fn is_present(self) -> bool {
        // SAFETY: opens the library and closes it; the initialisers of NVIDIA's libraries may run at any time.
        unsafe {
            match self {
                Library::Cudnn => cudnn::sys::is_culib_present(),
                Library::Cublas => cublas::sys::is_culib_present(),
            }
        }
    }

    /// The error of a library that is not there.
    pub fn missing(self) -> Error {
        let (file, wheel, folder) = match self {
            Library::Cudnn => ("libcudnn.so.9", "nvidia-cudnn-cu12", "nvidia/cudnn/lib"),
            Library::Cublas => ("libcublas.so.12", "nvidia-cublas-cu12", "nvidia/cublas/lib"),
        };
        Error::device(
            self,
            format_args!("the library ({file}) was not found"),
            format_args!(
                "install it from NVIDIA's CUDA 12 packages, or with `pip install {wheel}` and the folder \
                 site-packages/{folder} in LD_LIBRARY_PATH"
            ),
        )
    }

    /// The error of a call that failed.
    pub(crate) fn failed(self, call: &str, code: i32, doing: impl fmt::Display) -> Error {
        Error::device(
            self,
            format_args!("{call} returned {code} ({}) for {doing}", self.describe(code)),
            format_args!("look the code up in {self}'s documentation, and check that it fits driver and GPU"),
        )
    }

    /// What the library says of a code.
    fn describe(self, code: i32) -> String {
        type Describe = unsafe extern "C" fn(i32) -> *const std::ffi::c_char;
        let name = match self {
            Library::Cudnn => "cudnnGetErrorString",
            Library::Cublas => "cublasGetStatusString",
        };
        // SAFETY: the type is the C signature of both, with the enum as the int that it is in C.
        let Ok(describe) = (unsafe { self.function::<Describe>(name) }) else { return "no text".into() };
        // SAFETY: takes any number, and returns null or a string that lives as long as the library.
        unsafe {
            let text = describe(code);
            if text.is_null() { "unknown".into() } else { CStr::from_ptr(text).to_string_lossy().into_owned() }
        }
    }

    /// A function of the library.
    ///
    /// # Safety
    /// `F` is the type of a pointer to a function of `symbol`'s C signature.
    pub(crate) unsafe fn function<F: Copy>(self, symbol: &'static str) -> Result<F> {
        if !self.is_present() {
            return Err(self.missing());
        }
        // SAFETY: the library was just found; cudarc opens it once and never closes it, so a copied pointer stays valid.
        let library = unsafe {
            match self {
                Library::Cudnn => cudnn::sys::culib(),
                Library::Cublas => cublas::sys::culib(),
            }
        };
        // SAFETY: the caller vouches for the type.
        let function = unsafe { library.get::<F>(symbol) }.map(|function| *function);
        function.map_err(|_| {
            let reason = format!("the library has no function {symbol}");
            Error::device(self, reason, "install a release for CUDA 12; of cuDNN, release 9")
        })
    }
}

/// A table of functions that return a code, each looked up by its symbol.
macro_rules! functions {
    ($(#[$doc:meta])* $table:ident of $library:expr; $($name:ident = $symbol:ident($($argument:ty),* $(,)?);)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        struct $table {
            $($name: unsafe extern "C" fn($($argument),*) -> i32,)*
        }

        impl $table {
            fn load() -> warpsmith::Result<$table> {
                // SAFETY: each type is the C signature of its symbol in the library's header, with handles and
                // descriptors as untyped pointers and enums as the ints that they are in C.
                unsafe { Ok($table { $($name: $library.function(stringify!($symbol))?,)* }) }
            }
        }
    };
}
pub(crate) use functions;

/// What can be compared here, or why nothing can: a text for people.
///
/// # Errors
/// No GPU, or neither library: what to install.
pub fn usable<T>(
    gpu: std::result::Result<T, ProbeError>,
    is_present: impl Fn(Library) -> bool,
) -> std::result::Result<T, String> {
    let gpu = gpu.map_err(|error| format!("no GPU, so nothing is timed: {error}"))?;
    let libraries = [Library::Cudnn, Library::Cublas];
    if libraries.iter().any(|&library| is_present(library)) {
        return Ok(gpu);
    }
    let missing: Vec<String> = libraries.iter().map(|library| library.missing().to_string()).collect();
    Err(format!("nothing to compare with, so nothing is timed:\n{}", missing.join("\n")))
}

/// Whether the driver is warpsmith's emulator, whose events say nothing about time.
///
/// Only after a probe has found a driver: cudarc panics without one.
pub fn is_emulator() -> bool {
    // SAFETY: the driver was found before; the symbol is only looked for.
    unsafe { driver::sys::culib().get::<*const ()>("warpsmithEmuReset") }.is_ok()
}
