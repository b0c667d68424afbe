// The ops of the two RandAugment policies on RGB images by one block: src/cpu/augment_pixel.rs bit by bit. Needs -fmad=false.
// Every op reads x and writes another image y; all threads of the block take part.
#pragma once

#include "augment_geometry.cuh"
#include "warp.cuh"

// The model garden's ops in the order of their indices.
enum RandAugmentOp : uint32_t {
    AUTO_CONTRAST, EQUALIZE, INVERT, ROTATE, POSTERIZE, SOLARIZE, COLOR, CONTRAST, BRIGHTNESS, SHARPNESS, SHEAR_X, SHEAR_Y,
    TRANSLATE_X, TRANSLATE_Y, CUTOUT, SOLARIZE_ADD, IDENTITY,
};

// keras_cv's ops in the order of their indices, and none of them.
enum KerasOp : uint32_t {
    KERAS_AUTO_CONTRAST, KERAS_EQUALIZATION, KERAS_SOLARIZATION, KERAS_COLOR_DEGENERATION, KERAS_CONTRAST, KERAS_BRIGHTNESS,
    KERAS_SHEAR_X, KERAS_SHEAR_Y, KERAS_TRANSLATION_X, KERAS_TRANSLATION_Y, KERAS_NONE,
};

// An op with its arguments: what each means is said where it is used.
struct PixelOp {
    uint32_t op, n[4];
    float f[2];
    Transform transform;
};

// Shared memory of a block besides its images.
struct Scratch {
    PixelOp op;
    union {
        uint32_t range[6];          // smallest and largest value per channel, ordered as integers
        uint32_t bins[3][256];      // histograms, then lookup tables
        double sums[AUGMENT_BLOCK]; // of one row and channel each
        float mean[3];
        float stage[AUGMENT_BLOCK * 3];
    };
};

// A function of pixels as a function of columns.
template <typename F> struct PerPixel {
    F f;
    __device__ auto operator()(uint32_t q) const {
        return [this, q](uint32_t p, float (&rgb)[3]) { f(p, q, rgb); };
    }
};
template <typename F> __device__ inline PerPixel<F> per_pixel(F f) { return {f}; }

// Weights in a gray value.
constexpr float RED = 0.2989f, GREEN = 0.5870f, BLUE = 0.1140f;

__device__ inline float clipped(float x) { return x < 0.0f ? 0.0f : x > 255.0f ? 255.0f : x; }

// Floats as integers in the same order.
__device__ inline uint32_t ordered(float x) {
    const uint32_t bits = __float_as_uint(x);
    return bits >> 31 ? ~bits : bits | 1u << 31;
}
__device__ inline float from_ordered(uint32_t x) { return __uint_as_float(x >> 31 ? x ^ 1u << 31 : ~x); }

// Smallest and largest value per channel into range[k] and range[3 + k]. NaN is neither; of nothing but NaN both are NaN.
template <typename T> __device__ inline void channel_range(const T* x, uint32_t values, uint32_t (&range)[6]) {
    if (threadIdx.x < 6) range[threadIdx.x] = threadIdx.x < 3 ? UINT32_MAX : 0;
    uint32_t lo[3] = {UINT32_MAX, UINT32_MAX, UINT32_MAX}, hi[3] = {};
    each_unit<PACKED<T>>(values, {0, 1}, [&](uint32_t first, int valid) {
        float v[PACKED<T>];
        load(x + first, valid, v);
        // Of every third value, then by the channel that those have.
        uint32_t least[3] = {UINT32_MAX, UINT32_MAX, UINT32_MAX}, most[3] = {};
#pragma unroll
        for (int i = 0; i < PACKED<T>; ++i) {
            if (i >= valid || v[i] != v[i]) continue;
            least[i % 3] = min(least[i % 3], ordered(v[i]));
            most[i % 3] = max(most[i % 3], ordered(v[i]));
        }
#pragma unroll
        for (uint32_t k = 0; k < 3; ++k) {
            const uint32_t third = (k + 3 - first % 3) % 3;
            lo[k] = min(lo[k], of_channel(least, third));
            hi[k] = max(hi[k], of_channel(most, third));
        }
    });
    __syncthreads();
#pragma unroll
    for (int k = 0; k < 3; ++k) {
        lo[k] = __reduce_min_sync(ALL_LANES, lo[k]);
        hi[k] = __reduce_max_sync(ALL_LANES, hi[k]);
        if (threadIdx.x % 32 == 0) {
            atomicMin(&range[k], lo[k]);
            atomicMax(&range[3 + k], hi[k]);
        }
    }
    __syncthreads();
}

