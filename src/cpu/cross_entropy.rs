//! Cross-entropy with integer labels, on logits and on probabilities, and the accuracy count.
//!
//! Rows are short (one number per class), so they are computed in f64 throughout.

use super::volume;
use crate::error::check_len;
pub use crate::problem::Clip;
use crate::{Error, Result};
use rayon::prelude::*;

/// Checks extents and labels; returns nothing but errors.
fn check(op: &'static str, rows: usize, classes: usize, x: &[f32], labels: &[i32]) -> Result<()> {
    check_len(op, "logits", x.len(), volume(op, &[rows, classes])?)?;
    check_len(op, "labels", labels.len(), rows)?;
    match labels.iter().position(|&label| usize::try_from(label).map_or(true, |label| label >= classes)) {
        None => Ok(()),
        Some(row) => Err(Error::argument(
            op,
            format_args!("labels in 0..{classes} ({classes} classes)"),
            format_args!("label {} in row {row}", labels[row]),
            "check the labels and the size of the last layer",
        )),
    }
}

/// `log Σ exp` of a row, safe against overflow.
pub(super) fn log_sum_exp(z: impl Iterator<Item = f64> + Clone) -> f64 {
    let max = z.clone().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = z.map(|z| (z - max).exp()).sum();
    max + sum.ln()
}

fn logits(row: &[f32]) -> impl Iterator<Item = f64> + Clone {
    row.iter().map(|&z| f64::from(z))
}

/// Mean over the rows of `loss(row)`, each optionally written to `per_sample`.
pub(super) fn mean_loss(rows: usize, per_sample: Option<&mut [f32]>, loss: impl Fn(usize) -> f64 + Sync + Send) -> f32 {
    let losses: Vec<f64> = (0..rows).into_par_iter().with_min_len(64).map(loss).collect();
    if let Some(per_sample) = per_sample {
        for (out, &loss) in per_sample.iter_mut().zip(&losses) {
            *out = loss as f32;
        }
    }
    (losses.iter().sum::<f64>() / rows as f64) as f32
}

/// Mean over the batch of `log Σ exp(z) - z[label]`; the terms go to `per_sample` (`=`) if it is given.
///
/// Shapes: `logits [rows, classes]`, `labels [rows]`, `per_sample [rows]`.
///
/// Gradient: [`backward`].
///
/// Determinism: rows on their own, their losses added in order.
///
/// # Errors
/// When an extent is zero, a slice has the wrong length, or a label is not a class.
///
/// # Example
/// ```
/// let loss = warpsmith::cpu::cross_entropy::forward(1, 2, &[0.0, 0.0], &[1], None)?;
/// assert_eq!(loss, std::f32::consts::LN_2);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn forward(
    rows: usize,
    classes: usize,
    logits: &[f32],
    labels: &[i32],
    per_sample: Option<&mut [f32]>,
) -> Result<f32> {
    const OP: &str = "cross_entropy";
    check(OP, rows, classes, logits, labels)?;
    check_per_sample(OP, rows, per_sample.as_deref())?;
    Ok(mean_loss(rows, per_sample, |row| {
        let z = &logits[row * classes..][..classes];
        log_sum_exp(self::logits(z)) - f64::from(z[labels[row] as usize])
    }))
}

pub(super) fn check_per_sample(op: &'static str, rows: usize, per_sample: Option<&[f32]>) -> Result<()> {
    per_sample.map_or(Ok(()), |per_sample| check_len(op, "per_sample", per_sample.len(), rows))
}

/// Gradient of [`forward`]: `dlogits (= or += with accumulate) dloss * (softmax(z) - onehot(label)) / rows`.
///
/// Shapes: `logits, dlogits [rows, classes]`, `labels [rows]`; `dloss` is the gradient of the scalar loss.
///
/// Determinism: rows on their own.
///
/// # Errors
/// When an extent is zero, a slice has the wrong length, or a label is not a class.
///
/// # Example
/// ```
/// let mut dlogits = [0.0; 2];
/// warpsmith::cpu::cross_entropy::backward(1, 2, &[0.0, 0.0], &[1], 2.0, false, &mut dlogits)?;
/// assert_eq!(dlogits, [1.0, -1.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn backward(
    rows: usize,
    classes: usize,
    logits: &[f32],
    labels: &[i32],
    dloss: f32,
    accumulate: bool,
    dlogits: &mut [f32],
) -> Result<()> {
    const OP: &str = "cross_entropy backward";
    check(OP, rows, classes, logits, labels)?;
    check_len(OP, "dlogits", dlogits.len(), logits.len())?;
    let scale = f64::from(dloss) / rows as f64;
    dlogits.par_chunks_exact_mut(classes).with_min_len(64).enumerate().for_each(|(row, dz)| {
        let z = &logits[row * classes..][..classes];
        let normaliser = log_sum_exp(self::logits(z));
        for class in 0..classes {
            let target = if class == labels[row] as usize { 1.0 } else { 0.0 };
            let gradient = (scale * ((f64::from(z[class]) - normaliser).exp() - target)) as f32;
            dz[class] = if accumulate { dz[class] + gradient } else { gradient };
        }
    });
    Ok(())
}

