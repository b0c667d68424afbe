//! Naive oracles: nested loops over the named extents in f64, short enough to trust by reading.

pub mod augment;
pub mod batch_norm;
pub mod conv2d;
pub mod cross_entropy;
pub mod linear;
pub mod optimisers;
pub mod pool2d;
pub mod softmax_kl;
pub mod supcon;
