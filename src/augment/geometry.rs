//! Random geometry: what flips, crops, rotations and zooms draw.

use super::sampler::Draws;
use crate::cpu::augment_geometry::CropBox;
use crate::error::{Error, Result};

/// Whether a random flip flips: probability ½.
pub fn draw_flip(draws: &Draws) -> bool {
    !draws.block(0)[0].positive()
}

/// A crop of `height` x `width` at an offset uniform over all that fit, the last included.
///
/// # Errors
/// An image smaller than the crop; the message names both sizes.
pub fn draw_crop(draws: &Draws, h: usize, w: usize, height: usize, width: usize) -> Result<CropBox> {
    check_crop(h, w, height, width)?;
    let words = draws.block(0);
    Ok(CropBox { top: words[0].below(h - height + 1), left: words[1].below(w - width + 1), height, width })
}

/// Fails unless a `height` x `width` crop fits in an `h` x `w` image.
pub(super) fn check_crop(h: usize, w: usize, height: usize, width: usize) -> Result<()> {
    if height <= h && width <= w {
        return Ok(());
    }
    Err(Error::shape(
        "random_crop",
        format_args!("an image of at least {height}x{width}"),
        format_args!("{h}x{w}"),
        "resize the image first, or crop less",
    ))
}

/// An angle uniform in ±`factor` full turns, in radians.
pub fn draw_rotation(draws: &Draws, factor: f32) -> f32 {
    draws.block(0)[0].between(-factor, factor) * std::f32::consts::TAU
}

/// Height and width factors of a zoom, each uniform in ± its bound and independent of the other.
pub fn draw_zoom(draws: &Draws, height_factor: f32, width_factor: f32) -> (f32, f32) {
    let words = draws.block(0);
    (words[0].between(-height_factor, height_factor), words[1].between(-width_factor, width_factor))
}

/// A crop whose area and aspect ratio vary: the sampling of Inception-style training.
///
/// Up to `attempts` times: aspect ratio r = width/height ~ U(aspect); the height is uniform over the integers whose
/// box has an area in `area` (a share of the image) and fits; width = round(height·r). The offset is uniform
/// over `[0, extent − size)`: the last one is never chosen. After the last attempt the whole image is the box.
///
/// Source: `tf.image.sample_distorted_bounding_box` without boxes, `min_object_covered` 0.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DistortedBox {
    /// Smallest and largest share of the image's area.
    pub area: (f32, f32),
    /// Smallest and largest width/height.
    pub aspect: (f32, f32),
    /// Tries before the whole image is taken.
    pub attempts: u32,
}

impl Default for DistortedBox {
    fn default() -> Self {
        DistortedBox { area: (0.05, 1.0), aspect: (0.75, 1.33), attempts: 100 }
    }
}

impl DistortedBox {
    /// Fails unless 0 < lower ≤ upper for both ranges and the area is at most 1.
    pub(super) fn check(&self) -> Result<()> {
        let ordered = |(lo, hi): (f32, f32)| lo > 0.0 && lo <= hi && hi.is_finite();
        if ordered(self.area) && self.area.1 <= 1.0 && ordered(self.aspect) {
            return Ok(());
        }
        Err(Error::argument(
            "distorted_box_crop",
            "0 < lower <= upper for area and aspect, area at most 1",
            format_args!("area {:?}, aspect {:?}", self.area, self.aspect),
            "swap or correct the bounds",
        ))
    }

    /// Draws the box for an `h` x `w` image.
    pub fn draw(&self, draws: &Draws, h: usize, w: usize) -> CropBox {
        (0..self.attempts)
            .find_map(|attempt| {
                let [aspect, height, top, left] = draws.block(attempt);
                let aspect = aspect.between(self.aspect.0, self.aspect.1);
                let (height, width) = self.size(h, w, aspect, |n| height.below(n))?;
                let offset = |slack: usize, word: super::sampler::Word| if slack > 0 { word.below(slack) } else { 0 };
                Some(CropBox { top: offset(h - height, top), left: offset(w - width, left), height, width })
            })
            .unwrap_or(CropBox { top: 0, left: 0, height: h, width: w })
    }

    /// Height and width for one aspect ratio; `below(n)` draws an integer in `[0, n)`. `None`: the attempt fails.
    fn size(&self, h: usize, w: usize, aspect: f32, below: impl Fn(usize) -> usize) -> Option<(usize, usize)> {
        let (min_area, max_area) = (self.area.0 * w as f32 * h as f32, self.area.1 * w as f32 * h as f32);
        let width_of = |height: i64| (height as f32 * aspect).round_ties_even() as i64;
        let mut height = (min_area / aspect).sqrt().round_ties_even() as i64;
        let mut max_height = (max_area / aspect).sqrt().round_ties_even() as i64;
        if width_of(max_height) > w as i64 {
            // The reference subtracts a float32 epsilon of 1e-7 and divides in float64.
            max_height = ((w as f64 + 0.5 - f64::from(1e-7f32)) / f64::from(aspect)) as i64;
            if width_of(max_height) > w as i64 {
                max_height -= 1;
            }
        }
        let max_height = max_height.min(h as i64);
        height = height.min(max_height);
        if height < max_height {
            height += below((max_height - height + 1) as usize) as i64;
        }
        let area = |height: i64| (width_of(height) * height) as f32;
        // Rounding may have carried the area just past a bound: try one row more, then one less.
        if area(height) < min_area {
            height += 1;
        }
        if area(height) > max_area {
            height -= 1;
        }
        let width = width_of(height);
        let fits = (1..=h as i64).contains(&height) && (1..=w as i64).contains(&width);
        let allowed = (min_area..=max_area).contains(&area(height));
        (fits && allowed).then_some((height as usize, width as usize))
    }
}
