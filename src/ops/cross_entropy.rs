use super::{check_f32, check_shape, matrix, on_cpu};
use crate::autograd::{Target, Var};
#[cfg(feature = "cpu")]
use crate::cpu;
use crate::tensor::Tensor;
use crate::{DType, Error, Result};

fn check(op: &'static str, logits: &Tensor, labels: &Tensor) -> Result<[usize; 2]> {
    check_f32(op, &[("logits", logits)])?;
    let [n, classes] = matrix(op, "logits", logits)?;
    if labels.dtype() != DType::I32 || labels.device() != logits.device() {
        return Err(Error::tensor(
            op,
            "`labels` of i32 on the device of `logits`",
            labels,
            "make them with Tensor::from_slice",
        ));
    }
    check_shape(op, "labels", labels, &[n])?;
    Ok([n, classes])
}

/// Softmax cross-entropy on logits, mean over the batch: `mean_n [ logsumexp(z_n) - z_n[label_n] ]`.
///
/// # Shapes
/// `logits` [n, classes], `labels` i32 `[n]`, result `[1]`.
///
/// # Gradient
/// `(softmax(z) - onehot(label)) / n`.
///
/// # Errors
/// When shapes or types do not fit or a label is out of range.
///
/// # Determinism
/// Bit-equal for any number of threads.
///
/// Source: `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`.
///
/// # Example
/// ```
/// use warpsmith::{DType, Device, Tape, Tensor, ops};
/// let device = Device::cpu()?;
/// let logits = Tape::no_grad().constant(Tensor::zeros(&device, &[1, 4], DType::F32)?);
/// let labels = Tensor::from_slice(&device, &[1], &[2i32])?;
/// assert!((ops::cross_entropy(&logits, &labels)?.tensor().item()? - 4f32.ln()).abs() < 1e-6);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn cross_entropy(logits: &Var, labels: &Tensor) -> Result<Var> {
    const OP: &str = "cross_entropy";
    let [n, classes] = check(OP, logits.tensor(), labels)?;
    let device = logits.tensor().device();
    let loss = Tensor::empty(device, &[1], DType::F32)?;
    {
        let (zs, ls, mut out) = (logits.tensor().read::<f32>()?, labels.read::<i32>()?, loss.write::<f32>()?);
        let (zs, ls, out) = (&*zs, &*ls, &mut out[0]);
        on_cpu!(device, "cross_entropy", {
            cpu::cross_entropy::forward(n, classes, zs, ls, None).map(|value| *out = value)
        })?;
    }
    let (node, saved, labels) = (logits.node(), logits.tensor().clone(), labels.clone());
    Var::record(OP, &[logits], loss, move |dy, gradients| {
        let Some(Target { tensor, accumulate }) = gradients.target(node, saved.shape(), &saved)? else { return Ok(()) };
        let dloss = dy.item()?;
        let (zs, ls, mut dzs) = (saved.read::<f32>()?, labels.read::<i32>()?, tensor.write::<f32>()?);
        let (zs, ls, dzs) = (&*zs, &*ls, &mut *dzs);
        on_cpu!(dy.device(), "cross_entropy.backward", {
            cpu::cross_entropy::backward(n, classes, zs, ls, dloss, accumulate, dzs)
        })
    })
}

/// The terms of [`cross_entropy`], one per sample. Not differentiable.
///
/// # Errors
/// As [`cross_entropy`].
pub fn cross_entropy_per_sample(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    const OP: &str = "cross_entropy_per_sample";
    let [n, classes] = check(OP, logits, labels)?;
    let terms = Tensor::empty(logits.device(), &[n], DType::F32)?;
    {
        let (zs, ls, mut out) = (logits.read::<f32>()?, labels.read::<i32>()?, terms.write::<f32>()?);
        let (zs, ls, out) = (&*zs, &*ls, &mut *out);
        on_cpu!(logits.device(), "cross_entropy_per_sample", {
            cpu::cross_entropy::forward(n, classes, zs, ls, Some(out)).map(|_| ())
        })?;
    }
    Ok(terms)
}

/// How many samples have their highest logit at their label (the first of equal ones counts).
///
/// # Errors
/// As [`cross_entropy`].
pub fn correct_count(logits: &Tensor, labels: &Tensor) -> Result<usize> {
    let [n, classes] = check("correct_count", logits, labels)?;
    let (zs, ls) = (logits.read::<f32>()?, labels.read::<i32>()?);
    let (zs, ls) = (&*zs, &*ls);
    let mut count = 0;
    let out = &mut count;
    on_cpu!(logits.device(), "correct_count", {
        cpu::cross_entropy::correct(n, classes, zs, ls).map(|correct| *out = correct)
    })?;
    Ok(count)
}
