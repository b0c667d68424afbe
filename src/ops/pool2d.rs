#[cfg(feature = "cuda")]
use super::with_float;
use super::{check_floats, on_device};
use crate::autograd::{Target, Var};
#[cfg(feature = "cpu")]
use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::problem::{Pool2dProblem, Window};
#[cfg(feature = "cuda")]
use crate::tensor::DeviceReadGuard;
use crate::tensor::Tensor;
use crate::{DType, Error, Result};

/// 2-d max-pooling whose padding takes part in the maximum with `padding_value`.
///
/// Keras' ResNet pads with zeros and then pools without padding: `padding_value` 0 does that.
///
/// # Shapes
/// `x` `[n,h,w,c]`, windows `filter` = [r, s], `y` `[n,p,q,c]`.
///
/// # Gradient
/// To the first maximum of each window in row-major order; a window won by the padding sends none.
///
/// # Errors
/// When `x` is not NHWC of f32 or, on a CUDA device, bf16, the window is dilated or larger than 254 taps, or the output
/// would be empty.
///
/// # Determinism
/// Bit-equal for any number of threads.
///
/// # Example
/// ```
/// use warpsmith::problem::Window;
/// use warpsmith::{Device, Tape, Tensor, ops};
/// let x = Tape::no_grad().constant(Tensor::from_slice(&Device::cpu()?, &[1, 2, 2, 1], &[1.0f32, -2.0, 3.0, 0.5])?);
/// let y = ops::max_pool2d(&x, [2, 2], Window::default(), 0.0)?;
/// assert_eq!(y.tensor().item()?, 3.0);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn max_pool2d(x: &Var, filter: [u32; 2], window: Window, padding_value: f32) -> Result<Var> {
    check_floats("max_pool2d", &[("x", x.tensor())])?;
    let problem = Pool2dProblem::new(x.tensor().nhwc("max_pool2d")?, filter, window)?;
    let device = x.tensor().device();
    let shape = [problem.n, problem.p, problem.q, problem.c].map(|e| e as usize);
    let y = Tensor::empty(device, &shape, x.tensor().dtype())?;
    // Without padding a 1x1 window has one candidate: its index need not be kept.
    let has_choice = filter != [1, 1] || window.pads != [0; 4];
    let argmax = (x.node().is_some() && has_choice).then(|| Tensor::empty(device, &shape, DType::U8)).transpose()?;
    {
        let (x, argmax) = (x.tensor(), argmax.as_ref());
        on_device!(
            device, "max_pool2d",
            cpu: {
                let mut indices = argmax.map(Tensor::write).transpose()?;
                let indices = indices.as_deref_mut();
                cpu::pool2d::max(&problem, padding_value, &x.read()?, &mut y.write()?, indices)
            },
            cuda(gpu): with_float!(x.dtype(), T, {
                let mut indices = argmax.map(Tensor::device_write).transpose()?;
                let (x, mut y, indices) = (x.device_read::<T>()?, y.device_write()?, indices.as_mut());
                cuda::pool2d::max(gpu.kernels(), &problem, padding_value, &x, &mut y, indices, gpu.stream())
            }),
        )?;
    }
    let (node, x_shape) = (x.node(), x.shape().to_vec());
    Var::record("max_pool2d", &[x], y, move |dy, gradients| {
        let Some(Target { tensor, accumulate }) = gradients.target(node, &x_shape, &dy)? else { return Ok(()) };
        let argmax = argmax.as_ref();
        on_device!(
            dy.device(), "max_pool2d.backward",
            cpu: {
                let indices = argmax.map(Tensor::read).transpose()?;
                let (dx, indices) = (&mut tensor.write()?, indices.as_deref());
                cpu::pool2d::max_backward(&problem, &dy.read()?, indices, accumulate, dx)
            },
            cuda(gpu): with_float!(dy.dtype(), T, {
                let indices: Option<DeviceReadGuard<u8>> = argmax.map(Tensor::device_read).transpose()?;
                let (dy, mut dx, indices) = (dy.device_read::<T>()?, tensor.device_write()?, indices.as_ref());
                cuda::pool2d::max_backward(gpu.kernels(), &problem, &dy, indices, accumulate, &mut dx, gpu.stream())
            }),
        )
    })
}

/// Global average pooling: the mean over rows and columns.
///
/// # Shapes
/// `x` `[n,h,w,c]`, `y` `[n,c]`.
///
/// # Gradient
/// `dy / (h·w)` spread over the image.
///
/// # Errors
/// When `x` is not NHWC of f32 or, on a CUDA device, bf16.
///
/// # Determinism
/// Bit-equal for any number of threads.
///
/// # Example
/// ```
/// use warpsmith::{Device, Tape, Tensor, ops};
/// let x = Tape::no_grad().constant(Tensor::from_slice(&Device::cpu()?, &[1, 1, 2, 1], &[1.0f32, 3.0])?);
/// assert_eq!(ops::global_avg_pool(&x)?.tensor().item()?, 2.0);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn global_avg_pool(x: &Var) -> Result<Var> {
    const OP: &str = "global_avg_pool";
    check_floats(OP, &[("x", x.tensor())])?;
    let &[n, h, w, c] = x.shape() else {
        return Err(Error::shape(OP, "`x` [n, h, w, c]", format_args!("{:?}", x.shape()), "reshape the tensor first"));
    };
    let device = x.tensor().device();
    let y = Tensor::empty(device, &[n, c], x.tensor().dtype())?;
    {
        let x = x.tensor();
        on_device!(
            device, "global_avg_pool",
            cpu: cpu::pool2d::global_avg(n, h * w, c, &x.read()?, &mut y.write()?),
            cuda(gpu): with_float!(x.dtype(), T, {
                let (x, mut y) = (x.device_read::<T>()?, y.device_write()?);
                cuda::pool2d::global_avg(gpu.kernels(), [n, h * w, c], &x, &mut y, gpu.stream())
            }),
        )?;
    }
    let node = x.node();
    Var::record(OP, &[x], y, move |dy, gradients| {
        let Some(Target { tensor, accumulate }) = gradients.target(node, &[n, h, w, c], &dy)? else { return Ok(()) };
        on_device!(
            dy.device(), "global_avg_pool.backward",
            cpu: cpu::pool2d::global_avg_backward(n, h * w, c, &dy.read()?, accumulate, &mut tensor.write()?),
            cuda(gpu): with_float!(dy.dtype(), T, {
                let (dy, mut dx) = (dy.device_read::<T>()?, tensor.device_write()?);
                let extents = [n, h * w, c];
                cuda::pool2d::global_avg_backward(gpu.kernels(), extents, &dy, accumulate, &mut dx, gpu.stream())
            }),
        )
    })
}
