// Batch normalisation over the last axis, fused with ReLU and a residual.
//
// Computes     statistics: mean, var (population), inv_std = 1 / sqrt(var + eps), running = running * momentum + batch *
//              (1 - momentum); normalize: y = (x - mean) * gamma * inv_std + beta (+ residual), then max(y, 0) with relu;
//              backward: g = dy where y > 0 (relu) or dy, dbeta += sum g, dgamma += sum g * xh, xh = (x - mean) * inv_std,
//              dx (= or +=) gamma * inv_std * (g - sum g / rows - xh * sum(g * xh) / rows), without sums in inference;
//              dresidual (= or +=) g.
// Shapes       x, y, dy, dx, residual [rows, c]; per-channel tables [c]; partials [blocks of rows, 2, c].
// Launch       see rows.cuh for the matrix kernels; *_merge: grid ceil(c / 8), block 256 = 8 channels x 32 groups.
// Requires     lanes a power of two up to 32; nothing of alignment.
// Writes       `=` except where `+=` stands above; null outputs are left out.
// Determinism  blocks of rows are summed alone and merged in f64 in their order.
// Cost         bound by memory: statistics 1, normalize 2 (3 with a residual), backward 2 + 3 passes over [rows, c].
// Source       Ioffe and Szegedy, "Batch Normalization" (2015); Chan, Golub, LeVeque (1979) for merging variances.

#include "rows.cuh"

// Mean, and sum of squared deviations from it, per block of rows. They come from deviations from a pivot, the channel's
// value in the block's first row: a large mean does not swallow the variance.
template <typename T> __device__ inline void statistics(const Rows& m, const T* x, float* partials) {
    constexpr int V = VALUES<T>;
    const uint32_t ch = first_channel<V>(m);
    const int valid = valid_channels<V>(m, ch);
    float pivot[V] = {}, sums[2][V] = {};
    if (valid > 0) {
        load(x + first_row(m) * m.c + ch, valid, pivot);
        each_row(m, ch, [&](uint64_t at) {
            float v[V];
            load(x + at, valid, v);
#pragma unroll
            for (int i = 0; i < V; ++i) {
                const float deviation = v[i] - pivot[i];
                sums[0][i] += deviation;
                sums[1][i] = fmaf(deviation, deviation, sums[1][i]);
            }
        });
    }
    sum_over_rows(m, sums, [&](uint32_t ch, int valid, const auto& sums) {
        float mean[4], squares[4];
        load(x + first_row(m) * m.c + ch, valid, mean);
        // In double, so that both are rounded once.
        const double share = 1.0 / rows_of(m, blockIdx.y);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const double offset = sums[0][i] * share;
            mean[i] = float(mean[i] + offset);
            squares[i] = float(sums[1][i] - offset * sums[0][i]);
        }
        float* out = partials + uint64_t(blockIdx.y) * 2 * m.c + ch;
        store(out, valid, mean);
        store(out + m.c, valid, squares);
    });
}

// Eight channels are a sector of a table.
constexpr int MERGE_CHANNELS = 8;
constexpr int MERGE_GROUPS = 32;

// The sum over the groups of a channel, in their order, in the threads of the first group.
__device__ inline double sum_over_groups(double value) {
    __shared__ double shared[MERGE_GROUPS][MERGE_CHANNELS];
    __syncthreads();
    shared[threadIdx.x / MERGE_CHANNELS][threadIdx.x % MERGE_CHANNELS] = value;
    __syncthreads();
    double sum = 0.0;
    if (threadIdx.x < MERGE_CHANNELS)
        for (int group = 0; group < MERGE_GROUPS; ++group) sum += shared[group][threadIdx.x];
    return sum;
}

struct Running {
    float* mean;      // [c], null: none
    float* var;       // [c]
    double momentum;  // weight of the old value
    double correction;  // of the batch variance: rows / (rows - 1) in Keras 2, 1 in Keras 3
};

