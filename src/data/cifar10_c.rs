//! CIFAR-10-C: the CIFAR-10 test images under 19 corruptions at 5 severities, memory-mapped.
//!
//! Source: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions and
//! perturbations" (ICLR 2019).

use super::cifar10::{CLASSES, SIZE};
use super::npy::MappedU8;
use super::{Bytes, ImageSet, Pixels, check_folder};
use crate::{Error, Result};
use std::path::Path;

/// Severities of every corruption, numbered from 1.
pub const SEVERITIES: usize = 5;

/// The 15 corruptions of the benchmark.
pub const BENCHMARK: [&str; 15] = [
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
];

/// The 4 extra corruptions, meant for validation.
pub const EXTRA: [&str; 4] = ["speckle_noise", "gaussian_blur", "spatter", "saturate"];

/// All 19 corruptions: [`BENCHMARK`], then [`EXTRA`].
pub fn corruptions() -> impl Iterator<Item = &'static str> {
    BENCHMARK.into_iter().chain(EXTRA)
}

/// The official name of a corruption, given that name or the one of TensorFlow Datasets (`frosted_glass_blur`,
/// `elastic`).
///
/// # Errors
/// When there is no such corruption; the message lists all.
pub fn canonical_name(name: &str) -> Result<&'static str> {
    let official = match name {
        "frosted_glass_blur" => "glass_blur",
        "elastic" => "elastic_transform",
        name => name,
    };
    corruptions().find(|&corruption| corruption == official).ok_or_else(|| {
        let all: Vec<&str> = corruptions().collect();
        Error::argument("corruption", "a name of CIFAR-10-C", name, format_args!("choose one of {}", all.join(", ")))
    })
}

/// Splits TensorFlow Datasets' configuration name, as `saturate_5`, into official corruption name and severity.
///
/// # Errors
/// When the corruption is unknown or the severity is not 1 to 5.
pub fn parse_config(config: &str) -> Result<(&'static str, usize)> {
    let (name, severity) = config.rsplit_once('_').unwrap_or((config, ""));
    let severity = severity.parse().ok().filter(|severity| (1..=SEVERITIES).contains(severity));
    let severity = severity.ok_or_else(|| {
        Error::argument("corruption", "NAME_S with a severity S from 1 to 5", config, "write for example saturate_5")
    })?;
    Ok((canonical_name(name)?, severity))
}

/// The corruptions that a folder holds.
#[derive(Debug, Clone)]
pub struct Cifar10C {
    /// One set per corruption, all severities one after the other.
    sets: Vec<(&'static str, ImageSet)>,
    missing: Vec<&'static str>,
    per_severity: usize,
}

impl Cifar10C {
    /// Opens `dir`, the folder of `NAME.npy` and `labels.npy` or the parent of such a folder `CIFAR-10-C`.
    ///
    /// Files may carry TensorFlow Datasets' names. Absent corruptions are listed by [`Cifar10C::missing`]. The
    /// official files hold 50,000 images; any multiple of 5 will do, the same in all files.
    ///
    /// # Errors
    /// When `labels.npy` or every corruption is missing, when a file is no uint8 array of the right shape, when
    /// a label is not below 10.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        const DOWNLOAD: &str = "unpack CIFAR-10-C.tar of zenodo.org/record/2535967";
        let mut dir = dir.as_ref().to_owned();
        check_folder(&dir, "CIFAR-10-C's .npy files")?;
        if !dir.join("labels.npy").exists() && dir.join("CIFAR-10-C").is_dir() {
            dir.push("CIFAR-10-C");
        }
        let labels_path = dir.join("labels.npy");
        if !labels_path.exists() {
            return Err(Error::data(dir, "labels.npy", "no such file", DOWNLOAD));
        }
        let labels = MappedU8::open(&labels_path)?;
        let n = labels.data().len();
        if labels.shape().len() != 1 || n == 0 || n % SEVERITIES != 0 {
            return Err(Error::data(
                labels_path,
                "shape [n] with n a positive multiple of 5 (officially 50000)",
                format_args!("shape {:?}", labels.shape()),
                DOWNLOAD,
            ));
        }
        if let Some(i) = labels.data().iter().position(|&label| usize::from(label) >= CLASSES.len()) {
            let got = format!("{} at position {i}", labels.data()[i]);
            return Err(Error::data(labels_path, "labels from 0 to 9", got, DOWNLOAD));
        }
        let labels: Vec<i32> = labels.data().iter().map(|&label| i32::from(label)).collect();

        let (mut sets, mut missing) = (Vec::new(), Vec::new());
        for corruption in corruptions() {
            let alias = match corruption {
                "glass_blur" => "frosted_glass_blur",
                "elastic_transform" => "elastic",
                name => name,
            };
            let paths = [corruption, alias].map(|name| dir.join(format!("{name}.npy")));
            let Some(path) = paths.into_iter().find(|path| path.exists()) else {
                missing.push(corruption);
                continue;
            };
            let images = MappedU8::open(&path)?;
            if images.shape() != [n, SIZE, SIZE, 3] {
                return Err(Error::data(
                    path,
                    format_args!("shape [{n}, 32, 32, 3], one image per label of labels.npy"),
                    format_args!("shape {:?}", images.shape()),
                    DOWNLOAD,
                ));
            }
            let pixels = Pixels::Uniform { bytes: Bytes::Mapped(images), h: SIZE, w: SIZE };
            let names = CLASSES.map(String::from).to_vec();
            sets.push((corruption, ImageSet::whole(corruption, pixels, labels.clone(), names)));
        }
        if sets.is_empty() {
            return Err(Error::data(dir, "NAME.npy of at least one corruption", "none of the 19", DOWNLOAD));
        }
        Ok(Cifar10C { sets, missing, per_severity: n / SEVERITIES })
    }

    /// Official names of the corruptions in the folder, benchmark first.
    pub fn present(&self) -> Vec<&'static str> {
        self.sets.iter().map(|(name, _)| *name).collect()
    }

    /// Official names of the corruptions that the folder lacks.
    pub fn missing(&self) -> &[&'static str] {
        &self.missing
    }

    /// Images per corruption and severity; officially 10,000.
    pub fn images_per_severity(&self) -> usize {
        self.per_severity
    }

    /// The images of one corruption at one severity from 1 to 5, under the name `NAME_S`.
    ///
    /// # Errors
    /// When the corruption is unknown or not in the folder, or the severity is out of range.
    pub fn set(&self, corruption: &str, severity: usize) -> Result<ImageSet> {
        let corruption = canonical_name(corruption)?;
        if !(1..=SEVERITIES).contains(&severity) {
            return Err(Error::argument("cifar10_c", "a severity from 1 to 5", severity, "5 is the strongest"));
        }
        let (_, all) = self.sets.iter().find(|(name, _)| *name == corruption).ok_or_else(|| {
            Error::argument(
                "cifar10_c",
                format_args!("one of the corruptions in the folder: {}", self.present().join(", ")),
                corruption,
                "add its .npy file to the folder",
            )
        })?;
        let first = (severity - 1) * self.per_severity;
        Ok(all.slice(first..first + self.per_severity)?.renamed(format!("{corruption}_{severity}")))
    }
}
