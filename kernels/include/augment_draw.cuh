// What random augmentations draw, from Philox streams: src/augment/sampler.rs and its users, bit by bit.
//
// op = 2^30 | branch << 16 | position of the step << 8 | layer; the table of elements is in src/augment/sampler.rs.
#pragma once

#include "augment_geometry.cuh"
#include "philox.cuh"

// 32 random bits on their way to becoming a parameter.
struct Word {
    uint32_t bits;

    // In [0, 1).
    __device__ float uniform() const { return unit(bits); }
    __device__ float between(float lo, float hi) const { return lo + (hi - lo) * uniform(); }
    // A whole number in [0, n).
    __device__ uint32_t below(uint32_t n) const { return __umulhi(bits, n); }
    __device__ bool positive() const { return uniform() >= 0.5f; }
    __device__ float clipped_normal(float mean, float std, float lo, float hi) const {
        const float x = mean + std * standard_normal(bits);
        return x < lo ? lo : x > hi ? hi : x;
    }
};

// Four elements at once.
struct Words {
    Word x, y, z, w;
};

// The numbers that one step draws for one image.
struct Draws {
    Stream stream;

    __device__ Words block(uint32_t block) const {
        const uint4 bits = stream.block(block);
        return {{bits.x}, {bits.y}, {bits.z}, {bits.w}};
    }
};

// Which run, step and image the numbers are drawn for.
struct Sampler {
    uint64_t seed;
    uint32_t step, index, branch;

    __device__ Draws draws(uint32_t position, uint32_t layer) const {
        return {{seed, step, index, 1u << 30 | branch << 16 | position << 8 | layer}};
    }
};

// Bounds of a crop whose area and aspect ratio vary.
struct DistortedBox {
    float min_area, max_area, min_aspect, max_aspect;
    uint32_t attempts;

    // Height and width for one aspect ratio; false: the attempt fails.
    __device__ bool size(uint32_t h, uint32_t w, float aspect, Word word, CropBox& box) const {
        const float least = min_area * float(w) * float(h), most = max_area * float(w) * float(h);
        const auto width_of = [&](int64_t height) { return int64_t(rintf(float(height) * aspect)); };
        int64_t height = int64_t(rintf(sqrtf(least / aspect)));
        int64_t max_height = int64_t(rintf(sqrtf(most / aspect)));
        if (width_of(max_height) > int64_t(w)) {
            // The reference subtracts a float epsilon of 1e-7 and divides in double.
            max_height = int64_t((double(w) + 0.5 - double(1e-7f)) / double(aspect));
            if (width_of(max_height) > int64_t(w)) max_height -= 1;
        }
        max_height = min(max_height, int64_t(h));
        height = min(height, max_height);
        if (height < max_height) height += word.below(uint32_t(max_height - height + 1));
        const auto area = [&](int64_t height) { return float(width_of(height) * height); };
        // Rounding may have carried the area just past a bound: one row more, then one less.
        if (area(height) < least) height += 1;
        if (area(height) > most) height -= 1;
        const int64_t width = width_of(height);
        box.height = uint32_t(height);
        box.width = uint32_t(width);
        return height >= 1 && height <= int64_t(h) && width >= 1 && width <= int64_t(w) && area(height) >= least &&
               area(height) <= most;
    }

    __device__ CropBox draw(const Draws& draws, uint32_t h, uint32_t w) const {
        for (uint32_t attempt = 0; attempt < attempts; ++attempt) {
            const Words words = draws.block(attempt);
            CropBox box;
            if (size(h, w, words.x.between(min_aspect, max_aspect), words.y, box)) {
                // Of zero places: the first.
                box.top = words.z.below(h - box.height);
                box.left = words.w.below(w - box.width);
                return box;
            }
        }
        return {0, 0, h, w};
    }
};
