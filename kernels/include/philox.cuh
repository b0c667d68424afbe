// Philox4x32-10, the counter-based generator behind everything random: src/rng.rs word for word.
//
// Key = seed, counter = (step, data-set index, op, element / 4); element e reads word e % 4 of its block.
// Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
#pragma once

#include <cstdint>

__device__ inline uint4 philox4x32_10(uint64_t seed, uint4 c) {
    uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = uint64_t(c.x) * 0xD2511F53u, b = uint64_t(c.z) * 0xCD9E8D57u;
        c = {uint32_t(b >> 32) ^ c.y ^ k0, uint32_t(b), uint32_t(a >> 32) ^ c.w ^ k1, uint32_t(a)};
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

// The numbers that one op draws for one sample at one step.
struct Stream {
    uint64_t seed;
    uint32_t step, index, op;

    // Elements 4 * block .. 4 * block + 3.
    __device__ uint4 block(uint32_t block) const { return philox4x32_10(seed, {step, index, op, block}); }
};

// 32 random bits as a uniform number in [0, 1) with 24 bits.
__device__ inline float unit(uint32_t bits) { return float(bits >> 8) * (1.0f / 16777216.0f); }
