// A block's share of a product of matrices: which tile, which part of the depth, and where its results go.
#pragma once

#include "tile.cuh"

// The depth in parts: the blocks of one tile are neighbours in grid.y.
struct Parts {
    uint32_t count;  // of parts
    uint32_t tiles;  // of depth in a part
};

// This block's tile of an M x N product, and its part of the depth. Tiles of N are next to each other.
template <class MATH> struct Place {
    uint32_t row, column, part, begin, end;

    __device__ Place(uint32_t tile, uint32_t columns, const Parts& parts) {
        const uint32_t across = tiles_across(columns);
        row = tile / across * MATH::BM;
        column = tile % across * MATH::BN;
        part = blockIdx.y;
        begin = part * parts.tiles * MATH::BK;
    }
    __device__ static uint32_t tiles_across(uint32_t columns) { return (columns + MATH::BN - 1) / MATH::BN; }
    // Tiles of a product.
    __device__ static uint32_t tiles_of(uint32_t rows, uint32_t columns) {
        return (rows + MATH::BM - 1) / MATH::BM * tiles_across(columns);
    }
    // Ends the part at the end of the depth; returns its tiles.
    __device__ uint32_t tiles(uint32_t depth, const Parts& parts) {
        begin = min(begin, depth);
        end = min(uint64_t(begin) + uint64_t(parts.tiles) * MATH::BK, uint64_t(depth));
        return (end - begin + MATH::BK - 1) / MATH::BK;
    }
};

extern __shared__ __align__(128) unsigned char shared_memory[];

// The results of a block's tile on their way to memory. `starts(row)` is where a row of the matrix begins.
template <class MATH, typename T, typename F> struct Results {
    const Place<MATH>& at;
    uint32_t rows, columns;
    uint64_t elems;  // of the whole result
    const Finish<T>& finish;
    F starts;

    template <int V> using Residual = Pack<T, V>;

    // Whether V results from a column of the tile on exist, and lie in memory as whole packs.
    template <int V> __device__ bool whole(uint32_t column) const {
        const uintptr_t pointers = uintptr_t(finish.out) | uintptr_t(finish.residual) | uintptr_t(finish.partials);
        return at.column + column + V <= columns && columns % V == 0 && pointers % PIECE_BYTES == 0;
    }

    template <int V> __device__ void bias(uint32_t column, float (&b)[V]) const {
#pragma unroll
        for (int i = 0; i < V; ++i) b[i] = finish.bias && !finish.partials ? finish.bias[at.column + column + i] : 0.0f;
    }

    template <int V> __device__ Pack<T, V> residual(uint32_t row, uint32_t column) const {
        Pack<T, V> pack = {};
        if (finish.residual && !finish.partials && at.row + row < rows)
            pack = *reinterpret_cast<const Pack<T, V>*>(finish.residual + starts(at.row + row) + at.column + column);
        return pack;
    }

    template <int V>
    __device__ void take_whole(uint32_t row, uint32_t column, float (&v)[V], const float (&bias)[V],
                               const Pack<T, V>& residual) const {
        if (at.row + row >= rows) return;
        const uint64_t to = starts(at.row + row) + at.column + column;
        if (finish.partials) {
            float* partials = finish.partials + at.part * elems + to;
#pragma unroll
            for (int i = 0; i < V; i += 4)
                *reinterpret_cast<float4*>(partials + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
            return;
        }
#pragma unroll
        for (int i = 0; i < V; ++i) {
            if (finish.bias) v[i] += bias[i];
            if (finish.residual) v[i] += to_float(residual.v[i]);
        }
        finish.template write<true>(to, at.column + column, V, v);
    }

    // Any V results, as far as they exist.
    template <int V> __device__ void take(uint32_t row, uint32_t column, float (&v)[V]) const {
        if (at.row + row >= rows || at.column + column >= columns) return;
        const int valid = int(columns - (at.column + column));
        const uint64_t to = starts(at.row + row) + at.column + column;
        if (finish.partials)
            store(finish.partials + at.part * elems + to, valid, v);
        else
            finish.complete(to, at.column + column, valid, v);
    }
};

// Multiplies and writes the block's tile of a result of `elems` elements.
template <class MATH, class A, class B, typename T, typename F>
__device__ inline void multiply(A& a, B& b, uint32_t tiles, const Place<MATH>& at, uint32_t rows, uint32_t columns,
                                uint64_t elems, const Finish<T>& finish, F starts) {
    MATH math;
    math.run(shared_address(shared_memory), a, b, tiles);
    const Results<MATH, T, F> results = {at, rows, columns, elems, finish, starts};
    if constexpr (MATH::TENSOR)
        math.template hand_over<VALUES<T>>(reinterpret_cast<float*>(shared_memory), results);
    else
        math.template hand_over<A>(results);
}
