//! Runs, checks and counts CUDA kernels on the CPU.
//!
//! [`install`] loads a CUDA driver that executes PTX on the host. A program on the driver API (cudarc, cust) that is
//! started, or whose first CUDA call comes, after that runs on it unchanged:
//!
//! ```no_run
//! warpsmith_emulator::install()?;
//! // … cudarc as usual …
//! let report = warpsmith_emulator::report()?;
//! assert!(report.findings.is_empty(), "{}", report.table());
//! # Ok::<(), warpsmith_emulator::Error>(())
//! ```

mod report;

use std::ffi::{CString, c_char, c_void};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub use report::{COUNTERS, Finding, Launch, Live, Report};

/// File name of the driver.
pub const LIBRARY: &str = "libwarpsmith_emulator_driver.so";

/// What went wrong, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(String);

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

impl Error {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Error(text.into())
    }
}

static HANDLE: Mutex<usize> = Mutex::new(0);

/// Where the driver lies: beside the executable, in its `deps/`, in the parent's `deps/`, else where
/// `WARPSMITH_EMULATOR_LIB` says.
pub fn library() -> Result<PathBuf, Error> {
    if let Some(p) = std::env::var_os("WARPSMITH_EMULATOR_LIB").filter(|p| !p.is_empty()) {
        let p = PathBuf::from(p);
        return match p.is_file() {
            true => Ok(p),
            false => Err(Error(format!("WARPSMITH_EMULATOR_LIB={}: no such file", p.display()))),
        };
    }
    let exe = std::env::current_exe().map_err(|e| Error(format!("cannot tell where this program lies: {e}")))?;
    let folder = exe.parent().unwrap_or(Path::new("."));
    let above = folder.parent().unwrap_or(folder);
    let tried = [
        folder.join(LIBRARY),
        folder.join("deps").join(LIBRARY),
        above.join("deps").join(LIBRARY),
        above.join(LIBRARY),
    ];
    tried.iter().find(|p| p.is_file()).cloned().ok_or_else(|| {
        let list: Vec<String> = tried.iter().map(|p| p.display().to_string()).collect();
        Error(format!(
            "{LIBRARY} was not found (looked at {}): build the package warpsmith-emulator-driver, or set \
             WARPSMITH_EMULATOR_LIB to the file",
            list.join(", ")
        ))
    })
}

fn loader_error() -> String {
    // SAFETY: dlerror returns null or a terminated string that lives until the next loader call of this thread.
    unsafe {
        let e = libc::dlerror();
        if e.is_null() {
            "unknown loader error".into()
        } else {
            std::ffi::CStr::from_ptr(e).to_string_lossy().into_owned()
        }
    }
}

