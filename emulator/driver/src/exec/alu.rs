//! The table of vector operations: one line per opcode form, computed for 32 lanes at once. Each line becomes one
//! function per instruction-set level of the host; the level is chosen once, when a module is lowered. Forms that are
//! rare (rounding modes, saturation, most conversions) are in `slow` instead.

// NaN makes `!(a >= b)` and `a < b || a > b` what they are: the shorter forms clippy proposes mean something else.
#![allow(clippy::neg_cmp_op_on_partial_ord, clippy::double_comparisons)]

use super::float::*;
use super::math;
use super::regs::*;

/// A vector operation: register file, operand offsets (destination first), active lanes.
pub type AluFn = unsafe fn(*mut u32, &[u32; 5], u32);

/// A comparison: register file, offsets of the two operands; returns one bit per lane.
pub type CmpFn = unsafe fn(*mut u32, u32, u32) -> u32;

/// Vector width of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Whatever the target guarantees.
    Base,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ, VL.
    Avx512,
}

impl Level {
    /// The widest level this host runs; `WARPSMITH_EMULATOR_SIMD=base|avx2` asks for less.
    pub fn detect() -> Level {
        let wanted = std::env::var("WARPSMITH_EMULATOR_SIMD").unwrap_or_default();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma");
            let avx512 = avx2
                && std::is_x86_feature_detected!("avx512f")
                && std::is_x86_feature_detected!("avx512bw")
                && std::is_x86_feature_detected!("avx512dq")
                && std::is_x86_feature_detected!("avx512vl");
            if avx512 && wanted != "base" && wanted != "avx2" {
                return Level::Avx512;
            }
            if avx2 && wanted != "base" {
                return Level::Avx2;
            }
        }
        let _ = wanted;
        Level::Base
    }
}

/// Reads a row.
///
/// # Safety
/// `at` must be the offset of a row of `L` inside the register file at `r`.
#[inline(always)]
unsafe fn load<L: Lane>(r: *mut u32, at: u32) -> [L::Raw; LANES] {
    // SAFETY: the caller vouches for the row; rows are aligned to their lanes.
    unsafe { r.add(at as usize).cast::<[L::Raw; LANES]>().read() }
}

/// The operation on all lanes, `$width` at a time, straight from row to row: a source may be the destination, but every
/// group of lanes is read before it is written. With some lanes off, the results are blended into the row.
macro_rules! lanes_do {
    ($r:ident, $o:ident, $m:ident, $width:literal, $d:ident; $($x:ident: $t:ident = $k:tt),*; $body:expr) => {{
        // SAFETY: lowering gives every operation rows of the widths in its table line; rows are aligned to their lanes,
        // and two rows are one or apart.
        unsafe {
            let d = $r.add($o[0] as usize).cast::<[<$d as Lane>::Raw; $width]>();
            $(let $x = $r.add($o[$k] as usize).cast::<[<$t as Lane>::Raw; $width]>();)*
            for part in 0..LANES / $width {
                $(let $x = $x.add(part).read();)*
                let mut out = [<$d as Lane>::Raw::default(); $width];
                for i in 0..$width {
                    $(let $x = <$t as Lane>::value($x[i]);)*
                    out[i] = <$d as Lane>::raw($body);
                }
                if $m != ALL {
                    let old = d.add(part).read();
                    let on = $m >> (part * $width);
                    for i in 0..$width {
                        out[i] = <$d>::blend(old[i], out[i], (on >> i & 1).wrapping_neg());
                    }
                }
                d.add(part).write(out);
            }
        }
    }};
}

macro_rules! level {
    ($module:ident, $feature:literal, $width:literal, $($name:ident = $d:ident($($x:ident: $t:ident = $k:tt),*) $body:expr;)*) => {
        #[allow(non_snake_case)]
        mod $module {
            use super::*;
            $(
                #[cfg_attr(target_arch = "x86_64", target_feature(enable = $feature))]
                pub unsafe fn $name(r: *mut u32, o: &[u32; 5], m: u32) {
                    lanes_do!(r, o, m, $width, $d; $($x: $t = $k),*; $body)
                }
            )*
        }
    };
}

macro_rules! table {
    ($($name:ident = $d:ident($($x:ident: $t:ident = $k:tt),*) $body:expr;)*) => {
        /// A vector operation by name.
        #[allow(missing_docs)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Alu { $($name),* }

        level!(base, "sse2", 4, $($name = $d($($x: $t = $k),*) $body;)*);
        level!(avx2, "avx2,fma,bmi1,bmi2,popcnt,lzcnt", 8, $($name = $d($($x: $t = $k),*) $body;)*);
        level!(avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2,popcnt,lzcnt", 16,
            $($name = $d($($x: $t = $k),*) $body;)*);

        impl Alu {
            /// The function for a host level.
            pub fn resolve(self, level: Level) -> AluFn {
                match (level, self) {
                    $((Level::Base, Alu::$name) => base::$name,)*
                    $((Level::Avx2, Alu::$name) => avx2::$name,)*
                    $((Level::Avx512, Alu::$name) => avx512::$name,)*
                }
            }
        }
    };
}

