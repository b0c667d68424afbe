//! The four procedures: each a documented config struct whose defaults are its document's constants, and a run that
//! does the document's whole comparison and leaves a report.
//!
//! | module | procedure | source |
//! |---|---|---|
//! | [`consistency`] | a student learns RandAugment-noised images from a teacher that sees them clean | Keras example "Consistency training with supervision" |
//! | [`randaugment`] | the same network with plain augmentation and with RandAugment | Keras example "RandAugment for image classification" |
//! | [`fixres`] | train small, fine-tune the last layers large, against large from scratch | Touvron et al.: "Fixing the train-test resolution discrepancy" (2019) |
//! | [`supcon`] | an encoder pretrained with a contrastive loss, against plain training | Khosla et al.: "Supervised contrastive learning" (2020) |
//!
//! Where a document's program does something else than its text, the text is followed; `exact` follows the program.
//!
//! # Example
//! ```no_run
//! use warpsmith::recipes::{self, Recipe, Sources, randaugment};
//! let recipe = randaugment::Config::reduced();
//! let data = recipe.load(&Sources::default(), 42)?;
//! let device = warpsmith::Device::cpu()?;
//! let mut session = recipes::start(&recipe, &Sources::default(), "runs/mine".as_ref(), &device, 42)?;
//! let report = recipe.run(&mut session, &data)?;
//! println!("{}", report.table());
//! # Ok::<(), warpsmith::Error>(())
//! ```

pub mod consistency;
pub mod fixres;
pub mod randaugment;
mod report;
pub mod supcon;

pub use report::Report;

use crate::augment::{Pipeline, Step};
use crate::autograd::Var;
use crate::data::{Batches, Cifar10, Cifar10C, ImageSet, Shuffle, bundled, cifar10};
use crate::device::Device;
use crate::nn::{Forward, Head, Params, ParamsBuilder, ResNet50V2};
use crate::train::{Batch, CorruptionSource, ForwardFn, RunRecord, Session, StepOutput, evaluate};
use crate::{Error, Result, ops};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A procedure: its constants, and how it loads its data and runs.
pub trait Recipe: Default + Serialize + DeserializeOwned {
    /// Name in reports and of the default output folder.
    const PROCEDURE: &'static str;
    /// Whether it scores under CIFAR-10-C's corruptions.
    const CORRUPTED: bool;
    /// What [`Recipe::load`] returns.
    type Data;

    /// A schedule for the bundled images: a few minutes on two cores.
    fn reduced() -> Self;

    /// Checks that every constant is in its domain.
    ///
    /// # Errors
    /// When one is not; the message names it.
    fn check(&self) -> Result<()>;

    /// Loads the data and checks that they and the constants fit together, before anything is written.
    ///
    /// # Errors
    /// When a constant is outside its domain, or the data are missing, damaged or too few.
    fn load(&self, sources: &Sources, seed: u64) -> Result<Self::Data>;

    /// Does the whole comparison, or what is left of it, and writes the report into the session's folder.
    ///
    /// # Errors
    /// What training returns; [`Error::Interrupted`] when asked to stop.
    fn run(&self, session: &mut Session, data: &Self::Data) -> Result<Report>;
}

/// Where the images come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// Folder of the data set; `None` = the bundled images.
    pub data: Option<PathBuf>,
    /// Folder of CIFAR-10-C; `None` = corruptions generated from the test images.
    pub cifar10_c: Option<PathBuf>,
}

/// What a session keeps of its start.
#[derive(Serialize, Deserialize)]
struct Stored<R> {
    recipe: R,
    sources: Sources,
}

/// A new session of a procedure in `folder`.
///
/// # Errors
/// When the folder cannot be written.
pub fn start<R: Recipe>(recipe: &R, sources: &Sources, folder: &Path, device: &Device, seed: u64) -> Result<Session> {
    let stored = serde_json::json!({ "recipe": to_value(recipe)?, "sources": to_value(sources)? });
    Session::create(folder, device, R::PROCEDURE, seed, stored)
}

