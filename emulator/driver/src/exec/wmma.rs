//! `wmma.load` and `wmma.store`. The ISA leaves the layout of these fragments open; here it is that of `mma.sync`, so
//! that `wmma.mma` is a few `mma.sync` on subsets of the registers. A fragment whose matrix does not fill the
//! registers that the ISA gives it holds the matrix several times over; the first copy is what counts.

use super::memory;
use super::op::{MmaTy, Wmma};
use super::regs::*;
use super::run::{Block, Cx, Stop, Warp};
use crate::check::finding::Kind;

/// Which operand a fragment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Part {
    A,
    B,
    /// C and D.
    C,
}

/// A matrix that lies distributed over the registers of a warp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Which operand.
    pub part: Part,
    /// Element type.
    pub ty: MmaTy,
    /// Rows of the matrix.
    pub rows: u32,
    /// Columns of the matrix.
    pub cols: u32,
}

impl Fragment {
    /// Bytes of an element.
    pub fn size(&self) -> u32 {
        match self.ty {
            MmaTy::S8 | MmaTy::U8 => 1,
            MmaTy::F16 | MmaTy::Bf16 => 2,
            MmaTy::F64 => 8,
            _ => 4,
        }
    }

    /// Elements of a register.
    pub fn per_reg(&self) -> u32 {
        (4 / self.size()).max(1)
    }

    /// Registers that hold the matrix once.
    pub fn distinct(&self) -> u32 {
        self.rows * self.cols / 32 / self.per_reg()
    }

    /// Registers that the ISA gives the fragment: f16 multiplicands always get 8.
    pub fn regs(&self) -> u32 {
        if self.ty == MmaTy::F16 && self.part != Part::C { 8 } else { self.distinct() }
    }

    /// Row and column of element `e` of register `reg` in a lane.
    pub fn place(&self, reg: u32, lane: u32, e: u32) -> (u32, u32) {
        let (group, member, per) = (lane / 4, lane % 4, self.per_reg());
        match self.part {
            // Tiles of 8 rows; in each, a lane holds neighbours of one row.
            Part::A => {
                let (t, down) = (reg % self.distinct(), self.rows / 8);
                (t % down * 8 + group, t / down * 4 * per + member * per + e)
            }
            // Tiles of 8 columns; in each, a lane holds neighbours of one column.
            Part::B => {
                let (t, down) = (reg % self.distinct(), self.rows / (4 * per));
                (t % down * 4 * per + member * per + e, t / down * 8 + group)
            }
            // 8x8 tiles; in each, a lane holds two neighbours of one row.
            Part::C => {
                let (t, e) = if per == 2 { (reg, e) } else { (reg / 2, reg % 2) };
                let down = self.rows / 8;
                (t % down * 8 + group, t / down * 8 + member * 2 + e)
            }
        }
    }
}

/// A load or store of a fragment: one request per register where its elements are neighbours in memory, else one per
/// element.
pub fn transfer(cx: &mut Cx, block: &mut Block, warp: &mut Warp, op: &Wmma, pc: usize, m: u32) -> Result<(), Stop> {
    let first = m.trailing_zeros() as usize & 31;
    if m != ALL {
        let message = "wmma must be executed by all 32 lanes together".to_string();
        cx.report(block, warp, pc, first, Kind::WarpMask, message);
    }
    let f = &op.fragment;
    let stride = u64::from(warp.regs.row(op.stride.at)[first]);
    let base = memory::addresses(&warp.regs, op.addr, op.offset);
    let (size, per) = (f.size(), f.per_reg());
    let along_row = op.row_major == (f.part != Part::B);
    let steps = if per > 1 && !along_row { per } else { 1 };
    let bytes = size * per / steps;
    for (reg, &row) in op.regs.iter().enumerate() {
        let reg = reg as u32;
        if reg >= f.distinct() {
            if op.load {
                let copy = *warp.regs.row(op.regs[(reg - f.distinct()) as usize].at);
                *warp.regs.row_mut(row.at) = copy;
            }
            continue;
        }
        let mut packed = [0u32; LANES];
        for e in 0..steps {
            let mut at = base;
            for lane in 0..LANES {
                let (i, j) = f.place(reg, lane as u32, e);
                let (i, j) = (u64::from(i), u64::from(j));
                let index = if op.row_major { i * stride + j } else { j * stride + i };
                at[lane] = at[lane].wrapping_add(index * u64::from(size));
            }
            let part = if steps == 1 { row } else { op.scratch };
            if op.load {
                memory::load(cx, block, warp, op.space, &at, m, pc, bytes, part)?;
                if steps > 1 {
                    let v = warp.regs.row(part.at);
                    for i in 0..LANES {
                        packed[i] |= v[i] << (8 * size * e);
                    }
                }
            } else {
                if steps > 1 {
                    let v = *warp.regs.row(row.at);
                    let d = warp.regs.row_mut(part.at);
                    for i in 0..LANES {
                        d[i] = v[i] >> (8 * size * e);
                    }
                }
                memory::store(cx, block, warp, op.space, &at, m, pc, bytes, part)?;
            }
        }
        if op.load && steps > 1 {
            *warp.regs.row_mut(row.at) = packed;
        }
    }
    if !op.load {
        cx.progress = true;
    }
    Ok(())
}
