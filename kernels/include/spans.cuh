// The walk over a span table: one launch for all parameters. Block b handles piece b; the host cuts the spans into
// pieces of at most PIECE elements, so that long and short parameters share the machine evenly.
#pragma once

#include "vector.cuh"

// Where a piece of a parameter lies in the parameter arena and in arenas of the trainable set, in elements.
struct Span {
    uint64_t param_offset, grad_offset, len;
};

constexpr int SPAN_BLOCK = 256;
constexpr int PIECE = 4096;

// Calls f(offset in the parameter arena, offset in the gradient arena, valid) for packs of four elements.
template <typename F> __device__ inline void each_in_span(const Span* spans, F f) {
    const Span span = spans[blockIdx.x];
    for (uint64_t i = threadIdx.x * 4; i < span.len; i += SPAN_BLOCK * 4) {
        f(span.param_offset + i, span.grad_offset + i, valid_elements<4>(i, span.len));
    }
}
