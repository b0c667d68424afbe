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
    /// A division for threads that own `values` channels each, 16 bytes of a row.
    pub fn new(rows: usize, c: u32, values: u32) -> Rows {
        let lanes = c.div_ceil(values).next_power_of_two().min(32);
        Rows::divided(rows, c, values, lanes, u64::MAX)
    }

    /// The same for a kernel that leaves up to two floats a channel for every block of rows: they stay below 2 % of the
    /// matrix. Where so few blocks of rows do not fill a GPU, blocks become narrower: down to 8 lanes, the 128 bytes of
    /// a row that caches keep together.
    pub fn summed(rows: usize, c: u32, values: u32) -> Rows {
        let mut lanes = c.div_ceil(values).next_power_of_two().min(32);
        // A channel's 8 bytes for a block are 2 % of the 16 / values bytes of so many rows.
        let most = (rows as u64 / u64::from(25 * values)).max(1);
        while lanes > 8 && u64::from(c.div_ceil(lanes * values)).saturating_mul(most) < BUSY {
            lanes /= 2;
        }
        Rows::divided(rows, c, values, lanes, most)
    }

    /// At most `most` blocks of rows.
    fn divided(rows: usize, c: u32, values: u32, lanes: u32, most: u64) -> Rows {
        let rows = rows as u64;
        let across = u64::from(c.div_ceil(lanes * values));
        // Enough blocks, but every thread with a few rows of its own, and the grid within its limit.
        let high = u64::from(ROWS_BLOCK / lanes);
        let wanted = rows.div_ceil((BUSY / across).clamp(1, most)).max(4 * high).max(rows.div_ceil(65_535));
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Batch norms of ResNet50V2 at 72 and 224 px, and odd ones.
    const PROBLEMS: [(usize, u32); 9] = [
        (128 * 18 * 18, 64),
        (128 * 18 * 18, 256),
        (128 * 5 * 5, 256),
        (128 * 3 * 3, 512),
        (128 * 3 * 3, 2048),
        (128 * 56 * 56, 64),
        (5_000, 7),
        (100_003, 1),
        (200, 130),
    ];

    #[test]
    fn partial_sums_are_few_and_cover_every_row() {
        for (rows, c) in PROBLEMS {
            for values in [4, 8] {
                let m = Rows::summed(rows, c, values);
                let (blocks, rows_per_block) = (m.blocks() as usize, m.rows_per_block as usize);
                assert!(blocks * rows_per_block >= rows && (blocks - 1) * rows_per_block < rows, "{m:?}");
                // 8 bytes for each channel and block, 16 / values bytes for each element.
                assert!(blocks == 1 || (8 * blocks) as f64 <= 0.02 * (rows * 16 / values as usize) as f64, "{m:?}");
                assert!(m.lanes.is_power_of_two() && m.lanes <= 32, "{m:?}");
            }
        }
    }

    #[test]
    fn blocks_are_narrow_where_rows_are_few() {
        // s3 of ResNet50V2 at 72 px in bf16: 15 blocks of rows, 4 of 64 channels across.
        let m = Rows::summed(128 * 5 * 5, 256, 8);
        assert_eq!((m.lanes, m.rows_per_block, m.blocks(), m.grid(8).x), (8, 224, 15, 4));
        // Rows in plenty: wide blocks, about two for each multiprocessor of an H100.
        let m = Rows::summed(128 * 56 * 56, 256, 8);
        assert_eq!((m.lanes, m.blocks(), m.grid(8).x), (32, 263, 1));
    }
}
