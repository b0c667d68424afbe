// Operands of a convolution as an implicit GEMM: rows that are gathered from an image while they are copied.
//
// Along each axis output i reads input i * in_step + origin + tap * tap_step, tap t is filter row (or column)
// filter_first + t * filter_step, and the output is pixel out_first + i * out_step: fprop walks over outputs, dgrad
// over the pixels of one residue modulo the stride, which are read by the same taps, so that no product is wasted on the
// others.
#pragma once

#include "problem.cuh"
#include "tile.cuh"

struct Axis {
    uint32_t count, taps, input;
    int in_step, origin, tap_step;
    uint32_t out_first, out_step, filter_first, filter_step;
};

// Outputs of one axis: p reads p * stride + tap * dilation - pad.
__device__ inline Axis fprop_axis(uint32_t out, uint32_t input, uint32_t taps, uint32_t stride, uint32_t pad,
                                  uint32_t dilation) {
    return {out, taps, input, int(stride), -int(pad), int(dilation), 0, 1, 0, 1};
}

// Pixels of one axis with a residue: h is read by p where p * stride = h + pad - tap * dilation.
__device__ inline Axis dgrad_axis(uint32_t residue, uint32_t out, uint32_t input, uint32_t taps, uint32_t stride,
                                  uint32_t pad, uint32_t dilation) {
    const int first_reach = int(residue + pad);
    uint32_t first = 0, divisor = stride;
    // A negative multiple of the stride has remainder 0, too.
    while (first < taps && (first_reach - int(first * dilation)) % int(stride) != 0) ++first;
    for (uint32_t rest = dilation; rest != 0;) {
        const uint32_t next = divisor % rest;
        divisor = rest;
        rest = next;
    }
    const uint32_t period = stride / divisor;
    const uint32_t count = residue < out ? (out - residue + stride - 1) / stride : 0;
    return {count,
            (taps - first + period - 1) / period,
            input,
            1,
            (first_reach - int(first * dilation)) / int(stride),
            -int(dilation / divisor),
            residue,
            stride,
            first,
            period};
}

struct Gather {
    Axis h, w;
    uint32_t n, channels;  // of the image that is read
    uint64_t out_h, out_w;  // of the image that is written

    __device__ uint32_t rows() const { return n * h.count * w.count; }
    __device__ uint32_t depth() const { return h.taps * w.taps * channels; }
    // Pixel of the written image that row m of the product is.
    __device__ uint64_t pixel(uint32_t m) const {
        const uint32_t j = m % w.count, rest = m / w.count;
        const uint32_t i = rest % h.count, image = rest / h.count;
        return (image * out_h + h.out_first + i * h.out_step) * out_w + w.out_first + j * w.out_step;
    }
};

__device__ inline Gather fprop_gather(const Conv2dProblem& p) {
    return {fprop_axis(p.p, p.h, p.r, p.stride_h, p.pad_top, p.dilation_h),
            fprop_axis(p.q, p.w, p.s, p.stride_w, p.pad_left, p.dilation_w), p.n, p.c, p.p, p.q};
}

// Residue pair `slice`; a stride longer than the image has no more residues than pixels.
__device__ inline Gather dgrad_gather(const Conv2dProblem& p, uint32_t slice) {
    const uint32_t across = min(p.stride_w, p.w);
    return {dgrad_axis(slice / across, p.h, p.p, p.r, p.stride_h, p.pad_top, p.dilation_h),
            dgrad_axis(slice % across, p.w, p.q, p.s, p.stride_w, p.pad_left, p.dilation_w), p.n, p.k, p.h, p.w};
}

// A place no tap reaches from: extents stay below 2^30.
constexpr int NOWHERE = -(1 << 30);

