// RGB images [h, w, 3] of bytes or floats, in any memory, and how a block walks over them: value by value in units,
// or pixel by pixel. Neighbouring threads touch neighbouring words: coalesced, and without bank conflicts.
#pragma once

#include "vector.cuh"

constexpr int AUGMENT_BLOCK = 512;

// Clipped to 0..255 and truncated, NaN as 0: a cast to u8.
__device__ inline float quantised(float x) { return truncf(fminf(fmaxf(x, 0.0f), 255.0f)); }

// A result on its way into an image of T.
template <typename T> __device__ inline float to_pixel(float x) { return x; }
template <> __device__ inline float to_pixel<uint8_t>(float x) { return quantised(x); }

// The part of an image that a block handles: one of `parts`, interleaved.
struct Share {
    uint32_t part, parts;
};

// Calls f(first value, valid) for the units of this thread, N values each.
template <int N, typename F> __device__ inline void each_unit(uint32_t values, Share share, F f) {
    const uint32_t units = values / N + (values % N != 0);
    for (uint32_t unit = share.part * AUGMENT_BLOCK + threadIdx.x; unit < units; unit += share.parts * AUGMENT_BLOCK) {
        f(unit * N, valid_elements<N>(unit * N, values));
    }
}

// Values of T in 16 bytes.
template <typename T> constexpr int PACKED = 16 / sizeof(T);

// The one of three that belongs to a channel.
template <typename V> __device__ inline V of_channel(const V (&v)[3], uint32_t channel) {
    return channel == 0 ? v[0] : channel == 1 ? v[1] : v[2];
}

// y[i] = f(x[i], channel), 16 bytes of the wider type at a time
template <typename X, typename Y, typename F>
__device__ inline void map_values(const X* x, Y* y, uint32_t values, Share share, F f) {
    constexpr int N = PACKED<X> < PACKED<Y> ? PACKED<X> : PACKED<Y>;
    each_unit<N>(values, share, [&](uint32_t first, int valid) {
        float v[N];
        load(x + first, valid, v);
        const uint32_t channel = first % 3;
#pragma unroll
        for (uint32_t i = 0; i < N; ++i) v[i] = f(v[i], (channel + i % 3) % 3);
        store<Memory::ANY>(y + first, valid, v);
    });
}

// Writes the pixels of a block, thread t's being the t-th of `there` from pixel `first` on, into shared memory: three words
// or bytes to a thread are free of bank conflicts.
struct Direct {
    template <typename T> __device__ void write(T* y, uint32_t first, uint32_t there, const float (&rgb)[3]) const {
        if (threadIdx.x >= there) return;
        T* pixel = y + (first + threadIdx.x) * 3;
#pragma unroll
        for (int k = 0; k < 3; ++k) pixel[k] = from_float<T>(rgb[k]);
    }
};

// Consecutive values of a block on their way to `out`: put into `values`, in shared memory, then written 16 bytes a thread.
template <typename T> struct Outlet {
    T *out, *values;

    // As far behind a multiple of 16 as `out`, so that packs of both are aligned: `shared` has 16 bytes more than the values.
    __device__ Outlet(T* out, void* shared)
        : out(out), values(reinterpret_cast<T*>(static_cast<uint8_t*>(shared) + reinterpret_cast<uintptr_t>(out) % 16)) {}

    // Writes `count` values; all threads take part.
    __device__ void write(uint32_t count) const {
        __syncthreads();
        const uint32_t head = min(uint32_t(-reinterpret_cast<uintptr_t>(out) % 16 / sizeof(T)), count);
        const uint32_t packs = (count - head) / PACKED<T>;
#pragma unroll 1
        for (uint32_t i = threadIdx.x; i < packs; i += AUGMENT_BLOCK) {
            store_words(reinterpret_cast<uint4*>(out + head) + i, reinterpret_cast<const uint4*>(values + head)[i]);
        }
        // The last warp has what lies before and behind the packs.
        const uint32_t lane = threadIdx.x - (AUGMENT_BLOCK - 32), rest = lane < head ? lane : packs * PACKED<T> + lane;
        if (lane < 32 && rest < count) out[rest] = values[rest];
        __syncthreads();
    }
};

// The same into global memory. Of floats each warp regroups its 96 values in shared memory, so that 24 lanes write four
// each; bytes of a warp begin anywhere, so those of the block are written together.
struct Staged {
    float* memory;  // [AUGMENT_BLOCK * 3], shared

    __device__ void write(uint8_t* y, uint32_t first, uint32_t there, const float (&rgb)[3]) const {
        const Outlet<uint8_t> outlet(y + first * 3, memory);
        if (threadIdx.x < there) {
#pragma unroll
            for (int k = 0; k < 3; ++k) outlet.values[threadIdx.x * 3 + k] = from_float<uint8_t>(rgb[k]);
        }
        outlet.write(there * 3);
    }

    __device__ void write(float* y, uint32_t first, uint32_t there, const float (&rgb)[3]) const {
        const uint32_t lane = threadIdx.x % 32, before = threadIdx.x - lane;
        float* mine = memory + before * 3;
        if (threadIdx.x < there) {
#pragma unroll
            for (int k = 0; k < 3; ++k) mine[lane * 3 + k] = rgb[k];
        }
        __syncwarp();
        const int valid = (int(there) - int(before)) * 3 - int(lane) * 4;
        if (lane < 24 && valid > 0) {
            float v[4];
            load(mine + lane * 4, valid, v);
            store(y + (first + before) * 3 + lane * 4, valid, v);
        }
        __syncwarp();
    }
};

// y[p, q] = the three values that f(q)(p, rgb) gives; f(q) is what a column's pixels share. A thread keeps its column from row
// to row where the image is not wider than a block. All threads take part.
template <typename T, typename Writer, typename F>
__device__ inline void map_pixels(T* y, uint32_t h, uint32_t w, Share share, Writer writer, F f) {
    const uint32_t columns = min(w, AUGMENT_BLOCK), rows = AUGMENT_BLOCK / columns;
    const uint32_t row = threadIdx.x / columns, column = threadIdx.x - row * columns;
#pragma unroll 1
    for (uint32_t q = 0; q < w; q += columns) {
        const auto pixel = f(min(q + column, w - 1));
#pragma unroll 1
        for (uint32_t p = share.part * rows; p < h; p += share.parts * rows) {
            // Neighbouring threads have neighbouring pixels, over the ends of rows too.
            const uint32_t there = min(rows, h - p) * min(columns, w - q);
            float rgb[3];
            if (threadIdx.x < there) pixel(p + row, rgb);
            writer.write(y, p * w + q, there, rgb);
        }
    }
}
