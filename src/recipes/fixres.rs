//! FixRes: networks see objects larger in training (random crops) than in testing; a few epochs of the last layers at
//! the test size make up for it.
//!
//! 1. `small`: from scratch on random crops at the training size.
//! 2. `fine_tune`: the same network at the test size, the last batch norm and the classifier alone, on test-like
//!    images: resized, flipped, cropped in the centre.
//! 3. `vanilla`: from scratch on random crops at the test size, for comparison.
//!
//! Each is scored on the validation images in its own way: `small` and `vanilla` resize to their size, `fine_tune`
//! resizes and crops the centre.
//!
//! Source: Keras example "FixRes: fixing train-test resolution discrepancy", after Touvron et al.: "Fixing the
//! train-test resolution discrepancy" (2019).

use super::report::{augmented, results};
use super::{Recipe, Report, Sources, classifier, cross_entropy_step, limited, resize, scaled, score};
use super::{check_limits, check_positive, check_range, check_size, evaluation_batch};
use crate::augment::{DistortedBox, Pipeline, Step};
use crate::data::{Batches, ImageFolder, ImageSet, Shuffle, ShuffleUnit, Split, bundled};
use crate::nn::{Forward, KerasVersion, Params};
use crate::optim::{Adam, AdamConfig};
use crate::train::{Batch, Fit, ForwardFn, Loader, Session, evaluate, fit};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// The procedure's constants; the defaults are the document's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Epochs at the training size.
    pub small_epochs: u32,
    /// Epochs of fine-tuning at the test size.
    pub fine_tune_epochs: u32,
    /// Epochs from scratch at the test size.
    pub vanilla_epochs: u32,
    /// Images per step.
    pub batch_size: usize,
    /// Training size, train_res.
    pub image_size: usize,
    /// Test size, test_res.
    pub test_size: usize,
    /// Learning rate of Adam from scratch.
    pub learning_rate: f64,
    /// Learning rate of Adam in fine-tuning.
    pub fine_tune_learning_rate: f64,
    /// Smallest share of an image's area that a random crop keeps.
    pub crop_area_min: f64,
    /// Share of the images that validates: 367 of tf_flowers' 3,670.
    pub validation_fraction: f64,
    /// Ends each run after so many steps.
    pub max_steps: Option<u64>,
    /// Uses at most so many training images, spread over the classes.
    pub limit_train: Option<usize>,
    /// Uses at most so many validation images, spread over the classes.
    pub limit_test: Option<usize>,
    /// Does what the printed program does: whole batches are shuffled, in a reservoir of ten times the batch size,
    /// instead of images, and batch-norm statistics are never recomputed.
    pub exact: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            small_epochs: 30,
            fine_tune_epochs: 10,
            vanilla_epochs: 30,
            batch_size: 32,
            image_size: 128,
            test_size: 224,
            learning_rate: 1e-3,
            fine_tune_learning_rate: 1e-4,
            crop_area_min: 0.05,
            validation_fraction: 0.1,
            max_steps: None,
            limit_train: None,
            limit_test: None,
            exact: false,
        }
    }
}

/// The images of the procedure.
pub struct Data {
    train: ImageSet,
    validation: ImageSet,
}

/// One of the three ways of training and testing.
struct Plan<'a> {
    name: &'a str,
    size: usize,
    epochs: u32,
    learning_rate: f64,
    augmentation: Pipeline,
    /// What the validation images go through.
    plain: Pipeline,
}

impl Config {
    fn plans(&self) -> Result<[Plan<'static>; 3]> {
        let scratch = |name, size, epochs| {
            let crop = DistortedBox { area: (self.crop_area_min as f32, 1.0), ..Default::default() };
            Ok::<_, Error>(Plan {
                name,
                size,
                epochs,
                learning_rate: self.learning_rate,
                augmentation: Pipeline::new(vec![Step::DistortedBoxCrop(crop), resize(size), Step::RandomFlip])?,
                plain: Pipeline::new(vec![resize(size)])?,
            })
        };
        let size = self.test_size;
        // The aspect ratio is not kept.
        let larger = resize((size as f64 / self.image_size as f64 * size as f64) as usize);
        let crop = Step::CenterCrop { height: size, width: size };
        let fine_tune = Plan {
            name: "fine_tune",
            size,
            epochs: self.fine_tune_epochs,
            learning_rate: self.fine_tune_learning_rate,
            augmentation: Pipeline::new(vec![larger, Step::RandomFlip, crop])?,
            plain: Pipeline::new(vec![larger, crop])?,
        };
        Ok([
            scratch("small", self.image_size, self.small_epochs)?,
            fine_tune,
            scratch("vanilla", size, self.vanilla_epochs)?,
        ])
    }

