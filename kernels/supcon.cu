// Supervised contrastive losses, L2 normalisation, and the similarity matrix.
//
// Computes     l2_normalize: unit = z / sqrt(max(sum z^2, eps)); its backward. similarity_matrix: sim = z z^T / t; its
//              backward: dz = (dsim + dsim^T) z / t. supcon: with S = unit unit^T / t, per anchor i n-pairs
//              log sum_j exp S_ij - mean over positives of S_ij; L_out the same without j = i; L_in with the mean of
//              exp S_ip inside a logarithm; loss = scale * sum over anchors / their number.
// Shapes       z, dz [n, dim]; unit [n, pitch], zeros behind dim; sim, dsim [n, n]; labels [n / views]; measured
//              [parts, n]; state 3 floats per anchor and a factor (struct State); partials [parts, n, dim].
// Launch       rows (l2_normalize*, supcon_backward): block 256, a warp per row. Tiles: block 256 (f32) or 128 (bf16),
//              64 anchors per block in grid.x, a part of the others in grid.y; dynamic shared memory: the stages of
//              both operands, for supcon_gradient also 64 x 64 slopes, for supcon_measure at least 24 bytes for 68
//              anchors and the threads that share one. supcon_mean: one block.
// Requires     t, eps > 0; unit aligned to 16 bytes and pitch a multiple of 8; similarity_matrix: z aligned and dim a
//              multiple of 16 bytes, guarded: nothing more; of these, 64 rows below 2^31 packs of 16 bytes; extents
//              below 2^30.
// Writes       `=`, the backward kernels `+=` where told to.
// Determinism  every sum in one order: of columns within a tile, of tiles, of parts.
// Cost         supcon_measure 2 n^2 dim FLOPs, supcon_gradient (2 + 2 ceil(dim / 128)) n^2 dim; no n x n in memory: a
//              block meets the tiles of S one after the other, with a running log-sum-exp per anchor.
// Source       Khosla et al., "Supervised Contrastive Learning" (2020); Sohn, "Improved Deep Metric Learning with
//              Multi-class N-pair Loss Objective" (2016); Milakov, Gimelshein, "Online normalizer calculation" (2018).

#include "loss_rows.cuh"
#include "product.cuh"

constexpr int SIDE = 64;  // of a tile of similarities

enum Form : uint32_t { NPAIRS, OUT, IN };
enum MeanOver : uint32_t { WITH_POSITIVE, ALL };

struct Supcon {
    uint32_t n, views;    // anchors, and how many of them are of one sample
    uint32_t dim, pitch;  // of an embedding, and from one unit row to the next
    uint32_t form, mean_over;
    float temperature, norm_eps, scale;

    // Whether the loss of an anchor looks at a column.
    __device__ bool compares(uint32_t anchor, uint32_t column) const {
        return anchor < n && column < n && (anchor != column || form == NPAIRS);
    }
    __device__ int32_t label(const int32_t* labels, uint32_t anchor) const {
        return anchor < n ? labels[anchor / views] : 0;
    }
};

// What the backward pass must know of the anchors.
struct State {
    float *rows, *positives;  // log sum exp S over the row; over its positives
    float* inverse_counts;    // 1 / positives, 0 without
    float* factor;            // of the sum of losses

    __device__ State(float* state, uint32_t n)
        : rows(state), positives(rows + n), inverse_counts(positives + n), factor(inverse_counts + n) {}
};

// Calls f(first element, V values) for a row of this warp up to `end`; values behind `dim` are zero.
template <typename T, typename F> __device__ inline void each_values(const T* row, uint32_t dim, uint32_t end, F f) {
    constexpr int V = VALUES<T>;
    for (uint32_t k = threadIdx.x % 32 * V; k < end; k += 32 * V) {
        float v[V];
        load(row + k, int(dim) - int(k), v);
        f(k, v);
    }
}

template <typename T> __device__ inline double squared_norm(const T* z, uint32_t dim) {
    double sum = 0.0;
    each_values(z, dim, dim, [&](uint32_t, const float(&v)[VALUES<T>]) {
#pragma unroll
        for (float x : v) sum += double(x) * double(x);
    });
    return warp_sum(sum);
}