// Stretches each channel's range to 0..255; a constant channel stays, and so does one of NaN alone.
template <typename T, typename F>
__device__ inline void auto_contrast(const T* x, T* y, uint32_t values, Scratch& scratch, F to_result) {
    channel_range(x, values, scratch.range);
    float scale[3], offset[3];
    bool constant[3];
#pragma unroll
    for (int k = 0; k < 3; ++k) {
        const float lo = from_ordered(scratch.range[k]), hi = from_ordered(scratch.range[3 + k]);
        constant[k] = !(hi > lo);
        scale[k] = 255.0f / (hi - lo);
        offset[k] = -lo * scale[k];
    }
    map_values(x, y, values, {0, 1}, [&](float v, uint32_t k) {
        return of_channel(constant, k) ? v : to_result(v * of_channel(scale, k) + of_channel(offset, k));
    });
}

// Histogram of each channel's values, truncated to bytes.
template <typename T> __device__ inline void histograms(const T* x, uint32_t values, uint32_t (&bins)[3][256]) {
    for (uint32_t i = threadIdx.x; i < 3 * 256; i += AUGMENT_BLOCK) bins[i / 256][i % 256] = 0;
    __syncthreads();
    each_unit<PACKED<T>>(values, {0, 1}, [&](uint32_t first, int valid) {
        float v[PACKED<T>];
        load(x + first, valid, v);
        const uint32_t channel = first % 3;
#pragma unroll
        for (uint32_t i = 0; i < PACKED<T>; ++i)
            if (i < valid) atomicAdd(&bins[(channel + i % 3) % 3][uint32_t(quantised(v[i]))], 1);
    });
    __syncthreads();
}

// Turns histograms into the lookup tables of an equalisation, a warp per channel. The step is (pixels - c) / 255 with c the
// count of the highest bin that is not empty, or with SMALLEST the smallest count that is not zero; a step of 0 changes
// nothing.
template <bool SMALLEST> __device__ inline void equalisation_tables(uint32_t pixels, uint32_t (&bins)[3][256]) {
    const uint32_t channel = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (channel < 3) {
        uint32_t (&table)[256] = bins[channel];
        uint32_t count[8], special = SMALLEST ? UINT32_MAX : 0;
#pragma unroll
        for (uint32_t i = 0; i < 8; ++i) {
            count[i] = table[i * 32 + lane];
            if (count[i] > 0) special = SMALLEST ? min(special, count[i]) : i * 32 + lane;
        }
        special = SMALLEST ? __reduce_min_sync(ALL_LANES, special) : table[__reduce_max_sync(ALL_LANES, special)];
        __syncwarp();
        const uint32_t step = (pixels - special) / 255;
        uint32_t below = 0;
#pragma unroll
        for (uint32_t i = 0; i < 8; ++i) {
            uint32_t up_to = count[i];
#pragma unroll
            for (int distance = 1; distance < 32; distance *= 2) {
                const uint32_t other = __shfl_up_sync(ALL_LANES, up_to, distance);
                if (lane >= distance) up_to += other;
            }
            // The number of values below the bin.
            const uint32_t before = below + up_to - count[i];
            table[i * 32 + lane] = step == 0 ? i * 32 + lane : min((before + step / 2) / step, 255);
            below += __shfl_sync(ALL_LANES, up_to, 31);
        }
    }
    __syncthreads();
}

template <bool SMALLEST, typename T>
__device__ inline void equalize(const T* x, T* y, uint32_t values, Scratch& scratch) {
    histograms(x, values, scratch.bins);
    equalisation_tables<SMALLEST>(values / 3, scratch.bins);
    map_values(x, y, values, {0, 1}, [&](float v, uint32_t k) { return float(scratch.bins[k][uint32_t(quantised(v))]); });
}

