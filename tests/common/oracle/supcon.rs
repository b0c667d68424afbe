//! Contrastive losses from the whole similarity matrix.

use warpsmith::cpu::supcon::{Form, MeanOver, Supcon};

/// `z / sqrt(max(Σ z², eps))` per row.
pub fn l2_normalize(dim: usize, z: &[f64], eps: f64) -> Vec<f64> {
    let mut y = Vec::new();
    for row in z.chunks(dim) {
        let norm = row.iter().map(|z| z * z).sum::<f64>().max(eps).sqrt();
        y.extend(row.iter().map(|z| z / norm));
    }
    y
}

pub fn similarity_matrix(dim: usize, z: &[f64], temperature: f64) -> Vec<f64> {
    let mut sim = Vec::new();
    for a in z.chunks(dim) {
        for b in z.chunks(dim) {
            sim.push(a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>() / temperature);
        }
    }
    sim
}

pub fn loss(settings: &Supcon, views: usize, dim: usize, z: &[f64], labels: &[i32]) -> f64 {
    let unit = l2_normalize(dim, z, f64::from(settings.norm_eps));
    let sim = similarity_matrix(dim, &unit, f64::from(settings.temperature));
    let n = z.len() / dim;
    let with_self = settings.form == Form::Npairs;
    let (mut sum, mut with_positive) = (0.0, 0);
    for i in 0..n {
        let others: Vec<usize> = (0..n).filter(|&j| with_self || j != i).collect();
        let positives: Vec<usize> =
            others.iter().copied().filter(|&j| labels[j / views] == labels[i / views]).collect();
        if positives.is_empty() {
            continue;
        }
        with_positive += 1;
        let log_probs = |j: usize| {
            let max = others.iter().map(|&k| sim[i * n + k]).fold(f64::NEG_INFINITY, f64::max);
            sim[i * n + j] - max - others.iter().map(|&k| (sim[i * n + k] - max).exp()).sum::<f64>().ln()
        };
        let count = positives.len() as f64;
        sum += match settings.form {
            Form::Npairs | Form::Out => -positives.iter().map(|&j| log_probs(j)).sum::<f64>() / count,
            Form::In => -(positives.iter().map(|&j| log_probs(j).exp()).sum::<f64>() / count).ln(),
        };
    }
    let anchors = if settings.mean_over == MeanOver::All { n } else { with_positive.max(1) };
    f64::from(settings.scale) * sum / anchors as f64
}
