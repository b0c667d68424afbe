//! Tensors, devices, autograd, differentiable ops, layers and optimisers.
#![cfg(all(feature = "nn", feature = "cpu"))]

#[path = "../common/mod.rs"]
mod common;

mod autograd;
mod gradients;
mod nn;
mod optim;
mod tensor;

use warpsmith::{Device, Error, Tensor};

/// The CPU, or the CUDA device of the tests.
fn device() -> Device {
    common::device::device()
}

/// Such a device with a memory pool of its own.
fn own_device() -> Device {
    common::device::own_device()
}

/// An f32 tensor of these values.
fn f32s(device: &Device, shape: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_slice(device, shape, values).expect("the values fit the shape")
}

/// An i32 tensor of these values.
fn i32s(device: &Device, values: &[i32]) -> Tensor {
    Tensor::from_slice(device, &[values.len()], values).expect("the values fit the shape")
}

/// The bits of an f32 tensor, for comparisons that must be exact.
fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.read::<f32>().expect("nobody writes to it").iter().map(|v| v.to_bits()).collect()
}

/// Fails unless the result is an error whose text holds every one of `parts`.
#[track_caller]
fn assert_error<T>(result: Result<T, Error>, parts: &[&str]) {
    let text = result.err().expect("an error").to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}
