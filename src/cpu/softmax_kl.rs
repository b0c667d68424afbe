//! Softmax, Kullback-Leibler divergence, and their fusion for distillation.
//!
//! Rows are short (one number per class), so they are computed in f64 throughout.

use super::cross_entropy::{Clip, check_per_sample, log_sum_exp, mean_loss};
use super::{scratch, volume};
use crate::Result;
use crate::error::{check_len, check_temperature};
use rayon::prelude::*;

/// `probs = softmax(logits / temperature)` per row, `=`.
///
/// Shapes: `logits, probs [rows, classes]`.
///
/// Gradient: [`softmax_backward`].
///
/// Determinism: rows on their own.
///
/// # Errors
/// When an extent is zero, a slice has the wrong length, or the temperature is not positive.
///
/// # Example
/// ```
/// let mut probs = [0.0; 2];
/// warpsmith::cpu::softmax_kl::softmax(1, 2, &[3.0, 3.0], 1.0, &mut probs)?;
/// assert_eq!(probs, [0.5, 0.5]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn softmax(rows: usize, classes: usize, logits: &[f32], temperature: f32, probs: &mut [f32]) -> Result<()> {
    const OP: &str = "softmax";
    check_len(OP, "logits", logits.len(), volume(OP, &[rows, classes])?)?;
    check_len(OP, "probs", probs.len(), logits.len())?;
    check_temperature(OP, temperature)?;
    probs.par_chunks_exact_mut(classes).zip(logits.par_chunks_exact(classes)).with_min_len(64).for_each(|(p, z)| {
        let z = z.iter().map(|&z| f64::from(z) / f64::from(temperature));
        let normaliser = log_sum_exp(z.clone());
        for (p, z) in p.iter_mut().zip(z) {
            *p = (z - normaliser).exp() as f32;
        }
    });
    Ok(())
}

/// Gradient of [`softmax`]: `dlogits = probs * (dprobs - Σ dprobs * probs) / temperature`, `=`.
///
/// Shapes: all `[rows, classes]`.
///
/// Determinism: rows on their own.
///
/// # Errors
/// When an extent is zero, a slice has the wrong length, or the temperature is not positive.
///
/// # Example
/// ```
/// let mut dlogits = [0.0; 2];
/// warpsmith::cpu::softmax_kl::softmax_backward(1, 2, &[0.5, 0.5], &[1.0, 0.0], 1.0, &mut dlogits)?;
/// assert_eq!(dlogits, [0.25, -0.25]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn softmax_backward(
    rows: usize,
    classes: usize,
    probs: &[f32],
    dprobs: &[f32],
    temperature: f32,
    dlogits: &mut [f32],
) -> Result<()> {
    const OP: &str = "softmax backward";
    check_len(OP, "probs", probs.len(), volume(OP, &[rows, classes])?)?;
    check_len(OP, "dprobs", dprobs.len(), probs.len())?;
    check_len(OP, "dlogits", dlogits.len(), probs.len())?;
    check_temperature(OP, temperature)?;
    dlogits.par_chunks_exact_mut(classes).with_min_len(64).enumerate().for_each(|(row, dz)| {
        let p = &probs[row * classes..][..classes];
        let dp = &dprobs[row * classes..][..classes];
        let dot: f64 = p.iter().zip(dp).map(|(&p, &dp)| f64::from(p) * f64::from(dp)).sum();
        for class in 0..classes {
            dz[class] = (f64::from(p[class]) * (f64::from(dp[class]) - dot) / f64::from(temperature)) as f32;
        }
    });
    Ok(())
}

/// `KL(p ‖ q)`: mean over the batch of `Σ p * log(p / q)`, both clipped to `[1e-7, 1]` as Keras does.
///
/// Shapes: `p, q [rows, classes]`, `per_sample [rows]` (`=`).
///
/// Gradient: [`kl_div_backward`], to `q`.
///
/// Determinism: rows on their own, their losses added in order.
///
/// # Errors
/// When an extent is zero or a slice has the wrong length.
///
/// # Example
/// ```
/// let kl = warpsmith::cpu::softmax_kl::kl_div(1, 2, &[1.0, 0.0], &[0.5, 0.5], None)?;
/// assert!((kl - std::f32::consts::LN_2).abs() < 1e-5);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn kl_div(rows: usize, classes: usize, p: &[f32], q: &[f32], per_sample: Option<&mut [f32]>) -> Result<f32> {
    const OP: &str = "kl_div";
    check_len(OP, "p", p.len(), volume(OP, &[rows, classes])?)?;
    check_len(OP, "q", q.len(), p.len())?;
    check_per_sample(OP, rows, per_sample.as_deref())?;
    Ok(mean_loss(rows, per_sample, |row| {
        let pairs = p[row * classes..][..classes].iter().zip(&q[row * classes..][..classes]);
        pairs.map(|(&p, &q)| divergence(f64::from(p), f64::from(q))).sum()
    }))
}

/// One term of a clipped divergence.
fn divergence(p: f64, q: f64) -> f64 {
    let (p, q) = (Clip::KL.apply(p), Clip::KL.apply(q));
    p * (p / q).ln()
}

