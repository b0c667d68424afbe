//! Layers: which parameters an op uses, and under which names.

use super::params::{Init, ParamId, Params, ParamsBuilder, StatId};
use crate::autograd::{Tape, Var};
use crate::ops;
use crate::problem::Window;
use crate::rng::Stream;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Whose rules the moving variance follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KerasVersion {
    /// tf.keras 2.x: the unbiased batch variance, v·N / max(N - 1, 1).
    V2,
    /// Keras 3: the population variance.
    V3,
}

/// What a forward pass is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Batch statistics, dropout; moving statistics move.
    Training,
    /// Moving statistics, no dropout.
    Inference,
}

/// One forward pass: the parameters, the tape, and what the layers need to know.
pub struct Forward<'a> {
    /// The model's numbers.
    pub params: &'a Params,
    /// Where ops are recorded.
    pub tape: Tape,
    /// Training or inference.
    pub mode: Mode,
    /// Rule of the moving variance.
    pub keras: KerasVersion,
    /// Weight of the old moving statistics; `None` = each layer's own. Recomputing statistics over a data set uses i / (i + 1).
    pub momentum: Option<f32>,
    /// Seed and step of dropout masks.
    pub dropout_key: (u64, u32),
    /// Data-set indices of the batch's samples, for dropout masks; empty = their places in the batch.
    pub samples: Vec<u32>,
    /// Sees every layer's output by name; fused layers are then computed one by one.
    tap: Option<Tap<'a>>,
}

type Tap<'a> = Box<dyn Fn(&str, &Tensor) -> Result<()> + 'a>;

impl<'a> Forward<'a> {
    /// A training pass on a recording tape.
    pub fn training(params: &'a Params) -> Self {
        Forward {
            params,
            tape: Tape::new(),
            mode: Mode::Training,
            keras: KerasVersion::V3,
            momentum: None,
            dropout_key: (0, 0),
            samples: Vec::new(),
            tap: None,
        }
    }

    /// An inference pass that records nothing.
    pub fn inference(params: &'a Params) -> Self {
        Forward { tape: Tape::no_grad(), mode: Mode::Inference, ..Forward::training(params) }
    }

    /// Calls `tap` with every layer's name and output.
    pub fn with_tap(mut self, tap: impl Fn(&str, &Tensor) -> Result<()> + 'a) -> Self {
        self.tap = Some(Box::new(tap));
        self
    }

    /// Dropout at `rate`, in training only; `op` numbers the layer.
    ///
    /// # Errors
    /// When the rate is not in [0, 1).
    pub fn dropout(&self, x: &Var, rate: f32, op: u32) -> Result<Var> {
        if self.mode == Mode::Inference {
            return Ok(x.clone());
        }
        let (seed, step) = self.dropout_key;
        let rows = x.shape().first().copied().unwrap_or(0) as u32;
        let places: Vec<u32> = if self.samples.is_empty() { (0..rows).collect() } else { self.samples.clone() };
        ops::dropout(x, rate, Stream { seed, step, index: 0, op }, &places)
    }

    /// Whether every layer's output must exist in memory.
    pub fn is_tapped(&self) -> bool {
        self.tap.is_some()
    }

    /// Shows a layer's output to the tap.
    ///
    /// # Errors
    /// What the tap returns.
    pub fn show(&self, name: &str, output: &Var) -> Result<()> {
        self.tap.as_ref().map_or(Ok(()), |tap| tap(name, output.tensor()))
    }
}

/// 2-d convolution with KRSC filters and an optional bias.
#[derive(Debug, Clone)]
pub struct Conv2d {
    name: String,
    kernel: ParamId,
    bias: Option<ParamId>,
    window: Window,
}

