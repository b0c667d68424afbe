use super::{check_f32, check_shape, on_cpu};
use crate::Result;
use crate::autograd::Var;
#[cfg(feature = "cpu")]
use crate::cpu;
use crate::problem::{Conv2dProblem, Window};
use crate::tensor::Tensor;

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
    tensors.extend(b.map(|b| ("b", b.tensor())));
    tensors.extend(residual.map(|r| ("residual", r.tensor())));
    check_f32(OP, &tensors)?;
    if let Some(b) = b {
        check_shape(OP, "b", b.tensor(), &[problem.k as usize])?;
    }
    if let Some(residual) = residual {
        check_shape(OP, "residual", residual.tensor(), &shape)?;
    }

    let device = x.tensor().device();
    let y = Tensor::empty(device, &shape, x.tensor().dtype())?;
    {
        let (xs, ws) = (x.tensor().read::<f32>()?, w.tensor().read::<f32>()?);
        let bs = b.map(|b| b.tensor().read::<f32>()).transpose()?;
        let rs = residual.map(|r| r.tensor().read::<f32>()).transpose()?;
        let mut ys = y.write::<f32>()?;
        let (xs, ws, bs, rs, ys) = (&*xs, &*ws, bs.as_deref(), rs.as_deref(), &mut *ys);
        on_cpu!(device, "conv2d.fprop", { cpu::conv2d::fprop(problem, xs, ws, bs, rs, ys) })?;
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
            let (dys, mut dbs) = (dy.read::<f32>()?, db.write::<f32>()?);
            let (dys, dbs) = (&*dys, &mut *dbs);
            on_cpu!(device, "conv2d.bias_grad", { cpu::conv2d::bias_grad(problem, dys, dbs) })?;
        }
        if let Some(dw) = gradients.accumulator(w_node, w.shape(), &w)? {
            let (xs, dys, mut dws) = (x.read::<f32>()?, dy.read::<f32>()?, dw.write::<f32>()?);
            let (xs, dys, dws) = (&*xs, &*dys, &mut *dws);
            on_cpu!(device, "conv2d.wgrad", { cpu::conv2d::wgrad(problem, xs, dys, dws) })?;
        }
        let (x_shape, like) = (x.shape().to_vec(), dy.clone());
        // The activation is no longer needed; its memory can serve dx.
        drop(x);
        if x_node.is_some() {
            let dx = Tensor::empty(device, &x_shape, like.dtype())?;
            {
                let (ws, dys, mut dxs) = (w.read::<f32>()?, dy.read::<f32>()?, dx.write::<f32>()?);
                let (ws, dys, dxs) = (&*ws, &*dys, &mut *dxs);
                on_cpu!(device, "conv2d.dgrad", { cpu::conv2d::dgrad(problem, ws, dys, dxs) })?;
            }
            gradients.add(x_node, dx)?;
        }
        gradients.add(residual_node, dy)
    })
}
