//! Accuracy and loss on a data set, and batch-norm statistics recomputed over one.

use super::fit::ForwardFn;
use super::loader::{Augmented, Loader};
use super::session::Session;
use crate::augment::Pipeline;
use crate::data::{Batches, ImageSet};
use crate::nn::{Forward, KerasVersion, Params};
use crate::optim::recompute_batch_norm;
use crate::tensor::Tensor;
use crate::{Error, Result, ops};
use serde::{Deserialize, Serialize};

/// Results on a data set.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean cross-entropy.
    pub loss: f64,
    /// Share of images whose highest logit is their label.
    pub accuracy: f64,
    /// Number of images.
    pub images: usize,
}

/// Runs the model in inference mode over `set` and compares with its labels.
///
/// # Errors
/// When the model or pipeline refuses the images, the loss is NaN or infinite, or the session is asked to stop.
pub fn evaluate(
    session: &Session,
    params: &Params,
    forward: &ForwardFn,
    set: &ImageSet,
    pipeline: &Pipeline,
    batch_size: usize,
) -> Result<Evaluation> {
    let (mut loss, mut correct, mut images) = (0.0, 0, 0);
    let augmented = Augmented::new(session.device(), set.clone(), pipeline.clone(), session.seed());
    for indices in Batches::new(set.len(), batch_size.min(set.len()))?.pass(0) {
        session.check_stop()?;
        let labels = set.labels_of(&indices)?;
        let labels = Tensor::from_slice(session.device(), &[labels.len()], &labels)?;
        let pass = Forward::inference(params);
        let batch = pass.tape.constant(augmented.batch(&indices, 0)?);
        let logits = forward(&pass, &batch)?;
        let terms = ops::cross_entropy_per_sample(logits.tensor(), &labels)?;
        loss += terms.read::<f32>()?.iter().map(|&v| f64::from(v)).sum::<f64>();
        correct += ops::correct_count(logits.tensor(), &labels)?;
        images += indices.len();
    }
    if !loss.is_finite() {
        return Err(Error::NonFinite {
            what: format!("the loss on `{}` is {loss}", set.name()),
            hint: "training has diverged: lower the learning rate and start again".into(),
        });
    }
    Ok(Evaluation { loss: loss / images as f64, accuracy: correct as f64 / images as f64, images })
}

/// Replaces the moving statistics of every batch norm that is not frozen by those of one pass over the loader's data:
/// the images that the model trains on, so the noisy ones of a pair.
///
/// # Errors
/// When the model refuses the images, or the session is asked to stop.
pub fn recompute_statistics(
    session: &Session,
    params: &Params,
    forward: &ForwardFn,
    loader: &Loader,
    keras: KerasVersion,
) -> Result<()> {
    let mut batches = loader.pass(0, 0)?;
    recompute_batch_norm(params, keras, &loader.batch_sizes(), |pass, _| {
        session.check_stop()?;
        let Some(batch) = batches.next().transpose()? else {
            return Err(Error::argument("recompute_statistics", "a batch per step", "none", "the loader ended early"));
        };
        let Some(images) = batch.images.last() else { return Ok(()) };
        forward(pass, &pass.tape.constant(images.clone())).map(|_| ())
    })
}
