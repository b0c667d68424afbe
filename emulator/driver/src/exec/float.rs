//! Floating-point formats and rounding that Rust does not have: f16, bf16, tf32, and the directed modes.

/// Rounding of a floating-point result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// To nearest, ties to even (`.rn`, `.rni`).
    Nearest,
    /// To nearest, ties away from zero (`.rna`).
    Away,
    /// Towards zero (`.rz`, `.rzi`).
    Zero,
    /// Towards minus infinity (`.rm`, `.rmi`).
    Down,
    /// Towards plus infinity (`.rp`, `.rpi`).
    Up,
}

/// NaN as the hardware writes it.
pub const NAN32: u32 = 0x7fff_ffff;
/// NaN of f16 and bf16 as the hardware writes it.
pub const NAN16: u16 = 0x7fff;

/// f16 bits to f32, exact.
#[inline(always)]
pub fn f16_to_f32(h: u16) -> f32 {
    let sign = u32::from(h & 0x8000) << 16;
    let rest = u32::from(h & 0x7fff) << 13;
    // The multiplication moves the exponent bias and normalises subnormals in one exact step.
    let scaled = (f32::from_bits(rest) * f32::from_bits(0x7780_0000)).to_bits();
    let special = rest >= 0x7c00 << 13;
    let bits = if special { rest | 0x7f80_0000 } else { scaled };
    f32::from_bits(bits | sign)
}

/// f32 to f16 bits, to nearest even.
#[inline(always)]
pub fn f32_to_f16(v: f32) -> u16 {
    let bits = v.to_bits();
    let sign = (bits >> 16) as u16 & 0x8000;
    let abs = bits & 0x7fff_ffff;
    const MAGIC: u32 = (127 - 15 + 23 - 10 + 1) << 23;
    let subnormal = (f32::from_bits(abs) + f32::from_bits(MAGIC)).to_bits().wrapping_sub(MAGIC);
    let normal =
        abs.wrapping_add((15u32.wrapping_sub(127) << 23).wrapping_add(0xfff)).wrapping_add((abs >> 13) & 1) >> 13;
    let finite = if abs < 113 << 23 { subnormal } else { normal };
    let out = if abs >= 143 << 23 { 0x7c00 } else { finite };
    if abs > 0x7f80_0000 { NAN16 } else { out as u16 | sign }
}

/// bf16 bits to f32, exact.
#[inline(always)]
pub fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits(u32::from(h) << 16)
}

/// f32 to bf16 bits, to nearest even.
#[inline(always)]
pub fn f32_to_bf16(v: f32) -> u16 {
    let bits = v.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { NAN16 } else { rounded as u16 }
}

/// Flushes a subnormal f32 to a zero of its sign.
#[inline(always)]
pub fn flush(v: f32) -> f32 {
    let bits = v.to_bits();
    if bits & 0x7f80_0000 == 0 { f32::from_bits(bits & 0x8000_0000) } else { v }
}

/// Rounds an exact f64 to a format with `exp` exponent bits and `mant` stored mantissa bits. The NaN of the format is
/// all ones below the sign.
pub fn pack(v: f64, exp: u32, mant: u32, round: Round) -> u64 {
    let bits = v.to_bits();
    let negative = bits >> 63 != 0;
    let sign = u64::from(negative) << (exp + mant);
    let infinity = ((1u64 << exp) - 1) << mant;
    if v.is_nan() {
        return infinity | ((1 << mant) - 1);
    }
    if v.is_infinite() {
        return sign | infinity;
    }
    if v == 0.0 {
        return sign;
    }
    let bias = (1i64 << (exp - 1)) - 1;
    let e = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let m = if e == -1023 { bits & ((1 << 52) - 1) } else { (bits & ((1 << 52) - 1)) | 1 << 52 };
    let below = (1 - bias - e).max(0);
    // A shift of 54 leaves nothing but the sticky part, whatever lies further down.
    let shift = (i64::from(52 - mant) + below).min(54);
    let (q, rest) = if shift == 0 { (m, 0) } else { (m >> shift, m & ((1 << shift) - 1)) };
    let half = if shift == 0 { 1 } else { 1u64 << (shift - 1) };
    let up = rest != 0
        && match round {
            Round::Nearest => rest > half || (rest == half && q & 1 == 1),
            Round::Away => rest >= half,
            Round::Zero => false,
            Round::Down => negative,
            Round::Up => !negative,
        };
    let q = q + u64::from(up);
    let body = if below > 0 { q } else { (((e + bias) as u64) << mant) + q - (1 << mant) };
    if body < infinity {
        return sign | body;
    }
    let to_max = match round {
        Round::Nearest | Round::Away => false,
        Round::Zero => true,
        Round::Down => !negative,
        Round::Up => negative,
    };
    sign | if to_max { infinity - 1 } else { infinity }
}

