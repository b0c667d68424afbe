//! Augmentation on a CUDA device: images as bytes in its memory, parameters drawn and pixels computed by one launch.

use crate::augment::Pipeline;
use crate::cuda::augment_pipeline::{self, ImageTable, Plan, Rows};
use crate::data::ImageSet;
use crate::device::{Device, Gpu, Scratch};
use crate::tensor::Tensor;
use crate::{DType, Result};

/// Share of the free memory that a data set may take.
const SHARE: usize = 4;
/// Images in work at once for each multiprocessor, where two copies of one do not fit in shared memory.
const BLOCKS: usize = 2;

/// Images in a CUDA device's memory: a whole data set, or a batch.
pub(super) struct Resident {
    pixels: Tensor,
    table: ImageTable,
    rows: Rows,
}

impl Resident {
    /// All images of a set, if they take no more than a quarter of the free memory.
    pub(super) fn whole(device: &Device, gpu: &Gpu, set: &ImageSet) -> Result<Option<Resident>> {
        let bytes: usize = (0..set.len()).map(|i| set.image(i).2.len()).sum();
        let fits = gpu.free_bytes().is_ok_and(|free| bytes <= free / SHARE);
        fits.then(|| Resident::new(device, gpu, set, 0..set.len() as u32, Rows::DataSet)).transpose()
    }

    /// The images of a batch.
    pub(super) fn batch(device: &Device, gpu: &Gpu, set: &ImageSet, indices: &[u32]) -> Result<Resident> {
        Resident::new(device, gpu, set, indices.iter().copied(), Rows::Batch)
    }

    fn new(
        device: &Device,
        gpu: &Gpu,
        set: &ImageSet,
        indices: impl Iterator<Item = u32> + Clone,
        rows: Rows,
    ) -> Result<Resident> {
        let images = indices.map(|i| set.image(i as usize));
        let table = ImageTable::new(images.clone().map(|(height, width, _)| [height, width]), gpu.stream())?;
        let pixels: Vec<u8> = images.flat_map(|(_, _, data)| data).copied().collect();
        Ok(Resident { pixels: Tensor::from_slice(device, &[pixels.len()], &pixels)?, table, rows })
    }

    /// The images `indices` after the steps of `plan`, f32 `[n, h, w, 3]`: the bits of [`Pipeline::apply`].
    pub(super) fn apply(&self, device: &Device, gpu: &Gpu, plan: &Plan, indices: &[u32], key: Key) -> Result<Tensor> {
        let (h, w) = plan.output_size(&self.table)?;
        let batch = Tensor::empty(device, &[indices.len(), h, w, 3], DType::F32)?;
        let memory = augment_pipeline::memory(gpu.kernels(), plan, &self.table)?;
        let mut workspace = match memory.is_shared {
            true => None,
            false => {
                let blocks = indices.len().min(BLOCKS * gpu.multiprocessors()?);
                Some(Scratch::<u8>::new(device, blocks * memory.image_bytes)?)
            }
        };
        device.queue_op(gpu, "augment", || {
            augment_pipeline::apply(
                gpu.kernels(),
                plan,
                &self.table,
                self.rows,
                &self.pixels.device_read()?,
                &Scratch::upload(device, indices)?,
                key.seed,
                &Scratch::upload(device, &[key.step])?,
                workspace.as_mut(),
                &mut batch.device_write()?,
                gpu.stream(),
            )
        })?;
        Ok(batch)
    }
}

/// What the random numbers of a batch depend on beside the images' indices.
#[derive(Clone, Copy)]
pub(super) struct Key {
    pub seed: u64,
    pub step: u32,
}

/// The images `indices` of `set` after `pipeline`, sent for this batch alone.
pub(super) fn augment(
    device: &Device,
    gpu: &Gpu,
    set: &ImageSet,
    pipeline: &Pipeline,
    indices: &[u32],
    key: Key,
) -> Result<Tensor> {
    let plan = pipeline.plan(gpu.stream())?;
    Resident::batch(device, gpu, set, indices)?.apply(device, gpu, &plan, indices, key)
}
