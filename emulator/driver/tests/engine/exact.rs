//! Exact arithmetic for references: numbers as fixed-point integers wide enough for every sum and product of doubles,
//! rounded once, bit by bit, as IEEE 754 says. Nothing here is shared with the engine.

/// Limbs of 64 bits.
const LIMBS: usize = 72;
/// The lowest bit has the weight 2^-LOW.
const LOW: i32 = 2200;

/// A rounding mode of PTX.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Mode {
    Near,
    Zero,
    Down,
    Up,
    /// To nearest, ties away from zero.
    Away,
}

/// A binary format: exponent bits, stored mantissa bits.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Format {
    pub exp: u32,
    pub mant: u32,
}

pub const F16: Format = Format { exp: 5, mant: 10 };
pub const BF16: Format = Format { exp: 8, mant: 7 };
pub const F32: Format = Format { exp: 8, mant: 23 };
pub const F64: Format = Format { exp: 11, mant: 52 };

impl Format {
    pub fn sign(self) -> u64 {
        1 << (self.exp + self.mant)
    }

    pub fn infinity(self) -> u64 {
        ((1 << self.exp) - 1) << self.mant
    }

    /// The NaN that the hardware writes.
    pub fn nan(self) -> u64 {
        if self == F64 { 0x7ff8_0000_0000_0000 } else { self.sign() - 1 }
    }

    pub fn one(self) -> u64 {
        ((1 << (self.exp - 1)) - 1) << self.mant
    }

    pub fn is_nan(self, v: u64) -> bool {
        v & (self.sign() - 1) > self.infinity()
    }

    pub fn is_inf(self, v: u64) -> bool {
        v & (self.sign() - 1) == self.infinity()
    }

    pub fn is_zero(self, v: u64) -> bool {
        v & (self.sign() - 1) == 0
    }

    pub fn negative(self, v: u64) -> bool {
        v & self.sign() != 0
    }

    pub fn subnormal(self, v: u64) -> bool {
        v & self.infinity() == 0 && !self.is_zero(v)
    }

    /// A subnormal becomes a zero of its sign.
    pub fn flush(self, v: u64) -> u64 {
        if self.subnormal(v) { v & self.sign() } else { v }
    }

    /// Mantissa and exponent of a finite number: its value is mantissa * 2^exponent.
    fn parts(self, v: u64) -> (u128, i32) {
        let bias = (1 << (self.exp - 1)) - 1;
        let e = (v >> self.mant & ((1 << self.exp) - 1)) as i32;
        let m = v & ((1 << self.mant) - 1);
        let (m, e) = if e == 0 { (m, 1) } else { (m | 1 << self.mant, e) };
        (u128::from(m), e - bias - self.mant as i32)
    }

    /// As an f64; every format fits.
    pub fn to_f64(self, v: u64) -> f64 {
        let s = if self.negative(v) { -1.0 } else { 1.0 };
        if self.is_nan(v) {
            return f64::NAN;
        }
        if self.is_inf(v) {
            return s * f64::INFINITY;
        }
        let (m, e) = self.parts(v);
        // Two steps keep the power of two in range.
        s * m as f64 * 2f64.powi(e / 2) * 2f64.powi(e - e / 2)
    }
}

/// An exact number.
#[derive(Clone)]
pub struct Exact {
    neg: bool,
    mag: [u64; LIMBS],
}

impl Exact {
    /// ±mant * 2^exp.
    pub fn new(neg: bool, mant: u128, exp: i32) -> Exact {
        let mut mag = [0; LIMBS];
        let shift = (exp + LOW) as usize;
        let (limb, bit) = (shift / 64, shift % 64);
        let low = mant << bit;
        let high = if bit == 0 { 0 } else { mant >> (128 - bit) };
        for (i, v) in [low as u64, (low >> 64) as u64, high as u64].into_iter().enumerate() {
            if v != 0 {
                mag[limb + i] = v;
            }
        }
        Exact { neg, mag }
    }

    pub fn int(v: i128) -> Exact {
        Exact::new(v < 0, v.unsigned_abs(), 0)
    }

    /// A finite number of a format.
    pub fn of(f: Format, v: u64) -> Exact {
        let (m, e) = f.parts(v);
        Exact::new(f.negative(v), m, e)
    }

    /// The product of two finite numbers.
    pub fn product(f: Format, a: u64, b: u64) -> Exact {
        let ((ma, ea), (mb, eb)) = (f.parts(a), f.parts(b));
        Exact::new(f.negative(a) != f.negative(b), ma * mb, ea + eb)
    }

    /// The quotient of two finite numbers, b not 0, with enough bits and a sticky one.
    pub fn quotient(f: Format, a: u64, b: u64) -> Exact {
        let ((ma, mut ea), (mb, eb)) = (f.parts(a), f.parts(b));
        if ma == 0 {
            return Exact::new(false, 0, 0);
        }
        let up = ma.leading_zeros() - 1;
        let ma = ma << up;
        ea -= up as i32;
        let (q, r) = (ma / mb, ma % mb);
        // The quotient has at least 126 - 53 bits.
        Exact::new(f.negative(a) != f.negative(b), q | u128::from(r != 0), ea - eb)
    }

