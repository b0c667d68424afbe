// A block's share of a product of matrices: which tile, which part of the depth, and where its results go.
#pragma once

#include "tile.cuh"

// The depth in parts: blocks of one tile that follow each other in grid.y.
struct Parts {
    uint32_t count;  // of parts
    uint32_t tiles;  // of depth in a part
};

// This block's tile of an M x N product, and its part of the depth.
template <class MATH> struct Place {
    uint32_t row, column, part, slice, begin, end;

    __device__ Place(uint32_t columns, const Parts& parts) {
        const uint32_t across = (columns + MATH::BN - 1) / MATH::BN;
        row = blockIdx.x / across * MATH::BM;
        column = blockIdx.x % across * MATH::BN;
        part = blockIdx.y % parts.count;
        slice = blockIdx.y / parts.count;
        begin = part * parts.tiles * MATH::BK;
    }
    // Ends the part at the end of the depth; returns its tiles.
    __device__ uint32_t tiles(uint32_t depth, const Parts& parts) {
        begin = min(begin, depth);
        end = min(uint64_t(begin) + uint64_t(parts.tiles) * MATH::BK, uint64_t(depth));
        return (end - begin + MATH::BK - 1) / MATH::BK;
    }
};

extern __shared__ __align__(128) unsigned char shared_memory[];

// Multiplies and hands every result inside the matrix to f(row, column, valid, values).
template <class MATH, int V, class A, class B, typename F>
__device__ inline void multiply(A& a, B& b, uint32_t tiles, const Place<MATH>& at, uint32_t rows, uint32_t columns, F f) {
    MATH math;
    math.run(shared_address(shared_memory), a, b, tiles);
    const auto each = [&](uint32_t row, uint32_t column, auto& v) {
        if (at.row + row < rows && at.column + column < columns)
            f(at.row + row, at.column + column, int(columns - (at.column + column)), v);
    };
    if constexpr (sizeof(typename MATH::Element) == 2)
        math.template each<V>(reinterpret_cast<float*>(shared_memory), each);
    else
        math.template each<A>(each);
}
