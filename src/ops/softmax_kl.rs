use super::{check_f32, check_shape, matrix, on_cpu};
use crate::autograd::{Target, Var};
#[cfg(feature = "cpu")]
use crate::cpu;
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
    let y = Tensor::empty(logits.device(), &[n, classes], DType::F32)?;
    {
        let (zs, mut ys) = (logits.read::<f32>()?, y.write::<f32>()?);
        let (zs, ys) = (&*zs, &mut *ys);
        on_cpu!(logits.device(), "softmax", { cpu::softmax_kl::softmax(n, classes, zs, temperature, ys) })?;
    }
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
    let device = student.device();
    let loss = Tensor::empty(device, &[1], DType::F32)?;
    // Loss and gradient come from one pass over the rows; backward only scales.
    let gradient =
        student_logits.node().is_some().then(|| Tensor::empty(device, &[n, classes], DType::F32)).transpose()?;
    {
        let (ts, ss, mut out) = (teacher_logits.read::<f32>()?, student.read::<f32>()?, loss.write::<f32>()?);
        let mut ds = gradient.as_ref().map(Tensor::write::<f32>).transpose()?;
        let (ts, ss, out, ds) = (&*ts, &*ss, &mut out[0], ds.as_deref_mut());
        on_cpu!(device, "softmax_kl", {
            cpu::softmax_kl::distill(n, classes, ts, ss, temperature, ds.map(|ds| (1.0, ds))).map(|value| *out = value)
        })?;
    }
    let node = student_logits.node();
    Var::record(OP, &[student_logits], loss, move |dy, gradients| {
        let Some(unit) = gradient else { return Ok(()) };
        let dloss = dy.item()?;
        let Some(Target { tensor, accumulate }) = gradients.target(node, &[n, classes], &unit)? else { return Ok(()) };
        let (unit, mut dzs) = (unit.read::<f32>()?, tensor.write::<f32>()?);
        for (dz, g) in dzs.iter_mut().zip(&*unit) {
            *dz = if accumulate { *dz + dloss * g } else { dloss * g };
        }
        Ok(())
    })
}
