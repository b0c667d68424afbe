#[cfg(feature = "cuda")]
use super::OnGpu;
use super::{Trainable, state};
#[cfg(feature = "cpu")]
use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda::adam::{self, AdamStep};
use crate::nn::Params;
use crate::ops::on_device;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Constants of [`Adam`]. The defaults are Keras'.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamConfig {
    /// Step size α.
    pub learning_rate: f32,
    /// Decay β₁ of the first moment.
    pub beta_1: f64,
    /// Decay β₂ of the second moment.
    pub beta_2: f64,
    /// Added to the uncorrected root of the second moment ("epsilon hat").
    pub eps: f32,
}

impl Default for AdamConfig {
    fn default() -> Self {
        AdamConfig { learning_rate: 1e-3, beta_1: 0.9, beta_2: 0.999, eps: 1e-7 }
    }
}

/// Adam in Keras' form: `m += (g - m)(1 - β₁); v += (g² - v)(1 - β₂); w -= α √(1 - β₂ᵗ) / (1 - β₁ᵗ) · m / (√v + eps)`.
///
/// Source: Kingma, Ba: "Adam" (2015), section 2's last form; `keras.optimizers.Adam`.
///
/// # Example
/// ```
/// use warpsmith::nn::{Init, ParamsBuilder};
/// use warpsmith::optim::{Adam, AdamConfig};
/// use warpsmith::{Device, Tape, ops};
/// let mut builder = ParamsBuilder::new();
/// let w = builder.param("w", &[1], Init::Constant(1.0));
/// let params = builder.build(&Device::cpu()?, 0)?;
/// let mut adam = Adam::new(&params, AdamConfig::default())?;
/// let loss = ops::scale(&params.var(&Tape::new(), w)?, 3.0)?;
/// loss.backward()?;
/// adam.step(&params)?;
/// assert!((params.value(w)?.item()? - (1.0 - 1e-3)).abs() < 1e-6);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub struct Adam {
    config: AdamConfig,
    trainable: Trainable,
    /// First moment, in the gradient arena's layout.
    m: Tensor,
    /// Second moment, in the gradient arena's layout.
    v: Tensor,
    t: u64,
    #[cfg(feature = "cuda")]
    on_gpu: Option<OnGpu<AdamStep>>,
}

impl Adam {
    /// An optimiser of the present trainable set.
    ///
    /// # Errors
    /// When a constant is outside its domain or memory runs out.
    pub fn new(params: &Params, config: AdamConfig) -> Result<Adam> {
        let valid = config.learning_rate >= 0.0
            && config.learning_rate.is_finite()
            && (0.0..1.0).contains(&config.beta_1)
            && (0.0..1.0).contains(&config.beta_2)
            && config.eps > 0.0;
        if !valid {
            return Err(Error::argument(
                "Adam",
                "learning_rate >= 0, beta_1 and beta_2 in [0, 1), eps > 0",
                format_args!("{config:?}"),
                "see AdamConfig::default",
            ));
        }
        Ok(Adam {
            config,
            trainable: Trainable::of(params),
            m: state(params)?,
            v: state(params)?,
            t: 0,
            #[cfg(feature = "cuda")]
            on_gpu: OnGpu::new(params)?,
        })
    }

    /// Steps taken so far.
    pub fn t(&self) -> u64 {
        self.t
    }

    /// The present learning rate.
    pub fn learning_rate(&self) -> f32 {
        self.config.learning_rate
    }

    /// Sets the learning rate of the following steps.
    pub fn set_learning_rate(&mut self, learning_rate: f32) {
        self.config.learning_rate = learning_rate;
    }

    /// The moments `m` and `v`, for checkpoints.
    pub fn state(&self) -> [(&'static str, Tensor); 2] {
        [("m", self.m.clone()), ("v", self.v.clone())]
    }

    /// Sets the step count, after the moments were restored through [`Adam::state`].
    pub fn set_t(&mut self, t: u64) {
        self.t = t;
    }

    /// Updates the trainable parameters from the gradient arena.
    ///
    /// # Errors
    /// When the trainable set changed since the optimiser was built.
    pub fn step(&mut self, params: &Params) -> Result<()> {
        let spans = self.trainable.spans("Adam::step", params)?;
        let t = self.t + 1;
        let AdamConfig { learning_rate, beta_1, beta_2, eps } = self.config;
        let (values, gradients, m, v) = (params.values(), params.gradients(), &self.m, &self.v);
        on_device!(
            params.device(), "Adam",
            cpu: {
                let adam = cpu::adam::Adam { learning_rate, beta_1, beta_2, eps };
                let (mut values, mut m, mut v) = (values.write()?, m.write()?, v.write()?);
                cpu::adam::step(&adam, t, spans, &mut values, &gradients.read()?, &mut m, &mut v)
            },
            cuda(gpu): {
                let step = AdamStep::new(learning_rate, beta_1, beta_2, eps, t);
                let OnGpu { spans, step } = OnGpu::of(&mut self.on_gpu, step)?;
                let (mut values, gradients) = (values.device_write()?, gradients.device_read()?);
                let state = (&mut m.device_write()?, &mut v.device_write()?);
                let mut copy = params.bf16_values().map(Tensor::device_write).transpose()?;
                adam::step(gpu.kernels(), spans, step, &mut values, &gradients, state, copy.as_mut(), gpu.stream())
            },
        )?;
        self.t = t;
        Ok(())
    }
}
