//! Adam in Keras' form.
//!
//! Source: Kingma and Ba, "Adam" (2015), arXiv 1412.6980, the efficient form at the end of its section 2.

use super::multiversion::multiversion;
use super::spans::walk;
use crate::error::check_len;
use crate::problem::{Span, check_spans};
use crate::{Error, Result};

/// Hyper-parameters of [`step`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// Learning rate α.
    pub learning_rate: f32,
    /// Decay β₁ of the first moment.
    pub beta_1: f64,
    /// Decay β₂ of the second moment.
    pub beta_2: f64,
    /// Added to the uncorrected root of the second moment ("epsilon hat").
    pub eps: f32,
}

impl Default for Adam {
    fn default() -> Self {
        Adam { learning_rate: 1e-3, beta_1: 0.9, beta_2: 0.999, eps: 1e-7 }
    }
}

multiversion! {
    fn step_chunk(rate: f32, share_1: f32, share_2: f32, eps: f32, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        let len = w.len();
        let (g, m, v) = (&g[..len], &mut m[..len], &mut v[..len]);
        for i in 0..len {
            m[i] += (g[i] - m[i]) * share_1;
            v[i] += (g[i] * g[i] - v[i]) * share_2;
            w[i] -= rate * m[i] / (v[i].sqrt() + eps);
        }
    }
}

/// One step on every span: `m += (g - m)(1 - β₁)`, `v += (g² - v)(1 - β₂)`,
/// `w -= α √(1 - β₂ᵗ) / (1 - β₁ᵗ) · m / (√v + eps)`.
///
/// `t` counts steps from 1. `params` is the parameter arena; `grads`, `m` and `v` have the gradient arena's
/// layout. Elements outside the spans are not touched.
///
/// Determinism: every element is computed on its own.
///
/// # Errors
/// When `t` is zero, the state differs in length from the gradients, or the spans overlap, descend or leave
/// the arenas.
///
/// # Example
/// ```
/// use warpsmith::cpu::adam::{Adam, step};
/// use warpsmith::problem::Span;
/// let spans = [Span { param_offset: 0, grad_offset: 0, len: 1 }];
/// let (mut w, mut m, mut v) = ([1.0], [0.0], [0.0]);
/// step(&Adam::default(), 1, &spans, &mut w, &[0.5], &mut m, &mut v)?;
/// assert!((w[0] - 0.999f32).abs() < 1e-6);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn step(
    adam: &Adam,
    t: u64,
    spans: &[Span],
    params: &mut [f32],
    grads: &[f32],
    m: &mut [f32],
    v: &mut [f32],
) -> Result<()> {
    const OP: &str = "adam";
    check_len(OP, "m", m.len(), grads.len())?;
    check_len(OP, "v", v.len(), grads.len())?;
    check_spans(OP, spans, params.len(), grads.len())?;
    if t == 0 {
        return Err(Error::argument(OP, "t >= 1", t, "count steps from 1"));
    }
    let Adam { learning_rate, beta_1, beta_2, eps } = *adam;
    let t = t as f64;
    let rate = (f64::from(learning_rate) * (1.0 - beta_2.powf(t)).sqrt() / (1.0 - beta_1.powf(t))) as f32;
    // In f32, 1 - 0.999 would be off by 1e-5.
    let (share_1, share_2) = ((1.0 - beta_1) as f32, (1.0 - beta_2) as f32);
    walk(spans, params, (grads, (m, v)), &|w: &mut [f32], (g, (m, v)): (&[f32], (&mut [f32], &mut [f32]))| {
        step_chunk(rate, share_1, share_2, eps, w, g, m, v);
    });
    Ok(())
}
