//! Tensors: contiguous, row-major arrays on a device.
//!
//! A tensor is a typed window onto a reference-counted storage. Cloning, reshaping and slicing along
//! whole rows cost nothing. Host code reads and writes through guards ([`Tensor::read`],
//! [`Tensor::write`]); a table per storage refuses overlapping borrows that are not all reads, so views
//! of one arena can be written side by side, but never into each other.

use crate::device::{Block, Device, lock};
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
        tensor.write::<T>()?.fill(value);
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
        tensor.write::<T>()?.copy_from_slice(values);
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

    fn ptr<T>(&self) -> *mut T {
        // SAFETY: byte_offset never exceeds the storage (checked in `view`), so the result stays in or
        // one past the allocation.
        unsafe { self.storage.block.ptr().as_ptr().add(self.byte_offset).cast() }
    }

    /// Borrows the elements for reading.
    ///
    /// # Errors
    /// When the element type differs or somebody holds a write guard on overlapping elements.
    pub fn read<T: Element>(&self) -> Result<ReadGuard<'_, T>> {
        Ok(ReadGuard { borrow: self.borrow(T::DTYPE, false)?, tensor: self, elements: PhantomData })
    }

    /// Borrows the elements for writing.
    ///
    /// # Errors
    /// When the element type differs or somebody holds a guard on overlapping elements.
    pub fn write<T: Element>(&self) -> Result<WriteGuard<'_, T>> {
        Ok(WriteGuard { borrow: self.borrow(T::DTYPE, true)?, tensor: self, elements: PhantomData })
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

    fn write_bytes(&self, f: impl FnOnce(&mut [u8])) -> Result<()> {
        match self.dtype {
            DType::F32 => f(bytemuck::cast_slice_mut(&mut self.write::<f32>()?)),
            DType::Bf16 => f(bytemuck::cast_slice_mut(&mut self.write::<half::bf16>()?)),
            DType::I32 => f(bytemuck::cast_slice_mut(&mut self.write::<i32>()?)),
            DType::U8 => f(&mut self.write::<u8>()?),
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
        self.write_bytes(|dst| dst.copy_from_slice(bytes))
    }

    /// Sets every element to 0.
    ///
    /// # Errors
    /// As [`Tensor::write`].
    pub fn zero(&self) -> Result<()> {
        self.write_bytes(|dst| dst.fill(0))
    }

    /// Overwrites this tensor's elements with those of `source` (same shape, type and device).
    ///
    /// # Errors
    /// When shape, type or device differ, or the two overlap.
    pub fn copy_from(&self, source: &Tensor) -> Result<()> {
        if self.shape != source.shape || self.dtype != source.dtype || self.device() != source.device() {
            return Err(Error::tensor("Tensor::copy_from", self, source, "shape, type and device must be equal"));
        }
        match self.dtype {
            DType::F32 => self.write::<f32>()?.copy_from_slice(&source.read()?),
            DType::Bf16 => self.write::<half::bf16>()?.copy_from_slice(&source.read()?),
            DType::I32 => self.write::<i32>()?.copy_from_slice(&source.read()?),
            DType::U8 => self.write::<u8>()?.copy_from_slice(&source.read()?),
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

/// Elements of a tensor, borrowed for reading.
pub struct ReadGuard<'a, T: Element> {
    tensor: &'a Tensor,
    borrow: Borrow,
    elements: PhantomData<&'a [T]>,
}

/// Elements of a tensor, borrowed for writing.
pub struct WriteGuard<'a, T: Element> {
    tensor: &'a Tensor,
    borrow: Borrow,
    elements: PhantomData<&'a mut [T]>,
}

fn release(tensor: &Tensor, borrow: &Borrow) {
    let mut borrows = lock(&tensor.storage.borrows);
    if let Some(place) = borrows.iter().position(|b| b == borrow) {
        borrows.swap_remove(place);
    }
}

impl<T: Element> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        release(self.tensor, &self.borrow);
    }
}

impl<T: Element> Drop for WriteGuard<'_, T> {
    fn drop(&mut self) {
        release(self.tensor, &self.borrow);
    }
}

impl<T: Element> Deref for ReadGuard<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: the window lies inside the storage, is aligned (offsets are multiples of the element
        // size from a 64-byte base), holds initialised Pod values, and the borrow table keeps writers
        // away from it while this guard lives.
        unsafe { std::slice::from_raw_parts(self.tensor.ptr::<T>(), self.tensor.elems()) }
    }
}

impl<T: Element> Deref for WriteGuard<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: as for ReadGuard; the borrow table makes this guard the only one on the window.
        unsafe { std::slice::from_raw_parts(self.tensor.ptr::<T>(), self.tensor.elems()) }
    }
}

impl<T: Element> DerefMut for WriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for ReadGuard; the borrow table makes this guard the only one on the window.
        unsafe { std::slice::from_raw_parts_mut(self.tensor.ptr::<T>(), self.tensor.elems()) }
    }
}
