// A product of matrices in tiles: operands travel in tiles of BK depth through a ring of stages in shared memory, filled
// by asynchronous copies while tensor cores (bf16) or FMA units (f32) work on earlier ones.
//
// A tile has rows of 16-byte pieces. Where the operand's depth is contiguous in memory a row is an index of M or N ("deep"
// rows), else a row is one step of depth and runs along M or N ("wide" rows): operands lie in shared memory as they lie
// in global memory. Pieces of a row are swizzled so that neither copies nor reads meet in a bank.
//
// A loader copies one operand: `LOADER::Tile`, and `copy(stage)`, which copies the tile it stands at and moves on; beyond the
// end of its depth it copies zeros, so that the loops need no case of their own for their last tiles.
#pragma once

#include "mma.cuh"
#include "vector.cuh"

constexpr int PIECE_BYTES = 16;

enum class Swizzle {
    NONE,
    PIECES,  // eight rows that follow each other put the same piece into eight places of 128 bytes: for matrix loads
    PAIRS,   // four rows put the same two pieces into four such places: for loads of single words of four rows
};

template <int ROWS_, int PIECES_, bool DEEP_, Swizzle SWIZZLE> struct Tile {
    static constexpr int ROWS = ROWS_, PIECES = PIECES_;
    static constexpr bool DEEP = DEEP_;
    static constexpr int PITCH = PIECES * PIECE_BYTES, BYTES = ROWS * PITCH;

    // Rows after which the swizzle repeats.
    static constexpr int PERIOD = SWIZZLE == Swizzle::NONE ? 1 : SWIZZLE == Swizzle::PAIRS ? 4 : 8;
    __device__ static uint32_t swizzle(uint32_t row) {
        if (SWIZZLE == Swizzle::NONE) return 0;
        if (SWIZZLE == Swizzle::PAIRS) return row % 4 * 2;
        return PIECES >= 8 ? row % 8 : row / (8 / PIECES) % PIECES;
    }
    __device__ static uint32_t offset(uint32_t row, uint32_t piece) {
        return row * PITCH + (piece ^ swizzle(row)) * PIECE_BYTES;
    }
};

// Which pieces of a tile a thread copies: one column of pieces, every STEP-th row.
template <typename T, class TILE, int THREADS> struct Pieces {
    using Tile = TILE;
    static constexpr int V = PIECE_BYTES / sizeof(T);
    static constexpr int STEP = THREADS / TILE::PIECES, COUNT = TILE::ROWS / STEP;
    static constexpr int DEPTH = TILE::DEEP ? TILE::PIECES * V : TILE::ROWS;
    static_assert(STEP % TILE::PERIOD == 0 && COUNT * STEP == TILE::ROWS);

    __device__ static uint32_t row() { return threadIdx.x / TILE::PIECES; }
    // First element of the piece within its row.
    __device__ static uint32_t column() { return threadIdx.x % TILE::PIECES * V; }
    __device__ static uint32_t offset() { return TILE::offset(row(), threadIdx.x % TILE::PIECES); }
    // From one of the thread's pieces to the next.
    static constexpr uint32_t STEP_BYTES = STEP * TILE::PITCH;
};

// Copies V elements one by one to a piece of shared memory: element(e) is an address or null, which gives zero.
template <typename T, typename F> __device__ inline void copy_elements(uint32_t to, F element) {
    constexpr int V = PIECE_BYTES / sizeof(T);
    if constexpr (sizeof(T) == 4) {
#pragma unroll
        for (int e = 0; e < V; ++e) {
            const T* from = element(e);
            copy_async<4>(to + 4 * e, from, from != nullptr);
        }
    } else {
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const T *low = element(2 * i), *high = element(2 * i + 1);
            words[i] = low ? *reinterpret_cast<const uint16_t*>(low) : 0;
            if (high) words[i] |= uint32_t(*reinterpret_cast<const uint16_t*>(high)) << 16;
        }
        asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]),
                     "r"(words[3])
                     : "memory");
    }
}

