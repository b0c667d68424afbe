//! How kernels over a matrix `[rows, c]` are launched: `kernels/include/rows.cuh` from the host's side.

use super::launch::Grid;
use cudarc::driver::DeviceRepr;

/// Threads of a block, `ROWS_BLOCK` of rows.cuh.
pub(super) const ROWS_BLOCK: u32 = 256;

/// Blocks that keep any GPU busy: two for each of an H100's 132 multiprocessors.
const BUSY: u64 = 264;

/// The matrix and how a grid divides it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rows {
    pub rows: u64,
    pub c: u32,
    pub lanes: u32,
    pub rows_per_block: u32,
}

// SAFETY: the fields of `Rows` in rows.cuh, in their order.
unsafe impl DeviceRepr for Rows {}

impl Rows {
    /// A division for threads that own `values` channels each.
    pub fn new(rows: usize, c: u32, values: u32) -> Rows {
        let lanes = c.div_ceil(values).next_power_of_two().min(32);
        let rows = rows as u64;
        let across = u64::from(c.div_ceil(lanes * values));
        // Enough blocks, but every thread with a few rows of its own, and the grid within its limit.
        let high = u64::from(ROWS_BLOCK / lanes);
        let wanted = rows.div_ceil((BUSY / across).max(1)).max(4 * high).max(rows.div_ceil(65_535));
        let rows_per_block = wanted.min(u64::from(u32::MAX) / high * high).next_multiple_of(high);
        Rows { rows, c, lanes, rows_per_block: rows_per_block as u32 }
    }

    /// Blocks of rows.
    pub fn blocks(&self) -> u32 {
        self.rows.div_ceil(u64::from(self.rows_per_block)) as u32
    }

    pub fn grid(&self, values: u32) -> Grid {
        Grid { x: u64::from(self.c.div_ceil(self.lanes * values)), y: u64::from(self.blocks()) }
    }
}
