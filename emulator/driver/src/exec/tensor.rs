//! `mma.sync`, `ldmatrix`, `stmatrix`, `movmatrix`. A register row of 32 lanes seen as a flat array is a row-major tile of
//! eight rows: the fragment layouts of the ISA (groupID = lane / 4, threadID_in_group = lane mod 4) say no more than that.
//! Products of f16, bf16 and tf32 are exact in f32; sums run over ascending k in f32, which is one of the orders the
//! hardware may take.

use super::float::{bf16_to_f32, f16_to_f32, f32_to_f16};
use super::memory::{self, Intent};
use super::op::{Matrix, Mma, MmaTy, NONE, Strength};
use super::regs::*;
use super::run::{Block, Cx, Stop, Warp};
use crate::check::finding::Kind;
use crate::check::race;
use crate::ptx::ast::Space;

/// `mma.sync` over a whole warp.
#[inline(always)]
pub fn mma(regs: &mut Regs, op: &Mma) {
    match op.a_ty {
        MmaTy::Bf16 => mma_float::<2>(regs, op, |v, h| bf16_to_f32((v >> (16 * h)) as u16)),
        MmaTy::F16 => mma_float::<2>(regs, op, |v, h| f16_to_f32((v >> (16 * h)) as u16)),
        // The hardware ignores the low 13 bits of a tf32 operand.
        MmaTy::Tf32 => mma_float::<1>(regs, op, |v, _| f32::from_bits(v & 0xffff_e000)),
        MmaTy::F64 => mma_f64(regs, op),
        _ => mma_int(regs, op),
    }
}

/// Even lanes, then odd ones.
#[inline(always)]
fn unzip(v: &[u32; LANES]) -> [u32; LANES] {
    let mut out = [0; LANES];
    for i in 0..LANES / 2 {
        out[i] = v[2 * i];
        out[i + LANES / 2] = v[2 * i + 1];
    }
    out
}

/// A register of A holds the rows 8·(r mod m/8) + lane/4 and `E` columns of lane mod 4 in the column tile r / (m/8).
#[inline(always)]
fn mma_float<const E: usize>(regs: &mut Regs, op: &Mma, convert: impl Fn(u32, usize) -> f32) {
    let width = 4 * E;
    let halves = op.m as usize / 8;
    // Tiles of A: 8 rows of `width` columns each. B: tiles of 8 columns of `width` rows, turned over below.
    let mut a = [[0f32; 64]; 4];
    for (r, row) in op.a.iter().enumerate().take(4) {
        let v = regs.row(row.at);
        for i in 0..LANES {
            for h in 0..E {
                a[r][i * E + h] = convert(v[i], h);
            }
        }
    }
    let mut b = [[0f32; 8]; 16];
    for (r, row) in op.b.iter().enumerate().take(2) {
        // Lane 4·column + j becomes place 8·j + column.
        let turned = unzip(&unzip(regs.row(row.at)));
        for j in 0..4 {
            for h in 0..E {
                for i in 0..8 {
                    b[r * width + j * E + h][i] = convert(turned[8 * j + i], h);
                }
            }
        }
    }
    let half_c = op.c_ty == MmaTy::F16;
    let mut c = [[0f32; 64]; 2];
    for t in 0..halves {
        if half_c {
            let v = regs.row(op.c[t].at);
            for i in 0..LANES {
                c[t][2 * i] = f16_to_f32(v[i] as u16);
                c[t][2 * i + 1] = f16_to_f32((v[i] >> 16) as u16);
            }
        } else {
            let (v, w) = (regs.row(op.c[2 * t].at), regs.row(op.c[2 * t + 1].at));
            // Pairs as 64-bit words: the compiler makes gathers of a loop that writes every second element.
            let mut pairs = [0u64; LANES];
            for i in 0..LANES {
                pairs[i] = u64::from(v[i]) | u64::from(w[i]) << 32;
            }
            // SAFETY: both are 256 bytes of plain words; hosts are little-endian, so the low half comes first.
            c[t] = unsafe { std::mem::transmute::<[u64; LANES], [f32; 2 * LANES]>(pairs) };
        }
    }
    for t in 0..halves {
        let mut acc = [[0f32; 8]; 8];
        for i in 0..8 {
            acc[i].copy_from_slice(&c[t][8 * i..][..8]);
        }
        for tile in 0..op.k as usize / width {
            let rows = &a[tile * halves + t];
            for k in 0..width {
                let bk = &b[tile * width + k];
                for i in 0..8 {
                    let x = rows[i * width + k];
                    for j in 0..8 {
                        acc[i][j] = x.mul_add(bk[j], acc[i][j]);
                    }
                }
            }
        }
        for i in 0..8 {
            c[t][8 * i..][..8].copy_from_slice(&acc[i]);
        }
    }
    let canonical = |v: f32| F32::raw(v);
    for t in 0..halves {
        if op.d_ty == MmaTy::F16 {
            let d = regs.row_mut(op.d[t].at);
            for i in 0..LANES {
                d[i] = u32::from(f32_to_f16(c[t][2 * i])) | u32::from(f32_to_f16(c[t][2 * i + 1])) << 16;
            }
        } else {
            let d = regs.row_mut(op.d[2 * t].at);
            for i in 0..LANES {
                d[i] = canonical(c[t][2 * i]);
            }
            let d = regs.row_mut(op.d[2 * t + 1].at);
            for i in 0..LANES {
                d[i] = canonical(c[t][2 * i + 1]);
            }
        }
    }
}

