//! The CUDA side: a probe that says whether a GPU can be used and, if not, why and what to do; kernels and their
//! launchers.
//!
//! Building needs no CUDA toolkit and starting needs no driver: the kernels are embedded as PTX, the driver library is
//! looked for at run time.
//!
//! There is one launcher module per file of `kernels/`, usable without the rest of the crate: safe functions over
//! cudarc buffers and views that check what the kernel requires and queue it on a stream, named last. What a function
//! computes is said once, at its host twin in [`cpu`](crate::cpu).
//!
//! The page of a launcher module holds the chapter that teaches its kernels; the order to read them in stands in
//! `kernels/README.md`. A good start is [`elementwise`].
//!
//! Memory that another library has allocated on the device is passed as [`Raw`].
//!
//! Buffers of bf16 are `CudaSlice<half::bf16>`; to allocate them with cudarc's functions enable its feature `f16`.

pub mod adam;
pub mod augment_geometry;
pub mod augment_pipeline;
pub mod augment_pixel;
pub mod batch_norm;
pub mod conv2d;
pub mod cross_entropy;
pub mod dropout;
pub mod elementwise;
pub mod gemm;
mod launch;
pub mod linear;
pub mod pool2d;
pub mod probe;
mod queued;
mod raw;
mod rows;
pub mod sgd;
pub mod softmax_kl;
mod spans;
pub mod supcon;
pub mod swa;

#[cfg(feature = "nn")]
pub(crate) use launch::{Cache, free_memory};
pub use launch::{Entry, Kernels, Value, load_ptx, ptx};
pub use probe::{DeviceInfo, ProbeError, ProbeInputs, probe};
#[cfg(feature = "nn")]
pub(crate) use queued::{Driver, FREE_MEMORY, OUT_OF_MEMORY};
pub use raw::Raw;
pub use spans::SpanTable;

/// Every kernel that a launcher knows.
pub fn entries() -> Vec<&'static Entry> {
    [
        &elementwise::ENTRIES[..],
        &adam::ENTRIES,
        &augment_geometry::ENTRIES,
        &augment_pipeline::ENTRIES,
        &augment_pixel::ENTRIES,
        &batch_norm::ENTRIES,
        &conv2d::ENTRIES,
        &cross_entropy::ENTRIES,
        &dropout::ENTRIES,
        &gemm::ENTRIES,
        &pool2d::ENTRIES,
        &sgd::ENTRIES,
        &softmax_kl::ENTRIES,
        &supcon::ENTRIES,
        &swa::ENTRIES,
    ]
    .concat()
}
