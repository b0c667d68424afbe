//! Softmax and clipped Kullback-Leibler divergence of `[rows, classes]`.

pub fn softmax(classes: usize, z: &[f64], temperature: f64) -> Vec<f64> {
    let mut probs = Vec::new();
    for row in z.chunks(classes) {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|z| ((z - max) / temperature).exp()).sum();
        probs.extend(row.iter().map(|z| ((z - max) / temperature).exp() / sum));
    }
    probs
}

/// Mean over the rows of `Σ p log(p / q)`, both clipped to `[1e-7, 1]`.
pub fn kl_div(classes: usize, p: &[f64], q: &[f64]) -> f64 {
    let mut sum = 0.0;
    for (p, q) in p.iter().zip(q) {
        let (p, q) = (p.clamp(1e-7, 1.0), q.clamp(1e-7, 1.0));
        sum += p * (p / q).ln();
    }
    sum / (p.len() / classes) as f64
}

pub fn distill(classes: usize, teacher: &[f64], student: &[f64], temperature: f64) -> f64 {
    kl_div(classes, &softmax(classes, teacher, temperature), &softmax(classes, student, temperature))
}
