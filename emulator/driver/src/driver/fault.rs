//! A program that dereferences a device pointer on the host hits a range that is reserved and never mapped. Its last
//! words should say so.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::journal;
use super::state::try_lock;
use crate::check::arena::Arena;
use crate::check::finding::{Finding, Kind};

static RANGE: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];
static PREVIOUS: Mutex<Option<libc::sigaction>> = Mutex::new(None);

/// Explains faults at the addresses of this arena from now on.
pub fn watch(arena: &Arena) {
    let view = arena.view();
    RANGE[0].store(view.base, Ordering::Relaxed);
    RANGE[1].store(view.base + view.size, Ordering::Relaxed);
    // SAFETY: the structures are plain data, and the handler has the type that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut previous: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_fault as extern "C" fn(_, _, _) as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        if libc::sigaction(libc::SIGSEGV, &action, &mut previous) == 0 {
            *PREVIOUS.lock().unwrap_or_else(|e| e.into_inner()) = Some(previous);
        }
    }
}

/// The program is lost, so the handler may take the liberty of formatting text. It does so on a thread of its own: the
/// stack of a signal handler is small.
extern "C" fn on_fault(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid structure.
    let address = unsafe { (*info).si_addr() } as u64;
    if (RANGE[0].load(Ordering::Relaxed)..RANGE[1].load(Ordering::Relaxed)).contains(&address) {
        let _ = std::thread::spawn(move || explain(address)).join();
    }
    // Back to whoever handled faults before: the access is repeated and ends there.
    // SAFETY: the structure is the one that sigaction returned, or asks for the default.
    unsafe {
        let mut default: libc::sigaction = std::mem::zeroed();
        default.sa_sigaction = libc::SIG_DFL;
        let previous = PREVIOUS.try_lock().ok().and_then(|p| *p).unwrap_or(default);
        libc::sigaction(libc::SIGSEGV, &previous, std::ptr::null_mut());
    }
}

fn explain(address: u64) {
    let mut guard = try_lock();
    let mut state = guard.as_mut().and_then(|g| g.as_mut());
    let place = match &state {
        Some(s) => format!(", {}", s.device.arena.locate(address)),
        None => String::new(),
    };
    let message = format!(
        "host code dereferenced the device address {address:#x}{place}: copy the data with cuMemcpyDtoH, or pass the \
         pointer to a kernel"
    );
    let finding = Finding { kind: Kind::HostAccess, message, place: None, count: 1 };
    eprintln!("warpsmith emulator: {finding}");
    match &mut state {
        Some(s) => {
            s.findings.push(finding);
            journal::report(&s.json());
        }
        // A thread that was inside the driver holds the state: the report is lost, the finding is not.
        None => journal::append(&finding),
    }
}
