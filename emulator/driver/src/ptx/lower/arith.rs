//! Arithmetic, logic and comparison.

use super::*;
use crate::exec::float::Round;
use crate::exec::slow::{Kind, Rel, Test};

const ROUNDS: [(&str, Round); 4] =
    [("rn", Round::Nearest), ("rz", Round::Zero), ("rm", Round::Down), ("rp", Round::Up)];

const RELS: [(&str, Rel); 18] = [
    ("eq", Rel::Eq),
    ("ne", Rel::Ne),
    ("lt", Rel::Lt),
    ("le", Rel::Le),
    ("gt", Rel::Gt),
    ("ge", Rel::Ge),
    ("lo", Rel::Lt),
    ("ls", Rel::Le),
    ("hi", Rel::Gt),
    ("hs", Rel::Ge),
    ("equ", Rel::Equ),
    ("neu", Rel::Neu),
    ("ltu", Rel::Ltu),
    ("leu", Rel::Leu),
    ("gtu", Rel::Gtu),
    ("geu", Rel::Geu),
    ("num", Rel::Num),
    ("nan", Rel::Nan),
];

/// The entry for the width or type of an integer operation: 16, 32, 64 bits, unsigned then signed.
fn pick(ty: Ty, unsigned: [Alu; 3], signed: [Alu; 3]) -> Option<Alu> {
    let table = if ty.signed() { signed } else { unsigned };
    match ty {
        Ty::U16 | Ty::S16 | Ty::B16 => Some(table[0]),
        Ty::U32 | Ty::S32 | Ty::B32 => Some(table[1]),
        Ty::U64 | Ty::S64 | Ty::B64 => Some(table[2]),
        _ => None,
    }
}

