//! Hand-written CUDA kernels, a minimal autograd engine over them, ResNet50V2, and four training
//! procedures for robust image classifiers, with no framework underneath.
#![deny(missing_docs)]

#[cfg(all(feature = "nn", not(any(feature = "cpu", feature = "cuda"))))]
compile_error!("feature `nn` needs a device: enable `cpu`, `cuda` or both");

pub mod error;
pub mod problem;
pub mod rng;
#[cfg(feature = "train")]
pub mod train;

#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "nn")]
pub mod fs;

pub use error::{Error, Result};
