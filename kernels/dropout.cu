// Dropout with counter-based random numbers.
//
// Computes     y = x * scale where the uniform number of the element is at least rate, else 0; scale = 1 / (1 - rate).
// Shapes       x, y [samples, elems]; indices [samples], each sample's index in its data set; step [1].
// Launch       grid samples * parts, block 256: a sample takes `parts` blocks, a thread 16 bytes, four or eight elements.
// Requires     at most 2^32 elements per sample.
// Writes       `=`; y may be x. Backward is the same kernel with dy for x: the mask is drawn again, not stored.
// Determinism  the mask is a function of seed, step, index, op and element.
// Cost         bound by memory, 8 bytes an element, 4 in bf16; ten rounds of Philox for four elements.
// Source       Srivastava et al., "Dropout" (2014).

#include "philox.cuh"
#include "vector.cuh"

constexpr int BLOCK = 256;

template <typename T>
__device__ inline void dropout(uint64_t seed, const uint32_t* step, uint32_t op, uint32_t parts, uint64_t elems, float rate,
                               float scale, const uint32_t* indices, const T* x, T* y) {
    const uint32_t sample = blockIdx.x / parts;
    constexpr int N = VALUES<T>;
    const uint64_t first = (uint64_t(blockIdx.x % parts) * BLOCK + threadIdx.x) * N;
    if (first >= elems) return;
    const int valid = valid_elements<N>(first, elems);
    const Stream stream{seed, *step, indices[sample], op};
    float v[N];
    load(x + sample * elems + first, valid, v);
#pragma unroll
    for (int block = 0; block < N / 4; ++block) {
        const uint4 bits = stream.block(uint32_t(first / 4) + block);
        const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float& value = v[block * 4 + i];
            value = unit(words[i]) >= rate ? value * scale : 0.0f;
        }
    }
    store(y + sample * elems + first, valid, v);
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    dropout_f32(uint64_t seed, const uint32_t* step, uint32_t op, uint32_t parts, uint64_t elems, float rate, float scale,
                const uint32_t* indices, const float* x, float* y) {
    dropout(seed, step, op, parts, elems, rate, scale, indices, x, y);
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    dropout_bf16(uint64_t seed, const uint32_t* step, uint32_t op, uint32_t parts, uint64_t elems, float rate, float scale,
                 const uint32_t* indices, const bf16* x, bf16* y) {
    dropout(seed, step, op, parts, elems, rate, scale, indices, x, y);
}
