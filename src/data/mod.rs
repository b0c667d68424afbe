//! Data sets: labelled images in memory, their loaders, and the order in which batches visit them.
//!
//! Images are u8 RGB in NHWC order at rest; augmentation decides what they become.
//!
//! # Example
//! ```
//! use warpsmith::data::{Batches, Shuffle, synthetic};
//! let set = synthetic::images(100, 10, 32, 32, 7)?;
//! let batches = Batches::new(set.len(), 32)?.shuffle(Shuffle::Full)?.seed(7);
//! for indices in batches.pass(0) {
//!     let labels = set.labels_of(&indices)?;
//!     let mut pixels = vec![0; indices.len() * 32 * 32 * 3];
//!     set.copy_batch(&indices, &mut pixels)?;
//! #   assert_eq!(labels.len(), indices.len());
//! }
//! # Ok::<(), warpsmith::Error>(())
//! ```

use crate::rng::{Philox, philox4x32_10};
use crate::{Error, Result};
use std::path::Path;
use std::sync::Arc;

pub mod batch;
pub mod bundled;
pub mod cifar10;
pub mod cifar10_c;
pub mod image_folder;
pub mod npy;
#[cfg(feature = "cuda")]
pub(crate) mod on_device;
pub mod prefetch;
pub mod synthetic;

pub use batch::{Batches, Pairing, Shuffle, ShuffleUnit};
pub use cifar10::Cifar10;
pub use cifar10_c::Cifar10C;
pub use image_folder::ImageFolder;
pub use prefetch::Prefetch;

/// Labelled u8 RGB images of one size or of many, cheap to clone: clones and subsets share the pixels.
#[derive(Clone)]
pub struct ImageSet {
    name: Arc<str>,
    store: Arc<Store>,
    /// The images of the store that belong to this set, in its order.
    rows: Arc<[u32]>,
    #[cfg(feature = "cuda")]
    copies: on_device::Copies,
}

/// What all views of one loaded data set share.
struct Store {
    pixels: Pixels,
    labels: Vec<i32>,
    class_names: Vec<String>,
}

/// Where the pixels lie.
enum Pixels {
    /// All images of one size, one after the other, `[n, h, w, 3]`.
    Uniform { bytes: Bytes, h: usize, w: usize },
    /// Images of their own sizes.
    Each(Vec<Decoded>),
}

/// Pixels in memory or in a mapped file.
enum Bytes {
    Owned(Vec<u8>),
    Mapped(npy::MappedU8),
}

/// One decoded image, `[h, w, 3]`.
struct Decoded {
    h: usize,
    w: usize,
    pixels: Vec<u8>,
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Owned(bytes) => bytes,
            Bytes::Mapped(file) => file.data(),
        }
    }
}

impl std::fmt::Debug for ImageSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImageSet")
            .field("name", &self.name)
            .field("len", &self.len())
            .field("classes", &self.classes())
            .field("uniform_size", &self.uniform_size())
            .finish()
    }
}