/// m8n8k4 in f64: A is 8x4, B is 4x8, C is 8x8.
fn mma_f64(regs: &mut Regs, op: &Mma) {
    let (a, b) = (*regs.row64(op.a[0].at), *regs.row64(op.b[0].at));
    let c = [*regs.row64(op.c[0].at), *regs.row64(op.c[1].at)];
    for lane in 0..LANES {
        for e in 0..2 {
            let (row, col) = (lane / 4, lane % 4 * 2 + e);
            let mut acc = f64::from_bits(c[e][lane]);
            for k in 0..4 {
                acc = f64::from_bits(a[row * 4 + k]).mul_add(f64::from_bits(b[col * 4 + k]), acc);
            }
            regs.row64_mut(op.d[e].at)[lane] = F64::raw(acc);
        }
    }
}

/// 8-bit integers; sums wrap or saturate at the end.
fn mma_int(regs: &mut Regs, op: &Mma) {
    let halves = op.m as usize / 8;
    let element = |v: u32, h: usize, signed: bool| {
        let byte = (v >> (8 * h)) as u8;
        if signed { i64::from(byte as i8) } else { i64::from(byte) }
    };
    let (a_signed, b_signed) = (op.a_ty == MmaTy::S8, op.b_ty == MmaTy::S8);
    let mut a = [[0i64; 32]; 16];
    for (r, row) in op.a.iter().enumerate() {
        let v = regs.row(row.at);
        for i in 0..LANES {
            for h in 0..4 {
                a[i / 4 + 8 * (r % halves)][i % 4 * 4 + h + 16 * (r / halves)] = element(v[i], h, a_signed);
            }
        }
    }
    let mut b = [[0i64; 8]; 32];
    for (r, row) in op.b.iter().enumerate() {
        let v = regs.row(row.at);
        for i in 0..LANES {
            for h in 0..4 {
                b[i % 4 * 4 + h + 16 * r][i / 4] = element(v[i], h, b_signed);
            }
        }
    }
    let c: Vec<[u32; LANES]> = op.c.iter().map(|r| *regs.row(r.at)).collect();
    for r in 0..2 * halves {
        for lane in 0..LANES {
            let (row, col) = (lane / 4 + 8 * (r / 2), lane % 4 * 2 + r % 2);
            let mut acc = i64::from(c[r][lane] as i32);
            for k in 0..op.k as usize {
                acc += a[row][k] * b[k][col];
            }
            let acc = if op.satfinite { acc.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) } else { acc };
            regs.row_mut(op.d[r].at)[lane] = acc as u32;
        }
    }
}

