//! Grow-only scratch buffers, a small stack of them per thread.
//!
//! A buffer is taken off the stack while it is in use, so a task that rayon runs on the same thread in the
//! meantime takes another one.

use std::cell::RefCell;
use std::thread::LocalKey;

type Stack<T> = RefCell<Vec<Vec<T>>>;

thread_local! {
    static F32: Stack<f32> = const { RefCell::new(Vec::new()) };
    static F64: Stack<f64> = const { RefCell::new(Vec::new()) };
}

fn with<T: Copy + Default, R>(stack: &'static LocalKey<Stack<T>>, len: usize, f: impl FnOnce(&mut [T]) -> R) -> R {
    let mut buffer = stack.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
    let result = f(&mut buffer[..len]);
    stack.with_borrow_mut(|stack| stack.push(buffer));
    result
}

/// Calls `f` with `len` floats of unspecified value.
pub(crate) fn with_f32<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    with(&F32, len, f)
}

/// Calls `f` with `len` doubles of unspecified value.
pub(crate) fn with_f64<R>(len: usize, f: impl FnOnce(&mut [f64]) -> R) -> R {
    with(&F64, len, f)
}