// A of fprop and dgrad: row m is the window of a pixel, depth = (tap row, tap column, channel). Not GUARDED, a piece
// moves by no more than one tap from tile to tile: channels are at least DEPTH.
template <typename T, class TILE, int THREADS, bool GUARDED> struct WindowRows : Pieces<T, TILE, THREADS> {
    using P = Pieces<T, TILE, THREADS>;
    using O = Offset<T, GUARDED>;
    const Gather& g;
    const T* at;                    // the piece of a row whose tap (0, 0) lies at the first pixel of the first row's
                                    // image, GUARDED that pixel
    typename O::Type from[P::COUNT];  // where that tap of the rows lies, perhaps outside
    int h[P::COUNT], w[P::COUNT];   // input position of that tap
    uint32_t tap_h, tap_w, channel; // of the piece
    int left;                       // depth from the piece on
    uint32_t inside;                // rows whose tap lies in the image

    __device__ WindowRows(const Gather& g, const T* images, uint32_t first_row, uint32_t depth_begin,
                          uint32_t depth_end)
        : g(g) {
        const uint32_t first = first_row / (g.w.count * g.h.count);
        at = images + uint64_t(first) * g.h.input * g.w.input * g.channels;
#pragma unroll
        for (int i = 0; i < P::COUNT; ++i) {
            const uint32_t m = first_row + P::row() + i * P::STEP;
            const uint32_t j = m % g.w.count, rest = m / g.w.count;
            const bool exists = m < g.rows();
            h[i] = exists ? int(rest % g.h.count) * g.h.in_step + g.h.origin : NOWHERE;
            w[i] = int(j) * g.w.in_step + g.w.origin;
            const int64_t line = exists ? int64_t(rest / g.h.count - first) * g.h.input + h[i] : 0;
            from[i] = O::of((line * g.w.input + w[i]) * g.channels);
        }
        const uint32_t depth = depth_begin + P::column();
        const uint32_t tap = depth / g.channels;
        channel = depth % g.channels;
        tap_h = g.w.taps ? tap / g.w.taps : 0;
        tap_w = g.w.taps ? tap % g.w.taps : 0;
        left = int(depth_end) - int(depth);
        if constexpr (!GUARDED) {
            at += tap_distance(tap_h, tap_w) + channel;
            reach();
        }
    }

    __device__ bool reaches(int i, uint32_t tap_h, uint32_t tap_w) const {
        return uint32_t(h[i] + int(tap_h) * g.h.tap_step) < g.h.input &&
               uint32_t(w[i] + int(tap_w) * g.w.tap_step) < g.w.input;
    }
    __device__ int64_t tap_distance(uint32_t tap_h, uint32_t tap_w) const {
        return (int64_t(int(tap_h) * g.h.tap_step) * g.w.input + int(tap_w) * g.w.tap_step) * g.channels;
    }
    __device__ void next_tap(uint32_t& tap_h, uint32_t& tap_w) const {
        if (++tap_w == g.w.taps) {
            tap_w = 0;
            ++tap_h;
        }
    }
    __device__ void reach() {
        inside = 0;
#pragma unroll
        for (int i = 0; i < P::COUNT; ++i) inside |= uint32_t(reaches(i, tap_h, tap_w)) << i;
    }

    __device__ void copy(uint32_t stage) {
        const uint32_t to = stage + P::offset();
        const uint32_t reached = left > 0 ? inside : 0;
#pragma unroll
        for (int i = 0; i < P::COUNT; ++i) {
            if constexpr (GUARDED) {
                uint32_t tap_h = this->tap_h, tap_w = this->tap_w, channel = this->channel;
                copy_elements<T>(to + i * P::STEP_BYTES, [&](int e) {
                    const bool exists = e < left && reaches(i, tap_h, tap_w);
                    const T* piece = exists ? O::at(at, from[i]) + tap_distance(tap_h, tap_w) + channel : nullptr;
                    if (++channel == g.channels) {
                        channel = 0;
                        next_tap(tap_h, tap_w);
                    }
                    return piece;
                });
            } else {
                copy_async<PIECE_BYTES>(to + i * P::STEP_BYTES, O::at(at, from[i]), reached >> i & 1);
            }
        }
        left -= P::DEPTH;
        channel += P::DEPTH;
        if constexpr (GUARDED) {
            for (; channel >= g.channels; channel -= g.channels) next_tap(tap_h, tap_w);
        } else {
            at += P::DEPTH;
            if (channel >= g.channels) {
                channel -= g.channels;
                next_tap(tap_h, tap_w);
                int pixels = g.w.tap_step;
                if (tap_w == 0) pixels = g.h.tap_step * int(g.w.input) - int(g.w.taps - 1) * g.w.tap_step;
                at += int64_t(pixels - 1) * int(g.channels);
                reach();
            }
        }
    }
};