/// The session in `folder` with the constants and sources it was started with.
///
/// # Errors
/// When the folder holds no checkpoint of this procedure, or a damaged one.
pub fn resume<R: Recipe>(folder: &Path, device: &Device) -> Result<(Session, R, Sources)> {
    let session = Session::resume(folder, device, R::PROCEDURE)?;
    let stored: Stored<R> = serde_json::from_value(session.config().clone()).map_err(|e| {
        Error::checkpoint(folder, "config", format_args!("one of {}", R::PROCEDURE), e, "resume with the same version")
    })?;
    Ok((session, stored.recipe, stored.sources))
}

fn to_value(value: &impl Serialize) -> Result<Value> {
    serde_json::to_value(value)
        .map_err(|e| Error::argument("recipe", "values that JSON can hold", e, "use numbers, texts and lists"))
}

/// Names of a config's fields.
///
/// # Errors
/// Never for the configs of this module.
pub fn field_names<R: Recipe>(recipe: &R) -> Result<Vec<String>> {
    let fields = to_value(recipe)?;
    Ok(fields.as_object().map(|fields| fields.keys().cloned().collect()).unwrap_or_default())
}

/// Sets one field of a config from `field=value`; the value is JSON, or a bare word where the field is a text.
///
/// # Errors
/// When there is no `=`, no such field (the message lists those that exist), or the value has the wrong type.
///
/// # Example
/// ```
/// use warpsmith::recipes::{consistency, set_field};
/// let mut config = consistency::Config::default();
/// set_field(&mut config, "temperature=4")?;
/// assert_eq!(config.temperature, 4.0);
/// assert!(set_field(&mut config, "temprature=4").unwrap_err().to_string().contains("temperature"));
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub fn set_field<R: Recipe>(recipe: &mut R, assignment: &str) -> Result<()> {
    let Some((name, text)) = assignment.split_once('=') else {
        return Err(Error::argument("--set", "field=value", format_args!("`{assignment}`"), "write it with one ="));
    };
    let mut fields = to_value(recipe)?;
    let known = field_names(recipe)?;
    if !known.iter().any(|field| field == name) {
        return Err(Error::argument(
            "--set",
            format_args!("a field of {}: {}", R::PROCEDURE, known.join(", ")),
            format_args!("`{name}`"),
            "choose one of them",
        ));
    }
    fields[name] = match text {
        "none" => Value::Null,
        _ => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)),
    };
    *recipe = serde_json::from_value(fields).map_err(|e| {
        let got = format!("`{text}` ({e})");
        Error::argument("--set", format_args!("a value that fits the field `{name}`"), got, "see the config's docs")
    })?;
    Ok(())
}