impl ImageSet {
    /// The set of in-memory arrays: `images` is `[n, h, w, 3]`, `labels` holds `n` class numbers below
    /// `class_names.len()`.
    ///
    /// # Errors
    /// When a shape has a zero or not three channels, when lengths disagree, when a label is out of range.
    ///
    /// # Example
    /// ```
    /// use warpsmith::data::ImageSet;
    /// let set = ImageSet::from_arrays("dots", vec![0; 2 * 4 * 4 * 3], [2, 4, 4, 3], &[0, 1], &["dark", "darker"])?;
    /// assert_eq!((set.len(), set.label(1)), (2, 1));
    /// # Ok::<(), warpsmith::Error>(())
    /// ```
    pub fn from_arrays(
        name: impl Into<Arc<str>>,
        images: Vec<u8>,
        shape: [usize; 4],
        labels: &[i32],
        class_names: &[impl AsRef<str>],
    ) -> Result<Self> {
        const OP: &str = "from_arrays";
        let [n, h, w, c] = shape;
        if shape.contains(&0) || c != 3 {
            return Err(Error::shape(
                OP,
                "images [n, h, w, 3] with positive extents",
                format_args!("{shape:?}"),
                "pass u8 RGB images; repeat a grey channel three times",
            ));
        }
        let elems = shape.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
        if elems != Some(images.len()) {
            return Err(Error::shape(
                OP,
                format_args!("the product of {shape:?} pixels in `images`"),
                images.len(),
                "pass the shape that the images have",
            ));
        }
        if labels.len() != n {
            return Err(Error::shape(OP, format_args!("{n} labels"), labels.len(), "pass one label per image"));
        }
        let class_names: Vec<String> = class_names.iter().map(|name| name.as_ref().to_owned()).collect();
        if class_names.is_empty() {
            return Err(Error::argument(OP, "at least one class name", "none", "name every class once"));
        }
        let classes = class_names.len();
        if let Some(i) = labels.iter().position(|&label| usize::try_from(label).map_or(true, |label| label >= classes))
        {
            return Err(Error::argument(
                OP,
                format_args!("labels from 0 to {}", classes - 1),
                format_args!("{} at position {i}", labels[i]),
                "number the classes from 0 and name every one",
            ));
        }
        let pixels = Pixels::Uniform { bytes: Bytes::Owned(images), h, w };
        Ok(Self::whole(name, pixels, labels.to_vec(), class_names))
    }

    /// The set of everything in `pixels`; the caller has checked lengths and labels.
    fn whole(name: impl Into<Arc<str>>, pixels: Pixels, labels: Vec<i32>, class_names: Vec<String>) -> Self {
        let rows = (0..labels.len() as u32).collect();
        Self::of(name.into(), Arc::new(Store { pixels, labels, class_names }), rows)
    }

    /// A view of these rows of a store.
    fn of(name: Arc<str>, store: Arc<Store>, rows: Arc<[u32]>) -> Self {
        ImageSet {
            name,
            store,
            rows,
            #[cfg(feature = "cuda")]
            copies: Default::default(),
        }
    }

    /// What the set is called in tables and reports.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same set under another name.
    pub fn renamed(mut self, name: impl Into<Arc<str>>) -> Self {
        self.name = name.into();
        self
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Never true for a set that a loader or [`ImageSet::subset`] returned.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.store.class_names.len()
    }

    /// Names of the classes; a label is an index into them.
    pub fn class_names(&self) -> &[String] {
        &self.store.class_names
    }

    /// Rows, columns and `[h, w, 3]` pixels of image `i`.
    ///
    /// # Panics
    /// When `i` is not below [`ImageSet::len`], as a slice does.
    pub fn image(&self, i: usize) -> (usize, usize, &[u8]) {
        let row = self.rows[i] as usize;
        match &self.store.pixels {
            Pixels::Uniform { bytes, h, w } => {
                let elems = h * w * 3;
                (*h, *w, &bytes[row * elems..(row + 1) * elems])
            }
            Pixels::Each(images) => (images[row].h, images[row].w, &images[row].pixels),
        }
    }

    /// Class number of image `i`.
    ///
    /// # Panics
    /// When `i` is not below [`ImageSet::len`], as a slice does.
    pub fn label(&self, i: usize) -> i32 {
        self.store.labels[self.rows[i] as usize]
    }

    /// Class numbers of all images.
    pub fn labels(&self) -> Vec<i32> {
        (0..self.len()).map(|i| self.label(i)).collect()
    }

    /// Class numbers of the images `indices`.
    ///
    /// # Errors
    /// When an index is not below [`ImageSet::len`].
    pub fn labels_of(&self, indices: &[u32]) -> Result<Vec<i32>> {
        self.check_indices("labels_of", indices)?;
        Ok(indices.iter().map(|&i| self.label(i as usize)).collect())
    }

    /// How many images each class has.
    pub fn class_counts(&self) -> Vec<usize> {
        let mut counts = vec![0; self.classes()];
        for i in 0..self.len() {
            counts[self.label(i) as usize] += 1;
        }
        counts
    }

