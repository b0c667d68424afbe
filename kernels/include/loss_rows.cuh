// Losses over rows of class scores: a warp per row, in double. Rows are short, and a loss of softened distributions is a
// small difference of large numbers.
#pragma once

#include "warp.cuh"

constexpr int LOSS_BLOCK = 256;
constexpr int LOSS_ROWS = LOSS_BLOCK / 32;

// The row of this warp, or a number from `rows` on: none.
__device__ inline uint64_t loss_row() { return uint64_t(blockIdx.x) * LOSS_ROWS + threadIdx.x / 32; }

// Calls f(class) for the classes of this lane.
template <typename F> __device__ inline void each_class(uint32_t classes, F f) {
    for (uint32_t k = threadIdx.x % 32; k < classes; k += 32) f(k);
}

// log of the sum of exp(z(k)) over the classes, safe against overflow.
template <typename F> __device__ inline double log_sum_exp(uint32_t classes, F z) {
    double largest = -INFINITY;
    each_class(classes, [&](uint32_t k) {
        const double x = z(k);
        largest = x > largest || x != x ? x : largest;
    });
    largest = warp_max(largest);
    double sum = 0.0;
    each_class(classes, [&](uint32_t k) { sum += exp(z(k) - largest); });
    return largest + log(warp_sum(sum));
}

// The range that Keras clips probabilities to before it takes their logarithm.
struct Clip {
    double least, most;
    __device__ double operator()(double p) const { return p < least ? least : p > most ? most : p; }
    __device__ bool contains(double p) const { return p >= least && p <= most; }
};