/// Fails for the first field that is not positive, or not in the range of the f32 that it is used as. Names are those
/// of the fields.
fn check_positive(fields: &[(&'static str, f64)]) -> Result<()> {
    match fields.iter().find(|(_, value)| !(*value as f32 > 0.0 && (*value as f32).is_finite())) {
        None => Ok(()),
        Some((name, value)) => {
            let hint = format!("set it with --set {name}=… or its flag");
            Err(Error::argument(name, "a positive number", value, hint))
        }
    }
}

/// Fails unless a share lies in its range, both ends included.
fn check_range(name: &'static str, value: f64, (low, high): (f64, f64)) -> Result<()> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    let hint = format!("set it with --set {name}=…");
    Err(Error::argument(name, format_args!("a number from {low} to {high}"), value, hint))
}

/// Fails for a size that ResNet50V2 does not take.
fn check_size(name: &'static str, size: usize) -> Result<()> {
    if (32..=4096).contains(&size) {
        return Ok(());
    }
    let flag = name.replace('_', "-");
    Err(Error::argument(name, "32 to 4096 pixels, as ResNet50V2 needs", size, format_args!("choose another --{flag}")))
}

/// Fails for limits of zero: `None` is no limit.
fn check_limits(limits: &[(&'static str, Option<u64>)]) -> Result<()> {
    let given: Vec<_> = limits.iter().filter_map(|&(name, limit)| Some((name, limit? as f64))).collect();
    check_positive(&given)
}

/// CIFAR-10 from the sources, at most so many images of each part.
fn load_cifar(sources: &Sources, limit_train: Option<usize>, limit_test: Option<usize>) -> Result<Cifar10> {
    let Cifar10 { train, test } = match &sources.data {
        Some(dir) => cifar10::load(dir)?,
        None => bundled::cifar10()?,
    };
    Ok(Cifar10 { train: limited(train, limit_train)?, test: limited(test, limit_test)? })
}

/// The corrupted test images: of the folder, or generated.
fn corrupted(sources: &Sources, test: &ImageSet, limit: Option<usize>) -> Result<CorruptionSource> {
    match (&sources.cifar10_c, limit) {
        (Some(dir), None) => Ok(CorruptionSource::Folder(Cifar10C::open(dir)?)),
        (Some(dir), Some(limit)) => CorruptionSource::Folder(Cifar10C::open(dir)?).limited(limit),
        (None, _) => Ok(CorruptionSource::Generated(limited(test.clone(), limit)?)),
    }
}

fn limited(set: ImageSet, limit: Option<usize>) -> Result<ImageSet> {
    limit.map_or_else(|| Ok(set.clone()), |limit| set.take(limit))
}

/// A shuffled plan; fails when a batch is larger than the data.
fn plan(set: &ImageSet, batch_size: usize, shuffle: Shuffle, seed: u64) -> Result<Batches> {
    Ok(Batches::new(set.len(), batch_size)?.shuffle(shuffle)?.seed(seed))
}

/// Images per evaluation batch: as much memory as 128 images of 72x72.
fn evaluation_batch(size: usize) -> usize {
    (128 * 72 * 72 / (size * size)).clamp(8, 256)
}

fn resize(size: usize) -> Step {
    Step::Resize { height: size, width: size }
}

/// ResNet50V2 with a dense head and its numbers, initialised from `seed`.
fn classifier(device: &Device, classes: usize, seed: u64) -> Result<(ResNet50V2, Params)> {
    let mut builder = ParamsBuilder::new();
    let net = ResNet50V2::new(&mut builder, Head::Classes(classes));
    Ok((net, builder.build(device, seed)?))
}

/// Logits of images in 0..255: Keras' `Rescaling(1/127.5, -1)`, then the network.
fn scaled(net: &ResNet50V2) -> impl Fn(&Forward, &Var) -> Result<Var> + '_ {
    |pass, images| net.forward(pass, &ops::rescale(images, 1.0 / 127.5, -1.0)?)
}

/// Cross-entropy of the batch's first view.
fn cross_entropy_step(forward: &ForwardFn, pass: &Forward, batch: &Batch) -> Result<StepOutput> {
    let logits = forward(pass, &pass.tape.constant(batch.images[0].clone()))?;
    Ok(StepOutput { loss: ops::cross_entropy(&logits, &batch.labels)?, logits: Some(logits) })
}

/// Scores a finished run on its test images and writes the result into its record.
fn score(
    session: &mut Session,
    params: &Params,
    forward: &ForwardFn,
    (set, pipeline): (&ImageSet, &Pipeline),
    size: usize,
    record: &mut RunRecord,
) -> Result<()> {
    session.observer.message(&format!("{}: scoring on {} test images", record.name, set.len()));
    let result = evaluate(session, params, forward, set, pipeline, evaluation_batch(size))?;
    record.test_accuracy = Some(result.accuracy);
    record.test_loss = Some(result.loss);
    Ok(())
}