template <typename T>
__device__ inline void normalize(uint64_t n, uint32_t dim, uint32_t pitch, float eps, const T* z, T* y) {
    const uint64_t row = loss_row();
    if (row >= n) return;
    z += row * dim;
    y += row * pitch;
    const double inverse = 1.0 / sqrt(fmax(squared_norm(z, dim), double(eps)));
    each_values(z, dim, pitch, [&](uint32_t k, float(&v)[VALUES<T>]) {
#pragma unroll
        for (float& x : v) x = float(double(x) * inverse);
        store(y + k, int(pitch - k), v);
    });
}

// Gradient through the normalisation of this warp's row. `gradient(k, g)` gives V of that to the unit row.
template <typename T, typename F>
__device__ inline void normalize_row_backward(uint32_t dim, float eps, const T* z, F gradient, bool accumulate, T* dz) {
    constexpr int V = VALUES<T>;
    const double squares = squared_norm(z, dim);
    const double inverse = 1.0 / sqrt(fmax(squares, double(eps)));
    // Under the floor the normaliser is a constant, so nothing is projected out.
    double radial = 0.0;
    if (squares >= double(eps)) {
        each_values(z, dim, dim, [&](uint32_t k, const float(&v)[V]) {
            double g[V];
            gradient(k, g);
#pragma unroll
            for (int e = 0; e < V; ++e) radial += double(v[e]) * inverse * g[e];
        });
        radial = warp_sum(radial);
    }
    each_values(z, dim, dim, [&](uint32_t k, float(&v)[V]) {
        const int valid = int(dim - k);
        float before[V] = {};
        if (accumulate) load(dz + k, valid, before);
        double g[V];
        gradient(k, g);
#pragma unroll
        for (int e = 0; e < V; ++e) v[e] = before[e] + float(inverse * (g[e] - double(v[e]) * inverse * radial));
        store(dz + k, valid, v);
    });
}

// A piece of a row that goes on from tile to tile.
template <class TILE> __device__ inline unsigned char* piece_of(unsigned char* tiles, uint32_t row, uint32_t piece) {
    return tiles + piece / TILE::PIECES * TILE::BYTES + TILE::offset(row, piece % TILE::PIECES);
}

// How a thread finds its results in a block's tile of similarities: ROWS x COLUMNS of them. A row is shared by SHARERS
// threads. `put` stores those of a row as the operand A of a product, in tiles.
template <class MATH> struct Mine;

template <> struct Mine<FmaUnits<4, 4>> {
    using MATH = FmaUnits<4, 4>;
    static constexpr int ROWS = 4, COLUMNS = 4, SHARERS = 16;
    __device__ static uint32_t row(int r) { return MATH::y() + 16 * r; }
    __device__ static uint32_t column(int c) { return MATH::column(c); }
    __device__ static uint32_t sharer() { return MATH::x(); }
    __device__ static float& at(MATH& math, int r, int c) { return math.sums[r][c]; }
    template <class TILE> __device__ static void put(unsigned char* tiles, int r, const float (&v)[COLUMNS]) {
        unsigned char* to = piece_of<TILE>(tiles, row(r), column(0) / 4);
        *reinterpret_cast<float4*>(to) = make_float4(v[0], v[1], v[2], v[3]);
    }
};

template <> struct Mine<TensorCores<64, 64, bf16>> {
    using MATH = TensorCores<64, 64, bf16>;
    static constexpr int ROWS = 4, COLUMNS = 8, SHARERS = 8;
    __device__ static uint32_t row(int r) { return MATH::warp_row() + 8 * r + threadIdx.x % 32 / 4; }
    __device__ static uint32_t column(int c) { return MATH::warp_column() + c / 2 * 8 + threadIdx.x % 4 * 2 + c % 2; }
    __device__ static uint32_t sharer() { return threadIdx.x / 32 % 2 * 4 + threadIdx.x % 4; }
    __device__ static float& at(MATH& math, int r, int c) { return math.sums[r / 2][c / 2][r % 2 * 2 + c % 2]; }
    template <class TILE> __device__ static void put(unsigned char* tiles, int r, const float (&v)[COLUMNS]) {
#pragma unroll
        for (int c = 0; c < COLUMNS; c += 2) {
            unsigned char* to = piece_of<TILE>(tiles, row(r), column(c) / 8);
            *reinterpret_cast<__nv_bfloat162*>(to + threadIdx.x % 4 * 4) = __floats2bfloat162_rn(v[c], v[c + 1]);
        }
    }
};

