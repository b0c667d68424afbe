//! Consistency training: a student that sees noisy images matches a teacher that sees them clean.
//!
//! 1. `teacher`: cross-entropy on clean images (flip, resize, random crop), weights averaged (SWA).
//! 2. `student`: half cross-entropy, half KL divergence to the teacher's softened answers. Its images also go through
//!    the model garden's RandAugment; the teacher, fixed and in inference mode, sees another flip and crop of the
//!    same picture.
//!
//! Both are then scored on the clean test images and on CIFAR-10-C.
//!
//! Source: Keras example "Consistency training with supervision", after Xie et al.: "Self-training with noisy student
//! improves ImageNet classification" (2020).

use super::report::{augmented, results};
use super::{Recipe, Report, Sources, classifier, cross_entropy_step, load_cifar, plan, resize, scaled, score};
use super::{check_limits, check_positive, check_range, check_size, corrupted, evaluation_batch, to_value};
use crate::augment::{Pipeline, RandAugment, Step};
use crate::data::{Cifar10, ImageSet, Pairing, Shuffle};
use crate::nn::{Forward, KerasVersion, Params};
use crate::optim::{Adam, AdamConfig, Swa};
use crate::train::{
    Batch, CorruptionSource, EarlyStopping, Fit, Loader, Monitor, ReduceLrOnPlateau, RunRecord, Session, StepOutput,
    evaluate, fit, robustness,
};
use crate::{Error, Result, ops};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The procedure's constants; the defaults are the document's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Epochs of the teacher.
    pub teacher_epochs: u32,
    /// Epochs of the student.
    pub student_epochs: u32,
    /// Images per step.
    pub batch_size: usize,
    /// Rows and columns that the network sees. Training images are resized to 96/72 of it and cropped.
    pub image_size: usize,
    /// Learning rate of Adam.
    pub learning_rate: f64,
    /// Items in the shuffle's reservoir.
    pub shuffle_buffer: usize,
    /// Step of the teacher's first SWA snapshot.
    pub swa_start: u64,
    /// Steps between snapshots.
    pub swa_period: u64,
    /// Epochs without improvement before the learning rate falls.
    pub reduce_lr_patience: u32,
    /// What the teacher's learning rate is then multiplied by; monitored: validation loss.
    pub teacher_lr_factor: f64,
    /// What the student's learning rate is then multiplied by; monitored: validation accuracy.
    pub student_lr_factor: f64,
    /// Epochs without improvement before training stops.
    pub early_stopping_patience: u32,
    /// Temperature T of the softened answers.
    pub temperature: f64,
    /// RandAugment: ops per image, N.
    pub num_layers: usize,
    /// RandAugment: strength on 0..10, M.
    pub magnitude: f64,
    /// Share of the training images that validates, from the end: 500 of CIFAR-10's 50,000.
    pub validation_fraction: f64,
    /// Ends each run after so many steps.
    pub max_steps: Option<u64>,
    /// Uses at most so many training images, spread over the classes.
    pub limit_train: Option<usize>,
    /// Uses at most so many test images, spread over the classes.
    pub limit_test: Option<usize>,
    /// Uses at most so many images of every corruption and severity.
    pub limit_corrupted: Option<usize>,
    /// Does what the printed program does: teacher and student see different pictures, the SWA average is never used,
    /// the first validation image is trained on too, and batch-norm statistics are never recomputed.
    pub exact: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            teacher_epochs: 5,
            student_epochs: 5,
            batch_size: 128,
            image_size: 72,
            learning_rate: 1e-3,
            shuffle_buffer: 1280,
            swa_start: 0,
            swa_period: 10,
            reduce_lr_patience: 3,
            teacher_lr_factor: 0.1,
            student_lr_factor: 0.5,
            early_stopping_patience: 10,
            temperature: 10.0,
            num_layers: 2,
            magnitude: 9.0,
            validation_fraction: 0.01,
            max_steps: None,
            limit_train: None,
            limit_test: None,
            limit_corrupted: None,
            exact: false,
        }
    }
}

/// The images of the procedure.
pub struct Data {
    train: ImageSet,
    validation: ImageSet,
    test: ImageSet,
    corrupted: CorruptionSource,
}