// The mean of each channel: a double sum, rows from left to right and then from top to bottom, rounded to float.
__device__ inline void channel_means(const float* x, uint32_t h, uint32_t w, Scratch& scratch) {
    constexpr uint32_t ROWS = AUGMENT_BLOCK / 3;
    const uint32_t k = threadIdx.x % 3;
    double total = 0.0;
    for (uint32_t first = 0; first < h; first += ROWS) {
        const uint32_t row = first + threadIdx.x / 3;
        if (threadIdx.x < ROWS * 3 && row < h) {
            double sum = 0.0;
            for (uint32_t q = 0; q < w; ++q) sum += double(x[(row * w + q) * 3 + k]);
            scratch.sums[threadIdx.x] = sum;
        }
        __syncthreads();
        if (threadIdx.x < 3)
            for (uint32_t i = 0; i < min(ROWS, h - first); ++i) total += scratch.sums[i * 3 + k];
        __syncthreads();
    }
    if (threadIdx.x < 3) scratch.mean[k] = float(total / double(uint64_t(h) * w));
    __syncthreads();
}

// d + f * (x - d), clipped and truncated.
__device__ inline float blend(float d, float x, float factor) { return quantised(d + factor * (x - d)); }

// The gray value as a byte: each conversion rounds as the reference's.
__device__ inline float gray_byte(const float (&v)[3]) {
    constexpr float UNIT = 1.0f / 255.0f;
    return quantised((v[0] * UNIT * RED + v[1] * UNIT * GREEN + v[2] * UNIT * BLUE) * 255.5f);
}

// The 3x3 average [1 1 1; 1 5 1; 1 1 1] / 13 of a value off the border: taps row by row, fused.
__device__ inline float smoothed(const uint8_t* x, uint32_t w) {
    float sum = 0.0f;
#pragma unroll
    for (int tap = 0; tap < 9; ++tap) {
        const uint8_t* row = tap < 3 ? x - w * 3 : tap < 6 ? x : x + w * 3;
        sum = fmaf(tap == 4 ? 5.0f / 13.0f : 1.0f / 13.0f, to_float(row[(tap % 3 - 1) * 3]), sum);
    }
    return quantised(sum);
}

// One of the model garden's ops. `share` is the whole image for ops that need all of it.
template <typename Writer>
__device__ inline void rand_augment_op(const PixelOp& op, const uint8_t* x, uint8_t* y, uint32_t h, uint32_t w, Share share,
                                       Writer writer, Scratch& scratch) {
    const uint32_t values = h * w * 3;
    const auto map = [&](auto f) { map_values(x, y, values, share, [&](float v, uint32_t) { return f(v); }); };
    const float factor = op.f[0];
    switch (op.op) {
    case AUTO_CONTRAST: auto_contrast(x, y, values, scratch, quantised); break;
    case EQUALIZE: equalize<false>(x, y, values, scratch); break;
    case INVERT: map([](float v) { return 255.0f - v; }); break;
    case POSTERIZE: {
        const uint32_t shift = min(8 - op.n[0], 7);  // n[0]: bits that stay
        map([&](float v) { return float(uint32_t(v) >> shift << shift); });
        break;
    }
    case SOLARIZE: map([&](float v) { return uint32_t(v) < op.n[0] ? v : 255.0f - v; }); break;
    case SOLARIZE_ADD: map([&](float v) { return uint32_t(v) < op.n[1] ? fminf(v + float(op.n[0]), 255.0f) : v; }); break;
    case CONTRAST: {
        const float d = float(min(h * w / 256, 255));
        map([&](float v) { return blend(d, v, factor); });
        break;
    }
    case BRIGHTNESS: map([&](float v) { return blend(0.0f, v, factor); }); break;
    case COLOR:
        map_pixels(y, h, w, share, writer, per_pixel([&](uint32_t p, uint32_t q, float (&rgb)[3]) {
            const uint8_t* pixel = x + (p * w + q) * 3;
            const float v[3] = {to_float(pixel[0]), to_float(pixel[1]), to_float(pixel[2])};
            const float gray = gray_byte(v);
#pragma unroll
            for (int k = 0; k < 3; ++k) rgb[k] = blend(gray, v[k], factor);
        }));
        break;
    case SHARPNESS:
        map_pixels(y, h, w, share, writer, per_pixel([&](uint32_t p, uint32_t q, float (&rgb)[3]) {
            const uint8_t* pixel = x + (p * w + q) * 3;
            const bool border = p == 0 || q == 0 || p + 1 == h || q + 1 == w;
#pragma unroll
            for (int k = 0; k < 3; ++k) {
                const float v = to_float(pixel[k]);
                rgb[k] = border ? v : blend(smoothed(pixel + k, w), v, factor);
            }
        }));
        break;
    case CUTOUT: {
        // n: half side, row and column of the centre, three replacing bytes
        const uint32_t pad = op.n[0], top = max(op.n[1], pad) - pad, left = max(op.n[2], pad) - pad;
        const uint32_t bottom = min(uint64_t(op.n[1]) + pad, uint64_t(h)), right = min(uint64_t(op.n[2]) + pad, uint64_t(w));
        map_pixels(y, h, w, share, writer, per_pixel([&](uint32_t p, uint32_t q, float (&rgb)[3]) {
            const uint8_t* pixel = x + (p * w + q) * 3;
            const bool cut = p >= top && p < bottom && q >= left && q < right;
#pragma unroll
            for (int k = 0; k < 3; ++k) rgb[k] = cut ? float(op.n[3] >> 8 * k & 255) : to_float(pixel[k]);
        }));
        break;
    }
    case IDENTITY: map([](float v) { return v; }); break;
    default:
        map_pixels(y, h, w, share, writer, per_pixel([&](uint32_t p, uint32_t q, float (&rgb)[3]) {
            const Place at = source_place(op.transform, p, q, float(h), float(w), REFLECT, true);
            const uint8_t* pixel = x + nearest_pixel(at, w) * 3;
#pragma unroll
            for (int k = 0; k < 3; ++k) rgb[k] = to_float(pixel[k]);
        }));
    }
}