impl Conv2d {
    /// `k` filters of `[r, s]` over `c` channels, Glorot uniform; the bias starts at 0.
    pub fn new(
        builder: &mut ParamsBuilder,
        name: &str,
        k: usize,
        [r, s]: [usize; 2],
        c: usize,
        window: Window,
        bias: bool,
    ) -> Self {
        let init = Init::GlorotUniform { fan_in: r * s * c, fan_out: r * s * k };
        Conv2d {
            name: name.to_string(),
            kernel: builder.param(&format!("{name}/kernel"), &[k, r, s, c], init),
            bias: bias.then(|| builder.param(&format!("{name}/bias"), &[k], Init::Constant(0.0))),
            window,
        }
    }

    /// `conv(x) + bias + residual`, the sum fused into the convolution's epilogue.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn forward(&self, pass: &Forward, x: &Var, residual: Option<&Var>) -> Result<Var> {
        let w = pass.params.factor(&pass.tape, self.kernel)?;
        let b = self.bias.map(|id| pass.params.var(&pass.tape, id)).transpose()?;
        if pass.is_tapped() {
            let y = ops::conv2d(x, &w, b.as_ref(), None, self.window)?;
            pass.show(&self.name, &y)?;
            return match residual {
                Some(residual) => ops::add(residual, &y),
                None => Ok(y),
            };
        }
        ops::conv2d(x, &w, b.as_ref(), residual, self.window)
    }
}

/// Batch normalisation over all axes but the last, optionally fused with the ReLU behind it.
#[derive(Debug, Clone)]
pub struct BatchNorm {
    name: String,
    gamma: ParamId,
    beta: ParamId,
    running_mean: StatId,
    running_var: StatId,
    eps: f32,
    momentum: f32,
}

impl BatchNorm {
    /// A batch norm of `c` channels: gamma 1, beta 0, moving mean 0, moving variance 1.
    pub fn new(builder: &mut ParamsBuilder, name: &str, c: usize, eps: f32, momentum: f32) -> Self {
        BatchNorm {
            name: name.to_string(),
            gamma: builder.param(&format!("{name}/gamma"), &[c], Init::Constant(1.0)),
            beta: builder.param(&format!("{name}/beta"), &[c], Init::Constant(0.0)),
            running_mean: builder.stat(&format!("{name}/moving_mean"), &[c], 0.0),
            running_var: builder.stat(&format!("{name}/moving_variance"), &[c], 1.0),
            eps,
            momentum,
        }
    }

    /// `bn(x)`, or `relu(bn(x))` when the name of the ReLU layer is given. A frozen layer runs in inference mode.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn forward(&self, pass: &Forward, x: &Var, relu: Option<&str>) -> Result<Var> {
        let params = pass.params;
        let training = pass.mode == Mode::Training && params.is_trainable(self.gamma);
        let statistics = ops::RunningStatistics {
            mean: params.stat(self.running_mean)?,
            var: params.stat(self.running_var)?,
            momentum: pass.momentum.unwrap_or(self.momentum),
            unbiased: pass.keras == KerasVersion::V2,
        };
        let (gamma, beta) = (params.var(&pass.tape, self.gamma)?, params.var(&pass.tape, self.beta)?);
        let fuse = relu.is_some() && !pass.is_tapped();
        let y = ops::batch_norm(x, &gamma, &beta, &statistics, self.eps, training, fuse)?;
        if fuse {
            return Ok(y);
        }
        pass.show(&self.name, &y)?;
        let Some(relu) = relu else { return Ok(y) };
        let y = ops::relu(&y)?;
        pass.show(relu, &y)?;
        Ok(y)
    }
}

/// Fully connected layer: `x wᵀ + b` with `w` [out, in].
#[derive(Debug, Clone)]
pub struct Dense {
    name: String,
    kernel: ParamId,
    bias: ParamId,
    inputs: usize,
}

impl Dense {
    /// `outputs` neurons over `inputs` features, Glorot uniform; the bias starts at 0.
    pub fn new(builder: &mut ParamsBuilder, name: &str, outputs: usize, inputs: usize) -> Self {
        let init = Init::GlorotUniform { fan_in: inputs, fan_out: outputs };
        Dense {
            name: name.to_string(),
            kernel: builder.param(&format!("{name}/kernel"), &[outputs, inputs], init),
            bias: builder.param(&format!("{name}/bias"), &[outputs], Init::Constant(0.0)),
            inputs,
        }
    }