impl Lower<'_> {
    /// d, then the sources in order, all of one type; then the operation.
    fn vector(&mut self, f: &Form, ty: Ty, sources: usize, alu: Alu) -> Res<()> {
        f.finish()?;
        f.count(sources + 1)?;
        let mut rows = Vec::with_capacity(4);
        for i in 1..=sources {
            rows.push(self.src(f.operand(i)?, ty)?);
        }
        let d = self.dst(f.operand(0)?, ty)?;
        rows.insert(0, d);
        self.alu(alu, &rows)
    }

    /// The same with explicit types: destination first.
    fn mixed(&mut self, f: &Form, types: &[Ty], alu: Alu) -> Res<()> {
        f.finish()?;
        f.count(types.len())?;
        let mut rows = Vec::with_capacity(5);
        for (i, &ty) in types.iter().enumerate().skip(1) {
            rows.push(self.src(f.operand(i)?, ty)?);
        }
        let d = self.dst(f.operand(0)?, types[0])?;
        rows.insert(0, d);
        self.alu(alu, &rows)
    }

    fn slow(&mut self, f: &Form, spec: Spec, sources: usize) -> Res<()> {
        f.finish()?;
        f.count(sources + 1)?;
        let mut rows = Vec::with_capacity(3);
        for i in 1..=sources {
            rows.push(self.src(f.operand(i)?, spec.ty)?);
        }
        let d = self.dst(f.operand(0)?, spec.ty)?;
        self.lane(spec, d, &rows)
    }

    pub(super) fn arith(&mut self, mut f: Form) -> Res<()> {
        let base = f.base();
        match base {
            "setp" | "set" => return self.setp(f),
            "selp" => {
                let ty = f.ty()?;
                f.finish()?;
                f.count(4)?;
                let (a, b) = (self.src(f.operand(1)?, ty)?, self.src(f.operand(2)?, ty)?);
                let p = self.pred(f.operand(3)?)?;
                let d = self.dst(f.operand(0)?, ty)?;
                return self.emit(Op::Selp { d: d.at, a: a.at, b: b.at, p, wide: d.wide });
            }
            "slct" => {
                let ftz = f.flag("ftz");
                let (ty, from) = (f.ty()?, f.ty()?);
                f.finish()?;
                f.count(4)?;
                let rows = [self.src(f.operand(1)?, ty)?, self.src(f.operand(2)?, ty)?, self.src(f.operand(3)?, from)?];
                let d = self.dst(f.operand(0)?, ty)?;
                return self.lane(Spec { from, ftz, ..Spec::new(Kind::Slct, ty) }, d, &rows);
            }
            "testp" => {
                let tests = [
                    ("finite", Test::Finite),
                    ("infinite", Test::Infinite),
                    ("number", Test::Number),
                    ("notanumber", Test::NotANumber),
                    ("normal", Test::Normal),
                    ("subnormal", Test::Subnormal),
                ];
                let Some(test) = f.one_of(&tests) else { return Err(f.unknown("it names no class of numbers")) };
                let ty = f.ty()?;
                f.finish()?;
                f.count(2)?;
                let a = self.src(f.operand(1)?, ty)?;
                let Operand::Name(name, 0) = f.operand(0)? else { return Err(f.unknown("it needs a predicate")) };
                let d = self.pred_name(name)?;
                let spec = self.spec(Spec::new(Kind::Testp(test), ty));
                return self.emit(Op::SetpLane { spec, a, b: a, d, q: NONE, combine: Combine::None });
            }
            "vabsdiff2" | "vabsdiff4" => {
                // The video instructions that nvcc emits (`__vabsdiffu4`, `__vsadu2`, …): no masks, no saturation.
                let types = [f.ty()?, f.ty()?, f.ty()?];
                if types != [Ty::U32; 3] {
                    return Err(f.unknown("only .u32.u32.u32"));
                }
                let alu = match (base, f.flag("add")) {
                    ("vabsdiff2", false) => Alu::AbsDiff2,
                    ("vabsdiff2", true) => Alu::AbsDiffAdd2,
                    (_, false) => Alu::AbsDiff4,
                    (_, true) => Alu::AbsDiffAdd4,
                };
                return self.vector(&f, Ty::U32, 3, alu);
            }
            "dp4a" | "dp2a" => {
                let high = f.flag("hi");
                let low = f.flag("lo");
                let (a, b) = (f.ty()?, f.ty()?);
                if (base == "dp2a") != (high != low) {
                    return Err(f.unknown("dp2a takes .lo or .hi, dp4a neither"));
                }
                let alu = match (base, high, a.signed(), b.signed()) {
                    ("dp4a", _, false, false) => Alu::Dp4aUU,
                    ("dp4a", _, false, true) => Alu::Dp4aUS,
                    ("dp4a", _, true, false) => Alu::Dp4aSU,
                    ("dp4a", _, true, true) => Alu::Dp4aSS,
                    (_, false, false, false) => Alu::Dp2aLoUU,
                    (_, false, false, true) => Alu::Dp2aLoUS,
                    (_, false, true, false) => Alu::Dp2aLoSU,
                    (_, false, true, true) => Alu::Dp2aLoSS,
                    (_, true, false, false) => Alu::Dp2aHiUU,
                    (_, true, false, true) => Alu::Dp2aHiUS,
                    (_, true, true, false) => Alu::Dp2aHiSU,
                    (_, true, true, true) => Alu::Dp2aHiSS,
                };
                return self.vector(&f, Ty::U32, 3, alu);
            }
            _ => {}
        }
        // Everything else: modifiers, then one type.
        let (hi, lo, wide) = (f.flag("hi"), f.flag("lo"), f.flag("wide"));
        let (cc, sat, ftz) = (f.flag("cc"), f.flag("sat"), f.flag("ftz"));
        let (clamp, wrap) = (f.flag("clamp"), f.flag("wrap"));
        let round = f.one_of(&ROUNDS);
        let (approx, full) = (f.flag("approx"), f.flag("full"));
        let (nan, xorsign, relu) = (f.flag("NaN"), f.flag("xorsign"), f.flag("relu"));
        let abs = xorsign && f.flag("abs");
        if xorsign && !abs {
            return Err(f.unknown(".xorsign goes with .abs"));
        }
        let shift_amount = f.flag("shiftamt");
        let (left, right) = (base == "shf" && f.flag("l"), base == "shf" && f.flag("r"));
        let prmt_mode = if base == "prmt" {
            f.one_of(&[
                ("f4e", Alu::PrmtF4e),
                ("b4e", Alu::PrmtB4e),
                ("rc8", Alu::PrmtRc8),
                ("ecl", Alu::PrmtEcl),
                ("ecr", Alu::PrmtEcr),
                ("rc16", Alu::PrmtRc16),
            ])
        } else {
            None
        };
        let ty = f.ty()?;
        if ty == Ty::Pred {
            return self.logic(f);
        }
        let plain = !sat && !ftz && !nan && !xorsign && !relu && !cc;
        let nearest = round.is_none_or(|r| r == Round::Nearest);
        let spec =
            |kind| Spec { round: round.unwrap_or(Round::Nearest), ftz, sat, nan, xorsign, relu, ..Spec::new(kind, ty) };
        let bad = |f: &Form, why: &str| Err(f.unknown(why));

        if ty.float() {
            let vector = nearest && !sat && !nan && !xorsign && !relu && !cc;
            let fast = |f32_: Alu, ftz_: Alu, f64_: Alu| match ty {
                Ty::F32 if vector && ftz => Some(ftz_),
                Ty::F32 if vector => Some(f32_),
                Ty::F64 if vector && !ftz => Some(f64_),
                _ => None,
            };
            let (kind, n, alu) = match base {
                "add" => (Kind::Add, 2, fast(Alu::AddF32, Alu::AddFtzF32, Alu::AddF64)),
                "sub" => (Kind::Sub, 2, fast(Alu::SubF32, Alu::SubFtzF32, Alu::SubF64)),
                "mul" => (Kind::Mul, 2, fast(Alu::MulF32, Alu::MulFtzF32, Alu::MulF64)),
                "fma" | "mad" => (Kind::Fma, 3, fast(Alu::FmaF32, Alu::FmaFtzF32, Alu::FmaF64)),
                "min" => (Kind::Min, 2, fast(Alu::MinF32, Alu::MinFtzF32, Alu::MinF64)),
                "max" => (Kind::Max, 2, fast(Alu::MaxF32, Alu::MaxFtzF32, Alu::MaxF64)),
                "neg" => (
                    Kind::Neg,
                    1,
                    match ty {
                        Ty::F16 | Ty::Bf16 if plain => Some(Alu::Neg16F),
                        Ty::F16x2 | Ty::Bf16x2 if plain => Some(Alu::Neg16x2F),
                        _ => fast(Alu::NegF32, Alu::NegFtzF32, Alu::NegF64),
                    },
                ),
                "abs" => (
                    Kind::Abs,
                    1,
                    match ty {
                        Ty::F16 | Ty::Bf16 if plain => Some(Alu::Abs16F),
                        Ty::F16x2 | Ty::Bf16x2 if plain => Some(Alu::Abs16x2F),
                        _ => fast(Alu::AbsF32, Alu::AbsFtzF32, Alu::AbsF64),
                    },
                ),
                // The quotients and roots of the approximate forms are correctly rounded here, inside their bounds.
                "div" => (Kind::Div, 2, fast(Alu::DivF32, Alu::DivFtzF32, Alu::DivF64)),
                "rcp" => (Kind::Rcp, 1, fast(Alu::RcpF32, Alu::RcpFtzF32, Alu::RcpF64)),
                "sqrt" => (Kind::Sqrt, 1, fast(Alu::SqrtF32, Alu::SqrtFtzF32, Alu::SqrtF64)),
                "rsqrt" if approx && ty == Ty::F64 => {
                    (Kind::Rcp, 1, Some(if ftz { Alu::RsqrtGrossF64 } else { Alu::RsqrtF64 }))
                }
                "rsqrt" if approx => (Kind::Rcp, 1, fast(Alu::RsqrtF32, Alu::RsqrtFtzF32, Alu::RsqrtF64)),
                "sin" | "cos" | "lg2" | "tanh" | "ex2" if approx && ty == Ty::F32 => {
                    let alu = match base {
                        "sin" => fast(Alu::SinF32, Alu::SinFtzF32, Alu::SinF32),
                        "cos" => fast(Alu::CosF32, Alu::CosFtzF32, Alu::CosF32),
                        "lg2" => fast(Alu::Lg2F32, Alu::Lg2FtzF32, Alu::Lg2F32),
                        "ex2" => fast(Alu::Ex2F32, Alu::Ex2FtzF32, Alu::Ex2F32),
                        _ if ftz => None,
                        _ => Some(Alu::TanhF32),
                    };
                    if alu.is_none() {
                        return bad(&f, "this combination of modifiers is not defined");
                    }
                    (Kind::Neg, 1, alu)
                }
                "tanh" if approx => (Kind::Tanh, 1, None),
                "ex2" if approx => (Kind::Ex2, 1, None),
                "copysign" if matches!(ty, Ty::F32 | Ty::F64) => (Kind::CopySign, 2, None),
                _ => return bad(&f, "there is no such operation on floats"),
            };
            let rounded = matches!(base, "div" | "rcp" | "sqrt");
            if rounded && !approx && !full && round.is_none() {
                return bad(&f, "it needs a rounding mode or .approx");
            }
            if hi || lo || wide || cc || clamp || wrap || shift_amount {
                return bad(&f, "an integer modifier on a float operation");
            }
            let alu = if ty == Ty::F64 && approx && ftz && base == "rcp" { Some(Alu::RcpGrossF64) } else { alu };
            return match alu {
                Some(alu) => self.vector(&f, ty, n, alu),
                None => self.slow(&f, spec(kind), n),
            };
        }
        if round.is_some() || ftz || nan || approx || full || relu || xorsign {
            return bad(&f, "a float modifier on an integer operation");
        }
        use Alu::*;
        // Carry chains.
        let carries = cc || matches!(base, "addc" | "subc" | "madc");
        if carries {
            let carry_in = base.ends_with('c') && base != "mad";
            if !matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64 | Ty::B32 | Ty::B64) || sat || wide {
                return bad(&f, "carries exist for 32 and 64 bits");
            }
            f.finish()?;
            let mad = base.starts_with("mad");
            f.count(if mad { 4 } else { 3 })?;
            let (a, b) = (self.src(f.operand(1)?, ty)?, self.src(f.operand(2)?, ty)?);
            if mad {
                let c = self.src(f.operand(3)?, ty)?;
                let d = self.dst(f.operand(0)?, ty)?;
                let signed = ty.signed();
                return self.emit(Op::MadCarry { d, a, b, c, high: hi, signed, carry_in, carry_out: cc });
            }
            let d = self.dst(f.operand(0)?, ty)?;
            return self.emit(Op::Carry { d, a, b, subtract: base.starts_with("sub"), carry_in, carry_out: cc });
        }
        if sat {
            let alu = match (base, ty) {
                ("add", Ty::S32) => AddSatS32,
                ("sub", Ty::S32) => SubSatS32,
                ("mad", Ty::S32) if hi => return self.vector(&f, ty, 3, MadHiSatS32),
                ("mad24", Ty::S32) if hi => return self.vector(&f, ty, 3, Mad24HiSatS),
                _ => return bad(&f, ".sat exists for s32 add, sub and mad.hi"),
            };
            return self.vector(&f, ty, 2, alu);
        }
        let double = match ty {
            Ty::U16 => Ty::U32,
            Ty::S16 => Ty::S32,
            Ty::U32 => Ty::U64,
            _ => Ty::S64,
        };
        let alu = match base {
            "add" => pick(ty, [Add16, Add32, Add64], [Add16, Add32, Add64]).map(|a| (a, 2)),
            "sub" => pick(ty, [Sub16, Sub32, Sub64], [Sub16, Sub32, Sub64]).map(|a| (a, 2)),
            "mul" if wide => {
                let alu = match ty {
                    Ty::U16 => MulWideU16,
                    Ty::S16 => MulWideS16,
                    Ty::U32 => MulWideU32,
                    Ty::S32 => MulWideS32,
                    _ => return bad(&f, ".wide exists for 16 and 32 bits"),
                };
                return self.mixed(&f, &[double, ty, ty], alu);
            }
            "mul" if hi => pick(ty, [MulHiU16, MulHiU32, MulHiU64], [MulHiS16, MulHiS32, MulHiS64]).map(|a| (a, 2)),
            "mul" if lo => pick(ty, [MulLo16, MulLo32, MulLo64], [MulLo16, MulLo32, MulLo64]).map(|a| (a, 2)),
            "mad" if wide => {
                let alu = match ty {
                    Ty::U16 => MadWideU16,
                    Ty::S16 => MadWideS16,
                    Ty::U32 => MadWideU32,
                    Ty::S32 => MadWideS32,
                    _ => return bad(&f, ".wide exists for 16 and 32 bits"),
                };
                return self.mixed(&f, &[double, ty, ty, double], alu);
            }
            "mad" if hi => pick(ty, [MadHiU16, MadHiU32, MadHiU64], [MadHiS16, MadHiS32, MadHiS64]).map(|a| (a, 3)),
            "mad" if lo => pick(ty, [MadLo16, MadLo32, MadLo64], [MadLo16, MadLo32, MadLo64]).map(|a| (a, 3)),
            "mul24" | "mad24" if matches!(ty, Ty::U32 | Ty::S32) && hi != lo => {
                let n = if base == "mul24" { 2 } else { 3 };
                let alu = match (base, hi, ty.signed()) {
                    ("mul24", false, false) => Mul24LoU,
                    ("mul24", false, true) => Mul24LoS,
                    ("mul24", true, false) => Mul24HiU,
                    ("mul24", true, true) => Mul24HiS,
                    (_, false, false) => Mad24LoU,
                    (_, false, true) => Mad24LoS,
                    (_, true, false) => Mad24HiU,
                    (_, true, true) => Mad24HiS,
                };
                Some((alu, n))
            }
            "sad" => pick(ty, [SadU16, SadU32, SadU64], [SadS16, SadS32, SadS64]).map(|a| (a, 3)),
            "div" => pick(ty, [DivU16, DivU32, DivU64], [DivS16, DivS32, DivS64]).map(|a| (a, 2)),
            "rem" => pick(ty, [RemU16, RemU32, RemU64], [RemS16, RemS32, RemS64]).map(|a| (a, 2)),
            "min" => pick(ty, [MinU16, MinU32, MinU64], [MinS16, MinS32, MinS64]).map(|a| (a, 2)),
            "max" => pick(ty, [MaxU16, MaxU32, MaxU64], [MaxS16, MaxS32, MaxS64]).map(|a| (a, 2)),
            "abs" if ty.signed() => pick(ty, [AbsS16, AbsS32, AbsS64], [AbsS16, AbsS32, AbsS64]).map(|a| (a, 1)),
            "neg" if ty.signed() => pick(ty, [Neg16, Neg32, Neg64], [Neg16, Neg32, Neg64]).map(|a| (a, 1)),
            "and" => pick(ty, [And32, And32, And64], [And32, And32, And64]).map(|a| (a, 2)),
            "or" => pick(ty, [Or32, Or32, Or64], [Or32, Or32, Or64]).map(|a| (a, 2)),
            "xor" => pick(ty, [Xor32, Xor32, Xor64], [Xor32, Xor32, Xor64]).map(|a| (a, 2)),
            "not" => pick(ty, [Not16, Not32, Not64], [Not16, Not32, Not64]).map(|a| (a, 1)),
            "cnot" => pick(ty, [Cnot16, Cnot32, Cnot64], [Cnot16, Cnot32, Cnot64]).map(|a| (a, 1)),
            "lop3" if ty == Ty::B32 => Some((Lop3, 4)),
            "prmt" if ty == Ty::B32 => Some((prmt_mode.unwrap_or(Prmt), 3)),
            "shf" if ty == Ty::B32 && left != right && clamp != wrap => Some((
                match (left, clamp) {
                    (true, true) => ShfLClamp,
                    (true, false) => ShfLWrap,
                    (false, true) => ShfRClamp,
                    (false, false) => ShfRWrap,
                },
                3,
            )),
            "shl" | "shr" => {
                let alu = if base == "shl" {
                    pick(ty, [Shl16, Shl32, Shl64], [Shl16, Shl32, Shl64])
                } else {
                    pick(ty, [ShrU16, ShrU32, ShrU64], [ShrS16, ShrS32, ShrS64])
                };
                let Some(alu) = alu else { return bad(&f, "shifts exist for 16, 32 and 64 bits") };
                return self.mixed(&f, &[ty, ty, Ty::U32], alu);
            }
            "popc" | "clz" => {
                let alu = match (base, ty) {
                    ("popc", Ty::B32) => Popc32,
                    ("popc", Ty::B64) => Popc64,
                    ("clz", Ty::B32) => Clz32,
                    ("clz", Ty::B64) => Clz64,
                    _ => return bad(&f, "it exists for b32 and b64"),
                };
                return self.mixed(&f, &[Ty::U32, ty], alu);
            }
            "brev" if matches!(ty, Ty::B32 | Ty::B64) => Some((if ty == Ty::B32 { Brev32 } else { Brev64 }, 1)),
            "bfind" => {
                let alu = match (ty, shift_amount) {
                    (Ty::U32, false) => BfindU32,
                    (Ty::S32, false) => BfindS32,
                    (Ty::U64, false) => BfindU64,
                    (Ty::S64, false) => BfindS64,
                    (Ty::U32, true) => BfindShiftU32,
                    (Ty::S32, true) => BfindShiftS32,
                    (Ty::U64, true) => BfindShiftU64,
                    (Ty::S64, true) => BfindShiftS64,
                    _ => return bad(&f, "it exists for 32 and 64 bits"),
                };
                return self.mixed(&f, &[Ty::U32, ty], alu);
            }
            "bfe" => {
                let alu = match ty {
                    Ty::U32 => BfeU32,
                    Ty::S32 => BfeS32,
                    Ty::U64 => BfeU64,
                    Ty::S64 => BfeS64,
                    _ => return bad(&f, "it exists for 32 and 64 bits"),
                };
                return self.mixed(&f, &[ty, ty, Ty::U32, Ty::U32], alu);
            }
            "bfi" => {
                let alu = match ty {
                    Ty::B32 => Bfi32,
                    Ty::B64 => Bfi64,
                    _ => return bad(&f, "it exists for b32 and b64"),
                };
                return self.mixed(&f, &[ty, ty, ty, Ty::U32, Ty::U32], alu);
            }
            "fns" if ty == Ty::B32 => Some((Fns, 3)),
            "bmsk" if ty == Ty::B32 && clamp != wrap => Some((if clamp { BmskClamp } else { BmskWrap }, 2)),
            "szext" if matches!(ty, Ty::U32 | Ty::S32) && clamp != wrap => Some((
                match (clamp, ty.signed()) {
                    (true, false) => SzextClampU,
                    (true, true) => SzextClampS,
                    (false, false) => SzextWrapU,
                    (false, true) => SzextWrapS,
                },
                2,
            )),
            _ => None,
        };
        match alu {
            Some((alu, n)) => self.vector(&f, ty, n, alu),
            None => bad(&f, "there is no such operation on this type"),
        }
    }

    /// `and.pred` and its kin.
    fn logic(&mut self, f: Form) -> Res<()> {
        f.finish()?;
        let (op, n) = match f.base() {
            "and" => (Logic::And, 3),
            "or" => (Logic::Or, 3),
            "xor" => (Logic::Xor, 3),
            "not" => (Logic::Not, 2),
            _ => return Err(f.unknown("there is no such operation on predicates")),
        };
        f.count(n)?;
        let a = self.pred(f.operand(1)?)?;
        let b = if n == 3 { self.pred(f.operand(2)?)? } else { a };
        let Operand::Name(name, 0) = f.operand(0)? else { return Err(f.unknown("it needs a predicate to write")) };
        let d = self.pred_name(name)?;
        self.emit(Op::Logic { f: op, d, a, b })
    }

    fn setp(&mut self, mut f: Form) -> Res<()> {
        let set = f.base() == "set";
        let mut rel = None;
        let mut lower_unsigned = false;
        for (name, r) in RELS {
            if f.flag(name) {
                rel = Some(r);
                lower_unsigned = matches!(name, "lo" | "ls" | "hi" | "hs");
                break;
            }
        }
        let Some(rel) = rel else { return Err(f.unknown("it names no comparison")) };
        let boolean = f.one_of(&[("and", 0), ("or", 1), ("xor", 2)]);
        let ftz = f.flag("ftz");
        let dty = if set { Some(f.ty()?) } else { None };
        let ty = f.ty()?;
        f.finish()?;
        f.count(3 + usize::from(boolean.is_some()))?;
        if lower_unsigned && !matches!(ty, Ty::U16 | Ty::U32 | Ty::U64) {
            return Err(f.unknown("lo, ls, hi and hs compare unsigned integers"));
        }
        if matches!(ty, Ty::Pred | Ty::B8 | Ty::U8 | Ty::S8 | Ty::B128) {
            return Err(f.unknown("there is no comparison of this type"));
        }
        let packed = matches!(ty, Ty::F16x2 | Ty::Bf16x2);
        // The halves of a packed operand are compared as what they are.
        let half = match ty {
            Ty::F16x2 => Ty::F16,
            Ty::Bf16x2 => Ty::Bf16,
            t => t,
        };
        let (a, b) = (self.src(f.operand(1)?, ty)?, self.src(f.operand(2)?, ty)?);
        let combine = match boolean {
            None => Combine::None,
            Some(op) => {
                let c = self.pred(f.operand(3)?)?;
                [Combine::And(c), Combine::Or(c), Combine::Xor(c)][op]
            }
        };
        if let Some(dty) = dty {
            let d = self.dst(f.operand(0)?, dty)?;
            let narrow = matches!(ty, Ty::F16 | Ty::Bf16);
            let one = match dty {
                Ty::U32 | Ty::S32 if !packed => u64::from(u32::MAX),
                Ty::F32 if !packed => u64::from(1f32.to_bits()),
                Ty::U16 | Ty::S16 if narrow => 0xffff,
                Ty::F16 if !packed => 0x3c00,
                Ty::Bf16 if ty == Ty::Bf16 => 0x3f80,
                Ty::U32 | Ty::S32 => 0xffff,
                Ty::F16x2 if ty == Ty::F16x2 => 0x3c00,
                Ty::Bf16x2 if ty == Ty::Bf16x2 => 0x3f80,
                _ => return Err(f.unknown("this result type does not go with this operand type")),
            };
            let spec = self.spec(Spec { ftz, ..Spec::new(Kind::Compare(rel), half) });
            if packed {
                // Low halves, high halves, and both together.
                let (x, y) = (self.row(false)?, self.row(false)?);
                let (low, high) = (self.row(false)?, self.row(false)?);
                for (part, to) in [(Alu::Low16, low), (Alu::High16, high)] {
                    self.alu(part, &[x, a])?;
                    self.alu(part, &[y, b])?;
                    self.emit(Op::Set { spec, a: x, b: y, d: to, one, combine })?;
                }
                return self.alu(Alu::Pack32, &[d, low, high]);
            }
            return self.emit(Op::Set { spec, a, b, d, one, combine });
        }
        let (d, q) = match f.operand(0)? {
            Operand::Name(p, 0) => (self.pred_name(p)?, NONE),
            Operand::Pair(p, q) => (self.pred_name(p)?, self.pred_name(q)?),
            Operand::Sink => (NONE, NONE),
            o => return self.err(format!("operand `{o}` where a predicate is expected")),
        };
        if q != NONE && matches!(ty, Ty::F16 | Ty::Bf16) {
            return Err(f.unknown("a comparison of halves writes one predicate"));
        }
        if packed {
            // `p|q` are the results of the low and the high halves.
            let spec = self.spec(Spec { ftz, ..Spec::new(Kind::Compare(rel), half) });
            let (x, y) = (self.row(false)?, self.row(false)?);
            let (u, v) = (self.row(false)?, self.row(false)?);
            for (part, [x, y]) in [(Alu::Low16, [x, y]), (Alu::High16, [u, v])] {
                self.alu(part, &[x, a])?;
                self.alu(part, &[y, b])?;
            }
            // The third predicate may be one of the two that are written.
            let low = self.preds;
            self.preds += 1;
            self.emit(Op::SetpLane { spec, a: x, b: y, d: low, q: NONE, combine })?;
            self.emit(Op::SetpLane { spec, a: u, b: v, d: q, q: NONE, combine })?;
            let p = Pred { at: low, not: false };
            return self.emit(Op::Logic { f: Logic::Mov, d, a: p, b: p });
        }
        let (form, swap) = swapped(rel);
        if !ftz && let Some(cmp) = compare_form(form, ty) {
            let cmp = cmp.resolve(self.level);
            return self.emit(Op::Setp { f: cmp, a: a.at, b: b.at, swap, d, q, combine });
        }
        let spec = self.spec(Spec { ftz, ..Spec::new(Kind::Compare(rel), ty) });
        self.emit(Op::SetpLane { spec, a, b, d, q, combine })
    }
}
