//! Augmentation and corruptions: ops against naive oracles, pipelines for determinism, draws for their statistics.
#![cfg(all(feature = "nn", feature = "cpu"))]

#[path = "../common/mod.rs"]
mod common;

mod corruption;
mod draws;
mod geometry;
mod math;
mod pipeline;
mod pixel;

/// Odd sizes: a single pixel, one row, one column, small odd ones, and those of the procedures.
const SIZES: [(usize, usize); 7] = [(1, 1), (1, 9), (9, 1), (5, 7), (24, 24), (31, 33), (72, 72)];

/// Image values as f32 in 0..255, with fractions.
fn random_floats(n: usize, seed: u64) -> Vec<f32> {
    common::random(n, seed).into_iter().map(|x| (x + 1.0) * 127.5).collect()
}
