//! The span table on the device: which parameters an optimiser's one launch walks over.

use super::launch::Kernels;
use crate::Result;
use crate::error::check_len;
use crate::problem::{Span, check_spans};
use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr};
use std::sync::Arc;

/// Elements of a block's piece, `PIECE` of `kernels/include/spans.cuh`.
const PIECE: u64 = 4096;
/// Threads of a block, `SPAN_BLOCK` there.
pub(super) const SPAN_BLOCK: u32 = 256;

// SAFETY: three u64 in declaration order, as `Span` of spans.cuh.
unsafe impl DeviceRepr for Span {}

/// A table of spans in device memory, cut into pieces of one block each.
#[derive(Debug)]
pub struct SpanTable {
    pub(super) pieces: CudaSlice<Span>,
    pub(super) blocks: u64,
    /// Lengths that the two arenas must have at least.
    ends: (usize, usize),
}

impl SpanTable {
    /// Checks the spans against the arenas' lengths and uploads them.
    ///
    /// # Errors
    /// When the spans overlap, descend or leave the arenas, or the copy fails.
    pub fn new(
        kernels: &Kernels,
        spans: &[Span],
        params: usize,
        grads: usize,
        stream: &Arc<CudaStream>,
    ) -> Result<SpanTable> {
        check_spans("SpanTable", spans, params, grads)?;
        let pieces = Span::pieces(spans, PIECE);
        let blocks = pieces.len() as u64;
        let ends =
            spans.last().map_or((0, 0), |s| ((s.param_offset + s.len) as usize, (s.grad_offset + s.len) as usize));
        // An allocation of nothing is an error to the driver.
        let pieces = if pieces.is_empty() { vec![Span { param_offset: 0, grad_offset: 0, len: 0 }] } else { pieces };
        let pieces = kernels.upload("the span table", &pieces, stream)?;
        Ok(SpanTable { pieces, blocks, ends })
    }

    /// Checks that buffers with the layouts of the two arenas reach as far as the spans do.
    pub(super) fn check(&self, op: &'static str, params: &[(&str, usize)], grads: &[(&str, usize)]) -> Result<()> {
        for (list, end) in [(params, self.ends.0), (grads, self.ends.1)] {
            for &(name, len) in list.iter().filter(|(_, len)| *len < end) {
                check_len(op, name, len, end)?;
            }
        }
        Ok(())
    }
}
