//! `cvt`.

use super::*;
use crate::exec::float::Round;
use crate::exec::slow::Kind;

impl Lower<'_> {
    pub(super) fn cvt(&mut self, mut f: Form) -> Res<()> {
        if f.flag("pack") {
            let kind = f.one_of(&[
                ("u16", (16, false)),
                ("s16", (16, true)),
                ("u8", (8, false)),
                ("s8", (8, true)),
                ("u4", (4, false)),
                ("s4", (4, true)),
                ("u2", (2, false)),
                ("s2", (2, true)),
            ]);
            let (Some((bits, signed)), true, true) = (kind, f.flag("sat"), f.flag("s32")) else {
                return Err(f.unknown("only .sat from .s32"));
            };
            let rest = f.flag("b32");
            f.finish()?;
            f.count(3 + usize::from(rest))?;
            let mut sources = vec![self.src(f.operand(1)?, Ty::S32)?, self.src(f.operand(2)?, Ty::S32)?];
            if rest {
                sources.push(self.src(f.operand(3)?, Ty::B32)?);
            }
            let d = self.dst(f.operand(0)?, Ty::B32)?;
            return self.lane(Spec::new(Kind::PackInt { bits, signed }, Ty::S32), d, &sources);
        }
        let integral =
            f.one_of(&[("rni", Round::Nearest), ("rzi", Round::Zero), ("rmi", Round::Down), ("rpi", Round::Up)]);
        let round = f.one_of(&[
            ("rn", Round::Nearest),
            ("rna", Round::Away),
            ("rz", Round::Zero),
            ("rm", Round::Down),
            ("rp", Round::Up),
        ]);
        let (ftz, sat, relu) = (f.flag("ftz"), f.flag("sat"), f.flag("relu"));
        if f.flag("tf32") {
            if f.ty()? != Ty::F32 || round.is_none() {
                return Err(f.unknown("tf32 comes from f32 with a rounding mode"));
            }
            f.finish()?;
            f.count(2)?;
            let a = self.src(f.operand(1)?, Ty::B32)?;
            let d = self.dst(f.operand(0)?, Ty::B32)?;
            if round == Some(Round::Away) && !relu {
                return self.alu(Alu::CvtTf32Rna, &[d, a]);
            }
            let spec = Spec { tf32: true, relu, round: round.unwrap_or(Round::Away), ..Spec::new(Kind::Cvt, Ty::F32) };
            return self.lane(spec, d, &[a]);
        }
        let (to, from) = (f.ty()?, f.ty()?);
        f.finish()?;
        if matches!(to, Ty::F16x2 | Ty::Bf16x2) {
            if from != Ty::F32 || !matches!(round, Some(Round::Nearest | Round::Zero)) {
                return Err(f.unknown("packed results come from two f32 with .rn or .rz"));
            }
            f.count(3)?;
            let (a, b) = (self.src(f.operand(1)?, from)?, self.src(f.operand(2)?, from)?);
            let d = self.dst(f.operand(0)?, to)?;
            if round == Some(Round::Nearest) && !relu {
                let alu = if to == Ty::F16x2 { Alu::CvtF16x2F32 } else { Alu::CvtBf16x2F32 };
                return self.alu(alu, &[d, a, b]);
            }
            let ty = if to == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 };
            let round = round.unwrap_or(Round::Nearest);
            return self.lane(Spec { from, relu, round, ..Spec::new(Kind::CvtPack2, ty) }, d, &[a, b]);
        }
        f.count(2)?;
        let whole = |t: Ty| matches!(t, Ty::U8 | Ty::U16 | Ty::U32 | Ty::U64 | Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64);
        let scalar = |t: Ty| whole(t) || matches!(t, Ty::F16 | Ty::Bf16 | Ty::F32 | Ty::F64);
        if !scalar(to) || !scalar(from) {
            return Err(f.unknown("there is no conversion between these types"));
        }
        let narrowing =
            to.float() && from.float() && (to.bytes() < from.bytes() || (to != from && to.bytes() == from.bytes()));
        let needs_round = narrowing || (to.float() && whole(from));
        if needs_round && round.is_none() {
            return Err(f.unknown("this conversion needs a rounding mode (.rn, .rz, .rm or .rp)"));
        }
        if from.float() && whole(to) && integral.is_none() {
            return Err(f.unknown("float to integer needs an integer rounding mode (.rzi, .rni, .rmi or .rpi)"));
        }
        if relu && !matches!(to, Ty::F16 | Ty::Bf16) {
            return Err(f.unknown(".relu belongs to f16, bf16 and tf32 results"));
        }
        // Registers wider than the type may hold either side.
        let a = self.any_src(f.operand(1)?, from)?;
        if a.wide != (from.bytes() == 8) && (from.float() || from.bytes() == 8) {
            return self.err("the source register does not fit the source type");
        }
        let (d, bits) = self.any_dst(f.operand(0)?, to)?;
        if u32::from(d.wide) * 64 < 8 * to.bytes() && to.bytes() == 8 {
            return self.err("the destination register does not fit the destination type");
        }
        if to.float() && d.wide != (to.bytes() == 8) {
            return self.err("the destination register does not fit the destination type");
        }
        if whole(to) && whole(from) && !sat {
            return self.resize(to, from, d, bits, a);
        }
        let fast = if ftz || sat || relu {
            None
        } else {
            match (to, from, round, integral) {
                (Ty::F32, Ty::S32, Some(Round::Nearest), _) => Some(Alu::CvtF32S32),
                (Ty::F32, Ty::U32, Some(Round::Nearest), _) => Some(Alu::CvtF32U32),
                (Ty::S32, Ty::F32, _, Some(Round::Zero)) => Some(Alu::CvtS32F32Rz),
                (Ty::U32, Ty::F32, _, Some(Round::Zero)) => Some(Alu::CvtU32F32Rz),
                (Ty::F64, Ty::F32, _, None) => Some(Alu::CvtF64F32),
                (Ty::F32, Ty::F64, Some(Round::Nearest), _) => Some(Alu::CvtF32F64),
                (Ty::F64, Ty::S32, _, _) => Some(Alu::CvtF64S32),
                (Ty::F32, Ty::F16, _, None) => Some(Alu::CvtF32F16),
                (Ty::F16, Ty::F32, Some(Round::Nearest), None) => Some(Alu::CvtF16F32),
                (Ty::F32, Ty::Bf16, _, None) => Some(Alu::CvtF32Bf16),
                (Ty::Bf16, Ty::F32, Some(Round::Nearest), None) => Some(Alu::CvtBf16F32),
                _ => None,
            }
        };
        if let Some(alu) = fast
            && a.wide == (from.bytes() == 8)
            && d.wide == (to.bytes() == 8)
        {
            return self.alu(alu, &[d, a]);
        }
        let round = integral.or(round).unwrap_or(Round::Nearest);
        let spec = Spec { from, round, integral: integral.is_some(), ftz, sat, relu, ..Spec::new(Kind::Cvt, to) };
        self.lane(spec, d, &[a])?;
        self.extend_in_place(to, d, bits)
    }

    /// A signed result in a wider register is sign-extended to it.
    fn extend_in_place(&mut self, to: Ty, d: Row, bits: u32) -> Res<()> {
        if !to.signed() || bits <= 8 * to.bytes() {
            return Ok(());
        }
        let mut row = d;
        if d.wide {
            row = self.row(false)?;
            self.alu(Alu::Low32, &[row, d])?;
        }
        match to {
            Ty::S8 => self.alu(Alu::SignS8, &[row, row])?,
            Ty::S16 => self.alu(Alu::SignS16, &[row, row])?,
            _ => {}
        }
        if d.wide {
            self.alu(Alu::WidenS32, &[d, row])?;
        } else if bits == 16 {
            self.alu(Alu::Low16, &[d, d])?;
        }
        Ok(())
    }

    /// Integer to integer without saturation: cut or extend.
    fn resize(&mut self, to: Ty, from: Ty, d: Row, bits: u32, a: Row) -> Res<()> {
        match (to.bytes(), from.bytes()) {
            (8, 8) => return self.alu(Alu::Mov64, &[d, a]),
            (8, 4) if !a.wide => {
                return self.alu(if from.signed() { Alu::WidenS32 } else { Alu::Widen32 }, &[d, a]);
            }
            (4, 8) if !d.wide => return self.alu(Alu::Low32, &[d, a]),
            (4, 4) if !d.wide && !a.wide => return self.alu(Alu::Mov32, &[d, a]),
            _ => {}
        }
        // Through a 32-bit row: the value of the source type, then cut to the destination type.
        let mut v = a;
        if a.wide {
            v = self.row(false)?;
            self.alu(Alu::Low32, &[v, a])?;
        }
        let steps = [
            match from {
                Ty::U8 => Some(Alu::Low8),
                Ty::S8 => Some(Alu::SignS8),
                Ty::U16 => Some(Alu::Low16),
                Ty::S16 => Some(Alu::SignS16),
                _ => None,
            },
            match to {
                Ty::U8 => Some(Alu::Low8),
                Ty::S8 => Some(Alu::SignS8),
                Ty::U16 => Some(Alu::Low16),
                Ty::S16 => Some(Alu::SignS16),
                _ => None,
            },
            if bits == 16 { Some(Alu::Low16) } else { None },
        ];
        let steps: Vec<Alu> = steps.into_iter().flatten().collect();
        if !d.wide {
            if steps.is_empty() {
                return self.alu(Alu::Mov32, &[d, v]);
            }
            for alu in steps {
                self.alu(alu, &[d, v])?;
                v = d;
            }
            return Ok(());
        }
        let t = self.row(false)?;
        for alu in steps {
            self.alu(alu, &[t, v])?;
            v = t;
        }
        let signed = if to.bytes() == 8 { from.signed() } else { to.signed() };
        self.alu(if signed { Alu::WidenS32 } else { Alu::Widen32 }, &[d, v])
    }
}