// B of dgrad: a row of w[k, tap, :] for every step of depth = (tap row, tap column, k). Not GUARDED, a tile has one
// tap.
template <typename T, class TILE, int THREADS, bool GUARDED> struct FilterRows : Pieces<T, TILE, THREADS> {
    using P = Pieces<T, TILE, THREADS>;
    using O = Offset<T, GUARDED>;
    const Gather& g;
    const Conv2dProblem& p;
    const T* from;               // this thread's first row of the tile, GUARDED of the filters
    typename O::Type far;        // from one of the thread's rows to its next
    uint32_t k, tap_h, tap_w;    // of the tile, or GUARDED of the thread's first row
    int left, valid;             // depth from the thread's first row on, elements of the pieces

    __device__ FilterRows(const Gather& g, const Conv2dProblem& p, const T* w, uint32_t first_column,
                          uint32_t depth_begin, uint32_t depth_end)
        : g(g), p(p), from(w + first_column + P::column()), far(O::of(P::STEP * filter_elems())) {
        const uint32_t depth = depth_begin + (GUARDED ? P::row() : 0), tap = depth / g.channels;
        k = depth % g.channels;
        tap_h = g.w.taps ? tap / g.w.taps : 0;
        tap_w = g.w.taps ? tap % g.w.taps : 0;
        valid = int(p.c) - int(first_column + P::column());
        left = valid > 0 ? int(depth_end) - int(depth_begin + P::row()) : 0;
        if (!GUARDED) from += (k + P::row()) * filter_elems() + tap_elems();
    }

    __device__ uint64_t filter_elems() const { return uint64_t(p.r) * p.s * p.c; }
    // What the tap has before it in a filter.
    __device__ uint64_t tap_elems() const {
        const uint32_t r = g.h.filter_first + tap_h * g.h.filter_step, s = g.w.filter_first + tap_w * g.w.filter_step;
        return uint64_t(r * p.s + s) * p.c;
    }
    __device__ void next_tap() {
        if (++tap_w == g.w.taps) {
            tap_w = 0;
            ++tap_h;
        }
    }

    __device__ void copy(uint32_t stage) {
#pragma unroll
        for (int i = 0; i < P::COUNT; ++i) {
            const uint32_t to = stage + P::offset() + i * P::STEP_BYTES;
            const int exist = i * P::STEP < left ? GUARDED ? valid : P::V : 0;
            if constexpr (GUARDED) {
                copy_piece<true>(to, from + k * filter_elems() + tap_elems(), exist);
                for (k += P::STEP; k >= g.channels; k -= g.channels) next_tap();
            } else {
                copy_piece<false>(to, O::at(from, far, i), exist);
            }
        }
        left -= P::DEPTH;
        if constexpr (!GUARDED) {
            k += P::DEPTH;
            from = O::at(from, far, P::COUNT);
            if (k == g.channels) {
                k = 0;
                next_tap();
                int taps = int(g.w.filter_step);
                if (tap_w == 0) taps = int(g.h.filter_step * p.s) - int(g.w.taps - 1) * taps;
                from += int64_t(taps) * p.c - int64_t(g.channels * filter_elems());
            }
        }
    }
};

