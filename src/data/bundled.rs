//! The bundled mini data set: 1,500 CIFAR-10 images and 200 tf_flowers photos, in the repository's `data/` folder.
//!
//! The published crate leaves it out. `data/LICENSES.md` says where the images come from and under which terms.

use super::{Cifar10, ImageFolder, cifar10};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// The folder of the bundled data: `data/` of the source tree this crate was built from, else `./data`.
///
/// # Errors
/// When neither holds the data.
pub fn dir() -> Result<PathBuf> {
    find(&[Path::new(env!("CARGO_MANIFEST_DIR")).join("data"), PathBuf::from("data")])
}

fn find(places: &[PathBuf]) -> Result<PathBuf> {
    let holds_data =
        |place: &&PathBuf| place.join("cifar-10-batches-bin").is_dir() && place.join("tf_flowers").is_dir();
    places.iter().find(holds_data).cloned().ok_or_else(|| {
        let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
        Error::data(
            "data",
            "the bundled images in cifar-10-batches-bin and tf_flowers",
            format_args!("neither in {}", looked.join(" nor in ")),
            "run within a checkout of the repository (the published crate has no images) or pass --data DIR",
        )
    })
}

/// The bundled CIFAR-10 images: 1,200 for training, 300 for testing, all classes equally often.
///
/// # Errors
/// When the data are missing or damaged.
pub fn cifar10() -> Result<Cifar10> {
    cifar10::load(dir()?)
}

/// The bundled tf_flowers photos: 40 of each of 5 classes.
///
/// # Errors
/// When the data are missing.
pub fn tf_flowers() -> Result<ImageFolder> {
    ImageFolder::scan(dir()?)
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn says_where_it_looked_and_what_to_do() {
        let text = find(&["/nowhere/a".into(), "/nowhere/b".into()]).unwrap_err().to_string();
        assert!(text.contains("neither in /nowhere/a nor in /nowhere/b"), "{text}");
        assert!(text.contains("pass --data DIR"), "{text}");
    }
}
