//! Whole data sets in the memory of CUDA devices.

use super::ImageSet;
use crate::Result;
use crate::cuda::augment_pipeline::ImageTable;
use crate::device::{Device, Gpu, lock};
use crate::tensor::Tensor;
use std::sync::{Arc, Mutex};

/// Share of the free memory that a data set may take.
const SHARE: usize = 4;

/// All images of a set as bytes in a device's memory.
pub(crate) struct OnDevice {
    pub pixels: Tensor,
    pub table: ImageTable,
}

/// The copies that a set and its clones have, one per device. They live as long as the set.
#[derive(Clone, Default)]
pub(super) struct Copies(Arc<Mutex<Vec<Arc<OnDevice>>>>);

impl ImageSet {
    /// The copy of this set on a CUDA device, made when it is first asked for; `None` where it would take more than a
    /// quarter of the free memory.
    pub(crate) fn on_device(&self, device: &Device, gpu: &Gpu) -> Result<Option<Arc<OnDevice>>> {
        // Held while the copy is made: a second worker waits instead of making another.
        let mut copies = lock(&self.copies.0);
        if let Some(copy) = copies.iter().find(|copy| copy.pixels.device() == device) {
            return Ok(Some(copy.clone()));
        }
        let bytes: usize = (0..self.len()).map(|i| self.image(i).2.len()).sum();
        if !gpu.free_bytes().is_ok_and(|free| bytes <= free / SHARE) {
            return Ok(None);
        }
        let all: Vec<u32> = (0..self.len() as u32).collect();
        let table = ImageTable::new(self.sizes(&all), gpu.stream())?;
        copies.push(Arc::new(OnDevice { pixels: self.pixels(device, &all)?, table }));
        Ok(copies.last().cloned())
    }

    /// Heights and widths of the images `indices`.
    pub(crate) fn sizes(&self, indices: &[u32]) -> impl Iterator<Item = [usize; 2]> {
        indices.iter().map(|&i| {
            let (height, width, _) = self.image(i as usize);
            [height, width]
        })
    }

    /// The pixels of the images `indices`, one behind the other, sent to a device.
    pub(crate) fn pixels(&self, device: &Device, indices: &[u32]) -> Result<Tensor> {
        let pixels: Vec<u8> = indices.iter().flat_map(|&i| self.image(i as usize).2).copied().collect();
        Tensor::from_slice(device, &[pixels.len()], &pixels)
    }
}
