//! Cross-entropy with integer labels.

/// `log Σ exp(z) - z[label]` per row.
pub fn per_sample(classes: usize, z: &[f64], labels: &[i32]) -> Vec<f64> {
    let rows = z.chunks(classes).zip(labels);
    rows.map(|(z, &label)| {
        let max = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        max + z.iter().map(|z| (z - max).exp()).sum::<f64>().ln() - z[label as usize]
    })
    .collect()
}

/// The same on the logarithms of clipped probabilities.
pub fn probs_per_sample(classes: usize, p: &[f64], labels: &[i32]) -> Vec<f64> {
    let z: Vec<f64> = p.iter().map(|p| p.clamp(1e-7, 1.0 - 1e-7).ln()).collect();
    per_sample(classes, &z, labels)
}

pub fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}
