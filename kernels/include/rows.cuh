// Kernels over a matrix [rows, c] that need something per channel: batch norm, bias gradients, normalisations.
//
// A block's 256 threads are `lanes` wide and 256/lanes rows high. A thread owns V neighbouring channels for all its rows,
// so what belongs to a channel stays in registers, and a row of the block is one contiguous stretch of memory.
// Block (x, y): channels from x * lanes * V on, rows from y * rows_per_block on.
#pragma once

#include "vector.cuh"

constexpr int ROWS_BLOCK = 256;

struct Rows {
    uint64_t rows;            // of the matrix
    uint32_t c;               // channels
    uint32_t lanes;           // threads side by side: a power of two, at most 32
    uint32_t rows_per_block;  // consecutive rows of a block
};

// First channel of this thread, and how many of its V exist (at most 0: none).
template <int V> __device__ inline uint32_t first_channel(const Rows& m) {
    return (blockIdx.x * m.lanes + (threadIdx.x & (m.lanes - 1))) * V;
}
template <int V> __device__ inline int valid_channels(const Rows& m, uint32_t ch) {
    return m.c <= ch ? 0 : m.c - ch < V ? int(m.c - ch) : V;
}

__device__ inline uint64_t first_row(const Rows& m) { return uint64_t(blockIdx.y) * m.rows_per_block; }

// Calls f(offset of this thread's channels) for every row of this thread.
template <typename F> __device__ inline void each_row(const Rows& m, uint32_t ch, F f) {
    const uint64_t first = first_row(m);
    const uint64_t end = min(first + m.rows_per_block, m.rows);
    for (uint64_t row = first + threadIdx.x / m.lanes; row < end; row += ROWS_BLOCK / m.lanes) f(row * m.c + ch);
}

// Sums K x V numbers over the threads that share channels; those of row 0 then hold the sums. Always in one order.
template <int K, int V> __device__ inline void sum_over_rows(const Rows& m, float (&sums)[K][V]) {
    __shared__ float shared[K * V][ROWS_BLOCK];
    const uint32_t t = threadIdx.x;
#pragma unroll
    for (int i = 0; i < K * V; ++i) shared[i][t] = sums[i / V][i % V];
    for (uint32_t stride = ROWS_BLOCK / 2; stride >= m.lanes; stride /= 2) {
        __syncthreads();
        if (t < stride)
#pragma unroll
            for (int i = 0; i < K * V; ++i) shared[i][t] += shared[i][t + stride];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < K * V; ++i) sums[i / V][i % V] = shared[i][t & (m.lanes - 1)];
}