/// The exact value `s + e`, |e| below half an ulp of `s`, as an f64 whose last bit records that something was lost.
/// Rounding it once more to 50 bits or fewer gives the right answer in every mode.
pub fn odd(s: f64, e: f64) -> f64 {
    if e == 0.0 || !s.is_finite() || s.to_bits() & 1 == 1 {
        return s;
    }
    let bits = s.to_bits();
    // Towards e by one ulp: s has an even last bit, so the neighbour is odd.
    f64::from_bits(if (e > 0.0) == (s > 0.0) { bits + 1 } else { bits - 1 })
}

/// `a + b` exactly, as a rounded sum and its error.
pub fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let t = s - a;
    (s, (a - (s - t)) + (b - t))
}

/// `a*b + c` of values with at most 24 significant bits, rounded to odd in f64.
pub fn fma_odd(a: f64, b: f64, c: f64) -> f64 {
    let p = a * b;
    if !p.is_finite() || !c.is_finite() {
        return p + c;
    }
    let (s, e) = two_sum(p, c);
    odd(s, e)
}

/// An f64 result `r`, nearest, of which `err` has the sign of (exact − r): moved to the neighbour that `round` asks for.
fn nudge64(r: f64, err: f64, round: Round) -> f64 {
    if r.is_nan() || err.is_nan() || r.is_infinite() {
        return r;
    }
    let up = |r: f64| if r == 0.0 { f64::from_bits(1) } else { r.next_up() };
    let down = |r: f64| if r == 0.0 { -f64::from_bits(1) } else { r.next_down() };
    match round {
        Round::Nearest | Round::Away => r,
        Round::Up if err > 0.0 => up(r),
        Round::Down if err < 0.0 => down(r),
        Round::Zero if r > 0.0 && err < 0.0 => down(r),
        Round::Zero if r < 0.0 && err > 0.0 => up(r),
        _ => r,
    }
}

/// Overflow in a directed mode stays at the largest finite number.
fn overflow64(r: f64, finite_inputs: bool, round: Round) -> f64 {
    if !r.is_infinite() || !finite_inputs {
        return r;
    }
    match (round, r > 0.0) {
        (Round::Zero | Round::Down, true) => f64::MAX,
        (Round::Zero | Round::Up, false) => f64::MIN,
        _ => r,
    }
}

/// An exact zero sum of opposite signs is −0 when rounding down.
fn zero_sign(r: f64, a: f64, b: f64, round: Round) -> f64 {
    if r == 0.0 && round == Round::Down && a.is_sign_negative() != b.is_sign_negative() { -0.0 } else { r }
}

/// f64 addition.
pub fn add64(a: f64, b: f64, round: Round) -> f64 {
    let (s, e) = two_sum(a, b);
    let r = zero_sign(nudge64(s, e, round), a, b, round);
    overflow64(r, a.is_finite() && b.is_finite(), round)
}

/// f64 multiplication.
pub fn mul64(a: f64, b: f64, round: Round) -> f64 {
    let p = a * b;
    overflow64(nudge64(p, a.mul_add(b, -p), round), a.is_finite() && b.is_finite(), round)
}

/// f64 fused multiply-add. The error of the nearest result is found after Boldo and Muller (ErrFmaNearest).
pub fn fma64(a: f64, b: f64, c: f64, round: Round) -> f64 {
    let r = a.mul_add(b, c);
    if round == Round::Nearest {
        return r;
    }
    let u1 = a * b;
    let u2 = a.mul_add(b, -u1);
    let (a1, a2) = two_sum(c, u2);
    let (b1, b2) = two_sum(u1, a1);
    let g = (b1 - r) + b2;
    let err = g + a2;
    let r = zero_sign(nudge64(r, err, round), u1, c, round);
    overflow64(r, a.is_finite() && b.is_finite() && c.is_finite(), round)
}

/// f64 division.
pub fn div64(a: f64, b: f64, round: Round) -> f64 {
    let q = a / b;
    let rest = (-q).mul_add(b, a);
    let err = if b < 0.0 { -rest } else { rest };
    overflow64(nudge64(q, err, round), a.is_finite() && b != 0.0, round)
}

/// f64 square root.
pub fn sqrt64(a: f64, round: Round) -> f64 {
    let q = a.sqrt();
    nudge64(q, (-q).mul_add(q, a), round)
}

/// Rounds to an integer value in the given mode.
pub fn round_int(v: f64, round: Round) -> f64 {
    match round {
        Round::Nearest => v.round_ties_even(),
        Round::Away => v.round(),
        Round::Zero => v.trunc(),
        Round::Down => v.floor(),
        Round::Up => v.ceil(),
    }
}
