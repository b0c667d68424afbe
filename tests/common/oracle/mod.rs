//! Naive f64 versions of the ops: nested loops over the named extents, short enough to trust by reading.

pub mod batch_norm;
pub mod cross_entropy;
pub mod pool2d;
pub mod softmax_kl;
pub mod supcon;
