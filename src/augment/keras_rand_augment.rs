//! keras_cv's RandAugment: a few random ops in sequence on a float32 image with values in 0..255.
//!
//! Source: `keras_cv.layers.RandAugment`; ops in [`crate::cpu::augment_pixel::keras_cv`].

use super::sampler::{Draws, MAX_STEPS};
use crate::cpu::augment_geometry::{
    FillMode, Interpolation, WarpScratch, shear_x_transform, shear_y_transform, translation_transform, warp_image,
};
use crate::cpu::augment_pixel::keras_cv;
use crate::error::{Error, Result};

/// One of the ten ops with its drawn arguments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum KerasOp {
    /// Stretch each channel to 0..255.
    AutoContrast,
    /// Equalise each channel's histogram.
    Equalization,
    /// Add, then invert from the threshold upwards.
    Solarization {
        /// What is added.
        addition: f32,
        /// First value that is inverted.
        threshold: f32,
    },
    /// Blend towards gray.
    ColorDegeneration {
        /// Share of gray, 0..1.
        factor: f32,
    },
    /// Scale the distance from the mean.
    Contrast {
        /// The scale.
        factor: f32,
    },
    /// Add a constant.
    Brightness {
        /// The constant.
        delta: f32,
    },
    /// Source x = x + shear·y.
    ShearX {
        /// The slope.
        shear: f32,
    },
    /// Source y = y + shear·x.
    ShearY {
        /// The slope.
        shear: f32,
    },
    /// Source x = x − factor·w.
    TranslationX {
        /// Share of the width.
        factor: f32,
    },
    /// Source y = y − factor·h.
    TranslationY {
        /// Share of the height.
        factor: f32,
    },
}

/// The policy and its constants; the names are the reference's. The value range is 0..255.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KerasRandAugment {
    /// Ops per image.
    pub augmentations_per_image: usize,
    /// Strength of every op, 0..=1.
    pub magnitude: f32,
    /// Standard deviation of the normal factors.
    pub magnitude_stddev: f32,
    /// Probability that a layer does anything, 0..=1.
    pub rate: f32,
}

impl Default for KerasRandAugment {
    fn default() -> Self {
        KerasRandAugment { augmentations_per_image: 3, magnitude: 0.8, magnitude_stddev: 0.15, rate: 10.0 / 11.0 }
    }
}

impl KerasRandAugment {
    /// Fails unless the constants are in their domains.
    pub(super) fn check(&self) -> Result<()> {
        let share = |value: f32| (0.0..=1.0).contains(&value);
        if self.augmentations_per_image <= MAX_STEPS
            && share(self.magnitude)
            && (0.0..=10.0).contains(&self.magnitude_stddev)
            && share(self.rate)
        {
            return Ok(());
        }
        Err(Error::argument(
            "KerasRandAugment",
            format_args!("up to {MAX_STEPS} augmentations_per_image, magnitude and rate 0..=1, stddev 0..=10"),
            format_args!("{self:?}"),
            "correct the field that is out of range",
        ))
    }

    /// Draws what a layer does; `None`: nothing, with probability 1 − rate.
    pub fn draw(&self, draws: &Draws) -> Option<KerasOp> {
        let [skip, op, first, second] = draws.block(0);
        if skip.uniform() > self.rate {
            return None;
        }
        let (m, sd) = (self.magnitude, self.magnitude_stddev);
        let shear = || {
            let shear = first.clipped_normal(m, sd, 0.0, 1.0);
            if second.positive() { shear } else { -shear }
        };
        Some(match op.below(10) {
            0 => KerasOp::AutoContrast,
            1 => KerasOp::Equalization,
            2 => KerasOp::Solarization {
                addition: first.clipped_normal(110.0 * m, 110.0 * sd, 0.0, 110.0),
                threshold: second.clipped_normal(255.0 - 255.0 * m, 255.0 * sd, 0.0, 255.0),
            },
            3 => KerasOp::ColorDegeneration { factor: first.clipped_normal(m, sd, 0.0, 1.0) },
            4 => KerasOp::Contrast { factor: first.between(1.0 - m, 1.0 + m) },
            5 => KerasOp::Brightness { delta: first.between(-m, m) * 255.0 },
            6 => KerasOp::ShearX { shear: shear() },
            7 => KerasOp::ShearY { shear: shear() },
            8 => KerasOp::TranslationX { factor: first.between(-m, m) },
            _ => KerasOp::TranslationY { factor: first.between(-m, m) },
        })
    }

    /// Applies one op to an image `[h, w, 3]` in `image`, which may trade places with `spare`.
    pub(super) fn apply(
        op: &KerasOp,
        image: &mut Vec<f32>,
        h: usize,
        w: usize,
        scratch: &mut WarpScratch,
        spare: &mut Vec<f32>,
    ) {
        let transform = match *op {
            KerasOp::AutoContrast => return keras_cv::auto_contrast_image(image),
            KerasOp::Equalization => return keras_cv::equalization_image(image),
            KerasOp::Solarization { addition, threshold } => {
                return keras_cv::solarization_image(image, addition, threshold);
            }
            KerasOp::ColorDegeneration { factor } => return keras_cv::color_degeneration_image(image, factor),
            KerasOp::Contrast { factor } => return keras_cv::contrast_image(image, w, factor),
            KerasOp::Brightness { delta } => return keras_cv::brightness_image(image, delta),
            KerasOp::ShearX { shear } => shear_x_transform(shear),
            KerasOp::ShearY { shear } => shear_y_transform(shear),
            KerasOp::TranslationX { factor } => translation_transform(-(factor * w as f32), 0.0),
            KerasOp::TranslationY { factor } => translation_transform(0.0, -(factor * h as f32)),
        };
        spare.resize(image.len(), 0.0);
        warp_image(image, [h, w, 3], &transform, Interpolation::Bilinear, FillMode::Reflect, 0.0, scratch, spare);
        std::mem::swap(image, spare);
    }
}
