//! Parameter drawing: every random number of an augmentation, from Philox streams.
//!
//! A number depends only on (seed, step, data-set index of the image, op number, element), never on a thread or a
//! place in the batch. Numbers become parameters through IEEE + − × ÷ √ alone ([`crate::math`]), so that every
//! device draws the same bits.
//!
//! # Op numbers (an ABI)
//!
//! `OP_BASE | branch << 16 | position << 8 | layer`: `branch` tells pipelines apart that see the same images in the
//! same step, `position` is the place of the step in its pipeline, `layer` counts the ops of a RandAugment step
//! (0 for every other step).
//!
//! | step | element: what it draws |
//! |---|---|
//! | `RandomFlip` | 0: flip if u < ½ |
//! | `RandomCrop` | 0: top, 1: left |
//! | `DistortedBoxCrop` | attempt a: 4a aspect ratio, 4a+1 height, 4a+2 top, 4a+3 left |
//! | `RandomRotation` | 0: angle |
//! | `RandomZoom` | 0: height factor, 1: width factor |
//! | `RandAugment` | per layer 0: op, 1: sign, 2: cutout row, 3: cutout column |
//! | `KerasRandAugment` | per layer 0: skip, 1: op, 2: factor, 3: sign, or the threshold of solarization |

use crate::math::standard_normal;
use crate::rng::{Stream, unit};

/// First op number of the augmentations.
pub const OP_BASE: u32 = 1 << 30;

/// Most steps of a pipeline, and most layers of one step.
pub const MAX_STEPS: usize = 256;

/// Which run, step and image the numbers are drawn for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    /// Seed of the run.
    pub seed: u64,
    /// Training step.
    pub step: u32,
    /// Index of the image in its data set.
    pub index: u32,
    /// Number of the pipeline among those that see the same images.
    pub branch: u8,
}

impl Sampler {
    /// The numbers of layer `layer` of the step at `position`.
    pub fn draws(&self, position: usize, layer: usize) -> Draws {
        let op = OP_BASE | u32::from(self.branch) << 16 | (position as u32) << 8 | layer as u32;
        Draws(Stream { seed: self.seed, step: self.step, index: self.index, op })
    }
}

/// The numbers that one step draws for one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draws(Stream);

impl Draws {
    /// Four elements at once: `4·block .. 4·block + 4`.
    pub fn block(&self, block: u32) -> [Word; 4] {
        self.0.block(block).map(Word)
    }
}

/// 32 random bits on their way to becoming a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word(pub u32);

impl Word {
    /// Uniform in `[0, 1)`.
    pub fn uniform(self) -> f32 {
        unit(self.0)
    }

    /// Uniform in `[lo, hi)` up to rounding: `lo + (hi − lo)·u`.
    pub fn between(self, lo: f32, hi: f32) -> f32 {
        lo + (hi - lo) * self.uniform()
    }

    /// Uniform integer in `[0, n)`, by multiply-shift.
    pub fn below(self, n: usize) -> usize {
        ((u64::from(self.0) * n as u64) >> 32) as usize
    }

    /// True with probability ½: u ≥ ½.
    pub fn positive(self) -> bool {
        self.uniform() >= 0.5
    }

    /// Normal with `mean` and `std`, clipped to `[lo, hi]`.
    pub fn clipped_normal(self, mean: f32, std: f32, lo: f32, hi: f32) -> f32 {
        (mean + std * standard_normal(self.0)).clamp(lo, hi)
    }
}