macro_rules! cmp_level {
    ($module:ident, $feature:literal, $($name:ident = ($a:ident, $b:ident: $t:ident) $body:expr;)*) => {
        #[allow(non_snake_case)]
        mod $module {
            use super::*;
            $(
                #[cfg_attr(target_arch = "x86_64", target_feature(enable = $feature))]
                pub unsafe fn $name(r: *mut u32, a: u32, b: u32) -> u32 {
                    // SAFETY: lowering gives every comparison rows of the width in its table line.
                    let ($a, $b) = unsafe { (load::<$t>(r, a), load::<$t>(r, b)) };
                    let mut out = 0;
                    for i in 0..LANES {
                        let ($a, $b) = (<$t as Lane>::value($a[i]), <$t as Lane>::value($b[i]));
                        out |= ($body as u32) << i;
                    }
                    out
                }
            )*
        }
    };
}

macro_rules! cmp_table {
    ($($name:ident = ($a:ident, $b:ident: $t:ident) $body:expr;)*) => {
        /// A comparison by name.
        #[allow(missing_docs)]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Cmp { $($name),* }

        cmp_level!(cmp_base, "sse2", $($name = ($a, $b: $t) $body;)*);
        cmp_level!(cmp_avx2, "avx2,fma,bmi1,bmi2", $($name = ($a, $b: $t) $body;)*);
        cmp_level!(cmp_avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi1,bmi2", $($name = ($a, $b: $t) $body;)*);

        impl Cmp {
            /// The function for a host level.
            pub fn resolve(self, level: Level) -> CmpFn {
                match (level, self) {
                    $((Level::Base, Cmp::$name) => cmp_base::$name,)*
                    $((Level::Avx2, Cmp::$name) => cmp_avx2::$name,)*
                    $((Level::Avx512, Cmp::$name) => cmp_avx512::$name,)*
                }
            }
        }
    };
}

table! {
    Mov32 = U32(a: U32 = 1) a;
    Mov64 = U64(a: U64 = 1) a;
    // Width changes between integer rows.
    Widen32 = U64(a: U32 = 1) a as u64;
    WidenS32 = S64(a: S32 = 1) a as i64;
    Low32 = U32(a: U64 = 1) a as u32;
    High32 = U32(a: U64 = 1) (a >> 32) as u32;
    Pack64 = U64(a: U32 = 1, b: U32 = 2) a as u64 | (b as u64) << 32;
    Low16 = U32(a: U32 = 1) a & 0xffff;
    High16 = U32(a: U32 = 1) a >> 16;
    Pack32 = U32(a: U32 = 1, b: U32 = 2) (a & 0xffff) | b << 16;
    SignS16 = S32(a: S16 = 1) a as i32;
    SignS8 = S32(a: U32 = 1) a as i8 as i32;
    Low8 = U32(a: U32 = 1) a & 0xff;

    Add16 = U16(a: U16 = 1, b: U16 = 2) a.wrapping_add(b);
    Add32 = U32(a: U32 = 1, b: U32 = 2) a.wrapping_add(b);
    Add64 = U64(a: U64 = 1, b: U64 = 2) a.wrapping_add(b);
    AddSatS32 = S32(a: S32 = 1, b: S32 = 2) a.saturating_add(b);
    Sub16 = U16(a: U16 = 1, b: U16 = 2) a.wrapping_sub(b);
    Sub32 = U32(a: U32 = 1, b: U32 = 2) a.wrapping_sub(b);
    Sub64 = U64(a: U64 = 1, b: U64 = 2) a.wrapping_sub(b);
    SubSatS32 = S32(a: S32 = 1, b: S32 = 2) a.saturating_sub(b);

    MulLo16 = U16(a: U16 = 1, b: U16 = 2) a.wrapping_mul(b);
    MulLo32 = U32(a: U32 = 1, b: U32 = 2) a.wrapping_mul(b);
    MulLo64 = U64(a: U64 = 1, b: U64 = 2) a.wrapping_mul(b);
    MulHiU16 = U16(a: U16 = 1, b: U16 = 2) ((a as u32 * b as u32) >> 16) as u16;
    MulHiS16 = S16(a: S16 = 1, b: S16 = 2) ((a as i32 * b as i32) >> 16) as i16;
    MulHiU32 = U32(a: U32 = 1, b: U32 = 2) ((a as u64 * b as u64) >> 32) as u32;
    MulHiS32 = S32(a: S32 = 1, b: S32 = 2) ((a as i64 * b as i64) >> 32) as i32;
    MulHiU64 = U64(a: U64 = 1, b: U64 = 2) ((a as u128 * b as u128) >> 64) as u64;
    MulHiS64 = S64(a: S64 = 1, b: S64 = 2) ((a as i128 * b as i128) >> 64) as i64;
    MulWideU16 = U32(a: U16 = 1, b: U16 = 2) a as u32 * b as u32;
    MulWideS16 = S32(a: S16 = 1, b: S16 = 2) a as i32 * b as i32;
    MulWideU32 = U64(a: U32 = 1, b: U32 = 2) a as u64 * b as u64;
    MulWideS32 = S64(a: S32 = 1, b: S32 = 2) a as i64 * b as i64;
    MadLo16 = U16(a: U16 = 1, b: U16 = 2, c: U16 = 3) a.wrapping_mul(b).wrapping_add(c);
    MadLo32 = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) a.wrapping_mul(b).wrapping_add(c);
    MadLo64 = U64(a: U64 = 1, b: U64 = 2, c: U64 = 3) a.wrapping_mul(b).wrapping_add(c);
    MadHiU16 = U16(a: U16 = 1, b: U16 = 2, c: U16 = 3) (((a as u32 * b as u32) >> 16) as u16).wrapping_add(c);
    MadHiS16 = S16(a: S16 = 1, b: S16 = 2, c: S16 = 3) (((a as i32 * b as i32) >> 16) as i16).wrapping_add(c);
    MadHiU32 = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) (((a as u64 * b as u64) >> 32) as u32).wrapping_add(c);
    MadHiS32 = S32(a: S32 = 1, b: S32 = 2, c: S32 = 3) (((a as i64 * b as i64) >> 32) as i32).wrapping_add(c);
    MadHiSatS32 = S32(a: S32 = 1, b: S32 = 2, c: S32 = 3) (((a as i64 * b as i64) >> 32) as i32).saturating_add(c);
    MadHiU64 = U64(a: U64 = 1, b: U64 = 2, c: U64 = 3) (((a as u128 * b as u128) >> 64) as u64).wrapping_add(c);
    MadHiS64 = S64(a: S64 = 1, b: S64 = 2, c: S64 = 3) (((a as i128 * b as i128) >> 64) as i64).wrapping_add(c);
    MadWideU16 = U32(a: U16 = 1, b: U16 = 2, c: U32 = 3) (a as u32 * b as u32).wrapping_add(c);
    MadWideS16 = S32(a: S16 = 1, b: S16 = 2, c: S32 = 3) (a as i32 * b as i32).wrapping_add(c);
    MadWideU32 = U64(a: U32 = 1, b: U32 = 2, c: U64 = 3) (a as u64 * b as u64).wrapping_add(c);
    MadWideS32 = S64(a: S32 = 1, b: S32 = 2, c: S64 = 3) (a as i64 * b as i64).wrapping_add(c);
    Mul24LoU = U32(a: U32 = 1, b: U32 = 2) u24(a).wrapping_mul(u24(b)) as u32;
    Mul24LoS = U32(a: U32 = 1, b: U32 = 2) s24(a).wrapping_mul(s24(b)) as u32;
    Mul24HiU = U32(a: U32 = 1, b: U32 = 2) (u24(a).wrapping_mul(u24(b)) >> 16) as u32;
    Mul24HiS = U32(a: U32 = 1, b: U32 = 2) (s24(a).wrapping_mul(s24(b)) >> 16) as u32;
    Mad24LoU = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) (u24(a).wrapping_mul(u24(b)) as u32).wrapping_add(c);
    Mad24LoS = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) (s24(a).wrapping_mul(s24(b)) as u32).wrapping_add(c);
    Mad24HiU = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) ((u24(a).wrapping_mul(u24(b)) >> 16) as u32).wrapping_add(c);
    Mad24HiS = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) ((s24(a).wrapping_mul(s24(b)) >> 16) as u32).wrapping_add(c);
    Mad24HiSatS = S32(a: U32 = 1, b: U32 = 2, c: S32 = 3) ((s24(a).wrapping_mul(s24(b)) >> 16) as i32).saturating_add(c);

    SadU16 = U16(a: U16 = 1, b: U16 = 2, c: U16 = 3) c.wrapping_add(a.abs_diff(b));
    SadS16 = U16(a: S16 = 1, b: S16 = 2, c: U16 = 3) c.wrapping_add(a.abs_diff(b));
    SadU32 = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) c.wrapping_add(a.abs_diff(b));
    SadS32 = U32(a: S32 = 1, b: S32 = 2, c: U32 = 3) c.wrapping_add(a.abs_diff(b));
    SadU64 = U64(a: U64 = 1, b: U64 = 2, c: U64 = 3) c.wrapping_add(a.abs_diff(b));
    SadS64 = U64(a: S64 = 1, b: S64 = 2, c: U64 = 3) c.wrapping_add(a.abs_diff(b));

    // A zero divisor gives all ones (quotient) or the dividend (remainder); the ISA leaves it open.
    DivU16 = U16(a: U16 = 1, b: U16 = 2) a.checked_div(b).unwrap_or(u16::MAX);
    DivS16 = S16(a: S16 = 1, b: S16 = 2) if b == 0 { -1 } else { a.wrapping_div(b) };
    DivU32 = U32(a: U32 = 1, b: U32 = 2) a.checked_div(b).unwrap_or(u32::MAX);
    DivS32 = S32(a: S32 = 1, b: S32 = 2) if b == 0 { -1 } else { a.wrapping_div(b) };
    DivU64 = U64(a: U64 = 1, b: U64 = 2) a.checked_div(b).unwrap_or(u64::MAX);
    DivS64 = S64(a: S64 = 1, b: S64 = 2) if b == 0 { -1 } else { a.wrapping_div(b) };
    RemU16 = U16(a: U16 = 1, b: U16 = 2) a.checked_rem(b).unwrap_or(a);
    RemS16 = S16(a: S16 = 1, b: S16 = 2) if b == 0 { a } else { a.wrapping_rem(b) };
    RemU32 = U32(a: U32 = 1, b: U32 = 2) a.checked_rem(b).unwrap_or(a);
    RemS32 = S32(a: S32 = 1, b: S32 = 2) if b == 0 { a } else { a.wrapping_rem(b) };
    RemU64 = U64(a: U64 = 1, b: U64 = 2) a.checked_rem(b).unwrap_or(a);
    RemS64 = S64(a: S64 = 1, b: S64 = 2) if b == 0 { a } else { a.wrapping_rem(b) };

    AbsS16 = S16(a: S16 = 1) a.wrapping_abs();
    AbsS32 = S32(a: S32 = 1) a.wrapping_abs();
    AbsS64 = S64(a: S64 = 1) a.wrapping_abs();
    Neg16 = S16(a: S16 = 1) a.wrapping_neg();
    Neg32 = S32(a: S32 = 1) a.wrapping_neg();
    Neg64 = S64(a: S64 = 1) a.wrapping_neg();
    MinU16 = U16(a: U16 = 1, b: U16 = 2) a.min(b);
    MinS16 = S16(a: S16 = 1, b: S16 = 2) a.min(b);
    MinU32 = U32(a: U32 = 1, b: U32 = 2) a.min(b);
    MinS32 = S32(a: S32 = 1, b: S32 = 2) a.min(b);
    MinU64 = U64(a: U64 = 1, b: U64 = 2) a.min(b);
    MinS64 = S64(a: S64 = 1, b: S64 = 2) a.min(b);
    MaxU16 = U16(a: U16 = 1, b: U16 = 2) a.max(b);
    MaxS16 = S16(a: S16 = 1, b: S16 = 2) a.max(b);
    MaxU32 = U32(a: U32 = 1, b: U32 = 2) a.max(b);
    MaxS32 = S32(a: S32 = 1, b: S32 = 2) a.max(b);
    MaxU64 = U64(a: U64 = 1, b: U64 = 2) a.max(b);
    MaxS64 = S64(a: S64 = 1, b: S64 = 2) a.max(b);

    Popc32 = U32(a: U32 = 1) a.count_ones();
    Popc64 = U32(a: U64 = 1) a.count_ones();
    Clz32 = U32(a: U32 = 1) a.leading_zeros();
    Clz64 = U32(a: U64 = 1) a.leading_zeros();
    Brev32 = U32(a: U32 = 1) a.reverse_bits();
    Brev64 = U64(a: U64 = 1) a.reverse_bits();
    BfindU32 = U32(a: U32 = 1) 31u32.wrapping_sub(a.leading_zeros());
    BfindS32 = U32(a: S32 = 1) 31u32.wrapping_sub((a ^ (a >> 31)).leading_zeros());
    BfindU64 = U32(a: U64 = 1) 63u32.wrapping_sub(a.leading_zeros());
    BfindS64 = U32(a: S64 = 1) 63u32.wrapping_sub((a ^ (a >> 63)).leading_zeros());
    BfindShiftU32 = U32(a: U32 = 1) if a == 0 { u32::MAX } else { a.leading_zeros() };
    BfindShiftS32 = U32(a: S32 = 1) shift_amount(31, (a ^ (a >> 31)).leading_zeros());
    BfindShiftU64 = U32(a: U64 = 1) if a == 0 { u32::MAX } else { a.leading_zeros() };
    BfindShiftS64 = U32(a: S64 = 1) shift_amount(63, (a ^ (a >> 63)).leading_zeros());
    BfeU32 = U32(a: U32 = 1, p: U32 = 2, n: U32 = 3) bfe(a as u64, p, n, 31, false) as u32;
    BfeS32 = U32(a: U32 = 1, p: U32 = 2, n: U32 = 3) bfe(a as u64, p, n, 31, true) as u32;
    BfeU64 = U64(a: U64 = 1, p: U32 = 2, n: U32 = 3) bfe(a, p, n, 63, false);
    BfeS64 = U64(a: U64 = 1, p: U32 = 2, n: U32 = 3) bfe(a, p, n, 63, true);
    Bfi32 = U32(a: U32 = 1, b: U32 = 2, p: U32 = 3, n: U32 = 4) bfi(a as u64, b as u64, p, n, 32) as u32;
    Bfi64 = U64(a: U64 = 1, b: U64 = 2, p: U32 = 3, n: U32 = 4) bfi(a, b, p, n, 64);
    Fns = U32(a: U32 = 1, base: U32 = 2, n: S32 = 3) fns(a, base, n);
    BmskClamp = U32(a: U32 = 1, b: U32 = 2) bmsk(a, b, true);
    BmskWrap = U32(a: U32 = 1, b: U32 = 2) bmsk(a, b, false);
    SzextClampU = U32(a: U32 = 1, b: U32 = 2) szext(a, b, false);
    SzextWrapU = U32(a: U32 = 1, b: U32 = 2) szext(a, b & 31, false);
    SzextClampS = U32(a: U32 = 1, b: U32 = 2) szext(a, b, true);
    SzextWrapS = U32(a: U32 = 1, b: U32 = 2) szext(a, b & 31, true);
    Dp4aUU = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) dp4a(a, b, c, false, false);
    Dp4aUS = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) dp4a(a, b, c, false, true);
    Dp4aSU = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) dp4a(a, b, c, true, false);
    Dp4aSS = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) dp4a(a, b, c, true, true);
    Dp2aLoUU = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) dp2a(a, b, c, false, false);
    Dp2aLoUS = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) dp2a(a, b, c, false, true);
    Dp2aLoSU = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) dp2a(a, b, c, true, false);
    Dp2aLoSS = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) dp2a(a, b, c, true, true);
    Dp2aHiUU = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) dp2a(a, b >> 16, c, false, false);
    Dp2aHiUS = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) dp2a(a, b >> 16, c, false, true);
    Dp2aHiSU = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) dp2a(a, b >> 16, c, true, false);
    Dp2aHiSS = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) dp2a(a, b >> 16, c, true, true);

    AbsDiff2 = U32(a: U32 = 1, b: U32 = 2) abs_diff2(a, b);
    AbsDiffAdd2 = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) dp2a(abs_diff2(a, b), 0x0101, c, false, false);
    AbsDiff4 = U32(a: U32 = 1, b: U32 = 2) abs_diff4(a, b);
    AbsDiffAdd4 = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) dp4a(abs_diff4(a, b), 0x0101_0101, c, false, false);

    And32 = U32(a: U32 = 1, b: U32 = 2) a & b;
    And64 = U64(a: U64 = 1, b: U64 = 2) a & b;
    Or32 = U32(a: U32 = 1, b: U32 = 2) a | b;
    Or64 = U64(a: U64 = 1, b: U64 = 2) a | b;
    Xor32 = U32(a: U32 = 1, b: U32 = 2) a ^ b;
    Xor64 = U64(a: U64 = 1, b: U64 = 2) a ^ b;
    Not16 = U16(a: U16 = 1) !a;
    Not32 = U32(a: U32 = 1) !a;
    Not64 = U64(a: U64 = 1) !a;
    Cnot16 = U16(a: U16 = 1) (a == 0) as u16;
    Cnot32 = U32(a: U32 = 1) (a == 0) as u32;
    Cnot64 = U64(a: U64 = 1) (a == 0) as u64;
    Lop3 = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3, t: U32 = 4) lop3(a, b, c, t);
    Shl16 = U16(a: U16 = 1, b: U32 = 2) if b < 16 { a << b } else { 0 };
    Shl32 = U32(a: U32 = 1, b: U32 = 2) if b < 32 { a << (b & 31) } else { 0 };
    Shl64 = U64(a: U64 = 1, b: U32 = 2) if b < 64 { a << (b & 63) } else { 0 };
    ShrU16 = U16(a: U16 = 1, b: U32 = 2) if b < 16 { a >> b } else { 0 };
    ShrS16 = S16(a: S16 = 1, b: U32 = 2) a >> b.min(15);
    ShrU32 = U32(a: U32 = 1, b: U32 = 2) if b < 32 { a >> (b & 31) } else { 0 };
    ShrS32 = S32(a: S32 = 1, b: U32 = 2) a >> b.min(31);
    ShrU64 = U64(a: U64 = 1, b: U32 = 2) if b < 64 { a >> (b & 63) } else { 0 };
    ShrS64 = S64(a: S64 = 1, b: U32 = 2) a >> b.min(63);
    ShfLClamp = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) (((b as u64) << 32 | a as u64) << c.min(32) >> 32) as u32;
    ShfLWrap = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) (((b as u64) << 32 | a as u64) << (c & 31) >> 32) as u32;
    ShfRClamp = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) (((b as u64) << 32 | a as u64) >> c.min(32)) as u32;
    ShfRWrap = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) (((b as u64) << 32 | a as u64) >> (c & 31)) as u32;
    Prmt = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) prmt(a, b, c);
    PrmtF4e = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) prmt(a, b, 0x3210 + 0x1111 * (c & 3));
    PrmtB4e = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) prmt(a, b, [0x5670, 0x6701, 0x7012, 0x0123][(c & 3) as usize]);
    PrmtRc8 = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) prmt(a, b, 0x1111 * (c & 3));
    PrmtEcl = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) prmt(a, b, [0x3210, 0x3211, 0x3222, 0x3333][(c & 3) as usize]);
    PrmtEcr = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) prmt(a, b, [0x0000, 0x1110, 0x2210, 0x3210][(c & 3) as usize]);
    PrmtRc16 = U32(a: U32 = 1, b: U32 = 2, c: U32 = 3) prmt(a, b, [0x1010, 0x3232, 0x1010, 0x3232][(c & 3) as usize]);

    AddF32 = F32(a: F32 = 1, b: F32 = 2) a + b;
    SubF32 = F32(a: F32 = 1, b: F32 = 2) a - b;
    MulF32 = F32(a: F32 = 1, b: F32 = 2) a * b;
    FmaF32 = F32(a: F32 = 1, b: F32 = 2, c: F32 = 3) a.mul_add(b, c);
    DivF32 = F32(a: F32 = 1, b: F32 = 2) a / b;
    SqrtF32 = F32(a: F32 = 1) a.sqrt();
    RcpF32 = F32(a: F32 = 1) 1.0 / a;
    MinF32 = F32(a: F32 = 1, b: F32 = 2) min_f32(a, b);
    MaxF32 = F32(a: F32 = 1, b: F32 = 2) max_f32(a, b);
    AbsF32 = U32(a: U32 = 1) a & 0x7fff_ffff;
    NegF32 = U32(a: U32 = 1) a ^ 0x8000_0000;
    AddFtzF32 = F32(a: F32 = 1, b: F32 = 2) flush(flush(a) + flush(b));
    SubFtzF32 = F32(a: F32 = 1, b: F32 = 2) flush(flush(a) - flush(b));
    MulFtzF32 = F32(a: F32 = 1, b: F32 = 2) flush(flush(a) * flush(b));
    FmaFtzF32 = F32(a: F32 = 1, b: F32 = 2, c: F32 = 3) flush(flush(a).mul_add(flush(b), flush(c)));
    MinFtzF32 = F32(a: F32 = 1, b: F32 = 2) min_f32(flush(a), flush(b));
    MaxFtzF32 = F32(a: F32 = 1, b: F32 = 2) max_f32(flush(a), flush(b));
    AbsFtzF32 = F32(a: F32 = 1) flush(a).abs();
    NegFtzF32 = F32(a: F32 = 1) -flush(a);
    DivFtzF32 = F32(a: F32 = 1, b: F32 = 2) flush(flush(a) / flush(b));
    SqrtFtzF32 = F32(a: F32 = 1) flush(flush(a).sqrt());
    RcpFtzF32 = F32(a: F32 = 1) flush(1.0 / flush(a));
    RsqrtF32 = F32(a: F32 = 1) math::rsqrt(a);
    RsqrtFtzF32 = F32(a: F32 = 1) flush(math::rsqrt(flush(a)));
    SinF32 = F32(a: F32 = 1) math::sin(a);
    SinFtzF32 = F32(a: F32 = 1) flush(math::sin(flush(a)));
    CosF32 = F32(a: F32 = 1) math::cos(a);
    CosFtzF32 = F32(a: F32 = 1) flush(math::cos(flush(a)));
    Lg2F32 = F32(a: F32 = 1) math::log2(a);
    Lg2FtzF32 = F32(a: F32 = 1) flush(math::log2(flush(a)));
    Ex2F32 = F32(a: F32 = 1) math::exp2(a);
    Ex2FtzF32 = F32(a: F32 = 1) flush(math::exp2(flush(a)));
    TanhF32 = F32(a: F32 = 1) math::tanh(a);
    AddF64 = F64(a: F64 = 1, b: F64 = 2) a + b;
    SubF64 = F64(a: F64 = 1, b: F64 = 2) a - b;
    MulF64 = F64(a: F64 = 1, b: F64 = 2) a * b;
    FmaF64 = F64(a: F64 = 1, b: F64 = 2, c: F64 = 3) a.mul_add(b, c);
    DivF64 = F64(a: F64 = 1, b: F64 = 2) a / b;
    SqrtF64 = F64(a: F64 = 1) a.sqrt();
    RcpF64 = F64(a: F64 = 1) 1.0 / a;
    RsqrtF64 = F64(a: F64 = 1) 1.0 / a.sqrt();
    RcpGrossF64 = U64(a: U64 = 1) gross(a, |v| 1.0 / v);
    RsqrtGrossF64 = U64(a: U64 = 1) gross(a, |v| 1.0 / v.sqrt());
    MinF64 = F64(a: F64 = 1, b: F64 = 2) min_f64(a, b);
    MaxF64 = F64(a: F64 = 1, b: F64 = 2) max_f64(a, b);
    AbsF64 = U64(a: U64 = 1) a & !(1 << 63);
    NegF64 = U64(a: U64 = 1) a ^ 1 << 63;
    Neg16F = U32(a: U32 = 1) a ^ 0x8000;
    Abs16F = U32(a: U32 = 1) a & 0x7fff;
    Neg16x2F = U32(a: U32 = 1) a ^ 0x8000_8000;
    Abs16x2F = U32(a: U32 = 1) a & 0x7fff_7fff;

    CvtF32S32 = F32(a: S32 = 1) a as f32;
    CvtF32U32 = F32(a: U32 = 1) a as f32;
    CvtS32F32Rz = S32(a: F32 = 1) a as i32;
    CvtU32F32Rz = U32(a: F32 = 1) a as u32;
    CvtF64F32 = F64(a: F32 = 1) a as f64;
    CvtF32F64 = F32(a: F64 = 1) a as f32;
    CvtF64S32 = F64(a: S32 = 1) a as f64;
    CvtF32F16 = F32(a: U16 = 1) f16_to_f32(a);
    CvtF16F32 = U16(a: F32 = 1) f32_to_f16(a);
    CvtF32Bf16 = F32(a: U16 = 1) bf16_to_f32(a);
    CvtBf16F32 = U16(a: F32 = 1) f32_to_bf16(a);
    // The first source lands in the upper half.
    CvtF16x2F32 = U32(a: F32 = 1, b: F32 = 2) (f32_to_f16(a) as u32) << 16 | f32_to_f16(b) as u32;
    CvtBf16x2F32 = U32(a: F32 = 1, b: F32 = 2) (f32_to_bf16(a) as u32) << 16 | f32_to_bf16(b) as u32;
    CvtTf32Rna = U32(a: U32 = 1) tf32_rna(a);
}

