// Flips, crops, resizes and warps, place by place: src/cpu/augment_geometry.rs bit by bit. Needs -fmad=false.
#pragma once

#include "augment_image.cuh"
#include "math.cuh"

// A rectangle of an image in pixels.
struct CropBox {
    uint32_t top, left, height, width;
};

// One position of an axis: the value is lo + (hi - lo) * weight.
struct Tap {
    uint32_t lo, hi;
    float weight;
};

// Position i of a result is position first + i * step of what it was made from.
struct Steps {
    uint32_t first, step;  // modulo 2^32: the step is 1 or -1

    __device__ uint32_t operator()(uint32_t i) const { return first + i * step; }
    __device__ void flip(uint32_t size) {
        first += (size - 1) * step;
        step = 0u - step;
    }
};

// The tap of a bilinear resize, half-pixel centres, by `scale` = input / output.
__device__ inline Tap resize_tap(uint32_t position, uint32_t input, float scale) {
    const float s = (float(position) + 0.5f) * scale - 0.5f;
    if (s < 0.0f) return {0, 0, 0.0f};
    // Rounding may carry s past the last position.
    const uint32_t lo = min(uint32_t(s), input - 1);
    const float weight = s - float(lo);
    return {lo, weight > 0.0f ? min(lo + 1, input - 1) : lo, weight};
}

// An axis after flips, crops, at most one resize, flips and crops: those only rearrange what is read.
struct Axis {
    uint32_t size;
    Steps source, result;  // before and after the resize
    uint32_t input;        // positions that the resize sees; 0: none
    float scale;

    __device__ explicit Axis(uint32_t size) : size(size), source{0, 1}, result{0, 1}, input(0), scale(1.0f) {}
    __device__ void flip() {
        if (input > 0) result.flip(size);
        else source.flip(size);
    }
    __device__ void crop(uint32_t start, uint32_t length) {
        if (input > 0) result.first += start * result.step;
        else source.first += start * source.step;
        size = length;
    }
    __device__ void resize(uint32_t length) {
        input = size;
        scale = float(size) / float(length);
        size = length;
    }
    __device__ Tap tap(uint32_t position) const {
        if (input == 0) return {source(position), source(position), 0.0f};
        const Tap tap = resize_tap(result(position), input, scale);
        return {source(tap.lo), source(tap.hi), tap.weight};
    }
};

// One value between its four neighbours: x at a channel, `stride` values to a row, c to a pixel.
template <typename T>
__device__ inline float sample_value(const T* x, uint32_t stride, uint32_t c, const Tap& row, const Tap& col) {
    const auto between = [&](uint32_t p) {
        const float a = to_float(x[p * stride + col.lo * c]), b = to_float(x[p * stride + col.hi * c]);
        return a + (b - a) * col.weight;
    };
    const float top = between(row.lo);
    if (row.hi == row.lo || row.weight == 0.0f) return top;
    return top + (between(row.hi) - top) * row.weight;
}

// The three values of a pixel between its four neighbours: x [h, w, 3].
template <typename T>
__device__ inline void sample_pixel(const T* x, uint32_t w, const Tap& row, const Tap& col, float (&rgb)[3]) {
    const auto between = [&](uint32_t p, float (&v)[3]) {
        const T *a = x + (p * w + col.lo) * 3, *b = x + (p * w + col.hi) * 3;
#pragma unroll
        for (int k = 0; k < 3; ++k) v[k] = to_float(a[k]) + (to_float(b[k]) - to_float(a[k])) * col.weight;
    };
    between(row.lo, rgb);
    if (row.hi != row.lo && row.weight != 0.0f) {
        float bottom[3];
        between(row.hi, bottom);
#pragma unroll
        for (int k = 0; k < 3; ++k) rgb[k] = rgb[k] + (bottom[k] - rgb[k]) * row.weight;
    }
}

enum Fill : uint32_t { REFLECT, CONSTANT, EDGE, WRAP };

// Maps a source coordinate into an axis of n positions; CONSTANT leaves it.
__device__ inline float map_coordinate(float u, float n, uint32_t fill) {
    const float last = n - 1.0f;
    float mapped = u;
    if (fill == CONSTANT) return u;
    if (fill == REFLECT) {
        const float period = 2.0f * n;
        if (u < 0.0f) {
            const float below = u + period * truncf(-u / period);
            mapped = below < -n ? below + period : -below - 1.0f;
        } else if (u > last) {
            const float above = u - period * truncf(u / period);
            mapped = above >= n ? period - above - 1.0f : above;
        }
    } else if (fill == WRAP) {
        if (u < 0.0f) {
            mapped = u + n * (truncf(-u / last) + 1.0f);
        } else if (u > last) {
            mapped = u - n * truncf(u / last);
        }
    }
    // The maximum first: it also turns the NaN of an axis of one position into 0.
    return fminf(fmaxf(mapped, 0.0f), last);
}

