//! Training: the loop and what it writes.
#![cfg(feature = "train")]

mod cli;
mod fit;
mod fs;
mod plot;
mod recipes;
mod robustness;
mod session;
mod tiny;
