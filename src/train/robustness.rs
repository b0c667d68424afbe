//! Accuracy under corruption: CIFAR-10-C, or the part of it that can be generated from the test images.
//!
//! # Example
//! ```
//! use warpsmith::data::synthetic;
//! use warpsmith::train::CorruptionSource;
//! let source = CorruptionSource::Generated(synthetic::images(10, 10, 32, 32, 7)?);
//! assert_eq!(source.names()[0], "defocus_blur");
//! assert_eq!(source.set("saturate", 5)?.name(), "saturate_5");
//! # Ok::<(), warpsmith::Error>(())
//! ```
//! [`evaluate`] runs a model over all of them.
//!
//! Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and
//! perturbations" (ICLR 2019).

use super::fit::ForwardFn;
use super::plot::{Image, heat_map};
use super::session::Session;
use crate::augment::Pipeline;
use crate::cpu::corruption::Corruption;
use crate::data::cifar10_c::{BENCHMARK, SEVERITIES, canonical_name, corruptions};
use crate::data::{Cifar10C, ImageSet};
use crate::nn::Params;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::path::Path;

/// Height and width of the images that the corruptions' parameters are made for.
const SIZE: usize = 32;

/// Where the corrupted images come from.
#[derive(Debug, Clone)]
pub enum CorruptionSource {
    /// The official folder.
    Folder(Cifar10C),
    /// The official folder, the first so many images of every corruption and severity.
    FolderFirst(Cifar10C, usize),
    /// The seven deterministic corruptions, made from these clean test images when they are asked for.
    Generated(ImageSet),
}

impl CorruptionSource {
    /// The same source with at most `images` images of every corruption and severity: the first in test order.
    ///
    /// # Errors
    /// When `images` is 0, or a set to generate from is empty.
    pub fn limited(self, images: usize) -> Result<CorruptionSource> {
        if images == 0 {
            return Err(Error::argument(
                "CorruptionSource",
                "a limit of at least 1 image per corruption and severity",
                0,
                "leave the limit out to use all images",
            ));
        }
        Ok(match self {
            CorruptionSource::Folder(data) => CorruptionSource::FolderFirst(data, images),
            CorruptionSource::FolderFirst(data, limit) => CorruptionSource::FolderFirst(data, limit.min(images)),
            CorruptionSource::Generated(clean) => CorruptionSource::Generated(clean.slice(0..images.min(clean.len()))?),
        })
    }

    /// What tables and reports call it: `CIFAR-10-C` or `generated subset`.
    pub fn label(&self) -> &'static str {
        if self.is_generated() { "generated subset" } else { "CIFAR-10-C" }
    }

    /// Whether the images are generated here.
    pub fn is_generated(&self) -> bool {
        matches!(self, CorruptionSource::Generated(_))
    }

    /// The corruptions that it has, by their official names: those of the benchmark first.
    pub fn names(&self) -> Vec<&'static str> {
        match self {
            CorruptionSource::Folder(data) | CorruptionSource::FolderFirst(data, _) => data.present(),
            CorruptionSource::Generated(_) => corruptions().filter(|n| Corruption::from_name(n).is_some()).collect(),
        }
    }

    /// The images of one corruption at one severity from 1 to 5, under the name `NAME_S`; generated ones on the
    /// current rayon pool.
    ///
    /// # Errors
    /// When the corruption is unknown or not in this source, when the severity is out of range, when images to
    /// generate from are not 32x32.
    ///
    /// # Determinism
    /// Bit-equal for any thread count.
    pub fn set(&self, corruption: &str, severity: usize) -> Result<ImageSet> {
        self.check(corruption, severity)?;
        match self {
            CorruptionSource::Folder(data) => data.set(corruption, severity),
            CorruptionSource::FolderFirst(data, limit) => {
                let set = data.set(corruption, severity)?;
                let name = set.name().to_string();
                Ok(set.slice(0..set.len().min(*limit))?.renamed(name))
            }
            CorruptionSource::Generated(clean) => generate(clean, corruption, severity),
        }
    }

    /// Fails unless [`CorruptionSource::set`] can serve this. Returns the official name.
    fn check(&self, corruption: &str, severity: usize) -> Result<&'static str> {
        const OP: &str = "CorruptionSource";
        let name = canonical_name(corruption)?;
        let names = self.names();
        if !names.contains(&name) {
            let hint = match self {
                CorruptionSource::Generated(_) => "pass CIFAR-10-C's folder: this one is not generated",
                _ => "add its .npy file to the folder",
            };
            let expected = format!("one of the corruptions of the {}: {}", self.label(), names.join(", "));
            return Err(Error::argument(OP, expected, corruption, hint));
        }
        if !(1..=SEVERITIES).contains(&severity) {
            return Err(Error::argument(OP, "a severity from 1 to 5", severity, "5 is the strongest"));
        }
        if let CorruptionSource::Generated(clean) = self
            && clean.uniform_size() != Some((SIZE, SIZE))
        {
            let got = match clean.uniform_size() {
                Some((h, w)) => format!("{h}x{w} images in `{}`", clean.name()),
                None => format!("images of several sizes, or none, in `{}`", clean.name()),
            };
            let hint = "the parameters of the corruptions are made for CIFAR-10's images: pass its test set";
            return Err(Error::shape(OP, "32x32 test images to generate from", got, hint));
        }
        Ok(name)
    }
}

