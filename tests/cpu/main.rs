//! Slice-level ops of the CPU device.
#![cfg(feature = "cpu")]

#[path = "../common/mod.rs"]
mod common;

mod batch_norm;
mod cross_entropy;
mod determinism;
mod dropout;
mod elementwise;
mod optimisers;
mod pool2d;
mod softmax_kl;
mod supcon;
