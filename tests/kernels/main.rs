//! The CUDA kernels: their PTX is that of the sources, their entry points are those that Rust launches, and under the
//! emulator they compute what the CPU does, with every check on.
#![cfg(feature = "cuda")]

#[path = "../../build/nvcc.rs"]
#[allow(dead_code)] // build.rs uses the rest.
mod nvcc;

mod abi;
mod prebuilt;
