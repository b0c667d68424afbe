//! cuDNN and cuBLAS as peers of warpsmith's kernels: the same problems on the same buffers, for the bench
//! `side_by_side`.
//!
//! It is a crate of its own so that these libraries never become part of warpsmith. Building needs neither of them nor
//! CUDA: they are opened at run time, and a missing one is an [`Error`](warpsmith::Error) that says what to install.

pub mod agree;
pub mod cublas;
pub mod cudnn;
pub mod layers;
pub mod library;
mod math;
pub mod side_by_side;

pub use math::Math;