    /// A checksum (CRC-32) of the class names and of every size, label and pixel in order: it tells a set that was
    /// changed by accident from the one before.
    pub fn checksum(&self) -> u32 {
        let mut crc = crc32fast::Hasher::new();
        for name in self.class_names() {
            crc.update(name.as_bytes());
            crc.update(&[0]);
        }
        for i in 0..self.len() {
            let (h, w, pixels) = self.image(i);
            crc.update(&(h as u64).to_le_bytes());
            crc.update(&(w as u64).to_le_bytes());
            crc.update(&self.label(i).to_le_bytes());
            crc.update(pixels);
        }
        crc.finalize()
    }

    /// `(h, w)` when all images have it, `None` when sizes differ.
    pub fn uniform_size(&self) -> Option<(usize, usize)> {
        if let Pixels::Uniform { h, w, .. } = self.store.pixels {
            return Some((h, w));
        }
        let size = |i| {
            let (h, w, _) = self.image(i);
            (h, w)
        };
        let first = (!self.is_empty()).then(|| size(0))?;
        (1..self.len()).all(|i| size(i) == first).then_some(first)
    }

    /// Copies the images `indices` of a set of one size into `out`, `[indices, h, w, 3]`.
    ///
    /// # Errors
    /// When an index is not below [`ImageSet::len`], when sizes differ, when `out` has another length.
    pub fn copy_batch(&self, indices: &[u32], out: &mut [u8]) -> Result<()> {
        const OP: &str = "copy_batch";
        self.check_indices(OP, indices)?;
        let Some((h, w)) = self.uniform_size() else {
            return Err(Error::shape(
                OP,
                "images of one size",
                format_args!("images of several sizes in `{}`", self.name),
                "resize or crop the images one by one before batching them",
            ));
        };
        let elems = h * w * 3;
        crate::error::check_len(OP, "out", out.len(), indices.len() * elems)?;
        for (&i, place) in indices.iter().zip(out.chunks_exact_mut(elems)) {
            place.copy_from_slice(self.image(i as usize).2);
        }
        Ok(())
    }

    /// The images `indices` in that order, sharing the pixels.
    ///
    /// # Errors
    /// When there is no index, or one is not below [`ImageSet::len`].
    pub fn subset(&self, indices: &[u32]) -> Result<ImageSet> {
        if indices.is_empty() {
            return Err(Error::argument("subset", "at least one index", "none", "keep at least one image"));
        }
        self.check_indices("subset", indices)?;
        let rows = indices.iter().map(|&i| self.rows[i as usize]).collect();
        Ok(Self::of(self.name.clone(), self.store.clone(), rows))
    }

    /// The images of the half-open range `range`, sharing the pixels.
    ///
    /// # Errors
    /// When the range is empty or reaches past the end.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Result<ImageSet> {
        if range.start >= range.end || range.end > self.len() {
            return Err(Error::argument(
                "slice",
                format_args!("a range that is not empty within 0..{}", self.len()),
                format_args!("{range:?}"),
                "ask for images that exist",
            ));
        }
        Ok(Self::of(self.name.clone(), self.store.clone(), self.rows[range].into()))
    }

    /// At most `limit` images, spread evenly over the classes.
    ///
    /// The classes take turns, each giving its earliest image that is left, until `limit` are chosen; so class
    /// counts differ by at most one while no class runs out. The chosen images keep their order. No seed: the
    /// choice depends on the data alone.
    ///
    /// # Errors
    /// When `limit` is zero.
    pub fn take(&self, limit: usize) -> Result<ImageSet> {
        let labels = self.labels();
        self.subset(&balanced(&labels, self.classes(), limit)?)
    }

    /// A seeded split into training and validation part; see [`Split`].
    ///
    /// # Errors
    /// When a part would be empty.
    pub fn split(&self, split: Split, seed: u64) -> Result<(ImageSet, ImageSet)> {
        let (train, validation) = split.indices(&self.labels(), seed)?;
        Ok((self.subset(&train)?, self.subset(&validation)?))
    }

    pub(crate) fn check_indices(&self, op: &'static str, indices: &[u32]) -> Result<()> {
        match indices.iter().find(|&&i| i as usize >= self.len()) {
            None => Ok(()),
            Some(i) => Err(Error::argument(
                op,
                format_args!("indices below {}", self.len()),
                i,
                format_args!("`{}` has {} images", self.name, self.len()),
            )),
        }
    }
}