// Products of 64 unit rows from `row` on with 64 from `column` on; those that do not exist are zero.
template <class MATH, typename T>
__device__ inline void multiply_rows(MATH& math, const unsigned char* stages, const Supcon& p, const T* unit,
                                     uint32_t row, uint32_t column) {
    using Rows = DeepRows<T, typename MATH::template Deep<SIDE>, MATH::THREADS, false>;
    Rows a(unit, p.pitch, row, p.n, 0, p.pitch), b(unit, p.pitch, column, p.n, 0, p.pitch);
    math.run(shared_address(stages), a, b, (p.pitch + MATH::BK - 1) / MATH::BK);
}

// log sum exp of products over the temperature, while they come: the sum is that of exp((product - largest) / t).
template <typename REAL> struct LogSumExp {
    float largest;
    REAL sum;

    template <int N, typename F> __device__ void add(const float (&products)[N], float inverse_temperature, F is_one) {
        float now = largest;
#pragma unroll
        for (int c = 0; c < N; ++c)
            if (is_one(c)) now = fmaxf(now, products[c]);
        sum *= expf((largest - now) * inverse_temperature);
#pragma unroll
        for (int c = 0; c < N; ++c)
            if (is_one(c)) sum += expf((products[c] - now) * inverse_temperature);
        largest = now;
    }
};

// What is known of an anchor when it was compared with some columns.
struct Measured {
    LogSumExp<float> row, positives;
    float similarity;  // sum of products with positives
    uint32_t count;    // of positives
};

// Less than any product.
constexpr float LEAST = -3.402823466e38f;
__device__ constexpr Measured NOTHING = {{LEAST, 0.0f}, {LEAST, 0.0f}, 0.0f, 0};

// Several as one, with sums in REAL, in order: each(i) gives one.
template <typename REAL, typename F>
__device__ inline LogSumExp<REAL> merge(uint32_t count, REAL inverse_temperature, F each) {
    LogSumExp<REAL> all = {LEAST, 0};
    for (uint32_t i = 0; i < count; ++i) all.largest = fmaxf(all.largest, each(i).largest);
    for (uint32_t i = 0; i < count; ++i)
        all.sum += REAL(each(i).sum) * exp(REAL(each(i).largest - all.largest) * inverse_temperature);
    return all;
}

// The first walk over the similarities, of 64 anchors with a part of all rows.
template <class MATH, typename T = typename MATH::Element>
__device__ inline void measure(const Supcon& p, uint32_t tiles_per_part, const T* unit, const int32_t* labels,
                               Measured* measured) {
    using Own = Mine<MATH>;
    __shared__ int32_t row_labels[SIDE], column_labels[SIDE];
    const uint32_t first = blockIdx.x * SIDE, t = threadIdx.x;
    const float inverse = 1.0f / p.temperature;
    if (t < SIDE) row_labels[t] = p.label(labels, first + t);
    Measured mine[Own::ROWS];
#pragma unroll
    for (Measured& m : mine) m = NOTHING;
    const uint64_t begin = uint64_t(blockIdx.y) * tiles_per_part * SIDE;
    const uint32_t end = uint32_t(min(begin + uint64_t(tiles_per_part) * SIDE, uint64_t(p.n)));
    for (uint32_t column = uint32_t(begin); column < end; column += SIDE) {
        if (t < SIDE) column_labels[t] = p.label(labels, column + t);
        MATH math;
        multiply_rows(math, shared_memory, p, unit, first, column);
#pragma unroll
        for (int r = 0; r < Own::ROWS; ++r) {
            float products[Own::COLUMNS];
            uint32_t compared = 0, positive = 0;
#pragma unroll
            for (int c = 0; c < Own::COLUMNS; ++c) {
                products[c] = Own::at(math, r, c);
                if (!p.compares(first + Own::row(r), column + Own::column(c))) continue;
                compared |= 1u << c;
                if (row_labels[Own::row(r)] != column_labels[Own::column(c)]) continue;
                positive |= 1u << c;
                mine[r].similarity += products[c];
            }
            mine[r].count += __popc(positive);
            mine[r].row.add(products, inverse, [&](int c) { return compared >> c & 1; });
            if (p.form == IN) mine[r].positives.add(products, inverse, [&](int c) { return positive >> c & 1; });
        }
        // The labels and the stages are read: the next tile may have them.
        __syncthreads();
    }
    // Four more, and no two lanes meet in a bank.
    Measured(*all)[SIDE + 4] = reinterpret_cast<Measured(*)[SIDE + 4]>(shared_memory);
#pragma unroll
    for (int r = 0; r < Own::ROWS; ++r) all[Own::sharer()][Own::row(r)] = mine[r];
    __syncthreads();
    if (t >= SIDE || first + t >= p.n) return;
    Measured sum = NOTHING;
    sum.row = merge(Own::SHARERS, inverse, [&](uint32_t i) { return all[i][t].row; });
    sum.positives = merge(Own::SHARERS, inverse, [&](uint32_t i) { return all[i][t].positives; });
    for (uint32_t i = 0; i < Own::SHARERS; ++i) {
        sum.similarity += all[i][t].similarity;
        sum.count += all[i][t].count;
    }
    measured[uint64_t(blockIdx.y) * p.n + first + t] = sum;
}

