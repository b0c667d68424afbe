//! Elementary functions in IEEE + − × ÷ √ only, so that every device computes the same bits.
//!
//! The parameters of random augmentations and the weights of blur kernels go through these instead of a
//! system library, whose last bit differs between platforms. Rust never contracts `a * b + c` into a fused
//! multiply-add, so the plain expressions below are exact recipes; a CUDA twin needs `-fmad=false`.

// High part of π/2 with 33 significant bits: multiples up to 2^20 are exact.
const HALF_PI_HIGH: f64 = 1.570_796_326_734_125_6;
const HALF_PI_LOW: f64 = 6.077_100_506_506_192e-11;
const LN_2_HIGH: f64 = 0.693_147_180_369_123_8;
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;

/// Evaluates `coefficients[0] + coefficients[1]·x + …` by Horner's rule.
#[inline]
fn polynomial<const N: usize>(x: f64, coefficients: [f64; N]) -> f64 {
    let mut sum = 0.0;
    for k in (0..N).rev() {
        sum = sum * x + coefficients[k];
    }
    sum
}

/// Sine and cosine of an angle in radians, |angle| ≤ 10⁶, with an absolute error below 1e-15 near the
/// origin and 1e-10 at the far end.
///
/// Source: range reduction by multiples of π/2 in two parts; minimax polynomials of fdlibm (k_sin.c, k_cos.c).
///
/// # Example
/// ```
/// let (sin, cos) = warpsmith::math::sin_cos(std::f64::consts::FRAC_PI_6);
/// assert!((sin - 0.5).abs() < 1e-15 && (cos - 0.75f64.sqrt()).abs() < 1e-15);
/// ```
pub fn sin_cos(angle: f64) -> (f64, f64) {
    let quarter_turns = (angle * std::f64::consts::FRAC_2_PI).round_ties_even();
    let r = (angle - quarter_turns * HALF_PI_HIGH) - quarter_turns * HALF_PI_LOW;
    let z = r * r;
    let sin = r + r
        * z
        * polynomial(
            z,
            [
                -1.666_666_666_666_663_2e-1,
                8.333_333_333_322_49e-3,
                -1.984_126_982_985_795e-4,
                2.755_731_370_707_006_8e-6,
                -2.505_076_025_340_686_3e-8,
                1.589_690_995_211_55e-10,
            ],
        );
    let tail = polynomial(
        z,
        [
            4.166_666_666_666_66e-2,
            -1.388_888_888_887_411e-3,
            2.480_158_728_947_673e-5,
            -2.755_731_435_139_066_3e-7,
            2.087_572_321_298_175e-9,
            -1.135_964_755_778_819_5e-11,
        ],
    );
    let cos = 1.0 - (0.5 * z - z * z * tail);
    match (quarter_turns as i64).rem_euclid(4) {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// Exponential function for −700 ≤ x ≤ 700, to about one unit in the last place.
///
/// Source: x = k·ln 2 + r with |r| ≤ ln 2 / 2; Taylor series of exp(r) to r¹³ (remainder below 5e-18).
pub fn exp(x: f64) -> f64 {
    let k = (x * std::f64::consts::LOG2_E).round_ties_even();
    let r = (x - k * LN_2_HIGH) - k * LN_2_LOW;
    let mut sum = 1.0;
    for n in (1..=13).rev() {
        sum = 1.0 + sum * r / f64::from(n);
    }
    sum * f64::from_bits(((1023 + k as i64) as u64) << 52)
}

/// Natural logarithm of a positive normal number, to about one unit in the last place.
///
/// Source: fdlibm (e_log.c).
pub fn ln(x: f64) -> f64 {
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & 0x000f_ffff_ffff_ffff) | 0x3ff0_0000_0000_0000);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa *= 0.5;
        exponent += 1;
    }
    let f = mantissa - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let rest = z * polynomial(
        z,
        [
            6.666_666_666_666_735e-1,
            3.999_999_999_940_942e-1,
            2.857_142_874_366_239e-1,
            2.222_219_843_214_978_4e-1,
            1.818_357_216_161_805e-1,
            1.531_383_769_920_937_3e-1,
            1.479_819_860_511_658_6e-1,
        ],
    );
    let half_square = 0.5 * f * f;
    let k = exponent as f64;
    k * LN_2_HIGH - ((half_square - (s * (half_square + rest) + k * LN_2_LOW)) - f)
}

/// 32 random bits as a standard normal number: the normal quantile of (bits + ½)/2³².
///
/// The relative error before rounding to f32 is about 1e-15; the largest magnitude is 6.34.
///
/// Source: Wichura: "Algorithm AS 241: the percentage points of the normal distribution" (1988), PPND16. Its
/// far tail (probabilities below e⁻²⁵) cannot occur with 32 bits and is left out.
///
/// # Example
/// ```
/// use warpsmith::math::standard_normal;
/// assert_eq!(standard_normal(0x1234_5678), -standard_normal(!0x1234_5678));
/// ```
pub fn standard_normal(bits: u32) -> f32 {
    let p = (f64::from(bits) + 0.5) / 4_294_967_296.0;
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180625 - q * q;
        let numerator = polynomial(
            r,
            [
                3.387_132_872_796_366_5,
                133.141_667_891_784_38,
                1_971.590_950_306_551_3,
                13_731.693_765_509_46,
                45_921.953_931_549_87,
                67_265.770_927_008_7,
                33_430.575_583_588_13,
                2_509.080_928_730_122_7,
            ],
        );
        let denominator = polynomial(
            r,
            [
                1.0,
                42.313_330_701_600_91,
                687.187_007_492_057_9,
                5_394.196_021_424_751,
                21_213.794_301_586_597,
                39_307.895_800_092_71,
                28_729.085_735_721_943,
                5_226.495_278_852_854,
            ],
        );
        return (q * numerator / denominator) as f32;
    }
    let tail = if q < 0.0 { p } else { 1.0 - p };
    let r = (-ln(tail)).sqrt() - 1.6;
    let numerator = polynomial(
        r,
        [
            1.423_437_110_749_683_5,
            4.630_337_846_156_546,
            5.769_497_221_460_691,
            3.647_848_324_763_204_5,
            1.270_458_252_452_368_4,
            0.241_780_725_177_450_6,
            2.272_384_498_926_918_4e-2,
            7.745_450_142_783_414e-4,
        ],
    );
    let denominator = polynomial(
        r,
        [
            1.0,
            2.053_191_626_637_759,
            1.676_384_830_183_803_8,
            0.689_767_334_985_1,
            0.148_103_976_427_480_08,
            1.519_866_656_361_645_7e-2,
            5.475_938_084_995_345e-4,
            1.050_750_071_644_416_9e-9,
        ],
    );
    let x = numerator / denominator;
    (if q < 0.0 { -x } else { x }) as f32
}
