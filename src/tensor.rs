//! Tensors: contiguous, row-major arrays on a device.
//!
//! A tensor is a typed window onto a reference-counted storage. Cloning, reshaping and slicing along
//! whole rows cost nothing. Host code reads and writes through guards ([`Tensor::read`],
//! [`Tensor::write`]), launches through guards of their own ([`Tensor::device_read`], [`Tensor::device_write`]); a table
//! per storage refuses overlapping borrows that are not all reads, so views of one arena can be written side by side,
//! but never into each other.

#[cfg(feature = "cuda")]
use crate::device::Gpu;
use crate::device::{Block, Device, Kind, lock};
use crate::dtype::{DType, Element};
use crate::{Error, Result};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Arc, Mutex};

/// A contiguous, row-major array on a device. Images are NHWC, filters KRSC.
///
/// # Example
/// ```
/// use warpsmith::{Device, Tensor};
/// let device = Device::cpu()?;
/// let x = Tensor::from_slice(&device, &[2, 3], &[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0])?;
/// assert_eq!(x.reshape(&[3, 2])?.shape(), &[3, 2]);
/// assert_eq!(x.to_vec::<f32>()?[4], 5.0);
/// # Ok::<(), warpsmith::Error>(())
/// ```
#[derive(Clone)]
pub struct Tensor {
    storage: Arc<Storage>,
    byte_offset: usize,
    shape: Vec<usize>,
    dtype: DType,
}

struct Storage {
    block: Block,
    bytes: usize,
    device: Device,
    borrows: Mutex<Vec<Borrow>>,
}

#[derive(Clone, PartialEq)]
struct Borrow {
    range: Range<usize>,
    write: bool,
}

fn elems(op: &'static str, shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, &extent| n.checked_mul(extent))
        .filter(|n| n.checked_mul(4).is_some_and(|bytes| bytes <= isize::MAX as usize))
        .ok_or_else(|| {
            Error::shape(op, "a shape that fits the address space", format_args!("{shape:?}"), "check the extents")
        })
}

impl Tensor {
    /// A tensor whose contents are arbitrary (but initialised): for outputs that are written in full.
    ///
    /// # Errors
    /// When memory runs out or the shape does not fit the address space.
    pub fn empty(device: &Device, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let bytes = elems("Tensor::empty", shape)? * dtype.bytes();
        let storage =
            Storage { block: device.allocate(bytes)?, bytes, device: device.clone(), borrows: Mutex::default() };
        Ok(Tensor { storage: Arc::new(storage), byte_offset: 0, shape: shape.to_vec(), dtype })
    }

    /// A tensor of zeros.
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    pub fn zeros(device: &Device, shape: &[usize], dtype: DType) -> Result<Tensor> {
        let tensor = Tensor::empty(device, shape, dtype)?;
        tensor.zero()?;
        Ok(tensor)
    }

    /// A tensor with every element `value`.
    ///
    /// # Errors
    /// As [`Tensor::empty`].
    pub fn full<T: Element>(device: &Device, shape: &[usize], value: T) -> Result<Tensor> {
        let tensor = Tensor::empty(device, shape, T::DTYPE)?;
        tensor.fill(value)?;
        Ok(tensor)
    }

    /// A tensor with the given elements, row-major.
    ///
    /// # Errors
    /// When the number of values is not the product of the shape, or memory runs out.
    pub fn from_slice<T: Element>(device: &Device, shape: &[usize], values: &[T]) -> Result<Tensor> {
        let expected = elems("Tensor::from_slice", shape)?;
        crate::error::check_len("Tensor::from_slice", "values", values.len(), expected)?;
        let tensor = Tensor::empty(device, shape, T::DTYPE)?;
        tensor.copy_from_slice(values)?;
        Ok(tensor)
    }

