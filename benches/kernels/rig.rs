//! What the cases run on, and how they are run: a case is prepared once, launched, checked, then timed or counted.

use crate::common::float::Float;
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DeviceRepr};
use std::sync::Arc;
use warpsmith::cuda::Kernels;

/// A failure of the library, the driver or the emulator, which all say what to do.
pub type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// One device, real or emulated, with a stream.
pub struct Rig {
    pub kernels: Kernels,
    pub stream: Arc<CudaStream>,
}

impl Rig {
    pub fn new() -> Fallible<Rig> {
        let context = CudaContext::new(0)?;
        // SAFETY: everything is queued on the one stream made below, so that nothing needs ordering by events.
        unsafe { context.disable_event_tracking() };
        Ok(Rig { kernels: Kernels::new(&context), stream: context.new_stream()? })
    }

    pub fn put<T: DeviceRepr>(&self, values: &[T]) -> Fallible<CudaSlice<T>> {
        Ok(self.stream.clone_htod(values)?)
    }

    /// Floats, rounded to the type.
    pub fn floats<T: Float>(&self, values: &[f32]) -> Fallible<CudaSlice<T>> {
        self.put(&T::from_floats(values))
    }

    pub fn zeros<T: Float>(&self, elems: usize) -> Fallible<CudaSlice<T>> {
        Ok(self.stream.alloc_zeros(elems.max(1))?)
    }

    pub fn get<T: DeviceRepr>(&self, buffer: &impl DevicePtr<T>) -> Fallible<Vec<T>> {
        Ok(self.stream.clone_dtoh(buffer)?)
    }

    /// A buffer's values as f32.
    pub fn read<T: Float>(&self, buffer: &impl DevicePtr<T>) -> Fallible<Vec<f32>> {
        Ok(T::to_floats(&self.get(buffer)?))
    }
}

/// A prepared case.
pub trait Run {
    /// Queues the case's launches, each time on the next set of buffers.
    fn launch(&mut self, rig: &Rig) -> Fallible<()>;
    /// Compares what the first launch left in the first set with the CPU twin; panics with the first differences.
    fn check(&mut self, rig: &Rig) -> Fallible<()>;
}

/// Sets of buffers in turn: with enough of them a launch finds nothing of its own in L2.
pub struct Rotation<S, L, C> {
    sets: Vec<S>,
    next: usize,
    launch: L,
    check: C,
}

impl<S, L, C> Rotation<S, L, C> {
    /// `copies` sets, each made by `set`; `launch` queues the launches on one, `check` looks at its results.
    pub fn boxed<'a>(copies: usize, set: impl Fn() -> Fallible<S>, launch: L, check: C) -> Fallible<Box<dyn Run + 'a>>
    where
        S: 'a,
        L: FnMut(&Rig, &mut S) -> Fallible<()> + 'a,
        C: Fn(&Rig, &S) -> Fallible<()> + 'a,
    {
        let sets = (0..copies.max(1)).map(|_| set()).collect::<Fallible<_>>()?;
        Ok(Box::new(Rotation { sets, next: 0, launch, check }))
    }
}

impl<S, L, C> Run for Rotation<S, L, C>
where
    L: FnMut(&Rig, &mut S) -> Fallible<()>,
    C: Fn(&Rig, &S) -> Fallible<()>,
{
    fn launch(&mut self, rig: &Rig) -> Fallible<()> {
        let at = self.next;
        self.next = (at + 1) % self.sets.len();
        (self.launch)(rig, &mut self.sets[at])
    }

    fn check(&mut self, rig: &Rig) -> Fallible<()> {
        (self.check)(rig, &self.sets[0])
    }
}
