use super::{Trainable, state};
use crate::autograd::Tape;
#[cfg(feature = "cpu")]
use crate::cpu;
use crate::nn::{Forward, KerasVersion, Params};
use crate::ops::on_cpu;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Stochastic weight averaging: an equal-weight mean of the weights at every `period`-th step.
///
/// At zero-based step `i >= start` with `i = start + n·period`: `average = (average·n + w) / (n + 1)`.
/// The live weights change only when [`Swa::assign`] is called; the batch-norm statistics must then be
/// recomputed with [`recompute_batch_norm`].
///
/// Source: Izmailov et al.: "Averaging weights leads to wider optima and better generalization" (2018),
/// in the form of `tfa.optimizers.SWA`.
///
/// # Example
/// ```
/// use warpsmith::Device;
/// use warpsmith::nn::{Init, ParamsBuilder};
/// use warpsmith::optim::Swa;
/// let mut builder = ParamsBuilder::new();
/// let w = builder.param("w", &[1], Init::Constant(1.0));
/// let params = builder.build(&Device::cpu()?, 0)?;
/// let swa = Swa::new(&params, 0, 1)?;
/// swa.update(&params, 0)?;
/// params.value(w)?.write::<f32>()?[0] = 3.0;
/// swa.update(&params, 1)?;
/// swa.assign(&params)?;
/// assert_eq!(params.value(w)?.item()?, 2.0);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub struct Swa {
    trainable: Trainable,
    average: Tensor,
    start: u64,
    period: u64,
}

impl Swa {
    /// Averages of the present trainable set, zero until the first snapshot at step `start`.
    ///
    /// # Errors
    /// When `period` is 0 or memory runs out.
    pub fn new(params: &Params, start: u64, period: u64) -> Result<Swa> {
        if period == 0 {
            return Err(Error::argument("Swa", "a period of at least 1 step", 0, "10 is usual"));
        }
        Ok(Swa { trainable: Trainable::of(params), average: state(params)?, start, period })
    }

    /// The average, in the gradient arena's layout.
    pub fn average(&self) -> &Tensor {
        &self.average
    }

    /// Whether a snapshot was taken in the first `steps` steps.
    pub fn has_average(&self, steps: u64) -> bool {
        steps > self.start
    }

    /// Takes a snapshot if one is due after zero-based step `i`.
    ///
    /// # Errors
    /// When the trainable set changed since.
    pub fn update(&self, params: &Params, i: u64) -> Result<()> {
        let spans = self.trainable.spans("Swa::update", params)?;
        let (values, mut average) = (params.values().read::<f32>()?, self.average.write::<f32>()?);
        let (values, average) = (&*values, &mut *average);
        let (start, period) = (self.start, self.period);
        on_cpu!(params.device(), "Swa", {
            match cpu::swa::due(i, start, period)? {
                Some(n) => cpu::swa::update(n, spans, values, average),
                None => Ok(()),
            }
        })
    }

    /// Copies the average into the weights.
    ///
    /// # Errors
    /// When the trainable set changed since, or no snapshot was taken.
    pub fn assign(&self, params: &Params) -> Result<()> {
        let spans = self.trainable.spans("Swa::assign", params)?;
        let (average, mut values) = (self.average.read::<f32>()?, params.values().write::<f32>()?);
        // The average starts at 0: assigning that would wipe the model out.
        if average.iter().all(|&v| v == 0.0) {
            return Err(Error::argument(
                "Swa::assign",
                "at least one snapshot",
                "an average that is still 0",
                format_args!("train past step {}, or start the averaging earlier", self.start),
            ));
        }
        let (average, values) = (&*average, &mut *values);
        on_cpu!(params.device(), "Swa", { cpu::swa::assign(spans, average, values) })
    }
}

/// Replaces the moving statistics of a model by the mean of its batch statistics over batches of the given sizes.
///
/// `forward(pass, i)` runs the model on batch `i`. A batch enters with its share of the examples so far, so every
/// example counts equally; `keras` says which variance of a batch enters. Weights do not change.
///
/// # Errors
/// When there is no batch or an empty one, or what `forward` returns.
pub fn recompute_batch_norm(
    params: &Params,
    keras: KerasVersion,
    sizes: &[usize],
    mut forward: impl FnMut(&Forward, usize) -> Result<()>,
) -> Result<()> {
    if sizes.is_empty() || sizes.contains(&0) {
        return Err(Error::argument(
            "recompute_batch_norm",
            "at least one batch and no empty one",
            format_args!("sizes {sizes:?}"),
            "pass the training data",
        ));
    }
    let mut seen = 0;
    for (i, &size) in sizes.iter().enumerate() {
        let mut pass = Forward::training(params);
        pass.tape = Tape::no_grad();
        pass.keras = keras;
        pass.momentum = Some((seen as f64 / (seen + size) as f64) as f32);
        forward(&pass, i)?;
        seen += size;
    }
    Ok(())
}