extern "C" __global__ void __launch_bounds__(MERGE_CHANNELS* MERGE_GROUPS)
    batch_norm_statistics_merge_f32(Rows m, uint32_t blocks, const float* partials, float eps, Running running,
                                    float* mean, float* var, float* inv_std) {
    const uint32_t ch = blockIdx.x * MERGE_CHANNELS + threadIdx.x % MERGE_CHANNELS;
    const bool exists = ch < m.c;
    // Sums about the mean of the first block: what is subtracted in the end is small, and no block takes a division.
    const double pivot = exists ? partials[ch] : 0.0f;
    double sum = 0.0, squares = 0.0;
    for (uint32_t b = threadIdx.x / MERGE_CHANNELS; exists && b < blocks; b += MERGE_GROUPS) {
        const float* p = partials + uint64_t(b) * 2 * m.c + ch;
        const double count = rows_of(m, b), deviation = p[0] - pivot;
        sum += count * deviation;
        squares += p[m.c] + count * deviation * deviation;
    }
    sum = sum_over_groups(sum);
    squares = sum_over_groups(squares);
    if (threadIdx.x < MERGE_CHANNELS && exists) {
        const double offset = sum / double(m.rows);
        squares -= offset * sum;
        // Rounding may leave a constant channel a hair below zero; NaN stays NaN.
        const float variance = squares < 0.0 ? 0.0f : float(squares / double(m.rows));
        mean[ch] = float(pivot + offset);
        var[ch] = variance;
        inv_std[ch] = float(1.0 / sqrt(double(variance) + double(eps)));
        if (running.mean) {
            const double rest = 1.0 - running.momentum;
            running.mean[ch] = float(double(running.mean[ch]) * running.momentum + double(mean[ch]) * rest);
            running.var[ch] =
                float(double(running.var[ch]) * running.momentum + double(variance) * running.correction * rest);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256)
    batch_norm_inv_std_f32(uint32_t c, const float* var, float eps, float* inv_std) {
    const uint32_t ch = blockIdx.x * 256 + threadIdx.x;
    if (ch < c) inv_std[ch] = float(1.0 / sqrt(double(var[ch]) + double(eps)));
}

struct Tables {
    const float *mean, *inv_std, *gamma, *beta;  // [c]
};

// The tables of this thread's channels.
template <int V> struct Affine {
    float mean[V], scale[V], beta[V];

    __device__ Affine(const Rows& m, const Tables& t, uint32_t ch, int valid) {
        float gamma[V];
        load_table(m, t.mean, ch, valid, mean);
        load_table(m, t.inv_std, ch, valid, scale);
        load_table(m, t.gamma, ch, valid, gamma);
        load_table(m, t.beta, ch, valid, beta);
#pragma unroll
        for (int i = 0; i < V; ++i) scale[i] = gamma[i] * scale[i];
    }

    // Two roundings, as on the CPU: the backward pass must find the same sign.
    __device__ float operator()(float x, int i) const { return (x - mean[i]) * scale[i] + beta[i]; }
};

template <typename T>
__device__ inline void normalize(const Rows& m, const T* x, const Tables& tables, const T* residual, uint32_t relu, T* y) {
    constexpr int V = VALUES<T>;
    const uint32_t ch = first_channel<V>(m);
    const int valid = valid_channels<V>(m, ch);
    if (valid <= 0) return;
    const Affine<V> affine(m, tables, ch, valid);
    each_row(m, ch, [&](uint64_t at) {
        float v[V], r[V] = {};
        load(x + at, valid, v);
        if (residual) load(residual + at, valid, r);
#pragma unroll
        for (int i = 0; i < V; ++i) {
            v[i] = affine(v[i], i);
            if (residual) v[i] += r[i];
            // A comparison, not fmaxf: NaN stays NaN.
            if (relu && v[i] < 0.0f) v[i] = 0.0f;
        }
        store(y + at, valid, v);
    });
}

// g = dy where the output was positive; the output is computed again, not stored.
template <int V, typename T>
__device__ inline void masked(const Affine<V>& affine, uint32_t relu, const T* residual, uint64_t at, int valid,
                              const float (&x)[V], float (&g)[V]) {
    if (!relu) return;
    float r[V] = {};
    if (residual) load(residual + at, valid, r);
#pragma unroll
    for (int i = 0; i < V; ++i) {
        float y = affine(x[i], i);
        if (residual) y += r[i];
        if (!(y > 0.0f)) g[i] = 0.0f;
    }
}

template <typename T>
__device__ inline void backward_reduce(const Rows& m, const T* x, const T* dy, const Tables& tables, const T* residual,
                                       uint32_t relu, float* partials) {
    constexpr int V = VALUES<T>;
    const uint32_t ch = first_channel<V>(m);
    const int valid = valid_channels<V>(m, ch);
    float sums[2][V] = {};
    if (valid > 0) {
        const Affine<V> affine(m, tables, ch, valid);
        each_row(m, ch, [&](uint64_t at) {
            float v[V], g[V];
            load(x + at, valid, v);
            load(dy + at, valid, g);
            masked(affine, relu, residual, at, valid, v, g);
#pragma unroll
            for (int i = 0; i < V; ++i) {
                sums[0][i] += g[i];
                sums[1][i] = fmaf(g[i], v[i] - affine.mean[i], sums[1][i]);
            }
        });
    }
    sum_over_rows(m, sums, [&](uint32_t ch, int valid, const auto& sums) {
        float* out = partials + uint64_t(blockIdx.y) * 2 * m.c + ch;
        store(out, valid, sums[0]);
        store(out + m.c, valid, sums[1]);
    });
}

// Sums the partials; means [2, c] (or null) are what backward_apply subtracts: sum g / rows, and sum g (x - mean) / rows *
// inv_std^2.
extern "C" __global__ void __launch_bounds__(MERGE_CHANNELS* MERGE_GROUPS)
    batch_norm_backward_merge_f32(Rows m, uint32_t blocks, const float* partials, const float* inv_std, float* means,
                                  float* dgamma, float* dbeta) {
    const uint32_t ch = blockIdx.x * MERGE_CHANNELS + threadIdx.x % MERGE_CHANNELS;
    const bool exists = ch < m.c;
    double sum = 0.0, product = 0.0;
    for (uint32_t b = threadIdx.x / MERGE_CHANNELS; exists && b < blocks; b += MERGE_GROUPS) {
        const float* p = partials + uint64_t(b) * 2 * m.c + ch;
        sum += p[0];
        product += p[m.c];
    }
    sum = sum_over_groups(sum);
    product = sum_over_groups(product);
    if (threadIdx.x < MERGE_CHANNELS && exists) {
        const double s = inv_std[ch];
        if (means) {
            means[ch] = float(sum / double(m.rows));
            means[m.c + ch] = float(product / double(m.rows) * s * s);
        }
        if (dgamma) dgamma[ch] += float(product * s);
        if (dbeta) dbeta[ch] += float(sum);
    }
}

template <typename T>
__device__ inline void backward_apply(const Rows& m, const T* x, const T* dy, const Tables& tables, const float* means,
                                      const T* residual, uint32_t relu, uint32_t accumulate, T* dx, T* dresidual) {
    constexpr int V = VALUES<T>;
    const uint32_t ch = first_channel<V>(m);
    const int valid = valid_channels<V>(m, ch);
    if (valid <= 0) return;
    const Affine<V> affine(m, tables, ch, valid);
    float offset[V] = {}, slope[V] = {};
    if (means) {
        load_table(m, means, ch, valid, offset);
        load_table(m, means + m.c, ch, valid, slope);
    }
    each_row(m, ch, [&](uint64_t at) {
        float v[V], g[V], d[V], old[V] = {};
        load(x + at, valid, v);
        load(dy + at, valid, g);
        masked(affine, relu, residual, at, valid, v, g);
        if (dresidual) {
            if (accumulate) load(dresidual + at, valid, old);
#pragma unroll
            for (int i = 0; i < V; ++i) d[i] = accumulate ? old[i] + g[i] : g[i];
            store(dresidual + at, valid, d);
        }
        if (accumulate) load(dx + at, valid, old);
#pragma unroll
        for (int i = 0; i < V; ++i) {
            d[i] = affine.scale[i] * (g[i] - offset[i] - (v[i] - affine.mean[i]) * slope[i]);
            if (accumulate) d[i] += old[i];
        }
        store(dx + at, valid, d);
    });
}

#define BATCH_NORM(T, SUFFIX)                                                                                          \
    extern "C" __global__ void __launch_bounds__(ROWS_BLOCK)                                                           \
        batch_norm_statistics_##SUFFIX(Rows m, const T* x, float* partials) {                                          \
        statistics(m, x, partials);                                                                                    \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(ROWS_BLOCK)                                                           \
        batch_norm_normalize_##SUFFIX(Rows m, const T* x, Tables tables, const T* residual, uint32_t relu, T* y) {     \
        normalize(m, x, tables, residual, relu, y);                                                                    \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(ROWS_BLOCK)                                                           \
        batch_norm_backward_reduce_##SUFFIX(Rows m, const T* x, const T* dy, Tables tables, const T* residual,         \
                                            uint32_t relu, float* partials) {                                          \
        backward_reduce(m, x, dy, tables, residual, relu, partials);                                                   \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(ROWS_BLOCK)                                                           \
        batch_norm_backward_apply_##SUFFIX(Rows m, const T* x, const T* dy, Tables tables, const float* means,         \
                                           const T* residual, uint32_t relu, uint32_t accumulate, T* dx,               \
                                           T* dresidual) {                                                             \
        backward_apply(m, x, dy, tables, means, residual, relu, accumulate, dx, dresidual);                            \
    }

BATCH_NORM(float, f32)
BATCH_NORM(bf16, bf16)
