//! The products of ResNet50V2, derived from the network's shape.

use warpsmith::Result;
use warpsmith::problem::{Conv2dProblem, Window};

/// One distinct layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Stage and place in the block, as `s2.c1`.
    pub name: String,
    /// How often the network has it.
    pub count: u32,
    /// Its extents.
    pub problem: Conv2dProblem,
}

/// Bottleneck width, and number of blocks, of the four stages.
const STAGES: [(u32, u32); 4] = [(64, 3), (128, 4), (256, 6), (512, 3)];

/// Every distinct convolution for `batch` images of `size` x `size` pixels, in the network's order.
///
/// # Errors
/// When an extent is zero.
pub fn convolutions(size: u32, batch: u32) -> Result<Vec<Layer>> {
    let mut layers: Vec<Layer> = Vec::new();
    let mut add = |name: String, h: u32, c: u32, k: u32, r: u32, stride: u32| -> Result<()> {
        let problem = Conv2dProblem::new([batch, h, h, c], [k, r, r, c], Window::square(r / 2, stride))?;
        match layers.iter_mut().find(|layer| layer.problem == problem) {
            // The first layer of these extents gives the name.
            Some(layer) => layer.count += 1,
            None => layers.push(Layer { name, count: 1, problem }),
        }
        Ok(())
    };
    add("stem".into(), size, 3, 64, 7, 2)?;
    // The stem and the pooling behind it halve the image.
    let (mut h, mut c) = (size.div_ceil(2).div_ceil(2), 64);
    for (stage, (f, blocks)) in STAGES.into_iter().enumerate() {
        let name = |layer: &str| format!("s{}.{layer}", stage + 1);
        for block in 1..=blocks {
            // Pre-activation ResNet of Keras: the last block of a stage strides, but for the last stage's.
            let stride = if block == blocks && stage + 1 < STAGES.len() { 2 } else { 1 };
            if block == 1 {
                add(name("shortcut"), h, c, 4 * f, 1, 1)?;
            }
            add(name(if block == 1 { "c1_first" } else { "c1" }), h, c, f, 1, 1)?;
            add(name(if stride == 2 { "c2_stride2" } else { "c2" }), h, f, f, 3, stride)?;
            h = h.div_ceil(stride);
            add(name(if stride == 2 { "c3_last" } else { "c3" }), h, f, 4 * f, 1, 1)?;
            c = 4 * f;
        }
    }
    Ok(layers)
}

/// The classifier behind the convolutions, as the 1x1 convolution of images of one pixel.
///
/// # Errors
/// When an extent is zero.
pub fn classifier(batch: u32, classes: u32) -> Result<Layer> {
    let problem = Conv2dProblem::linear("classifier", batch as usize, classes as usize, 4 * STAGES[3].0 as usize)?;
    Ok(Layer { name: "classifier".into(), count: 1, problem })
}