// Copies the first `valid` elements of a piece and zeros. Not GUARDED, pieces are aligned, and whole or absent.
template <bool GUARDED, typename T> __device__ inline void copy_piece(uint32_t to, const T* from, int valid) {
    if constexpr (GUARDED)
        copy_elements<T>(to, [&](int e) { return e < valid ? from + e : nullptr; });
    else
        copy_async<PIECE_BYTES>(to, from, valid > 0);
}

// Distances between a thread's pieces. They are whole packs of 16 bytes unless GUARDED, and fit 32 bits as such.
template <typename T, bool GUARDED> struct Offset;
template <typename T> struct Offset<T, true> {
    using Type = int64_t;
    __device__ static int64_t of(int64_t elems) { return elems; }
    __device__ static const T* at(const T* from, int64_t offset, int times = 1) { return from + offset * times; }
};
template <typename T> struct Offset<T, false> {
    using Type = int;
    static constexpr int V = PIECE_BYTES / sizeof(T);
    __device__ static int of(int64_t elems) { return int(elems / V); }
    __device__ static const T* at(const T* from, int offset, int times = 1) { return from + int64_t(offset) * (times * V); }
};

// Rows of a matrix [rows, ld] whose depth is contiguous.
template <typename T, class TILE, int THREADS, bool GUARDED> struct DeepRows : Pieces<T, TILE, THREADS> {
    using P = Pieces<T, TILE, THREADS>;
    using O = Offset<T, GUARDED>;
    const T* from;
    typename O::Type step;
    int left;    // depth from this thread's piece on
    int exist;   // of the thread's rows

    __device__ DeepRows(const T* matrix, uint64_t ld, uint32_t first_row, uint32_t rows, uint32_t depth_begin,
                        uint32_t depth_end) {
        const uint32_t row = first_row + P::row(), depth = depth_begin + P::column();
        from = matrix + row * ld + depth;
        step = O::of(P::STEP * ld);
        left = int(depth_end) - int(depth);
        exist = row < rows ? int((rows - row + P::STEP - 1) / P::STEP) : 0;
    }

    __device__ void copy(uint32_t stage) {
#pragma unroll
        for (int i = 0; i < P::COUNT; ++i)
            copy_piece<GUARDED>(stage + P::offset() + i * P::STEP_BYTES, O::at(from, step, i), i < exist ? left : 0);
        from += P::DEPTH;
        left -= P::DEPTH;
    }
};

// Rows of a matrix [depth, ld], each a step of depth.
template <typename T, class TILE, int THREADS, bool GUARDED> struct WideRows : Pieces<T, TILE, THREADS> {
    using P = Pieces<T, TILE, THREADS>;
    using O = Offset<T, GUARDED>;
    const T* from;
    typename O::Type step;
    int left;   // depth from this thread's first row on
    int valid;  // elements of the pieces

    __device__ WideRows(const T* matrix, uint64_t ld, uint32_t first_column, uint32_t columns, uint32_t depth_begin,
                        uint32_t depth_end)
        : step(O::of(P::STEP * ld)) {
        const uint32_t column = first_column + P::column(), depth = depth_begin + P::row();
        from = matrix + depth * ld + column;
        valid = int(columns) - int(column);
        left = valid > 0 ? int(depth_end) - int(depth) : 0;
    }

    __device__ void copy(uint32_t stage) {
#pragma unroll
        for (int i = 0; i < P::COUNT; ++i)
            copy_piece<GUARDED>(stage + P::offset() + i * P::STEP_BYTES, O::at(from, step, i),
                                i * P::STEP < left ? GUARDED ? valid : P::V : 0);
        from = O::at(from, step, P::COUNT);
        left -= P::DEPTH;
    }
};

