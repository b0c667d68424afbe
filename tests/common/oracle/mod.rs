//! Naive oracles: nested loops over the named extents in f64, short enough to trust by reading.

pub mod conv2d;
pub mod linear;
