//! A model small enough to train hundreds of steps in a test, on pictures it can learn.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use warpsmith::augment::{Pipeline, Step};
use warpsmith::autograd::Var;
use warpsmith::data::{Batches, ImageSet, Shuffle, synthetic};
use warpsmith::nn::{BatchNorm, Conv2d, Dense, Forward, KerasVersion, Params, ParamsBuilder};
use warpsmith::optim::{Adam, AdamConfig, Swa};
use warpsmith::problem::Window;
use warpsmith::train::{
    Batch, EarlyStopping, EpochRecord, Evaluation, Fit, Loader, Observer, ReduceLrOnPlateau, RunRecord, Session,
    StepOutput, StepReport, StopFlag, evaluate, fit,
};
use warpsmith::{Device, Result, ops};

/// Images, and how many of them form a batch: 6 steps an epoch.
pub const IMAGES: usize = 44;
pub const BATCH: usize = 8;
pub const STEPS: u64 = 6;
const CLASSES: usize = 4;

pub struct Tiny {
    conv: Conv2d,
    bn: BatchNorm,
    dense: Dense,
}

impl Tiny {
    pub fn new(device: &Device, units: usize) -> (Tiny, Params) {
        let mut builder = ParamsBuilder::new();
        let tiny = Tiny {
            conv: Conv2d::new(&mut builder, "conv", units, [3; 2], 3, Window::square(1, 2), false),
            bn: BatchNorm::new(&mut builder, "bn", units, 1e-3, 0.99),
            dense: Dense::new(&mut builder, "dense", CLASSES, units),
        };
        let params = builder.build(device, 3).unwrap();
        (tiny, params)
    }

    pub fn forward(&self, pass: &Forward, images: &Var) -> Result<Var> {
        let x = self.conv.forward(pass, &ops::rescale(images, 1.0 / 127.5, -1.0)?, None)?;
        let x = ops::global_avg_pool(&self.bn.forward(pass, &x, Some("relu"))?)?;
        self.dense.forward(pass, &pass.dropout(&x, 0.2, 0)?)
    }
}

pub fn images() -> ImageSet {
    synthetic::images(IMAGES, CLASSES, 12, 12, 5).unwrap()
}

/// A validation that returns these accuracies one after the other, with 1 - accuracy as its loss.
pub type Script = Rc<[f64]>;

/// What a run does apart from the plain three epochs.
#[derive(Clone)]
pub struct Setup {
    pub epochs: u32,
    pub max_steps: Option<u64>,
    pub units: usize,
    pub keras: KerasVersion,
    pub recompute_short: bool,
    pub swa: Option<(u64, u64)>,
    pub assign_swa: bool,
    pub reduce_lr: Option<(&'static str, ReduceLrOnPlateau)>,
    pub early_stopping: Option<(&'static str, EarlyStopping)>,
    /// Validates on these instead of on the images.
    pub script: Option<Script>,
    pub validates: bool,
    /// From this step on the loss is NaN.
    pub nan_from: Option<u64>,
    /// Raises the flag after so many steps of the session.
    pub stop_after_steps: Option<u64>,
    /// Raises the flag in the validation of this number, counted from 1.
    pub stop_in_validation: Option<usize>,
    /// Raises the flag while the finished run is scored.
    pub stop_in_finish: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            epochs: 3,
            max_steps: None,
            units: 8,
            keras: KerasVersion::V3,
            recompute_short: true,
            swa: None,
            assign_swa: true,
            reduce_lr: None,
            early_stopping: None,
            script: None,
            validates: true,
            nan_from: None,
            stop_after_steps: None,
            stop_in_validation: None,
            stop_in_finish: false,
        }
    }
}

/// What a run leaves: its record without timings, the final arenas, and the arenas at each validation.
#[derive(Debug, PartialEq)]
pub struct Trained {
    pub record: RunRecord,
    pub values: Vec<f32>,
    pub stats: Vec<f32>,
    pub validated: Vec<Vec<f32>>,
    pub steps_seen: u64,
}

struct Counter {
    steps: Rc<Cell<u64>>,
    stop: StopFlag,
    stop_after: Option<u64>,
}