/// The request of a matrix operation: 16 bytes from each of the first 8·n lanes.
#[inline(always)]
fn rows(
    cx: &mut Cx,
    block: &mut Block,
    warp: &Warp,
    op: &Matrix,
    pc: usize,
    m: u32,
    intent: Intent,
) -> Result<memory::Request, Stop> {
    if m != ALL {
        let message = "ldmatrix and stmatrix must be executed by all 32 lanes together".to_string();
        cx.report(block, warp, pc, m.trailing_zeros() as usize & 31, Kind::WarpMask, message);
    }
    let n = op.regs.len() as u32;
    let mask = if n == 4 { ALL } else { (1 << (8 * n)) - 1 };
    let addr = memory::addresses(&warp.regs, op.addr.0, op.addr.1);
    let space = if op.generic { Space::Generic } else { Space::Shared };
    let (r, _) = memory::request(cx, block, warp, space, &addr, mask, 16);
    memory::check(cx, block, warp, pc, &r, intent, u32::MAX)?;
    memory::count(cx, pc, &r, intent == Intent::Write);
    Ok(r)
}

/// `ldmatrix`: matrix j comes from the addresses of lanes 8j to 8j+7.
#[inline(always)]
pub fn ldmatrix(cx: &mut Cx, block: &mut Block, warp: &mut Warp, op: &Matrix, pc: usize, m: u32) -> Result<(), Stop> {
    let r = rows(cx, block, warp, op, pc, m, Intent::Read)?;
    if cx.checks.races {
        race::access(cx, block, warp, pc, &r, Intent::Read, Strength::Weak);
    }
    for (j, dst) in op.regs.iter().enumerate() {
        let mut tile = [[0u32; 4]; 8];
        for (i, row) in tile.iter_mut().enumerate() {
            // SAFETY: `check` accepted 16 bytes at the address of every lane of the request.
            *row = unsafe { r.view.data.add(r.at[8 * j + i] as usize).cast::<[u32; 4]>().read_unaligned() };
        }
        let out = if op.trans { transpose(&tile) } else { tile };
        if dst.at != NONE {
            let d = warp.regs.row_mut(dst.at);
            for i in 0..LANES {
                d[i] = out[i / 4][i % 4];
            }
        }
    }
    Ok(())
}

/// `stmatrix`.
pub fn stmatrix(cx: &mut Cx, block: &mut Block, warp: &mut Warp, op: &Matrix, pc: usize, m: u32) -> Result<(), Stop> {
    let r = rows(cx, block, warp, op, pc, m, Intent::Write)?;
    if cx.checks.races {
        race::access(cx, block, warp, pc, &r, Intent::Write, Strength::Weak);
    }
    for (j, src) in op.regs.iter().enumerate() {
        let s = warp.regs.row(src.at);
        let mut tile = [[0u32; 4]; 8];
        for i in 0..LANES {
            tile[i / 4][i % 4] = s[i];
        }
        let out = if op.trans { transpose(&tile) } else { tile };
        for (i, row) in out.iter().enumerate() {
            // SAFETY: `check` accepted 16 bytes at the address of every lane of the request.
            unsafe { r.view.data.add(r.at[8 * j + i] as usize).cast::<[u32; 4]>().write_unaligned(*row) }
        }
    }
    memory::mark_written(&r);
    Ok(())
}

/// `movmatrix.trans`.
pub fn movmatrix(regs: &mut Regs, d: Row, a: Row) {
    let s = *regs.row(a.at);
    let mut tile = [[0u32; 4]; 8];
    for i in 0..LANES {
        tile[i / 4][i % 4] = s[i];
    }
    let t = transpose(&tile);
    for i in 0..LANES {
        regs.row_mut(d.at)[i] = t[i / 4][i % 4];
    }
}

/// An 8x8 tile of 16-bit elements, two to a word.
fn transpose(tile: &[[u32; 4]; 8]) -> [[u32; 4]; 8] {
    let mut out = [[0u32; 4]; 8];
    for (i, row) in tile.iter().enumerate() {
        for (j, &v) in row.iter().enumerate() {
            let shift = 16 * (i % 2);
            out[2 * j][i / 2] |= (v & 0xffff) << shift;
            out[2 * j + 1][i / 2] |= (v >> 16) << shift;
        }
    }
    out
}
