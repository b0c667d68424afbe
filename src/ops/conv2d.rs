#[cfg(feature = "cuda")]
use super::with_float;
use super::{check_device, check_f32, check_floats, check_shape, on_device};
use crate::Result;
use crate::autograd::Var;
#[cfg(feature = "cpu")]
use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda::conv2d::{self, Pass, Plan};
#[cfg(feature = "cuda")]
use crate::device::Scratch;
use crate::problem::{Conv2dProblem, Window};
#[cfg(feature = "cuda")]
use crate::tensor::DeviceReadGuard;
use crate::tensor::Tensor;
#[cfg(feature = "cuda")]
use crate::{
    DType,
    device::{Gpu, Precision},
};

/// 2-d convolution with fused bias and residual: `y = conv(x, w) + b + residual`.
///
/// Cross-correlation: `y[n,p,q,k] = b[k] + residual[n,p,q,k] + Σ_{r,s,c} x[n, p·stride + r·dilation - pad, …, c] · w[k,r,s,c]`.
///
/// # Shapes
/// `x` `[n,h,w,c]`, `w` `[k,r,s,c]` (KRSC), `b` `[k]`, `residual` and `y` `[n,p,q,k]`.
///
/// # Gradient
/// To all inputs that need one; the residual receives `dy` itself.
///
/// # Errors
/// When shapes, types or devices do not fit, or the output would be empty.
///
/// # Determinism
/// Bit-equal for any number of threads.
///
/// # Example
/// ```
/// use warpsmith::problem::Window;
/// use warpsmith::{Device, Tape, Tensor, ops};
/// let device = Device::cpu()?;
/// let tape = Tape::no_grad();
/// let x = tape.constant(Tensor::full(&device, &[1, 3, 3, 1], 1.0f32)?);
/// let w = tape.constant(Tensor::full(&device, &[1, 3, 3, 1], 1.0f32)?);
/// let y = ops::conv2d(&x, &w, None, None, Window::square(1, 1))?;
/// assert_eq!(y.tensor().to_vec::<f32>()?, [4.0, 6.0, 4.0, 6.0, 9.0, 6.0, 4.0, 6.0, 4.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn conv2d(x: &Var, w: &Var, b: Option<&Var>, residual: Option<&Var>, window: Window) -> Result<Var> {
    const OP: &str = "conv2d";
    let problem = Conv2dProblem::new(x.tensor().nhwc(OP)?, w.tensor().nhwc(OP)?, window)?;
    let shape = [problem.n, problem.p, problem.q, problem.k].map(|e| e as usize);
    let mut tensors = vec![("x", x.tensor()), ("w", w.tensor())];
    tensors.extend(residual.map(|r| ("residual", r.tensor())));
    check_floats(OP, &tensors)?;
    if let Some(b) = b {
        check_f32(OP, &[("b", b.tensor())])?;
        check_device(OP, &[tensors[0], ("b", b.tensor())])?;
        check_shape(OP, "b", b.tensor(), &[problem.k as usize])?;
    }
    if let Some(residual) = residual {
        check_shape(OP, "residual", residual.tensor(), &shape)?;
    }

    let device = x.tensor().device();
    let y = Tensor::empty(device, &shape, x.tensor().dtype())?;
    {
        let (x, w, b, residual) = (x.tensor(), w.tensor(), b.map(Var::tensor), residual.map(Var::tensor));
        on_device!(
            device, "conv2d.fprop",
            cpu: {
                let (b, residual) = (b.map(Tensor::read).transpose()?, residual.map(Tensor::read).transpose()?);
                let (b, residual) = (b.as_deref(), residual.as_deref());
                cpu::conv2d::fprop(problem, &x.read()?, &w.read()?, b, residual, &mut y.write()?)
            },
            cuda(gpu): with_float!(x.dtype(), T, {
                let plan = plan(gpu, Pass::Fprop, &problem, x.dtype())?;
                let residual: Option<DeviceReadGuard<T>> = residual.map(Tensor::device_read).transpose()?;
                let b: Option<DeviceReadGuard<f32>> = b.map(Tensor::device_read).transpose()?;
                let (x, w, mut y) = (x.device_read::<T>()?, w.device_read()?, y.device_write()?);
                let mut workspace = Scratch::new(device, plan.workspace_elems())?;
                let (b, residual) = (b.as_ref(), residual.as_ref());
                conv2d::fprop(gpu.kernels(), &plan, (&x, &w), b, residual, &mut y, &mut workspace, gpu.stream())
            }),
        )?;
    }

    let mut inputs = vec![x, w];
    inputs.extend(b);
    inputs.extend(residual);
    let (x_node, w_node, b_node, residual_node) =
        (x.node(), w.node(), b.and_then(Var::node), residual.and_then(Var::node));
    let (x, w, b) = (x.tensor().clone(), w.tensor().clone(), b.map(|b| b.tensor().clone()));
    Var::record(OP, &inputs, y, move |dy, gradients| {
        let device = dy.device();
        if let Some(b) = b
            && let Some(db) = gradients.accumulator(b_node, b.shape(), &b)?
        {
            on_device!(
                device, "conv2d.bias_grad",
                cpu: cpu::conv2d::bias_grad(problem, &dy.read()?, &mut db.write()?),
                cuda(gpu): with_float!(dy.dtype(), T, {
                    let elems = conv2d::bias_grad_workspace_elems(problem.gemm_m(), problem.k as usize);
                    let (dy, mut db) = (dy.device_read::<T>()?, db.device_write()?);
                    let mut workspace = Scratch::new(device, elems)?;
                    conv2d::bias_grad(gpu.kernels(), &problem, &dy, &mut db, &mut workspace, gpu.stream())
                }),
            )?;
        }
        if let Some(dw) = gradients.accumulator(w_node, w.shape(), &w)? {
            let x = &x;
            on_device!(
                device, "conv2d.wgrad",
                cpu: cpu::conv2d::wgrad(problem, &x.read()?, &dy.read()?, &mut dw.write()?),
                cuda(gpu): with_float!(dy.dtype(), T, {
                    let plan = plan(gpu, Pass::Wgrad, &problem, dy.dtype())?;
                    let (x, dy, mut dw) = (x.device_read::<T>()?, dy.device_read()?, dw.device_write()?);
                    let mut workspace = Scratch::new(device, plan.workspace_elems())?;
                    conv2d::wgrad(gpu.kernels(), &plan, (&x, &dy), &mut dw, &mut workspace, gpu.stream())
                }),
            )?;
        }
        let x_shape = x.shape().to_vec();
        // The activation is no longer needed; its memory can serve dx.
        drop(x);
        if x_node.is_some() {
            let dx = Tensor::empty(device, &x_shape, dy.dtype())?;
            on_device!(
                device, "conv2d.dgrad",
                cpu: cpu::conv2d::dgrad(problem, &w.read()?, &dy.read()?, &mut dx.write()?),
                cuda(gpu): with_float!(dy.dtype(), T, {
                    let plan = plan(gpu, Pass::Dgrad, &problem, dy.dtype())?;
                    let (w, dy, mut dx) = (w.device_read::<T>()?, dy.device_read()?, dx.device_write()?);
                    let mut workspace = Scratch::new(device, plan.workspace_elems())?;
                    conv2d::dgrad(gpu.kernels(), &plan, (&w, &dy), &mut dx, &mut workspace, gpu.stream())
                }),
            )?;
            gradients.add(x_node, dx)?;
        }
        gradients.add(residual_node, dy)
    })
}

/// How the device computes a pass: in the tensors' type, or in tf32 where the device was opened with it.
#[cfg(feature = "cuda")]
pub(super) fn plan(gpu: &Gpu, pass: Pass, problem: &Conv2dProblem, dtype: DType) -> Result<Plan> {
    match dtype {
        DType::Bf16 => Plan::new::<half::bf16>(pass, problem),
        _ if gpu.options().precision == Precision::Tf32 => Plan::tf32(pass, problem),
        _ => Plan::new::<f32>(pass, problem),
    }
}
