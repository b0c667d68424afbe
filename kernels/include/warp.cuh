// Sums and maxima over the 32 lanes of a warp, the same in every lane and always in the same order.
#pragma once

#include <cstdint>

constexpr uint32_t ALL_LANES = 0xffffffffu;

template <typename T> __device__ inline T warp_sum(T x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(ALL_LANES, x, distance);
    return x;
}

// NaN in any lane gives NaN.
template <typename T> __device__ inline T warp_max(T x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const T other = __shfl_xor_sync(ALL_LANES, x, distance);
        x = other > x || other != other ? other : x;
    }
    return x;
}
