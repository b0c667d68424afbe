use super::{check_f32, check_shape, matrix, on_device, scale_gradient};
use crate::autograd::Var;
#[cfg(feature = "cpu")]
use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda;
#[cfg(feature = "cuda")]
use crate::device::Scratch;
use crate::error::check_temperature;
#[cfg(feature = "cuda")]
use crate::tensor::DeviceWriteGuard;
use crate::tensor::Tensor;
use crate::{DType, Result};

/// Softmax of each row: `softmax(logits / temperature)`. Not differentiable: losses work on logits.
///
/// # Shapes
/// `logits` and result [n, classes].
///
/// # Errors
/// When `logits` is not an f32 matrix or `temperature` is not positive.
///
/// # Determinism
/// Bit-equal for any number of threads.
///
/// # Example
/// ```
/// use warpsmith::{DType, Device, Tensor, ops};
/// let logits = Tensor::zeros(&Device::cpu()?, &[1, 4], DType::F32)?;
/// assert_eq!(ops::softmax(&logits, 1.0)?.to_vec::<f32>()?, [0.25; 4]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn softmax(logits: &Tensor, temperature: f32) -> Result<Tensor> {
    check_f32("softmax", &[("logits", logits)])?;
    let [n, classes] = matrix("softmax", "logits", logits)?;
    check_temperature("softmax", temperature)?;
    let y = Tensor::empty(logits.device(), &[n, classes], DType::F32)?;
    on_device!(
        logits.device(), "softmax",
        cpu: cpu::softmax_kl::softmax(n, classes, &logits.read()?, temperature, &mut y.write()?),
        cuda(gpu): {
            let (z, mut y) = (logits.device_read()?, y.device_write()?);
            cuda::softmax_kl::softmax(gpu.kernels(), (n, classes), &z, temperature, &mut y, gpu.stream())
        },
    )?;
    Ok(y)
}

/// Distillation loss, fused: `kl_div(softmax(teacher / T) ‖ softmax(student / T))`, mean over the batch, no factor T².
///
/// Probabilities are clipped to [1e-7, 1] as Keras does.
///
/// # Shapes
/// `teacher_logits` and `student_logits` [n, classes], result `[1]`.
///
/// # Gradient
/// To the student's logits: `(q - p) / (T·n)` where nothing is clipped. The teacher is a constant.
///
/// # Errors
/// When shapes, types or devices do not fit or `temperature` is not positive.
///
/// # Determinism
/// Bit-equal for any number of threads.
///
/// Source: Hinton, Vinyals, Dean: "Distilling the knowledge in a neural network" (2015); `keras.losses.KLDivergence`.
///
/// # Example
/// ```
/// use warpsmith::{Device, Tape, Tensor, ops};
/// let logits = Tensor::from_slice(&Device::cpu()?, &[1, 2], &[1.0f32, -1.0])?;
/// let student = Tape::no_grad().constant(logits.clone());
/// assert!(ops::softmax_kl(&logits, &student, 10.0)?.tensor().item()?.abs() < 1e-6);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn softmax_kl(teacher_logits: &Tensor, student_logits: &Var, temperature: f32) -> Result<Var> {
    const OP: &str = "softmax_kl";
    let student = student_logits.tensor();
    check_f32(OP, &[("student_logits", student), ("teacher_logits", teacher_logits)])?;
    let [n, classes] = matrix(OP, "student_logits", student)?;
    check_shape(OP, "teacher_logits", teacher_logits, &[n, classes])?;
    check_temperature(OP, temperature)?;
    let device = student.device();
    let loss = Tensor::empty(device, &[1], DType::F32)?;
    // Loss and gradient come from one pass over the rows; backward only scales.
    let gradient =
        student_logits.node().is_some().then(|| Tensor::empty(device, &[n, classes], DType::F32)).transpose()?;
    let gradient_ref = gradient.as_ref();
    on_device!(
        device, "softmax_kl",
        cpu: {
            let mut ds = gradient_ref.map(Tensor::write).transpose()?;
            let ds = ds.as_deref_mut().map(|ds| (1.0, ds));
            let (teacher, student) = (teacher_logits.read()?, student.read()?);
            loss.write()?[0] = cpu::softmax_kl::distill(n, classes, &teacher, &student, temperature, ds)?;
            Ok(())
        },
        cuda(gpu): {
            let mut one = device.one();
            let one = one.set(device, &[1.0])?;
            let mut ds = gradient_ref.map(Tensor::device_write).transpose()?;
            let ds = ds.as_mut().map(|ds| (one, ds));
            let mut rows = Scratch::<f64>::new(device, n)?;
            let inputs = (&teacher_logits.device_read()?, &student.device_read()?);
            let (kernels, stream) = (gpu.kernels(), gpu.stream());
            cuda::softmax_kl::distill(kernels, (n, classes), inputs, temperature, &mut rows, ds, stream)?;
            let none = None::<&mut DeviceWriteGuard<f32>>;
            cuda::cross_entropy::mean(kernels, &rows, none, &mut loss.device_write()?, stream)
        },
    )?;
    let node = student_logits.node();
    Var::record(OP, &[student_logits], loss, move |dloss, gradients| {
        let Some(unit) = gradient else { return Ok(()) };
        let Some(target) = gradients.target(node, &[n, classes], &unit)? else { return Ok(()) };
        scale_gradient(&unit, &dloss, &target)
    })
}