/// The images of `clean` under one corruption.
fn generate(clean: &ImageSet, corruption: &str, severity: usize) -> Result<ImageSet> {
    // `check` has let only these names pass.
    let Some(corruption) = Corruption::from_name(corruption) else {
        return Err(Error::argument("generate", "a deterministic corruption", corruption, "pass an official name"));
    };
    let n = clean.len();
    let indices: Vec<u32> = (0..n as u32).collect();
    let mut x = vec![0; n * SIZE * SIZE * 3];
    let mut y = vec![0; x.len()];
    clean.copy_batch(&indices, &mut x)?;
    corruption.apply(severity, &x, [n, SIZE, SIZE], &mut y)?;
    let name = format!("{}_{severity}", corruption.name());
    ImageSet::from_arrays(name, y, [n, SIZE, SIZE, 3], &clean.labels(), clean.class_names())
}

/// Accuracy of one model under one corruption.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CorruptionRow {
    /// Official name of the corruption.
    pub name: String,
    /// Accuracy (0 to 1) at severities 1 to 5; `None` where it was not asked for.
    pub accuracy: [Option<f64>; SEVERITIES],
}

/// Accuracy of one model under corruption.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Robustness {
    /// `CIFAR-10-C` or `generated subset`.
    pub source: String,
    /// Whether the corrupted images were generated: then the means cover 7 of the 19 corruptions at most, and do not
    /// compare with published ones.
    pub generated_subset: bool,
    /// Images per corruption and severity; officially 10,000.
    pub images: usize,
    /// Corruptions that a whole evaluation would have covered but the source lacks.
    pub missing: Vec<String>,
    /// Mean accuracy over all corruptions and severities in `rows`.
    pub mean_all: f64,
    /// Mean accuracy over all corruptions in `rows` at severity 5; `None` where that was not asked for.
    pub mean_severity_5: Option<f64>,
    /// Mean accuracy over the 15 benchmark corruptions at all severities, the figure that most papers report (as
    /// error); `None` unless all are there.
    pub mean_benchmark: Option<f64>,
    /// One row per corruption, those of the benchmark first.
    pub rows: Vec<CorruptionRow>,
}

/// Runs the model in inference mode over every corruption and severity of `source`, or over the pairs `only`, as
/// `[("saturate", 5)]`.
///
/// # Errors
/// When `only` is empty or names what the source lacks (before anything is evaluated); as
/// [`super::evaluate()`](super::evaluate::evaluate).
pub fn evaluate(
    session: &mut Session,
    params: &Params,
    forward: &ForwardFn,
    source: &CorruptionSource,
    pipeline: &Pipeline,
    batch_size: usize,
    only: Option<&[(&str, usize)]>,
) -> Result<Robustness> {
    let names = source.names();
    let wanted: Vec<(&str, usize)> = match only {
        None => names.iter().flat_map(|&name| (1..=SEVERITIES).map(move |severity| (name, severity))).collect(),
        Some(pairs) => pairs.to_vec(),
    };
    if wanted.is_empty() {
        return Err(Error::argument(
            "robustness",
            "at least one corruption and severity",
            "an empty list",
            "name one, as (\"saturate\", 5), or evaluate all",
        ));
    }
    let wanted = wanted
        .into_iter()
        .map(|(name, severity)| Ok((source.check(name, severity)?, severity)))
        .collect::<Result<Vec<_>>>()?;

    let rows_wanted: Vec<&str> = names.into_iter().filter(|&name| wanted.iter().any(|pair| pair.0 == name)).collect();
    let mut rows = Vec::with_capacity(rows_wanted.len());
    let mut images = 0;
    for (i, &name) in rows_wanted.iter().enumerate() {
        let mut accuracy = [None; SEVERITIES];
        for severity in (1..=SEVERITIES).filter(|&severity| wanted.contains(&(name, severity))) {
            session.check_stop()?;
            let set = session.device().run(|| source.set(name, severity))?;
            images = set.len();
            let result = super::evaluate::evaluate(session, params, forward, &set, pipeline, batch_size)?;
            accuracy[severity - 1] = Some(result.accuracy);
        }
        let cells = accuracy.map(percent).join(" ");
        session.observer.message(&format!("{} {}/{} {name}: {cells} %", source.label(), i + 1, rows_wanted.len()));
        rows.push(CorruptionRow { name: name.to_string(), accuracy });
    }
    let present = source.names();
    let missing = match only {
        None => corruptions().filter(|name| !present.contains(name)).map(String::from).collect(),
        Some(_) => Vec::new(),
    };
    Ok(Robustness::new(source, images, missing, rows))
}

