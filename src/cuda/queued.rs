//! What was queued on a device and what went wrong there. Kernels run after their launch has returned, so a fault shows
//! in some later call, which is not to blame.

use crate::Error;
use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaStream, DriverError};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(crate) type Driver<T> = std::result::Result<T, DriverError>;

/// Ops and kernels that the report of a fault names: the last ones before it was noticed.
const NAMED: usize = 8;

const CONTEXT_LOST: &str = "the context is lost: start again, with CUDA_LAUNCH_BLOCKING=1 to have the op named exactly";
const REFUSED: &str = "the driver refuses the call: `nvidia-smi` shows the state of the GPU";
pub(crate) const FREE_MEMORY: &str =
    "use a smaller batch or smaller images, or stop other processes on the GPU (`nvidia-smi`)";

pub(crate) const OUT_OF_MEMORY: DriverError = DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY);

/// Whether an error says that something queued earlier failed while it ran, or that the GPU itself did: every later call
/// on the context returns it again.
pub(crate) fn is_fault(error: DriverError) -> bool {
    // By number, as cuda.h counts: uncorrectable memory and link errors, then the exceptions of kernels.
    matches!(error.0 as u32, 214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721 | 999)
}

/// A driver's error with what was being done, where nobody knows what was queued.
pub(crate) fn driver_error(doing: impl fmt::Display, error: DriverError) -> Error {
    match is_fault(error) {
        true => {
            let what = format_args!("something queued earlier failed on the GPU: {error}; noticed while {doing}");
            Error::device("cuda", what, CONTEXT_LOST)
        }
        false => refused("cuda", doing, error),
    }
}

fn refused(device: impl fmt::Display, doing: impl fmt::Display, error: DriverError) -> Error {
    let hint = if error == OUT_OF_MEMORY { FREE_MEMORY } else { REFUSED };
    Error::device(device, format_args!("{doing}: {error}"), hint)
}

/// The names of what was queued last, until it is known to have ended.
#[derive(Debug, Default)]
pub(crate) struct Queued {
    state: Mutex<State>,
}

/// Streams by the driver's handles, as numbers: a stream may go while what was queued on it is still running. The default
/// streams of all threads have one handle.
type Handle = usize;

#[derive(Debug, Default)]
struct State {
    /// The last ones of each stream that are not known to have ended, each with its number.
    recent: HashMap<Handle, VecDeque<(u64, &'static str)>>,
    /// How many were queued.
    count: u64,
    /// What the driver said when a fault was first noticed. From then on nothing is forgotten or added: what comes later
    /// is not to blame.
    fault: Option<String>,
}

impl Queued {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what has been queued on a stream.
    pub(crate) fn note(&self, name: &'static str, stream: &CudaStream) {
        self.note_on(stream.cu_stream().addr(), name);
    }

    fn note_on(&self, stream: Handle, name: &'static str) {
        let state = &mut *self.lock();
        if state.fault.is_some() {
            return;
        }
        state.count += 1;
        let recent = state.recent.entry(stream).or_default();
        match recent.back_mut() {
            Some((number, last)) if *last == name => *number = state.count,
            _ => recent.push_back((state.count, name)),
        }
        // One more than is named, to know whether there was more.
        if recent.len() > NAMED + 1 {
            recent.pop_front();
        }
    }

    /// Waits for `stream`: what was queued there before is forgotten if `wait` ends well.
    pub(crate) fn wait(&self, stream: &CudaStream, wait: impl FnOnce() -> Driver<()>) -> Driver<()> {
        self.wait_on(stream.cu_stream().addr(), wait)
    }

    fn wait_on(&self, stream: Handle, wait: impl FnOnce() -> Driver<()>) -> Driver<()> {
        let count = self.lock().count;
        wait()?;
        let recent = &mut self.lock().recent;
        if let Some(names) = recent.get_mut(&stream) {
            names.retain(|(number, _)| *number > count);
            if names.is_empty() {
                recent.remove(&stream);
            }
        }
        Ok(())
    }

    /// What the driver's answer to a call means. Once something queued has failed, that and what it may have been comes
    /// first, in this report and in all that follow.
    pub(crate) fn error(&self, device: impl fmt::Display, doing: impl fmt::Display, error: DriverError) -> Error {
        let mut state = self.lock();
        if state.fault.is_none() && is_fault(error) {
            state.fault = Some(error.to_string());
        }
        let Some(fault) = &state.fault else {
            return refused(device, doing, error);
        };
        let mut recent: Vec<_> = state.recent.values().flatten().collect();
        recent.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        let names: Vec<&str> = recent.iter().map(|(_, name)| *name).collect();
        let suspects = match names.len() {
            0 => "nothing of warpsmith's was queued since the last wait".to_string(),
            n if n > NAMED => format!("queued last: {}, and more", names[..NAMED].join(", ")),
            _ => format!("queued last: {}", names.join(", ")),
        };
        let what = format_args!("an op failed on the GPU: {fault}; {suspects}; noticed while {doing}");
        Error::device(device, what, CONTEXT_LOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_what_no_call_is_to_blame_for() {
        for fault in [CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, CUresult::CUDA_ERROR_ECC_UNCORRECTABLE] {
            assert!(is_fault(DriverError(fault)), "{fault:?}");
        }
        let calls = [
            CUresult::CUDA_ERROR_OUT_OF_MEMORY,
            CUresult::CUDA_ERROR_JIT_COMPILER_NOT_FOUND,
            CUresult::CUDA_ERROR_INVALID_PTX,
            CUresult::CUDA_ERROR_NOT_READY,
        ];
        for call in calls {
            assert!(!is_fault(DriverError(call)), "{call:?}");
        }
    }

    fn fault(queued: &Queued) -> String {
        // Without a driver nobody can say what an error's number means.
        queued.lock().fault = Some("lost".to_string());
        queued.error("cuda:0", "waiting", DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS)).to_string()
    }

    #[test]
    fn the_last_eight_are_named() {
        let report = |names: &[&'static str]| {
            let queued = Queued::default();
            names.iter().for_each(|name| queued.note_on(1, name));
            fault(&queued)
        };
        let eight = report(&["a", "b", "c", "d", "e", "e", "f", "g", "h"]);
        assert!(eight.contains("queued last: h, g, f, e, d, c, b, a; noticed while waiting"), "{eight}");
        let nine = report(&["a", "b", "c", "d", "e", "f", "g", "h", "i"]);
        assert!(nine.contains("queued last: i, h, g, f, e, d, c, b, and more; noticed while waiting"), "{nine}");
    }

    #[test]
    fn a_wait_ends_what_was_on_its_stream_before() {
        let queued = Queued::default();
        for (stream, name) in [(1, "a"), (2, "b"), (1, "c"), (2, "d")] {
            queued.note_on(stream, name);
        }
        let wait = || {
            queued.note_on(1, "e");
            queued.note_on(2, "f");
            Ok(())
        };
        queued.wait_on(1, wait).unwrap();
        // Many of one stream do not push out the few of another.
        for i in 0..99 {
            queued.note_on(3, ["g", "h"][i % 2]);
        }
        queued.wait_on(3, || Ok(())).unwrap();
        queued.wait_on(2, || Err(DriverError(CUresult::CUDA_ERROR_NOT_READY))).unwrap_err();
        let report = fault(&queued);
        assert!(report.contains("queued last: f, e, d, b; noticed while waiting"), "{report}");
    }
}
