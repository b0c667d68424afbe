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

// How many rows a block of rows has.
__device__ inline uint32_t rows_of(const Rows& m, uint32_t block) {
    return uint32_t(min(uint64_t(m.rows_per_block), m.rows - uint64_t(block) * m.rows_per_block));
}

// Calls f(offset of this thread's channels) for every row of this thread.
template <typename F> __device__ inline void each_row(const Rows& m, uint32_t ch, F f) {
    const uint64_t first = first_row(m);
    const uint64_t end = min(first + m.rows_per_block, m.rows);
    for (uint64_t row = first + threadIdx.x / m.lanes; row < end; row += ROWS_BLOCK / m.lanes) f(row * m.c + ch);
}

// A table's floats for this thread's channels. Where those are eight, lanes that load their own four and four touch every
// sector twice: so two neighbouring lanes load four beside each other, twice, and swap.
template <int V>
__device__ inline void load_table(const Rows& m, const float* table, uint32_t ch, int valid, float (&out)[V]) {
    if constexpr (V == 8) {
        // Then all lanes are here, each with all of its channels.
        if (m.lanes > 1 && (blockIdx.x + 1) * m.lanes * V <= m.c) {
            const bool odd = threadIdx.x % 2;
            const float* pair = table + (odd ? ch - 4 : ch);
            float a[4], b[4];  // the even lane's floats 0..4 and 8..12 of the pair's 16, the odd lane's 4..8 and 12..16
            load(pair, 4, a);
            load(pair + 8, 4, b);
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const float other = __shfl_xor_sync(~0u, odd ? a[i] : b[i], 1);
                out[i] = odd ? other : a[i];
                out[4 + i] = odd ? b[i] : other;
            }
            return;
        }
    }
    load(table + ch, valid, out);
}

// Sums K x V numbers over the threads that share channels, always in one order. Then calls f(first channel, valid, sums)
// with the K sums of each four neighbouring channels: whatever V is, neighbouring threads store neighbouring 16 bytes.
template <int K, int V, typename F>
__device__ inline void sum_over_rows(const Rows& m, const float (&sums)[K][V], F f) {
    // Behind every line four words, so that the two halves of a thread's eight channels lie in different banks.
    __shared__ float shared[K * V][ROWS_BLOCK + 4];
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
    const uint32_t ch = blockIdx.x * m.lanes * V + t * 4;
    if (t >= m.lanes * V / 4 || ch >= m.c) return;
    float four[K][4];
#pragma unroll
    for (int k = 0; k < K; ++k)
#pragma unroll
        for (int i = 0; i < 4; ++i) four[k][i] = shared[k * V + t * 4 % V + i][t * 4 / V];
    f(ch, valid_elements<4>(ch, m.c), four);
}
