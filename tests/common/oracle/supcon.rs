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
    loss_of_unit_rows(settings, views, dim, &unit, labels).0
}

/// The loss of rows that are normalised already, and its gradient to them.
pub fn loss_of_unit_rows(settings: &Supcon, views: usize, dim: usize, unit: &[f64], labels: &[i32]) -> (f64, Vec<f64>) {
    let temperature = f64::from(settings.temperature);
    let sim = similarity_matrix(dim, unit, temperature);
    let n = unit.len() / dim;
    let with_self = settings.form == Form::Npairs;
    let (mut sum, mut with_positive) = (0.0, 0);
    let mut slopes = vec![0.0; n * n];
    for i in 0..n {
        let others: Vec<usize> = (0..n).filter(|&j| with_self || j != i).collect();
        let positives: Vec<usize> =
            others.iter().copied().filter(|&j| labels[j / views] == labels[i / views]).collect();
        if positives.is_empty() {
            continue;
        }
        with_positive += 1;
        let max = others.iter().map(|&k| sim[i * n + k]).fold(f64::NEG_INFINITY, f64::max);
        let log_sum = max + others.iter().map(|&k| (sim[i * n + k] - max).exp()).sum::<f64>().ln();
        let log_probs = |j: usize| sim[i * n + j] - log_sum;
        let count = positives.len() as f64;
        let mean: f64 = positives.iter().map(|&j| log_probs(j).exp()).sum::<f64>() / count;
        sum += match settings.form {
            Form::Npairs | Form::Out => -positives.iter().map(|&j| log_probs(j)).sum::<f64>() / count,
            Form::In => -mean.ln(),
        };
        for &j in &others {
            slopes[i * n + j] += log_probs(j).exp();
        }
        for &j in &positives {
            slopes[i * n + j] -= match settings.form {
                Form::Npairs | Form::Out => 1.0 / count,
                Form::In => log_probs(j).exp() / (mean * count),
            };
        }
    }
    let anchors = if settings.mean_over == MeanOver::All { n } else { with_positive.max(1) };
    let factor = f64::from(settings.scale) / anchors as f64;
    let mut gradient = vec![0.0; unit.len()];
    for i in 0..n {
        for j in 0..n {
            let slope = factor * slopes[i * n + j] / temperature;
            for k in 0..dim {
                gradient[i * dim + k] += slope * unit[j * dim + k];
                gradient[j * dim + k] += slope * unit[i * dim + k];
            }
        }
    }
    (factor * sum, gradient)
}

/// Gradient of `y = z / sqrt(max(Σ z², eps))` per row.
pub fn l2_normalize_backward(dim: usize, z: &[f64], dy: &[f64], eps: f64) -> Vec<f64> {
    let mut dz = Vec::new();
    for (z, dy) in z.chunks(dim).zip(dy.chunks(dim)) {
        let squares: f64 = z.iter().map(|z| z * z).sum();
        let norm = squares.max(eps).sqrt();
        let along: f64 = z.iter().zip(dy).map(|(z, dy)| z * dy).sum();
        let radial = if squares >= eps { along / (norm * norm) } else { 0.0 };
        dz.extend(z.iter().zip(dy).map(|(z, dy)| (dy - z * radial) / norm));
    }
    dz
}