// An anchor as the second walk sees it.
struct alignas(16) Anchor {
    float row, positives, inverse_count;
    int32_t label;

    // Derivative of its loss to the similarity behind a product.
    __device__ float slope(const Supcon& p, float product, float inverse_temperature, bool positive) const {
        if (inverse_count == 0.0f) return 0.0f;
        const float target = p.form == IN ? expf(fmaf(product, inverse_temperature, -positives)) : inverse_count;
        return expf(fmaf(product, inverse_temperature, -row)) - (positive ? target : 0.0f);
    }
};

__device__ inline Anchor anchor_at(const Supcon& p, const State& state, const int32_t* labels, uint32_t i) {
    if (i >= p.n) return {0.0f, 0.0f, 0.0f, 0};
    return {state.rows[i], state.positives[i], state.inverse_counts[i], labels[i / p.views]};
}

__device__ inline void store_piece(uint32_t to, const uint4& piece) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(piece.x), "r"(piece.y), "r"(piece.z),
                 "r"(piece.w)
                 : "memory");
}

// Tiles of an operand that lie in shared memory already.
template <class TILE, int THREADS> struct FromShared {
    using Tile = TILE;
    static constexpr int COUNT = TILE::BYTES / PIECE_BYTES / THREADS;
    const uint4* from;
    uint32_t left;  // tiles

    __device__ FromShared(const unsigned char* tiles, uint32_t count)
        : from(reinterpret_cast<const uint4*>(tiles) + threadIdx.x), left(count) {}

    __device__ void copy(uint32_t stage) {
        if (left == 0) return;
#pragma unroll
        for (int i = 0; i < COUNT; ++i)
            store_piece(stage + (threadIdx.x + i * THREADS) * PIECE_BYTES, from[i * THREADS]);
        from += COUNT * THREADS;
        --left;
    }
};

// The second walk: gradient to 64 unit rows, in a part of all columns and 128 dimensions. S_ij and S_ji are one number,
// so a row gets the slopes of both anchors.
template <class SCORE, class GRADIENT, typename T = typename SCORE::Element>
__device__ inline void gradient(const Supcon& p, Parts parts, const T* unit, const int32_t* labels, const State& state,
                                float* partials) {
    using Own = Mine<SCORE>;
    using Slopes = typename GRADIENT::template Deep<SIDE>;
    using Rows = WideRows<T, typename GRADIENT::template Wide<GRADIENT::BN>, GRADIENT::THREADS, false>;
    static_assert(GRADIENT::BM == SIDE && SIDE % GRADIENT::BK == 0);
    __shared__ Anchor rows[SIDE], columns[SIDE];
    unsigned char *slopes = shared_memory, *stages = slopes + SIDE / GRADIENT::BK * Slopes::BYTES;
    const uint32_t t = threadIdx.x;
    const float inverse = 1.0f / p.temperature;
    parts.tiles *= SIDE / GRADIENT::BK;
    Place<GRADIENT> at(blockIdx.x, p.dim, parts);
    at.tiles(p.n, parts);
    if (t < SIDE) rows[t] = anchor_at(p, state, labels, at.row + t);
    GRADIENT sums;
    for (uint32_t column = at.begin; column < at.end; column += SIDE) {
        if (t < SIDE) columns[t] = anchor_at(p, state, labels, column + t);
        SCORE score;
        multiply_rows(score, stages, p, unit, at.row, column);
#pragma unroll
        for (int r = 0; r < Own::ROWS; ++r) {
            const Anchor anchor = rows[Own::row(r)];
            float v[Own::COLUMNS];
#pragma unroll
            for (int c = 0; c < Own::COLUMNS; ++c) {
                const Anchor other = columns[Own::column(c)];
                const bool positive = anchor.label == other.label;
                const float product = Own::at(score, r, c);
                v[c] = p.compares(at.row + Own::row(r), column + Own::column(c))
                           ? anchor.slope(p, product, inverse, positive) + other.slope(p, product, inverse, positive)
                           : 0.0f;
            }
            Own::template put<Slopes>(slopes, r, v);
        }
        __syncthreads();
        FromShared<Slopes, GRADIENT::THREADS> a(slopes, SIDE / GRADIENT::BK);
        Rows b(unit, p.pitch, at.column, p.pitch, column, min(column + SIDE, at.end));
        sums.run(shared_address(stages), a, b, SIDE / GRADIENT::BK);
        __syncthreads();
    }
    const Finish<float> finish = {nullptr, nullptr, nullptr, partials};
    const auto starts = [&](uint32_t row) { return uint64_t(row) * p.dim; };
    const Results<GRADIENT, float, decltype(starts)> results = {at, p.n, p.dim, uint64_t(p.n) * p.dim, finish, starts};
    if constexpr (GRADIENT::TENSOR)
        sums.template hand_over<4>(reinterpret_cast<float*>(shared_memory), results);
    else
        sums.template hand_over<FromShared<Slopes, GRADIENT::THREADS>>(results);
}

