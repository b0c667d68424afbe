//! What was queued on a device and what went wrong there. Kernels run after their launch has returned, so a fault shows
//! in some later call, which is not to blame.

use crate::Error;
use cudarc::driver::DriverError;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Ops and kernels that the report of a fault names: the last ones before it was noticed.
const NAMED: usize = 8;

const CONTEXT_LOST: &str = "the context is lost: start again, with CUDA_LAUNCH_BLOCKING=1 to have the op named exactly";
const REFUSED: &str = "the driver refuses the call: `nvidia-smi` shows the state of the GPU";

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
        false => Error::device("cuda", format_args!("{doing}: {error}"), REFUSED),
    }
}

/// The names of what was queued last, until it is known to have ended.
#[derive(Debug, Default)]
pub(crate) struct Queued {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last ones, each with its number.
    recent: VecDeque<(u64, &'static str)>,
    /// How many were queued.
    count: u64,
    /// How many of them are known to have ended.
    ended: u64,
    /// What the driver said when a fault was first noticed. From then on nothing is forgotten or added: what comes later
    /// is not to blame.
    fault: Option<String>,
}

impl Queued {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what has been queued.
    pub(crate) fn note(&self, name: &'static str) {
        let state = &mut *self.lock();
        if state.fault.is_some() {
            return;
        }
        state.count += 1;
        match state.recent.back_mut() {
            Some((number, last)) if *last == name => *number = state.count,
            _ => state.recent.push_back((state.count, name)),
        }
        // One more than is named, to know whether there was more.
        if state.recent.len() > NAMED + 1 {
            state.recent.pop_front();
        }
    }

    /// How many were queued so far: what to tell [`Queued::ended`] after a wait that starts now.
    #[cfg(feature = "nn")]
    pub(crate) fn count(&self) -> u64 {
        self.lock().count
    }

    /// Forgets the first `count`: they have ended.
    #[cfg(feature = "nn")]
    pub(crate) fn ended(&self, count: u64) {
        let mut state = self.lock();
        state.ended = state.ended.max(count);
    }

    /// What the driver's answer to a call means. Once something queued has failed, that and what it may have been comes
    /// first, in this report and in all that follow.
    pub(crate) fn error(&self, device: impl fmt::Display, doing: impl fmt::Display, error: DriverError) -> Error {
        let mut state = self.lock();
        if state.fault.is_none() && is_fault(error) {
            state.fault = Some(error.to_string());
        }
        let Some(fault) = &state.fault else {
            return Error::device(device, format_args!("{doing}: {error}"), REFUSED);
        };
        let names: Vec<&str> =
            state.recent.iter().rev().filter(|(number, _)| *number > state.ended).map(|(_, name)| *name).collect();
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
    use cudarc::driver::sys::CUresult;

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
    #[test]
    fn the_last_eight_are_named() {
        let report = |names: &[&'static str]| {
            let queued = Queued::default();
            names.iter().for_each(|name| queued.note(name));
            // Without a driver nobody can say what an error's number means.
            queued.lock().fault = Some("lost".to_string());
            queued.error("cuda:0", "waiting", DriverError(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS)).to_string()
        };
        let eight = report(&["a", "b", "c", "d", "e", "e", "f", "g", "h"]);
        assert!(eight.contains("queued last: h, g, f, e, d, c, b, a; noticed while waiting"), "{eight}");
        let nine = report(&["a", "b", "c", "d", "e", "f", "g", "h", "i"]);
        assert!(nine.contains("queued last: i, h, g, f, e, d, c, b, and more; noticed while waiting"), "{nine}");
    }
}