// Half away from zero, within the range of int.
__device__ inline int round_away(float u) {
    const int whole = __float2int_rz(u);
    const float rest = u - float(whole);
    if (rest >= 0.5f) return whole == INT32_MAX ? whole : whole + 1;
    if (rest <= -0.5f) return whole == INT32_MIN ? whole : whole - 1;
    return whole;
}

// From output to source: (x, y) reads ((a0 x + a1 y + a2) / k, (b0 x + b1 y + b2) / k) with k = c0 x + c1 y + 1.
struct Transform {
    float a0, a1, a2, b0, b1, b2, c0, c1;

    __device__ static Transform translation(float dx, float dy) { return {1.0f, 0.0f, dx, 0.0f, 1.0f, dy, 0.0f, 0.0f}; }
    __device__ static Transform shear(float of_x, float of_y) { return {1.0f, of_x, 0.0f, of_y, 1.0f, 0.0f, 0.0f, 0.0f}; }
    // About the image's centre; positive angles turn the content counter-clockwise.
    __device__ static Transform rotation(uint32_t h, uint32_t w, float radians) {
        const SinCos exact = sin_cos(double(radians));
        const float sin = float(exact.sin), cos = float(exact.cos);
        const float x_last = float(w) - 1.0f, y_last = float(h) - 1.0f;
        const float x_offset = (x_last - (cos * x_last - sin * y_last)) / 2.0f;
        const float y_offset = (y_last - (sin * x_last + cos * y_last)) / 2.0f;
        return {cos, -sin, x_offset, sin, cos, y_offset, 0.0f, 0.0f};
    }
    // About the image's centre; positive factors zoom out.
    __device__ static Transform zoom(uint32_t h, uint32_t w, float height_factor, float width_factor) {
        const float zoom_y = 1.0f + height_factor, zoom_x = 1.0f + width_factor;
        const float x_offset = (float(w) - 1.0f) / 2.0f * (1.0f - zoom_x);
        const float y_offset = (float(h) - 1.0f) / 2.0f * (1.0f - zoom_y);
        return {zoom_x, 0.0f, x_offset, 0.0f, zoom_y, y_offset, 0.0f, 0.0f};
    }
};

// A place in the source, mapped into it.
struct Place {
    float y, x;
    bool infinite;  // the divisor was 0
};

// `affine` is known when a kernel is compiled, or tested by it once.
__device__ inline Place source_place(const Transform& t, uint32_t p, uint32_t q, float h, float w, uint32_t fill, bool affine) {
    const float row = float(p), column = float(q);
    float x = t.a0 * column + t.a1 * row + t.a2;
    float y = t.b0 * column + t.b1 * row + t.b2;
    bool infinite = false;
    if (!affine) {
        const float k = t.c0 * column + t.c1 * row + 1.0f;
        x = x / k;
        y = y / k;
        infinite = k == 0.0f;
    }
    return {map_coordinate(y, h, fill), map_coordinate(x, w, fill), infinite};
}

// The pixel nearest to a mapped place, as offset.
__device__ inline uint32_t nearest_pixel(const Place& at, uint32_t w) {
    return uint32_t(round_away(at.y)) * w + uint32_t(round_away(at.x));
}

// The four pixels around a place and their weights.
struct Corner {
    float left, right, upper, lower;

    __device__ Corner(float y, float x, float row, float col)
        : left(col + 1.0f - x), right(x - col), upper(row + 1.0f - y), lower(y - row) {}
    __device__ float blend(float a, float b, float c, float d) const {
        return upper * (left * a + right * b) + lower * (left * c + right * d);
    }
};

// Bilinear values of a place that was mapped into the image: blend(k) for a channel.
template <typename T> struct BilinearInside {
    Corner corner;
    const T *p00, *p01, *p10, *p11;

    __device__ BilinearInside(const T* x, uint32_t h, uint32_t w, uint32_t c, const Place& at)
        : corner(at.y, at.x, float(int(at.y)), float(int(at.x))) {
        // Mapped places are at least 0: truncating is rounding down. A neighbour past the edge has weight 0: any will do.
        const uint32_t row = uint32_t(at.y), col = uint32_t(at.x);
        const uint32_t row1 = min(row + 1, h - 1), col1 = min(col + 1, w - 1);
        p00 = x + (row * w + col) * c;
        p01 = x + (row * w + col1) * c;
        p10 = x + (row1 * w + col) * c;
        p11 = x + (row1 * w + col1) * c;
    }
    __device__ float operator()(uint32_t k) const {
        return to_pixel<T>(corner.blend(to_float(p00[k]), to_float(p01[k]), to_float(p10[k]), to_float(p11[k])));
    }
};
