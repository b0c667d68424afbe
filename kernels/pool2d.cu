// Max-pooling and global average pooling over NHWC images.
//
// Computes     max: y[n,p,q,c] = max over r, s of x[n, p*stride_h + r - pad_top, q*stride_w + s - pad_left, c], where padding
//              has a value of its own and takes part; argmax = place r * S + s of the winner, 255 for padding, the first of
//              equals. max_backward: dx (= or +=) the dy of the windows that the element has won; max_backward_subsample:
//              dx += dy at the pixels that 1x1 windows without padding pick.
//              global_avg: y[n,c] = mean over pixels; global_avg_backward: dx[n,pixel,c] (= or +=) dy[n,c] / pixels.
// Shapes       x, dx [n,h,w,c]; y, dy, argmax [n,p,q,c]; of global_avg x, dx [n,pixels,c], y, dy [n,c].
// Launch       block 256; max, max_backward_subsample: grid rows * parts, a row of y (max_backward: of x) in `parts`
//              blocks, a thread per pixel and pack of V channels; global_avg: grid ceil(n * packs / 256); its backward:
//              grid as elementwise kernels.
// Requires     windows of at most 254 places; padded rows and columns, channels and the packs of a row below 2^31; argmax
//              null only for 1x1 windows without padding.
// Writes       `=`, backward also `+=`.
// Determinism  every element gathers in row-major order.
// Cost         bound by memory: x (subsample: its picked pixels) once through the caches, y and argmax once.
// Source       Keras: ZeroPadding2D and MaxPooling2D, GlobalAveragePooling2D.

#include "problem.cuh"
#include "vector.cuh"

constexpr int BLOCK = 256;
constexpr uint32_t PADDING = 255;

// One pixel of a row and a pack of channels for every thread; a row takes `parts` blocks.
template <int V> struct Place {
    uint32_t row, column, ch;
    int valid;

    __device__ Place(uint32_t columns, uint32_t c, uint32_t parts) {
        const uint32_t packs = (c + V - 1) / V;
        row = blockIdx.x / parts;
        const uint32_t i = blockIdx.x % parts * BLOCK + threadIdx.x;
        column = i / packs;
        ch = i % packs * V;
        valid = column < columns ? valid_elements<V>(ch, c) : 0;
    }
};

template <typename T>
__device__ inline void max_pool(const Pool2dProblem& problem, uint32_t parts, float padding, const T* x, T* y, uint8_t* argmax) {
    constexpr int V = VALUES<T>;
    const Place<V> at(problem.q, problem.c, parts);
    if (at.valid <= 0) return;
    const uint32_t n = at.row / problem.p, p = at.row % problem.p;
    const T* picture = x + uint64_t(n) * problem.h * problem.w * problem.c + at.ch;
    float best[V];
    uint32_t place[V];
    for (uint32_t r = 0; r < problem.r; ++r) {
        // Above the picture this wraps to a number beyond any height.
        const uint32_t row = p * problem.stride_h + r - problem.pad_top;
        for (uint32_t s = 0; s < problem.s; ++s) {
            const uint32_t column = at.column * problem.stride_w + s - problem.pad_left;
            const bool inside = row < problem.h && column < problem.w;
            const uint32_t number = inside ? r * problem.s + s : PADDING;
            float v[V];
            if (inside) {
                load(picture + (uint64_t(row) * problem.w + column) * problem.c, at.valid, v);
            } else {
#pragma unroll
                for (int i = 0; i < V; ++i) v[i] = padding;
            }
            const bool first = r == 0 && s == 0;
#pragma unroll
            for (int i = 0; i < V; ++i) {
                const bool wins = first || v[i] > best[i] || v[i] != v[i];
                best[i] = wins ? v[i] : best[i];
                place[i] = wins ? number : place[i];
            }
        }
    }
    const uint64_t out = (uint64_t(at.row) * problem.q + at.column) * problem.c + at.ch;
    store(y + out, at.valid, best);
    if (argmax) {
        float places[V];
#pragma unroll
        for (int i = 0; i < V; ++i) places[i] = float(place[i]);
        store(argmax + out, at.valid, places);
    }
}

template <typename T>
__device__ inline void max_pool_backward(const Pool2dProblem& problem, uint32_t parts, const T* dy, const uint8_t* argmax,
                                         uint32_t accumulate, T* dx) {
    constexpr int V = VALUES<T>;
    const Place<V> at(problem.w, problem.c, parts);
    if (at.valid <= 0) return;
    const uint32_t n = at.row / problem.h;
    // Counted from the first padded row and column, the windows over this element begin at most r - 1 and s - 1 before it.
    const uint32_t row = at.row % problem.h + problem.pad_top, column = at.column + problem.pad_left;
    const uint32_t p0 = row < problem.r ? 0 : (row - problem.r) / problem.stride_h + 1;
    const uint32_t q0 = column < problem.s ? 0 : (column - problem.s) / problem.stride_w + 1;
    const uint32_t p1 = min(row / problem.stride_h + 1, problem.p), q1 = min(column / problem.stride_w + 1, problem.q);
    const uint64_t out = (uint64_t(at.row) * problem.w + at.column) * problem.c + at.ch;
    float sum[V] = {};
    if (accumulate) load(dx + out, at.valid, sum);
    for (uint32_t p = p0; p < p1; ++p) {
        for (uint32_t q = q0; q < q1; ++q) {
            const uint32_t place = (row - p * problem.stride_h) * problem.s + (column - q * problem.stride_w);
            const uint64_t from = ((uint64_t(n) * problem.p + p) * problem.q + q) * problem.c + at.ch;
            float g[V], won[V];
            load(dy + from, at.valid, g);
            if (argmax) load(argmax + from, at.valid, won);
#pragma unroll
            for (int i = 0; i < V; ++i) sum[i] += !argmax || won[i] == float(place) ? g[i] : 0.0f;
        }
    }
    store(dx + out, at.valid, sum);
}

