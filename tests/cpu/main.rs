//! Slice-level ops of the CPU device against naive oracles.
#![cfg(feature = "cpu")]

#[path = "../common/mod.rs"]
mod common;

mod conv2d;
mod gemm;
mod linear;
