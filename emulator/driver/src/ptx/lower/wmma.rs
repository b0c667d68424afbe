//! `wmma.load`, `wmma.store` and `wmma.mma`.

use super::*;
use crate::exec::wmma::{Fragment, Part};

const SHAPES: [(&str, (u32, u32, u32)); 5] = [
    ("m16n16k16", (16, 16, 16)),
    ("m8n32k16", (8, 32, 16)),
    ("m32n8k16", (32, 8, 16)),
    ("m16n16k8", (16, 16, 8)),
    ("m8n8k4", (8, 8, 4)),
];

const TYPES: [(&str, MmaTy); 8] = [
    ("f16", MmaTy::F16),
    ("bf16", MmaTy::Bf16),
    ("tf32", MmaTy::Tf32),
    ("f64", MmaTy::F64),
    ("f32", MmaTy::F32),
    ("s32", MmaTy::S32),
    ("s8", MmaTy::S8),
    ("u8", MmaTy::U8),
];

/// The fragment of one operand, if shape and type exist for it.
fn fragment(part: Part, (m, n, k): (u32, u32, u32), ty: MmaTy) -> Option<Fragment> {
    use MmaTy::*;
    let ok = match (part, k) {
        (Part::C, 16) => matches!(ty, F16 | F32 | S32),
        (Part::C, 8) => ty == F32,
        (_, 16) => matches!(ty, F16 | Bf16 | S8 | U8),
        (_, 8) => ty == Tf32,
        _ => ty == F64,
    };
    let (rows, cols) = match part {
        Part::A => (m, k),
        Part::B => (k, n),
        Part::C => (m, n),
    };
    ok.then_some(Fragment { part, ty, rows, cols })
}

/// The type of a register of a fragment, as operands are checked.
fn register(ty: MmaTy) -> Ty {
    match ty {
        MmaTy::F64 => Ty::F64,
        MmaTy::F32 => Ty::F32,
        _ => Ty::B32,
    }
}