cmp_table! {
    Eq16 = (a, b: U16) a == b;
    Ne16 = (a, b: U16) a != b;
    LtU16 = (a, b: U16) a < b;
    LeU16 = (a, b: U16) a <= b;
    LtS16 = (a, b: S16) a < b;
    LeS16 = (a, b: S16) a <= b;
    Eq32 = (a, b: U32) a == b;
    Ne32 = (a, b: U32) a != b;
    LtU32 = (a, b: U32) a < b;
    LeU32 = (a, b: U32) a <= b;
    LtS32 = (a, b: S32) a < b;
    LeS32 = (a, b: S32) a <= b;
    Eq64 = (a, b: U64) a == b;
    Ne64 = (a, b: U64) a != b;
    LtU64 = (a, b: U64) a < b;
    LeU64 = (a, b: U64) a <= b;
    LtS64 = (a, b: S64) a < b;
    LeS64 = (a, b: S64) a <= b;
    EqF32 = (a, b: F32) a == b;
    NeF32 = (a, b: F32) a < b || a > b;
    LtF32 = (a, b: F32) a < b;
    LeF32 = (a, b: F32) a <= b;
    EquF32 = (a, b: F32) !(a < b || a > b);
    NeuF32 = (a, b: F32) a != b;
    LtuF32 = (a, b: F32) !(a >= b);
    LeuF32 = (a, b: F32) !(a > b);
    NumF32 = (a, b: F32) !a.is_nan() && !b.is_nan();
    NanF32 = (a, b: F32) a.is_nan() || b.is_nan();
    EqF64 = (a, b: F64) a == b;
    NeF64 = (a, b: F64) a < b || a > b;
    LtF64 = (a, b: F64) a < b;
    LeF64 = (a, b: F64) a <= b;
    EquF64 = (a, b: F64) !(a < b || a > b);
    NeuF64 = (a, b: F64) a != b;
    LtuF64 = (a, b: F64) !(a >= b);
    LeuF64 = (a, b: F64) !(a > b);
    NumF64 = (a, b: F64) !a.is_nan() && !b.is_nan();
    NanF64 = (a, b: F64) a.is_nan() || b.is_nan();
}

