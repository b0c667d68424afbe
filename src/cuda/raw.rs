//! Foreign memory: what another library has allocated on the device, as launchers take it.

use cudarc::driver::sys::CUdeviceptr;
use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop};
use std::marker::PhantomData;
use std::sync::Arc;

/// A buffer of `T` that somebody else owns. A stream that somebody else made becomes cudarc's through
/// [`CudaContext::wrap_borrowed_stream`](cudarc::driver::CudaContext::wrap_borrowed_stream).
///
/// # Example
/// ```no_run
/// use cudarc::driver::CudaContext;
/// use warpsmith::cuda::{Kernels, Raw, elementwise};
/// let context = CudaContext::new(0)?;
/// let (kernels, stream) = (Kernels::new(&context), context.default_stream());
/// # let (x, y, n) = (0, 0, 0);
/// // Two device addresses of `n` floats each, from wherever.
/// // SAFETY: both buffers live until the stream has been synchronised, and nobody else uses `y` until then.
/// let (x, mut y) = unsafe { (Raw::<f32>::new(x, n, &stream), Raw::<f32>::new(y, n, &stream)) };
/// elementwise::relu(&kernels, &x, &mut y, &stream)?;
/// kernels.synchronize(&stream)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Raw<T> {
    address: CUdeviceptr,
    len: usize,
    stream: Arc<CudaStream>,
    values: PhantomData<T>,
}

impl<T> Raw<T> {
    /// `len` values from `address` on, on the device of `stream`.
    ///
    /// # Safety
    /// The values are valid device memory, aligned for `T`, until everything that was queued with the buffer has ended. A
    /// launch is ordered after the buffer's other uses by the stream it is queued on or by events of the caller's:
    /// nothing waits on its own. While a launch writes the buffer, nobody else uses it.
    pub unsafe fn new(address: CUdeviceptr, len: usize, stream: &Arc<CudaStream>) -> Raw<T> {
        Raw { address, len, stream: stream.clone(), values: PhantomData }
    }
}

impl<T> DeviceSlice<T> for Raw<T> {
    fn len(&self) -> usize {
        self.len
    }
    fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }
}

impl<T> DevicePtr<T> for Raw<T> {
    fn device_ptr<'a>(&'a self, _: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        (self.address, SyncOnDrop::Record(None))
    }
}

impl<T> DevicePtrMut<T> for Raw<T> {
    fn device_ptr_mut<'a>(&'a mut self, _: &'a CudaStream) -> (CUdeviceptr, SyncOnDrop<'a>) {
        (self.address, SyncOnDrop::Record(None))
    }
}
