//! Optimisers on a span table, in f64.

use warpsmith::problem::Span;

/// `(parameter, gradient)` indices of all spans.
pub fn pairs(spans: &[Span]) -> Vec<(usize, usize)> {
    let of_span = |s: &Span| {
        let (p, g) = (s.param_offset as usize, s.grad_offset as usize);
        (0..s.len as usize).map(move |i| (p + i, g + i))
    };
    spans.iter().flat_map(of_span).collect()
}

/// Step `t` of Adam, counted from 1.
pub fn adam(
    [lr, beta_1, beta_2, eps]: [f64; 4],
    t: i32,
    spans: &[Span],
    w: &mut [f64],
    g: &[f32],
    (m, v): (&mut [f64], &mut [f64]),
) {
    for (p, i) in pairs(spans) {
        let g = f64::from(g[i]);
        m[i] += (g - m[i]) * (1.0 - beta_1);
        v[i] += (g * g - v[i]) * (1.0 - beta_2);
        let rate = lr * (1.0 - beta_2.powi(t)).sqrt() / (1.0 - beta_1.powi(t));
        w[p] -= rate * m[i] / (v[i].sqrt() + eps);
    }
}

/// A step of SGD with momentum and weight decay.
pub fn sgd([lr, momentum, decay]: [f64; 3], spans: &[Span], w: &mut [f64], g: &[f32], velocity: &mut [f64]) {
    for (p, i) in pairs(spans) {
        velocity[i] = momentum * velocity[i] - lr * (f64::from(g[i]) + decay * w[p]);
        w[p] += velocity[i];
    }
}

/// The mean of snapshots of the parameters, in the layout of the gradients.
pub fn swa(spans: &[Span], snapshots: &[Vec<f32>], grads: usize) -> Vec<f64> {
    let mut mean = vec![0.0; grads];
    for (p, i) in pairs(spans) {
        mean[i] = snapshots.iter().map(|w| f64::from(w[p])).sum::<f64>() / snapshots.len() as f64;
    }
    mean
}