    fn batches(&self, set: &ImageSet, seed: u64) -> Result<Batches> {
        let batches = Batches::new(set.len(), self.batch_size)?.seed(seed);
        match self.exact {
            true => Ok(batches.shuffle(Shuffle::Window(10 * self.batch_size))?.unit(ShuffleUnit::Batches)),
            false => batches.shuffle(Shuffle::Full),
        }
    }

    /// Trains and scores one of the runs; the trainable set is decided.
    fn train(&self, session: &mut Session, data: &Data, plan: &Plan, model: (&ForwardFn, &Params)) -> Result<()> {
        let (device, seed) = (session.device().clone(), session.seed());
        let (forward, params) = model;
        let batches = self.batches(&data.train, seed)?;
        let loader = Loader::new(&device, data.train.clone(), batches, plan.augmentation.clone(), seed);
        let loss = |pass: &Forward, batch: &Batch| cross_entropy_step(forward, pass, batch);
        let validate = |session: &Session, params: &Params| {
            evaluate(session, params, forward, &data.validation, &plan.plain, evaluation_batch(plan.size))
        };
        let finish = |session: &mut Session, params: &Params, record: &mut _| {
            score(session, params, forward, (&data.validation, &plan.plain), plan.size, record)
        };
        let adam = AdamConfig { learning_rate: plan.learning_rate as f32, ..Default::default() };
        let mut run = Fit::new(plan.name, params, &loader, forward, &loss, Adam::new(params, adam)?, plan.epochs);
        run.keras = KerasVersion::V3;
        run.max_steps = self.max_steps;
        run.recompute_short = !self.exact;
        run.validate = Some(&validate);
        run.finish = Some(&finish);
        fit(session, run).map(|_| ())
    }
}

impl Recipe for Config {
    const PROCEDURE: &'static str = "fixres";
    const CORRUPTED: bool = false;
    type Data = Data;

    fn reduced() -> Self {
        Config {
            small_epochs: 10,
            fine_tune_epochs: 4,
            vanilla_epochs: 7,
            batch_size: 16,
            image_size: 64,
            test_size: 112,
            crop_area_min: 0.3,
            validation_fraction: 0.25,
            ..Default::default()
        }
    }

    fn check(&self) -> Result<()> {
        check_positive(&[
            ("small_epochs", f64::from(self.small_epochs)),
            ("fine_tune_epochs", f64::from(self.fine_tune_epochs)),
            ("vanilla_epochs", f64::from(self.vanilla_epochs)),
            ("batch_size", self.batch_size as f64),
            ("learning_rate", self.learning_rate),
            ("fine_tune_learning_rate", self.fine_tune_learning_rate),
        ])?;
        check_size("image_size", self.image_size)?;
        check_size("test_size", self.test_size)?;
        check_range("crop_area_min", self.crop_area_min, (1e-3, 1.0))?;
        check_range("validation_fraction", self.validation_fraction, (1e-6, 0.9))?;
        check_limits(&[
            ("max_steps", self.max_steps),
            ("limit_train", self.limit_train.map(|n| n as u64)),
            ("limit_test", self.limit_test.map(|n| n as u64)),
        ])?;
        self.plans().map(|_| ())
    }

    fn load(&self, sources: &Sources, seed: u64) -> Result<Data> {
        self.check()?;
        let folder = match &sources.data {
            Some(dir) => ImageFolder::scan(dir)?,
            None => bundled::tf_flowers()?,
        };
        let (train, validation) = folder.split(Split::Fraction(self.validation_fraction), seed)?;
        let train = self.limit_train.map_or(Ok(train.clone()), |limit| train.take(limit))?.load()?;
        let validation = limited(validation.load()?, self.limit_test)?;
        self.batches(&train, seed)?;
        Ok(Data { train, validation })
    }

    fn run(&self, session: &mut Session, data: &Data) -> Result<Report> {
        let (device, seed) = (session.device().clone(), session.seed());
        session.check_data(&[("training", &data.train), ("validation", &data.validation)])?;
        let [small, fine_tune, vanilla] = self.plans()?;
        let rows = [("fine_tune", &fine_tune.augmentation), ("small, vanilla", &vanilla.augmentation)];
        augmented(session, &data.train, self.test_size, &rows)?;

        let (net, mut params) = classifier(&device, data.train.class_names().len(), seed)?;
        let forward = scaled(&net);
        self.train(session, data, &small, (&forward, &params))?;

        params.freeze("*")?;
        params.unfreeze("post_bn")?;
        params.unfreeze("predictions")?;
        self.train(session, data, &fine_tune, (&forward, &params))?;
        drop(params);

        let (_, params) = classifier(&device, data.train.class_names().len(), seed)?;
        self.train(session, data, &vanilla, (&forward, &params))?;

        let report = Report::new::<Self>(session, results([]));
        report.write(session.folder())?;
        Ok(report)
    }
}
