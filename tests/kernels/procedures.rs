//! Training steps of the four procedures on the CUDA device, each from the state that the CPU is in, beside the CPU's.
//!
//! The procedures are run as a user runs them, and stopped after every step: the checkpoint of the CPU, resumed on the
//! CUDA device for one step, must lead to where the CPU is after its next one. With `WARPSMITH_STEPS=10` that many steps of
//! each run are compared; training is chaotic, so no two steps in a row are taken on the device.
//!
//! How far two right answers may lie apart depends on the state: eight samples in a batch norm whose variance is nearly 0
//! amplify the last bit of the weights ten thousandfold, and a ReLU whose input is nearly 0 is open or not. So the CPU takes
//! each step several times more with weights that are off by a few units in the last place, and the device must be no further
//! away than three times the furthest of these.

use super::Case;
use super::device::worse;
use super::gpu::gpu;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use warpsmith::device::CudaOptions;
use warpsmith::recipes::{self, Recipe, Sources};
use warpsmith::rng::Philox;
use warpsmith::train::{EpochRecord, Observer, StepReport, StopFlag};
use warpsmith::{Device, Error};

/// Tests that take long on the emulator, for `--include-ignored`.
pub const LONG_CASES: &[Case] = &[
    ("procedures::consistency_follows_the_cpu", || {
        follows_the_cpu::<recipes::consistency::Config>(&["swa_start=0", "swa_period=1"]);
    }),
    ("procedures::randaugment_follows_the_cpu", || follows_the_cpu::<recipes::randaugment::Config>(&[])),
    ("procedures::fixres_follows_the_cpu", || follows_the_cpu::<recipes::fixres::Config>(&["test_size=40"])),
    ("procedures::supcon_follows_the_cpu", || {
        follows_the_cpu::<recipes::supcon::Config>(&["similarity_images=10"]);
    }),
];

/// The CPU's steps from nudged weights, at most.
const NUDGES: u64 = 16;

/// What a step trained on, and where it led.
struct Step {
    run: String,
    /// Steps done in the epoch, which is the run's only one.
    step: usize,
    /// Mean of the epoch so far.
    loss: f64,
    images: Vec<Vec<u8>>,
    labels: Vec<u8>,
    indices: Vec<u32>,
    /// Tensors of the checkpoint, and the learning rate.
    tensors: BTreeMap<String, Vec<f32>>,
    learning_rate: f64,
}

/// Stops after the first step.
struct FirstStep {
    stop: StopFlag,
    seen: Rc<RefCell<Option<Step>>>,
}

impl Observer for FirstStep {
    fn step(&mut self, report: &StepReport) {
        self.stop.stop();
        *self.seen.borrow_mut() = Some(Step {
            run: report.run.to_string(),
            step: report.step,
            loss: report.loss,
            images: report.batch.images.iter().map(|images| images.to_bytes().unwrap()).collect(),
            labels: report.batch.labels.to_bytes().unwrap(),
            indices: report.batch.indices.clone(),
            tensors: BTreeMap::new(),
            learning_rate: 0.0,
        });
    }

    fn epoch(&mut self, _: &str, _: u32, _: &EpochRecord) {}

    fn message(&mut self, _: &str) {}
}

