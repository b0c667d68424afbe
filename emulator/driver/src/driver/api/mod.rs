//! The C entry points. Each takes the lock, refuses to work after a fault (the error is sticky, as on a GPU), and
//! returns a code; its diagnosis waits in `cuGetErrorString`.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_char, c_void};
use std::sync::Arc;

use super::error::*;
use super::journal;
use super::state::{Event, Function, Outcome, Pool, State, checks, lock};
use super::stream::{Bytes, Graph, Stream, Work};
use crate::check::finding::{Finding, Kind};
use crate::count::profile::Profile;
use crate::exec::grid::Launch;

/// A place for a result, given by the program.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T> Out<T> {
    fn set(&self, v: T) -> Outcome {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the driver API requires a valid place for every result.
        unsafe { self.0.write(v) };
        Ok(())
    }

    fn set_if_wanted(&self, v: T) {
        if !self.0.is_null() {
            let _ = self.set(v);
        }
    }
}

/// A NUL-terminated string from the program.
#[repr(transparent)]
pub struct Text(*const c_char);

impl Text {
    fn get(&self) -> Result<String, u32> {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the driver API requires a terminated string.
        Ok(unsafe { CStr::from_ptr(self.0) }.to_string_lossy().into_owned())
    }
}

/// An address in the program.
#[repr(transparent)]
pub struct Host(*mut c_void);

impl Host {
    fn bytes(&self, n: usize) -> Result<&[u8], u32> {
        if n == 0 {
            return Ok(&[]);
        }
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the driver API requires `n` readable bytes.
        Ok(unsafe { std::slice::from_raw_parts(self.0.cast(), n) })
    }
}

thread_local! {
    /// The contexts of this thread; the last one is current.
    static CONTEXTS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    /// What this thread may call while a stream is being captured (`cuThreadExchangeStreamCaptureMode`).
    static CAPTURE_MODE: Cell<i32> = const { Cell::new(0) };
    /// This thread runs a host function of a stream, from which the driver may not be called.
    static IN_CALLBACK: Cell<bool> = const { Cell::new(false) };
}

/// What the calling thread may do while a stream is being captured.
pub(super) fn capture_mode() -> i32 {
    CAPTURE_MODE.get()
}

/// The handle of the primary context.
const PRIMARY: u64 = 0x800;

/// Calls back into the program: no entry point works until it returns.
pub(super) fn call_back(f: impl FnOnce()) {
    IN_CALLBACK.set(true);
    f();
    IN_CALLBACK.set(false);
}

fn enter(sticky: bool, f: impl FnOnce(&mut State) -> Outcome) -> u32 {
    // The lock is held while a host function runs: without this the function would wait for itself.
    if IN_CALLBACK.get() {
        return NOT_PERMITTED;
    }
    if journal::forked() {
        return NOT_INITIALIZED;
    }
    let mut guard = lock();
    let Some(state) = guard.as_mut() else { return NOT_INITIALIZED };
    if let Some(code) = state.sticky.filter(|_| sticky) {
        return code;
    }
    match f(state) {
        Ok(()) => SUCCESS,
        Err(code) => code,
    }
}

macro_rules! entry_points {
    ($sticky:literal; $($name:ident($($a:ident: $t:ty),*) $s:ident $body:block)*) => {
        $(
            #[doc = concat!("`", stringify!($name), "` of the driver API.")]
            #[unsafe(no_mangle)]
            #[allow(non_snake_case)]
            pub extern "C" fn $name($($a: $t),*) -> u32 {
                enter($sticky, |$s: &mut State| $body)
            }
        )*
    };
}

/// `cuInit` of the driver API.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn cuInit(flags: u32) -> u32 {
    if flags != 0 {
        return INVALID_VALUE;
    }
    if journal::forked() {
        eprintln!(
            "warpsmith emulator: this process was forked from one that had initialised the driver, which can no more \
             be used here than on a GPU: fork first, or start a program"
        );
        return NOT_INITIALIZED;
    }
    let mut guard = lock();
    if guard.is_none() {
        match State::new() {
            Ok(s) => {
                super::fault::watch(&s.device.arena);
                *guard = Some(s);
                if journal::begin() {
                    // SAFETY: registers a function that lives as long as the process.
                    unsafe { libc::atexit(write_report) };
                }
            }
            Err(e) => {
                eprintln!("warpsmith emulator: {e}");
                return NO_DEVICE;
            }
        }
    }
    SUCCESS
}

