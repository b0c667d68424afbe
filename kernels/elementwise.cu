// Elementwise ops.
//
// Computes     relu: y = max(x, 0), NaN stays; relu_backward: dx (= or +=) dy where x > 0; add: y = a + b;
//              add_assign: y += x; scale: y = x * factor; rescale: y = x * scale + offset (two roundings);
//              scale_by: y (= or +=) x * *factor; fill: y = value; fill_from: y = *value; cast: y = x in another type;
//              normalization: y = (x - mean[ch]) / max(sqrt(var[ch]), 1e-7); sum: *y = sum of x, in double.
// Shapes       every pointer [elems]; normalization x, y [rows, c] with elems = rows * c, mean, var [c].
// Launch       grid ceil(elems / (256 * N)), block 256; N = 4 values per thread, 8 where every type is bf16; sum: one
//              block.
// Requires     nothing of alignment: whole packs are moved where pointers allow, single values elsewhere. A pack has 16
//              bytes, where types differ that of the widest: so neighbouring lanes move neighbouring packs of each.
// Writes       `=`, relu_backward and scale_by also `+=`; y may be x.
// Determinism  every element on its own, bit-equal to the CPU; sum adds in a fixed order of its own.
// Cost         bound by memory: every operand is moved once. sum: one block reads 1 KiB after the other, a round trip to
//              memory each; meant for losses and other short vectors.
// Source       Keras: relu, Rescaling, Normalization.

#include "vector.cuh"

constexpr int BLOCK = 256;

// Calls f(first, valid) for this thread's N elements.
template <int N, typename F> __device__ inline void each(uint64_t elems, F f) {
    const uint64_t first = first_element<N>();
    if (first < elems) f(first, valid_elements<N>(first, elems));
}

// y[i] = f(x[i])
template <int N, typename X, typename Y, typename F>
__device__ inline void map(uint64_t elems, const X* x, Y* y, F f) {
    each<N>(elems, [&](uint64_t first, int valid) {
        float v[N];
        load(x + first, valid, v);
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] = f(v[i]);
        store(y + first, valid, v);
    });
}

// y[i] = f(a[i], b[i])
template <int N, typename T, typename F>
__device__ inline void map2(uint64_t elems, const T* a, const T* b, T* y, F f) {
    each<N>(elems, [&](uint64_t first, int valid) {
        float u[N], v[N];
        load(a + first, valid, u);
        load(b + first, valid, v);
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] = f(u[i], v[i]);
        store(y + first, valid, v);
    });
}

// A comparison, not fmaxf: NaN stays NaN.
__device__ inline float rectified(float x) { return x < 0.0f ? 0.0f : x; }

template <typename T>
__device__ inline void relu_backward(uint64_t elems, const T* x, const T* dy, uint32_t accumulate, T* dx) {
    constexpr int N = VALUES<T>;
    each<N>(elems, [&](uint64_t first, int valid) {
        float u[N], v[N];
        load(x + first, valid, u);
        load(dy + first, valid, v);
#pragma unroll
        for (int i = 0; i < N; ++i) v[i] = u[i] > 0.0f ? v[i] : 0.0f;
        if (accumulate) {
            load(dx + first, valid, u);
#pragma unroll
            for (int i = 0; i < N; ++i) v[i] = u[i] + v[i];
        }
        store(dx + first, valid, v);
    });
}

template <typename X>
__device__ inline void normalization(uint64_t elems, uint32_t c, const X* x, const float* mean, const float* var, float* y) {
    each<4>(elems, [&](uint64_t first, int valid) {
        float v[4];
        load(x + first, valid, v);
        uint32_t ch = uint32_t(first % c);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            // As on the CPU the floor replaces a variance that is NaN: the larger of NaN and a number is the number.
            v[i] = (v[i] - mean[ch]) / fmaxf(sqrtf(var[ch]), 1e-7f);
            ch = ch + 1 == c ? 0 : ch + 1;
        }
        store(y + first, valid, v);
    });
}