/// Gradient of [`kl_div`] to `q`: `dq = -dloss * p / (q * rows)`, 0 where the clip acts on `q`. Writes `=`.
///
/// Shapes: `p, q, dq [rows, classes]`.
///
/// Determinism: every element is computed on its own.
///
/// # Errors
/// When an extent is zero or a slice has the wrong length.
///
/// # Example
/// ```
/// let mut dq = [0.0; 2];
/// warpsmith::cpu::softmax_kl::kl_div_backward(1, 2, &[1.0, 0.5], &[0.5, 2.0], 1.0, &mut dq)?;
/// assert_eq!(dq, [-2.0, 0.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn kl_div_backward(rows: usize, classes: usize, p: &[f32], q: &[f32], dloss: f32, dq: &mut [f32]) -> Result<()> {
    const OP: &str = "kl_div backward";
    check_len(OP, "p", p.len(), volume(OP, &[rows, classes])?)?;
    check_len(OP, "q", q.len(), p.len())?;
    check_len(OP, "dq", dq.len(), p.len())?;
    let scale = -f64::from(dloss) / rows as f64;
    for ((dq, &p), &q) in dq.iter_mut().zip(p).zip(q) {
        let q = f64::from(q);
        let gradient = scale * Clip::KL.apply(f64::from(p)) / q;
        *dq = if Clip::KL.contains(q) { gradient as f32 } else { 0.0 };
    }
    Ok(())
}

/// Distillation in one pass: `KL(softmax(teacher / T) ‖ softmax(student / T))`, value and gradient together.
///
/// Both distributions are clipped to `[1e-7, 1]` as Keras does; there is no factor `T²`. Returns the mean over
/// the batch. With `dstudent = Some((dloss, slice))` the slice receives (`=`) the gradient to the student's
/// logits times `dloss`: `(q · Σ p - p) / (T · rows)`, where only classes that the clip leaves alone take part.
/// The teacher receives no gradient.
///
/// Shapes: `teacher_logits, student_logits, dstudent [rows, classes]`.
///
/// Determinism: rows on their own, their losses added in order.
///
/// Source: Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (2015), arXiv 1503.02531.
///
/// # Errors
/// When an extent is zero, a slice has the wrong length, or the temperature is not positive.
///
/// # Example
/// ```
/// let mut dstudent = [0.0; 2];
/// let gradient = Some((1.0, &mut dstudent[..]));
/// let kl = warpsmith::cpu::softmax_kl::distill(1, 2, &[0.0, 3.0], &[1.0, 0.0], 10.0, gradient)?;
/// assert!(kl > 0.0 && dstudent[0] > 0.0 && dstudent[1] < 0.0);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn distill(
    rows: usize,
    classes: usize,
    teacher_logits: &[f32],
    student_logits: &[f32],
    temperature: f32,
    dstudent: Option<(f32, &mut [f32])>,
) -> Result<f32> {
    const OP: &str = "softmax_kl";
    check_len(OP, "teacher_logits", teacher_logits.len(), volume(OP, &[rows, classes])?)?;
    check_len(OP, "student_logits", student_logits.len(), teacher_logits.len())?;
    check_temperature(OP, temperature)?;
    let row_loss = |row: usize, scale: f64, dz: &mut [f32]| {
        let t = f64::from(temperature);
        let softened = |z: &[f32], out: &mut [f64]| {
            let z = z[row * classes..][..classes].iter().map(|&z| f64::from(z) / t);
            let normaliser = log_sum_exp(z.clone());
            out.iter_mut().zip(z).for_each(|(out, z)| *out = (z - normaliser).exp());
        };
        scratch::with_f64(2 * classes, |probs| {
            let (p, q) = probs.split_at_mut(classes);
            softened(teacher_logits, p);
            softened(student_logits, q);
            // dloss/dq is -p / q where the clip leaves q alone; through the softmax that gives q · Σ p - p.
            let (mut loss, mut open) = (0.0, 0.0);
            for class in 0..classes {
                loss += divergence(p[class], q[class]);
                open += if Clip::KL.contains(q[class]) { Clip::KL.apply(p[class]) } else { 0.0 };
            }
            for (class, dz) in dz.iter_mut().enumerate() {
                let own = if Clip::KL.contains(q[class]) { Clip::KL.apply(p[class]) } else { 0.0 };
                *dz = (scale * (q[class] * open - own)) as f32;
            }
            loss
        })
    };
    let losses: Vec<f64> = match dstudent {
        Some((dloss, dstudent)) => {
            check_len(OP, "dstudent", dstudent.len(), student_logits.len())?;
            let scale = f64::from(dloss) / (f64::from(temperature) * rows as f64);
            let gradients = dstudent.par_chunks_exact_mut(classes).with_min_len(64).enumerate();
            gradients.map(|(row, dz)| row_loss(row, scale, dz)).collect()
        }
        None => (0..rows).into_par_iter().with_min_len(64).map(|row| row_loss(row, 0.0, &mut [])).collect(),
    };
    Ok((losses.iter().sum::<f64>() / rows as f64) as f32)
}
