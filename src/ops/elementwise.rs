#[cfg(feature = "cuda")]
use super::with_float;
use super::{check_device, check_f32, check_floats, check_shape, on_device};
use crate::autograd::{Target, Var};
#[cfg(feature = "cpu")]
use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::tensor::Tensor;
use crate::{DType, Error, Result};
#[cfg(feature = "cpu")]
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
/// When `x` is neither f32 nor, on a CUDA device, bf16.
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
    check_floats("relu", &[("x", x.tensor())])?;
    let xs = x.tensor();
    let y = Tensor::empty(xs.device(), xs.shape(), xs.dtype())?;
    on_device!(
        xs.device(), "relu",
        cpu: cpu::elementwise::relu(&xs.read()?, &mut y.write()?),
        cuda(gpu): with_float!(xs.dtype(), T, {
            cuda::elementwise::relu::<T>(gpu.kernels(), &xs.device_read()?, &mut y.device_write()?, gpu.stream())
        }),
    )?;
    let (node, x_value) = (x.node(), xs.clone());
    Var::record("relu", &[x], y, move |dy, gradients| {
        let xs = &x_value;
        let Some(Target { tensor, accumulate }) = gradients.target(node, xs.shape(), xs)? else { return Ok(()) };
        on_device!(
            dy.device(), "relu.backward",
            cpu: cpu::elementwise::relu_backward(&xs.read()?, &dy.read()?, accumulate, &mut tensor.write()?),
            cuda(gpu): with_float!(xs.dtype(), T, {
                let (xs, dy, mut dx) = (xs.device_read()?, dy.device_read()?, tensor.device_write()?);
                cuda::elementwise::relu_backward::<T>(gpu.kernels(), &xs, &dy, accumulate, &mut dx, gpu.stream())
            }),
        )
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
    let (left, right) = (a.tensor(), b.tensor());
    check_floats("add", &[("a", left), ("b", right)])?;
    check_shape("add", "b", right, left.shape())?;
    let y = Tensor::empty(left.device(), left.shape(), left.dtype())?;
    on_device!(
        left.device(), "add",
        cpu: cpu::elementwise::add(&left.read()?, &right.read()?, &mut y.write()?),
        cuda(gpu): with_float!(left.dtype(), T, {
            let (left, right, mut y) = (left.device_read()?, right.device_read()?, y.device_write()?);
            cuda::elementwise::add::<T>(gpu.kernels(), &left, &right, &mut y, gpu.stream())
        }),
    )?;
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
    if sum.dtype() == DType::Bf16 && x.dtype() == DType::Bf16 {
        check_device("add_assign", &[("sum", sum), ("x", x)])?;
    } else {
        check_f32("add_assign", &[("sum", sum), ("x", x)])?;
    }
    on_device!(
        sum.device(), "add_assign",
        cpu: {
            if sum.dtype() == DType::F32 {
                return cpu::elementwise::add_assign(&x.read()?, &mut sum.write()?);
            }
            for (sum, x) in sum.write::<bf16>()?.iter_mut().zip(&*x.read::<bf16>()?) {
                *sum = bf16::from_f32(sum.to_f32() + x.to_f32());
            }
            Ok(())
        },
        cuda(gpu): with_float!(sum.dtype(), T, {
            let (x, mut sum) = (x.device_read()?, sum.device_write()?);
            cuda::elementwise::add_assign::<T>(gpu.kernels(), &x, &mut sum, gpu.stream())
        }),
    )
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
    let y = rescaled(x.tensor(), scale, offset)?;
    let node = x.node();
    Var::record("rescale", &[x], y, move |dy, gradients| gradients.add(node, rescaled(&dy, scale, 0.0)?))
}

fn rescaled(x: &Tensor, scale: f32, offset: f32) -> Result<Tensor> {
    let is_u8 = is_pixels("rescale", x)?;
    let y = Tensor::empty(x.device(), x.shape(), DType::F32)?;
    on_device!(
        x.device(), "rescale",
        cpu: match is_u8 {
            true => cpu::elementwise::rescale_u8(&x.read()?, scale, offset, &mut y.write()?),
            false => cpu::elementwise::rescale(&x.read()?, scale, offset, &mut y.write()?),
        },
        cuda(gpu): {
            let (kernels, mut y, stream) = (gpu.kernels(), y.device_write()?, gpu.stream());
            match is_u8 {
                true => cuda::elementwise::rescale_u8(kernels, &x.device_read()?, scale, offset, &mut y, stream),
                false => cuda::elementwise::rescale::<f32>(kernels, &x.device_read()?, scale, offset, &mut y, stream),
            }
        },
    )?;
    Ok(y)
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
    let (tape, x) = (x.tape(), x.tensor());
    let is_u8 = is_pixels(OP, x)?;
    check_device(OP, &[("x", x), ("mean", mean), ("var", var)])?;
    let y = Tensor::empty(x.device(), x.shape(), DType::F32)?;
    on_device!(
        x.device(), "normalization",
        cpu: match is_u8 {
            true => cpu::elementwise::normalization(&x.read::<u8>()?, &mean.read()?, &var.read()?, &mut y.write()?),
            false => cpu::elementwise::normalization(&x.read::<f32>()?, &mean.read()?, &var.read()?, &mut y.write()?),
        },
        cuda(gpu): {
            use cuda::elementwise::normalization;
            let (mean, var, mut y) = (mean.device_read()?, var.device_read()?, y.device_write()?);
            match is_u8 {
                true => normalization(gpu.kernels(), &x.device_read::<u8>()?, &mean, &var, &mut y, gpu.stream()),
                false => normalization(gpu.kernels(), &x.device_read::<f32>()?, &mean, &var, &mut y, gpu.stream()),
            }
        },
    )?;
    Ok(tape.constant(y))
}

/// Whether images are u8 rather than f32.
fn is_pixels(op: &'static str, x: &Tensor) -> Result<bool> {
    match x.dtype() {
        DType::F32 => Ok(false),
        DType::U8 => Ok(true),
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
    if !matches!((x.dtype(), dtype), (DType::F32 | DType::Bf16, DType::F32 | DType::Bf16)) && x.dtype() != dtype {
        return Err(Error::tensor(
            "cast",
            "f32 and bf16",
            format_args!("{} to {dtype}", x.dtype()),
            "other conversions do not exist",
        ));
    }
    let y = Tensor::empty(x.device(), x.shape(), dtype)?;
    cast_into(x, &y)?;
    Ok(y)
}

/// Converts `x` into `y`, which exists.
pub(crate) fn cast_into(x: &Tensor, y: &Tensor) -> Result<()> {
    match (x.dtype(), y.dtype()) {
        (DType::F32, DType::Bf16) => on_device!(
            x.device(), "cast",
            cpu: cpu::elementwise::f32_to_bf16(&x.read()?, &mut y.write()?),
            cuda(gpu): {
                let (x, mut y) = (x.device_read()?, y.device_write()?);
                cuda::elementwise::f32_to_bf16(gpu.kernels(), &x, &mut y, gpu.stream())
            },
        )?,
        (DType::Bf16, DType::F32) => on_device!(
            x.device(), "cast",
            cpu: cpu::elementwise::bf16_to_f32(&x.read()?, &mut y.write()?),
            cuda(gpu): {
                let (x, mut y) = (x.device_read()?, y.device_write()?);
                cuda::elementwise::bf16_to_f32(gpu.kernels(), &x, &mut y, gpu.stream())
            },
        )?,
        _ => y.copy_from(x)?,
    }
    Ok(())
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
/// Summed in f64, in a fixed order.
///
/// # Example
/// ```
/// use warpsmith::{Device, Tape, Tensor, ops};
/// let x = Tape::no_grad().constant(Tensor::from_slice(&Device::cpu()?, &[2], &[-1.0f32, 3.0])?);
/// assert_eq!(ops::sum(&x)?.tensor().item()?, 2.0);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn sum(x: &Var) -> Result<Var> {
    let xs = x.tensor();
    check_f32("sum", &[("x", xs)])?;
    let y = Tensor::empty(xs.device(), &[1], DType::F32)?;
    on_device!(
        xs.device(), "sum",
        cpu: {
            y.write::<f32>()?[0] = xs.read::<f32>()?.iter().map(|&v| f64::from(v)).sum::<f64>() as f32;
            Ok(())
        },
        cuda(gpu): {
            cuda::elementwise::sum(gpu.kernels(), &xs.device_read()?, &mut y.device_write()?, gpu.stream())
        },
    )?;
    let (node, shape) = (x.node(), x.shape().to_vec());
    Var::record("sum", &[x], y, move |dy, gradients| {
        let dx = Tensor::empty(dy.device(), &shape, DType::F32)?;
        on_device!(
            dy.device(), "sum.backward",
            cpu: dx.fill(dy.item()?),
            cuda(gpu): {
                let (dy, mut dx) = (dy.device_read()?, dx.device_write()?);
                cuda::elementwise::fill_from(gpu.kernels(), &dy, &mut dx, gpu.stream())
            },
        )?;
        gradients.add(node, dx)
    })
}
