//! Register rows. A warp holds every register as a row of 32 lanes side by side, so that one instruction is one short
//! loop that the compiler turns into vector code. Rows of 64-bit registers are twice as long; 16-bit registers lie in
//! 32-bit rows with zeros above. Immediates and special registers are rows too, so an operand is always an offset.

/// Lanes of a warp.
pub const LANES: usize = 32;

/// All lanes active.
pub const ALL: u32 = u32::MAX;

/// How a row is seen: the value type of a lane and its raw storage.
pub trait Lane {
    /// What the operation computes with.
    type Value: Copy;
    /// What lies in the row.
    type Raw: Copy + Default;
    /// Raw bits to value.
    fn value(raw: Self::Raw) -> Self::Value;
    /// Value to raw bits.
    fn raw(value: Self::Value) -> Self::Raw;
    /// The new bits where `keep` is all ones, the old ones where it is 0.
    fn blend(old: Self::Raw, new: Self::Raw, keep: u32) -> Self::Raw;
}

macro_rules! lane {
    ($name:ident, $value:ty, $raw:ty, $r:ident => $get:expr, $v:ident => $put:expr) => {
        #[allow(missing_docs)]
        pub struct $name;
        impl Lane for $name {
            type Value = $value;
            type Raw = $raw;
            #[inline(always)]
            fn value($r: $raw) -> $value {
                $get
            }
            #[inline(always)]
            fn raw($v: $value) -> $raw {
                $put
            }
            #[inline(always)]
            fn blend(old: $raw, new: $raw, keep: u32) -> $raw {
                let keep = keep as i32 as $raw;
                (old & !keep) | (new & keep)
            }
        }
    };
}

lane!(U16, u16, u32, r => r as u16, v => v as u32);
lane!(S16, i16, u32, r => r as i16, v => v as u16 as u32);
lane!(U32, u32, u32, r => r, v => v);
lane!(S32, i32, u32, r => r as i32, v => v as u32);
lane!(U64, u64, u64, r => r, v => v);
lane!(S64, i64, u64, r => r as i64, v => v as u64);
// NaN leaves an operation in one canonical form, as on the hardware; otherwise its payload would depend on the host.
lane!(F32, f32, u32, r => f32::from_bits(r), v => if v.is_nan() { super::float::NAN32 } else { v.to_bits() });
lane!(F64, f64, u64, r => f64::from_bits(r), v => if v.is_nan() { 0x7ff8_0000_0000_0000 } else { v.to_bits() });

/// The register file of one warp.
#[derive(Clone, PartialEq)]
pub struct Regs {
    /// Rows, in 32-bit words; aligned to a cache line.
    words: Vec<Line>,
    /// Predicates, one bit per lane.
    pub preds: Vec<u32>,
}

#[derive(Clone, Copy, PartialEq)]
#[repr(align(64))]
struct Line([u32; 16]);

impl Regs {
    /// `words` words of rows and `preds` predicates, all zero.
    pub fn new(words: usize, preds: usize) -> Self {
        Regs { words: vec![Line([0; 16]); words.div_ceil(16)], preds: vec![0; preds] }
    }

    /// First word of the rows.
    #[inline(always)]
    pub fn base(&mut self) -> *mut u32 {
        self.words.as_mut_ptr().cast()
    }

    /// Words held.
    pub fn len(&self) -> usize {
        self.words.len() * 16
    }

    /// Whether there are no rows at all.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// A 32-bit row.
    #[inline(always)]
    pub fn row(&self, at: u32) -> &[u32; LANES] {
        debug_assert!(at as usize + LANES <= self.len());
        // SAFETY: lowering hands out only rows that lie inside the file (checked above in test builds), and a row of
        // plain words has no invalid bits.
        unsafe { &*self.words.as_ptr().cast::<u32>().add(at as usize).cast() }
    }

    /// A 32-bit row, to write.
    #[inline(always)]
    pub fn row_mut(&mut self, at: u32) -> &mut [u32; LANES] {
        debug_assert!(at as usize + LANES <= self.len());
        // SAFETY: as in `row`; the borrow of `self` is unique.
        unsafe { &mut *self.base().add(at as usize).cast() }
    }

    /// A 64-bit row.
    #[inline(always)]
    pub fn row64(&self, at: u32) -> &[u64; LANES] {
        debug_assert!(at as usize + 2 * LANES <= self.len() && at.is_multiple_of(2));
        // SAFETY: as in `row`; rows start at even words, so the alignment of u64 holds.
        unsafe { &*self.words.as_ptr().cast::<u32>().add(at as usize).cast() }
    }

    /// A 64-bit row, to write.
    #[inline(always)]
    pub fn row64_mut(&mut self, at: u32) -> &mut [u64; LANES] {
        debug_assert!(at as usize + 2 * LANES <= self.len() && at.is_multiple_of(2));
        // SAFETY: as in `row64`; the borrow of `self` is unique.
        unsafe { &mut *self.base().add(at as usize).cast() }
    }

    /// One lane of a row of either width, as 64 bits.
    #[inline(always)]
    pub fn lane(&self, r: Row, lane: usize) -> u64 {
        if r.wide { self.row64(r.at)[lane] } else { u64::from(self.row(r.at)[lane]) }
    }

    /// Sets one lane of a row of either width, cutting the value to the row.
    #[inline(always)]
    pub fn set_lane(&mut self, r: Row, lane: usize, v: u64) {
        if r.wide { self.row64_mut(r.at)[lane] = v } else { self.row_mut(r.at)[lane] = v as u32 }
    }
}

/// Where a row lies and how wide its lanes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Row {
    /// Offset in words.
    pub at: u32,
    /// 64-bit lanes.
    pub wide: bool,
}

/// The lanes of a mask, lowest first.
#[inline(always)]
pub fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    let mut rest = mask;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let lane = rest.trailing_zeros() as usize;
        rest &= rest - 1;
        Some(lane)
    })
}