impl Observer for Counter {
    fn step(&mut self, _: &StepReport) {
        self.steps.set(self.steps.get() + 1);
        if Some(self.steps.get()) == self.stop_after {
            self.stop.stop();
        }
    }
    fn epoch(&mut self, _: &str, _: u32, _: &EpochRecord) {}
    fn message(&mut self, _: &str) {}
}

/// Trains run `name` of the session.
pub fn train(session: &mut Session, name: &str, setup: &Setup) -> Result<Trained> {
    let device = session.device().clone();
    let steps_seen = Rc::new(Cell::new(0));
    let stop = StopFlag::new();
    session.stop = stop.clone();
    session.observer =
        Box::new(Counter { steps: steps_seen.clone(), stop: stop.clone(), stop_after: setup.stop_after_steps });
    let (tiny, params) = Tiny::new(&device, setup.units);
    let set = images();
    let plan = Batches::new(set.len(), BATCH)?.shuffle(Shuffle::Full)?.seed(9);
    let pipeline = Pipeline::new(vec![Step::RandomFlip, Step::RandomCrop { height: 10, width: 10 }])?;
    let plain = Pipeline::new(vec![Step::CenterCrop { height: 10, width: 10 }])?;
    let loader = Loader::new(&device, set.clone(), plan, pipeline, 9);
    let forward = |pass: &Forward, images: &Var| tiny.forward(pass, images);
    let taken = Cell::new(0);
    let loss = |pass: &Forward, batch: &Batch| {
        let logits = forward(pass, &pass.tape.constant(batch.images[0].clone()))?;
        let loss = ops::cross_entropy(&logits, &batch.labels)?;
        taken.set(taken.get() + 1);
        let nan = setup.nan_from.is_some_and(|first| taken.get() > first);
        let loss = if nan { ops::scale(&loss, f32::NAN)? } else { loss };
        Ok(StepOutput { loss, logits: Some(logits) })
    };
    let validated = RefCell::new(Vec::new());
    let validate = |session: &Session, params: &Params| {
        validated.borrow_mut().push(params.values().to_vec::<f32>()?);
        if Some(validated.borrow().len()) == setup.stop_in_validation {
            stop.stop();
        }
        match &setup.script {
            Some(script) => {
                let accuracy = script[validated.borrow().len() - 1];
                Ok(Evaluation { loss: 1.0 - accuracy, accuracy, images: 1 })
            }
            None => evaluate(session, params, &forward, &set, &plain, 16),
        }
    };
    let finish = |session: &mut Session, params: &Params, record: &mut RunRecord| {
        if setup.stop_in_finish {
            stop.stop();
        }
        record.test_accuracy = Some(evaluate(session, params, &forward, &set, &plain, 16)?.accuracy);
        Ok(())
    };
    let adam = Adam::new(&params, AdamConfig { learning_rate: 0.02, ..Default::default() })?;
    let mut run = Fit::new(name, &params, &loader, &forward, &loss, adam, setup.epochs);
    run.max_steps = setup.max_steps;
    run.keras = setup.keras;
    run.swa = setup.swa.map(|(start, period)| Swa::new(&params, start, period)).transpose()?;
    run.assign_swa = setup.assign_swa;
    run.recompute_short = setup.recompute_short;
    run.reduce_lr = setup.reduce_lr.clone();
    run.early_stopping = setup.early_stopping.clone();
    run.validate = if setup.validates { Some(&validate) } else { None };
    run.finish = Some(&finish);
    let mut record = fit(session, run)?;
    for epoch in &mut record.history {
        (epoch.seconds, epoch.images_per_second) = (0.0, 0.0);
    }
    let (values, stats) = (params.values().to_vec()?, params.stats().to_vec()?);
    let validated = validated.take();
    Ok(Trained { record, values, stats, validated, steps_seen: steps_seen.get() })
}

pub fn new_session(folder: &Path, threads: usize) -> Session {
    let device = Device::cpu_with_threads(threads).unwrap();
    Session::create(folder, &device, "tiny", 11, serde_json::json!({})).unwrap()
}

pub fn resumed(folder: &Path, threads: usize) -> Session {
    Session::resume(folder, &Device::cpu_with_threads(threads).unwrap(), "tiny").unwrap()
}
