use super::{check_f32, check_shape, matrix, on_cpu};
use crate::autograd::Var;
#[cfg(feature = "cpu")]
use crate::cpu;
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
    let mut tensors = vec![("x", x.tensor()), ("w", w.tensor())];
    tensors.extend(b.map(|b| ("b", b.tensor())));
    check_f32(OP, &tensors)?;
    if let Some(b) = b {
        check_shape(OP, "b", b.tensor(), &[outputs])?;
    }
    let device = x.tensor().device();
    let y = Tensor::empty(device, &[n, outputs], x.tensor().dtype())?;
    {
        let (xs, ws, mut ys) = (x.tensor().read::<f32>()?, w.tensor().read::<f32>()?, y.write::<f32>()?);
        let bs = b.map(|b| b.tensor().read::<f32>()).transpose()?;
        let (xs, ws, bs, ys) = (&*xs, &*ws, bs.as_deref(), &mut *ys);
        on_cpu!(device, "linear", { cpu::linear::forward(n, outputs, inputs, xs, ws, bs, ys) })?;
    }
    let mut all = vec![x, w];
    all.extend(b);
    let (x_node, w_node, b_node) = (x.node(), w.node(), b.and_then(Var::node));
    let (x, w, b) = (x.tensor().clone(), w.tensor().clone(), b.map(|b| b.tensor().clone()));
    Var::record(OP, &all, y, move |dy, gradients| {
        let device = dy.device();
        let dys = dy.read::<f32>()?;
        let dys = &*dys;
        if let Some(b) = b
            && let Some(db) = gradients.accumulator(b_node, b.shape(), &b)?
        {
            let mut dbs = db.write::<f32>()?;
            let dbs = &mut *dbs;
            on_cpu!(device, "linear.backward", { cpu::linear::backward_b(n, outputs, dys, dbs) })?;
        }
        if let Some(dw) = gradients.accumulator(w_node, w.shape(), &w)? {
            let (xs, mut dws) = (x.read::<f32>()?, dw.write::<f32>()?);
            let (xs, dws) = (&*xs, &mut *dws);
            on_cpu!(device, "linear.backward", { cpu::linear::backward_w(n, outputs, inputs, xs, dys, dws) })?;
        }
        if x_node.is_some() {
            let dx = Tensor::empty(device, x.shape(), x.dtype())?;
            {
                let (ws, mut dxs) = (w.read::<f32>()?, dx.write::<f32>()?);
                let (ws, dxs) = (&*ws, &mut *dxs);
                on_cpu!(device, "linear.backward", { cpu::linear::backward_x(n, outputs, inputs, ws, dys, dxs) })?;
            }
            gradients.add(x_node, dx)?;
        }
        Ok(())
    })
}
