//! Hand-written CUDA kernels, a minimal autograd engine over them, ResNet50V2, and four training
//! procedures for robust image classifiers, with no framework underneath.
#![deny(missing_docs)]

#[cfg(all(feature = "nn", not(any(feature = "cpu", feature = "cuda"))))]
compile_error!("feature `nn` needs a device: enable `cpu`, `cuda` or both");

#[cfg(all(feature = "nn", feature = "cpu"))]
pub mod augment;
pub mod error;
pub mod math;
pub mod problem;
pub mod rng;

#[cfg(feature = "cpu")]
pub mod cpu;

pub use error::{Error, Result};
