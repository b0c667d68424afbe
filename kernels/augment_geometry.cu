// Resize, crop, flip and projective warps of image batches with given parameters.
//
// Computes     resize: the box of x, bilinear to y with half-pixel centres, value = top + (bottom - top) * wy, top and bottom =
//              a + (b - a) * wx; crop: y = the box of x, its columns reversed where `flip`; warp: y at (x, y) = x at
//              transform(x, y), nearest (half away from zero) or bilinear, the four fill modes of the CPU.
// Shapes       x [n,h,w,c]; y [n,rows,columns,c]; of warp [n,h,w,c].
// Launch       grid n * parts, block 512; a thread handles units of four consecutive values of its image, of crop a warp rows.
// Requires     extents below 2^24, images of x and y below 2^32 values, the box inside x.
// Writes       `=`; resize writes floats, crop and warp the type of x. y is not x.
// Determinism  every value on its own; bit-equal to the CPU.
// Cost         bound by memory: y once, the box of x once through the caches; about 15 operations a pixel and 9 a value.
// Source       tf.image.resize, ImageProjectiveTransformV3.

#include "augment_geometry.cuh"
#include "warp.cuh"

// Four values of every lane, side by side; all lanes take part.
__device__ inline void store_by_warp(float* y, int valid, const float (&v)[4]) { store(y, valid, v); }
// Four bytes of four lanes are the 16 that one lane writes.
__device__ inline void store_by_warp(uint8_t* y, int valid, const float (&v)[4]) {
    const uint32_t lane = threadIdx.x % 32;
    uint8_t* first = y - lane * 4;
    if (!__all_sync(ALL_LANES, valid == 4) || reinterpret_cast<uintptr_t>(first) % 16 != 0) return store(y, valid, v);
    const uint32_t four = uint32_t(v[0]) | uint32_t(v[1]) << 8 | uint32_t(v[2]) << 16 | uint32_t(v[3]) << 24;
    const auto of_lane = [&](uint32_t i) { return __shfl_sync(ALL_LANES, four, lane * 4 + i); };
    const uint4 words = {of_lane(0), of_lane(1), of_lane(2), of_lane(3)};
    if (lane < 8) store_words(reinterpret_cast<uint4*>(first) + lane, words);
}

// Walks over the values of image blockIdx.x / parts: f(place(p, q), channel) gives one.
template <typename Y, typename P, typename F>
__device__ inline void each_value(uint32_t parts, uint32_t rows, uint32_t columns, uint32_t c, Y* y, P place, F f) {
    const uint32_t values = rows * columns * c, units = values / 4 + (values % 4 != 0), lane = threadIdx.x % 32;
    for (uint32_t unit = blockIdx.x % parts * AUGMENT_BLOCK + threadIdx.x; unit - lane < units; unit += parts * AUGMENT_BLOCK) {
        const uint32_t first = unit * 4, pixel = first / c;
        const int valid = unit < units ? valid_elements<4>(first, values) : 0;
        uint32_t k = first - pixel * c, p = pixel / columns, q = pixel - p * columns;
        auto at = place(p, q);
        float v[4] = {};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (i < valid) v[i] = f(at, k);
            if (++k == c && i + 1 < valid) {
                k = 0;
                if (++q == columns) {
                    q = 0;
                    ++p;
                }
                at = place(p, q);
            }
        }
        store_by_warp(y + first, valid, v);
    }
}

struct Taps {
    Tap row, col;
};

template <typename T>
__device__ inline void resize(uint32_t parts, uint32_t h, uint32_t w, uint32_t c, const CropBox& box, uint32_t rows,
                              uint32_t columns, const T* x, float* y) {
    const uint64_t n = blockIdx.x / parts;
    const T* image = x + n * h * w * c + (uint64_t(box.top) * w + box.left) * c;
    const float row_scale = float(box.height) / float(rows), column_scale = float(box.width) / float(columns);
    each_value(
        parts, rows, columns, c, y + n * rows * columns * c,
        [&](uint32_t p, uint32_t q) {
            return Taps{resize_tap(p, box.height, row_scale), resize_tap(q, box.width, column_scale)};
        },
        [&](const Taps& at, uint32_t k) { return sample_value(image + k, w * c, c, at.row, at.col); });
}