#[inline(always)]
fn u24(a: u32) -> u64 {
    u64::from(a & 0xff_ffff)
}

#[inline(always)]
fn s24(a: u32) -> i64 {
    i64::from((a << 8) as i32 >> 8)
}

#[inline(always)]
fn shift_amount(msb: u32, zeros: u32) -> u32 {
    if zeros > msb { u32::MAX } else { zeros }
}

#[inline(always)]
fn bfe(a: u64, p: u32, n: u32, msb: u32, signed: bool) -> u64 {
    let (p, n) = (p & 0xff, n & 0xff);
    let sign = if signed && n > 0 { a >> (p + n - 1).min(msb) & 1 } else { 0 };
    let field = if p > msb { 0 } else { a >> p };
    // Bits beyond the field and beyond the operand are copies of the sign.
    let have = n.min((msb + 1).saturating_sub(p));
    let mask = if have >= 64 { u64::MAX } else { (1u64 << have) - 1 };
    (field & mask) | if sign == 1 { !mask } else { 0 }
}

#[inline(always)]
fn bfi(a: u64, b: u64, p: u32, n: u32, bits: u32) -> u64 {
    let (p, n) = (p & 0xff, n & 0xff);
    if p >= bits {
        return b;
    }
    let mask = if n >= 64 { u64::MAX } else { (1u64 << n) - 1 } << p;
    (b & !mask) | (a << p & mask)
}