// What becomes of sums: bias and residual are added, and the result is written. With parts of the depth in several blocks
// (`partials` not null) the sums are stored for a reduction in order, and finished there.
template <typename T> struct Finish {
    const float* bias;   // [columns] or null
    const T* residual;   // as out, or null; may be out itself
    T* out;
    float* partials;     // [parts, elems] or null

    // The seam of every epilogue. Finished values, which no more is added to, pass here once on their way to memory,
    // wherever they come from: whole packs of a tile, its edges, the reduction of parts. `at` is their place in the result
    // and `column` their channel, so that statistics per channel (for the batch norm behind a convolution) are taken here.
    // WHOLE: V values that lie in memory as an aligned pack, else the first `valid`.
    template <bool WHOLE, int V>
    __device__ void write(uint64_t at, [[maybe_unused]] uint32_t column, int valid, const float (&v)[V]) const {
        if constexpr (WHOLE) {
            Pack<T, V> pack;
#pragma unroll
            for (int i = 0; i < V; ++i) pack.v[i] = from_float<T>(v[i]);
            *reinterpret_cast<Pack<T, V>*>(out + at) = pack;
        } else {
            store(out + at, valid, v);
        }
    }

    template <int V> __device__ void complete(uint64_t at, uint32_t column, int valid, float (&v)[V]) const {
        float more[V];
        if (bias) {
            load(bias + column, valid, more);
#pragma unroll
            for (int i = 0; i < V; ++i) v[i] += more[i];
        }
        if (residual) {
            load(residual + at, valid, more);
#pragma unroll
            for (int i = 0; i < V; ++i) v[i] += more[i];
        }
        write<false>(at, column, valid, v);
    }
};

