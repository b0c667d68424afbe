//! Slice-level ops of the CPU device against naive oracles.
#![cfg(feature = "cpu")]

#[path = "../common/mod.rs"]
mod common;

mod batch_norm;
mod conv2d;
mod cross_entropy;
mod determinism;
mod dropout;
mod elementwise;
mod gemm;
mod linear;
mod optimisers;
mod pool2d;
mod softmax_kl;
mod supcon;
