use super::{check_f32, check_shape, on_cpu};
use crate::autograd::{Target, Var};
#[cfg(feature = "cpu")]
use crate::cpu;
use crate::tensor::Tensor;
use crate::{DType, Error, Result};
use half::bf16;

/// Rectifier: `y = max(x, 0)`.
///
/// # Shapes
/// `x` and `y` alike, any shape.
///
/// # Gradient
/// `dy` where `x > 0`, else 0 (0 at `x = 0`).
///
/// # Errors
/// When `x` is not f32.
///
/// # Determinism
/// Exact.
///
/// # Example
/// ```
/// use warpsmith::{Device, Tape, Tensor, ops};
/// let x = Tape::no_grad().constant(Tensor::from_slice(&Device::cpu()?, &[2], &[-1.0f32, 2.0])?);
/// assert_eq!(ops::relu(&x)?.tensor().to_vec::<f32>()?, [0.0, 2.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn relu(x: &Var) -> Result<Var> {
    check_f32("relu", &[("x", x.tensor())])?;
    let device = x.tensor().device();
    let y = Tensor::empty(device, x.shape(), DType::F32)?;
    {
        let (xs, mut ys) = (x.tensor().read::<f32>()?, y.write::<f32>()?);
        let (xs, ys) = (&*xs, &mut *ys);
        on_cpu!(device, "relu", { cpu::elementwise::relu(xs, ys) })?;
    }
    let (node, saved) = (x.node(), x.tensor().clone());
    Var::record("relu", &[x], y, move |dy, gradients| {
        let Some(Target { tensor, accumulate }) = gradients.target(node, saved.shape(), &saved)? else { return Ok(()) };
        let (xs, dys, mut dxs) = (saved.read::<f32>()?, dy.read::<f32>()?, tensor.write::<f32>()?);
        let (xs, dys, dxs) = (&*xs, &*dys, &mut *dxs);
        on_cpu!(dy.device(), "relu.backward", { cpu::elementwise::relu_backward(xs, dys, accumulate, dxs) })
    })
}

/// Sum of two tensors of the same shape: `y = a + b`.
///
/// # Gradient
/// `dy` to both.
///
/// # Errors
/// When shapes, types or devices differ.
///
/// # Determinism
/// Exact.
///
/// # Example
/// ```
/// use warpsmith::{Device, Tape, Tensor, ops};
/// let x = Tape::no_grad().constant(Tensor::from_slice(&Device::cpu()?, &[2], &[-1.0f32, 2.0])?);
/// assert_eq!(ops::add(&x, &x)?.tensor().to_vec::<f32>()?, [-2.0, 4.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn add(a: &Var, b: &Var) -> Result<Var> {
    check_f32("add", &[("a", a.tensor()), ("b", b.tensor())])?;
    check_shape("add", "b", b.tensor(), a.shape())?;
    let device = a.tensor().device();
    let y = Tensor::empty(device, a.shape(), DType::F32)?;
    {
        let (left, right, mut ys) = (a.tensor().read::<f32>()?, b.tensor().read::<f32>()?, y.write::<f32>()?);
        let (left, right, ys) = (&*left, &*right, &mut *ys);
        on_cpu!(device, "add", { cpu::elementwise::add(left, right, ys) })?;
    }
    let (a_node, b_node) = (a.node(), b.node());
    Var::record("add", &[a, b], y, move |dy, gradients| {
        gradients.add(a_node, dy.clone())?;
        gradients.add(b_node, dy)
    })
}

/// Adds `x` to `sum` in place: `sum += x`, both f32 or both bf16. Not differentiable; it is how gradients accumulate.
///
/// # Errors
/// When shapes, types or devices differ.
pub fn add_assign(sum: &Tensor, x: &Tensor) -> Result<()> {
    check_shape("add_assign", "x", x, sum.shape())?;
    if sum.dtype() == DType::Bf16 && x.dtype() == DType::Bf16 && sum.device() == x.device() {
        let (xs, mut sums) = (x.read::<bf16>()?, sum.write::<bf16>()?);
        for (sum, x) in sums.iter_mut().zip(&*xs) {
            *sum = bf16::from_f32(sum.to_f32() + x.to_f32());
        }
        return Ok(());
    }
    check_f32("add_assign", &[("sum", sum), ("x", x)])?;
    let (xs, mut sums) = (x.read::<f32>()?, sum.write::<f32>()?);
    let (xs, sums) = (&*xs, &mut *sums);
    on_cpu!(sum.device(), "add_assign", { cpu::elementwise::add_assign(xs, sums) })
}