// bf16, or float as tf32, on tensor cores: four warps, two by two, a quarter of the BM x BN tile each.
template <int BM_, int BN_, typename T> struct TensorCores {
    using Element = T;
    static constexpr bool TENSOR = true;
    static constexpr int BM = BM_, BN = BN_, STAGES = 4, THREADS = 128;
    // A tile is four pieces deep, a product two: 16 steps of bf16, 8 of tf32.
    static constexpr int STEPS = 2, STEP = 2 * PIECE_BYTES / sizeof(T), BK = STEPS * STEP;
    static constexpr int WM = BM / 2, WN = BN / 2;
    static constexpr int TILES_M = WM / 16, TILES_N = WN / 8;

    template <int EXTENT> using Deep = Tile<EXTENT, BK * int(sizeof(T)) / PIECE_BYTES, true, Swizzle::PIECES>;
    // There is no matrix load that transposes words of 32 bits.
    template <int EXTENT>
    using Wide = Tile<BK, EXTENT * int(sizeof(T)) / PIECE_BYTES, false, sizeof(T) == 2 ? Swizzle::PIECES : Swizzle::PAIRS>;

    float sums[TILES_M][TILES_N][4] = {};

    __device__ static uint32_t warp_row() { return threadIdx.x / 64 * WM; }
    __device__ static uint32_t warp_column() { return threadIdx.x / 32 % 2 * WN; }

    // Where this lane reads an operand's fragments, of 16 of the extent each.
    template <class TILE, int COUNT, bool IS_A> struct Fragments {
        static constexpr bool MATRICES = TILE::DEEP || sizeof(T) == 2;
        // A deep tile has an address per step, a wide one per 16 of the extent: the rest is a constant distance.
        static constexpr int ADDRESSES = TILE::DEEP ? STEPS : MATRICES ? COUNT : 4;
        uint32_t at[ADDRESSES];
        uint32_t before = 0;  // what all of them have before them: for wide words, those of A and of B are alike

        __device__ explicit Fragments(uint32_t extent) {
            const uint32_t lane = threadIdx.x % 32, low = lane % 8, mid = lane / 8 % 2, high = lane / 16;
            // The four matrices go first along the extent for A's registers and first along the depth for B's.
            const uint32_t along = low + 8 * (IS_A ? mid : high), deep = low + 8 * (IS_A ? high : mid);
#pragma unroll
            for (int i = 0; i < ADDRESSES; ++i) {
                if constexpr (TILE::DEEP)
                    at[i] = TILE::offset(extent + along, 2 * i + (IS_A ? high : mid));
                else if constexpr (MATRICES)
                    at[i] = TILE::offset(deep, extent / 8 + 2 * i + (IS_A ? mid : high));
                else
                    // Word lane / 4 of eight in row lane % 4.
                    at[i] = TILE::offset(lane % 4, 2 * i + lane / 16) + lane / 4 % 4 * 4;
            }
            if (!MATRICES) before = extent * 4;
        }

        __device__ void load(uint32_t stage, int step, int i, uint32_t (&m)[4]) const {
            if constexpr (TILE::DEEP) {
                load_matrices<false>(stage + at[step] + i * 16 * TILE::PITCH, m);
            } else if constexpr (MATRICES) {
                load_matrices<true>(stage + at[i] + step * STEP * TILE::PITCH, m);
            } else {
#pragma unroll
                for (int half = 0; half < 2; ++half)
#pragma unroll
                    for (int below = 0; below < 2; ++below) {
                        const int eight = 2 * i + half;
                        const uint32_t where =
                            at[eight % 4] + eight / 4 * 8 * PIECE_BYTES + (step * STEP + 4 * below) * TILE::PITCH;
                        asm volatile("ld.shared.b32 %0, [%1];"
                                     : "=r"(m[IS_A ? half + 2 * below : 2 * half + below])
                                     : "r"(stage + before + where));
                    }
            }
        }
    };

    template <class A, class B> __device__ void run(uint32_t shared, A& a, B& b, uint32_t tiles) {
        constexpr uint32_t STAGE = A::Tile::BYTES + B::Tile::BYTES;
        const Fragments<typename A::Tile, TILES_M, true> from_a(warp_row());
        const Fragments<typename B::Tile, TILES_N / 2, false> from_b(warp_column());
        // Two sets: one is loaded while the other is multiplied.
        uint32_t ma[2][TILES_M][4], mb[2][TILES_N / 2][4];
        const auto fetch = [&](uint32_t stage, int step) {
#pragma unroll
            for (int i = 0; i < TILES_M; ++i) from_a.load(stage, step, i, ma[step % 2][i]);
#pragma unroll
            for (int j = 0; j < TILES_N / 2; ++j) from_b.load(stage + A::Tile::BYTES, step, j, mb[step % 2][j]);
        };
        const auto multiply = [&](int step) {
            if constexpr (sizeof(T) == 4) {
#pragma unroll
                for (int i = 0; i < TILES_M; ++i) round_to_tf32(ma[step % 2][i]);
#pragma unroll
                for (int j = 0; j < TILES_N / 2; ++j) round_to_tf32(mb[step % 2][j]);
            }
#pragma unroll
            for (int i = 0; i < TILES_M; ++i)
#pragma unroll
                for (int j = 0; j < TILES_N; ++j) {
                    const uint32_t(&pair)[4] = mb[step % 2][j / 2];
                    const uint32_t b[2] = {pair[j % 2 * 2], pair[j % 2 * 2 + 1]};
                    if constexpr (sizeof(T) == 2)
                        mma_bf16(sums[i][j], ma[step % 2][i], b);
                    else
                        mma_tf32(sums[i][j], ma[step % 2][i], b);
                }
        };
        const auto fill = [&](uint32_t stage) {
            a.copy(stage);
            b.copy(stage + A::Tile::BYTES);
        };
        if (tiles == 0) return;
#pragma unroll
        for (int i = 0; i < STAGES - 1; ++i) {
            fill(shared + i * STAGE);
            commit_copies();
        }
        wait_copies<STAGES - 2>();
        __syncthreads();
        uint32_t read = shared, write = shared + (STAGES - 1) * STAGE;
        fetch(read, 0);
        for (uint32_t tile = 1; tile < tiles; ++tile) {
#pragma unroll
            for (int step = 0; step < STEPS; ++step) {
                if (step < STEPS - 1) {
                    fetch(read, step + 1);
                } else {
                    // The next tile has arrived for all, and all have read the last of this one.
                    wait_copies<STAGES - 2>();
                    __syncthreads();
                    read = read == shared + (STAGES - 1) * STAGE ? shared : read + STAGE;
                    fetch(read, 0);
                }
                if (step == 0) {
                    // Nobody reads the stage of the tile before this one any more.
                    fill(write);
                    commit_copies();
                    write = write == shared + (STAGES - 1) * STAGE ? shared : write + STAGE;
                }
                multiply(step);
            }
        }
#pragma unroll
        for (int step = 0; step < STEPS; ++step) {
            if (step < STEPS - 1) fetch(read, step + 1);
            multiply(step);
        }
        wait_copies<0>();
    }

    // Hands over V neighbours of a row at a time, through shared memory so that a warp writes whole lines. `shared` holds
    // THREADS / 32 * 16 rows of WN + 8 floats.
    template <int V, class RESULTS> __device__ void hand_over(float* shared, const RESULTS& results) {
        constexpr int PITCH = WN + 8, LANES = WN / V, COUNT = 16 * LANES / 32;
        __syncthreads();
        float* mine = shared + threadIdx.x / 32 * 16 * PITCH;
        const uint32_t lane = threadIdx.x % 32;
        const uint32_t column = lane % LANES * V;
        // Of eight floats half the lanes read the second four first: no two lanes meet in a bank.
        const bool swapped = V == 8 && lane / 4 % 2;
        const auto read = [&](uint32_t row, float (&v)[V]) {
            float4 fours[V / 4];
#pragma unroll
            for (int i = 0; i < V / 4; ++i)
                fours[i] = *reinterpret_cast<const float4*>(mine + row * PITCH + column + (i ^ int(swapped)) * 4);
#pragma unroll
            for (int i = 0; i < V / 4; ++i) {
                const float4 four = V == 8 && swapped ? fours[V / 4 - 1 - i] : fours[i];
                v[4 * i] = four.x, v[4 * i + 1] = four.y, v[4 * i + 2] = four.z, v[4 * i + 3] = four.w;
            }
        };
        const uint32_t to_column = warp_column() + column;
        const bool whole = results.template whole<V>(to_column);
        float bias[V] = {};
        if (whole) results.template bias<V>(to_column, bias);
#pragma unroll
        for (int i = 0; i < TILES_M; ++i) {
#pragma unroll
            for (int j = 0; j < TILES_N; ++j)
#pragma unroll
                for (int half = 0; half < 2; ++half)
                    *reinterpret_cast<float2*>(mine + (lane / 4 + 8 * half) * PITCH + 8 * j + lane % 4 * 2) =
                        make_float2(sums[i][j][2 * half], sums[i][j][2 * half + 1]);
            __syncwarp();
            const uint32_t first = lane / LANES, to_row = warp_row() + 16 * i + first;
            float v[V];
            if (whole) {
                // All residuals are under way before the first is needed.
                typename RESULTS::template Residual<V> residuals[COUNT];
#pragma unroll
                for (int row = 0; row < COUNT; ++row)
                    residuals[row] = results.template residual<V>(to_row + row * 32 / LANES, to_column);
#pragma unroll
                for (int row = 0; row < COUNT; ++row) {
                    read(first + row * 32 / LANES, v);
                    results.take_whole(to_row + row * 32 / LANES, to_column, v, bias, residuals[row]);
                }
            } else {
#pragma unroll 1
                for (int row = 0; row < COUNT; ++row) {
                    read(first + row * 32 / LANES, v);
                    results.take(to_row + row * 32 / LANES, to_column, v);
                }
            }
            __syncwarp();
        }
    }
};