    /// The square root of a finite positive number, with a sticky bit.
    pub fn root(f: Format, a: u64) -> Exact {
        let (mut m, mut e) = f.parts(a);
        if m == 0 {
            return Exact::new(false, 0, 0);
        }
        let up = (m.leading_zeros() - 2) & !1;
        m <<= up;
        e -= up as i32;
        if e % 2 != 0 {
            m <<= 1;
            e -= 1;
        }
        let mut r = 0u128;
        for bit in (0..64).rev() {
            let t = r | 1 << bit;
            if t * t <= m {
                r = t;
            }
        }
        Exact::new(false, r << 1 | u128::from(r * r != m), e / 2 - 1)
    }

    pub fn is_zero(&self) -> bool {
        self.mag.iter().all(|&v| v == 0)
    }

    fn less(a: &[u64; LIMBS], b: &[u64; LIMBS]) -> bool {
        a.iter().rev().lt(b.iter().rev())
    }

    pub fn add(&self, other: &Exact) -> Exact {
        let mut mag = [0; LIMBS];
        if self.neg == other.neg {
            let mut carry = false;
            for i in 0..LIMBS {
                let (s, c1) = self.mag[i].overflowing_add(other.mag[i]);
                let (s, c2) = s.overflowing_add(u64::from(carry));
                mag[i] = s;
                carry = c1 || c2;
            }
            return Exact { neg: self.neg, mag };
        }
        let (big, small) = if Exact::less(&self.mag, &other.mag) { (other, self) } else { (self, other) };
        let mut borrow = false;
        for i in 0..LIMBS {
            let (s, b1) = big.mag[i].overflowing_sub(small.mag[i]);
            let (s, b2) = s.overflowing_sub(u64::from(borrow));
            mag[i] = s;
            borrow = b1 || b2;
        }
        Exact { neg: big.neg, mag }
    }

    fn bit(&self, i: i32) -> bool {
        i >= 0 && self.mag[i as usize / 64] >> (i % 64) & 1 == 1
    }

    fn below(&self, i: i32) -> bool {
        (0..i.max(0)).any(|j| self.bit(j))
    }

    /// Rounded to a multiple of 2^weight: the multiple's magnitude.
    fn cut(&self, weight: i32, mode: Mode) -> u128 {
        let at = weight + LOW;
        let mut q = 0u128;
        for i in 0..120 {
            if ((at + i) as usize) < 64 * LIMBS && at + i >= 0 && self.bit(at + i) {
                q |= 1 << i;
            }
        }
        let (half, rest) = (self.bit(at - 1), self.below(at - 1));
        let up = match mode {
            Mode::Near => half && (rest || q & 1 == 1),
            Mode::Away => half,
            Mode::Zero => false,
            Mode::Down => self.neg && (half || rest),
            Mode::Up => !self.neg && (half || rest),
        };
        q + u128::from(up)
    }

    /// Rounded to an integer, clamped to ±2^100.
    pub fn to_int(&self, mode: Mode) -> i128 {
        let top = (0..64 * LIMBS as i32).rev().find(|&i| self.bit(i)).unwrap_or(0);
        let q = if top - LOW > 100 { 1 << 100 } else { self.cut(0, mode) as i128 };
        if self.neg { -q } else { q }
    }

    /// Rounded to a format. A zero is positive.
    pub fn round(&self, f: Format, mode: Mode) -> u64 {
        let Some(top) = (0..64 * LIMBS as i32).rev().find(|&i| self.bit(i)) else { return 0 };
        let bias = (1 << (f.exp - 1)) - 1;
        let mut weight = (top - LOW).max(1 - bias) - f.mant as i32;
        let mut q = self.cut(weight, mode) as u64;
        if q == 2 << f.mant {
            q >>= 1;
            weight += 1;
        }
        let sign = if self.neg { f.sign() } else { 0 };
        if q < 1 << f.mant {
            return sign | q;
        }
        let e = (weight + f.mant as i32 + bias) as u64;
        if e >= (1 << f.exp) - 1 {
            let stay = match mode {
                Mode::Near | Mode::Away => false,
                Mode::Zero => true,
                Mode::Down => !self.neg,
                Mode::Up => self.neg,
            };
            return sign | (f.infinity() - u64::from(stay));
        }
        sign | e << f.mant | (q & ((1 << f.mant) - 1))
    }
}

#[test]
fn exact_arithmetic_agrees_with_the_host_where_the_host_can_do_it() {
    let v = [1.0f64, -1.5, 0.1, 1e300, -3e-310, 5e-324, 7.25, -1e16];
    for a in v {
        for b in v {
            let (x, y) = (a.to_bits(), b.to_bits());
            let near = |e: Exact| f64::from_bits(e.round(F64, Mode::Near));
            assert_eq!(near(Exact::of(F64, x).add(&Exact::of(F64, y))), a + b);
            assert_eq!(near(Exact::product(F64, x, y)).abs(), (a * b).abs());
            assert_eq!(near(Exact::quotient(F64, x, y)), a / b);
            for c in v {
                let sum = Exact::product(F64, x, y).add(&Exact::of(F64, c.to_bits()));
                assert_eq!(near(sum), a.mul_add(b, c));
            }
        }
        if a > 0.0 {
            assert_eq!(f64::from_bits(Exact::root(F64, a.to_bits()).round(F64, Mode::Near)), a.sqrt());
        }
        assert_eq!(Exact::of(F64, a.to_bits()).round(F32, Mode::Near), u64::from((a as f32).to_bits()));
    }
}
