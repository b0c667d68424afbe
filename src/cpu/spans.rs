//! The walk over a span table: one parallel pass over all parameters, whatever their sizes.

use crate::problem::Span;

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

/// Calls `kernel` on the pieces of `params` and `grads` that the spans name, in parallel.
///
/// `params` has the parameter arena's layout and `grads` (any number of slices) the gradient arena's. The
/// spans have passed [`check_spans`](crate::problem::check_spans).
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
