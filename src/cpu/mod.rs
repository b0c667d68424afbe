//! Host twins of the kernels: plain functions over slices, usable without tensors or autograd.
//!
//! Every function checks the lengths of its slices and returns [`Error`] instead of
//! panicking. Work runs on the current rayon pool and is split in a way that does not depend on the
//! number of threads, and partial sums are merged in a fixed order, so results are bit-equal for any
//! thread count.
//!
//! Unless a function says otherwise it writes its results with `=`; gradients of parameters are `+=`.

mod multiversion;
mod scratch;
mod spans;

pub mod adam;
pub mod augment_geometry;
pub mod augment_pixel;
pub mod batch_norm;
pub mod conv2d;
pub mod corruption;
pub mod cross_entropy;
pub mod dropout;
pub mod elementwise;
pub mod gemm;
pub mod linear;
pub mod pool2d;
pub mod sgd;
pub mod softmax_kl;
pub mod supcon;
pub mod swa;

use crate::{Error, Result};

/// Elements that one task of an element-wise op handles: small enough to balance threads, large enough
/// that starting the task costs nothing.
pub(crate) const CHUNK: usize = 16 * 1024;

/// The product of `extents`, which must be positive.
pub(crate) fn volume(op: &'static str, extents: &[usize]) -> Result<usize> {
    let product = extents.iter().try_fold(1usize, |product, &extent| product.checked_mul(extent));
    match product {
        Some(elems) if elems > 0 => Ok(elems),
        _ => Err(Error::argument(
            op,
            "positive extents whose product fits in memory",
            format_args!("{extents:?}"),
            "no extent may be zero",
        )),
    }
}
