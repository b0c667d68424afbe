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

/// Mantissa and exponent of a finite f64.
fn parts64(v: f64) -> (u128, i32) {
    let (e, m) = ((v.to_bits() >> 52 & 0x7ff) as i32, u128::from(v.to_bits() & ((1 << 52) - 1)));
    if e == 0 { (m, -1074) } else { (m | 1 << 52, e - 1075) }
}

/// ±mant * 2^exp rounded to f64. The lowest bit of a long `mant` may stand for everything below it.
fn round64(negative: bool, mant: u128, exp: i32, round: Round) -> f64 {
    let sign = if negative { -1.0 } else { 1.0 };
    if mant == 0 {
        return sign * 0.0;
    }
    let top = 127 - mant.leading_zeros() as i32;
    let mut weight = (exp + top).max(-1022) - 52;
    let shift = weight - exp;
    let (q, half, rest) = match shift {
        ..=0 => (mant << -shift, false, false),
        1..=127 => (mant >> shift, mant >> (shift - 1) & 1 == 1, mant & ((1 << (shift - 1)) - 1) != 0),
        _ => (0, false, true),
    };
    let up = match round {
        Round::Nearest => half && (rest || q & 1 == 1),
        Round::Away => half,
        Round::Zero => false,
        Round::Down => negative && (half || rest),
        Round::Up => !negative && (half || rest),
    };
    let mut q = q as u64 + u64::from(up);
    if q == 1 << 53 {
        q >>= 1;
        weight += 1;
    }
    let e = weight + 1075;
    if q >= 1 << 52 && e >= 2047 {
        let stays = match round {
            Round::Nearest | Round::Away => false,
            Round::Zero => true,
            Round::Down => !negative,
            Round::Up => negative,
        };
        return sign * if stays { f64::MAX } else { f64::INFINITY };
    }
    let bits = if q < 1 << 52 { q } else { (e as u64) << 52 | (q & ((1 << 52) - 1)) };
    sign * f64::from_bits(bits)
}

/// f64 addition.
pub fn add64(a: f64, b: f64, round: Round) -> f64 {
    fma64(a, 1.0, b, round)
}

/// f64 multiplication.
pub fn mul64(a: f64, b: f64, round: Round) -> f64 {
    let r = a * b;
    if round == Round::Nearest || !a.is_finite() || !b.is_finite() || a == 0.0 || b == 0.0 {
        return r;
    }
    let ((ma, ea), (mb, eb)) = (parts64(a), parts64(b));
    round64(r.is_sign_negative(), ma * mb, ea + eb, round)
}

/// f64 fused multiply-add. The directed modes, which the host does not have, are done in integers: both terms with their
/// highest bit at bit 124, the smaller one shifted to the larger, what falls off kept as one bit.
pub fn fma64(a: f64, b: f64, c: f64, round: Round) -> f64 {
    if round == Round::Nearest || !a.is_finite() || !b.is_finite() || !c.is_finite() {
        return a.mul_add(b, c);
    }
    let ((ma, ea), (mb, eb), (mc, ec)) = (parts64(a), parts64(b), parts64(c));
    let product = a.is_sign_negative() != b.is_sign_negative();
    let normal = |negative: bool, m: u128, e: i32| {
        let up = if m == 0 { 0 } else { m.leading_zeros() - 3 };
        (negative, m << up, if m == 0 { i32::MIN / 2 } else { e - up as i32 })
    };
    let x = normal(product, ma * mb, ea + eb);
    let y = normal(c.is_sign_negative(), mc, ec);
    let (big, small) = if (x.2, x.1) >= (y.2, y.1) { (x, y) } else { (y, x) };
    let gap = (big.2 - small.2).min(127);
    let kept = small.1 >> gap;
    let aligned = kept | u128::from(kept << gap != small.1);
    let (negative, mant) = if big.0 == small.0 { (big.0, big.1 + aligned) } else { (big.0, big.1 - aligned) };
    // An exact zero of opposite signs is negative only when rounding down.
    let negative = if mant == 0 && x.0 != y.0 { round == Round::Down } else { negative };
    round64(negative, mant, big.2, round)
}

/// f64 division.
pub fn div64(a: f64, b: f64, round: Round) -> f64 {
    let r = a / b;
    if round == Round::Nearest || !a.is_finite() || !b.is_finite() || a == 0.0 || b == 0.0 {
        return r;
    }
    let ((ma, ea), (mb, eb)) = (parts64(a), parts64(b));
    let up = ma.leading_zeros() - 1;
    let (n, e) = (ma << up, ea - up as i32);
    round64(r.is_sign_negative(), (n / mb) | u128::from(n % mb != 0), e - eb, round)
}

/// f64 square root.
pub fn sqrt64(a: f64, round: Round) -> f64 {
    let r = a.sqrt();
    if round == Round::Nearest || !r.is_finite() || a == 0.0 {
        return r;
    }
    // An even exponent and 126 bits or so: the integer root has 63, and one more says whether it is exact.
    let (m, e) = parts64(a);
    let up = (m.leading_zeros() as i32 - 2) & !1;
    let up = up + ((e - up) & 1);
    let (m, e) = (m << up, e - up);
    let root = m.isqrt();
    round64(false, root << 1 | u128::from(root * root != m), e / 2 - 1, round)
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