/// How many rows have their largest logit at the label; of equal logits the first counts.
///
/// # Errors
/// When an extent is zero, a slice has the wrong length, or a label is not a class.
///
/// # Example
/// ```
/// let correct = warpsmith::cpu::cross_entropy::correct(2, 2, &[0.0, 1.0, 3.0, 2.0], &[1, 1])?;
/// assert_eq!(correct, 1);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn correct(rows: usize, classes: usize, logits: &[f32], labels: &[i32]) -> Result<usize> {
    check("accuracy", rows, classes, logits, labels)?;
    let argmax = |z: &[f32]| {
        let mut best = 0;
        for class in 1..classes {
            if z[class] > z[best] {
                best = class;
            }
        }
        best
    };
    Ok(logits.chunks_exact(classes).zip(labels).filter(|(z, label)| argmax(z) == **label as usize).count())
}

/// Cross-entropy of probabilities as Keras computes it on plain arrays: with `p` clipped, the mean over the
/// batch of `log Σ p - log p[label]` (a row that does not sum to one is renormalised).
///
/// Models that end in a softmax are trained with [`forward`] on the logits instead: Keras does so, too.
///
/// Shapes: `p [rows, classes]`, `labels [rows]`, `per_sample [rows]` (`=`).
///
/// Gradient: [`probs_backward`].
///
/// Determinism: rows on their own, their losses added in order.
///
/// # Errors
/// When an extent is zero, a slice has the wrong length, or a label is not a class.
///
/// # Example
/// ```
/// use warpsmith::cpu::cross_entropy::{Clip, probs_forward};
/// let loss = probs_forward(1, 2, &[0.5, 0.5], &[1], Clip::PROBS, None)?;
/// assert_eq!(loss, std::f32::consts::LN_2);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn probs_forward(
    rows: usize,
    classes: usize,
    p: &[f32],
    labels: &[i32],
    clip: Clip,
    per_sample: Option<&mut [f32]>,
) -> Result<f32> {
    const OP: &str = "cross_entropy_probs";
    check(OP, rows, classes, p, labels)?;
    check_per_sample(OP, rows, per_sample.as_deref())?;
    Ok(mean_loss(rows, per_sample, |row| {
        let p = &p[row * classes..][..classes];
        let sum: f64 = p.iter().map(|&p| clip.apply(f64::from(p))).sum();
        sum.ln() - clip.apply(f64::from(p[labels[row] as usize])).ln()
    }))
}

/// Gradient of [`probs_forward`]: `dp = dloss / rows * (1 / Σ p - onehot(label) / p)`, 0 where the clip acts.
///
/// Shapes: `p, dp [rows, classes]`, `labels [rows]`. Writes `dp` with `=`.
///
/// Determinism: rows on their own.
///
/// # Errors
/// When an extent is zero, a slice has the wrong length, or a label is not a class.
///
/// # Example
/// ```
/// use warpsmith::cpu::cross_entropy::{Clip, probs_backward};
/// let mut dp = [0.0; 2];
/// probs_backward(1, 2, &[0.5, 0.5], &[1], Clip::PROBS, 1.0, &mut dp)?;
/// assert_eq!(dp, [1.0, -1.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn probs_backward(
    rows: usize,
    classes: usize,
    p: &[f32],
    labels: &[i32],
    clip: Clip,
    dloss: f32,
    dp: &mut [f32],
) -> Result<()> {
    const OP: &str = "cross_entropy_probs backward";
    check(OP, rows, classes, p, labels)?;
    check_len(OP, "dp", dp.len(), p.len())?;
    let scale = f64::from(dloss) / rows as f64;
    dp.par_chunks_exact_mut(classes).with_min_len(64).enumerate().for_each(|(row, dp)| {
        let p = &p[row * classes..][..classes];
        let sum: f64 = p.iter().map(|&p| clip.apply(f64::from(p))).sum();
        for class in 0..classes {
            let value = f64::from(p[class]);
            let target = if class == labels[row] as usize { 1.0 / value } else { 0.0 };
            dp[class] = if clip.contains(value) { (scale * (1.0 / sum - target)) as f32 } else { 0.0 };
        }
    });
    Ok(())
}
