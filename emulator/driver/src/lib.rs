//! The engine of the emulator and the CUDA driver API over it.
//!
//! Built as `libcuda` replacement (cdylib) and as a library for its own tests. Programs reach it through
//! `warpsmith_emulator::install()`; nothing should link this crate and load the cdylib in one process, because each copy
//! has a device of its own.

pub mod check;
pub mod count;
pub mod driver;
pub mod engine;
pub mod exec;
pub mod ptx;
