//! Hand-written CUDA kernels, a minimal autograd engine over them, ResNet50V2, and four training
//! procedures for robust image classifiers, with no framework underneath.
#![deny(missing_docs)]

#[cfg(all(feature = "nn", not(any(feature = "cpu", feature = "cuda"))))]
compile_error!("feature `nn` needs a device: enable `cpu`, `cuda` or both");

pub mod error;
pub mod math;
pub mod problem;
pub mod rng;

#[cfg(all(feature = "nn", feature = "cpu"))]
pub mod augment;
#[cfg(feature = "nn")]
pub mod autograd;
#[cfg(feature = "cpu")]
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "train")]
pub mod data;
#[cfg(feature = "nn")]
pub mod device;
#[cfg(feature = "nn")]
pub mod dtype;
#[cfg(feature = "nn")]
pub mod fs;
#[cfg(any(feature = "cpu", feature = "cuda"))]
mod geometry;
#[cfg(feature = "nn")]
pub mod nn;
#[cfg(feature = "nn")]
pub mod ops;
#[cfg(feature = "nn")]
pub mod optim;
#[cfg(feature = "train")]
pub mod recipes;
#[cfg(feature = "nn")]
pub mod tensor;
#[cfg(feature = "train")]
pub mod train;

#[cfg(feature = "nn")]
pub use autograd::{Tape, Var};
#[cfg(feature = "nn")]
pub use device::Device;
#[cfg(feature = "nn")]
pub use dtype::{DType, Element};
pub use error::{Error, Result};
#[cfg(feature = "nn")]
pub use tensor::Tensor;

/// The README's code compiles and runs.
#[cfg(all(doctest, feature = "nn", feature = "cpu"))]
#[doc = include_str!("../README.md")]
struct Readme;
