//! The model garden's RandAugment: a few random ops in sequence on a u8 image.
//!
//! Source: Cubuk, Zoph, Shlens, Le: "RandAugment: practical automated data augmentation with a reduced search space"
//! (2020), as `official.vision.ops.augment.RandAugment` computes it.

use super::sampler::{Draws, MAX_STEPS};
use crate::cpu::augment_geometry::{
    FillMode, Interpolation, Pixel, WarpScratch, shear_x_transform, shear_y_transform, translation_transform,
    warp_image,
};
use crate::cpu::augment_pixel::randaugment;
use crate::error::{Error, Result, check_len};

/// The ops of the policy in the order of their indices 0..16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RandAugmentOp {
    /// Stretch each channel to 0..255.
    AutoContrast,
    /// Equalise each channel's histogram.
    Equalize,
    /// 255 − x.
    Invert,
    /// ±(level/10)·30 degrees.
    Rotate,
    /// Keep int(level/10·4) bits.
    Posterize,
    /// Invert from int(level/10·256) upwards.
    Solarize,
    /// Blend with gray, factor level/10·1.8 + 0.1.
    Color,
    /// Blend with a constant, the same factor.
    Contrast,
    /// Blend with black, the same factor.
    Brightness,
    /// Blend with a smoothed image, the same factor.
    Sharpness,
    /// ±(level/10)·0.3.
    ShearX,
    /// ±(level/10)·0.3.
    ShearY,
    /// ±(level/10)·translate_const pixels.
    TranslateX,
    /// ±(level/10)·translate_const pixels.
    TranslateY,
    /// A square of half side int(level/10·cutout_const).
    Cutout,
    /// Add int(level/10·110) to values below 128.
    SolarizeAdd,
    /// Nothing.
    Identity,
}

impl RandAugmentOp {
    /// All ops by index; each is drawn with probability 1/17.
    pub const ALL: [RandAugmentOp; 17] = [
        RandAugmentOp::AutoContrast,
        RandAugmentOp::Equalize,
        RandAugmentOp::Invert,
        RandAugmentOp::Rotate,
        RandAugmentOp::Posterize,
        RandAugmentOp::Solarize,
        RandAugmentOp::Color,
        RandAugmentOp::Contrast,
        RandAugmentOp::Brightness,
        RandAugmentOp::Sharpness,
        RandAugmentOp::ShearX,
        RandAugmentOp::ShearY,
        RandAugmentOp::TranslateX,
        RandAugmentOp::TranslateY,
        RandAugmentOp::Cutout,
        RandAugmentOp::SolarizeAdd,
        RandAugmentOp::Identity,
    ];

    /// Snake-case name, as in [`crate::cpu::augment_pixel::randaugment`].
    pub fn name(self) -> &'static str {
        match self {
            RandAugmentOp::AutoContrast => "auto_contrast",
            RandAugmentOp::Equalize => "equalize",
            RandAugmentOp::Invert => "invert",
            RandAugmentOp::Rotate => "rotate",
            RandAugmentOp::Posterize => "posterize",
            RandAugmentOp::Solarize => "solarize",
            RandAugmentOp::Color => "color",
            RandAugmentOp::Contrast => "contrast",
            RandAugmentOp::Brightness => "brightness",
            RandAugmentOp::Sharpness => "sharpness",
            RandAugmentOp::ShearX => "shear_x",
            RandAugmentOp::ShearY => "shear_y",
            RandAugmentOp::TranslateX => "translate_x",
            RandAugmentOp::TranslateY => "translate_y",
            RandAugmentOp::Cutout => "cutout",
            RandAugmentOp::SolarizeAdd => "solarize_add",
            RandAugmentOp::Identity => "identity",
        }
    }

    /// The op of that name.
    pub fn from_name(name: &str) -> Option<RandAugmentOp> {
        RandAugmentOp::ALL.into_iter().find(|op| op.name() == name)
    }
}

/// What one layer does to one image: an op and its random choices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RandAugmentDraw {
    /// The op.
    pub op: RandAugmentOp,
    /// Whether a signed argument keeps its sign.
    pub positive: bool,
    /// Row of the centre of a cutout.
    pub centre_row: usize,
    /// Column of the centre of a cutout.
    pub centre_col: usize,
}

/// The policy and its constants; the names are the reference's.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandAugment {
    /// Ops per image.
    pub num_layers: usize,
    /// Level of every op, 0..=10.
    pub magnitude: f64,
    /// Half side of a cutout at level 10, in pixels.
    pub cutout_const: f64,
    /// Translation at level 10, in pixels.
    pub translate_const: f64,
}

impl Default for RandAugment {
    fn default() -> Self {
        RandAugment { num_layers: 2, magnitude: 9.0, cutout_const: 40.0, translate_const: 100.0 }
    }
}

/// Value of the pixels that a cutout removes.
const REPLACE: [u8; 3] = [128; 3];

/// Grow-only buffers of one thread.
#[derive(Default)]
pub(super) struct RandAugmentScratch {
    pub warp: WarpScratch,
    /// The other buffer of ops that cannot work in place.
    pub spare: Vec<u8>,
}

