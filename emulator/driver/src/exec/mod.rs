//! Execution: decoded operations on warps, blocks and grids.

pub mod alu;
pub mod async_copy;
pub mod float;
pub mod grid;
pub mod math;
pub mod memory;
pub mod op;
pub mod regs;
pub mod run;
pub mod slow;
pub mod syscall;
pub mod tensor;
pub mod warp;
pub mod wmma;
