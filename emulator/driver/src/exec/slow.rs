//! Lane-by-lane operations: every conversion, every rounding mode, saturation, half precision, and whatever is too rare
//! to deserve a vector loop. One call computes one lane from bits to bits.

use super::alu::{max_f64, min_f64};
use super::float::*;
use super::math;
use crate::ptx::ast::Ty;

/// What a lane operation computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Kind {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Sqrt,
    Rcp,
    Min,
    Max,
    Neg,
    Abs,
    Tanh,
    Ex2,
    /// `cvt` from `from` to `ty`.
    Cvt,
    /// `cvt.…x2` of two f32 sources.
    CvtPack2,
    /// `cvt.pack`: two saturated integers of so many bits, then the third operand.
    PackInt {
        bits: u32,
        signed: bool,
    },
    CopySign,
    Testp(Test),
    /// Comparison; the result is 0 or 1.
    Compare(Rel),
    /// `slct`: c >= 0 ? a : b; `from` is the type of c.
    Slct,
}

/// `testp` classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Test {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

/// Relations of `setp` and `set`; those ending in `u` also hold when an operand is NaN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Rel {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// A lane operation with its types and modifiers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spec {
    /// What to compute.
    pub kind: Kind,
    /// Type of the result (of the operands, for comparisons).
    pub ty: Ty,
    /// Source type of conversions.
    pub from: Ty,
    /// Rounding of the result.
    pub round: Round,
    /// Rounding to an integer value before anything else (`cvt.rni` and its kin).
    pub integral: bool,
    /// Flush subnormal inputs and results.
    pub ftz: bool,
    /// Saturate to [0, 1] (floats) or to the range of the type (integers).
    pub sat: bool,
    /// Negative results become 0.
    pub relu: bool,
    /// `min`/`max`: NaN wins.
    pub nan: bool,
    /// `min`/`max`: of magnitudes, with the exclusive-or of the signs.
    pub xorsign: bool,
    /// The result is rounded to tf32.
    pub tf32: bool,
}

impl Spec {
    /// An operation of one type without modifiers.
    pub fn new(kind: Kind, ty: Ty) -> Spec {
        Spec {
            kind,
            ty,
            from: ty,
            round: Round::Nearest,
            integral: false,
            ftz: false,
            sat: false,
            relu: false,
            nan: false,
            xorsign: false,
            tf32: false,
        }
    }

