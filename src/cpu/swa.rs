//! Stochastic weight averaging in the form of TensorFlow Addons.
//!
//! Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization" (2018),
//! arXiv 1803.05407.

use super::multiversion::multiversion;
use super::spans::walk;
use crate::Result;
use crate::problem::{Span, check_spans};

multiversion! {
    fn update_chunk(n: f32, w: &[f32], average: &mut [f32]) {
        let share = n + 1.0;
        for (average, w) in average.iter_mut().zip(w) {
            *average = (*average * n + w) / share;
        }
    }
}

/// Takes snapshot number `n` (from 0): `average = (average * n + w) / (n + 1)`.
///
/// `params` is the parameter arena, `average` has the gradient arena's layout.
///
/// Determinism: every element is computed on its own.
///
/// # Errors
/// When the spans overlap, descend or leave the arenas.
///
/// # Example
/// ```
/// use warpsmith::cpu::swa::update;
/// use warpsmith::problem::Span;
/// let spans = [Span { param_offset: 0, grad_offset: 0, len: 1 }];
/// let mut average = [0.0];
/// update(0, &spans, &[4.0], &mut average)?;
/// update(1, &spans, &[2.0], &mut average)?;
/// assert_eq!(average, [3.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn update(n: u64, spans: &[Span], params: &[f32], average: &mut [f32]) -> Result<()> {
    check_spans("swa", spans, params.len(), average.len())?;
    walk(spans, params, average, &|w: &[f32], average: &mut [f32]| update_chunk(n as f32, w, average));
    Ok(())
}

/// Copies the averages into the parameters. Batch-norm statistics must be recomputed afterwards.
///
/// # Errors
/// When the spans overlap, descend or leave the arenas.
///
/// # Example
/// ```
/// use warpsmith::problem::Span;
/// let mut params = [0.0, 0.0];
/// let spans = [Span { param_offset: 1, grad_offset: 0, len: 1 }];
/// warpsmith::cpu::swa::assign(&spans, &[3.0], &mut params)?;
/// assert_eq!(params, [0.0, 3.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn assign(spans: &[Span], average: &[f32], params: &mut [f32]) -> Result<()> {
    check_spans("swa", spans, params.len(), average.len())?;
    walk(spans, params, average, &|w: &mut [f32], average: &[f32]| w.copy_from_slice(average));
    Ok(())
}
