//! Dropout with counter-based random numbers.
//!
//! Source: Srivastava et al., "Dropout" (2014).

use super::volume;
use crate::error::check_len;
use crate::rng::{Stream, unit};
use crate::{Error, Result};
use rayon::prelude::*;

/// Elements of a sample that one task handles.
const CHUNK: usize = 4096;

/// `y = x / (1 - rate)` with probability `1 - rate`, else 0. Writes `y` with `=`.
///
/// Shapes: `x, y [samples, elems]`, `indices [samples]`: each sample's index in its data set.
///
/// Element `e` of a sample is kept when the uniform number `e` of its stream is at least `rate`. The stream is
/// `Stream { index, ..stream }`: seed, step and op of `stream`, the sample's own index.
///
/// Gradient: the same function with `dy` for `x` and `dx` for `y`; the mask is drawn again, not stored.
///
/// Determinism: the mask is a function of the stream, never of threads or places in the batch.
///
/// # Errors
/// When `rate` is outside `[0, 1)`, an extent is zero, a slice has the wrong length, or a sample has more than
/// 2^32 elements.
///
/// # Example
/// ```
/// use warpsmith::{cpu::dropout::dropout, rng::Stream};
/// let stream = Stream { seed: 1, step: 0, index: 0, op: 7 };
/// let mut y = [0.0; 64];
/// dropout(stream, 0.5, &[0], &[1.0; 64], &mut y)?;
/// assert!(y.iter().all(|&y| y == 0.0 || y == 2.0));
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn dropout(stream: Stream, rate: f32, indices: &[u32], x: &[f32], y: &mut [f32]) -> Result<()> {
    const OP: &str = "dropout";
    if !(0.0..1.0).contains(&rate) {
        return Err(Error::argument(OP, "a rate in [0, 1)", rate, "the rate is the share of values that become 0"));
    }
    let samples = volume(OP, &[indices.len()])?;
    check_len(OP, "y", y.len(), x.len())?;
    let elems = x.len() / samples;
    check_len(OP, "x", x.len(), volume(OP, &[samples, elems])?)?;
    if elems as u64 > 1 << 32 {
        return Err(Error::shape(OP, "at most 2^32 elements a sample", elems, "split the sample"));
    }
    let scale = 1.0 / (1.0 - rate);
    y.par_chunks_mut(elems).zip(x.par_chunks(elems)).zip(indices).for_each(|((y, x), &index)| {
        let stream = Stream { index, ..stream };
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).enumerate().for_each(|(chunk, (y, x))| {
            let first = chunk * CHUNK / 4;
            for (block, (y, x)) in y.chunks_mut(4).zip(x.chunks(4)).enumerate() {
                let bits = stream.block((first + block) as u32);
                for ((y, x), bits) in y.iter_mut().zip(x).zip(bits) {
                    *y = if unit(bits) >= rate { x * scale } else { 0.0 };
                }
            }
        });
    });
    Ok(())
}
