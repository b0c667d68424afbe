//! What the test binaries share: seeded numbers, the comparison that every numeric test uses, and the oracles.
#![allow(dead_code, missing_docs)]

#[cfg(all(feature = "nn", feature = "cpu"))]
pub mod device;
#[cfg(feature = "cuda")]
pub mod float;
pub mod oracle;
pub mod problems;

use std::fmt::Debug;
use warpsmith::rng::Philox;

/// `n` seeded numbers, uniform in [-1, 1).
pub fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Philox::new(seed, 0x7e57);
    (0..n).map(|_| warpsmith::rng::unit(rng.next_word()) * 2.0 - 1.0).collect()
}

/// `n` seeded bytes.
pub fn random_bytes(n: usize, seed: u64) -> Vec<u8> {
    let mut rng = Philox::new(seed, 0xb17e);
    (0..n).map(|_| (rng.next_word() >> 24) as u8).collect()
}

/// The relative tolerance of a float32 sum of `terms` products: `4 · eps · sqrt(terms)`, at least 8 eps.
pub fn rtol_sum(terms: usize) -> f64 {
    f64::from(f32::EPSILON) * (4.0 * (terms as f64).sqrt()).max(8.0)
}

/// Fails unless `|got - want| <= atol + rtol * |want|` everywhere; prints the problem, the first five
/// mismatches with their multi-index, and the share of the bound that was used.
#[track_caller]
pub fn assert_close(op: &str, problem: &dyn Debug, shape: &[usize], got: &[f32], want: &[f64], atol: f64, rtol: f64) {
    assert_eq!(got.len(), want.len(), "{op} {problem:?}: lengths differ");
    assert_eq!(shape.iter().product::<usize>(), want.len(), "{op} {problem:?}: shape {shape:?} does not fit");
    let mut worst = 0.0f64;
    let mut bad = 0usize;
    let mut report = String::new();
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        let bound = atol + rtol * w.abs();
        let diff = (f64::from(g) - w).abs();
        let share = if diff == 0.0 { 0.0 } else { diff / bound };
        worst = if share.is_nan() { f64::INFINITY } else { worst.max(share) };
        if share.is_nan() || share > 1.0 {
            bad += 1;
            if bad <= 5 {
                let mut index = vec![0; shape.len()];
                let mut rest = i;
                for (slot, &extent) in index.iter_mut().zip(shape).rev() {
                    *slot = rest % extent;
                    rest /= extent;
                }
                report += &format!("\n  {index:?}: got {g:e}, want {w:e}, |diff| {diff:e}, bound {bound:e}");
            }
        }
    }
    assert!(bad == 0, "{op} {problem:?}: {bad} of {} differ, worst {worst:.2} of the bound{report}", got.len());
}

/// `x` in f64.
pub fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Central differences of `f` at `x`, one element at a time.
pub fn numeric_gradient(x: &[f64], step: f64, f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let old = x[i];
            x[i] = old + step;
            let above = f(&x);
            x[i] = old - step;
            let below = f(&x);
            x[i] = old;
            (above - below) / (2.0 * step)
        })
        .collect()
}

/// `Σ a * b`: the scalar whose gradient a backward pass computes.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Fails unless `result` is an error whose text contains every one of `parts`.
#[track_caller]
pub fn assert_error<T: Debug>(result: warpsmith::Result<T>, parts: &[&str]) {
    let text = result.expect_err("an error").to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
}
