// 16 bytes at a time: loads and stores that memory-bound kernels are made of, for float, bf16 and bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
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

// A pack as words, and their store into global memory in one instruction.
template <typename T, int BYTES> struct PackWords;
template <> struct PackWords<float, 16> { using Type = float4; };
template <> struct PackWords<float, 8> { using Type = float2; };
template <> struct PackWords<bf16, 16> { using Type = uint4; };
template <> struct PackWords<bf16, 8> { using Type = uint2; };
template <> struct PackWords<uint8_t, 16> { using Type = uint4; };
template <> struct PackWords<uint8_t, 8> { using Type = uint2; };
template <> struct PackWords<uint8_t, 4> { using Type = uint32_t; };

__device__ inline void store_words(float4* p, float4 v) {
    asm volatile("st.global.v4.f32 [%0], {%1,%2,%3,%4};" ::"l"(p), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}
__device__ inline void store_words(float2* p, float2 v) {
    asm volatile("st.global.v2.f32 [%0], {%1,%2};" ::"l"(p), "f"(v.x), "f"(v.y) : "memory");
}
__device__ inline void store_words(uint4* p, uint4 v) {
    asm volatile("st.global.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(p), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
}
__device__ inline void store_words(uint2* p, uint2 v) {
    asm volatile("st.global.v2.u32 [%0], {%1,%2};" ::"l"(p), "r"(v.x), "r"(v.y) : "memory");
}
__device__ inline void store_words(uint32_t* p, uint32_t v) {
    asm volatile("st.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}

// Where a store goes: ANY may be shared memory.
enum class Memory { GLOBAL, ANY };

// Writes the first `valid` of N values, in packs of at most 16 bytes. Packs into global memory are stored by asm: a
// plain store of one nvcc may merge with those of the single values, and then break into scalars.
template <Memory MEMORY = Memory::GLOBAL, int N, typename T>
__device__ inline void store(T* p, int valid, const float (&in)[N]) {
    constexpr int M = N * sizeof(T) > 16 ? 16 / sizeof(T) : N;
    if (valid >= N && reinterpret_cast<uintptr_t>(p) % (sizeof(T) * M) == 0) {
#pragma unroll
        for (int first = 0; first < N; first += M) {
            Pack<T, M> pack;
#pragma unroll
            for (int i = 0; i < M; ++i) pack.v[i] = from_float<T>(in[first + i]);
            if constexpr (MEMORY == Memory::GLOBAL && M > 1) {
                typename PackWords<T, sizeof(pack)>::Type words;
                memcpy(&words, &pack, sizeof(pack));
                store_words(reinterpret_cast<decltype(words)*>(p + first), words);
            } else {
                *reinterpret_cast<Pack<T, M>*>(p + first) = pack;
            }
        }
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
