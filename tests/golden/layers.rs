//! Layers through the tape. Filters come as HWIO and dense kernels as [in, out]; the crate has KRSC and [out, in].

use crate::case::{Case, Output};
use crate::{Fallible, fail};
use serde_json::json;
use warpsmith::nn::{BatchNorm, Forward, KerasVersion, Mode, ParamsBuilder};
use warpsmith::problem::Window;
use warpsmith::{Tape, Tensor, Var, ops};

/// [rows, columns, in, out] or [in, out] with the outputs moved to the front.
pub fn outputs_first<T: Copy>(data: &[T], outputs: usize) -> Vec<T> {
    let inputs = data.len() / outputs.max(1);
    (0..data.len()).map(|i| data[i % inputs * outputs + i / inputs]).collect()
}

/// The way back: outputs from the front to the end.
pub fn outputs_last<T: Copy>(data: &[T], outputs: usize) -> Vec<T> {
    outputs_first(data, data.len() / outputs.max(1))
}

/// The shape that goes with [`outputs_first`].
fn shape_outputs_first(shape: &[usize]) -> Vec<usize> {
    let mut shape = shape.to_vec();
    shape.rotate_right(1);
    shape
}

/// The gradient of `var` when `dy` flows into `y`.
fn gradient(y: &Var, dy: Tensor, var: &Var) -> Fallible<Tensor> {
    Ok(y.backward_with(dy)?.get(var)?.clone())
}

fn kernel(case: &Case, expected: &[usize]) -> Fallible<Tensor> {
    let w = case.input("w")?;
    if w.shape != expected {
        return fail(format!("`w` is {:?}, the other args make it {expected:?}", w.shape));
    }
    let outputs = expected[expected.len() - 1];
    Ok(Tensor::from_slice(case.device, &shape_outputs_first(expected), &outputs_first(&w.f32s(), outputs))?)
}

fn kernel_output(tensor: &Tensor) -> Fallible<Output> {
    let mut shape = tensor.shape().to_vec();
    shape.rotate_left(1);
    Ok(Output::new(&shape, &outputs_last(&tensor.to_vec::<f32>()?, tensor.shape()[0])))
}

fn leaf(tape: &Tape, tensor: Fallible<Tensor>) -> Fallible<Var> {
    Ok(tape.leaf(tensor?))
}

pub fn conv2d(case: &Case, pass: &str) -> Fallible<Output> {
    let window = Window { pads: case.pads()?, strides: case.extents("strides")?, dilations: [1; 2] };
    let [r, s] = case.extents("kernel_size")?;
    let filters = case.size("filters")?;
    let use_bias = case.flag("use_bias")?;
    let dy = if pass == "fprop" { None } else { Some(case.tensor("dy")?) };
    // A pass may come without the tensor that its result does not depend on; zeros take its place.
    let x = match (&dy, case.has("x"), case.has("input_shape")) {
        (_, true, _) => case.tensor("x")?,
        (_, false, true) => case.zeros(&case.sizes("input_shape")?)?,
        (Some(dy), false, false) => {
            let [n, p, q, _] = dy.nhwc("conv2d")?;
            let [top, bottom, left, right] = window.pads;
            let extent = |out: u32, filter: u32, stride: u32, pads: u32| {
                ((out - 1) * stride + filter).saturating_sub(pads).max(1) as usize
            };
            let (h, w) = (extent(p, r, window.strides[0], top + bottom), extent(q, s, window.strides[1], left + right));
            case.zeros(&[n as usize, h, w, 1])?
        }
        (None, false, false) => return fail("`conv2d.fprop` wants an input `x`"),
    };
    let c = *x.shape().last().unwrap_or(&0);
    let shape = [r as usize, s as usize, c, filters];
    let w = if case.has("w") { kernel(case, &shape)? } else { case.zeros(&shape_outputs_first(&shape))? };
    let b = match (use_bias, case.has("b")) {
        (true, true) => Some(case.tensor("b")?),
        (true, false) if pass != "fprop" => Some(case.zeros(&[filters])?),
        (false, false) => None,
        (uses, has) => return fail(format!("use_bias is {uses}, and an input `b` given: {has}")),
    };
    let tape = Tape::new();
    let (x, w, b) = (tape.leaf(x), tape.leaf(w), b.map(|b| tape.leaf(b)));
    let y = ops::conv2d(&x, &w, b.as_ref(), None, window)?;
    match (pass, dy, &b) {
        ("fprop", None, _) => Output::of(y.tensor()),
        ("dgrad", Some(dy), _) => Output::of(&gradient(&y, dy, &x)?),
        ("wgrad", Some(dy), _) => kernel_output(&gradient(&y, dy, &w)?),
        ("bias_grad", Some(dy), Some(b)) => Output::of(&gradient(&y, dy, b)?),
        _ => fail(format!("no pass `{pass}` with use_bias {use_bias}")),
    }
}

