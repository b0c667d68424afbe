use super::{check_device, check_f32, check_floats, check_shape, matrix, on_device};
#[cfg(feature = "cuda")]
use super::{conv2d::plan, with_float};
use crate::autograd::Var;
#[cfg(feature = "cpu")]
use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda::{conv2d::Pass, conv2d::bias_grad_workspace_elems, linear as launch};
#[cfg(feature = "cuda")]
use crate::device::Scratch;
#[cfg(feature = "cuda")]
use crate::problem::Conv2dProblem;
#[cfg(feature = "cuda")]
use crate::tensor::DeviceReadGuard;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// Fully connected layer: `y = x wᵀ + b`.
///
/// # Shapes
/// `x` [n, in], `w` [out, in], `b` `[out]`, `y` [n, out].
///
/// # Gradient
/// `dx = dy w`, `dw += dyᵀ x`, `db += Σ_n dy`.
///
/// # Errors
/// When shapes, types or devices do not fit.
///
/// # Determinism
/// Bit-equal for any number of threads.
///
/// # Example
/// ```
/// use warpsmith::{Device, Tape, Tensor, ops};
/// let device = Device::cpu()?;
/// let tape = Tape::no_grad();
/// let x = tape.constant(Tensor::from_slice(&device, &[1, 2], &[1.0f32, 2.0])?);
/// let w = tape.constant(Tensor::from_slice(&device, &[1, 2], &[3.0f32, 4.0])?);
/// assert_eq!(ops::linear(&x, &w, None)?.tensor().item()?, 11.0);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn linear(x: &Var, w: &Var, b: Option<&Var>) -> Result<Var> {
    const OP: &str = "linear";
    let [n, inputs] = matrix(OP, "x", x.tensor())?;
    let [outputs, w_inputs] = matrix(OP, "w", w.tensor())?;
    if inputs != w_inputs {
        return Err(Error::shape(
            OP,
            format_args!("`w` of shape [out, {inputs}]"),
            format_args!("{:?}", w.shape()),
            "weights are [out, in]",
        ));
    }
    check_floats(OP, &[("x", x.tensor()), ("w", w.tensor())])?;
    if let Some(b) = b {
        check_f32(OP, &[("b", b.tensor())])?;
        check_device(OP, &[("x", x.tensor()), ("b", b.tensor())])?;
        check_shape(OP, "b", b.tensor(), &[outputs])?;
    }
    let device = x.tensor().device();
    let y = Tensor::empty(device, &[n, outputs], x.tensor().dtype())?;
    {
        let (x, w, b) = (x.tensor(), w.tensor(), b.map(Var::tensor));
        on_device!(
            device, "linear",
            cpu: {
                let b = b.map(Tensor::read).transpose()?;
                cpu::linear::forward(n, outputs, inputs, &x.read()?, &w.read()?, b.as_deref(), &mut y.write()?)
            },
            cuda(gpu): with_float!(x.dtype(), T, {
                let problem = Conv2dProblem::linear(OP, n, outputs, inputs)?;
                let plan = plan(gpu, Pass::Fprop, &problem, x.dtype())?;
                let b: Option<DeviceReadGuard<f32>> = b.map(Tensor::device_read).transpose()?;
                let (x, w, mut y) = (x.device_read::<T>()?, w.device_read()?, y.device_write()?);
                let mut workspace = Scratch::new(device, plan.workspace_elems())?;
                launch::forward(gpu.kernels(), &plan, (&x, &w), b.as_ref(), &mut y, &mut workspace, gpu.stream())
            }),
        )?;
    }
    let mut all = vec![x, w];
    all.extend(b);
    let (x_node, w_node, b_node) = (x.node(), w.node(), b.and_then(Var::node));
    let (x, w, b) = (x.tensor().clone(), w.tensor().clone(), b.map(|b| b.tensor().clone()));
    Var::record(OP, &all, y, move |dy, gradients| {
        let device = dy.device();
        if let Some(b) = b
            && let Some(db) = gradients.accumulator(b_node, b.shape(), &b)?
        {
            on_device!(
                device, "linear.backward_b",
                cpu: cpu::linear::backward_b(n, outputs, &dy.read()?, &mut db.write()?),
                cuda(gpu): with_float!(dy.dtype(), T, {
                    let (dy, mut db) = (dy.device_read::<T>()?, db.device_write()?);
                    let mut workspace = Scratch::new(device, bias_grad_workspace_elems(n, outputs))?;
                    launch::backward_b(gpu.kernels(), (n, outputs), &dy, &mut db, &mut workspace, gpu.stream())
                }),
            )?;
        }
        if let Some(dw) = gradients.accumulator(w_node, w.shape(), &w)? {
            on_device!(
                device, "linear.backward_w",
                cpu: cpu::linear::backward_w(n, outputs, inputs, &x.read()?, &dy.read()?, &mut dw.write()?),
                cuda(gpu): with_float!(dy.dtype(), T, {
                    let problem = Conv2dProblem::linear(OP, n, outputs, inputs)?;
                    let plan = plan(gpu, Pass::Wgrad, &problem, dy.dtype())?;
                    let (x, dy, mut dw) = (x.device_read::<T>()?, dy.device_read()?, dw.device_write()?);
                    let mut workspace = Scratch::new(device, plan.workspace_elems())?;
                    launch::backward_w(gpu.kernels(), &plan, (&x, &dy), &mut dw, &mut workspace, gpu.stream())
                }),
            )?;
        }
        if x_node.is_some() {
            let dx = Tensor::empty(device, x.shape(), x.dtype())?;
            on_device!(
                device, "linear.backward_x",
                cpu: cpu::linear::backward_x(n, outputs, inputs, &w.read()?, &dy.read()?, &mut dx.write()?),
                cuda(gpu): with_float!(dy.dtype(), T, {
                    let problem = Conv2dProblem::linear(OP, n, outputs, inputs)?;
                    let plan = plan(gpu, Pass::Dgrad, &problem, dy.dtype())?;
                    let (w, dy, mut dx) = (w.device_read::<T>()?, dy.device_read()?, dx.device_write()?);
                    let mut workspace = Scratch::new(device, plan.workspace_elems())?;
                    launch::backward_x(gpu.kernels(), &plan, (&w, &dy), &mut dx, &mut workspace, gpu.stream())
                }),
            )?;
            gradients.add(x_node, dx)?;
        }
        Ok(())
    })
}