/// Product with a number: `y = factor · x`.
///
/// # Gradient
/// `factor · dy`.
///
/// # Errors
/// When `x` is not f32.
///
/// # Determinism
/// Exact.
///
/// # Example
/// ```
/// use warpsmith::{Device, Tape, Tensor, ops};
/// let x = Tape::no_grad().constant(Tensor::from_slice(&Device::cpu()?, &[2], &[-1.0f32, 2.0])?);
/// assert_eq!(ops::scale(&x, 3.0)?.tensor().to_vec::<f32>()?, [-3.0, 6.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn scale(x: &Var, factor: f32) -> Result<Var> {
    rescale(x, factor, 0.0)
}

/// Affine map of every element: `y = x · scale + offset`, from f32 or from u8 images.
///
/// # Shapes
/// `x` and `y` alike, any shape; `y` is f32.
///
/// # Gradient
/// `scale · dy` (none to u8 images).
///
/// # Errors
/// When `x` is neither f32 nor u8.
///
/// # Determinism
/// Exact.
///
/// # Example
/// ```
/// use warpsmith::{Device, Tape, Tensor, ops};
/// let pixels = Tape::no_grad().constant(Tensor::from_slice(&Device::cpu()?, &[2], &[0u8, 255])?);
/// assert_eq!(ops::rescale(&pixels, 1.0 / 127.5, -1.0)?.tensor().to_vec::<f32>()?, [-1.0, 1.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn rescale(x: &Var, scale: f32, offset: f32) -> Result<Var> {
    let device = x.tensor().device();
    let y = Tensor::empty(device, x.shape(), DType::F32)?;
    map_pixels("rescale", x.tensor(), &y, |device, pixels, ys| match pixels {
        Pixels::F32(xs) => on_cpu!(device, "rescale", { cpu::elementwise::rescale(xs, scale, offset, ys) }),
        Pixels::U8(xs) => on_cpu!(device, "rescale", { cpu::elementwise::rescale_u8(xs, scale, offset, ys) }),
    })?;
    let node = x.node();
    Var::record("rescale", &[x], y, move |dy, gradients| {
        let dx = Tensor::empty(dy.device(), dy.shape(), DType::F32)?;
        {
            let (dys, mut dxs) = (dy.read::<f32>()?, dx.write::<f32>()?);
            let (dys, dxs) = (&*dys, &mut *dxs);
            on_cpu!(dy.device(), "rescale", { cpu::elementwise::rescale(dys, scale, 0.0, dxs) })?;
        }
        gradients.add(node, dx)
    })
}

/// Per-channel standardisation of images: `y = (x - mean) / max(sqrt(var), 1e-7)`, from f32 or u8. No gradient flows to `x`.
///
/// # Shapes
/// `x` and `y` [.., c]; `mean` and `var` `[c]`; `y` is f32.
///
/// # Errors
/// When shapes do not fit, or `x` is neither f32 nor u8.
///
/// # Determinism
/// Exact.
///
/// Source: `keras.layers.Normalization`.
///
/// # Example
/// ```
/// use warpsmith::{Device, Tape, Tensor, ops};
/// let device = Device::cpu()?;
/// let x = Tape::no_grad().constant(Tensor::from_slice(&device, &[2, 1], &[1.0f32, 5.0])?);
/// let (mean, var) = (Tensor::full(&device, &[1], 3.0f32)?, Tensor::full(&device, &[1], 4.0f32)?);
/// assert_eq!(ops::normalization(&x, &mean, &var)?.tensor().to_vec::<f32>()?, [-1.0, 1.0]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn normalization(x: &Var, mean: &Tensor, var: &Tensor) -> Result<Var> {
    const OP: &str = "normalization";
    check_f32(OP, &[("mean", mean), ("var", var)])?;
    let c = x.shape().last().copied().unwrap_or(0);
    check_shape(OP, "mean", mean, &[c])?;
    check_shape(OP, "var", var, &[c])?;
    let device = x.tensor().device();
    let y = Tensor::empty(device, x.shape(), DType::F32)?;
    let (means, vars) = (mean.read::<f32>()?, var.read::<f32>()?);
    let (means, vars) = (&*means, &*vars);
    map_pixels(OP, x.tensor(), &y, |device, pixels, ys| match pixels {
        Pixels::F32(xs) => on_cpu!(device, "normalization", { cpu::elementwise::normalization(xs, means, vars, ys) }),
        Pixels::U8(xs) => on_cpu!(device, "normalization", { cpu::elementwise::normalization(xs, means, vars, ys) }),
    })?;
    Ok(x.tape().constant(y))
}

