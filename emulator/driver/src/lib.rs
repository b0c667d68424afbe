//! The engine of the emulator.

pub mod check;
pub mod count;
pub mod engine;
pub mod exec;
pub mod ptx;
