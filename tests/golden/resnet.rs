//! ResNet50V2 with weights and images by formula (the notes of `resnet50v2` in INDEX.md).

use crate::case::{Case, Output};
use crate::layers::{keras_version, outputs_first, outputs_last};
use crate::training::adam_of;
use crate::{Fallible, fail};
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use warpsmith::nn::resnet50v2::{EPS, MOMENTUM};
use warpsmith::nn::{Forward, Head, KerasVersion, Mode, Params, ParamsBuilder, ResNet50V2, Snapshot};
use warpsmith::{Device, Tape, Tensor, Var, ops};

fn fnv1a32(name: &str) -> u32 {
    name.bytes().fold(0x811C_9DC5, |h, byte| (h ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn fmix32(mut x: u32) -> u32 {
    x ^= x >> 16;
    x = x.wrapping_mul(0x85EB_CA6B);
    x ^= x >> 13;
    x = x.wrapping_mul(0xC2B2_AE35);
    x ^ x >> 16
}

/// Element `i` of the hash of `name`, in [0, 1).
fn hash_unit(name_hash: u32, salt: u32, i: usize) -> f64 {
    let salted = name_hash.wrapping_add(salt.wrapping_mul(0x85EB_CA77));
    f64::from(fmix32((i as u32).wrapping_mul(0x9E37_79B9).wrapping_add(salted))) / 4_294_967_296.0
}

/// The first `count` values of the variable `name` (`<layer>/<kind>`) of a Keras shape, flat.
fn formula_weights(name: &str, shape: &[usize], salt: u32, gain: f64, count: usize) -> Fallible<Vec<f32>> {
    let kind = name.rsplit('/').next().unwrap_or_default();
    let fan_in: usize = shape[..shape.len().saturating_sub(1)].iter().product();
    let limit = (6.0 / fan_in as f64).sqrt();
    let value: &dyn Fn(f64) -> f64 = match kind {
        "kernel" => &|u| (2.0 * u - 1.0) * limit,
        "bias" => &|u| (2.0 * u - 1.0) * 0.05,
        "gamma" => &|u| 1.0 + 0.2 * (2.0 * u - 1.0),
        "beta" | "moving_mean" => &|u| (2.0 * u - 1.0) * 0.1,
        "moving_variance" => &|u| 1.0 + 0.5 * u,
        _ => return fail(format!("no formula for the kind of `{name}`")),
    };
    let name_hash = fnv1a32(name);
    Ok((0..count).map(|i| (value(hash_unit(name_hash, salt, i)) * gain) as f32).collect())
}

/// What keeps the float32 comparison well conditioned.
fn gain(name: &str) -> f64 {
    match name {
        "predictions/kernel" => 0.5,
        _ if name.ends_with("_3_conv/kernel") => 0.25,
        _ => 1.0,
    }
}

/// Images [batch, size, size, 3]: a hashed grid with cells of 8x8 pixels, in 0..255.
fn formula_input(size: usize, batch: usize, salt: u32) -> Vec<f32> {
    let (name_hash, cells) = (fnv1a32("input"), size.div_ceil(8));
    let mut images = Vec::with_capacity(batch * size * size * 3);
    for n in 0..batch {
        for y in 0..size {
            for x in 0..size {
                for channel in 0..3 {
                    let i = ((n * cells + y / 8) * cells + x / 8) * 3 + channel;
                    images.push((255.0 * hash_unit(name_hash, salt, i)) as f32);
                }
            }
        }
    }
    images
}

fn salt(case: &Case) -> Fallible<u32> {
    Ok(u32::try_from(case.size("salt")?)?)
}

pub fn weights_row(case: &Case) -> Fallible<Output> {
    let (name, shape, first) = (case.text("name")?, case.sizes("shape")?, case.size("first")?);
    if first > shape.iter().product() {
        return fail(format!("arg `first`: `{name}` has fewer than {first} values"));
    }
    // The function that fills the network of the other rows.
    let values = formula_weights(&name, &shape, salt(case)?, case.number("gain")?, first)?;
    Ok(Output::new(&[first], &values))
}

pub fn input_row(case: &Case) -> Fallible<Output> {
    let images = formula_input(case.size("image_size")?, case.size("batch")?, salt(case)?);
    let first = case.size("first")?;
    match images.get(..first) {
        Some(values) => Ok(Output::new(&[first], values)),
        None => fail(format!("arg `first`: the input has fewer than {first} values")),
    }
}

/// What a forward pass depends on.
#[derive(Debug, Clone, PartialEq)]
struct Setting {
    image_size: usize,
    batch: usize,
    salt: u32,
    training: bool,
    labels: Vec<i32>,
    classes: usize,
    keras: KerasVersion,
    scale: f32,
    offset: f32,
    momentum: f32,
}

impl Setting {
    fn read(case: &Case) -> Fallible<Setting> {
        let eps = case.number("eps")?;
        if eps as f32 != EPS {
            return fail(format!("arg `eps`: the network has {EPS} built in and cannot do {eps}"));
        }
        let setting = Setting {
            image_size: case.size("image_size")?,
            batch: case.size("batch")?,
            salt: salt(case)?,
            training: case.flag("training")?,
            labels: case.sizes("labels")?.into_iter().map(i32::try_from).collect::<Result<_, _>>()?,
            classes: case.size("classes")?,
            keras: keras_version(case)?,
            scale: case.number("scale")? as f32,
            offset: case.number("offset")? as f32,
            momentum: case.number("momentum")? as f32,
        };
        if setting.labels.len() != setting.batch {
            return fail(format!("{} labels for a batch of {}", setting.labels.len(), setting.batch));
        }
        Ok(setting)
    }
}

/// Sum, L2 norm and first 8 values; zeros where there are fewer.
type StatRow = [f64; 10];

fn stat_row(values: &[f32]) -> StatRow {
    let mut row = [0.0; 10];
    row[0] = values.iter().map(|&v| f64::from(v)).sum();
    row[1] = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    for (slot, &value) in row[2..].iter_mut().zip(values) {
        *slot = f64::from(value);
    }
    row
}

/// The network with its formula weights, which every run starts from.
struct Model {
    classes: usize,
    net: ResNet50V2,
    params: Params,
    start: Snapshot,
}

impl Model {
    fn new(device: &Device, classes: usize) -> Fallible<Model> {
        let mut builder = ParamsBuilder::new();
        let net = ResNet50V2::new(&mut builder, Head::Classes(classes));
        let params = builder.build(device, 0)?;
        for (name, tensor) in params.tensors()? {
            let mut shape = tensor.shape().to_vec();
            shape.rotate_left(1);
            let values = formula_weights(name, &shape, 0, gain(name), tensor.elems())?;
            let outputs = if shape.len() > 1 { shape[shape.len() - 1] } else { 1 };
            tensor.copy_from_slice(&outputs_first(&values, outputs))?;
        }
        let start = params.snapshot()?;
        Ok(Model { classes, net, params, start })
    }

    /// The logits of the setting's images.
    fn forward(&self, setting: &Setting, pass: &mut Forward) -> Fallible<Var> {
        pass.mode = if setting.training { Mode::Training } else { Mode::Inference };
        pass.keras = setting.keras;
        // The layers' own momentum is tested as long as nothing else is asked for.
        pass.momentum = (setting.momentum != MOMENTUM).then_some(setting.momentum);
        let size = setting.image_size;
        let pixels = formula_input(size, setting.batch, setting.salt);
        let pixels = Tensor::from_slice(self.params.device(), &[setting.batch, size, size, 3], &pixels)?;
        let images = ops::rescale(&pass.tape.constant(pixels), setting.scale, setting.offset)?;
        Ok(self.net.forward(pass, &images)?)
    }

    fn loss(&self, setting: &Setting, logits: &Var) -> Fallible<Var> {
        let labels = Tensor::from_slice(self.params.device(), &[setting.batch], &setting.labels)?;
        Ok(ops::cross_entropy(logits, &labels)?)
    }

    /// One pass there and back from the formula weights, with the fused layers of a training step.
    fn run(&self, setting: &Setting) -> Fallible<Run> {
        self.params.restore(&self.start)?;
        self.params.zero_gradients()?;
        let mut pass = Forward::training(&self.params);
        let logits = self.forward(setting, &mut pass)?;
        let loss = self.loss(setting, &logits)?;
        loss.backward()?;
        let mut gradients = BTreeMap::new();
        for name in self.params.names() {
            let id = self.params.find(name).ok_or("a parameter has lost its name")?;
            let gradient = self.params.gradient(id)?.ok_or("a parameter is frozen")?;
            let mut shape = gradient.shape().to_vec();
            let outputs = if shape.len() > 1 { shape[0] } else { 1 };
            shape.rotate_left(1);
            gradients.insert(name.to_string(), (shape, outputs_last(&gradient.read::<f32>()?, outputs)));
        }
        let mut moving = BTreeMap::new();
        for name in self.params.stat_names() {
            let id = self.params.find_stat(name).ok_or("a statistic has lost its name")?;
            moving.insert(name.to_string(), self.params.stat(id)?.to_vec::<f32>()?);
        }
        let (logits, loss) = (Output::of(logits.tensor())?, loss.tensor().item()?);
        Ok(Run { setting: setting.clone(), logits, loss, gradients, moving, taps: OnceCell::new() })
    }

    /// Stat rows and sizes of the outputs of all layers, from a pass of their own: a tap unfuses them.
    fn taps(&self, setting: &Setting) -> Fallible<BTreeMap<String, (usize, StatRow)>> {
        self.params.restore(&self.start)?;
        let seen = RefCell::new(BTreeMap::new());
        let mut pass = Forward::training(&self.params).with_tap(|name, tensor| {
            let row = stat_row(&tensor.read::<f32>()?);
            seen.borrow_mut().insert(name.to_string(), (tensor.elems(), row));
            Ok(())
        });
        pass.tape = Tape::no_grad();
        self.forward(setting, &mut pass)?;
        drop(pass);
        Ok(seen.into_inner())
    }
}

/// What one forward and backward pass left behind; kernels are HWIO and [in, out].
struct Run {
    setting: Setting,
    logits: Output,
    loss: f32,
    gradients: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    moving: BTreeMap<String, Vec<f32>>,
    taps: OnceCell<BTreeMap<String, (usize, StatRow)>>,
}

/// Runs that several rows look at. A run holds 90 MB of gradients, so only the latest few stay.
#[derive(Default)]
pub struct Cache {
    model: RefCell<Option<Rc<Model>>>,
    runs: RefCell<Vec<Rc<Run>>>,
}

const KEPT_RUNS: usize = 3;

impl Cache {
    fn model(&self, device: &Device, classes: usize) -> Fallible<Rc<Model>> {
        let mut slot = self.model.borrow_mut();
        if let Some(model) = slot.as_ref().filter(|model| model.classes == classes) {
            return Ok(model.clone());
        }
        // The old model goes first: two at once would double the memory.
        *slot = None;
        Ok(slot.insert(Rc::new(Model::new(device, classes)?)).clone())
    }

    fn run(&self, device: &Device, setting: &Setting) -> Fallible<Rc<Run>> {
        let mut runs = self.runs.borrow_mut();
        if let Some(run) = runs.iter().find(|run| run.setting == *setting) {
            return Ok(run.clone());
        }
        runs.truncate(KEPT_RUNS - 1);
        let run = Rc::new(self.model(device, setting.classes)?.run(setting)?);
        runs.insert(0, run.clone());
        Ok(run)
    }
}

/// Stat rows of what `find` returns for the names in `args.rows`.
fn stat_rows(case: &Case, find: impl Fn(&str) -> Option<(usize, StatRow)>) -> Fallible<Output> {
    let (rows, sizes) = (case.texts("rows")?, case.sizes("sizes")?);
    if rows.len() != sizes.len() {
        return fail(format!("{} rows with {} sizes", rows.len(), sizes.len()));
    }
    let mut data = Vec::new();
    for (name, &size) in rows.iter().zip(&sizes) {
        let (elems, row) = find(name).ok_or_else(|| format!("arg `rows`: the network has no `{name}`"))?;
        if elems != size {
            return fail(format!("`{name}` has {elems} elements here, {size} in the index"));
        }
        data.extend(row);
    }
    Ok(Output::new(&[rows.len(), 10], &data))
}

pub fn network(case: &Case, cache: &Cache, result: &str) -> Fallible<Output> {
    let setting = Setting::read(case)?;
    if result == "adam_trajectory" {
        return adam_trajectory(case, &*cache.model(case.device, setting.classes)?, &setting);
    }
    let run = cache.run(case.device, &setting)?;
    match result {
        "logits" => Ok(Output::new(&run.logits.shape, &run.logits.data)),
        "loss" => Ok(Output::scalar(run.loss)),
        "tap_stats" => {
            if run.taps.get().is_none() {
                let taps = cache.model(case.device, setting.classes)?.taps(&setting)?;
                run.taps.get_or_init(|| taps);
            }
            stat_rows(case, |name| run.taps.get()?.get(name).copied())
        }
        "grad_stats" => {
            // Which of the rows are zero is for the tolerance.
            case.texts("zero_rows")?;
            stat_rows(case, |name| run.gradients.get(name).map(|(_, values)| (values.len(), stat_row(values))))
        }
        "moving_stats" => stat_rows(case, |name| run.moving.get(name).map(|values| (values.len(), stat_row(values)))),
        "grad" => {
            let name = case.text("parameter")?;
            let found = run.gradients.get(&name);
            let (shape, values) = found.ok_or_else(|| format!("arg `parameter`: the network has no `{name}`"))?;
            Ok(Output::new(shape, values))
        }
        _ => fail(format!("the network has no result `{result}`")),
    }
}

/// The training loss before any step and after each of `steps` Adam steps on the same batch.
fn adam_trajectory(case: &Case, model: &Model, setting: &Setting) -> Fallible<Output> {
    if !setting.training {
        return fail("a trajectory is of training-mode losses");
    }
    let steps = case.size("steps")?;
    // How many of the losses are compared is for the comparison.
    case.size("compare_first")?;
    model.params.restore(&model.start)?;
    let mut adam = adam_of(case, &model.params, "adam_eps")?;
    let mut losses = Vec::new();
    for step in 0..=steps {
        let mut pass = Forward::training(&model.params);
        let logits = model.forward(setting, &mut pass)?;
        let loss = model.loss(setting, &logits)?;
        losses.push(loss.tensor().item()?);
        if step < steps {
            model.params.zero_gradients()?;
            loss.backward()?;
            adam.step(&model.params)?;
        }
    }
    Ok(Output::new(&[losses.len()], &losses))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_match_their_published_values() {
        // FNV-1a: the test suite of its authors; fmix32: the finaliser of MurmurHash3 is a bijection with fmix32(0) = 0.
        assert_eq!([fnv1a32(""), fnv1a32("a"), fnv1a32("foobar")], [0x811C_9DC5, 0xE40C_292C, 0xBF9C_F968]);
        assert_eq!([fmix32(0), fmix32(1)], [0, 0x514E_28B7]);
    }

    #[test]
    fn stat_rows_hold_sum_norm_and_first_values() {
        assert_eq!(stat_row(&[3.0, -4.0]), [-1.0, 5.0, 3.0, -4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    }
}