impl Config {
    /// Size before the random crop.
    fn resized(&self) -> usize {
        (self.image_size as f64 * 96.0 / 72.0).round() as usize
    }

    /// What both networks train on before RandAugment.
    fn clean(&self) -> Result<Pipeline> {
        let crop = Step::RandomCrop { height: self.image_size, width: self.image_size };
        Pipeline::new(vec![Step::RandomFlip, resize(self.resized()), crop])
    }

    fn noisy(&self) -> Result<Pipeline> {
        let mut steps = self.clean()?.steps().to_vec();
        steps.push(Step::RandAugment(RandAugment {
            num_layers: self.num_layers,
            magnitude: self.magnitude,
            ..Default::default()
        }));
        Pipeline::new(steps)
    }

    fn adam(&self) -> AdamConfig {
        AdamConfig { learning_rate: self.learning_rate as f32, ..Default::default() }
    }
}

impl Recipe for Config {
    const PROCEDURE: &'static str = "consistency";
    const CORRUPTED: bool = true;
    type Data = Data;

    fn reduced() -> Self {
        Config {
            teacher_epochs: 6,
            student_epochs: 7,
            batch_size: 32,
            image_size: 32,
            // RandAugment's pixel constants are made for larger images: at 32 px two ops at magnitude 9 often leave
            // nothing to recognise (a cutout of up to 72x72), and a student of a few hundred steps learns little.
            num_layers: 1,
            magnitude: 3.0,
            learning_rate: 5e-4,
            // Averaging from the first step on would weigh the untrained weights as much as the last ones.
            swa_start: 140,
            swa_period: 5,
            validation_fraction: 0.1,
            limit_corrupted: Some(50),
            ..Default::default()
        }
    }

    fn check(&self) -> Result<()> {
        check_positive(&[
            ("teacher_epochs", f64::from(self.teacher_epochs)),
            ("student_epochs", f64::from(self.student_epochs)),
            ("batch_size", self.batch_size as f64),
            ("learning_rate", self.learning_rate),
            ("shuffle_buffer", self.shuffle_buffer as f64),
            ("swa_period", self.swa_period as f64),
            ("reduce_lr_patience", f64::from(self.reduce_lr_patience)),
            ("early_stopping_patience", f64::from(self.early_stopping_patience)),
            ("temperature", self.temperature),
        ])?;
        check_size("image_size", self.image_size)?;
        check_range("validation_fraction", self.validation_fraction, (1e-6, 0.9))?;
        check_limits(&[
            ("max_steps", self.max_steps),
            ("limit_train", self.limit_train.map(|n| n as u64)),
            ("limit_test", self.limit_test.map(|n| n as u64)),
            ("limit_corrupted", self.limit_corrupted.map(|n| n as u64)),
        ])?;
        ReduceLrOnPlateau::new(Monitor::Min, self.teacher_lr_factor, 1)?;
        ReduceLrOnPlateau::new(Monitor::Max, self.student_lr_factor, 1)?;
        self.noisy().map(|_| ())
    }

    fn load(&self, sources: &Sources, seed: u64) -> Result<Data> {
        self.check()?;
        let Cifar10 { train: all, test } = load_cifar(sources, self.limit_train, self.limit_test)?;
        let held_out = ((all.len() as f64 * self.validation_fraction).round() as usize).max(1);
        let first = all.len().saturating_sub(held_out);
        // The printed program trains on the first validation image as well.
        let trained = first + usize::from(self.exact);
        if trained == 0 {
            return Err(Error::argument(
                "validation_fraction",
                "a share that leaves an image to train on",
                format_args!("{held_out} of {} images", all.len()),
                "use more images (--limit-train) or a smaller share",
            ));
        }
        let train = all.slice(0..trained)?;
        let validation = all.slice(first..all.len())?;
        plan(&train, self.batch_size, Shuffle::Window(self.shuffle_buffer), seed)?;
        let limit = [self.limit_corrupted, self.limit_test].into_iter().flatten().min();
        let corrupted = corrupted(sources, &test, limit)?;
        Ok(Data { train, validation, test, corrupted })
    }

