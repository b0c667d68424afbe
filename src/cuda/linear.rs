//! The fully connected layer: device twin of [`cpu::linear`](crate::cpu::linear), and like it the 1x1 convolution of
//! images of one pixel, which the kernels of [`conv2d`] compute as the plain GEMM that it is.
//!
//! Its numbers stand in the chapter of [`gemm`](super::gemm).

use super::conv2d::{self, Pass, Plan};
use super::launch::{Kernels, Value};
use crate::Result;
use crate::problem::Conv2dProblem;
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DevicePtrMut};

/// The plan of a pass over `m` rows of `k_in` features and `n_out` units: [`Pass::Fprop`] for [`forward`],
/// [`Pass::Dgrad`] for [`backward_x`], [`Pass::Wgrad`] for [`backward_w`].
///
/// # Errors
/// When an extent is zero or exceeds what kernels count in 32 bits.
///
/// # Example
/// ```
/// use warpsmith::cuda::{conv2d::Pass, linear};
/// assert!(linear::plan::<f32>(Pass::Fprop, 8, 10, 2048)?.workspace_elems() < 100_000);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn plan<T: Value>(pass: Pass, m: usize, n_out: usize, k_in: usize) -> Result<Plan> {
    Plan::new::<T>(pass, &Conv2dProblem::linear("linear", m, n_out, k_in)?)
}

/// `y[m, n_out] = x[m, k_in] · wᵀ (+ bias)`, with `w [n_out, k_in]`.
///
/// # Errors
/// When the plan is for another pass or type, a buffer has the wrong length, or a launch fails.
pub fn forward<T: Value>(
    kernels: &Kernels,
    plan: &Plan,
    (x, w): (&impl DevicePtr<T>, &impl DevicePtr<T>),
    bias: Option<&impl DevicePtr<f32>>,
    y: &mut impl DevicePtrMut<T>,
    workspace: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    conv2d::fprop(kernels, plan, (x, w), bias, None::<&CudaSlice<T>>, y, workspace, stream)
}

/// `dx[m, k_in] = dy[m, n_out] · w`.
///
/// # Errors
/// As [`forward`].
pub fn backward_x<T: Value>(
    kernels: &Kernels,
    plan: &Plan,
    (w, dy): (&impl DevicePtr<T>, &impl DevicePtr<T>),
    dx: &mut impl DevicePtrMut<T>,
    workspace: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    conv2d::dgrad(kernels, plan, (w, dy), dx, workspace, stream)
}

/// `dw[n_out, k_in] += dyᵀ · x`, in f32 for every type.
///
/// # Errors
/// As [`forward`].
pub fn backward_w<T: Value>(
    kernels: &Kernels,
    plan: &Plan,
    (x, dy): (&impl DevicePtr<T>, &impl DevicePtr<T>),
    dw: &mut impl DevicePtrMut<f32>,
    workspace: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    conv2d::wgrad(kernels, plan, (x, dy), dw, workspace, stream)
}

/// `db[n_out] += sum over rows of dy[m, n_out]`, in f32 for every type; `workspace` of
/// [`conv2d::bias_grad_workspace_elems`].
///
/// # Errors
/// When an extent is zero, a buffer has the wrong length, or a launch fails.
pub fn backward_b<T: Value>(
    kernels: &Kernels,
    (m, n_out): (usize, usize),
    dy: &impl DevicePtr<T>,
    db: &mut impl DevicePtrMut<f32>,
    workspace: &mut impl DevicePtrMut<f32>,
    stream: &CudaStream,
) -> Result<()> {
    let problem = Conv2dProblem::linear("linear.backward_b", m, n_out, 1)?;
    conv2d::bias_grad(kernels, &problem, dy, db, workspace, stream)
}
