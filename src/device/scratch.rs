//! Memory of a CUDA device that an op needs beside its tensors: workspaces, partial results, small tables.

use super::{Block, Device, Gpu};
use crate::Result;
use bytemuck::Pod;
use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, MutexGuard};

/// `len` values from the device's pool, back in it at drop: what was queued before still finds them untouched, because
/// the next owner's work is queued behind it.
pub(crate) struct Scratch<T> {
    block: Block,
    len: usize,
    gpu: Arc<Gpu>,
    values: PhantomData<T>,
}

impl<T: Pod> Scratch<T> {
    /// Values that are written before they are read.
    ///
    /// # Panics
    /// When the device is no CUDA device: launchers alone use scratch memory.
    pub(crate) fn new(device: &Device, len: usize) -> Result<Scratch<T>> {
        let gpu = device.gpu().expect("scratch memory is for launches").clone();
        Ok(Scratch { block: device.allocate(len * size_of::<T>())?, len, gpu, values: PhantomData })
    }

    /// A copy of values of the host.
    pub(crate) fn upload(device: &Device, values: &[T]) -> Result<Scratch<T>> {
        let mut scratch = Scratch::new(device, values.len())?;
        scratch.copy_from_slice(values)?;
        Ok(scratch)
    }

    /// Overwrites all values.
    pub(crate) fn copy_from_slice(&mut self, values: &[T]) -> Result<()> {
        assert_eq!(values.len(), self.len, "as many values");
        // SAFETY: the block holds the values and is nobody else's.
        unsafe { self.gpu.upload(self.block.address(), bytemuck::cast_slice(values)) }
    }

    /// Zeros.
    pub(crate) fn zeros(device: &Device, len: usize) -> Result<Scratch<T>> {
        let scratch = Scratch::new(device, len)?;
        // SAFETY: the block holds the values and is nobody else's.
        unsafe { scratch.gpu.zero(scratch.block.address(), len * size_of::<T>()) }?;
        Ok(scratch)
    }

    /// The values, after everything queued so far.
    pub(crate) fn to_vec(&self) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); self.len];
        // SAFETY: the block holds the values and is nobody else's.
        unsafe { self.gpu.download(self.block.address(), bytemuck::cast_slice_mut(&mut values)) }?;
        Ok(values)
    }
}

/// Values that launches of one kind read, always in the same memory while they are as many: a captured launch finds the
/// next step's there. They are sent when they differ from those that lie there.
pub(crate) struct Kept<T> {
    sent: Vec<T>,
    on_device: Option<Scratch<T>>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Kept { sent: Vec::new(), on_device: None }
    }
}

impl<T: Pod + PartialEq> Kept<T> {
    /// These values, on the device. The launch that reads them is to be queued before others are set.
    pub(crate) fn set(&mut self, device: &Device, values: &[T]) -> Result<&Scratch<T>> {
        // Taken out, so that nothing is left if something fails.
        let kept = self.on_device.take();
        let on_device = match kept {
            Some(kept) if self.sent == values => kept,
            Some(mut kept) if kept.len == values.len() => {
                kept.copy_from_slice(values)?;
                kept
            }
            _ => Scratch::upload(device, values)?,
        };
        if self.sent != values {
            self.sent = values.to_vec();
        }
        Ok(self.on_device.insert(on_device))
    }
}

/// What random numbers of a batch are drawn for: the step, and the images' indices.
#[derive(Default)]
pub(crate) struct Draws {
    step: Kept<u32>,
    indices: Kept<u32>,
}

impl Draws {
    /// These, on the device; see [`Kept::set`].
    pub(crate) fn set(
        &mut self,
        device: &Device,
        step: u32,
        indices: &[u32],
    ) -> Result<(&Scratch<u32>, &Scratch<u32>)> {
        Ok((self.step.set(device, &[step])?, self.indices.set(device, indices)?))
    }
}

/// Values in use, until the launch that reads them is queued. A device that keeps nothing frees them then.
pub(crate) struct InUse<'a, V: Default> {
    pub(super) values: MutexGuard<'a, V>,
    pub(super) keeps: bool,
}

impl<V: Default> Deref for InUse<'_, V> {
    type Target = V;
    fn deref(&self) -> &V {
        &self.values
    }
}

impl<V: Default> DerefMut for InUse<'_, V> {
    fn deref_mut(&mut self) -> &mut V {
        &mut self.values
    }
}

impl<V: Default> Drop for InUse<'_, V> {
    fn drop(&mut self) {
        if !self.keeps {
            *self.values = V::default();
        }
    }
}

impl<T> DeviceSlice<T> for Scratch<T> {
    fn len(&self) -> usize {
        self.len
    }
    fn stream(&self) -> &Arc<CudaStream> {
        self.gpu.stream()
    }
}

impl<T> DevicePtr<T> for Scratch<T> {
    fn device_ptr<'a>(&'a self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        self.gpu.on_stream(self.block.address(), stream)
    }
}

impl<T> DevicePtrMut<T> for Scratch<T> {
    fn device_ptr_mut<'a>(&'a mut self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        self.gpu.on_stream(self.block.address(), stream)
    }
}