// Writes a tile of products over the temperature.
template <class MATH, class A, typename T>
__device__ inline void finish_tile(MATH& math, float temperature, const Place<MATH>& at, uint32_t rows,
                                   uint32_t columns, const Finish<T>& finish) {
    const float inverse = 1.0f / temperature;
#pragma unroll
    for (int r = 0; r < Mine<MATH>::ROWS; ++r)
#pragma unroll
        for (int c = 0; c < Mine<MATH>::COLUMNS; ++c) Mine<MATH>::at(math, r, c) *= inverse;
    const auto starts = [&](uint32_t row) { return uint64_t(row) * columns; };
    const Results<MATH, T, decltype(starts)> results = {at, rows, columns, uint64_t(rows) * columns, finish, starts};
    if constexpr (MATH::TENSOR)
        math.template hand_over<VALUES<T>>(reinterpret_cast<float*>(shared_memory), results);
    else
        math.template hand_over<A>(results);
}

template <class MATH, bool GUARDED, typename T = typename MATH::Element>
__device__ inline void similarity(uint32_t n, uint32_t dim, const T* z, float temperature, T* sim) {
    using Rows = DeepRows<T, typename MATH::template Deep<SIDE>, MATH::THREADS, GUARDED>;
    const Parts whole = {1, (dim + MATH::BK - 1) / MATH::BK};
    Place<MATH> at(blockIdx.x, n, whole);
    const uint32_t tiles = at.tiles(dim, whole);
    Rows a(z, dim, at.row, n, at.begin, at.end), b(z, dim, at.column, n, at.begin, at.end);
    MATH math;
    math.run(shared_address(shared_memory), a, b, tiles);
    finish_tile<MATH, Rows>(math, temperature, at, n, n, Finish<T>{nullptr, nullptr, sim, nullptr});
}

// Rows of a square matrix [n, n] plus its transpose. Lanes read 8 neighbours of a column: whole sectors of f32.
template <typename T, class TILE, int THREADS> struct SymmetricRows : Pieces<T, TILE, THREADS> {
    using P = Pieces<T, TILE, THREADS>;
    const T* matrix;
    uint32_t n, row, depth;

    __device__ SymmetricRows(const T* matrix, uint32_t n, uint32_t first_row)
        : matrix(matrix), n(n), row(first_row + P::row()), depth(P::column()) {}

    __device__ void copy(uint32_t stage) {
#pragma unroll
        for (int i = 0; i < P::COUNT; ++i) {
            const uint32_t at = row + i * P::STEP;
            const int valid = at < n ? int(n) - int(depth) : 0;
            float v[P::V];
            load(matrix + uint64_t(at) * n + depth, valid, v);
            Pack<T, P::V> sums;
#pragma unroll
            for (int e = 0; e < P::V; ++e)
                sums.v[e] = from_float<T>(e < valid ? v[e] + to_float(matrix[uint64_t(depth + e) * n + at]) : 0.0f);
            store_piece(stage + P::offset() + i * P::STEP_BYTES, *reinterpret_cast<const uint4*>(&sums));
        }
        depth += P::DEPTH;
    }
};

