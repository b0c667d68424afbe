//! The CUDA side, as far as it can be tested without a GPU.
#![cfg(feature = "cuda")]

mod probe;