    fn run(&self, session: &mut Session, data: &Data) -> Result<Report> {
        let (device, seed) = (session.device().clone(), session.seed());
        let plan = plan(&data.train, self.batch_size, Shuffle::Window(self.shuffle_buffer), seed)?;
        let (clean, noisy, plain) = (self.clean()?, self.noisy()?, Pipeline::new(vec![resize(self.image_size)])?);
        session.check_data(&[("training", &data.train), ("validation", &data.validation), ("test", &data.test)])?;
        augmented(session, &data.train, self.image_size, &[("clean", &clean), ("noisy", &noisy)])?;
        let classes = data.train.classes();
        let size = self.image_size;

        let (net, mut teacher) = classifier(&device, classes, seed)?;
        let forward = scaled(&net);
        let loader = Loader::new(&device, data.train.clone(), plan, clean.clone(), seed);
        let cross_entropy = |pass: &Forward, batch: &Batch| cross_entropy_step(&forward, pass, batch);
        let validate = |session: &Session, params: &_| {
            evaluate(session, params, &forward, &data.validation, &plain, evaluation_batch(size))
        };
        let finish = |session: &mut Session, params: &Params, record: &mut RunRecord| {
            score(session, params, &forward, (&data.test, &plain), size, record)?;
            let batch = evaluation_batch(size);
            let result = robustness::evaluate(session, params, &forward, &data.corrupted, &plain, batch, None)?;
            result.write(session.folder(), &format!("robustness_{}", record.name))?;
            record.extra.insert("corrupted_mean_accuracy".into(), json!(result.mean_all));
            record.extra.insert("corrupted_severity_5_accuracy".into(), json!(result.mean_severity_5));
            record.extra.insert("robustness".into(), to_value(&result)?);
            Ok(())
        };
        let stopping = |monitor| EarlyStopping::new(monitor, self.early_stopping_patience, true);
        let plateau = |monitor, factor| ReduceLrOnPlateau::new(monitor, factor, self.reduce_lr_patience);

        let adam = Adam::new(&teacher, self.adam())?;
        let mut run = Fit::new("teacher", &teacher, &loader, &forward, &cross_entropy, adam, self.teacher_epochs);
        run.keras = KerasVersion::V2;
        run.max_steps = self.max_steps;
        run.swa = Some(Swa::new(&teacher, self.swa_start, self.swa_period)?);
        run.assign_swa = !self.exact;
        run.recompute_short = !self.exact;
        run.reduce_lr = Some(("val_loss", plateau(Monitor::Min, self.teacher_lr_factor)?));
        run.early_stopping = Some(("val_loss", stopping(Monitor::Min)));
        run.validate = Some(&validate);
        run.finish = Some(&finish);
        fit(session, run)?;

        // The teacher only answers from here on.
        teacher.set_trainable(|_| false)?;
        let (_, student) = classifier(&device, classes, seed.wrapping_add(1))?;
        let pairing = match self.exact {
            true => Pairing::Mispaired { clean_passes_ahead: u64::from(self.teacher_epochs) },
            false => Pairing::Paired,
        };
        let loader = Loader::paired(&device, data.train.clone(), plan, [clean, noisy], pairing, seed);
        let distill = |pass: &Forward, batch: &Batch| {
            let answers = {
                let pass = Forward::inference(&teacher);
                forward(&pass, &pass.tape.constant(batch.images[0].clone()))?.into_tensor()
            };
            let logits = forward(pass, &pass.tape.constant(batch.images[1].clone()))?;
            let hard = ops::cross_entropy(&logits, &batch.labels)?;
            let soft = ops::softmax_kl(&answers, &logits, self.temperature as f32)?;
            Ok(StepOutput { loss: ops::scale(&ops::add(&hard, &soft)?, 0.5)?, logits: Some(logits) })
        };
        let adam = Adam::new(&student, self.adam())?;
        let mut run = Fit::new("student", &student, &loader, &forward, &distill, adam, self.student_epochs);
        run.keras = KerasVersion::V2;
        run.max_steps = self.max_steps;
        run.recompute_short = !self.exact;
        run.reduce_lr = Some(("val_accuracy", plateau(Monitor::Max, self.student_lr_factor)?));
        run.early_stopping = Some(("val_accuracy", stopping(Monitor::Max)));
        run.validate = Some(&validate);
        run.finish = Some(&finish);
        fit(session, run)?;

        let report = Report::new::<Self>(session, results([]));
        report.write(session.folder())?;
        Ok(report)
    }
}