// Chunks of 16 bytes a thread. A warp reads a row of the chunk, its loads begin with a sector; the block writes them all.
template <typename T>
__device__ inline void crop(uint32_t parts, uint32_t h, uint32_t w, uint32_t c, const CropBox& box, uint32_t flip,
                            const T* x, T* y) {
    constexpr uint32_t CHUNK = AUGMENT_BLOCK * PACKED<T>, SECTOR = 32 / sizeof(T);
    __shared__ alignas(16) uint8_t shared[CHUNK * sizeof(T) + 16];
    const uint64_t n = blockIdx.x / parts;
    const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t row = box.width * c, values = box.height * row;
    const T* image = x + n * h * w * c + (uint64_t(box.top) * w + box.left) * c;
    for (uint64_t start = uint64_t(blockIdx.x % parts) * CHUNK; start < values; start += uint64_t(parts) * CHUNK) {
        const uint32_t end = min(start + CHUNK, uint64_t(values));
        const Outlet<T> outlet(y + n * values + start, shared);
        for (uint32_t p = start / row + warp; p < box.height && p * row < end; p += AUGMENT_BLOCK / 32) {
            const T* source = image + p * w * c;
            const uint32_t first = max(p * row, uint32_t(start)), last = min(p * row + row, end);
            const uint32_t before = reinterpret_cast<uintptr_t>(source + (first - p * row)) / sizeof(T) % SECTOR;
#pragma unroll 2
            for (uint32_t i = lane; i < before + (last - first); i += 32) {
                if (i < before) continue;
                const uint32_t value = first + i - before, place = value - p * row;
                // Of a pixel that is flipped the values keep their order.
                outlet.values[value - uint32_t(start)] = source[flip ? row - c - place + 2 * (place % c) : place];
            }
        }
        outlet.write(end - uint32_t(start));
    }
}

struct WarpArguments {
    Transform transform;
    uint32_t nearest, fill;
    float fill_value;
};

template <typename T>
__device__ inline void warp(uint32_t parts, uint32_t h, uint32_t w, uint32_t c, const WarpArguments& a, const T* x, T* y) {
    const uint64_t n = blockIdx.x / parts, values = uint64_t(h) * w * c;
    const T* image = x + n * values;
    const float outside = to_pixel<T>(a.fill_value);
    const bool affine = a.transform.c0 == 0.0f && a.transform.c1 == 0.0f;
    const auto place = [&](uint32_t p, uint32_t q) {
        return source_place(a.transform, p, q, float(h), float(w), a.fill, affine);
    };
    // A negative index wraps to one beyond any extent.
    const auto read = [&](uint32_t row, uint32_t col, uint32_t k) {
        return row < h && col < w ? to_float(image[(row * w + col) * c + k]) : outside;
    };
    if (a.nearest) {
        each_value(parts, h, w, c, y + n * values, place, [&](const Place& at, uint32_t k) {
            return at.infinite ? outside : read(round_away(at.y), round_away(at.x), k);
        });
    } else {
        each_value(parts, h, w, c, y + n * values, place, [&](const Place& at, uint32_t k) {
            if (at.infinite) return outside;
            if (a.fill != CONSTANT) return BilinearInside<T>(image, h, w, c, at)(k);
            const float row = floorf(at.y), col = floorf(at.x);
            const uint32_t p = __float2int_rz(row), q = __float2int_rz(col);
            const Corner corner(at.y, at.x, row, col);
            return to_pixel<T>(corner.blend(read(p, q, k), read(p, q + 1, k), read(p + 1, q, k), read(p + 1, q + 1, k)));
        });
    }
}

// For more blocks of warp than two on a multiprocessor ptxas spills.
#define ENTRIES(T, NAME)                                                                                               \
    extern "C" __global__ void __launch_bounds__(AUGMENT_BLOCK)                                                        \
        augment_geometry_resize_##NAME(uint32_t parts, uint32_t h, uint32_t w, uint32_t c, CropBox box, uint32_t rows, \
                                       uint32_t columns, const T* x, float* y) {                                       \
        resize(parts, h, w, c, box, rows, columns, x, y);                                                              \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(AUGMENT_BLOCK)                                                        \
        augment_geometry_crop_##NAME(uint32_t parts, uint32_t h, uint32_t w, uint32_t c, CropBox box, uint32_t flip,   \
                                     const T* x, T* y) {                                                               \
        crop(parts, h, w, c, box, flip, x, y);                                                                         \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(AUGMENT_BLOCK, 2)                                                     \
        augment_geometry_warp_##NAME(uint32_t parts, uint32_t h, uint32_t w, uint32_t c, WarpArguments arguments,      \
                                     const T* x, T* y) {                                                               \
        warp(parts, h, w, c, arguments, x, y);                                                                         \
    }

ENTRIES(uint8_t, u8)
ENTRIES(float, f32)
