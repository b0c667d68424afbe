//! Element types of kernels.

use bytemuck::NoUninit;
use cudarc::driver::{DeviceRepr, ValidAsZeroBits};

/// A float type of kernels: what the host computes in f32 is rounded to it.
pub trait Float: warpsmith::cuda::Value + DeviceRepr + ValidAsZeroBits + NoUninit {
    /// Distance from one to the next number.
    const EPSILON: f64;
    fn from_floats(x: &[f32]) -> Vec<Self>;
    fn to_floats(x: &[Self]) -> Vec<f32>;
    fn rounded(x: &[f32]) -> Vec<f32> {
        Self::to_floats(&Self::from_floats(x))
    }
}

impl Float for f32 {
    const EPSILON: f64 = f32::EPSILON as f64;
    fn from_floats(x: &[f32]) -> Vec<f32> {
        x.to_vec()
    }
    fn to_floats(x: &[f32]) -> Vec<f32> {
        x.to_vec()
    }
}

impl Float for half::bf16 {
    const EPSILON: f64 = 1.0 / 128.0;
    fn from_floats(x: &[f32]) -> Vec<half::bf16> {
        x.iter().map(|&x| half::bf16::from_f32(x)).collect()
    }
    fn to_floats(x: &[half::bf16]) -> Vec<f32> {
        x.iter().map(|x| x.to_f32()).collect()
    }
}
