//! Which images form which batch, in which order: seeded shuffles, batches, the paired clean and noisy streams.
//!
//! An order is a pure function of seed and pass number, so a resumed run needs no more state than those two.

use super::{SHUFFLE, sequence};
use crate::rng::Philox;
use crate::{Error, Result};
use rand::RngExt;

/// How the order of a pass over the data is drawn.
///
/// # Determinism
/// The same seed, pass and length give the same order, on any machine and thread count; every pass draws anew.
///
/// # Source
/// `tf.data.Dataset.shuffle` (TensorFlow) for the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shuffle {
    /// Data order.
    None,
    /// A uniformly drawn permutation.
    Full,
    /// A reservoir of this many items: each output is a uniformly chosen slot, refilled with the next item of the
    /// data; the tail empties the reservoir. Item `i` cannot come earlier than position `i + 1 - buffer`.
    Window(usize),
}

impl Shuffle {
    /// The order in which pass `pass` visits `n` items.
    ///
    /// # Errors
    /// When a window is empty, or `n` does not fit in 32 bits.
    ///
    /// # Example
    /// ```
    /// use warpsmith::data::Shuffle;
    /// let order = Shuffle::Window(4).order(10, 7, 0)?;
    /// assert!(order[0] < 4);
    /// # Ok::<(), warpsmith::Error>(())
    /// ```
    pub fn order(self, n: usize, seed: u64, pass: u64) -> Result<Vec<u32>> {
        self.check()?;
        check_count("shuffle", n)?;
        Ok(self.draw(n, seed, pass))
    }

    fn check(self) -> Result<()> {
        if self == Shuffle::Window(0) {
            return Err(Error::argument("shuffle", "a buffer of at least 1", 0, "a buffer of 1 keeps the data order"));
        }
        Ok(())
    }

    /// [`Shuffle::order`] once its arguments are known to be good.
    fn draw(self, n: usize, seed: u64, pass: u64) -> Vec<u32> {
        let mut rng = sequence(seed, pass, SHUFFLE);
        match self {
            Shuffle::None => (0..n as u32).collect(),
            Shuffle::Full => full_permutation(n, &mut rng),
            Shuffle::Window(buffer) => windowed_permutation(n, buffer, &mut rng),
        }
    }
}

/// Fisher and Yates' shuffle of `0..n`.
pub(super) fn full_permutation(n: usize, rng: &mut Philox) -> Vec<u32> {
    let mut order: Vec<u32> = (0..n as u32).collect();
    for last in (1..n).rev() {
        order.swap(last, rng.random_range(0..=last as u32) as usize);
    }
    order
}

/// The reservoir shuffle of [`Shuffle::Window`].
fn windowed_permutation(n: usize, buffer: usize, rng: &mut Philox) -> Vec<u32> {
    let mut upstream = 0..n as u32;
    let mut reservoir: Vec<u32> = upstream.by_ref().take(buffer).collect();
    let mut order = Vec::with_capacity(n);
    while !reservoir.is_empty() {
        let slot = rng.random_range(0..reservoir.len() as u32) as usize;
        order.push(match upstream.next() {
            Some(next) => std::mem::replace(&mut reservoir[slot], next),
            None => reservoir.swap_remove(slot),
        });
    }
    order
}

/// What a [`Shuffle`] permutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShuffleUnit {
    /// The examples, before they are cut into batches.
    Examples,
    /// The batches: which examples share a batch never changes.
    Batches,
}

/// How the student's two branches line up.
///
/// Two `tf.data` pipelines of one seed give the same order on their first pass, the same on their second, and so
/// on: they pair up only while both have been iterated equally often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// Both branches see the same images: the intent of consistency training.
    Paired,
    /// The clean branch has been iterated this many times more, so its order is that of a later pass: what the
    /// printed program does after training the teacher.
    Mispaired {
        /// Extra passes over the clean branch; 5 after a teacher of five epochs.
        clean_passes_ahead: u64,
    },
}

/// The plan of batches over a data set: size, shuffle, seed, and what becomes of a short last batch.
///
/// By default nothing is shuffled and the short last batch is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batches {
    len: usize,
    batch_size: usize,
    shuffle: Shuffle,
    unit: ShuffleUnit,
    seed: u64,
    drop_last: bool,
}