/// Makes the emulator this process's CUDA driver. Must come before the first CUDA call; calling it again does nothing.
pub fn install() -> Result<(), Error> {
    let mut handle = HANDLE.lock().unwrap_or_else(|e| e.into_inner());
    if *handle != 0 {
        return Ok(());
    }
    for name in [c"libcuda.so", c"libcuda.so.1"] {
        // SAFETY: RTLD_NOLOAD only asks whether the library is loaded.
        let loaded = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOLOAD | libc::RTLD_LAZY) };
        if !loaded.is_null() {
            // SAFETY: the handle was just returned; a library that has our symbol is the emulator.
            let ours = unsafe { !libc::dlsym(loaded, c"warpsmithEmuReset".as_ptr()).is_null() };
            if ours {
                *handle = loaded as usize;
                return Ok(());
            }
            return Err(Error("a CUDA driver is loaded already: call install() before the first CUDA call".into()));
        }
    }
    let path = library()?;
    let c = CString::new(path.as_os_str().as_encoded_bytes())
        .map_err(|_| Error(format!("{}: the path holds a NUL", path.display())))?;
    // SAFETY: loading runs the library's initialisers, of which it has none beyond those of the Rust runtime.
    let loaded = unsafe { libc::dlopen(c.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if loaded.is_null() {
        return Err(Error(format!("cannot load {}: {}", path.display(), loader_error())));
    }
    *handle = loaded as usize;
    Ok(())
}

fn symbol(name: &str) -> Result<*mut c_void, Error> {
    let handle = *HANDLE.lock().unwrap_or_else(|e| e.into_inner());
    if handle == 0 {
        return Err(Error("the emulator is not installed: call warpsmith_emulator::install() first".into()));
    }
    let c = CString::new(name).map_err(|_| Error("a symbol name holds a NUL".into()))?;
    // SAFETY: the handle came from dlopen and is never closed.
    let p = unsafe { libc::dlsym(handle as *mut c_void, c.as_ptr()) };
    if p.is_null() { Err(Error(format!("{LIBRARY} has no {name}: it is of another version"))) } else { Ok(p) }
}

fn initialised() -> Result<(), Error> {
    let f = symbol("cuInit")?;
    // SAFETY: this is the type of cuInit.
    let f: extern "C" fn(u32) -> u32 = unsafe { std::mem::transmute(f) };
    match f(0) {
        0 => Ok(()),
        code => {
            Err(Error(format!("the emulated device cannot be made (code {code}); the reason is on standard error")))
        }
    }
}

/// Counters of every launch since the last [`reset`], findings, and live allocations. Runs what is still queued.
pub fn report() -> Result<Report, Error> {
    initialised()?;
    let f = symbol("warpsmithEmuReport")?;
    // SAFETY: this is the type of warpsmithEmuReport.
    let f: extern "C" fn(*mut u8, usize, *mut usize) -> u32 = unsafe { std::mem::transmute(f) };
    let (mut buffer, mut needed) = (Vec::new(), 0usize);
    loop {
        let code = f(buffer.as_mut_ptr(), buffer.len(), &mut needed);
        // A fault in queued work is in the report itself; ask again for it.
        if code != 0 && needed == 0 {
            f(buffer.as_mut_ptr(), buffer.len(), &mut needed);
        }
        if needed <= buffer.len() {
            break;
        }
        buffer.resize(needed, 0);
    }
    let text = String::from_utf8_lossy(&buffer[..needed]).into_owned();
    serde_json::from_str(&text).map_err(|e| Error(format!("the driver's report cannot be read: {e}")))
}

/// Forgets findings and counters, and clears the error of a faulted context.
pub fn reset() -> Result<(), Error> {
    initialised()?;
    let f = symbol("warpsmithEmuReset")?;
    // SAFETY: this is the type of warpsmithEmuReset.
    let f: extern "C" fn() -> u32 = unsafe { std::mem::transmute(f) };
    f();
    Ok(())
}

/// The driver's words about its latest error of a code.
fn explanation(code: u32) -> Result<String, Error> {
    let f = symbol("cuGetErrorString")?;
    // SAFETY: this is the type of cuGetErrorString.
    let f: extern "C" fn(u32, *mut *const c_char) -> u32 = unsafe { std::mem::transmute(f) };
    let mut text = std::ptr::null();
    if f(code, &mut text) != 0 || text.is_null() {
        return Ok(format!("error {code}"));
    }
    // SAFETY: the driver gives a terminated string that lives as long as the process.
    Ok(unsafe { std::ffi::CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

/// Tells the emulator that the program's own memory pool hands out `bytes` at a device address. The rest of the
/// allocation is closed until it is handed out too, so that overruns between tensors show.
pub fn sub_alloc(address: u64, bytes: u64) -> Result<(), Error> {
    part("warpsmithEmuSubAlloc", address, bytes)
}

/// Tells the emulator that the program's own memory pool took a part back. Work that is queued runs first.
pub fn sub_free(address: u64, bytes: u64) -> Result<(), Error> {
    part("warpsmithEmuSubFree", address, bytes)
}

fn part(name: &str, address: u64, bytes: u64) -> Result<(), Error> {
    initialised()?;
    let f = symbol(name)?;
    // SAFETY: this is the type of both functions.
    let f: extern "C" fn(u64, u64) -> u32 = unsafe { std::mem::transmute(f) };
    match f(address, bytes) {
        0 => Ok(()),
        code => Err(Error(explanation(code)?)),
    }
}

/// Sets an option: `profile` (`sm_80`, `sm_90`), `checks` (`all`, `memory`, `none`), `seed`, `threads` or `limit` (numbers),
/// `memory_bytes` (device memory that can be live at once, to see what a program does when there is no more), or
/// `resources` (a file with the output of `ptxas -v`).
pub fn configure(key: &str, value: &str) -> Result<(), Error> {
    initialised()?;
    let f = symbol("warpsmithEmuConfigure")?;
    let text = |s: &str| CString::new(s).map_err(|_| Error("an option holds a NUL".into()));
    let (k, v) = (text(key)?, text(value)?);
    // SAFETY: this is the type of warpsmithEmuConfigure.
    let f: extern "C" fn(*const c_char, *const c_char) -> u32 = unsafe { std::mem::transmute(f) };
    match f(k.as_ptr(), v.as_ptr()) {
        0 => Ok(()),
        code => Err(Error(explanation(code)?)),
    }
}