enum Pixels<'a> {
    F32(&'a [f32]),
    U8(&'a [u8]),
}

/// Borrows `x` as the pixels it holds and `y` as f32, and calls `f`.
fn map_pixels(
    op: &'static str,
    x: &Tensor,
    y: &Tensor,
    f: impl Fn(&crate::Device, Pixels, &mut [f32]) -> Result<()>,
) -> Result<()> {
    let mut ys = y.write::<f32>()?;
    match x.dtype() {
        DType::F32 => f(x.device(), Pixels::F32(&x.read::<f32>()?), &mut ys),
        DType::U8 => f(x.device(), Pixels::U8(&x.read::<u8>()?), &mut ys),
        _ => Err(Error::tensor(op, "`x` of f32 or u8", x, "cast it first")),
    }
}

/// Conversion between f32 and bf16 storage (round to nearest even).
///
/// # Gradient
/// `dy`, converted back.
///
/// # Errors
/// When the types are not f32 and bf16.
///
/// # Determinism
/// Exact.
///
/// # Example
/// ```
/// use warpsmith::{DType, Device, Tape, Tensor, ops};
/// let x = Tape::no_grad().constant(Tensor::full(&Device::cpu()?, &[1], 1.0f32 + 1e-4)?);
/// let y = ops::cast(&ops::cast(&x, DType::Bf16)?, DType::F32)?;
/// assert_eq!(y.tensor().item()?, 1.0);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn cast(x: &Var, dtype: DType) -> Result<Var> {
    let y = cast_tensor(x.tensor(), dtype)?;
    let (node, from) = (x.node(), x.tensor().dtype());
    Var::record("cast", &[x], y, move |dy, gradients| gradients.add(node, cast_tensor(&dy, from)?))
}

fn cast_tensor(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let device = x.device();
    let y = Tensor::empty(device, x.shape(), dtype)?;
    match (x.dtype(), dtype) {
        (DType::F32, DType::Bf16) => {
            let (xs, mut ys) = (x.read::<f32>()?, y.write::<bf16>()?);
            let (xs, ys) = (&*xs, &mut *ys);
            on_cpu!(device, "cast", { cpu::elementwise::f32_to_bf16(xs, ys) })?;
        }
        (DType::Bf16, DType::F32) => {
            let (xs, mut ys) = (x.read::<bf16>()?, y.write::<f32>()?);
            let (xs, ys) = (&*xs, &mut *ys);
            on_cpu!(device, "cast", { cpu::elementwise::bf16_to_f32(xs, ys) })?;
        }
        (from, to) if from == to => y.copy_from(x)?,
        (from, to) => {
            return Err(Error::tensor(
                "cast",
                "f32 and bf16",
                format_args!("{from} to {to}"),
                "other conversions do not exist",
            ));
        }
    }
    Ok(y)
}

/// Sum of all elements: a scalar `[1]`.
///
/// # Gradient
/// `dy` spread over all elements.
///
/// # Errors
/// When `x` is not f32.
///
/// # Determinism
/// Summed in order, in f64.
///
/// # Example
/// ```
/// use warpsmith::{Device, Tape, Tensor, ops};
/// let x = Tape::no_grad().constant(Tensor::from_slice(&Device::cpu()?, &[2], &[-1.0f32, 3.0])?);
/// assert_eq!(ops::sum(&x)?.tensor().item()?, 2.0);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn sum(x: &Var) -> Result<Var> {
    check_f32("sum", &[("x", x.tensor())])?;
    let total: f64 = x.tensor().read::<f32>()?.iter().map(|&v| f64::from(v)).sum();
    let y = Tensor::full(x.tensor().device(), &[1], total as f32)?;
    let (node, shape) = (x.node(), x.shape().to_vec());
    Var::record("sum", &[x], y, move |dy, gradients| {
        gradients.add(node, Tensor::full(dy.device(), &shape, dy.item()?)?)
    })
}
