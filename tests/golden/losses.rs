//! Losses and their gradients: through the tape where an op exists, on slices where only those do.

use crate::case::{Case, Output};
use crate::{Fallible, fail};
use warpsmith::cpu::cross_entropy::{Clip, probs_backward, probs_forward};
use warpsmith::cpu::softmax_kl::kl_div;
use warpsmith::cpu::supcon::{Form, MeanOver, Supcon};
use warpsmith::ops::{self, ContrastiveLoss};
use warpsmith::{Tape, Var};

/// The loss, or its gradient to `var`.
fn value_or_gradient(loss: &Var, var: &Var, wants_gradient: bool) -> Fallible<Output> {
    if wants_gradient { Output::of(loss.backward()?.get(var)?) } else { Output::of(loss.tensor()) }
}

pub fn softmax_cross_entropy(case: &Case, result: &str) -> Fallible<Output> {
    let logits = Tape::new().leaf(case.tensor("logits")?);
    let labels = case.labels()?;
    match result {
        "per_sample" => Output::of(&ops::cross_entropy_per_sample(logits.tensor(), &labels)?),
        "" | "grad" => value_or_gradient(&ops::cross_entropy(&logits, &labels)?, &logits, result == "grad"),
        _ => fail(format!("cross-entropy has no result `{result}`")),
    }
}

fn matrix(shape: &[usize]) -> Fallible<(usize, usize)> {
    match *shape {
        [rows, classes] => Ok((rows, classes)),
        _ => fail(format!("expected [batch, classes], got {shape:?}")),
    }
}

pub fn cross_entropy_probs(case: &Case, result: &str) -> Fallible<Output> {
    let p = case.input("p")?;
    let (rows, classes) = matrix(&p.shape)?;
    let labels = case.input("labels")?.i32s()?;
    let clip = Clip { min: case.number("clip_min")?, max: case.number("clip_max")? };
    #[cfg(feature = "cuda")]
    if let Some(gpu) = case.device.gpu() {
        return on_gpu::cross_entropy_probs(gpu, (rows, classes), (&p.f32s(), &labels), clip, result);
    }
    match result {
        "" => Ok(Output::scalar(probs_forward(rows, classes, &p.f32s(), &labels, clip, None)?)),
        "per_sample" => {
            let mut terms = vec![0.0; rows];
            probs_forward(rows, classes, &p.f32s(), &labels, clip, Some(&mut terms))?;
            Ok(Output::new(&[rows], &terms))
        }
        "grad" => {
            let mut dp = vec![0.0; rows * classes];
            probs_backward(rows, classes, &p.f32s(), &labels, clip, 1.0, &mut dp)?;
            Ok(Output::new(&p.shape, &dp))
        }
        _ => fail(format!("cross-entropy has no result `{result}`")),
    }
}

/// What has no op on the tape, through launchers.
#[cfg(feature = "cuda")]
mod on_gpu {
    use super::{Clip, Fallible, Output, fail};
    use cudarc::driver::CudaSlice;
    use warpsmith::cuda::{cross_entropy, softmax_kl};
    use warpsmith::device::Gpu;

    /// The mean of a loss and its terms.
    fn mean(gpu: &Gpu, losses: &CudaSlice<f64>) -> Fallible<(f32, Vec<f32>)> {
        let s = gpu.stream();
        let (mut loss, mut terms) = (s.alloc_zeros::<f32>(1)?, s.alloc_zeros::<f32>(losses.len())?);
        cross_entropy::mean(gpu.kernels(), losses, Some(&mut terms), &mut loss, s)?;
        Ok((s.clone_dtoh(&loss)?[0], s.clone_dtoh(&terms)?))
    }

    pub fn cross_entropy_probs(
        gpu: &Gpu,
        shape: (usize, usize),
        (p, labels): (&[f32], &[i32]),
        clip: Clip,
        result: &str,
    ) -> Fallible<Output> {
        let s = gpu.stream();
        let inputs = (&s.clone_htod(p)?, &s.clone_htod(labels)?);
        if result == "grad" {
            let mut dp = s.alloc_zeros::<f32>(p.len())?;
            let dloss = s.clone_htod(&[1.0f32])?;
            cross_entropy::probs_backward(gpu.kernels(), shape, inputs, clip, &dloss, &mut dp, s)?;
            return Ok(Output::new(&[shape.0, shape.1], &s.clone_dtoh(&dp)?));
        }
        let mut losses = s.alloc_zeros::<f64>(shape.0)?;
        cross_entropy::probs_forward(gpu.kernels(), shape, inputs, clip, &mut losses, s)?;
        let (loss, terms) = mean(gpu, &losses)?;
        match result {
            "" => Ok(Output::scalar(loss)),
            "per_sample" => Ok(Output::new(&[shape.0], &terms)),
            _ => fail(format!("cross-entropy has no result `{result}`")),
        }
    }