// A bilinear warp with reflected border.
template <typename Writer>
__device__ inline void warp_bilinear(const Transform& transform, const float* x, float* y, uint32_t h, uint32_t w, Share share,
                                     Writer writer) {
    map_pixels(y, h, w, share, writer, per_pixel([&](uint32_t p, uint32_t q, float (&rgb)[3]) {
        const BilinearInside<float> value(x, h, w, 3, source_place(transform, p, q, float(h), float(w), REFLECT, true));
#pragma unroll
        for (int k = 0; k < 3; ++k) rgb[k] = value(k);
    }));
}

// One of keras_cv's ops. `share` is the whole image for ops that need all of it.
template <typename Writer>
__device__ inline void keras_op(const PixelOp& op, const float* x, float* y, uint32_t h, uint32_t w, Share share, Writer writer,
                                Scratch& scratch) {
    const uint32_t values = h * w * 3;
    const float factor = op.f[0];
    switch (op.op) {
    case KERAS_AUTO_CONTRAST: auto_contrast(x, y, values, scratch, clipped); break;
    case KERAS_EQUALIZATION: equalize<true>(x, y, values, scratch); break;
    case KERAS_SOLARIZATION:  // f: what is added, first value that is inverted
        map_values(x, y, values, share, [&](float v, uint32_t) {
            const float sum = clipped(v + op.f[0]);
            return sum < op.f[1] ? sum : 255.0f - sum;
        });
        break;
    case KERAS_COLOR_DEGENERATION:
        map_pixels(y, h, w, share, writer, per_pixel([&](uint32_t p, uint32_t q, float (&rgb)[3]) {
            const float* v = x + (p * w + q) * 3;
            const float gray = v[0] * RED + v[1] * GREEN + v[2] * BLUE;
#pragma unroll
            for (int k = 0; k < 3; ++k) rgb[k] = clipped(v[k] + factor * (gray - v[k]));
        }));
        break;
    case KERAS_CONTRAST: {
        channel_means(x, h, w, scratch);
        const float mean[3] = {scratch.mean[0], scratch.mean[1], scratch.mean[2]};
        map_values(x, y, values, {0, 1}, [&](float v, uint32_t k) {
            const float m = of_channel(mean, k);
            return clipped((v - m) * factor + m);
        });
        break;
    }
    case KERAS_BRIGHTNESS: map_values(x, y, values, share, [&](float v, uint32_t) { return clipped(v + factor); }); break;
    default: warp_bilinear(op.transform, x, y, h, w, share, writer);
    }
}
