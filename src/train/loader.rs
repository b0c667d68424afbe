//! Augmented batches on a device, made ahead of time.

use crate::augment::{ImageRef, Pipeline};
use crate::data::{Batches, ImageSet, Pairing, Prefetch};
use crate::device::{Device, Kind};
use crate::tensor::Tensor;
use crate::{DType, Error, Result};
use std::sync::Arc;
#[cfg(feature = "cuda")]
use {
    super::resident::{self, Key, Resident},
    crate::cuda::augment_pipeline::Plan,
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
    set: ImageSet,
    plan: Batches,
    pipelines: Vec<Pipeline>,
    pairing: Pairing,
    seed: u64,
    device: Device,
    /// The whole set on a CUDA device and a plan per pipeline, made with the first batch; `None` where it does not fit.
    #[cfg(feature = "cuda")]
    resident: OnceLock<Option<(Resident, Vec<Plan>)>>,
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
        let inner = Inner {
            set,
            plan,
            pipelines,
            pairing,
            seed,
            device: device.clone(),
            #[cfg(feature = "cuda")]
            resident: OnceLock::new(),
        };
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
        &self.inner.device
    }

    /// The data set.
    pub fn set(&self) -> &ImageSet {
        &self.inner.set
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
        Prefetch::new(Some(self.inner.device.thread_pool()), batches)
    }
}

impl Inner {
    fn batch(&self, step: u64, clean: &[u32], noisy: Vec<u32>) -> Result<Batch> {
        let step = u32::try_from(step).map_err(|_| {
            Error::argument("Loader", "fewer than 2^32 steps", step, "the random streams are numbered by 32-bit steps")
        })?;
        let orders: &[&[u32]] = if self.pipelines.len() == 2 { &[clean, &noisy] } else { &[&noisy] };
        let mut images = Vec::with_capacity(orders.len());
        for (number, indices) in (0..self.pipelines.len()).zip(orders) {
            images.push(self.augment(number, indices, step)?);
        }
        let labels = self.set.labels_of(&noisy)?;
        Ok(Batch { images, labels: Tensor::from_slice(&self.device, &[labels.len()], &labels)?, indices: noisy })
    }
}

impl Inner {
    /// The images `indices` after pipeline `number`.
    fn augment(&self, number: usize, indices: &[u32], step: u32) -> Result<Tensor> {
        #[cfg(feature = "cuda")]
        if let Kind::Cuda(gpu) = self.device.kind() {
            // Workers of two passes may both make it; the first is kept.
            if self.resident.get().is_none() {
                let plans = self.pipelines.iter().map(|pipeline| pipeline.plan(gpu.stream())).collect::<Result<_>>()?;
                let whole = Resident::whole(&self.device, gpu, &self.set)?.map(|resident| (resident, plans));
                let _ = self.resident.set(whole);
            }
            if let Some(Some((resident, plans))) = self.resident.get() {
                return resident.apply(&self.device, gpu, &plans[number], indices, Key { seed: self.seed, step });
            }
        }
        augment(&self.device, &self.set, &self.pipelines[number], indices, self.seed, step)
    }
}

/// The images `indices` of `set` after `pipeline`, as one f32 tensor [n, h, w, 3] in 0..255.
///
/// # Errors
/// When the images do not all come out at one size, or a step of the pipeline refuses one.
pub fn augment(
    device: &Device,
    set: &ImageSet,
    pipeline: &Pipeline,
    indices: &[u32],
    seed: u64,
    step: u32,
) -> Result<Tensor> {
    if indices.is_empty() {
        return Err(Error::argument("augment", "at least one image", 0, "pass a non-empty batch"));
    }
    match device.kind() {
        Kind::Cpu => augment_on_host(device, set, pipeline, indices, seed, step),
        #[cfg(feature = "cuda")]
        Kind::Cuda(gpu) => resident::augment(device, gpu, set, pipeline, indices, Key { seed, step }),
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
