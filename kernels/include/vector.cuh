// 16 bytes at a time: loads and stores that memory-bound kernels are made of, for float, bf16 and bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cuda_bf16.h>

using bf16 = __nv_bfloat16;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }
__device__ inline float to_float(uint8_t x) { return float(x); }

template <typename T> __device__ inline T from_float(float x);
template <> __device__ inline float from_float<float>(float x) { return x; }
template <> __device__ inline bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }
// For whole numbers of a byte's range.
template <> __device__ inline uint8_t from_float<uint8_t>(float x) { return uint8_t(x); }

// N consecutive values as they lie in memory.
template <typename T, int N> struct alignas(sizeof(T) * N) Pack {
    T v[N];
};

// Reads N values, those from `valid` on as zero. One load where the pointer is aligned and all exist.
template <int N, typename T> __device__ inline void load(const T* p, int valid, float (&out)[N]) {
    if (valid >= N && reinterpret_cast<uintptr_t>(p) % (sizeof(T) * N) == 0) {
        const Pack<T, N> pack = *reinterpret_cast<const Pack<T, N>*>(p);
#pragma unroll
        for (int i = 0; i < N; ++i) out[i] = to_float(pack.v[i]);
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i) out[i] = i < valid ? to_float(p[i]) : 0.0f;
    }
}

// Writes the first `valid` of N values.
template <int N, typename T> __device__ inline void store(T* p, int valid, const float (&in)[N]) {
    if (valid >= N && reinterpret_cast<uintptr_t>(p) % (sizeof(T) * N) == 0) {
        Pack<T, N> pack;
#pragma unroll
        for (int i = 0; i < N; ++i) pack.v[i] = from_float<T>(in[i]);
        *reinterpret_cast<Pack<T, N>*>(p) = pack;
    } else {
#pragma unroll
        for (int i = 0; i < N; ++i)
            if (i < valid) p[i] = from_float<T>(in[i]);
    }
}

// Values that one thread of an elementwise kernel handles: four floats or eight bf16 are 16 bytes.
template <typename T> constexpr int VALUES = sizeof(T) == 2 ? 8 : 4;

// The first element of this thread when every thread handles N.
template <int N> __device__ inline uint64_t first_element() {
    return (uint64_t(blockIdx.x) * blockDim.x + threadIdx.x) * N;
}

// How many of the N elements from `first` on exist.
template <int N> __device__ inline int valid_elements(uint64_t first, uint64_t elems) {
    const uint64_t left = elems - first;
    return left < N ? int(left) : N;
}
