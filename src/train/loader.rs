//! Augmented batches on a device, made ahead of time.

use crate::augment::{ImageRef, Pipeline};
use crate::data::{Batches, ImageSet, Pairing, Prefetch};
use crate::device::{Device, Kind};
use crate::tensor::Tensor;
use crate::{DType, Error, Result};
use std::sync::Arc;
#[cfg(feature = "cuda")]
use {
    super::resident::{Feed, Key},
    std::sync::OnceLock,
};

/// One training batch.
#[derive(Debug, Clone)]
pub struct Batch {
    /// One image tensor [n, h, w, 3] in 0..255 per pipeline of the loader.
    pub images: Vec<Tensor>,
    /// Class numbers, i32 `[n]`, of the images of the last pipeline.
    pub labels: Tensor,
    /// Data-set indices of the images of the last pipeline.
    pub indices: Vec<u32>,
}

/// Turns a data set into batches: a plan of indices, and one or two augmentation pipelines.
///
/// The batch of pass `p`, step `s` is a pure function of the seed, `p` and `s`.
#[derive(Clone)]
pub struct Loader {
    inner: Arc<Inner>,
}

struct Inner {
    plan: Batches,
    pairing: Pairing,
    /// The set after each pipeline.
    views: Vec<Augmented>,
}

impl Loader {
    /// Batches of `set` after `pipeline`.
    pub fn new(device: &Device, set: ImageSet, plan: Batches, pipeline: Pipeline, seed: u64) -> Self {
        Loader::with(device, set, plan, vec![pipeline], Pairing::Paired, seed)
    }

    /// Batches that carry two views: `clean` and `noisy`, aligned as `pairing` says. Labels are those of the noisy
    /// view, which draws random numbers of its own: flips and crops of the two are independent.
    pub fn paired(
        device: &Device,
        set: ImageSet,
        plan: Batches,
        [clean, noisy]: [Pipeline; 2],
        pairing: Pairing,
        seed: u64,
    ) -> Self {
        Loader::with(device, set, plan, vec![clean, noisy.with_branch(1)], pairing, seed)
    }

    fn with(
        device: &Device,
        set: ImageSet,
        plan: Batches,
        pipelines: Vec<Pipeline>,
        pairing: Pairing,
        seed: u64,
    ) -> Self {
        let view = |pipeline| Augmented::new(device, set.clone(), pipeline, seed);
        let inner = Inner { plan, pairing, views: pipelines.into_iter().map(view).collect() };
        Loader { inner: Arc::new(inner) }
    }

    /// Batches per pass.
    pub fn steps(&self) -> usize {
        self.inner.plan.steps()
    }

    /// Examples in each batch of the first pass.
    pub fn batch_sizes(&self) -> Vec<usize> {
        self.inner.plan.pass(0).map(|indices| indices.len()).collect()
    }

    /// The device that batches are made on.
    pub fn device(&self) -> &Device {
        &self.inner.views[0].device
    }

    /// The data set.
    pub fn set(&self) -> &ImageSet {
        &self.inner.views[0].set
    }

    /// The batches of pass `pass` from step `first` on, prepared by a worker thread.
    ///
    /// # Errors
    /// When the worker cannot be started.
    pub fn pass(&self, pass: u64, first: usize) -> Result<Prefetch<Batch>> {
        let this = self.clone();
        let steps = self.steps() as u64;
        let plan = self.inner.plan.paired_pass(pass, self.inner.pairing).enumerate().skip(first);
        let batches = plan.map(move |(i, (clean, noisy))| this.inner.batch(pass * steps + i as u64, &clean, noisy));
        Prefetch::new(Some(self.device().thread_pool()), batches)
    }
}