// f32 on FMA units: 16 x 16 threads, TM x TN results each.
template <int TM, int TN> struct FmaUnits {
    using Element = float;
    static constexpr bool TENSOR = false;
    static constexpr int BM = 16 * TM, BN = 16 * TN, BK = 16, STAGES = 3, THREADS = 256;

    template <int EXTENT> using Deep = Tile<EXTENT, BK * 4 / PIECE_BYTES, true, Swizzle::PIECES>;
    // Read along its rows, which needs no swizzle.
    template <int EXTENT> using Wide = Tile<BK, EXTENT * 4 / PIECE_BYTES, false, Swizzle::NONE>;

    float sums[TM][TN] = {};

    // A quarter of a warp, which reads shared memory together, is four rows high and two columns wide.
    __device__ static uint32_t y() { return threadIdx.x / 32 % 4 * 4 + threadIdx.x % 4; }
    __device__ static uint32_t x() { return threadIdx.x / 128 * 8 + threadIdx.x % 32 / 4; }

    // Rows of a deep tile are 16 apart, of a wide one four neighbours lie together.
    template <class A> __device__ static uint32_t row(int i) {
        return A::Tile::DEEP ? y() + 16 * i : i / 4 * 64 + y() * 4 + i % 4;
    }
    __device__ static uint32_t column(int j) { return j / 4 * 64 + x() * 4 + j % 4; }

    __device__ static void four(uint32_t at, float (&v)[4]) {
        asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3]) : "r"(at));
    }

    // Four steps of depth of this thread's part of an operand: of A, or of B.
    template <class TILE, bool IS_A, int COUNT> __device__ static void fetch(uint32_t tile, int step, float (&v)[COUNT][4]) {
        if constexpr (TILE::DEEP) {
            static_assert(TILE::PIECES == 4);
            // What stands outside `offset` repeats the swizzle of the row inside.
#pragma unroll
            for (int i = 0; i < COUNT; ++i)
                four(tile + (IS_A ? TILE::offset(y(), step) + 16 * i * TILE::PITCH
                                  : TILE::offset(4 * x(), step ^ (i % 4 / 2)) + (i / 4 * 64 + i % 4) * TILE::PITCH),
                     v[i]);
        } else {
#pragma unroll
            for (int deep = 0; deep < 4; ++deep)
#pragma unroll
                for (int i = 0; i < COUNT; i += 4) {
                    float along[4];
                    four(tile + TILE::offset(4 * step + deep, 4 * i + (IS_A ? y() : x())), along);
#pragma unroll
                    for (int e = 0; e < 4; ++e) v[i + e][deep] = along[e];
                }
        }
    }

    template <class A, class B> __device__ void run(uint32_t shared, A& a, B& b, uint32_t tiles) {
        constexpr uint32_t STAGE = A::Tile::BYTES + B::Tile::BYTES;
        const auto fill = [&](uint32_t stage) {
            a.copy(stage);
            b.copy(stage + A::Tile::BYTES);
        };
#pragma unroll
        for (int i = 0; i < STAGES - 1; ++i) {
            fill(shared + i * STAGE);
            commit_copies();
        }
        uint32_t read = shared, write = shared + (STAGES - 1) * STAGE;
        for (uint32_t tile = 0; tile < tiles; ++tile) {
            // This tile has arrived for all, and all have read the one before it, whose stage is filled next.
            wait_copies<STAGES - 2>();
            __syncthreads();
            fill(write);
            commit_copies();
            write = write == shared + (STAGES - 1) * STAGE ? shared : write + STAGE;
            // Not all at once: the kernels would be twice as long.
#pragma unroll 2
            for (int step = 0; step < BK / 4; ++step) {
                float va[TM][4], vb[TN][4];
                fetch<typename A::Tile, true>(read, step, va);
                fetch<typename B::Tile, false>(read + A::Tile::BYTES, step, vb);
#pragma unroll
                for (int deep = 0; deep < 4; ++deep)
#pragma unroll
                    for (int i = 0; i < TM; ++i)
#pragma unroll
                        for (int j = 0; j < TN; ++j) sums[i][j] = fmaf(va[i][deep], vb[j][deep], sums[i][j]);
            }
            read = read == shared + (STAGES - 1) * STAGE ? shared : read + STAGE;
        }
        wait_copies<0>();
    }

    // Hands over four neighbours of a row at a time.
    template <class A, class RESULTS> __device__ void hand_over(const RESULTS& results) {
#pragma unroll
        for (int i = 0; i < TM; ++i)
#pragma unroll
            for (int j = 0; j < TN; j += 4) {
                float v[4] = {sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]};
                results.take(row<A>(i), column(j), v);
            }
    }
};