    pub fn kl_divergence(gpu: &Gpu, shape: (usize, usize), (p, q): (&[f32], &[f32])) -> Fallible<Output> {
        let s = gpu.stream();
        let inputs = (&s.clone_htod(p)?, &s.clone_htod(q)?);
        let mut losses = s.alloc_zeros::<f64>(shape.0)?;
        softmax_kl::kl_div(gpu.kernels(), shape, inputs, &mut losses, s)?;
        Ok(Output::scalar(mean(gpu, &losses)?.0))
    }
}

/// The divergences clip as Keras does and have no setting for it.
fn kl_clip(case: &Case) -> Fallible<()> {
    case.constant("clip_min", Clip::KL.min)?;
    case.constant("clip_max", Clip::KL.max)
}

pub fn kl_divergence(case: &Case) -> Fallible<Output> {
    kl_clip(case)?;
    let (p, q) = (case.input("p")?, case.input("q")?);
    let (rows, classes) = matrix(&p.shape)?;
    #[cfg(feature = "cuda")]
    if let Some(gpu) = case.device.gpu() {
        return on_gpu::kl_divergence(gpu, (rows, classes), (&p.f32s(), &q.f32s()));
    }
    Ok(Output::scalar(kl_div(rows, classes, &p.f32s(), &q.f32s(), None)?))
}

/// `distill_kl`, or `distill_total` with the cross-entropy beside it.
pub fn distillation(case: &Case, total: bool, wants_gradient: bool) -> Fallible<Output> {
    kl_clip(case)?;
    let teacher = case.tensor("teacher_logits")?;
    let student = Tape::new().leaf(case.tensor("student_logits")?);
    let kl = ops::softmax_kl(&teacher, &student, case.number("temperature")? as f32)?;
    if !total {
        return value_or_gradient(&kl, &student, wants_gradient);
    }
    let cross_entropy = ops::cross_entropy(&student, &case.labels()?)?;
    let weight = |name: &str| Ok::<f32, Box<dyn std::error::Error>>(case.number(name)? as f32);
    let loss = ops::add(&ops::scale(&cross_entropy, weight("ce_weight")?)?, &ops::scale(&kl, weight("kl_weight")?)?)?;
    value_or_gradient(&loss, &student, wants_gradient)
}

pub fn contrastive(case: &Case, form: Form, wants_gradient: bool) -> Fallible<Output> {
    let z = case.tensor("z")?;
    let temperature = case.number("temperature")? as f32;
    let norm_eps = case.number("norm_eps")?;
    let labels = case.labels()?;
    let (mut scale, mut mean_over_all, mut views) = (1.0, true, 1);
    if form != Form::Npairs {
        scale = case.number("scale")? as f32;
        mean_over_all = match case.text("mean_over")?.as_str() {
            "all" => true,
            "with_positive" => false,
            other => return fail(format!("arg `mean_over`: `{other}` is neither all nor with_positive")),
        };
        views = case.size("views")?;
    }
    let (batch, dim) = match *z.shape() {
        [batch, dim] if views == 1 => (batch, dim),
        [batch, stored, dim] if stored == views => (batch, dim),
        _ => return fail(format!("`z` {:?} does not hold {views} views", z.shape())),
    };
    if norm_eps as f32 == ops::NORM_EPS {
        let loss = match form {
            Form::Npairs => ContrastiveLoss::Npairs { temperature },
            Form::Out => ContrastiveLoss::SupconOut { temperature, scale, mean_over_all },
            Form::In => ContrastiveLoss::SupconIn { temperature, scale, mean_over_all },
        };
        let z = Tape::new().leaf(z);
        return value_or_gradient(&ops::contrastive_loss(&z, &labels, loss)?, &z, wants_gradient);
    }
    // The op has Keras' floor built in; the slice-level loss under it takes any.
    let mean_over = if mean_over_all { MeanOver::All } else { MeanOver::WithPositive };
    let settings = Supcon { form, temperature, norm_eps: norm_eps as f32, scale, mean_over };
    let (zs, labels) = (z.to_vec::<f32>()?, labels.to_vec::<i32>()?);
    let mut dz = vec![0.0; zs.len()];
    let loss = warpsmith::cpu::supcon::loss(&settings, batch, views, dim, &zs, &labels, Some((1.0, &mut dz)))?;
    Ok(if wants_gradient { Output::new(z.shape(), &dz) } else { Output::scalar(loss) })
}
