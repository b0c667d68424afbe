//! Augmentation on a CUDA device: images as bytes in its memory, parameters drawn and pixels computed by one launch.

use crate::augment::Pipeline;
use crate::cuda::augment_pipeline::{self, ImageTable, Plan, Rows};
use crate::data::ImageSet;
use crate::data::on_device::OnDevice;
use crate::device::{Device, Gpu, Scratch, lock};
use crate::tensor::Tensor;
use crate::{DType, Result};
use std::sync::{Arc, Mutex};

/// Images in work at once for each multiprocessor, where two copies of one do not fit in shared memory.
const BLOCKS: usize = 2;

/// What batches of one set after one pipeline are made from, again and again.
pub(super) struct Feed {
    plan: Plan,
    images: Images,
}

enum Images {
    /// The whole set lies on the device.
    Resident(Arc<OnDevice>),
    /// Each batch is sent; the table is that of the last one.
    Sent(Mutex<ImageTable>),
}

/// What the random numbers of a batch depend on beside the images' indices.
#[derive(Clone, Copy)]
pub(super) struct Key {
    pub seed: u64,
    pub step: u32,
}

impl Feed {
    pub(super) fn new(device: &Device, gpu: &Arc<Gpu>, set: &ImageSet, pipeline: &Pipeline) -> Result<Feed> {
        let images = match set.on_device(device, gpu)? {
            Some(copy) => Images::Resident(copy),
            None => Images::Sent(Mutex::new(ImageTable::new(gpu.kernels(), [], gpu.stream())?)),
        };
        Ok(Feed { plan: pipeline.plan(gpu.kernels(), gpu.stream())?, images })
    }

    /// The images `indices` of the set after the pipeline, f32 `[n, h, w, 3]`: the bits of [`Pipeline::apply`].
    pub(super) fn batch(
        &self,
        device: &Device,
        gpu: &Gpu,
        set: &ImageSet,
        indices: &[u32],
        key: Key,
    ) -> Result<Tensor> {
        match &self.images {
            Images::Resident(copy) => self.apply(device, gpu, (&copy.pixels, &copy.table, Rows::DataSet), indices, key),
            Images::Sent(table) => {
                // Held until the launch is queued: the next batch's table goes to the same memory.
                let mut table = lock(table);
                table.replace(gpu.kernels(), set.sizes(indices), gpu.stream())?;
                self.apply(device, gpu, (&set.pixels(device, indices)?, &table, Rows::Batch), indices, key)
            }
        }
    }

    fn apply(
        &self,
        device: &Device,
        gpu: &Gpu,
        (pixels, table, rows): (&Scratch<u8>, &ImageTable, Rows),
        indices: &[u32],
        key: Key,
    ) -> Result<Tensor> {
        let (h, w) = self.plan.output_size(table)?;
        let batch = Tensor::empty(device, &[indices.len(), h, w, 3], DType::F32)?;
        let memory = augment_pipeline::memory(gpu.kernels(), &self.plan, table)?;
        let mut workspace = match memory.is_shared {
            true => None,
            false => {
                let blocks = indices.len().min(BLOCKS * gpu.multiprocessors()?);
                Some(Scratch::<u8>::new(device, blocks * memory.image_bytes)?)
            }
        };
        device.queue_op(gpu, "augment", || {
            let mut draws = device.augment_draws();
            let (step, drawn_for) = draws.set(device, key.step, indices)?;
            augment_pipeline::apply(
                gpu.kernels(),
                &self.plan,
                table,
                rows,
                pixels,
                drawn_for,
                key.seed,
                step,
                workspace.as_mut(),
                &mut batch.device_write()?,
                gpu.stream(),
            )
        })?;
        Ok(batch)
    }
}
