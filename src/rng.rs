//! Philox4x32-10: the counter-based generator behind everything random.
//!
//! A value is a pure function of key and counter, so CPU and GPU, one worker or many, draw the same
//! numbers. The layout is an ABI: key = seed (u64), counter = (step, data-set index, op, element / 4);
//! element `e` reads word `e % 4` of its block.
//!
//! Source: Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).

/// The ten-round Philox bijection: one block of four 32-bit words per counter.
///
/// # Example
/// ```
/// use warpsmith::rng::philox4x32_10;
/// // Known answer of the reference implementation for the zero key and counter.
/// assert_eq!(philox4x32_10([0, 0], [0; 4]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
/// ```
pub fn philox4x32_10(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let [mut k0, mut k1] = key;
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    for _ in 0..10 {
        let p0 = u64::from(c0) * 0xD251_1F53;
        let p1 = u64::from(c2) * 0xCD9E_8D57;
        (c0, c1, c2, c3) = ((p1 >> 32) as u32 ^ c1 ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c3 ^ k1, p0 as u32);
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}

/// One random stream: the numbers that one op draws for one sample at one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// Seed of the run.
    pub seed: u64,
    /// Training step.
    pub step: u32,
    /// Index of the sample in its data set (not its place in the batch).
    pub index: u32,
    /// Number of the op that draws, from its module's constants.
    pub op: u32,
}

impl Stream {
    /// The block of elements `4·block .. 4·block + 4`.
    pub fn block(&self, block: u32) -> [u32; 4] {
        philox4x32_10([self.seed as u32, (self.seed >> 32) as u32], [self.step, self.index, self.op, block])
    }

    /// Element `element` as 32 random bits.
    pub fn bits(&self, element: u32) -> u32 {
        self.block(element / 4)[(element % 4) as usize]
    }

    /// Element `element` as a uniform number in `[0, 1)` with 24 bits.
    pub fn uniform(&self, element: u32) -> f32 {
        unit(self.bits(element))
    }

    /// Element `element` as a uniform integer in `[0, n)`, by multiply-shift.
    pub fn below(&self, element: u32, n: u32) -> u32 {
        ((u64::from(self.bits(element)) * u64::from(n)) >> 32) as u32
    }
}

/// 32 random bits as a uniform number in `[0, 1)` with 24 bits.
pub fn unit(bits: u32) -> f32 {
    (bits >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// A sequential generator over one Philox key, for host-side initialisation and shuffles through `rand`.
///
/// Two generators with different `(seed, purpose)` never share a counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Philox {
    seed: u64,
    purpose: u32,
    block: u64,
    buffer: [u32; 4],
    used: usize,
}

impl Philox {
    /// The sequence number `purpose` of `seed`.
    pub fn new(seed: u64, purpose: u32) -> Self {
        Philox { seed, purpose, block: 0, buffer: [0; 4], used: 4 }
    }

    /// The next 32 random bits.
    pub fn next_word(&mut self) -> u32 {
        if self.used == 4 {
            // Word 2 = u32::MAX keeps host sequences apart from every op number a kernel draws with.
            let counter =
                [self.block as u32, (self.block >> 32) as u32 ^ self.purpose.rotate_left(16), u32::MAX, self.purpose];
            self.buffer = philox4x32_10([self.seed as u32, (self.seed >> 32) as u32], counter);
            self.block += 1;
            self.used = 0;
        }
        self.used += 1;
        self.buffer[self.used - 1]
    }
}

#[cfg(feature = "nn")]
impl rand::TryRng for Philox {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(self.next_word())
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(u64::from(self.next_word()) | u64::from(self.next_word()) << 32)
    }

    fn try_fill_bytes(&mut self, dst: &mut [u8]) -> Result<(), Self::Error> {
        for chunk in dst.chunks_mut(4) {
            let word = self.next_word().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::philox4x32_10;

    // Known answers from the Random123 distribution (kat_vectors, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(philox4x32_10([u32::MAX; 2], [u32::MAX; 4]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            philox4x32_10([0xa4093822, 0x299f31d0], [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }
}