impl RandAugment {
    /// Fails unless the constants are in their domains.
    pub(super) fn check(&self) -> Result<()> {
        let constant = |value: f64| (0.0..=1e6).contains(&value);
        if self.num_layers <= MAX_STEPS
            && (0.0..=10.0).contains(&self.magnitude)
            && constant(self.cutout_const)
            && constant(self.translate_const)
        {
            return Ok(());
        }
        Err(Error::argument(
            "RandAugment",
            format_args!("num_layers up to {MAX_STEPS}, magnitude 0..=10, constants 0..=1e6"),
            format_args!("{self:?}"),
            "correct the field that is out of range",
        ))
    }

    /// Draws what layer `draws` does to an `h` x `w` image.
    pub fn draw(&self, draws: &Draws, h: usize, w: usize) -> RandAugmentDraw {
        let [op, sign, row, col] = draws.block(0);
        RandAugmentDraw {
            op: RandAugmentOp::ALL[op.below(RandAugmentOp::ALL.len())],
            positive: sign.positive(),
            centre_row: row.below(h),
            centre_col: col.below(w),
        }
    }

    /// Applies given draws to a float32 image `[h, w, 3]`: clip to 0..255, truncate to u8, the ops in order, back
    /// to float32.
    ///
    /// # Errors
    /// Constants outside their domains; an extent of zero; a length that does not fit; a cutout centre outside.
    /// # Example
    /// ```
    /// use warpsmith::augment::{RandAugment, RandAugmentDraw, RandAugmentOp};
    /// let invert = RandAugmentDraw { op: RandAugmentOp::Invert, positive: true, centre_row: 0, centre_col: 0 };
    /// let mut y = [0.0; 3];
    /// RandAugment::default().distort(&[-3.0, 99.7, 300.0], 1, 1, &[invert], &mut y)?;
    /// assert_eq!(y, [255.0, 156.0, 0.0]);
    /// # Ok::<(), warpsmith::Error>(())
    /// ```
    pub fn distort(&self, x: &[f32], h: usize, w: usize, draws: &[RandAugmentDraw], y: &mut [f32]) -> Result<()> {
        self.check()?;
        let elems = h.checked_mul(w).and_then(|elems| elems.checked_mul(3)).unwrap_or(usize::MAX);
        check_len("RandAugment", "x", x.len(), elems)?;
        check_len("RandAugment", "y", y.len(), elems)?;
        let mut image: Vec<u8> = x.iter().map(|&x| u8::from_f32(x)).collect();
        let mut scratch = RandAugmentScratch::default();
        for draw in draws {
            self.apply(draw, &mut image, h, w, &mut scratch)?;
        }
        for (y, &x) in y.iter_mut().zip(&image) {
            *y = f32::from(x);
        }
        Ok(())
    }

    /// Applies one layer to a u8 image in `image`, which may trade places with the scratch buffer.
    pub(super) fn apply(
        &self,
        draw: &RandAugmentDraw,
        image: &mut Vec<u8>,
        h: usize,
        w: usize,
        scratch: &mut RandAugmentScratch,
    ) -> Result<()> {
        // Arguments in float64, then rounded or truncated, as the reference's Python does.
        let share = self.magnitude / 10.0;
        let signed = |value: f64| if draw.positive { value } else { -value };
        let factor = (share * 1.8 + 0.1) as f32;
        let transform = match draw.op {
            RandAugmentOp::AutoContrast => return randaugment::auto_contrast(image, h, w),
            RandAugmentOp::Equalize => return randaugment::equalize(image, h, w),
            RandAugmentOp::Invert => return randaugment::invert(image, h, w),
            RandAugmentOp::Posterize => return randaugment::posterize(image, h, w, (share * 4.0) as u32),
            RandAugmentOp::Solarize => return randaugment::solarize(image, h, w, (share * 256.0) as u32),
            RandAugmentOp::SolarizeAdd => {
                return randaugment::solarize_add(image, h, w, (share * 110.0) as u32, 128);
            }
            RandAugmentOp::Color => return randaugment::color(image, h, w, factor),
            RandAugmentOp::Contrast => return randaugment::contrast(image, h, w, factor),
            RandAugmentOp::Brightness => return randaugment::brightness(image, h, w, factor),
            RandAugmentOp::Cutout => {
                let pad = (share * self.cutout_const) as usize;
                return randaugment::cutout(image, h, w, pad, draw.centre_row, draw.centre_col, REPLACE);
            }
            RandAugmentOp::Identity => return Ok(()),
            RandAugmentOp::Sharpness => {
                scratch.spare.resize(image.len(), 0);
                randaugment::sharpness(image, h, w, factor, &mut scratch.spare)?;
                std::mem::swap(image, &mut scratch.spare);
                return Ok(());
            }
            RandAugmentOp::Rotate => randaugment::rotate_transform(h, w, signed(share * 30.0)),
            RandAugmentOp::ShearX => shear_x_transform(signed(share * 0.3) as f32),
            RandAugmentOp::ShearY => shear_y_transform(signed(share * 0.3) as f32),
            RandAugmentOp::TranslateX => translation_transform(signed(share * self.translate_const) as f32, 0.0),
            RandAugmentOp::TranslateY => translation_transform(0.0, signed(share * self.translate_const) as f32),
        };
        scratch.spare.resize(image.len(), 0);
        let (nearest, reflect) = (Interpolation::Nearest, FillMode::Reflect);
        warp_image(image, [h, w, 3], &transform, nearest, reflect, 0.0, &mut scratch.warp, &mut scratch.spare);
        std::mem::swap(image, &mut scratch.spare);
        Ok(())
    }
}
