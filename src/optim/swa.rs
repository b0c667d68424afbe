#[cfg(feature = "cuda")]
use super::OnGpu;
use super::{Trainable, state};
use crate::autograd::Tape;
#[cfg(feature = "cpu")]
use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda::swa::{self, SwaStep};
use crate::nn::{Forward, KerasVersion, Params};
use crate::ops::on_device;
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
/// let mut swa = Swa::new(&params, 0, 1)?;
/// swa.update(&params, 0)?;
/// params.value(w)?.fill(3.0f32)?;
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
    #[cfg(feature = "cuda")]
    on_gpu: Option<OnGpu<SwaStep>>,
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
        Ok(Swa {
            trainable: Trainable::of(params),
            average: state(params)?,
            start,
            period,
            #[cfg(feature = "cuda")]
            on_gpu: OnGpu::new(params)?,
        })
    }

    /// The average, in the gradient arena's layout.
    pub fn average(&self) -> &Tensor {
        &self.average
    }

    /// Whether a snapshot was taken in the first `steps` steps.
    pub fn has_average(&self, steps: u64) -> bool {
        steps > self.start
    }

    /// How many snapshots the average already holds when one is due at the zero-based step `i`; `None` when none is due.
    ///
    /// Snapshots fall on `start, start + period, start + 2 · period, …`.
    pub fn due(&self, i: u64) -> Option<u64> {
        i.checked_sub(self.start).filter(|since| since % self.period == 0).map(|since| since / self.period)
    }

    /// Takes a snapshot if one is due after zero-based step `i`.
    ///
    /// # Errors
    /// When the trainable set changed since.
    pub fn update(&mut self, params: &Params, i: u64) -> Result<()> {
        let spans = self.trainable.spans("Swa::update", params)?;
        let Some(n) = self.due(i) else { return Ok(()) };
        let (values, average) = (params.values(), &self.average);
        on_device!(
            params.device(), "Swa",
            cpu: cpu::swa::update(n, spans, &values.read()?, &mut average.write()?),
            cuda(gpu): {
                let OnGpu { spans, step } = OnGpu::of(&mut self.on_gpu, SwaStep { n: n as f32 })?;
                let (values, mut average) = (values.device_read()?, average.device_write()?);
                swa::update(gpu.kernels(), spans, step, &values, &mut average, gpu.stream())
            },
        )
    }

    /// Copies the average into the weights.
    ///
    /// # Errors
    /// When the trainable set changed since, or no snapshot was taken.
    pub fn assign(&self, params: &Params) -> Result<()> {
        let spans = self.trainable.spans("Swa::assign", params)?;
        // The average starts at 0: assigning that would wipe the model out.
        if self.average.read::<f32>()?.iter().all(|&v| v == 0.0) {
            return Err(Error::argument(
                "Swa::assign",
                "at least one snapshot",
                "an average that is still 0",
                format_args!("train past step {}, or start the averaging earlier", self.start),
            ));
        }
        let (values, average) = (params.values(), &self.average);
        on_device!(
            params.device(), "Swa",
            cpu: cpu::swa::assign(spans, &average.read()?, &mut values.write()?),
            cuda(gpu): {
                let spans = &self.on_gpu.as_ref().expect("made with the optimiser, on a CUDA device").spans;
                let (average, mut values) = (average.device_read()?, values.device_write()?);
                let mut copy = params.bf16_values().map(Tensor::device_write).transpose()?;
                swa::assign(gpu.kernels(), spans, &average, &mut values, copy.as_mut(), gpu.stream())
            },
        )
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
