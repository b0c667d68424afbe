//! Signals that would end the command while its program runs. The program gets them, the command stays to report what it
//! did and to remove the folder.

use std::sync::atomic::{AtomicI32, Ordering};

/// The program, or 0.
static PROGRAM: AtomicI32 = AtomicI32::new(0);
/// A signal that came before the program had a number.
static EARLY: AtomicI32 = AtomicI32::new(0);

extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid structure.
    let from_terminal = unsafe { (*info).si_code } == libc::SI_KERNEL;
    match PROGRAM.load(Ordering::Relaxed) {
        0 => EARLY.store(signal, Ordering::Relaxed),
        // A terminal sends its signals to the program as well.
        _ if from_terminal => {}
        // SAFETY: sends a signal, which a handler may do.
        program => unsafe {
            libc::kill(program, signal);
        },
    }
}

/// From now on the signals that end programs go to the program. A handler, unlike ignoring them, is not inherited by it.
pub fn pass_on() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT] {
        // SAFETY: the structures are plain data, and the handler has the type that SA_SIGINFO asks for.
        unsafe {
            let mut old: libc::sigaction = std::mem::zeroed();
            let mut new: libc::sigaction = std::mem::zeroed();
            new.sa_sigaction = on_signal as extern "C" fn(_, _, _) as libc::sighandler_t;
            new.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            // Who started us may want a signal to be ignored (nohup): so it stays, here and in the program.
            if libc::sigaction(signal, std::ptr::null(), &mut old) == 0 && old.sa_sigaction != libc::SIG_IGN {
                libc::sigaction(signal, &new, std::ptr::null_mut());
            }
        }
    }
}

/// The program's number; 0 when it is over.
pub fn to(program: u32) {
    PROGRAM.store(program as i32, Ordering::Relaxed);
    let early = EARLY.swap(0, Ordering::Relaxed);
    if program != 0 && early != 0 {
        // SAFETY: sends a signal to a child that has not been waited for.
        unsafe { libc::kill(program as i32, early) };
    }
}