/// At the end of the process: the report goes where `warpsmith-emulate` looks for it.
extern "C" fn write_report() {
    if journal::forked() {
        return;
    }
    if IN_CALLBACK.get() {
        // A host function ended the process: the lock is held below us, and the state is in the middle of something.
        eprintln!("warpsmith emulator: a host function ended the program: there is no report");
        return;
    }
    if let Some(s) = lock().as_mut() {
        if s.sticky.is_none() {
            // An error here is a finding in the report.
            let _ = s.run_all();
        }
        journal::report(&s.json());
    }
}

/// `cuGetProcAddress_v2`: asked for by the CUDA runtime, as the private tables are.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn cuGetProcAddress_v2(
    _name: Text,
    out: Out<usize>,
    _version: i32,
    _flags: u64,
    _status: Out<i32>,
) -> u32 {
    out.set_if_wanted(0);
    cuGetExportTable(Out(std::ptr::null_mut()), Host(std::ptr::null_mut()))
}

/// `cuDriverGetVersion` of the driver API.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn cuDriverGetVersion(version: Out<i32>) -> u32 {
    version.set(13000).map_or_else(|e| e, |()| SUCCESS)
}

/// What a program on the CUDA runtime is told.
const RUNTIME_REFUSED: &str = "this program uses the CUDA runtime (libcudart), which needs private driver tables. The \
                               emulator serves programs on the driver API (cudarc, cust): link those, or load the \
                               kernels as PTX.";

/// `cuGetExportTable`: the private tables that the CUDA runtime library asks for. There are none.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn cuGetExportTable(_table: Out<usize>, _id: Host) -> u32 {
    static SAID: std::sync::Once = std::sync::Once::new();
    SAID.call_once(|| {
        eprintln!("warpsmith emulator: {RUNTIME_REFUSED}");
        // Such programs often go on without their GPU and end well.
        journal::refuse(RUNTIME_REFUSED);
    });
    NOT_SUPPORTED
}

/// `cuGetErrorName` of the driver API.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn cuGetErrorName(code: u32, name: Out<*const c_char>) -> u32 {
    match describe(code) {
        Some((n, _)) => name.set(n.as_ptr().cast()).map_or_else(|e| e, |()| SUCCESS),
        None => INVALID_VALUE,
    }
}

/// `cuGetErrorString` of the driver API: the diagnosis of the latest error of this code, if there is one.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn cuGetErrorString(code: u32, text: Out<*const c_char>) -> u32 {
    if let Some(t) = lock().as_ref().and_then(|s| s.texts.get(&code)) {
        return text.set(t.as_ptr()).map_or_else(|e| e, |()| SUCCESS);
    }
    match describe(code) {
        Some((_, t)) => text.set(t.as_ptr().cast()).map_or_else(|e| e, |()| SUCCESS),
        None => INVALID_VALUE,
    }
}

fn device(s: &mut State, ordinal: i32) -> Outcome {
    if ordinal == 0 {
        Ok(())
    } else {
        s.fail(INVALID_DEVICE, format!("device {ordinal}: the emulator has one device, 0"))
    }
}

fn current(s: &mut State) -> Outcome {
    let context = CONTEXTS.with_borrow(|c| c.last().copied().unwrap_or(0));
    if context_exists(s, context) {
        return Ok(());
    }
    s.fail(INVALID_CONTEXT, "no context is current on this thread: retain the primary context and make it current")
}

fn context_exists(s: &State, context: u64) -> bool {
    (context == PRIMARY && s.retained > 0) || s.contexts.contains(&context)
}

/// Host memory that a call is about to read or write: a device address there is a mistake that would end in a fault.
fn host_range(s: &mut State, what: &str, p: &Host, bytes: usize) -> Outcome {
    if bytes == 0 {
        return Ok(());
    }
    if p.0.is_null() {
        return s.fail(INVALID_VALUE, format!("{what}: the host address is null"));
    }
    let at = p.0 as u64;
    if s.device.arena.contains(at) {
        let what = format!(
            "{what} of {bytes} bytes: the host address {at:#x} is a device address, {}",
            s.device.arena.locate(at)
        );
        return s.finding(Kind::HostAccess, INVALID_VALUE, what);
    }
    Ok(())
}

mod device;
mod emulator;
mod launch;
mod memory;
mod module;
mod stream;

pub(super) use memory::DEFAULT_POOL;