impl Inner {
    fn batch(&self, step: u64, clean: &[u32], noisy: Vec<u32>) -> Result<Batch> {
        let step = u32::try_from(step).map_err(|_| {
            Error::argument("Loader", "fewer than 2^32 steps", step, "the random streams are numbered by 32-bit steps")
        })?;
        let orders: &[&[u32]] = if self.views.len() == 2 { &[clean, &noisy] } else { &[&noisy] };
        let images = self.views.iter().zip(orders).map(|(view, indices)| view.batch(indices, step));
        let images = images.collect::<Result<_>>()?;
        let Augmented { set, device, .. } = &self.views[0];
        let labels = set.labels_of(&noisy)?;
        Ok(Batch { images, labels: Tensor::from_slice(device, &[labels.len()], &labels)?, indices: noisy })
    }
}

/// A set after a pipeline: its batches, on a device.
///
/// A CUDA device keeps the whole set as bytes as long as all such sets take at most a quarter of the memory that is free or
/// theirs; everybody who asks for the set or a clone of it shares the copy. Elsewhere each batch is sent.
///
/// # Example
/// ```
/// use warpsmith::Device;
/// use warpsmith::augment::{Pipeline, Step};
/// use warpsmith::data::synthetic;
/// use warpsmith::train::Augmented;
/// let set = synthetic::images(100, 10, 32, 32, 7)?;
/// let flipped = Augmented::new(&Device::cpu()?, set, Pipeline::new(vec![Step::RandomFlip])?, 1);
/// assert_eq!(flipped.batch(&[3, 1, 4], 0)?.shape(), [3, 32, 32, 3]);
/// # Ok::<(), warpsmith::Error>(())
/// ```
pub struct Augmented {
    set: ImageSet,
    pipeline: Pipeline,
    seed: u64,
    device: Device,
    /// Made with the first batch.
    #[cfg(feature = "cuda")]
    feed: OnceLock<Feed>,
}

impl Augmented {
    /// The images of `set` after `pipeline`, whose random numbers come from `seed`.
    pub fn new(device: &Device, set: ImageSet, pipeline: Pipeline, seed: u64) -> Augmented {
        Augmented {
            set,
            pipeline,
            seed,
            device: device.clone(),
            #[cfg(feature = "cuda")]
            feed: OnceLock::new(),
        }
    }

    /// The images `indices`, as one f32 tensor [n, h, w, 3] in 0..255, drawn as in step `step`.
    ///
    /// # Errors
    /// When there is no index, or one is not below the set's length; when the images do not all come out at one size, or
    /// a step of the pipeline refuses one.
    pub fn batch(&self, indices: &[u32], step: u32) -> Result<Tensor> {
        if indices.is_empty() {
            return Err(Error::argument("Augmented::batch", "at least one image", 0, "pass a non-empty batch"));
        }
        self.set.check_indices("Augmented::batch", indices)?;
        match self.device.kind() {
            Kind::Cpu => augment_on_host(&self.device, &self.set, &self.pipeline, indices, self.seed, step),
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => {
                let feed = match self.feed.get() {
                    Some(feed) => feed,
                    None => {
                        // Two workers may both make it, from one copy of the set; the first is kept.
                        let feed = Feed::new(&self.device, gpu, &self.set, &self.pipeline)?;
                        self.feed.get_or_init(|| feed)
                    }
                };
                feed.batch(&self.device, gpu, &self.set, indices, Key { seed: self.seed, step })
            }
        }
    }
}

fn augment_on_host(
    device: &Device,
    set: &ImageSet,
    pipeline: &Pipeline,
    indices: &[u32],
    seed: u64,
    step: u32,
) -> Result<Tensor> {
    let refs: Vec<ImageRef> = indices
        .iter()
        .map(|&i| {
            let (height, width, data) = set.image(i as usize);
            ImageRef { height, width, data }
        })
        .collect();
    let (h, w) = pipeline.output_size(refs[0].height, refs[0].width)?;
    let batch = Tensor::empty(device, &[indices.len(), h, w, 3], DType::F32)?;
    {
        let mut out = batch.write::<f32>()?;
        let out = &mut *out;
        device.run(|| pipeline.apply(&refs, indices, seed, step, out))?;
    }
    Ok(batch)
}
