//! Seeded pictures with classes that a network can learn, for tests and demonstrations without files.

use super::{ImageSet, SYNTHETIC, sequence};
use crate::rng::unit;
use crate::{Error, Result};

/// `n` images `[h, w, 3]` of `classes` classes: a class is a colour and a direction of stripes, an image adds a
/// random phase, a random brightness and noise. Image `i` has class `i % classes`.
///
/// # Errors
/// When an extent or `n` is zero, or when a class would be empty.
///
/// # Determinism
/// Image `i` depends on the seed, its size and `i` alone.
pub fn images(n: usize, classes: usize, h: usize, w: usize, seed: u64) -> Result<ImageSet> {
    if classes == 0 || n < classes || h == 0 || w == 0 {
        return Err(Error::argument(
            "synthetic",
            "positive classes, h and w, and at least one image per class",
            format_args!("{n} images, {classes} classes, h {h}, w {w}"),
            "ask for more images",
        ));
    }
    let mut pixels = Vec::with_capacity(n * h * w * 3);
    for i in 0..n {
        let mut rng = sequence(seed, i as u64, SYNTHETIC);
        let mut uniform = || unit(rng.next_word());
        let turn = std::f32::consts::TAU * (i % classes) as f32 / classes as f32;
        // Half a turn is the whole circle of stripe directions.
        let (across, down) = ((turn / 2.0).cos(), (turn / 2.0).sin());
        let (phase, brightness) = (std::f32::consts::TAU * uniform(), 0.7 + 0.3 * uniform());
        for y in 0..h {
            for x in 0..w {
                let stripe = (0.8 * (across * x as f32 + down * y as f32) + phase).sin();
                for channel in 0..3 {
                    let colour = (turn + std::f32::consts::TAU * channel as f32 / 3.0).cos();
                    let noise = uniform() - 0.5;
                    pixels.push((brightness * (128.0 + 45.0 * colour + 40.0 * stripe + 40.0 * noise)) as u8);
                }
            }
        }
    }
    let labels: Vec<i32> = (0..n).map(|i| (i % classes) as i32).collect();
    let names: Vec<String> = (0..classes).map(|class| format!("class {class}")).collect();
    ImageSet::from_arrays("synthetic", pixels, [n, h, w, 3], &labels, &names)
}
