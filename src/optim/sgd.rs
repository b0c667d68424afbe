#[cfg(feature = "cuda")]
use super::OnGpu;
use super::{Trainable, state};
#[cfg(feature = "cpu")]
use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda::sgd::{self, SgdStep};
use crate::nn::Params;
use crate::ops::on_device;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Constants of [`Sgd`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdConfig {
    /// Step size.
    pub learning_rate: f32,
    /// Weight of the old velocity; 0 is plain gradient descent.
    pub momentum: f32,
    /// Added to the gradient as `weight_decay · w`.
    pub weight_decay: f32,
}

impl Default for SgdConfig {
    fn default() -> Self {
        SgdConfig { learning_rate: 0.01, momentum: 0.0, weight_decay: 0.0 }
    }
}

/// Gradient descent with momentum in Keras' form: `u = momentum · u - lr · g; w += u`.
///
/// Source: `keras.optimizers.SGD`.
///
/// # Example
/// ```
/// use warpsmith::nn::{Init, ParamsBuilder};
/// use warpsmith::optim::{Sgd, SgdConfig};
/// use warpsmith::{Device, Tape, ops};
/// let mut builder = ParamsBuilder::new();
/// let w = builder.param("w", &[1], Init::Constant(1.0));
/// let params = builder.build(&Device::cpu()?, 0)?;
/// let mut sgd = Sgd::new(&params, SgdConfig { learning_rate: 0.5, ..Default::default() })?;
/// ops::scale(&params.var(&Tape::new(), w)?, 3.0)?.backward()?;
/// sgd.step(&params)?;
/// assert_eq!(params.value(w)?.item()?, -0.5);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub struct Sgd {
    config: SgdConfig,
    trainable: Trainable,
    velocity: Option<Tensor>,
    #[cfg(feature = "cuda")]
    on_gpu: Option<OnGpu<SgdStep>>,
}

impl Sgd {
    /// An optimiser of the present trainable set.
    ///
    /// # Errors
    /// When a constant is outside its domain or memory runs out.
    pub fn new(params: &Params, config: SgdConfig) -> Result<Sgd> {
        let SgdConfig { learning_rate, momentum, weight_decay } = config;
        let range = 0.0..f32::INFINITY;
        if !(range.contains(&learning_rate) && (0.0..1.0).contains(&momentum) && range.contains(&weight_decay)) {
            return Err(Error::argument(
                "Sgd",
                "finite learning_rate >= 0, momentum in [0, 1), finite weight_decay >= 0",
                format_args!("{config:?}"),
                "see SgdConfig::default",
            ));
        }
        let velocity = (momentum > 0.0).then(|| state(params)).transpose()?;
        Ok(Sgd {
            config,
            trainable: Trainable::of(params),
            velocity,
            #[cfg(feature = "cuda")]
            on_gpu: OnGpu::new(params)?,
        })
    }

    /// Sets the learning rate of the following steps.
    pub fn set_learning_rate(&mut self, learning_rate: f32) {
        self.config.learning_rate = learning_rate;
    }

    /// The velocity, for checkpoints; `None` without momentum.
    pub fn velocity(&self) -> Option<&Tensor> {
        self.velocity.as_ref()
    }

    /// Updates the trainable parameters from the gradient arena.
    ///
    /// # Errors
    /// When the trainable set changed since the optimiser was built.
    pub fn step(&mut self, params: &Params) -> Result<()> {
        let spans = self.trainable.spans("Sgd::step", params)?;
        let SgdConfig { learning_rate, momentum, weight_decay } = self.config;
        let (values, gradients, velocity) = (params.values(), params.gradients(), self.velocity.as_ref());
        on_device!(
            params.device(), "Sgd",
            cpu: {
                let sgd = cpu::sgd::Sgd { learning_rate, momentum, weight_decay };
                let mut velocity = velocity.map(Tensor::write).transpose()?;
                let (mut values, velocity) = (values.write()?, velocity.as_deref_mut());
                cpu::sgd::step(&sgd, spans, &mut values, &gradients.read()?, velocity)
            },
            cuda(gpu): {
                let step = SgdStep { rate: learning_rate, momentum, weight_decay };
                let OnGpu { spans, step } = OnGpu::of(&mut self.on_gpu, step)?;
                let (mut values, gradients) = (values.device_write()?, gradients.device_read()?);
                let mut velocity = velocity.map(Tensor::device_write).transpose()?;
                let mut copy = params.bf16_values().map(Tensor::device_write).transpose()?;
                let (velocity, copy) = (velocity.as_mut(), copy.as_mut());
                sgd::step(gpu.kernels(), spans, step, &mut values, &gradients, velocity, copy, gpu.stream())
            },
        )
    }
}