// The sum into dx where every window is one pixel: only those are touched, dx has stride_h * stride_w times as many.
template <typename T>
__device__ inline void max_pool_backward_subsample(const Pool2dProblem& problem, uint32_t parts, const T* dy, T* dx) {
    constexpr int V = VALUES<T>;
    const Place<V> at(problem.q, problem.c, parts);
    if (at.valid <= 0) return;
    const uint32_t n = at.row / problem.p, p = at.row % problem.p;
    const uint64_t row = uint64_t(n) * problem.h + p * problem.stride_h;
    T* to = dx + (row * problem.w + at.column * problem.stride_w) * problem.c + at.ch;
    float g[V], sum[V];
    load(dy + (uint64_t(at.row) * problem.q + at.column) * problem.c + at.ch, at.valid, g);
    load(to, at.valid, sum);
#pragma unroll
    for (int i = 0; i < V; ++i) sum[i] += g[i];
    store(to, at.valid, sum);
}

template <typename T>
__device__ inline void global_avg(uint64_t n, uint64_t pixels, uint32_t c, const T* x, T* y) {
    constexpr int V = VALUES<T>;
    const uint32_t packs = (c + V - 1) / V;
    const uint64_t i = uint64_t(blockIdx.x) * BLOCK + threadIdx.x;
    if (i >= n * packs) return;
    const uint64_t sample = i / packs;
    const uint32_t ch = uint32_t(i % packs) * V;
    const int valid = valid_elements<V>(ch, c);
    const T* from = x + sample * pixels * c + ch;
    float sum[V] = {};
    for (uint64_t pixel = 0; pixel < pixels; ++pixel) {
        float v[V];
        load(from + pixel * c, valid, v);
#pragma unroll
        for (int k = 0; k < V; ++k) sum[k] += v[k];
    }
#pragma unroll
    for (int k = 0; k < V; ++k) sum[k] /= float(pixels);
    store(y + sample * c + ch, valid, sum);
}

template <typename T>
__device__ inline void global_avg_backward(uint64_t n, uint64_t pixels, uint32_t c, const T* dy, uint32_t accumulate, T* dx) {
    constexpr int V = VALUES<T>;
    const uint32_t packs = (c + V - 1) / V;
    const uint64_t i = uint64_t(blockIdx.x) * BLOCK + threadIdx.x;
    if (i >= n * pixels * packs) return;
    const uint64_t pixel = i / packs;
    const uint32_t ch = uint32_t(i % packs) * V;
    const int valid = valid_elements<V>(ch, c);
    float g[V], old[V] = {};
    load(dy + pixel / pixels * c + ch, valid, g);
    T* to = dx + pixel * c + ch;
    if (accumulate) load(to, valid, old);
#pragma unroll
    for (int k = 0; k < V; ++k) {
        const float share = g[k] / float(pixels);
        g[k] = accumulate ? old[k] + share : share;
    }
    store(to, valid, g);
}

#define POOL2D(T, SUFFIX)                                                                                              \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        max_pool2d_##SUFFIX(Pool2dProblem problem, uint32_t parts, float padding, const T* x, T* y, uint8_t* argmax) { \
        max_pool(problem, parts, padding, x, y, argmax);                                                               \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        max_pool2d_backward_##SUFFIX(Pool2dProblem problem, uint32_t parts, const T* dy, const uint8_t* argmax,        \
                                     uint32_t accumulate, T* dx) {                                                     \
        max_pool_backward(problem, parts, dy, argmax, accumulate, dx);                                                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        max_pool2d_backward_subsample_##SUFFIX(Pool2dProblem problem, uint32_t parts, const T* dy, T* dx) {            \
        max_pool_backward_subsample(problem, parts, dy, dx);                                                           \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        global_avg_pool_##SUFFIX(uint64_t n, uint64_t pixels, uint32_t c, const T* x, T* y) {                          \
        global_avg(n, pixels, c, x, y);                                                                                \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        global_avg_pool_backward_##SUFFIX(uint64_t n, uint64_t pixels, uint32_t c, const T* dy, uint32_t accumulate,   \
                                          T* dx) {                                                                     \
        global_avg_backward(n, pixels, c, dy, accumulate, dx);                                                         \
    }

POOL2D(float, f32)
POOL2D(bf16, bf16)