    /// Computes one lane.
    pub fn eval(&self, a: u64, b: u64, c: u64) -> u64 {
        match self.kind {
            Kind::Cvt => return self.convert(a),
            Kind::CvtPack2 => {
                let one = Spec { kind: Kind::Cvt, ..*self };
                return (one.convert(a) & 0xffff) << 16 | (one.convert(b) & 0xffff);
            }
            Kind::Compare(rel) => return u64::from(self.compare(rel, a, b)),
            Kind::Slct => {
                let ge = if self.from == Ty::F32 {
                    let v = f32::from_bits(c as u32);
                    (if self.ftz { flush(v) } else { v }) >= 0.0
                } else {
                    c as i32 >= 0
                };
                return if ge { a } else { b };
            }
            Kind::PackInt { bits, signed } => {
                let (low, high) =
                    if signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1i32 << bits) - 1) };
                let part = |v: u64| (v as u32 as i32).clamp(low, high) as u32 & ((1 << bits) - 1);
                let both = part(a) << bits | part(b);
                return u64::from(if bits < 16 { both | (c as u32) << (2 * bits) } else { both });
            }
            Kind::Testp(test) => return u64::from(self.testp(test, a)),
            Kind::CopySign => {
                let bit = 1u64 << (8 * self.ty.bytes() - 1);
                return (b & !bit) | (a & bit);
            }
            _ => {}
        }
        match self.ty {
            Ty::F16x2 | Ty::Bf16x2 => {
                let half = Spec { ty: if self.ty == Ty::F16x2 { Ty::F16 } else { Ty::Bf16 }, ..*self };
                let low = half.eval(a & 0xffff, b & 0xffff, c & 0xffff);
                low | half.eval(a >> 16 & 0xffff, b >> 16 & 0xffff, c >> 16 & 0xffff) << 16
            }
            Ty::F64 => self.eval64(f64::from_bits(a), f64::from_bits(b), f64::from_bits(c)),
            _ => self.eval_narrow(a, b, c),
        }
    }

    fn eval64(&self, a: f64, b: f64, c: f64) -> u64 {
        let r = match self.kind {
            Kind::Add => add64(a, b, self.round),
            Kind::Sub => add64(a, -b, self.round),
            Kind::Mul => mul64(a, b, self.round),
            Kind::Fma => fma64(a, b, c, self.round),
            Kind::Div => div64(a, b, self.round),
            Kind::Sqrt => sqrt64(a, self.round),
            Kind::Rcp => div64(1.0, a, self.round),
            Kind::Min => min_f64(a, b),
            Kind::Max => max_f64(a, b),
            Kind::Neg => return (-a).to_bits(),
            _ => return a.abs().to_bits(),
        };
        if r.is_nan() { 0x7ff8_0000_0000_0000 } else { r.to_bits() }
    }

    /// f32, f16 and bf16, computed in f64: sums and products of their values are exact there or rounded to odd, so one
    /// last rounding gives the right answer in every mode.
    fn eval_narrow(&self, a: u64, b: u64, c: u64) -> u64 {
        let sign = 1u64 << (8 * self.ty.bytes() - 1);
        match self.kind {
            Kind::Neg if !self.ftz => return a ^ sign,
            Kind::Abs if !self.ftz => return a & !sign,
            _ => {}
        }
        let (x, y, z) = (self.widen(a), self.widen(b), self.widen(c));
        let r = match self.kind {
            Kind::Add => fma_odd(x, 1.0, y),
            Kind::Sub => fma_odd(x, 1.0, -y),
            Kind::Mul => x * y,
            Kind::Fma => fma_odd(x, y, z),
            Kind::Div => {
                let q = x / y;
                odd(q, quotient_error(q, x, y))
            }
            Kind::Rcp => {
                let q = 1.0 / x;
                odd(q, quotient_error(q, 1.0, x))
            }
            Kind::Sqrt => {
                let q = x.sqrt();
                odd(q, (-q).mul_add(q, x))
            }
            Kind::Min | Kind::Max => return self.min_max(x, y),
            Kind::Neg => -x,
            Kind::Abs => x.abs(),
            Kind::Tanh => f64::from(math::tanh(x as f32)),
            _ => f64::from(math::exp2(x as f32)),
        };
        let (s, t) = match self.kind {
            Kind::Add => (x, y),
            Kind::Sub => (x, -y),
            Kind::Fma => (x * y, z),
            _ => (1.0, 1.0),
        };
        let opposite = s.is_sign_negative() != t.is_sign_negative();
        let r = if r == 0.0 && self.round == Round::Down && opposite { -0.0 } else { r };
        self.narrow(r)
    }

    fn min_max(&self, x: f64, y: f64) -> u64 {
        if self.nan && (x.is_nan() || y.is_nan()) {
            return self.narrow(f64::NAN);
        }
        let (u, v) = if self.xorsign { (x.abs(), y.abs()) } else { (x, y) };
        let mut r = if self.kind == Kind::Min { min_f64(u, v) } else { max_f64(u, v) };
        if self.xorsign && x.is_sign_negative() != y.is_sign_negative() {
            r = -r;
        }
        self.narrow(r)
    }

    fn widen(&self, bits: u64) -> f64 {
        let v = match self.ty {
            Ty::F16 => f16_to_f32(bits as u16),
            Ty::Bf16 => bf16_to_f32(bits as u16),
            _ => f32::from_bits(bits as u32),
        };
        let v = f64::from(v);
        if self.ftz && v.abs() < smallest_normal(self.ty) { v * 0.0 } else { v }
    }

    fn narrow(&self, r: f64) -> u64 {
        let r = if self.sat { saturate(r) } else { r };
        let r = if self.relu && r <= 0.0 { 0.0 } else { r };
        let bits = match self.ty {
            Ty::F16 => pack(r, 5, 10, self.round),
            Ty::Bf16 => pack(r, 8, 7, self.round),
            _ => pack(r, 8, 23, self.round),
        };
        let sign = 1u64 << (8 * self.ty.bytes() - 1);
        let mant = if self.ty == Ty::F16 {
            10
        } else if self.ty == Ty::Bf16 {
            7
        } else {
            23
        };
        if self.ftz && (bits & !sign) >> mant == 0 { bits & sign } else { bits }
    }

    fn compare(&self, rel: Rel, a: u64, b: u64) -> bool {
        use std::cmp::Ordering::*;
        let order = if self.ty.float() {
            if self.ty == Ty::F64 {
                f64::from_bits(a).partial_cmp(&f64::from_bits(b))
            } else {
                self.widen(a).partial_cmp(&self.widen(b))
            }
        } else {
            let bits = 8 * self.ty.bytes();
            let extend = |v: u64| match (self.ty.signed(), bits) {
                (true, _) => i128::from((v << (64 - bits)) as i64 >> (64 - bits)),
                (false, 64) => i128::from(v),
                (false, _) => i128::from(v & ((1 << bits) - 1)),
            };
            extend(a).partial_cmp(&extend(b))
        };
        match rel {
            Rel::Eq => order == Some(Equal),
            Rel::Ne => matches!(order, Some(Less | Greater)),
            Rel::Lt => order == Some(Less),
            Rel::Le => matches!(order, Some(Less | Equal)),
            Rel::Gt => order == Some(Greater),
            Rel::Ge => matches!(order, Some(Greater | Equal)),
            Rel::Equ => matches!(order, None | Some(Equal)),
            Rel::Neu => order != Some(Equal),
            Rel::Ltu => matches!(order, None | Some(Less)),
            Rel::Leu => order != Some(Greater),
            Rel::Gtu => matches!(order, None | Some(Greater)),
            Rel::Geu => order != Some(Less),
            Rel::Num => order.is_some(),
            Rel::Nan => order.is_none(),
        }
    }

    fn testp(&self, test: Test, a: u64) -> bool {
        let class = if self.ty == Ty::F64 { f64::from_bits(a).classify() } else { f32::from_bits(a as u32).classify() };
        use std::num::FpCategory::*;
        match test {
            Test::Finite => !matches!(class, Nan | Infinite),
            Test::Infinite => class == Infinite,
            Test::Number => class != Nan,
            Test::NotANumber => class == Nan,
            Test::Normal => class == Normal,
            Test::Subnormal => class == Subnormal,
        }
    }

    fn convert(&self, a: u64) -> u64 {
        if self.tf32 {
            let bits = pack(f64::from(f32::from_bits(a as u32)), 8, 10, self.round) << 13;
            let negative = bits >> 31 & 1 == 1;
            return if bits & 0x7fff_ffff > 0x7f80_0000 {
                u64::from(NAN32)
            } else if self.relu && negative {
                0
            } else {
                bits
            };
        }
        let (to, from) = (self.ty, self.from);
        if !from.float() {
            let bits = 8 * from.bytes();
            let v = if from.signed() {
                i128::from((a << (64 - bits)) as i64 >> (64 - bits))
            } else {
                i128::from(if bits == 64 { a } else { a & ((1 << bits) - 1) })
            };
            if to.float() {
                return self.int_to_float(v);
            }
            return self.clamp_int(v, self.sat);
        }
        let v = match from {
            Ty::F64 => f64::from_bits(a),
            Ty::F32 => {
                let v = f32::from_bits(a as u32);
                f64::from(if self.ftz { flush(v) } else { v })
            }
            Ty::F16 => f64::from(f16_to_f32(a as u16)),
            _ => f64::from(bf16_to_f32(a as u16)),
        };
        let v = if self.integral { round_int(v, self.round) } else { v };
        if !to.float() {
            if v.is_nan() {
                // NaN becomes 0, or the sign bit alone for 64-bit results and f64 sources.
                return if to.bytes() == 8 || from == Ty::F64 { 1 << (8 * to.bytes() - 1) } else { 0 };
            }
            // Every value beyond 2^100 saturates the same way.
            return self.clamp_int(round_int(v, self.round).clamp(-1e30, 1e30) as i128, true);
        }
        let v = if self.sat { saturate(v) } else { v };
        let v = if self.relu && v <= 0.0 { 0.0 } else { v };
        match to {
            Ty::F64 if v.is_nan() => 0x7ff8_0000_0000_0000,
            Ty::F64 => v.to_bits(),
            Ty::F32 => {
                let bits = pack(v, 8, 23, self.round);
                if self.ftz && bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
            }
            Ty::F16 => pack(v, 5, 10, self.round),
            _ => pack(v, 8, 7, self.round),
        }
    }

    /// An integer of up to 64 bits to a float: through a pair that is exact together and rounded to odd.
    fn int_to_float(&self, v: i128) -> u64 {
        let high = (v >> 32 << 32) as f64;
        let low = (v & 0xffff_ffff) as f64;
        let (s, e) = two_sum(high, low);
        if self.ty == Ty::F64 {
            let r = add64(high, low, self.round);
            return if self.sat { saturate(r) } else { r }.to_bits();
        }
        let s = odd(s, e);
        let s = if self.sat { saturate(s) } else { s };
        match self.ty {
            Ty::F32 => pack(s, 8, 23, self.round),
            Ty::F16 => pack(s, 5, 10, self.round),
            _ => pack(s, 8, 7, self.round),
        }
    }

    fn clamp_int(&self, v: i128, clamp: bool) -> u64 {
        let bits = 8 * self.ty.bytes();
        let (low, high) = if self.ty.signed() {
            (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
        } else {
            (0, (1i128 << bits) - 1)
        };
        let v = if clamp { v.clamp(low, high) } else { v };
        if bits == 64 { v as u64 } else { v as u64 & ((1 << bits) - 1) }
    }
}

/// Sign of (exact − q) of a quotient.
fn quotient_error(q: f64, x: f64, y: f64) -> f64 {
    let rest = (-q).mul_add(y, x);
    if rest.is_nan() {
        0.0
    } else if y < 0.0 {
        -rest
    } else {
        rest
    }
}

fn smallest_normal(ty: Ty) -> f64 {
    if ty == Ty::F16 { 6.103515625e-5 } else { 1.1754943508222875e-38 }
}

/// `.sat`: NaN becomes 0.
fn saturate(v: f64) -> f64 {
    if v.is_nan() || v <= 0.0 { 0.0 } else { v.min(1.0) }
}