// B of wgrad: a window of x for every step of depth = output pixel, columns (filter row, filter column, channel).
template <typename T, class TILE, int THREADS, bool GUARDED> struct WindowColumns : Pieces<T, TILE, THREADS> {
    using P = Pieces<T, TILE, THREADS>;
    using O = Offset<T, GUARDED>;
    const Conv2dProblem& p;
    const T* from;                  // the piece's channel of the first pixel
    int h[P::COUNT], w[P::COUNT];   // input position of the tap of the piece's first element
    uint32_t pixel[P::COUNT];       // that tap's among all images; modulo 2^32 where there is none
    int last_h, last_w;             // position at the last output pixel
    int step_h, step_w;             // by a tile of pixels, within the image
    uint32_t step, next_row, next_image;  // of the pixel: by a tile, and where it leaves a row, or an image
    uint32_t tap_h, tap_w, channel; // of the piece
    int left, valid;                // pixels from the thread's first on, elements of the piece

    __device__ WindowColumns(const Conv2dProblem& p, const T* x, uint32_t first_column, uint32_t pixel_begin,
                             uint32_t pixel_end)
        : p(p) {
        const uint32_t column = first_column + P::column(), tap = column / p.c, first = pixel_begin + P::row();
        channel = column % p.c;
        tap_h = tap / p.s;
        tap_w = tap % p.s;
        valid = int(p.r * p.s * p.c) - int(column);
        left = valid > 0 ? int(pixel_end) - int(first) : 0;
        const int origin_h = int(tap_h * p.dilation_h) - int(p.pad_top);
        const int origin_w = int(tap_w * p.dilation_w) - int(p.pad_left);
        last_h = int((p.p - 1) * p.stride_h) + origin_h;
        last_w = int((p.q - 1) * p.stride_w) + origin_w;
#pragma unroll
        for (int i = 0; i < P::COUNT; ++i) {
            const uint32_t at = first + i * P::STEP, rest = at / p.q;
            h[i] = int(rest % p.p * p.stride_h) + origin_h;
            w[i] = int(at % p.q * p.stride_w) + origin_w;
            pixel[i] = (rest / p.p * p.h + h[i]) * p.w + w[i];
        }
        from = x + channel;
        const uint32_t rows = P::DEPTH / p.q;
        step_w = int(P::DEPTH % p.q * p.stride_w);
        step_h = int(rows % p.p * p.stride_h);
        step = (rows / p.p * p.h + step_h) * p.w + step_w;
        next_row = p.stride_h * p.w - p.q * p.stride_w;
        next_image = (p.h - p.p * p.stride_h) * p.w;
    }

    // The piece's first channel of a pixel.
    __device__ const T* at(uint32_t pixel) const { return from + int64_t(int(pixel)) * int(p.c); }

    __device__ void copy(uint32_t stage) {
        const int columns = int(p.q * p.stride_w), rows = int(p.p * p.stride_h);
#pragma unroll
        for (int i = 0; i < P::COUNT; ++i) {
            const uint32_t to = stage + P::offset() + i * P::STEP_BYTES;
            const int exist = i * P::STEP < left ? GUARDED ? valid : P::V : 0;
            if constexpr (GUARDED) {
                uint32_t tap_h = this->tap_h, tap_w = this->tap_w, channel = this->channel;
                copy_elements<T>(to, [&](int e) {
                    const int down = (int(tap_h) - int(this->tap_h)) * int(p.dilation_h);
                    const int right = (int(tap_w) - int(this->tap_w)) * int(p.dilation_w);
                    const bool exists = e < exist && uint32_t(h[i] + down) < p.h && uint32_t(w[i] + right) < p.w;
                    const T* element = at(pixel[i] + down * p.w + right) + (int(channel) - int(this->channel));
                    if (++channel == p.c) {
                        channel = 0;
                        if (++tap_w == p.s) {
                            tap_w = 0;
                            ++tap_h;
                        }
                    }
                    return exists ? element : nullptr;
                });
            } else {
                const bool exists = exist > 0 && uint32_t(h[i]) < p.h && uint32_t(w[i]) < p.w;
                copy_async<PIECE_BYTES>(to, at(pixel[i]), exists);
            }
            w[i] += step_w;
            h[i] += step_h;
            pixel[i] += step;
            if (w[i] > last_w) {
                w[i] -= columns;
                h[i] += int(p.stride_h);
                pixel[i] += next_row;
            }
            if (h[i] > last_h) {
                h[i] -= rows;
                pixel[i] += next_image;
            }
        }
        left -= P::DEPTH;
    }
};
