//! Host twins of the kernels: plain functions over slices, usable without tensors or autograd.
//!
//! Every function checks the lengths of its slices and returns [`Error`](crate::Error) instead of
//! panicking. Work runs on the current rayon pool and is split in a way that does not depend on the
//! number of threads, and partial sums are merged in a fixed order, so results are bit-equal for any
//! thread count.

pub mod augment_geometry;
pub mod augment_pixel;
pub mod corruption;
