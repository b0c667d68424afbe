//! ResNet50V2 with the layer names, parameter counts and numerics of `keras.applications`.
//!
//! Source: He, Zhang, Ren, Sun: "Identity mappings in deep residual networks" (2016), in the form of
//! `keras.applications.ResNet50V2`: conv1 has neither batch norm nor ReLU, the stride sits in the last
//! block of a stack, and convolutions in front of a sum carry a bias.

use super::layers::{BatchNorm, Conv2d, Dense, Forward};
use super::params::ParamsBuilder;
use crate::autograd::Var;
use crate::ops;
use crate::problem::Window;
use crate::{DType, Error, Result};

/// Batch norm epsilon of every layer.
pub const EPS: f32 = 1.001e-5;
/// Weight of the old value in every moving statistic.
pub const MOMENTUM: f32 = 0.99;
/// Features behind the global average pool.
pub const FEATURES: usize = 2048;

/// `(filters, blocks, stride of the last block)` of the four stacks.
const STACKS: [(usize, usize, u32); 4] = [(64, 3, 2), (128, 4, 2), (256, 6, 2), (512, 3, 1)];

/// What follows the global average pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Nothing: the output is `[n, 2048]` features (`include_top=False, pooling="avg"`).
    None,
    /// The dense layer `predictions`: the output is `[n, classes]` logits.
    Classes(usize),
}

#[derive(Debug, Clone)]
struct Block {
    name: String,
    stride: u32,
    preact: BatchNorm,
    shortcut: Option<Conv2d>,
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    conv3: Conv2d,
}

/// The network: a description of its layers. The numbers are in the [`Params`](super::Params) built beside it.
///
/// # Example
/// ```
/// use warpsmith::nn::{Forward, Head, ParamsBuilder, ResNet50V2};
/// use warpsmith::{DType, Device, Tensor};
/// let device = Device::cpu()?;
/// let mut builder = ParamsBuilder::new();
/// let net = ResNet50V2::new(&mut builder, Head::Classes(10));
/// let params = builder.build(&device, 0)?;
/// assert_eq!(params.counts(), (23_539_850, 45_440));
/// let pass = Forward::inference(&params);
/// let images = pass.tape.constant(Tensor::zeros(&device, &[1, 32, 32, 3], DType::F32)?);
/// assert_eq!(net.forward(&pass, &images)?.shape(), [1, 10]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct ResNet50V2 {
    conv1: Conv2d,
    blocks: Vec<Block>,
    post_bn: BatchNorm,
    predictions: Option<Dense>,
}

impl Block {
    fn new(builder: &mut ParamsBuilder, name: String, c: usize, f: usize, stride: u32, first: bool) -> Self {
        let bn = |b: &mut ParamsBuilder, suffix: &str, c| {
            BatchNorm::new(b, &format!("{name}_{suffix}_bn"), c, EPS, MOMENTUM)
        };
        let conv = |b: &mut ParamsBuilder, i: usize, k, filter: usize, c, window, bias| {
            Conv2d::new(b, &format!("{name}_{i}_conv"), k, [filter; 2], c, window, bias)
        };
        Block {
            preact: bn(builder, "preact", c),
            conv1: conv(builder, 1, f, 1, c, Window::default(), false),
            bn1: bn(builder, "1", f),
            conv2: conv(builder, 2, f, 3, f, Window::square(1, stride), false),
            bn2: bn(builder, "2", f),
            shortcut: first.then(|| conv(builder, 0, 4 * f, 1, c, Window::default(), true)),
            conv3: conv(builder, 3, 4 * f, 1, f, Window::default(), true),
            name,
            stride,
        }
    }

    fn forward(&self, pass: &Forward, x: &Var) -> Result<Var> {
        let relu = |suffix: &str| format!("{}_{suffix}_relu", self.name);
        let p = self.preact.forward(pass, x, Some(&relu("preact")))?;
        let shortcut = match &self.shortcut {
            Some(conv) => conv.forward(pass, &p, None)?,
            None if self.stride > 1 => ops::max_pool2d(x, [1, 1], Window::square(0, self.stride), 0.0)?,
            None => x.clone(),
        };
        let y = self.conv1.forward(pass, &p, None)?;
        // Nothing below reads p: letting go of it here frees it during inference.
        drop(p);
        let y = self.bn1.forward(pass, &y, Some(&relu("1")))?;
        let y = self.conv2.forward(pass, &y, None)?;
        let y = self.bn2.forward(pass, &y, Some(&relu("2")))?;
        let y = self.conv3.forward(pass, &y, Some(&shortcut))?;
        pass.show(&format!("{}_out", self.name), &y)?;
        Ok(y)
    }
}

impl ResNet50V2 {
    /// Registers the layers' parameters with `builder`.
    pub fn new(builder: &mut ParamsBuilder, head: Head) -> Self {
        let conv1 = Conv2d::new(builder, "conv1_conv", 64, [7; 2], 3, Window::square(3, 2), true);
        let mut blocks = Vec::new();
        let mut c = 64;
        for (stack, &(f, count, stride)) in STACKS.iter().enumerate() {
            for block in 1..=count {
                let stride = if block == count { stride } else { 1 };
                blocks.push(Block::new(builder, format!("conv{}_block{block}", stack + 2), c, f, stride, block == 1));
                c = 4 * f;
            }
        }
        let post_bn = BatchNorm::new(builder, "post_bn", c, EPS, MOMENTUM);
        let predictions = match head {
            Head::None => None,
            Head::Classes(classes) => Some(Dense::new(builder, "predictions", classes, FEATURES)),
        };
        ResNet50V2 { conv1, blocks, post_bn, predictions }
    }

    /// Features or logits of images `[n, h, w, 3]` that are already scaled; `h` and `w` at least 32.
    ///
    /// # Errors
    /// When the images are smaller than 32x32 or do not have 3 channels.
    pub fn forward(&self, pass: &Forward, images: &Var) -> Result<Var> {
        let [_, h, w, c] = images.tensor().nhwc("ResNet50V2")?;
        if h < 32 || w < 32 || c != 3 {
            return Err(Error::shape(
                "ResNet50V2",
                "images [n, h, w, 3] of at least 32x32",
                format_args!("{:?}", images.shape()),
                "resize the images first",
            ));
        }
        // In mixed precision activations are bf16 from here to the pooled features.
        let is_mixed = pass.params.bf16_values().is_some();
        let x = if is_mixed { ops::cast(images, DType::Bf16)? } else { images.clone() };
        let x = self.conv1.forward(pass, &x, None)?;
        let mut x = ops::max_pool2d(&x, [3, 3], Window::square(1, 2), 0.0)?;
        pass.show("pool1_pool", &x)?;
        for block in &self.blocks {
            x = block.forward(pass, &x)?;
        }
        let x = self.post_bn.forward(pass, &x, Some("post_relu"))?;
        let x = ops::global_avg_pool(&x)?;
        let x = if is_mixed { ops::cast(&x, DType::F32)? } else { x };
        pass.show("avg_pool", &x)?;
        match &self.predictions {
            Some(predictions) => predictions.forward(pass, &x),
            None => Ok(x),
        }
    }
}