    /// The extents.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The extents of an NHWC image batch as `u32`, for problem structs.
    ///
    /// # Errors
    /// When the tensor does not have four axes.
    pub fn nhwc(&self, op: &'static str) -> Result<[u32; 4]> {
        let wrong = || {
            Error::shape(
                op,
                "4 axes [n, h, w, c] below 2^32",
                format_args!("{:?}", self.shape),
                "reshape the tensor first",
            )
        };
        let dims: [usize; 4] = self.shape[..].try_into().map_err(|_| wrong())?;
        let mut out = [0; 4];
        for (o, d) in out.iter_mut().zip(dims) {
            *o = u32::try_from(d).map_err(|_| wrong())?;
        }
        Ok(out)
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of elements.
    pub fn elems(&self) -> usize {
        self.shape.iter().product()
    }

    /// Where the tensor lives.
    pub fn device(&self) -> &Device {
        &self.storage.device
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// When the number of elements differs.
    pub fn reshape(&self, shape: &[usize]) -> Result<Tensor> {
        if elems("Tensor::reshape", shape)? != self.elems() {
            return Err(Error::shape(
                "Tensor::reshape",
                format_args!("a shape of {} elements", self.elems()),
                format_args!("{shape:?}"),
                format_args!("the tensor is {:?}", self.shape),
            ));
        }
        Ok(Tensor { shape: shape.to_vec(), ..self.clone() })
    }

    /// A window of this tensor's elements, starting at flat element `start`, sharing its storage.
    ///
    /// # Errors
    /// When the window leaves the tensor.
    pub fn view(&self, start: usize, shape: &[usize]) -> Result<Tensor> {
        let len = elems("Tensor::view", shape)?;
        if start.checked_add(len).is_none_or(|end| end > self.elems()) {
            return Err(Error::shape(
                "Tensor::view",
                format_args!("a window inside {} elements", self.elems()),
                format_args!("{len} elements from {start}"),
                "check offset and shape",
            ));
        }
        Ok(Tensor { byte_offset: self.byte_offset + start * self.dtype.bytes(), shape: shape.to_vec(), ..self.clone() })
    }

    /// Whether no other tensor shares this storage.
    pub fn is_unique(&self) -> bool {
        Arc::strong_count(&self.storage) == 1
    }

    fn byte_range(&self) -> Range<usize> {
        self.byte_offset..self.byte_offset + self.elems() * self.dtype.bytes()
    }

    fn borrow(&self, dtype: DType, write: bool) -> Result<Borrow> {
        if dtype != self.dtype {
            return Err(Error::tensor(
                if write { "Tensor::write" } else { "Tensor::read" },
                format_args!("a tensor of {dtype}"),
                self.dtype,
                "cast it first",
            ));
        }
        let range = self.byte_range();
        debug_assert!(range.end <= self.storage.bytes);
        let mut borrows = lock(&self.storage.borrows);
        // An empty window overlaps nothing, wherever it starts.
        let overlaps = |b: &Borrow| range.start.max(b.range.start) < range.end.min(b.range.end);
        let clash = borrows.iter().find(|b| (write || b.write) && overlaps(b));
        if let Some(clash) = clash {
            return Err(Error::tensor(
                if write { "Tensor::write" } else { "Tensor::read" },
                "elements that nobody else is using",
                if clash.write { "elements that are being written" } else { "elements that are being read" },
                "drop the other guard first, or copy the tensor",
            ));
        }
        let borrow = Borrow { range, write };
        borrows.push(borrow.clone());
        Ok(borrow)
    }

    /// Where the first element lies: an address of the host, or of the GPU.
    fn address(&self) -> usize {
        self.storage.block.address() + self.byte_offset
    }

    /// Where the first element lies in the host's memory.
    fn ptr<T>(&self) -> *mut T {
        std::ptr::with_exposed_provenance_mut(self.address())
    }

    /// Borrows the elements for reading on the host. From a CUDA device they are copied, after what is queued there.
    ///
    /// # Errors
    /// When the element type differs, somebody holds a write guard on overlapping elements, or the copy fails.
    pub fn read<T: Element>(&self) -> Result<ReadGuard<'_, T>> {
        let lease = Lease { borrow: self.borrow(T::DTYPE, false)?, tensor: self };
        let copy = match self.device().kind() {
            #[cfg(feature = "cpu")]
            Kind::Cpu => None,
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => {
                let mut copy = vec![T::zeroed(); self.elems()];
                // SAFETY: the tensor's window, borrowed for reading.
                unsafe { gpu.download(self.address(), bytemuck::cast_slice_mut(&mut copy)) }?;
                Some(copy)
            }
        };
        Ok(ReadGuard { lease, copy })
    }

    /// Borrows the elements of a tensor on the CPU for writing.
    ///
    /// # Errors
    /// When the element type differs, somebody holds a guard on overlapping elements, or the tensor is not on the CPU:
    /// [`Tensor::copy_from_slice`] writes to any device.
    pub fn write<T: Element>(&self) -> Result<WriteGuard<'_, T>> {
        #[cfg(feature = "cuda")]
        if self.device().gpu().is_some() {
            return Err(Error::tensor(
                "Tensor::write",
                "a tensor on the CPU",
                self,
                "use Tensor::copy_from_slice, which writes to any device",
            ));
        }
        let lease = Lease { borrow: self.borrow(T::DTYPE, true)?, tensor: self };
        Ok(WriteGuard { lease, elements: PhantomData })
    }

