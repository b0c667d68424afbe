//! CIFAR-10 in its official binary form.
//!
//! A file is a row of records of 3,073 bytes: one label, then the red, green and blue plane of a 32x32 image.
//!
//! Source: Krizhevsky, "Learning multiple layers of features from tiny images" (2009).

use super::{Bytes, ImageSet, Pixels, check_folder, read};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Rows and columns of an image.
pub const SIZE: usize = 32;
/// The official class names, in label order.
pub const CLASSES: [&str; 10] =
    ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];

const FOLDER: &str = "cifar-10-batches-bin";
const PLANE: usize = SIZE * SIZE;
const RECORD: usize = 1 + 3 * PLANE;
const DOWNLOAD: &str = "unpack the binary version, cifar-10-binary.tar.gz of www.cs.toronto.edu/~kriz/cifar.html";

/// Both parts of the data set.
#[derive(Debug, Clone)]
pub struct Cifar10 {
    /// The records of `data_batch_1.bin` to `data_batch_5.bin`.
    pub train: ImageSet,
    /// The records of `test_batch.bin`.
    pub test: ImageSet,
}

/// Loads `dir`, the folder `cifar-10-batches-bin` or its parent.
///
/// At least one of `data_batch_1.bin` to `data_batch_5.bin` must be there, and `test_batch.bin`; a file may hold any
/// number of records. Class names come from `batches.meta.txt` where it is present.
///
/// # Errors
/// When a file is missing, its length is no multiple of 3,073 bytes, or a label is not below 10; the message names
/// the file, the record and the remedy.
pub fn load(dir: impl AsRef<Path>) -> Result<Cifar10> {
    let dir = find(dir.as_ref())?;
    let names = class_names(&dir)?;
    let batches = (1..=5).map(|number| dir.join(format!("data_batch_{number}.bin")));
    let train: Vec<PathBuf> = batches.filter(|path| path.exists()).collect();
    if train.is_empty() {
        return Err(missing(&dir, "data_batch_1.bin to data_batch_5.bin, or some of them"));
    }
    let test = dir.join("test_batch.bin");
    if !test.exists() {
        return Err(missing(&dir, "test_batch.bin"));
    }
    Ok(Cifar10 {
        train: load_files("cifar10-train", &train, &names)?,
        test: load_files("cifar10-test", &[test], &names)?,
    })
}

/// The folder with the files: `dir` itself or the official folder in it.
fn find(dir: &Path) -> Result<PathBuf> {
    check_folder(dir, "CIFAR-10's binary files")?;
    let inner = dir.join(FOLDER);
    let holds_files = |dir: &Path| dir.join("test_batch.bin").exists() || dir.join("data_batch_1.bin").exists();
    Ok(if !holds_files(dir) && inner.is_dir() { inner } else { dir.to_owned() })
}

fn missing(dir: &Path, files: &str) -> Error {
    // The Python version has the same names without the ending.
    let python = dir.join("data_batch_1").exists() || dir.join("cifar-10-batches-py").exists();
    let got = if python { "the Python version of CIFAR-10" } else { "no such file" };
    Error::data(dir, files, got, DOWNLOAD)
}

fn class_names(dir: &Path) -> Result<Vec<String>> {
    let path = dir.join("batches.meta.txt");
    if !path.exists() {
        return Ok(CLASSES.map(String::from).to_vec());
    }
    let text = String::from_utf8_lossy(&read(&path)?).into_owned();
    let names: Vec<String> = text.lines().map(str::trim).filter(|name| !name.is_empty()).map(String::from).collect();
    if names.len() != CLASSES.len() {
        return Err(Error::data(
            path,
            "10 class names, one a line",
            format_args!("{} names", names.len()),
            "restore or delete the file: without it the official names are used",
        ));
    }
    Ok(names)
}

fn load_files(name: &str, paths: &[PathBuf], names: &[String]) -> Result<ImageSet> {
    let (mut pixels, mut labels) = (Vec::<u8>::new(), Vec::new());
    for path in paths {
        let file = read(path)?;
        if file.is_empty() || file.len() % RECORD != 0 {
            let got = match file.len() % RECORD {
                0 => "an empty file".to_owned(),
                rest => format!("{} bytes: {} records and {rest} bytes more", file.len(), file.len() / RECORD),
            };
            let cifar100 = !file.is_empty() && file.len() % (RECORD + 1) == 0;
            let hint = if cifar100 { "this looks like CIFAR-100; " } else { "the file is truncated or oversized; " };
            return Err(Error::data(
                path,
                format_args!("a positive multiple of {RECORD} bytes, one record each"),
                got,
                format_args!("{hint}{DOWNLOAD}"),
            ));
        }
        let mut filled = pixels.len();
        pixels.resize(filled + file.len() / RECORD * 3 * PLANE, 0);
        for (record, bytes) in file.chunks_exact(RECORD).enumerate() {
            if usize::from(bytes[0]) >= CLASSES.len() {
                return Err(Error::data(
                    path,
                    format_args!("a label from 0 to {} in record {record}", CLASSES.len() - 1),
                    format_args!("{} at byte {}", bytes[0], record * RECORD),
                    format_args!("the file is damaged or not CIFAR-10; {DOWNLOAD}"),
                ));
            }
            labels.push(i32::from(bytes[0]));
            let (red, rest) = bytes[1..].split_at(PLANE);
            let (green, blue) = rest.split_at(PLANE);
            let planes = red.iter().zip(green).zip(blue);
            for (pixel, ((&r, &g), &b)) in pixels[filled..].chunks_exact_mut(3).zip(planes) {
                pixel.copy_from_slice(&[r, g, b]);
            }
            filled += 3 * PLANE;
        }
    }
    let pixels = Pixels::Uniform { bytes: Bytes::Owned(pixels), h: SIZE, w: SIZE };
    Ok(ImageSet::whole(name, pixels, labels, names.to_vec()))
}