pub fn max_pool2d(case: &Case, wants_gradient: bool) -> Fallible<Output> {
    let window = Window { pads: case.pads()?, strides: case.extents("strides")?, dilations: [1; 2] };
    let x = leaf(&Tape::new(), case.tensor("x"))?;
    let y = ops::max_pool2d(&x, case.extents("pool_size")?, window, case.number("padding_value")? as f32)?;
    if wants_gradient { Output::of(&gradient(&y, case.tensor("dy")?, &x)?) } else { Output::of(y.tensor()) }
}

pub fn keras_version(case: &Case) -> Fallible<KerasVersion> {
    match case.size("keras")? {
        2 => Ok(KerasVersion::V2),
        3 => Ok(KerasVersion::V3),
        other => fail(format!("arg `keras`: the implementation knows 2 and 3, not {other}")),
    }
}

/// `statistics` is "train" or "inference", `result` empty for y or what else to return.
pub fn batch_norm(case: &Case, statistics: &str, result: &str) -> Fallible<Output> {
    let (training, trainable) = (case.flag("training")?, case.flag("trainable")?);
    let uses_batch = training && trainable;
    if uses_batch != (statistics == "train") {
        return fail(format!("training {training}, trainable {trainable} is not `batch_norm.{statistics}`"));
    }
    let (eps, momentum) = (case.number("eps")? as f32, case.number("momentum")? as f32);
    let keras = keras_version(case)?;
    if case.has("unbiased") {
        case.only("unbiased", json!(keras == KerasVersion::V2))?;
    }
    let x = case.tensor("x")?;
    let c = *x.shape().last().unwrap_or(&0);
    let mut builder = ParamsBuilder::new();
    let layer = BatchNorm::new(&mut builder, "bn", c, eps, momentum);
    let mut params = builder.build(case.device, 0)?;
    for (name, tensor) in params.tensors()? {
        let input = name.trim_start_matches("bn/");
        // What is not given has no part in the result.
        if case.has(input) {
            tensor.copy_from(&case.tensor(input)?)?;
        }
    }
    let find = |params: &warpsmith::nn::Params, name: &str| {
        let found = params.tensors().ok()?.into_iter().find(|(full, _)| *full == format!("bn/{name}"));
        found.map(|(_, tensor)| tensor)
    };
    if let Some(wanted) = result.strip_prefix("grad_") {
        // Of a frozen layer, too, the gradients are asked for: hence the op, not the layer.
        let tape = Tape::new();
        let tensor = |name: &str| find(&params, name).ok_or_else(|| format!("no tensor `{name}`"));
        let running = ops::RunningStatistics {
            mean: tensor("moving_mean")?,
            var: tensor("moving_variance")?,
            momentum,
            unbiased: keras == KerasVersion::V2,
        };
        let (x, gamma, beta) = (tape.leaf(x), tape.leaf(tensor("gamma")?), tape.leaf(tensor("beta")?));
        let y = ops::batch_norm(&x, &gamma, &beta, &running, eps, uses_batch, false)?;
        let var = match wanted {
            "x" => &x,
            "gamma" => &gamma,
            "beta" => &beta,
            _ => return fail(format!("batch norm has no gradient to `{wanted}`")),
        };
        return Output::of(&gradient(&y, case.tensor("dy")?, var)?);
    }
    if !trainable {
        params.freeze("bn")?;
    }
    let mut pass = Forward::training(&params);
    pass.keras = keras;
    pass.mode = if training { Mode::Training } else { Mode::Inference };
    let y = layer.forward(&pass, &pass.tape.constant(x), None)?;
    match result {
        "" => Output::of(y.tensor()),
        "moving_mean" | "moving_variance" => Output::of(&find(&params, result).ok_or("no moving statistics")?),
        _ => fail(format!("batch norm has no result `{result}`")),
    }
}

