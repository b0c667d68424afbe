//! Whole data sets in the memory of CUDA devices.

use super::ImageSet;
use crate::Result;
use crate::cuda::augment_pipeline::ImageTable;
use crate::device::{Device, Gpu, Scratch, lock};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, Weak};

/// Share of the memory, as far as it is free or theirs, that data sets may take together.
const SHARE: usize = 4;

/// All images of a set as bytes in a device's memory. It keeps no [`Device`], which keeps it.
pub(crate) struct OnDevice {
    pub pixels: Scratch<u8>,
    pub table: ImageTable,
    _share: Share,
}

/// Bytes that a device counts as those of data sets.
struct Share {
    gpu: Arc<Gpu>,
    bytes: usize,
}

impl Share {
    /// `None` where data sets would take too much.
    fn take(gpu: &Arc<Gpu>, bytes: usize) -> Option<Share> {
        let held = gpu.data_set_bytes().fetch_add(bytes, Ordering::Relaxed);
        // From here on dropped again if there is no room.
        let share = Share { gpu: gpu.clone(), bytes };
        gpu.free_bytes().is_ok_and(|free| held + bytes <= (free + held) / SHARE).then_some(share)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.gpu.data_set_bytes().fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The copies that a device holds, by the address of what their set knows of them.
pub(crate) type Resident = Mutex<HashMap<usize, Arc<OnDevice>>>;

/// What a set and its clones know of their copies. A copy goes with the last of them, or with its device.
#[derive(Clone, Default)]
pub(super) struct Copies(Arc<Holders>);

/// The devices that hold a copy.
#[derive(Default)]
struct Holders(Mutex<Vec<Weak<Resident>>>);

impl Holders {
    fn key(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}

impl Drop for Holders {
    fn drop(&mut self) {
        for resident in lock(&self.0).iter().filter_map(Weak::upgrade) {
            // The copy is dropped when the map is no longer locked.
            let _copy = lock(&resident).remove(&self.key());
        }
    }
}

impl ImageSet {
    /// The copy of this set on a CUDA device, made when it is first asked for; `None` where data sets would take more than
    /// a quarter of the memory together.
    pub(crate) fn on_device(&self, device: &Device, gpu: &Arc<Gpu>) -> Result<Option<Arc<OnDevice>>> {
        let (Copies(holders), resident) = (&self.copies, device.resident_sets());
        // Held while the copy is made: a second worker waits instead of making another.
        let mut devices = lock(&holders.0);
        if let Some(copy) = lock(resident).get(&holders.key()) {
            return Ok(Some(copy.clone()));
        }
        let bytes: usize = (0..self.len()).map(|i| self.image(i).2.len()).sum();
        let Some(share) = Share::take(gpu, bytes) else { return Ok(None) };
        let all: Vec<u32> = (0..self.len() as u32).collect();
        let table = ImageTable::new(gpu.kernels(), self.sizes(&all), gpu.stream())?;
        let copy = Arc::new(OnDevice { pixels: self.pixels(device, &all)?, table, _share: share });
        lock(resident).insert(holders.key(), copy.clone());
        devices.retain(|device| device.strong_count() > 0);
        devices.push(Arc::downgrade(resident));
        Ok(Some(copy))
    }

    /// Heights and widths of the images `indices`.
    pub(crate) fn sizes(&self, indices: &[u32]) -> impl Iterator<Item = [usize; 2]> {
        indices.iter().map(|&i| {
            let (height, width, _) = self.image(i as usize);
            [height, width]
        })
    }

    /// The pixels of the images `indices`, one behind the other, sent to a CUDA device.
    pub(crate) fn pixels(&self, device: &Device, indices: &[u32]) -> Result<Scratch<u8>> {
        let pixels: Vec<u8> = indices.iter().flat_map(|&i| self.image(i as usize).2).copied().collect();
        Scratch::upload(device, &pixels)
    }
}