    /// The layer's output `[n, outputs]` for `x` `[n, inputs]`.
    ///
    /// # Errors
    /// When the features do not fit.
    pub fn forward(&self, pass: &Forward, x: &Var) -> Result<Var> {
        if x.shape().len() != 2 || x.shape()[1] != self.inputs {
            return Err(Error::shape(
                "Dense",
                format_args!("x of shape [n, {}] in layer `{}`", self.inputs, self.name),
                format_args!("{:?}", x.shape()),
                "flatten or pool the features first",
            ));
        }
        let w = pass.params.var(&pass.tape, self.kernel)?;
        let b = pass.params.var(&pass.tape, self.bias)?;
        let y = ops::linear(x, &w, Some(&b))?;
        pass.show(&self.name, &y)?;
        Ok(y)
    }
}

/// Standardisation of each channel by a mean and variance that [`Normalization::adapt`] learns from data; the identity
/// until then. It holds 2c + 1 numbers that are not trained, as in Keras 2.
///
/// Source: `keras.layers.Normalization`.
#[derive(Debug, Clone)]
pub struct Normalization {
    mean: StatId,
    variance: StatId,
    count: StatId,
    c: usize,
}

impl Normalization {
    /// A normalisation of `c` channels.
    pub fn new(builder: &mut ParamsBuilder, name: &str, c: usize) -> Self {
        Normalization {
            mean: builder.stat(&format!("{name}/mean"), &[c], 0.0),
            variance: builder.stat(&format!("{name}/variance"), &[c], 1.0),
            count: builder.stat(&format!("{name}/count"), &[1], 0.0),
            c,
        }
    }

    /// Sets mean and population variance to those of u8 images, each slice one image `[.., c]`.
    ///
    /// # Errors
    /// When there is no pixel, or a slice does not hold whole pixels.
    ///
    /// # Determinism
    /// Exact: sums of integers.
    pub fn adapt<'p>(&self, params: &Params, images: impl IntoIterator<Item = &'p [u8]>) -> Result<()> {
        let mut sums = vec![(0u64, 0u64); self.c];
        let mut elems = 0;
        for image in images {
            if image.len() % self.c != 0 {
                return Err(Error::shape(
                    "Normalization::adapt",
                    format_args!("images of {} channels", self.c),
                    format_args!("{} values", image.len()),
                    "pass whole pixels",
                ));
            }
            elems += image.len() as u64;
            for pixel in image.chunks_exact(self.c) {
                for ((sum, squares), &x) in sums.iter_mut().zip(pixel) {
                    *sum += u64::from(x);
                    *squares += u64::from(x) * u64::from(x);
                }
            }
        }
        if elems == 0 {
            return Err(Error::argument("Normalization::adapt", "at least one pixel", 0, "pass the training images"));
        }
        let n = (elems / self.c as u64) as f64;
        let (means, variances) = (params.stat(self.mean)?, params.stat(self.variance)?);
        // In f64 the difference keeps about 12 digits: bytes are small integers.
        let moments = sums.into_iter().map(|(sum, squares)| {
            let mean = sum as f64 / n;
            (mean as f32, (squares as f64 / n - mean * mean).max(0.0) as f32)
        });
        let (mean, variance): (Vec<f32>, Vec<f32>) = moments.unzip();
        means.copy_from_slice(&mean)?;
        variances.copy_from_slice(&variance)?;
        params.stat(self.count)?.fill(n as f32)
    }

    /// `(x - mean) / max(sqrt(variance), 1e-7)`.
    ///
    /// # Errors
    /// When the last extent of `x` is not the layer's.
    pub fn forward(&self, pass: &Forward, x: &Var) -> Result<Var> {
        ops::normalization(x, &pass.params.stat(self.mean)?, &pass.params.stat(self.variance)?)
    }
}