/// Goes on in a folder for one step; `None` when the procedure ended instead.
fn one_step<R: Recipe>(folder: &Path, device: &Device) -> Option<Step> {
    let (mut session, recipe, sources) = recipes::resume::<R>(folder, device).unwrap();
    let data = recipe.load(&sources, session.seed()).unwrap();
    let seen = Rc::default();
    session.observer = Box::new(FirstStep { stop: session.stop.clone(), seen: Rc::clone(&seen) });
    match recipe.run(&mut session, &data) {
        Ok(_) => return None,
        Err(Error::Interrupted { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    let mut step = seen.take().unwrap();
    let bytes = fs::read(folder.join("checkpoint.safetensors")).unwrap();
    let (_, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let state: serde_json::Value = serde_json::from_str(&metadata.metadata().as_ref().unwrap()["state"]).unwrap();
    step.learning_rate = state["progress"]["learning_rate"].as_f64().unwrap();
    for (name, view) in safetensors::SafeTensors::deserialize(&bytes).unwrap().tensors() {
        let values = view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        step.tensors.insert(name, values);
    }
    Some(step)
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// `|a - b| / |b|` in the Euclidean norm; 0 where both are 0.
fn distance(pairs: impl Iterator<Item = (f64, f64)>) -> f64 {
    let (off, of) = pairs.fold((0.0, 0.0), |(off, of), (a, b)| (off + (a - b) * (a - b), of + b * b));
    if off == 0.0 { 0.0 } else { (off / of).sqrt() }
}

fn wide(values: &[f32]) -> impl Iterator<Item = f64> {
    values.iter().map(|&value| f64::from(value))
}

/// What a step left of a tensor less a share of what it was.
fn changes(step: &Step, name: &str, before: &[f32], share: f64) -> impl Iterator<Item = f64> {
    wide(&step.tensors[name]).zip(wide(before)).map(move |(after, before)| after - share * before)
}

/// Moves every weight of a checkpoint by up to four units in its last place: the rounding of a few layers.
fn nudge_weights(folder: &Path, seed: u64) {
    let path = folder.join("checkpoint.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let (first, end) = metadata.tensors()["params"].data_offsets;
    let mut random = Philox::new(seed, 7);
    for value in bytes[8 + header..][first..end].chunks_exact_mut(4) {
        let bits = u32::from_le_bytes((&*value).try_into().unwrap());
        // Zeros are padding, and biases at the start.
        let nudged = if bits << 1 == 0 { bits } else { bits + random.next_word() % 9 - 4 };
        value.copy_from_slice(&nudged.to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
}

fn follows_the_cpu<R: Recipe>(settings: &[&str]) {
    let steps: usize = std::env::var("WARPSMITH_STEPS").map_or(1, |steps| steps.parse().expect("a number of steps"));
    let mut recipe = R::reduced();
    let limits = [format!("max_steps={}", steps + 1), format!("limit_train={}", 10 * (steps + 3))];
    let common = ["batch_size=8", "image_size=32", "limit_test=10"].iter().chain(settings);
    for setting in limits.iter().map(String::as_str).chain(common.copied()) {
        recipes::set_field(&mut recipe, setting).unwrap();
    }
    gpu(); // Installs the emulator.
    let cpu = Device::cpu().unwrap();
    let cuda = Device::cuda_with(CudaOptions { cached: false, ..CudaOptions::default() }).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let [folder, start, nudged, copy] = ["cpu", "start", "nudged", "cuda"].map(|name| scratch.path().join(name));
    recipes::start(&recipe, &Sources::default(), &folder, &cpu, 42).unwrap();
    let mut before: Option<Step> = None;
    let mut compared = BTreeMap::new();
    loop {
        if before.is_some() {
            copy_folder(&folder, &copy);
        }
        let Some(want) = one_step::<R>(&folder, &cpu) else { break };
        if let Some(before) = before.filter(|before| before.run == want.run) {
            copy_folder(&copy, &start);
            let got = one_step::<R>(&copy, &cuda).unwrap();
            let near = (1..=NUDGES).map(|seed| {
                copy_folder(&start, &nudged);
                nudge_weights(&nudged, seed);
                one_step::<R>(&nudged, &cpu).unwrap()
            });
            compare(&before, &got, near, &want);
            *compared.entry(want.run.clone()).or_insert(0) += 1;
        }
        before = Some(want);
    }
    assert!(compared.len() >= 2 && compared.values().all(|&n| n == steps), "{compared:?}");
}

/// From the state `before`, the device went to `got` and the CPU to `want`; from nudged weights the CPU went to `near`.
fn compare(before: &Step, got: &Step, near: impl Iterator<Item = Step>, want: &Step) {
    let name = format!("{}, step {}", want.run, want.step);
    assert_eq!((&got.run, got.step, got.learning_rate), (&want.run, want.step, want.learning_rate));
    assert!(got.indices == want.indices && got.labels == want.labels, "{name}: labels and order of the batch");
    assert!(got.images == want.images, "{name}: pictures of the batch");

    let [m, v, params, stats] = ["adam/m", "adam/v", "params", "moving_statistics"];
    let loss = |step: &Step| step.loss * step.step as f64 - before.loss * before.step as f64;
    let apart = |a: &Step, name: &str| distance(wide(&a.tensors[name]).zip(wide(&want.tensors[name])));
    let errors = |a: &Step| {
        [
            ("loss", ((loss(a) - loss(want)) / loss(want)).abs()),
            // What made the new first moments out of the old ones.
            (
                "gradient",
                distance(changes(a, m, &before.tensors[m], 0.9).zip(changes(want, m, &before.tensors[m], 0.9))),
            ),
            ("second moment", apart(a, v)),
            ("moving statistics", apart(a, stats)),
        ]
    };
    let off = errors(got);
    let mut own = [0.0f64; 4];
    let is_near = |own: &[f64; 4]| off.iter().zip(own).all(|((_, off), own)| *off <= 3.0 * own + 1e-5);
    // One flip of a ReLU moves a gradient a hundred times further than rounding alone, and not every nudge makes one.
    for near in near {
        own.iter_mut().zip(errors(&near)).for_each(|(own, (_, error))| *own = own.max(error));
        if is_near(&own) {
            break;
        }
    }
    for ((what, off), own) in off.iter().zip(&own) {
        println!("{name}: {what} off by {off:.1e}, nudged weights make {own:.1e}");
        assert!(*own <= 0.2, "{name}: {what} cannot be compared, nudged weights make {own}");
    }
    assert!(is_near(&own), "{name}: {off:?}, nudged weights make {own:?}");

    // Of parameters only the network's last are trained, or all: as many as there are moments.
    let begin = &before.tensors[params];
    let frozen = begin.len() - got.tensors[m].len();
    let freezes = ["fine_tune", "classifier"].contains(&want.run.as_str());
    assert_eq!(frozen > 0, freezes, "{name}: whether something is frozen");
    let same =
        got.tensors[params][..frozen].iter().zip(begin).all(|(after, before)| after.to_bits() == before.to_bits());
    assert!(same, "{name}: what is frozen");
    // Every update is the one that the device's own moments call for, but for the rounding of the new weight and of the
    // seven numbers before it, and one to spare. Beside the CPU's it cannot be held: where a gradient is nearly 0, rounding
    // has its sign.
    let t = want.step as i32;
    let rate = want.learning_rate * (1.0 - 0.999f64.powi(t)).sqrt() / (1.0 - 0.9f64.powi(t));
    let asked = wide(&got.tensors[m]).zip(wide(&got.tensors[v])).map(|(m, v)| -rate * m / (v.sqrt() + 1e-7));
    let trained = wide(&got.tensors[params][frozen..]).zip(wide(&begin[frozen..]));
    let roundings = trained.zip(asked).map(|((after, before), asked)| {
        let error = (after - before - asked).abs();
        if error == 0.0 { 0.0 } else { error / ((after.abs() + 8.0 * asked.abs()) * 0.5f64.powi(24)) }
    });
    let worst = roundings.fold(0.0, worse);
    println!("{name}: update off by {worst:.2} of its rounding");
    assert!(worst <= 1.0, "{name}: update off by {worst} of its rounding");
    if want.tensors.contains_key("swa/average") {
        // An average is not further off than what it is of.
        let [average, of] = ["swa/average", params].map(|name| apart(got, name));
        assert!(average <= of + 1e-7, "{name}: the average is off by {average}, the parameters by {of}");
    }
}