impl Lower<'_> {
    pub(super) fn wmma(&mut self, mut f: Form) -> Res<()> {
        if f.flag("mma") {
            return self.wmma_mma(f);
        }
        let load = f.flag("load");
        let part = f.one_of(&[("a", Part::A), ("b", Part::B), ("c", Part::C), ("d", Part::C)]);
        let sync = f.flag("sync") && f.flag("aligned");
        let row_major = f.flag("row");
        let layout = row_major || f.flag("col");
        let shape = f.one_of(&SHAPES);
        let space = f.one_of(&[("global", Space::Global), ("shared", Space::Shared), ("shared::cta", Space::Shared)]);
        let ty = f.one_of(&TYPES);
        let store = f.flag("store") && part == Some(Part::C);
        if !load && !store {
            return Err(f.unknown("only wmma.load, wmma.store.d and wmma.mma exist"));
        }
        f.finish()?;
        let known = match (part, shape, ty) {
            (Some(p), Some(s), Some(t)) => fragment(p, s, t),
            _ => None,
        };
        let (Some(fragment), true, true) = (known, sync, layout) else {
            return Err(f.unknown("no such combination of shape, layout and type is supported"));
        };
        let (at, list) = if load { (1, 0) } else { (0, 1) };
        let (addr, offset, _) = self.address(f.operand(at)?)?;
        let regs = self.fragment_rows(&f, list, &fragment, load)?;
        let stride = if f.inst.operands.len() > 2 {
            f.count(3)?;
            self.src(f.operand(2)?, Ty::U32)?
        } else {
            // The leading dimension of a dense matrix.
            self.konst(u64::from(if row_major { fragment.cols } else { fragment.rows }), false)?
        };
        let scratch = self.row(false)?;
        let space = space.unwrap_or(Space::Generic);
        self.wmmas.push(Wmma { load, space, addr, offset, stride, row_major, fragment, regs, scratch });
        self.emit(Op::Wmma(self.wmmas.len() as u32 - 1))
    }

    fn fragment_rows(&mut self, f: &Form, i: usize, fragment: &Fragment, write: bool) -> Res<Vec<Row>> {
        let list = match f.operand(i)? {
            Operand::Vector(v) => v.as_slice(),
            o => std::slice::from_ref(o),
        };
        if list.len() != fragment.regs() as usize {
            let (has, want) = (list.len(), fragment.regs());
            return Err(f.unknown(&format!("operand {i} has {has} registers, the fragment has {want}")));
        }
        let ty = register(fragment.ty);
        list.iter().map(|o| if write { self.dst(o, ty) } else { self.src(o, ty) }).collect()
    }

    /// One `mma.sync` of n = 8 for every 16 (or 8) rows and 8 columns: the fragments have its layout.
    fn wmma_mma(&mut self, mut f: Form) -> Res<()> {
        let sync = f.flag("sync") && f.flag("aligned");
        let layouts = (f.flag("row") || f.flag("col")) && (f.flag("row") || f.flag("col"));
        let shape = f.one_of(&SHAPES);
        let satfinite = f.flag("satfinite");
        let rounding = f.flag("rn");
        // Types come as D, A, B, C, or for f16 as D, C; they may repeat, so each is taken in turn.
        let mut types = Vec::new();
        while let Some((part, taken)) = f.inst.opcode.iter().zip(&mut f.taken).find(|(_, taken)| !**taken)
            && let Some(&(_, ty)) = TYPES.iter().find(|t| t.0 == part)
        {
            types.push(ty);
            *taken = true;
        }
        f.finish()?;
        f.count(4)?;
        let [d_ty, a_ty, b_ty, c_ty] = match types[..] {
            [d, c] => [d, MmaTy::F16, MmaTy::F16, c],
            [d, a, b, c] => [d, a, b, c],
            _ => return Err(f.unknown("it names neither two nor four types")),
        };
        let Some((m, n, k)) = shape else { return Err(f.unknown("this shape is not supported")) };
        use MmaTy::{Bf16, F16, F32, F64, S8, S32, Tf32, U8};
        let sums = match a_ty {
            F16 => types.len() == 2 && matches!((d_ty, c_ty), (F16 | F32, F16 | F32)),
            S8 | U8 => (d_ty, c_ty) == (S32, S32),
            F64 => (d_ty, c_ty) == (F64, F64),
            Bf16 | Tf32 => (d_ty, c_ty) == (F32, F32),
            _ => false,
        };
        let part = |p, ty| fragment(p, (m, n, k), ty);
        let fragments = (part(Part::A, a_ty), part(Part::B, b_ty), part(Part::C, c_ty), part(Part::C, d_ty));
        let ((Some(fa), Some(fb), Some(fc), Some(fd)), true, true) = (fragments, sums && a_ty == b_ty, sync && layouts)
        else {
            return Err(f.unknown("no such combination of shape, layout and types is supported"));
        };
        if (satfinite && d_ty != S32) || (rounding && a_ty != F64) {
            return Err(f.unknown("this modifier does not go with these types"));
        }
        let a = self.fragment_rows(&f, 1, &fa, false)?;
        let b = self.fragment_rows(&f, 2, &fb, false)?;
        let c = self.fragment_rows(&f, 3, &fc, false)?;
        let d = self.fragment_rows(&f, 0, &fd, true)?;
        // Results go to rows of their own where a later part still reads what an earlier one would overwrite.
        let clash = d.iter().any(|r| a.contains(r) || b.contains(r)) || (d != c && d.iter().any(|r| c.contains(r)));
        let mut out = d.clone();
        if clash {
            for r in &mut out {
                *r = self.row(r.wide)?;
            }
        }
        let rows = m.min(16);
        let down = m / 8;
        for i in 0..m / rows {
            for j in 0..n / 8 {
                // Eight-row tiles of this part: `i * rows / 8` onwards; B and C by column tile.
                let tiles = |columns: std::ops::Range<u32>, per: u32| -> Vec<u32> {
                    let downs = i * rows / 8..(i + 1) * rows / 8;
                    columns
                        .flat_map(|t| downs.clone().map(move |r| t * down + r))
                        .flat_map(|t| (0..per).map(move |e| t * per + e))
                        .collect()
                };
                let pick = |list: &[Row], tiles: Vec<u32>| -> Vec<Row> {
                    tiles.into_iter().map(|t| list[t as usize]).collect()
                };
                let across = fa.distinct() / down;
                let deep = fb.distinct() / (n / 8);
                let per = |f: &Fragment| if f.per_reg() == 2 { 1 } else { 2 };
                let op = Mma {
                    m: rows,
                    n: 8,
                    k,
                    a_ty,
                    b_ty,
                    c_ty,
                    d_ty,
                    satfinite,
                    d: pick(&out, tiles(j..j + 1, per(&fd))),
                    a: pick(&a, tiles(0..across, 1)),
                    b: b[(j * deep) as usize..((j + 1) * deep) as usize].to_vec(),
                    c: pick(&c, tiles(j..j + 1, per(&fc))),
                };
                self.mmas.push(op);
                self.emit(Op::Mma(self.mmas.len() as u32 - 1))?;
            }
        }
        if clash {
            for (to, from) in d.into_iter().zip(out) {
                self.alu(if to.wide { Alu::Mov64 } else { Alu::Mov32 }, &[to, from])?;
            }
        }
        Ok(())
    }
}
