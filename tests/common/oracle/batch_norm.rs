//! Batch normalisation over `[rows, c]`.

/// Mean and population variance per channel.
pub fn statistics(rows: usize, c: usize, x: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let mut mean = vec![0.0; c];
    let mut var = vec![0.0; c];
    for ch in 0..c {
        mean[ch] = (0..rows).map(|row| x[row * c + ch]).sum::<f64>() / rows as f64;
        var[ch] = (0..rows).map(|row| (x[row * c + ch] - mean[ch]).powi(2)).sum::<f64>() / rows as f64;
    }
    (mean, var)
}

/// `gamma * (x - mean) / sqrt(var + eps) + beta`, then ReLU where asked.
pub fn normalize(
    c: usize,
    x: &[f64],
    mean: &[f64],
    var: &[f64],
    eps: f64,
    gamma: &[f64],
    beta: &[f64],
    relu: bool,
) -> Vec<f64> {
    let mut y = vec![0.0; x.len()];
    for i in 0..x.len() {
        let ch = i % c;
        y[i] = gamma[ch] * (x[i] - mean[ch]) / (var[ch] + eps).sqrt() + beta[ch];
        if relu {
            y[i] = y[i].max(0.0);
        }
    }
    y
}

/// `(dx, dgamma, dbeta)`; `batch` says whether mean and variance are those of `x`, else they are constants.
pub fn backward(
    c: usize,
    x: &[f64],
    dy: &[f64],
    mean: &[f64],
    var: &[f64],
    eps: f64,
    gamma: &[f64],
    beta: &[f64],
    relu: bool,
    batch: bool,
) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let rows = x.len() / c;
    let (mut dx, mut dgamma, mut dbeta) = (vec![0.0; x.len()], vec![0.0; c], vec![0.0; c]);
    for ch in 0..c {
        let inv_std = 1.0 / (var[ch] + eps).sqrt();
        let xh = |row: usize| (x[row * c + ch] - mean[ch]) * inv_std;
        let open = |row: usize| !relu || gamma[ch] * xh(row) + beta[ch] > 0.0;
        let g = |row: usize| if open(row) { dy[row * c + ch] } else { 0.0 };
        for row in 0..rows {
            dbeta[ch] += g(row);
            dgamma[ch] += g(row) * xh(row);
        }
        for row in 0..rows {
            let through_statistics = if batch { (dbeta[ch] + xh(row) * dgamma[ch]) / rows as f64 } else { 0.0 };
            dx[row * c + ch] = gamma[ch] * inv_std * (g(row) - through_statistics);
        }
    }
    (dx, dgamma, dbeta)
}
