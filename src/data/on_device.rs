//! Whole data sets in the memory of CUDA devices.

use super::ImageSet;
use crate::Result;
use crate::cuda::augment_pipeline::ImageTable;
use crate::device::{Device, Gpu, lock};
use crate::tensor::Tensor;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// Share of the memory, as far as it is free or theirs, that data sets may take together.
const SHARE: usize = 4;

/// All images of a set as bytes in a device's memory.
pub(crate) struct OnDevice {
    pub pixels: Tensor,
    pub table: ImageTable,
    _share: Share,
}

/// Bytes that a device counts as those of data sets.
struct Share {
    device: Device,
    bytes: usize,
}

impl Share {
    /// `None` where data sets would take too much.
    fn take(device: &Device, gpu: &Gpu, bytes: usize) -> Option<Share> {
        let held = gpu.data_set_bytes().fetch_add(bytes, Ordering::Relaxed);
        // From here on dropped again if there is no room.
        let share = Share { device: device.clone(), bytes };
        gpu.free_bytes().is_ok_and(|free| held + bytes <= (free + held) / SHARE).then_some(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(gpu) = self.device.gpu() {
            gpu.data_set_bytes().fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// The copies that a set and its clones have, one per device. They live as long as the set.
#[derive(Clone, Default)]
pub(super) struct Copies(Arc<Mutex<Vec<Arc<OnDevice>>>>);

impl ImageSet {
    /// The copy of this set on a CUDA device, made when it is first asked for; `None` where data sets would take more than
    /// a quarter of the memory together.
    pub(crate) fn on_device(&self, device: &Device, gpu: &Gpu) -> Result<Option<Arc<OnDevice>>> {
        // Held while the copy is made: a second worker waits instead of making another.
        let mut copies = lock(&self.copies.0);
        if let Some(copy) = copies.iter().find(|copy| copy.pixels.device() == device) {
            return Ok(Some(copy.clone()));
        }
        let bytes: usize = (0..self.len()).map(|i| self.image(i).2.len()).sum();
        let Some(share) = Share::take(device, gpu, bytes) else { return Ok(None) };
        let all: Vec<u32> = (0..self.len() as u32).collect();
        let table = ImageTable::new(gpu.kernels(), self.sizes(&all), gpu.stream())?;
        copies.push(Arc::new(OnDevice { pixels: self.pixels(device, &all)?, table, _share: share }));
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
