//! The approximate functions (`ex2.approx`, `sin.approx`, …). The ISA bounds their error and leaves the bits open; these
//! are evaluated in f64 by short polynomials, so that they vectorise, agree on every host, and lie well inside the bounds.

// Comparisons instead of `clamp`: they compile to one vector instruction and are defined for NaN.
#![allow(clippy::manual_clamp)]

/// 2^x.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    let x = x as f64;
    // Beyond these the result is 0 or infinity in f32; the clamp keeps the exponent arithmetic in range.
    let c = if x < -200.0 {
        -200.0
    } else if x > 200.0 {
        200.0
    } else {
        x
    };
    let n = (c + 6755399441055744.0) - 6755399441055744.0;
    let f = (c - n) * std::f64::consts::LN_2;
    let mut p = 1.0 / 362880.0;
    p = p * f + 1.0 / 40320.0;
    p = p * f + 1.0 / 5040.0;
    p = p * f + 1.0 / 720.0;
    p = p * f + 1.0 / 120.0;
    p = p * f + 1.0 / 24.0;
    p = p * f + 1.0 / 6.0;
    p = p * f + 0.5;
    p = p * f + 1.0;
    p = p * f + 1.0;
    let scale = f64::from_bits((((c + 6755399441055744.0).to_bits() as i64).wrapping_add(1023) as u64) << 52);
    if x.is_nan() { f32::NAN } else { (p * scale) as f32 }
}

/// log2 x.
#[inline(always)]
pub fn log2(x: f32) -> f32 {
    let v = x as f64;
    let bits = v.to_bits();
    // Mantissa into [sqrt(1/2), sqrt 2).
    let shifted = bits.wrapping_sub(0x3fe6_a09e_667f_3bcd);
    let e = ((shifted as i64) >> 52) as i32;
    let m = f64::from_bits(bits.wrapping_sub((shifted >> 52) << 52));
    let s = (m - 1.0) / (m + 1.0);
    let s2 = s * s;
    let mut p = 1.0 / 15.0;
    p = p * s2 + 1.0 / 13.0;
    p = p * s2 + 1.0 / 11.0;
    p = p * s2 + 1.0 / 9.0;
    p = p * s2 + 1.0 / 7.0;
    p = p * s2 + 1.0 / 5.0;
    p = p * s2 + 1.0 / 3.0;
    p = p * s2 + 1.0;
    let r = (e as f64 + 2.0 * s * p * std::f64::consts::LOG2_E) as f32;
    let r = if x == f32::INFINITY { x } else { r };
    let r = if x == 0.0 { f32::NEG_INFINITY } else { r };
    if x < 0.0 || x.is_nan() { f32::NAN } else { r }
}

/// sin and cos of a reduced argument, and the quadrant.
#[inline(always)]
fn sin_cos(x: f32) -> (f64, f64, i64) {
    let v = x as f64;
    // Past 2^40 the approximate instruction promises nothing; the clamp only keeps the arithmetic finite.
    let v = if v.abs() < 1.1e12 { v } else { v * 0.0 };
    let k = (v * std::f64::consts::FRAC_2_PI + 6755399441055744.0) - 6755399441055744.0;
    let r = v - k * std::f64::consts::FRAC_PI_2;
    let r = r - k * 6.123233995736766e-17;
    let q = (k + 6755399441055744.0).to_bits() as i64;
    let z = r * r;
    let sin =
        r * (1.0 + z * (-1.0 / 6.0 + z * (1.0 / 120.0 + z * (-1.0 / 5040.0 + z * (1.0 / 362880.0 - z / 39916800.0)))));
    let cos = 1.0 + z * (-0.5 + z * (1.0 / 24.0 + z * (-1.0 / 720.0 + z * (1.0 / 40320.0 - z / 3628800.0))));
    (sin, cos, q)
}

#[inline(always)]
fn quadrant(sin: f64, cos: f64, q: i64) -> f32 {
    let v = if q & 1 == 0 { sin } else { cos };
    (if q & 2 == 0 { v } else { -v }) as f32
}

/// sin x.
#[inline(always)]
pub fn sin(x: f32) -> f32 {
    let (s, c, q) = sin_cos(x);
    // Keeps the sign of a zero.
    if x == 0.0 { x } else { quadrant(s, c, q) }
}

/// cos x.
#[inline(always)]
pub fn cos(x: f32) -> f32 {
    let (s, c, q) = sin_cos(x);
    quadrant(s, c, q.wrapping_add(1))
}

/// tanh x.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let v = x as f64;
    let a = v.abs();
    let t = exp2_f64(-2.0 * std::f64::consts::LOG2_E * if a > 20.0 { 20.0 } else { a });
    let z = v * v;
    // Near 0 the quotient cancels; the series does not.
    let small = v * (1.0 - z * (1.0 / 3.0 - z * (2.0 / 15.0 - z * 17.0 / 315.0)));
    let large = (1.0 - t) / (1.0 + t);
    let r = if a < 0.05 {
        small
    } else if v < 0.0 {
        -large
    } else {
        large
    };
    if x.is_nan() { f32::NAN } else { r as f32 }
}

#[inline(always)]
fn exp2_f64(c: f64) -> f64 {
    let n = (c + 6755399441055744.0) - 6755399441055744.0;
    let f = (c - n) * std::f64::consts::LN_2;
    let mut p = 1.0 / 362880.0;
    for k in [40320.0, 5040.0, 720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0] {
        p = p * f + 1.0 / k;
    }
    p * f64::from_bits((((c + 6755399441055744.0).to_bits() as i64).wrapping_add(1023) as u64) << 52)
}

/// 1/x, correctly rounded (the bound is 1 ulp).
#[inline(always)]
pub fn rcp(x: f32) -> f32 {
    1.0 / x
}

/// 1/sqrt x (the bound is 2^-22.9 relative).
#[inline(always)]
pub fn rsqrt(x: f32) -> f32 {
    (1.0 / (x as f64).sqrt()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bounds of the PTX ISA, section 9.7.3, against f64 references of the standard library.
    #[test]
    fn approximate_functions_keep_the_bounds_of_the_isa() {
        let mut x = -87.3f32;
        while x < 88.0 {
            let d = x as f64;
            let rel = |got: f32, want: f64| ((got as f64 - want) / want).abs();
            assert!(rel(exp2(x), d.exp2()) < 2f64.powi(-22), "ex2({x})");
            if x > 0.0 {
                assert!(
                    (log2(x) as f64 - d.log2()).abs() <= 2f64.powi(-22).max(d.log2().abs() * 2f64.powi(-22)),
                    "lg2({x})"
                );
                assert!(rel(rsqrt(x), 1.0 / d.sqrt()) < 2f64.powf(-22.9), "rsqrt({x})");
            }
            assert!((sin(x) as f64 - d.sin()).abs() < 2f64.powf(-20.5), "sin({x})");
            assert!((cos(x) as f64 - d.cos()).abs() < 2f64.powf(-20.5), "cos({x})");
            assert!(x == 0.0 || rel(tanh(x), d.tanh()) < 2f64.powi(-11), "tanh({x})");
            x += 0.0371;
        }
        assert_eq!(exp2(-150.0), 0.0);
        assert_eq!(exp2(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp2(128.0), f32::INFINITY);
        assert_eq!(log2(0.0), f32::NEG_INFINITY);
        assert_eq!(log2(8.0), 3.0);
        assert!(log2(-1.0).is_nan() && exp2(f32::NAN).is_nan());
        assert_eq!(tanh(f32::INFINITY), 1.0);
        assert_eq!(log2(f32::from_bits(1)), -149.0);
    }
}
