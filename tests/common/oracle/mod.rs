//! Naive oracles, one module per op.

pub mod augment;