#define ELEMENTWISE(T, SUFFIX)                                                                                         \
    extern "C" __global__ void __launch_bounds__(BLOCK) relu_##SUFFIX(uint64_t elems, const T* x, T* y) {              \
        map<VALUES<T>>(elems, x, y, [](float x) { return rectified(x); });                                             \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        relu_backward_##SUFFIX(uint64_t elems, const T* x, const T* dy, uint32_t accumulate, T* dx) {                  \
        relu_backward(elems, x, dy, accumulate, dx);                                                                   \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK) add_##SUFFIX(uint64_t elems, const T* a, const T* b, T* y) {   \
        map2<VALUES<T>>(elems, a, b, y, [](float a, float b) { return a + b; });                                       \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK) add_assign_##SUFFIX(uint64_t elems, const T* x, T* y) {        \
        map2<VALUES<T>>(elems, y, x, y, [](float y, float x) { return y + x; });                                       \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        scale_##SUFFIX(uint64_t elems, const T* x, float factor, T* y) {                                               \
        map<VALUES<T>>(elems, x, y, [=](float x) { return x * factor; });                                              \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK)                                                                \
        rescale_##SUFFIX(uint64_t elems, const T* x, float scale, float offset, T* y) {                                \
        map<VALUES<T>>(elems, x, y, [=](float x) { return x * scale + offset; });                                      \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(BLOCK) fill_##SUFFIX(uint64_t elems, float value, T* y) {             \
        each<VALUES<T>>(elems, [&](uint64_t first, int valid) {                                                        \
            float v[VALUES<T>];                                                                                        \
            for (float& x : v) x = value;                                                                              \
            store(y + first, valid, v);                                                                                \
        });                                                                                                            \
    }

ELEMENTWISE(float, f32)
ELEMENTWISE(bf16, bf16)

extern "C" __global__ void __launch_bounds__(BLOCK) cast_f32_bf16(uint64_t elems, const float* x, bf16* y) {
    map<4>(elems, x, y, [](float x) { return x; });
}

extern "C" __global__ void __launch_bounds__(BLOCK) cast_bf16_f32(uint64_t elems, const bf16* x, float* y) {
    map<4>(elems, x, y, [](float x) { return x; });
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    rescale_u8_f32(uint64_t elems, const uint8_t* x, float scale, float offset, float* y) {
    map<4>(elems, x, y, [=](float x) { return x * scale + offset; });
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    normalization_f32(uint64_t elems, uint32_t c, const float* x, const float* mean, const float* var, float* y) {
    normalization(elems, c, x, mean, var, y);
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    normalization_u8_f32(uint64_t elems, uint32_t c, const uint8_t* x, const float* mean, const float* var, float* y) {
    normalization(elems, c, x, mean, var, y);
}

extern "C" __global__ void __launch_bounds__(BLOCK)
    scale_by_f32(uint64_t elems, const float* x, const float* factor, uint32_t accumulate, float* y) {
    const float f = *factor;
    each<4>(elems, [&](uint64_t first, int valid) {
        float v[4], old[4] = {};
        load(x + first, valid, v);
        if (accumulate) load(y + first, valid, old);
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = accumulate ? old[i] + f * v[i] : f * v[i];
        store(y + first, valid, v);
    });
}

extern "C" __global__ void __launch_bounds__(BLOCK) fill_from_f32(uint64_t elems, const float* value, float* y) {
    each<4>(elems, [&](uint64_t first, int valid) {
        const float x = *value;
        const float v[4] = {x, x, x, x};
        store(y + first, valid, v);
    });
}

// One block: thread t adds the elements t, t + 256, .., then the threads are added pairwise. Sums start as -0, which alone
// leaves every number as it is, -0 too; that is the sum of nothing.
extern "C" __global__ void __launch_bounds__(BLOCK) sum_f32(uint64_t elems, const float* x, float* y) {
    __shared__ double sums[BLOCK];
    double sum = -0.0;
    for (uint64_t i = threadIdx.x; i < elems; i += BLOCK) sum += double(x[i]);
    sums[threadIdx.x] = sum;
    for (uint32_t stride = BLOCK / 2; stride > 0; stride /= 2) {
        __syncthreads();
        if (threadIdx.x < stride) sums[threadIdx.x] += sums[threadIdx.x + stride];
    }
    if (threadIdx.x == 0) *y = float(sums[0]);
}
