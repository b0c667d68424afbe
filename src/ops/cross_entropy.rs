use super::{check_f32, check_shape, matrix, on_device};
use crate::autograd::{Target, Var};
#[cfg(feature = "cpu")]
use crate::cpu;
#[cfg(feature = "cuda")]
use crate::cuda;
use crate::device::Kind;
#[cfg(feature = "cuda")]
use crate::device::Scratch;
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
/// When shapes or types do not fit, or a label is out of range; a CUDA device, which is not waited for, makes the loss NaN
/// instead.
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
    let loss = losses(logits.tensor(), labels, None)?;
    let (node, saved, labels) = (logits.node(), logits.tensor().clone(), labels.clone());
    Var::record(OP, &[logits], loss, move |dloss, gradients| {
        let Some(Target { tensor, accumulate }) = gradients.target(node, saved.shape(), &saved)? else { return Ok(()) };
        on_device!(
            dloss.device(), "cross_entropy.backward",
            cpu: {
                let (zs, labels, mut dzs) = (saved.read()?, labels.read()?, tensor.write()?);
                cpu::cross_entropy::backward(n, classes, &zs, &labels, dloss.item()?, accumulate, &mut dzs)
            },
            cuda(gpu): {
                let inputs = (&saved.device_read()?, &labels.device_read()?);
                let (dloss, mut dzs) = (dloss.device_read()?, tensor.device_write()?);
                let (kernels, stream) = (gpu.kernels(), gpu.stream());
                cuda::cross_entropy::backward(kernels, (n, classes), inputs, &dloss, accumulate, &mut dzs, stream)
            },
        )
    })
}

/// The mean loss, and each row's where `per_sample` takes them.
fn losses(logits: &Tensor, labels: &Tensor, per_sample: Option<&Tensor>) -> Result<Tensor> {
    let [n, classes] = matrix("cross_entropy", "logits", logits)?;
    let device = logits.device();
    let loss = Tensor::empty(device, &[1], DType::F32)?;
    on_device!(
        device, "cross_entropy",
        cpu: {
            let mut per_sample = per_sample.map(Tensor::write).transpose()?;
            let per_sample = per_sample.as_deref_mut();
            loss.write()?[0] = cpu::cross_entropy::forward(n, classes, &logits.read()?, &labels.read()?, per_sample)?;
            Ok(())
        },
        cuda(gpu): {
            let mut rows = Scratch::<f64>::new(device, n)?;
            let inputs = (&logits.device_read()?, &labels.device_read()?);
            cuda::cross_entropy::forward(gpu.kernels(), (n, classes), inputs, &mut rows, gpu.stream())?;
            let mut per_sample = per_sample.map(Tensor::device_write).transpose()?;
            let mut loss = loss.device_write()?;
            cuda::cross_entropy::mean(gpu.kernels(), &rows, per_sample.as_mut(), &mut loss, gpu.stream())
        },
    )?;
    Ok(loss)
}

/// The terms of [`cross_entropy`], one per sample. Not differentiable.
///
/// # Errors
/// As [`cross_entropy`].
pub fn cross_entropy_per_sample(logits: &Tensor, labels: &Tensor) -> Result<Tensor> {
    const OP: &str = "cross_entropy_per_sample";
    let [n, _] = check(OP, logits, labels)?;
    let terms = Tensor::empty(logits.device(), &[n], DType::F32)?;
    losses(logits, labels, Some(&terms))?;
    Ok(terms)
}

/// How many samples have their highest logit at their label (the first of equal ones counts).
///
/// # Errors
/// As [`cross_entropy`].
pub fn correct_count(logits: &Tensor, labels: &Tensor) -> Result<usize> {
    let [n, classes] = check("correct_count", logits, labels)?;
    let device = logits.device();
    match device.kind() {
        #[cfg(feature = "cpu")]
        Kind::Cpu => {
            device.run_op("correct_count", || cpu::cross_entropy::correct(n, classes, &logits.read()?, &labels.read()?))
        }
        #[cfg(feature = "cuda")]
        Kind::Cuda(gpu) => {
            let mut count = Scratch::<u32>::zeros(device, 1)?;
            device.queue_op(gpu, "correct_count", || {
                let inputs = (&logits.device_read()?, &labels.device_read()?);
                cuda::cross_entropy::correct(gpu.kernels(), (n, classes), inputs, &mut count, gpu.stream())
            })?;
            Ok(count.to_vec()?[0] as usize)
        }
    }
}