template <class MATH, typename T = typename MATH::Element>
__device__ inline void similarity_backward(uint32_t n, uint32_t dim, const T* z, float temperature, const T* dsim,
                                           bool accumulate, T* dz) {
    using Slopes = SymmetricRows<T, typename MATH::template Deep<SIDE>, MATH::THREADS>;
    using Rows = WideRows<T, typename MATH::template Wide<SIDE>, MATH::THREADS, true>;
    const Parts whole = {1, (n + MATH::BK - 1) / MATH::BK};
    Place<MATH> at(blockIdx.x, dim, whole);
    const uint32_t tiles = at.tiles(n, whole);
    Slopes a(dsim, n, at.row);
    Rows b(z, dim, at.column, dim, at.begin, at.end);
    MATH math;
    math.run(shared_address(shared_memory), a, b, tiles);
    const Finish<T> finish = {nullptr, accumulate ? dz : nullptr, dz, nullptr};
    finish_tile<MATH, Slopes>(math, temperature, at, n, dim, finish);
}

template <typename T>
__device__ inline void normalize_backward(uint64_t n, uint32_t dim, float eps, const T* z, const T* dy, bool accumulate,
                                          T* dz) {
    const uint64_t row = loss_row();
    if (row >= n) return;
    const auto gradient = [&](uint32_t k, double(&g)[VALUES<T>]) {
        float v[VALUES<T>];
        load(dy + row * dim + k, int(dim - k), v);
#pragma unroll
        for (int e = 0; e < VALUES<T>; ++e) g[e] = double(v[e]);
    };
    normalize_row_backward(dim, eps, z + row * dim, gradient, accumulate, dz + row * dim);
}

// Ends the second walk: adds up its parts, times what the loss is multiplied by.
template <typename T>
__device__ inline void supcon_backward(const Supcon& p, uint32_t parts, const T* z, const float* partials,
                                       const State& state, const float* dloss, bool accumulate, T* dz) {
    const uint64_t row = loss_row();
    if (row >= p.n) return;
    const double factor = double(*state.factor) * double(*dloss) / double(p.temperature);
    const auto gradient = [&](uint32_t k, double(&g)[VALUES<T>]) {
#pragma unroll
        for (double& x : g) x = 0.0;
        for (uint32_t part = 0; part < parts; ++part) {
            float v[VALUES<T>];
            load(partials + (uint64_t(part) * p.n + row) * p.dim + k, int(p.dim - k), v);
#pragma unroll
            for (int e = 0; e < VALUES<T>; ++e) g[e] += double(v[e]);
        }
#pragma unroll
        for (double& x : g) x *= factor;
    };
    normalize_row_backward(p.dim, p.norm_eps, z + row * p.dim, gradient, accumulate, dz + row * p.dim);
}

#define ROWS(T, SUFFIX)                                                                                                \
    extern "C" __global__ void __launch_bounds__(LOSS_BLOCK)                                                           \
        l2_normalize_##SUFFIX(uint64_t n, uint32_t dim, uint32_t pitch, float eps, const T* z, T* y) {                 \
        normalize(n, dim, pitch, eps, z, y);                                                                           \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(LOSS_BLOCK)                                                           \
        l2_normalize_backward_##SUFFIX(uint64_t n, uint32_t dim, float eps, const T* z, const T* dy,                   \
                                       uint32_t accumulate, T* dz) {                                                   \
        normalize_backward(n, dim, eps, z, dy, accumulate, dz);                                                        \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(LOSS_BLOCK)                                                           \
        supcon_backward_##SUFFIX(Supcon p, uint32_t parts, const T* z, const float* partials, float* state,            \
                                 const float* dloss, uint32_t accumulate, T* dz) {                                     \
        supcon_backward(p, parts, z, partials, State(state, p.n), dloss, accumulate, dz);                              \
    }

ROWS(float, f32)
ROWS(bf16, bf16)

// Of the similarity matrix on a multiprocessor: for more, ptxas spills.
constexpr int WARPS = 16;