impl Batches {
    /// Batches of `batch_size` out of `len` examples.
    ///
    /// # Errors
    /// When the batch size is zero or larger than the data. Evaluation, where the batch size changes no result,
    /// may pass the smaller of the two.
    pub fn new(len: usize, batch_size: usize) -> Result<Self> {
        check_count("batches", len)?;
        if batch_size == 0 || batch_size > len {
            return Err(Error::argument(
                "batches",
                format_args!("a batch size from 1 to {len}, the number of images"),
                batch_size,
                "pass a smaller --batch-size or more data",
            ));
        }
        Ok(Batches { len, batch_size, shuffle: Shuffle::None, unit: ShuffleUnit::Examples, seed: 0, drop_last: false })
    }

    /// The same plan with another shuffle.
    ///
    /// # Errors
    /// When a window is empty.
    pub fn shuffle(mut self, shuffle: Shuffle) -> Result<Self> {
        shuffle.check()?;
        self.shuffle = shuffle;
        Ok(self)
    }

    /// The same plan, shuffling examples or batches.
    pub fn unit(mut self, unit: ShuffleUnit) -> Self {
        self.unit = unit;
        self
    }

    /// The same plan under another seed.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// The same plan, dropping a short last batch or keeping it.
    pub fn drop_last(mut self, drop_last: bool) -> Self {
        self.drop_last = drop_last;
        self
    }

    /// Batches per pass.
    pub fn steps(&self) -> usize {
        if self.drop_last { self.len / self.batch_size } else { self.len.div_ceil(self.batch_size) }
    }

    /// The batches of pass `pass` (an epoch, counted from 0), as lists of image indices.
    pub fn pass(&self, pass: u64) -> Pass {
        let items = match self.unit {
            ShuffleUnit::Examples => self.len,
            ShuffleUnit::Batches => self.steps(),
        };
        Pass { plan: *self, order: self.shuffle.draw(items, self.seed, pass), next: 0, steps: self.steps() }
    }

    /// The batches of pass `pass` of both branches: `(clean, noisy)` index lists of equal length.
    ///
    /// The noisy branch is on pass `pass`; with [`Pairing::Paired`] the clean branch is too.
    pub fn paired_pass(
        &self,
        pass: u64,
        pairing: Pairing,
    ) -> impl ExactSizeIterator<Item = (Vec<u32>, Vec<u32>)> + use<> {
        let clean_pass = match pairing {
            Pairing::Paired => pass,
            Pairing::Mispaired { clean_passes_ahead } => pass + clean_passes_ahead,
        };
        self.pass(clean_pass).zip(self.pass(pass))
    }
}

/// The batches of one pass; see [`Batches::pass`].
#[derive(Debug, Clone)]
pub struct Pass {
    plan: Batches,
    /// Order of the examples, or of the batches when those are shuffled.
    order: Vec<u32>,
    next: usize,
    steps: usize,
}

impl Iterator for Pass {
    type Item = Vec<u32>;

    fn next(&mut self) -> Option<Vec<u32>> {
        if self.next == self.steps {
            return None;
        }
        let Batches { len, batch_size, unit, .. } = self.plan;
        let batch = match unit {
            ShuffleUnit::Examples => self.next,
            ShuffleUnit::Batches => self.order[self.next] as usize,
        };
        self.next += 1;
        let examples = batch * batch_size..len.min((batch + 1) * batch_size);
        Some(match unit {
            ShuffleUnit::Examples => self.order[examples].to_vec(),
            ShuffleUnit::Batches => (examples.start as u32..examples.end as u32).collect(),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.steps - self.next, Some(self.steps - self.next))
    }
}

impl ExactSizeIterator for Pass {}

/// Indices are 32 bits wide, as the random streams of the augmentations are.
fn check_count(op: &'static str, n: usize) -> Result<()> {
    if u32::try_from(n).is_ok() {
        return Ok(());
    }
    Err(Error::argument(op, "fewer than 2^32 images", n, "split the data set"))
}
