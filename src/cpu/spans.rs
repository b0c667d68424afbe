//! The walk over a span table: one parallel pass over all parameters, whatever their sizes.

use crate::problem::Span;
use crate::{Error, Result};

/// Elements below which a piece is not split further.
const LEAF: u64 = 32 * 1024;

/// Something that lies in an arena and can be cut in two.
pub(crate) trait Split: Sized + Send {
    fn split(self, mid: usize) -> (Self, Self);
}

impl Split for &[f32] {
    fn split(self, mid: usize) -> (Self, Self) {
        self.split_at(mid)
    }
}

impl Split for &mut [f32] {
    fn split(self, mid: usize) -> (Self, Self) {
        self.split_at_mut(mid)
    }
}

impl<A: Split, B: Split> Split for (A, B) {
    fn split(self, mid: usize) -> (Self, Self) {
        let (a, b) = (self.0.split(mid), self.1.split(mid));
        ((a.0, b.0), (a.1, b.1))
    }
}

/// Checks that the spans ascend without overlap in both arenas and end inside them.
pub(crate) fn check(op: &'static str, spans: &[Span], params: usize, grads: usize) -> Result<()> {
    let (mut param_end, mut grad_end) = (0u64, 0u64);
    for (i, span) in spans.iter().enumerate() {
        let ends = (span.param_offset.checked_add(span.len), span.grad_offset.checked_add(span.len));
        let ascending = span.param_offset >= param_end && span.grad_offset >= grad_end;
        match ends {
            (Some(p), Some(g)) if ascending && p <= params as u64 && g <= grads as u64 => {
                (param_end, grad_end) = (p, g);
            }
            _ => {
                return Err(Error::shape(
                    op,
                    format_args!(
                        "span {i} from parameter {param_end} and gradient {grad_end} on, inside arenas of {params} \
                         and {grads} elements"
                    ),
                    format_args!("{span:?}"),
                    "sort the span table, without overlaps, and size the arenas to hold it",
                ));
            }
        }
    }
    Ok(())
}

/// Calls `kernel` on the pieces of `params` and `grads` that the spans name, in parallel.
///
/// `params` has the parameter arena's layout and `grads` (any number of slices) the gradient arena's. The
/// spans have passed [`check`].
pub(crate) fn walk<P: Split, G: Split>(spans: &[Span], params: P, grads: G, kernel: &(impl Fn(P, G) + Sync)) {
    if let Some(first) = spans.first() {
        let params = params.split(first.param_offset as usize).1;
        let grads = grads.split(first.grad_offset as usize).1;
        walk_from(spans, params, grads, kernel);
    }
}

/// `params` and `grads` start where the first span does.
fn walk_from<P: Split, G: Split>(spans: &[Span], params: P, grads: G, kernel: &(impl Fn(P, G) + Sync)) {
    let first = spans[0];
    if let [span] = spans {
        return walk_one(span.len, params, grads, kernel);
    }
    let (left, right) = spans.split_at(spans.len() / 2);
    let (p0, p1) = params.split((right[0].param_offset - first.param_offset) as usize);
    let (g0, g1) = grads.split((right[0].grad_offset - first.grad_offset) as usize);
    rayon::join(|| walk_from(left, p0, g0, kernel), || walk_from(right, p1, g1, kernel));
}

fn walk_one<P: Split, G: Split>(len: u64, params: P, grads: G, kernel: &(impl Fn(P, G) + Sync)) {
    if len <= LEAF {
        return kernel(params.split(len as usize).0, grads.split(len as usize).0);
    }
    let mid = (len / 2).next_multiple_of(16);
    let ((p0, p1), (g0, g1)) = (params.split(mid as usize), grads.split(mid as usize));
    rayon::join(|| walk_one(mid, p0, g0, kernel), || walk_one(len - mid, p1, g1, kernel));
}