#[inline(always)]
fn fns(mask: u32, base: u32, n: i32) -> u32 {
    if base > 31 {
        return u32::MAX;
    }
    let (mut left, mut at, step) = match n {
        0 => return if mask >> base & 1 == 1 { base } else { u32::MAX },
        1.. => (n, base as i32, 1),
        _ => (n.wrapping_neg(), base as i32, -1),
    };
    while (0..32).contains(&at) {
        if mask >> at & 1 == 1 {
            left = left.wrapping_sub(1);
            if left == 0 {
                return at as u32;
            }
        }
        at += step;
    }
    u32::MAX
}

#[inline(always)]
fn bmsk(a: u32, b: u32, clamp: bool) -> u32 {
    let (a, b) = if clamp { (a.min(32), b.min(32)) } else { (a & 31, b & 31) };
    let ones = if b >= 32 { u64::from(u32::MAX) } else { (1u64 << b) - 1 };
    (ones << a) as u32
}

#[inline(always)]
fn szext(a: u32, n: u32, signed: bool) -> u32 {
    match n {
        0 => 0,
        1..=31 if signed => ((a << (32 - n)) as i32 >> (32 - n)) as u32,
        1..=31 => a & ((1 << n) - 1),
        _ => a,
    }
}

#[inline(always)]
fn byte(a: u32, i: u32, signed: bool) -> u32 {
    let v = a >> (8 * i);
    if signed { v as i8 as i32 as u32 } else { v & 0xff }
}

