//! When two results of the same sums count as equal.

use crate::Math;

/// Largest difference of two results that are sums of `depth` products of factors within -1..1.
///
/// Factors (of tf32) or results (of bf16) are rounded: a unit in the last place each, which add up like a random walk,
/// with as much again for hardware that truncates. f32 sums are rounded once per product on either side, at the size that they have then.
pub fn tolerance(math: Math, depth: usize) -> f64 {
    let depth = depth as f64;
    4.0 * math.factor_ulp() * depth.sqrt() + 2.0 * f64::from(f32::EPSILON) * depth
}

/// The largest difference as a share of the tolerance, or which value is wrong. No number equals NaN.
///
/// # Errors
/// The first value beyond the tolerance and how many there are, as text.
pub fn compare(ours: &[f32], theirs: &[f32], tolerance: f64) -> Result<f64, String> {
    if ours.len() != theirs.len() || ours.is_empty() {
        return Err(format!("{} values of ours, {} of theirs", ours.len(), theirs.len()));
    }
    let difference = |i: usize| (f64::from(ours[i]) - f64::from(theirs[i])).abs();
    let is_wrong = |&i: &usize| difference(i).is_nan() || difference(i) > tolerance;
    let mut wrong = (0..ours.len()).filter(is_wrong);
    if let Some(i) = wrong.next() {
        let (all, count) = (ours.len(), 1 + wrong.count());
        return Err(format!(
            "{count} of {all} values differ by more than {tolerance:.2e}, first [{i}]: {} of ours, {} of theirs",
            ours[i], theirs[i]
        ));
    }
    Ok((0..ours.len()).map(difference).fold(0.0, f64::max) / tolerance)
}
