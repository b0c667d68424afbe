//! Stochastic gradient descent with momentum, in Keras' form.
//!
//! Source: Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum" (2013).

use super::multiversion::multiversion;
use super::spans::walk;
use crate::Result;
use crate::error::check_len;
use crate::problem::{Span, check_spans};

/// Hyper-parameters of [`step`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// Learning rate.
    pub learning_rate: f32,
    /// Weight of the old velocity; 0 is plain gradient descent.
    pub momentum: f32,
    /// Added to the gradient as `weight_decay * w`; 0 by default.
    pub weight_decay: f32,
}

impl Default for Sgd {
    fn default() -> Self {
        Sgd { learning_rate: 0.01, momentum: 0.0, weight_decay: 0.0 }
    }
}

multiversion! {
    fn step_chunk(rate: f32, momentum: f32, decay: f32, w: &mut [f32], g: &[f32], velocity: &mut [f32]) {
        let len = w.len();
        let (g, velocity) = (&g[..len], &mut velocity[..len]);
        for i in 0..len {
            velocity[i] = momentum * velocity[i] - rate * (g[i] + decay * w[i]);
            w[i] += velocity[i];
        }
    }
}

multiversion! {
    fn plain_chunk(rate: f32, decay: f32, w: &mut [f32], g: &[f32]) {
        for (w, g) in w.iter_mut().zip(g) {
            *w -= rate * (g + decay * *w);
        }
    }
}

/// One step on every span: `velocity = momentum * velocity - α (g + weight_decay * w)`, `w += velocity`.
///
/// `params` is the parameter arena; `grads` and `velocity` have the gradient arena's layout. Without momentum
/// `velocity` may be `None`. Elements outside the spans are not touched.
///
/// Determinism: every element is computed on its own.
///
/// # Errors
/// When momentum is set without a velocity, the velocity differs in length from the gradients, or the spans
/// overlap, descend or leave the arenas.
///
/// # Example
/// ```
/// use warpsmith::cpu::sgd::{Sgd, step};
/// use warpsmith::problem::Span;
/// let spans = [Span { param_offset: 1, grad_offset: 0, len: 1 }];
/// let mut w = [1.0, 1.0];
/// step(&Sgd { learning_rate: 0.5, ..Sgd::default() }, &spans, &mut w, &[1.0], None)?;
/// assert_eq!(w, [1.0, 0.5]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn step(sgd: &Sgd, spans: &[Span], params: &mut [f32], grads: &[f32], velocity: Option<&mut [f32]>) -> Result<()> {
    const OP: &str = "sgd";
    check_spans(OP, spans, params.len(), grads.len())?;
    let Sgd { learning_rate, momentum, weight_decay } = *sgd;
    match velocity {
        Some(velocity) => {
            check_len(OP, "velocity", velocity.len(), grads.len())?;
            walk(spans, params, (grads, velocity), &|w: &mut [f32], (g, velocity): (&[f32], &mut [f32])| {
                step_chunk(learning_rate, momentum, weight_decay, w, g, velocity);
            });
        }
        None if momentum != 0.0 => {
            return Err(crate::Error::argument(
                OP,
                "a velocity when momentum is not 0",
                "none",
                "pass a state slice with the gradient arena's layout",
            ));
        }
        None => walk(spans, params, grads, &|w: &mut [f32], g: &[f32]| plain_chunk(learning_rate, weight_decay, w, g)),
    }
    Ok(())
}