    /// Borrows the elements of a tensor on a CUDA device for launches that read them.
    ///
    /// # Errors
    /// As [`Tensor::read`], or when the tensor is on the CPU.
    #[cfg(feature = "cuda")]
    pub fn device_read<T: Element>(&self) -> Result<DeviceReadGuard<'_, T>> {
        let lease = Lease { borrow: self.borrow(T::DTYPE, false)?, tensor: self };
        Ok(DeviceReadGuard { gpu: self.gpu("Tensor::device_read")?, lease, elements: PhantomData })
    }

    /// Borrows the elements of a tensor on a CUDA device for launches that write them.
    ///
    /// # Errors
    /// As [`Tensor::write`], or when the tensor is on the CPU.
    #[cfg(feature = "cuda")]
    pub fn device_write<T: Element>(&self) -> Result<DeviceWriteGuard<'_, T>> {
        let lease = Lease { borrow: self.borrow(T::DTYPE, true)?, tensor: self };
        Ok(DeviceWriteGuard { gpu: self.gpu("Tensor::device_write")?, lease, elements: PhantomData })
    }

    #[cfg(feature = "cuda")]
    fn gpu(&self, op: &'static str) -> Result<&Gpu> {
        self.device()
            .gpu()
            .map(|gpu| &**gpu)
            .ok_or_else(|| Error::tensor(op, "a tensor on a CUDA device", self, "make it on Device::cuda"))
    }

    /// A copy of the elements, row-major.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        Ok(self.read::<T>()?.to_vec())
    }

    /// The value of a tensor with a single f32 element.
    ///
    /// # Errors
    /// When there is not exactly one element, or it is not f32.
    pub fn item(&self) -> Result<f32> {
        if self.elems() != 1 {
            return Err(Error::shape(
                "Tensor::item",
                "1 element",
                format_args!("{:?}", self.shape),
                "reduce the tensor first",
            ));
        }
        Ok(self.read::<f32>()?[0])
    }

    /// The bytes of a tensor on the CPU; the lease is for writing.
    #[cfg(feature = "cpu")]
    fn host_bytes<'a>(&'a self, lease: &'a mut Lease<'_>) -> &'a mut [u8] {
        debug_assert!(lease.borrow.write);
        // SAFETY: the window lies inside the storage, holds initialised Pod values, and the lease keeps everybody else
        // away from it.
        unsafe { std::slice::from_raw_parts_mut(self.ptr::<u8>(), lease.borrow.range.len()) }
    }

    /// Overwrites the elements, row-major.
    ///
    /// # Errors
    /// When the number of values or their type differs, or somebody holds a guard on overlapping elements.
    pub fn copy_from_slice<T: Element>(&self, values: &[T]) -> Result<()> {
        if T::DTYPE != self.dtype {
            return Err(Error::tensor("Tensor::copy_from_slice", T::DTYPE, self.dtype, "cast it first"));
        }
        crate::error::check_len("Tensor::copy_from_slice", "values", values.len(), self.elems())?;
        self.copy_from_bytes(bytemuck::cast_slice(values))
    }

    /// Sets every element to `value`.
    ///
    /// # Errors
    /// When the type differs or somebody holds a guard on overlapping elements.
    pub fn fill<T: Element>(&self, value: T) -> Result<()> {
        match self.device().kind() {
            #[cfg(feature = "cpu")]
            Kind::Cpu => self.write::<T>()?.fill(value),
            #[cfg(feature = "cuda")]
            Kind::Cuda(_) if bytemuck::bytes_of(&value).iter().all(|&byte| byte == 0) && T::DTYPE == self.dtype => {
                self.zero()?;
            }
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) if T::DTYPE == DType::F32 => {
                let (value, mut y) = (bytemuck::cast(value), self.device_write()?);
                self.device().queue_op(gpu, "fill", || {
                    crate::cuda::elementwise::fill::<f32>(gpu.kernels(), value, &mut y, gpu.stream())
                })?;
            }
            #[cfg(feature = "cuda")]
            Kind::Cuda(_) => self.copy_from_slice(&vec![value; self.elems()])?,
        }
        Ok(())
    }

    /// The elements as raw little-endian bytes.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        self.read_bytes(|bytes| bytes.to_vec())
    }

    /// Shows the elements as raw little-endian bytes to `f`, without a copy.
    ///
    /// # Errors
    /// As [`Tensor::read`].
    pub fn read_bytes<R>(&self, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        Ok(match self.dtype {
            DType::F32 => f(bytemuck::cast_slice(&self.read::<f32>()?)),
            DType::Bf16 => f(bytemuck::cast_slice(&self.read::<half::bf16>()?)),
            DType::I32 => f(bytemuck::cast_slice(&self.read::<i32>()?)),
            DType::U8 => f(&self.read::<u8>()?),
        })
    }

    /// Overwrites the elements from raw little-endian bytes.
    ///
    /// # Errors
    /// When the number of bytes differs.
    pub fn copy_from_bytes(&self, bytes: &[u8]) -> Result<()> {
        crate::error::check_len("Tensor::copy_from_bytes", "bytes", bytes.len(), self.elems() * self.dtype.bytes())?;
        #[cfg_attr(not(feature = "cpu"), allow(unused_mut, unused_variables))]
        let mut lease = Lease { borrow: self.borrow(self.dtype, true)?, tensor: self };
        match self.device().kind() {
            #[cfg(feature = "cpu")]
            Kind::Cpu => self.host_bytes(&mut lease).copy_from_slice(bytes),
            // SAFETY: the tensor's window, leased for writing.
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => unsafe { gpu.upload(self.address(), bytes) }?,
        }
        Ok(())
    }

    /// Sets every element to 0.
    ///
    /// # Errors
    /// As [`Tensor::write`].
    pub fn zero(&self) -> Result<()> {
        #[cfg_attr(not(feature = "cpu"), allow(unused_mut, unused_variables))]
        let mut lease = Lease { borrow: self.borrow(self.dtype, true)?, tensor: self };
        match self.device().kind() {
            #[cfg(feature = "cpu")]
            Kind::Cpu => self.host_bytes(&mut lease).fill(0),
            // SAFETY: the tensor's window, leased for writing.
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => unsafe { gpu.zero(self.address(), lease.borrow.range.len()) }?,
        }
        Ok(())
    }

    /// Overwrites this tensor's elements with those of `source` (same shape, type and device).
    ///
    /// # Errors
    /// When shape, type or device differ, or the two overlap.
    pub fn copy_from(&self, source: &Tensor) -> Result<()> {
        if self.shape != source.shape || self.dtype != source.dtype || self.device() != source.device() {
            return Err(Error::tensor("Tensor::copy_from", self, source, "shape, type and device must be equal"));
        }
        #[cfg_attr(not(feature = "cpu"), allow(unused_mut, unused_variables))]
        let mut to = Lease { borrow: self.borrow(self.dtype, true)?, tensor: self };
        let from = Lease { borrow: source.borrow(source.dtype, false)?, tensor: source };
        match self.device().kind() {
            // SAFETY: the source's window, leased for reading: nobody writes to it, and the target is elsewhere.
            #[cfg(feature = "cpu")]
            Kind::Cpu => self
                .host_bytes(&mut to)
                .copy_from_slice(unsafe { std::slice::from_raw_parts(source.ptr::<u8>(), from.borrow.range.len()) }),
            // SAFETY: both windows are leased, and leases that overlap are refused.
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => unsafe { gpu.copy(source.address(), self.address(), from.borrow.range.len()) }?,
        }
        Ok(())
    }

    /// A tensor of its own with the same elements.
    ///
    /// # Errors
    /// When memory runs out.
    pub fn duplicate(&self) -> Result<Tensor> {
        let copy = Tensor::empty(self.device(), &self.shape, self.dtype)?;
        copy.copy_from(self)?;
        Ok(copy)
    }
}

impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} on {}", self.dtype, self.shape, self.device())
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor({self})")
    }
}

/// An entry of the borrow table, while it stands.
struct Lease<'a> {
    tensor: &'a Tensor,
    borrow: Borrow,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let mut borrows = lock(&self.tensor.storage.borrows);
        if let Some(place) = borrows.iter().position(|b| *b == self.borrow) {
            borrows.swap_remove(place);
        }
    }
}

/// Elements of a tensor, borrowed for reading.
pub struct ReadGuard<'a, T: Element> {
    lease: Lease<'a>,
    /// What was fetched from a GPU.
    copy: Option<Vec<T>>,
}

/// Elements of a tensor, borrowed for writing.
pub struct WriteGuard<'a, T: Element> {
    lease: Lease<'a>,
    elements: PhantomData<&'a mut [T]>,
}

impl<T: Element> Deref for ReadGuard<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match &self.copy {
            Some(copy) => copy,
            // SAFETY: the window lies inside the storage, is aligned (offsets are multiples of the element
            // size from a 64-byte base), holds initialised Pod values, and the borrow table keeps writers
            // away from it while this guard lives.
            None => unsafe { std::slice::from_raw_parts(self.lease.tensor.ptr::<T>(), self.lease.tensor.elems()) },
        }
    }
}