#define TILES(SCORE, GRADIENT, T, SUFFIX)                                                                              \
    extern "C" __global__ void __launch_bounds__(SCORE::THREADS, WARPS * 32 / SCORE::THREADS)                          \
        similarity_matrix_##SUFFIX(uint32_t n, uint32_t dim, const T* z, float temperature, T* sim) {                  \
        similarity<SCORE, false>(n, dim, z, temperature, sim);                                                         \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(SCORE::THREADS, WARPS * 32 / SCORE::THREADS)                          \
        similarity_matrix_guarded_##SUFFIX(uint32_t n, uint32_t dim, const T* z, float temperature, T* sim) {          \
        similarity<SCORE, true>(n, dim, z, temperature, sim);                                                          \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(SCORE::THREADS)                                                       \
        similarity_matrix_backward_##SUFFIX(uint32_t n, uint32_t dim, const T* z, float temperature, const T* dsim,    \
                                            uint32_t accumulate, T* dz) {                                              \
        similarity_backward<SCORE>(n, dim, z, temperature, dsim, accumulate, dz);                                      \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(SCORE::THREADS)                                                       \
        supcon_measure_##SUFFIX(Supcon p, uint32_t tiles_per_part, const T* unit, const int32_t* labels,               \
                                Measured* measured) {                                                                  \
        measure<SCORE>(p, tiles_per_part, unit, labels, measured);                                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(SCORE::THREADS)                                                       \
        supcon_gradient_##SUFFIX(Supcon p, Parts parts, const T* unit, const int32_t* labels, float* state,            \
                                 float* partials) {                                                                    \
        gradient<SCORE, GRADIENT>(p, parts, unit, labels, State(state, p.n), partials);                                \
    }

using Fma64x64 = FmaUnits<4, 4>;
using Fma64x128 = FmaUnits<4, 8>;
using Tensor64x64 = TensorCores<64, 64, bf16>;
using Tensor64x128 = TensorCores<64, 128, bf16>;

TILES(Fma64x64, Fma64x128, float, f32)
TILES(Tensor64x64, Tensor64x128, bf16, bf16)

// Ends the first walk: losses from what the parts have measured, and what the backward pass needs.
extern "C" __global__ void __launch_bounds__(LOSS_BLOCK)
    supcon_mean_f32(Supcon p, uint32_t parts, const Measured* measured, float* state, float* loss) {
    __shared__ double losses[LOSS_BLOCK];
    __shared__ uint32_t counts[LOSS_BLOCK];
    const State to(state, p.n);
    const double inverse = 1.0 / double(p.temperature);
    double sum = 0.0;
    uint32_t with_positive = 0;
    for (uint32_t i = threadIdx.x; i < p.n; i += LOSS_BLOCK) {
        const auto part = [&](uint32_t part) -> const Measured& { return measured[uint64_t(part) * p.n + i]; };
        const auto log_sum_exp = [&](const LogSumExp<double>& x) { return double(x.largest) * inverse + log(x.sum); };
        const double row = log_sum_exp(merge(parts, inverse, [&](uint32_t j) { return part(j).row; }));
        const double positives = log_sum_exp(merge(parts, inverse, [&](uint32_t j) { return part(j).positives; }));
        double similarity = 0.0;
        uint32_t count = 0;
        for (uint32_t j = 0; j < parts; ++j) {
            similarity += double(part(j).similarity);
            count += part(j).count;
        }
        if (count > 0) {
            sum += row - (p.form == IN ? positives - log(double(count)) : similarity * inverse / double(count));
            ++with_positive;
        }
        to.rows[i] = float(row);
        to.positives[i] = float(positives);
        to.inverse_counts[i] = count > 0 ? float(1.0 / double(count)) : 0.0f;
    }
    losses[threadIdx.x] = sum;
    counts[threadIdx.x] = with_positive;
    for (uint32_t stride = LOSS_BLOCK / 2; stride > 0; stride /= 2) {
        __syncthreads();
        if (threadIdx.x < stride) {
            losses[threadIdx.x] += losses[threadIdx.x + stride];
            counts[threadIdx.x] += counts[threadIdx.x + stride];
        }
    }
    if (threadIdx.x > 0) return;
    const double factor = double(p.scale) / double(p.mean_over == ALL ? p.n : max(counts[0], 1u));
    *to.factor = float(factor);
    *loss = float(factor * losses[0]);
}
