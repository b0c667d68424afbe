//! Training: the loop and what it writes.
#![cfg(feature = "train")]

mod fs;
mod plot;
mod robustness;