#[inline(always)]
fn dp4a(a: u32, b: u32, c: u32, sa: bool, sb: bool) -> u32 {
    let mut sum = c;
    for i in 0..4 {
        sum = sum.wrapping_add(byte(a, i, sa).wrapping_mul(byte(b, i, sb)));
    }
    sum
}

/// |a - b| of two unsigned halves.
#[inline(always)]
fn abs_diff2(a: u32, b: u32) -> u32 {
    (a & 0xffff).abs_diff(b & 0xffff) | (a >> 16).abs_diff(b >> 16) << 16
}

/// |a - b| of four unsigned bytes.
#[inline(always)]
fn abs_diff4(a: u32, b: u32) -> u32 {
    let mut out = 0;
    for i in 0..4 {
        out |= byte(a, i, false).abs_diff(byte(b, i, false)) << (8 * i);
    }
    out
}

#[inline(always)]
fn dp2a(a: u32, b: u32, c: u32, sa: bool, sb: bool) -> u32 {
    let half = |v: u32| if sa { v as i16 as i32 as u32 } else { v & 0xffff };
    c.wrapping_add(half(a).wrapping_mul(byte(b, 0, sb))).wrapping_add(half(a >> 16).wrapping_mul(byte(b, 1, sb)))
}

#[inline(always)]
fn lop3(a: u32, b: u32, c: u32, table: u32) -> u32 {
    let mut out = 0;
    for i in 0..8u32 {
        let pick = |v: u32, bit: u32| if i >> bit & 1 == 1 { v } else { !v };
        if table >> i & 1 == 1 {
            out |= pick(a, 2) & pick(b, 1) & pick(c, 0);
        }
    }
    out
}