pub fn dense(case: &Case, result: &str) -> Fallible<Output> {
    let dy = if result.is_empty() { None } else { Some(case.tensor("dy")?) };
    let columns = |shape: Option<&[usize]>| shape.and_then(|shape| shape.last()).copied().unwrap_or(0);
    let outputs = match &dy {
        Some(dy) => columns(Some(dy.shape())),
        None => columns(Some(&case.input("w")?.shape)),
    };
    let inputs = match (case.has("x"), case.has("w")) {
        (true, _) => columns(Some(&case.input("x")?.shape)),
        (false, true) => case.input("w")?.shape.first().copied().unwrap_or(0),
        (false, false) => 1,
    };
    let rows = dy.as_ref().map_or(0, |dy| dy.shape().first().copied().unwrap_or(0));
    let x = if case.has("x") { case.tensor("x")? } else { case.zeros(&[rows, inputs])? };
    let w = if case.has("w") { kernel(case, &[inputs, outputs])? } else { case.zeros(&[outputs, inputs])? };
    let b = if case.has("b") { case.tensor("b")? } else { case.zeros(&[outputs])? };
    let tape = Tape::new();
    let (x, w, b) = (tape.leaf(x), tape.leaf(w), tape.leaf(b));
    let y = ops::linear(&x, &w, Some(&b))?;
    match (result, dy) {
        ("", None) => Output::of(y.tensor()),
        ("grad_x", Some(dy)) => Output::of(&gradient(&y, dy, &x)?),
        ("grad_w", Some(dy)) => kernel_output(&gradient(&y, dy, &w)?),
        ("grad_b", Some(dy)) => Output::of(&gradient(&y, dy, &b)?),
        _ => fail(format!("dense has no result `{result}`")),
    }
}

pub fn global_average_pool2d(case: &Case, wants_gradient: bool) -> Fallible<Output> {
    let tape = Tape::new();
    if !wants_gradient {
        return Output::of(ops::global_avg_pool(&leaf(&tape, case.tensor("x"))?)?.tensor());
    }
    let x = leaf(&tape, case.zeros(&case.sizes("input_shape")?))?;
    Output::of(&gradient(&ops::global_avg_pool(&x)?, case.tensor("dy")?, &x)?)
}

pub fn relu(case: &Case, wants_gradient: bool) -> Fallible<Output> {
    let x = leaf(&Tape::new(), case.tensor("x"))?;
    let y = ops::relu(&x)?;
    if wants_gradient { Output::of(&gradient(&y, case.tensor("dy")?, &x)?) } else { Output::of(y.tensor()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_change_layout_and_back() {
        // [in 3, out 2] with element 10 * in + out.
        let stored = [0, 1, 10, 11, 20, 21];
        assert_eq!(outputs_first(&stored, 2), [0, 10, 20, 1, 11, 21]);
        assert_eq!(outputs_last(&outputs_first(&stored, 2), 2), stored);
        assert_eq!(shape_outputs_first(&[7, 5, 3, 64]), [64, 7, 5, 3]);
    }
}