/// How large the validation part of a split is.
///
/// The choice is random but fair to the classes: every class gives its share of the validation part, rounded up
/// or down. Both parts come in random order, since class folders are sorted by class.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Split {
    /// This fraction of all images validates, rounded to the nearest whole image; 0.1 of tf_flowers' 3,670 gives
    /// 3,303 + 367.
    Fraction(f64),
    /// Exactly this many images validate.
    Count(usize),
}

impl Split {
    /// Indices of the training and of the validation part of images with these labels.
    fn indices(self, labels: &[i32], seed: u64) -> Result<(Vec<u32>, Vec<u32>)> {
        let n = labels.len();
        let count = match self {
            Split::Fraction(fraction) if fraction > 0.0 && fraction < 1.0 => (fraction * n as f64).round() as usize,
            Split::Fraction(fraction) => {
                return Err(Error::argument(
                    "split",
                    "a validation fraction between 0 and 1, both excluded",
                    fraction,
                    "0.1 is usual",
                ));
            }
            Split::Count(count) => count,
        };
        if count == 0 || count >= n {
            return Err(Error::argument(
                "split",
                format_args!("1 to {} of {n} images for validation", n.saturating_sub(1)),
                count,
                "leave at least one image in each part; with few images give a count",
            ));
        }
        let order = batch::full_permutation(n, &mut sequence(seed, 0, SPLIT));
        // Sorted by class, every n/count-th image validates: the shares of all classes in one stroke.
        let mut by_class = order.clone();
        by_class.sort_by_key(|&i| labels[i as usize]);
        let mut validates = vec![false; n];
        for (place, &i) in by_class.iter().enumerate() {
            validates[i as usize] = (place + 1) * count / n > place * count / n;
        }
        Ok(order.into_iter().partition(|&i| !validates[i as usize]))
    }
}

/// Indices of at most `limit` items, the classes taking turns, in data order.
fn balanced(labels: &[i32], classes: usize, limit: usize) -> Result<Vec<u32>> {
    if limit == 0 {
        return Err(Error::argument("take", "a limit of at least 1", 0, "keep at least one image"));
    }
    // The turn in which an image would be chosen is its rank within its class.
    let mut seen = vec![0u32; classes];
    let mut chosen: Vec<(u32, i32, u32)> = Vec::with_capacity(labels.len());
    for (i, &label) in labels.iter().enumerate() {
        chosen.push((seen[label as usize], label, i as u32));
        seen[label as usize] += 1;
    }
    chosen.sort_unstable();
    chosen.truncate(limit);
    let mut indices: Vec<u32> = chosen.into_iter().map(|(_, _, i)| i).collect();
    indices.sort_unstable();
    Ok(indices)
}

/// Purposes of the random sequences of this module.
const SHUFFLE: u32 = 1;
const SPLIT: u32 = 2;
const SYNTHETIC: u32 = 3;

/// A generator for one purpose and pass: its key is itself random, so no two passes share numbers.
fn sequence(seed: u64, pass: u64, purpose: u32) -> Philox {
    // Word 2 keeps these blocks apart from a kernel's ops and from `Philox`'s own sequences.
    let block =
        philox4x32_10([seed as u32, (seed >> 32) as u32], [pass as u32, (pass >> 32) as u32, u32::MAX - 1, purpose]);
    Philox::new(u64::from(block[0]) | u64::from(block[1]) << 32, purpose)
}

/// The whole file, or an error that names it.
fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|source| Error::io(path, "read", source))
}

/// Fails unless `dir` is a folder.
fn check_folder(dir: &Path, contents: &str) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let got = if dir.exists() { "a file" } else { "nothing there" };
    Err(Error::data(dir, format_args!("a folder with {contents}"), got, "check the path"))
}