#[inline(always)]
fn prmt(a: u32, b: u32, c: u32) -> u32 {
    let v = u64::from(b) << 32 | u64::from(a);
    let mut out = 0;
    for i in 0..4 {
        let select = c >> (4 * i);
        let byte = (v >> (8 * (select & 7))) as u8;
        let byte = if select & 8 == 0 { byte } else { (byte as i8 >> 7) as u8 };
        out |= u32::from(byte) << (8 * i);
    }
    out
}

/// `min` of PTX: a NaN loses, −0 is below +0.
#[inline(always)]
pub fn min_f32(a: f32, b: f32) -> f32 {
    let ordered = if a < b { a } else { b };
    let equal = f32::from_bits(a.to_bits() | b.to_bits());
    let r = if a == b { equal } else { ordered };
    let r = if b.is_nan() { a } else { r };
    if a.is_nan() { b } else { r }
}

/// `max` of PTX.
#[inline(always)]
pub fn max_f32(a: f32, b: f32) -> f32 {
    let ordered = if a > b { a } else { b };
    let equal = f32::from_bits(a.to_bits() & b.to_bits());
    let r = if a == b { equal } else { ordered };
    let r = if b.is_nan() { a } else { r };
    if a.is_nan() { b } else { r }
}

/// `min` of PTX for f64.
#[inline(always)]
pub fn min_f64(a: f64, b: f64) -> f64 {
    let ordered = if a < b { a } else { b };
    let r = if a == b { f64::from_bits(a.to_bits() | b.to_bits()) } else { ordered };
    let r = if b.is_nan() { a } else { r };
    if a.is_nan() { b } else { r }
}

