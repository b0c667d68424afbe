//! RandAugment: the same network from the same initial weights, once with plain augmentation (flip, small rotation,
//! zoom) and once with keras_cv's RandAugment.
//!
//! Both are scored on the clean test images and on the corruption `saturate` at severity 5.
//!
//! Source: Keras example "RandAugment for image classification for improved robustness", after Cubuk et al.:
//! "RandAugment: practical automated data augmentation with a reduced search space" (2019).

use super::report::{augmented, results};
use super::{Recipe, Report, Sources, classifier, cross_entropy_step, load_cifar, plan, resize, scaled, score};
use super::{check_limits, check_positive, check_range, check_size, corrupted, evaluation_batch};
use crate::Result;
use crate::augment::{KerasRandAugment, Pipeline, Step};
use crate::data::{Cifar10, ImageSet, Shuffle};
use crate::nn::{Forward, KerasVersion, Params};
use crate::optim::{Adam, AdamConfig};
use crate::train::{Batch, CorruptionSource, Fit, Loader, RunRecord, Session, fit, robustness};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The procedure's constants; the defaults are the document's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Epochs of either run.
    pub epochs: u32,
    /// Images per step.
    pub batch_size: usize,
    /// Rows and columns that images are resized to.
    pub image_size: usize,
    /// Learning rate of Adam.
    pub learning_rate: f64,
    /// Items in the shuffle's reservoir.
    pub shuffle_buffer: usize,
    /// Plain augmentation: largest rotation as a share of a full turn.
    pub rotation: f64,
    /// Plain augmentation: largest change of height and width.
    pub zoom: f64,
    /// RandAugment: ops per image.
    pub augmentations_per_image: usize,
    /// RandAugment: strength on 0..1.
    pub magnitude: f64,
    /// Ends each run after so many steps.
    pub max_steps: Option<u64>,
    /// Uses at most so many training images, spread over the classes.
    pub limit_train: Option<usize>,
    /// Uses at most so many test images, spread over the classes.
    pub limit_test: Option<usize>,
    /// Does what the printed program does: training images are truncated to integers after the resize, test images
    /// are not, and batch-norm statistics are never recomputed.
    pub exact: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            epochs: 1,
            batch_size: 128,
            image_size: 72,
            learning_rate: 1e-3,
            shuffle_buffer: 12_800,
            rotation: 0.02,
            zoom: 0.2,
            augmentations_per_image: 3,
            magnitude: 0.8,
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
    test: ImageSet,
    corrupted: CorruptionSource,
}

/// The one corruption that the document looks at.
const SATURATE_5: [(&str, usize); 1] = [("saturate", 5)];

impl Config {
    /// The plain pipeline and RandAugment's.
    fn pipelines(&self) -> Result<[Pipeline; 2]> {
        let mut start = vec![resize(self.image_size)];
        if self.exact {
            start.push(Step::Truncate);
        }
        let zoom = self.zoom as f32;
        let simple = [
            Step::RandomFlip,
            Step::RandomRotation { factor: self.rotation as f32 },
            Step::RandomZoom { height_factor: zoom, width_factor: zoom },
        ];
        let rand_augment = Step::KerasRandAugment(KerasRandAugment {
            augmentations_per_image: self.augmentations_per_image,
            magnitude: self.magnitude as f32,
            ..Default::default()
        });
        let with = |steps: &[Step]| Pipeline::new([&start, steps].concat());
        Ok([with(&simple)?, with(&[rand_augment])?])
    }
}

impl Recipe for Config {
    const PROCEDURE: &'static str = "randaugment";
    const CORRUPTED: bool = true;
    type Data = Data;

    fn reduced() -> Self {
        // One op per image at half strength, and half the learning rate: at the document's constants a network sees
        // too little of 1,200 small images in so few steps.
        Config {
            epochs: 10,
            batch_size: 32,
            image_size: 32,
            learning_rate: 5e-4,
            augmentations_per_image: 1,
            magnitude: 0.5,
            ..Default::default()
        }
    }

    fn check(&self) -> Result<()> {
        check_positive(&[
            ("epochs", f64::from(self.epochs)),
            ("batch_size", self.batch_size as f64),
            ("learning_rate", self.learning_rate),
            ("shuffle_buffer", self.shuffle_buffer as f64),
        ])?;
        check_size("image_size", self.image_size)?;
        check_range("magnitude", self.magnitude, (0.0, 1.0))?;
        check_limits(&[
            ("max_steps", self.max_steps),
            ("limit_train", self.limit_train.map(|n| n as u64)),
            ("limit_test", self.limit_test.map(|n| n as u64)),
        ])?;
        self.pipelines().map(|_| ())
    }

    fn load(&self, sources: &Sources, seed: u64) -> Result<Data> {
        self.check()?;
        let Cifar10 { train, test } = load_cifar(sources, self.limit_train, self.limit_test)?;
        plan(&train, self.batch_size, Shuffle::Window(self.shuffle_buffer), seed)?;
        let corrupted = corrupted(sources, &test, self.limit_test)?;
        Ok(Data { train, test, corrupted })
    }

    fn run(&self, session: &mut Session, data: &Data) -> Result<Report> {
        let (device, seed) = (session.device().clone(), session.seed());
        let plan = plan(&data.train, self.batch_size, Shuffle::Window(self.shuffle_buffer), seed)?;
        session.check_data(&[("training", &data.train), ("test", &data.test)])?;
        let plain = Pipeline::new(vec![resize(self.image_size)])?;
        let [simple, rand_augment] = self.pipelines()?;
        let rows = [("simple", &simple), ("RandAugment", &rand_augment)];
        augmented(session, &data.train, self.image_size, &rows)?;

        for (name, pipeline) in [("simple", simple), ("rand_augment", rand_augment)] {
            // The same seed gives the same initial weights, and the same order of images.
            let (net, params) = classifier(&device, data.train.classes(), seed)?;
            let forward = scaled(&net);
            let loader = Loader::new(&device, data.train.clone(), plan, pipeline, seed);
            let loss = |pass: &Forward, batch: &Batch| cross_entropy_step(&forward, pass, batch);
            let finish = |session: &mut Session, params: &Params, record: &mut RunRecord| {
                score(session, params, &forward, (&data.test, &plain), self.image_size, record)?;
                let batch = evaluation_batch(self.image_size);
                let only = Some(&SATURATE_5[..]);
                let result = robustness::evaluate(session, params, &forward, &data.corrupted, &plain, batch, only)?;
                record.extra.insert("saturate_5_accuracy".into(), json!(result.mean_all));
                record.extra.insert("saturate_5_source".into(), json!(result.source));
                Ok(())
            };
            let adam = AdamConfig { learning_rate: self.learning_rate as f32, ..Default::default() };
            let adam = Adam::new(&params, adam)?;
            let mut run = Fit::new(name, &params, &loader, &forward, &loss, adam, self.epochs);
            run.keras = KerasVersion::V3;
            run.max_steps = self.max_steps;
            run.recompute_short = !self.exact;
            run.finish = Some(&finish);
            fit(session, run)?;
        }
        let report = Report::new::<Self>(session, results([]));
        report.write(session.folder())?;
        Ok(report)
    }
}