/// The mean of those that are there.
fn mean<'a>(values: impl IntoIterator<Item = &'a Option<f64>>) -> Option<f64> {
    let (sum, count) = values.into_iter().flatten().fold((0.0, 0), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

/// A share as a table shows it.
fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_string(), |value| format!("{:.1}", 100.0 * value))
}

impl Robustness {
    fn new(source: &CorruptionSource, images: usize, missing: Vec<String>, rows: Vec<CorruptionRow>) -> Robustness {
        let benchmark: Vec<Option<f64>> = rows
            .iter()
            .filter(|row| BENCHMARK.contains(&row.name.as_str()))
            .flat_map(|row| row.accuracy)
            .filter(Option::is_some)
            .collect();
        Robustness {
            source: source.label().to_string(),
            generated_subset: source.is_generated(),
            images,
            missing,
            mean_all: mean(rows.iter().flat_map(|row| &row.accuracy)).unwrap_or(0.0),
            mean_severity_5: mean(rows.iter().map(|row| &row.accuracy[SEVERITIES - 1])),
            mean_benchmark: mean(&benchmark).filter(|_| benchmark.len() == BENCHMARK.len() * SEVERITIES),
            rows,
        }
    }

    /// The accuracy under one corruption, if it was evaluated.
    pub fn accuracy(&self, corruption: &str, severity: usize) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.name == corruption)?;
        *row.accuracy.get(severity.checked_sub(1)?)?
    }

    /// Accuracy in percent, corruptions by severities with means, as lines of text; what is missing is said below.
    pub fn table(&self) -> String {
        let width = self.rows.iter().map(|row| row.name.len()).max().unwrap_or(0).max("severity".len());
        let mut text = format!(
            "{}: accuracy in %, {} images per corruption and severity\n{:width$} {:>6} {:>6} {:>6} {:>6} {:>6} {:>7}\n",
            self.source, self.images, "severity", 1, 2, 3, 4, 5, "mean"
        );
        let mut line = |name: &str, accuracy: &[Option<f64>; SEVERITIES], mean: Option<f64>| {
            let _ = write!(text, "{name:width$}");
            for &value in accuracy {
                let _ = write!(text, " {:>6}", percent(value));
            }
            let _ = writeln!(text, " {:>7}", percent(mean));
        };
        for row in &self.rows {
            line(&row.name, &row.accuracy, mean(&row.accuracy));
        }
        let columns = std::array::from_fn(|s| mean(self.rows.iter().map(|row| &row.accuracy[s])));
        line("mean", &columns, Some(self.mean_all));
        let _ = write!(text, "mean over all severities {}", percent(Some(self.mean_all)));
        let _ = write!(text, ", severity 5 only {}", percent(self.mean_severity_5));
        if self.mean_benchmark.is_some() {
            let _ = write!(text, ", 15 benchmark corruptions {}", percent(self.mean_benchmark));
        }
        text.push('\n');
        if self.generated_subset {
            let _ = writeln!(
                text,
                "generated subset of CIFAR-10-C: the deterministic corruptions, made from the test images"
            );
        }
        if !self.missing.is_empty() {
            let _ = writeln!(text, "missing ({} of 19): {}", self.missing.len(), self.missing.join(", "));
        }
        text
    }

    /// The table as a heat map from 0 to 100 %, so that pictures of two models compare.
    ///
    /// # Errors
    /// When there are no rows.
    pub fn heat_map(&self) -> Result<Image> {
        let names: Vec<&str> = self.rows.iter().map(|row| row.name.as_str()).collect();
        let values: Vec<Vec<Option<f64>>> =
            self.rows.iter().map(|row| row.accuracy.map(|value| value.map(|value| 100.0 * value)).to_vec()).collect();
        let mut title = self.source.clone();
        if self.generated_subset {
            title.push_str(" of CIFAR-10-C");
        }
        let total = corruptions().count();
        if names.len() < total {
            let _ = write!(title, " ({} of {total})", names.len());
        }
        let _ = write!(title, ": mean accuracy {} %", percent(Some(self.mean_all)));
        if self.mean_severity_5.is_some() {
            let _ = write!(title, ", severity 5: {} %", percent(self.mean_severity_5));
        }
        let columns = ["severity 1", "severity 2", "severity 3", "severity 4", "severity 5"];
        heat_map(&title, &names, &columns, &values, (0.0, 100.0), "%")
    }

    /// Writes `STEM.json` and the heat map `STEM.png` into `folder`, each whole or not at all.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: impl AsRef<Path>, stem: &str) -> Result<()> {
        let folder = folder.as_ref();
        let picture = self.heat_map()?;
        let path = folder.join(format!("{stem}.json"));
        crate::fs::write_atomic(&path, |file| {
            serde_json::to_writer_pretty(&mut *file, self)?;
            std::io::Write::write_all(file, b"\n")
        })?;
        picture.write_png(folder.join(format!("{stem}.png")))
    }
}