/// `max` of PTX for f64.
#[inline(always)]
pub fn max_f64(a: f64, b: f64) -> f64 {
    let ordered = if a > b { a } else { b };
    let r = if a == b { f64::from_bits(a.to_bits() & b.to_bits()) } else { ordered };
    let r = if b.is_nan() { a } else { r };
    if a.is_nan() { b } else { r }
}

/// `rcp.approx.ftz.f64` and `rsqrt.approx.ftz.f64`: only the upper 32 bits of operand and result count.
#[inline(always)]
fn gross(a: u64, f: impl Fn(f64) -> f64) -> u64 {
    let flush = |v: u64| if v & 0x7ff0_0000_0000_0000 == 0 { v & 1 << 63 } else { v };
    let r = f(f64::from_bits(flush(a & !0xffff_ffff)));
    if r.is_nan() { 0x7fff_ffff_0000_0000 } else { flush((r.to_bits().wrapping_add(0x8000_0000)) & !0xffff_ffff) }
}

#[inline(always)]
fn tf32_rna(a: u32) -> u32 {
    let abs = a & 0x7fff_ffff;
    if abs > 0x7f80_0000 {
        NAN32
    } else if abs == 0x7f80_0000 {
        a
    } else {
        (a.wrapping_add(0x1000)) & 0xffff_e000
    }
}
