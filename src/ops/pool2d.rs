use super::{check_f32, on_cpu};
use crate::autograd::{Target, Var};
#[cfg(feature = "cpu")]
use crate::cpu;
use crate::problem::{Pool2dProblem, Window};
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
/// When `x` is not f32 NHWC, the window is dilated or larger than 255 taps, or the output would be empty.
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
    check_f32("max_pool2d", &[("x", x.tensor())])?;
    let problem = Pool2dProblem::new(x.tensor().nhwc("max_pool2d")?, filter, window)?;
    let device = x.tensor().device();
    let shape = [problem.n, problem.p, problem.q, problem.c].map(|e| e as usize);
    let y = Tensor::empty(device, &shape, DType::F32)?;
    // Without padding a 1x1 window has one candidate: its index need not be kept.
    let has_choice = filter != [1, 1] || window.pads != [0; 4];
    let argmax = (x.node().is_some() && has_choice).then(|| Tensor::empty(device, &shape, DType::U8)).transpose()?;
    {
        let (xs, mut ys) = (x.tensor().read::<f32>()?, y.write::<f32>()?);
        let mut indices = argmax.as_ref().map(Tensor::write::<u8>).transpose()?;
        let (xs, ys, indices) = (&*xs, &mut *ys, indices.as_deref_mut());
        on_cpu!(device, "max_pool2d", { cpu::pool2d::max(&problem, padding_value, xs, ys, indices) })?;
    }
    let (node, x_shape) = (x.node(), x.shape().to_vec());
    Var::record("max_pool2d", &[x], y, move |dy, gradients| {
        let Some(Target { tensor, accumulate }) = gradients.target(node, &x_shape, &dy)? else { return Ok(()) };
        let (dys, mut dxs) = (dy.read::<f32>()?, tensor.write::<f32>()?);
        let indices = argmax.as_ref().map(Tensor::read::<u8>).transpose()?;
        let (dys, dxs, indices) = (&*dys, &mut *dxs, indices.as_deref());
        on_cpu!(dy.device(), "max_pool2d.backward", {
            cpu::pool2d::max_backward(&problem, dys, indices, accumulate, dxs)
        })
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
/// When `x` is not f32 NHWC.
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
    check_f32(OP, &[("x", x.tensor())])?;
    let &[n, h, w, c] = x.shape() else {
        return Err(Error::shape(OP, "`x` [n, h, w, c]", format_args!("{:?}", x.shape()), "reshape the tensor first"));
    };
    let device = x.tensor().device();
    let y = Tensor::empty(device, &[n, c], DType::F32)?;
    {
        let (xs, mut ys) = (x.tensor().read::<f32>()?, y.write::<f32>()?);
        let (xs, ys) = (&*xs, &mut *ys);
        on_cpu!(device, "global_avg_pool", { cpu::pool2d::global_avg(n, h * w, c, xs, ys) })?;
    }
    let node = x.node();
    Var::record(OP, &[x], y, move |dy, gradients| {
        let Some(Target { tensor, accumulate }) = gradients.target(node, &[n, h, w, c], &dy)? else { return Ok(()) };
        let (dys, mut dxs) = (dy.read::<f32>()?, tensor.write::<f32>()?);
        let (dys, dxs) = (&*dys, &mut *dxs);
        on_cpu!(dy.device(), "global_avg_pool.backward", {
            cpu::pool2d::global_avg_backward(n, h * w, c, dys, accumulate, dxs)
        })
    })
}