impl<T: Element> Deref for WriteGuard<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: as for ReadGuard; the borrow table makes this guard the only one on the window.
        unsafe { std::slice::from_raw_parts(self.lease.tensor.ptr::<T>(), self.lease.tensor.elems()) }
    }
}

impl<T: Element> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for ReadGuard; the borrow table makes this guard the only one on the window.
        unsafe { std::slice::from_raw_parts_mut(self.lease.tensor.ptr::<T>(), self.lease.tensor.elems()) }
    }
}

/// Elements of a tensor on a CUDA device, borrowed for launches that read them: a buffer as launchers take it. Queue
/// them on the device's stream ([`Gpu::stream`]), which orders them with its ops. On any other stream they are ordered
/// too, at the price that the host waits for their end.
#[cfg(feature = "cuda")]
pub struct DeviceReadGuard<'a, T> {
    lease: Lease<'a>,
    gpu: &'a Gpu,
    elements: PhantomData<&'a [T]>,
}

/// Elements of a tensor on a CUDA device, borrowed for launches that write them; see [`DeviceReadGuard`].
#[cfg(feature = "cuda")]
pub struct DeviceWriteGuard<'a, T> {
    lease: Lease<'a>,
    gpu: &'a Gpu,
    elements: PhantomData<&'a mut [T]>,
}

#[cfg(feature = "cuda")]
mod launch {
    use super::{DeviceReadGuard, DeviceWriteGuard};
    use cudarc::driver::sys::CUdeviceptr;
    use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop};
    use std::sync::Arc;

    impl<T> DeviceSlice<T> for DeviceReadGuard<'_, T> {
        fn len(&self) -> usize {
            self.lease.tensor.elems()
        }
        fn stream(&self) -> &Arc<CudaStream> {
            self.gpu.stream()
        }
    }

    impl<T> DeviceSlice<T> for DeviceWriteGuard<'_, T> {
        fn len(&self) -> usize {
            self.lease.tensor.elems()
        }
        fn stream(&self) -> &Arc<CudaStream> {
            self.gpu.stream()
        }
    }

    impl<T> DevicePtr<T> for DeviceReadGuard<'_, T> {
        fn device_ptr<'a>(&'a self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
            self.gpu.on_stream(self.lease.tensor.address(), stream)
        }
    }

    impl<T> DevicePtr<T> for DeviceWriteGuard<'_, T> {
        fn device_ptr<'a>(&'a self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
            self.gpu.on_stream(self.lease.tensor.address(), stream)
        }
    }

    impl<T> DevicePtrMut<T> for DeviceWriteGuard<'_, T> {
        fn device_ptr_mut<'a>(&'a mut self, stream: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
            self.gpu.on_stream(self.lease.tensor.address(), stream)
        }
    }
}
