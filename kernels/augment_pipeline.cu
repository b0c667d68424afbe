// Whole augmentation pipelines of RGB images in one launch: every step with its random draws.
//
// Computes     y[i] = the steps in order on the image of row i; flips, crops and one resize only change which places are
//              read, so pixels are computed where a step needs them as an image, or at the end.
// Shapes       pixels: bytes of images [h,w,3] where spans [m] say; indices [n]: each row's index in its data set, which
//              names its span where `resident`, else row i has span i; steps [count]; step [1]; y [n, values].
// Launch       block 512. geometry: grid n * parts, nothing but flips, crops and resizes. shared: grid n, dynamic shared
//              memory 2 * stride for the image before and after a step. workspace: grid at most n, the images in
//              2 * stride bytes a block.
// Requires     what the host checks: every image comes out with `values` values, no image between two steps has more
//              than stride bytes; stride and the address of the workspace multiples of 16.
// Writes       `=`; NaN for a row whose index is beyond the spans.
// Determinism  the result depends on seed, step, branch, index, image and steps alone; bit-equal to the CPU.
// Cost         the images read once, y written once; steps between stay in shared memory.
// Source       src/augment/mod.rs.

#include "augment_draw.cuh"
#include "augment_pixel.cuh"

enum StepKind : uint32_t {
    RANDOM_FLIP, RESIZE, RANDOM_CROP, CENTER_CROP, DISTORTED_BOX_CROP, RANDOM_ROTATION, RANDOM_ZOOM, TRUNCATE, RAND_AUGMENT,
    KERAS_RAND_AUGMENT,
};

// A step with its arguments: what each means is said where it is used.
struct AugmentStep {
    uint32_t kind, n[5];
    float f[4];
};

// Where the bytes of an image lie.
struct ImageSpan {
    uint64_t offset;
    uint32_t h, w;
};

// Draws what a layer of the model garden's policy does. n: layers, posterize bits, solarize threshold, solarize addition,
// half side of a cutout; f: factor of the blends, angle, shear, translation.
__device__ inline PixelOp rand_augment_draw(const AugmentStep& step, const Draws& draws, uint32_t h, uint32_t w) {
    const Words words = draws.block(0);
    PixelOp op{words.x.below(17), {}, {step.f[0], 0.0f}, {}};
    const bool positive = words.y.positive();
    const auto either = [&](float value) { return positive ? value : -value; };
    switch (op.op) {
    case POSTERIZE: op.n[0] = step.n[1]; break;
    case SOLARIZE: op.n[0] = step.n[2]; break;
    case SOLARIZE_ADD:
        op.n[0] = step.n[3];
        op.n[1] = 128;
        break;
    case CUTOUT:
        op.n[0] = step.n[4];
        op.n[1] = words.z.below(h);
        op.n[2] = words.w.below(w);
        op.n[3] = 0x808080;
        break;
    case ROTATE: op.transform = Transform::rotation(h, w, either(step.f[1])); break;
    case SHEAR_X: op.transform = Transform::shear(either(step.f[2]), 0.0f); break;
    case SHEAR_Y: op.transform = Transform::shear(0.0f, either(step.f[2])); break;
    case TRANSLATE_X: op.transform = Transform::translation(either(step.f[3]), 0.0f); break;
    case TRANSLATE_Y: op.transform = Transform::translation(0.0f, either(step.f[3])); break;
    }
    return op;
}

// Draws what a layer of keras_cv's policy does. f: magnitude, its standard deviation, rate.
__device__ inline PixelOp keras_draw(const AugmentStep& step, const Draws& draws, uint32_t h, uint32_t w) {
    const Words words = draws.block(0);
    PixelOp op{KERAS_NONE, {}, {}, {}};
    if (words.x.uniform() > step.f[2]) return op;
    op.op = words.y.below(10);
    const float m = step.f[0], sd = step.f[1];
    const auto warp = [&](float dx, float dy, float of_x, float of_y) {
        op.transform = {1.0f, of_x, dx, of_y, 1.0f, dy, 0.0f, 0.0f};
    };
    const bool brighter = op.op == KERAS_SOLARIZATION;
    // Shares of the magnitude up to 1, of solarization's addition up to 110.
    const float range = brighter ? 110.0f : 1.0f;
    const auto normal = [&] { return words.z.clipped_normal(range * m, range * sd, 0.0f, range); };
    switch (op.op) {
    case KERAS_SOLARIZATION:
    case KERAS_COLOR_DEGENERATION:
    case KERAS_SHEAR_X:
    case KERAS_SHEAR_Y: {
        op.f[0] = normal();
        if (brighter) op.f[1] = words.w.clipped_normal(255.0f - 255.0f * m, 255.0f * sd, 0.0f, 255.0f);
        const float shear = words.w.positive() ? op.f[0] : -op.f[0];
        if (op.op == KERAS_SHEAR_X) warp(0.0f, 0.0f, shear, 0.0f);
        if (op.op == KERAS_SHEAR_Y) warp(0.0f, 0.0f, 0.0f, shear);
        break;
    }
    case KERAS_CONTRAST: op.f[0] = words.z.between(1.0f - m, 1.0f + m); break;
    case KERAS_BRIGHTNESS: op.f[0] = words.z.between(-m, m) * 255.0f; break;
    case KERAS_TRANSLATION_X: warp(-(words.z.between(-m, m) * float(w)), 0.0f, 0.0f, 0.0f); break;
    case KERAS_TRANSLATION_Y: warp(0.0f, -(words.z.between(-m, m) * float(h)), 0.0f, 0.0f); break;
    }
    return op;
}

// Draws what a layer of a step does to pixels.
__device__ inline PixelOp draw(const AugmentStep& step, const Draws& draws, uint32_t h, uint32_t w) {
    if (step.kind == RAND_AUGMENT) return rand_augment_draw(step, draws, h, w);
    if (step.kind == KERAS_RAND_AUGMENT) return keras_draw(step, draws, h, w);
    // Any of keras_cv's warps.
    PixelOp op{KERAS_SHEAR_X, {}, {}, {}};
    const Words words = draws.block(0);
    if (step.kind == RANDOM_ROTATION) {  // f: largest share of a full turn
        op.transform = Transform::rotation(h, w, words.x.between(-step.f[0], step.f[0]) * 6.2831855f);
    } else {  // f: bounds of the factors of height and width
        op.transform = Transform::zoom(h, w, words.x.between(-step.f[0], step.f[0]), words.y.between(-step.f[1], step.f[1]));
    }
    return op;
}

// Where the pixels of an image are: those of the data set, then bytes or floats in one of two buffers.
enum Source : uint32_t { IMAGE, BYTES, FLOATS };

// Where the two buffers are.
enum Buffers { NONE, SHARED, WORKSPACE };

// An image on its way through a pipeline: where its pixels are, and the axes that say how to read them. All threads of a
// block hold the same.
template <Buffers BUFFERS> struct Work {
    static constexpr bool BUFFERED = BUFFERS != NONE;

    Source source = IMAGE;
    const uint8_t* image;
    float* stage;
    uint8_t *current, *spare;
    uint32_t width;  // columns of the source
    Axis rows, cols;
    bool unchanged = false;  // the axes read the source as it is

    __device__ Work(const uint8_t* image, const ImageSpan& span, uint8_t* current, uint8_t* spare, float* stage)
        : image(image), stage(stage), current(current), spare(spare), width(span.w), rows(span.h), cols(span.w) {}

    __device__ float* floats() { return reinterpret_cast<float*>(current); }

    // How pixels are written into a buffer.
    __device__ auto writer() const {
        if constexpr (BUFFERS == SHARED) return Direct{};
        else return Staged{stage};
    }

    // Reads the pixels through the axes.
    template <typename Y, typename Writer> __device__ void read(Y* y, Share share, Writer writer) {
        const auto through = [&](const auto* x) {
            map_pixels(y, rows.size, cols.size, share, writer, [&](uint32_t q) {
                return [&, col = cols.tap(q)](uint32_t p, float (&rgb)[3]) {
                    sample_pixel(x, width, rows.tap(p), col, rgb);
#pragma unroll
                    for (int k = 0; k < 3; ++k) rgb[k] = to_pixel<Y>(rgb[k]);
                };
            });
        };
        if (BUFFERED && source == FLOATS) {
            through(floats());
        } else if (BUFFERED && source == BYTES) {
            through(current);
        } else {
            through(image);
        }
    }

    // The other buffer holds the image now.
    __device__ void swap() {
        __syncthreads();
        uint8_t* old = current;
        current = spare;
        spare = old;
    }

    // Brings the pixels into a buffer: as floats, or clipped and truncated as bytes.
    template <typename T> __device__ void load(Source kind) {
        if (unchanged && source == kind) return;
        read(reinterpret_cast<T*>(spare), {0, 1}, writer());
        swap();
        source = kind;
        width = cols.size;
        rows = Axis(rows.size);
        cols = Axis(cols.size);
        unchanged = true;
    }

    // What a step needs the pixels as; IMAGE: as they are.
    __device__ Source needed(const AugmentStep& step) const {
        switch (step.kind) {
        case RANDOM_ROTATION:
        case RANDOM_ZOOM:
        case KERAS_RAND_AUGMENT: return FLOATS;
        case TRUNCATE:
        case RAND_AUGMENT: return BYTES;
        case RESIZE:
        case CENTER_CROP: {
            // A second resize; a centre crop inside the image is none.
            const uint32_t h = step.n[0], w = step.n[1];
            const bool resizes = step.kind == RESIZE ? h != rows.size || w != cols.size : h > rows.size || w > cols.size;
            return resizes && rows.input > 0 ? FLOATS : IMAGE;
        }
        default: return IMAGE;
        }
    }

    __device__ void crop(const CropBox& box) {
        rows.crop(box.top, box.height);
        cols.crop(box.left, box.width);
        unchanged = false;
    }

    __device__ void resize(uint32_t h, uint32_t w) {
        if (rows.size == h && cols.size == w) return;
        rows.resize(h);
        cols.resize(w);
        unchanged = false;
    }

    __device__ void center_crop(uint32_t height, uint32_t width) {
        const uint32_t h = rows.size, w = cols.size;
        CropBox box{0, 0, height, width};
        const bool larger = height <= h && width <= w;
        if (!larger) {
            // The largest box of that aspect ratio.
            box.height = min(max(uint64_t(double(uint64_t(w) * height) / double(width)), uint64_t(1)), uint64_t(h));
            box.width = min(max(uint64_t(double(uint64_t(h) * width) / double(height)), uint64_t(1)), uint64_t(w));
        }
        box.top = (h - box.height) / 2;
        box.left = (w - box.width) / 2;
        crop(box);
        if (!larger) resize(height, width);
    }

    // An op that one thread draws.
    template <typename D> __device__ const PixelOp& drawn(Scratch& scratch, D draw) {
        if (threadIdx.x == 0) scratch.op = draw();
        __syncthreads();
        return scratch.op;
    }

    __device__ void write(float* y, Share share) {
        if (BUFFERED && unchanged) {
            const auto as_it_is = [&](const auto* x) {
                map_values(x, y, rows.size * cols.size * 3, share, [](float v, uint32_t) { return v; });
            };
            if (source == FLOATS) as_it_is(floats());
            else as_it_is(current);
        } else {
            read(y, share, Staged{stage});
        }
    }
};

// Steps that work on pixels, which are there as the step needs them.
template <Buffers BUFFERS>
__device__ inline void pixel_step(const AugmentStep& step, const Sampler& sampler, uint32_t position, Work<BUFFERS>& work,
                                  Scratch& scratch) {
    const uint32_t h = work.rows.size, w = work.cols.size;
    const bool policy = step.kind == RAND_AUGMENT || step.kind == KERAS_RAND_AUGMENT;
    const uint32_t layers = policy ? step.n[0] : step.kind == TRUNCATE ? 0 : 1;
#pragma unroll 1
    for (uint32_t layer = 0; layer < layers; ++layer) {
        const PixelOp& op = work.drawn(scratch, [&] { return draw(step, sampler.draws(position, layer), h, w); });
        if (op.op == (step.kind == RAND_AUGMENT ? uint32_t(IDENTITY) : uint32_t(KERAS_NONE))) {
            __syncthreads();
            continue;
        }
        if (step.kind == RAND_AUGMENT) {
            rand_augment_op(op, work.current, work.spare, h, w, {0, 1}, work.writer(), scratch);
        } else {
            keras_op(op, work.floats(), reinterpret_cast<float*>(work.spare), h, w, {0, 1}, work.writer(), scratch);
        }
        work.swap();
    }
}

struct Batch {
    uint64_t seed;
    const uint32_t* step;
    uint32_t branch, count;
    const AugmentStep* steps;
    uint32_t m, resident;
    const ImageSpan* spans;
    const uint8_t* pixels;
    uint32_t n, parts, values, stride;
    const uint32_t* indices;
    float* y;
};

template <Buffers BUFFERS>
__device__ inline void pipeline(const Batch& batch, uint8_t* buffers, float* stage, Scratch* scratch) {
    const Share share{blockIdx.x % batch.parts, batch.parts};
    for (uint32_t i = blockIdx.x / batch.parts; i < batch.n; i += gridDim.x / batch.parts) {
        const Sampler sampler{batch.seed, *batch.step, batch.indices[i], batch.branch};
        const uint32_t entry = batch.resident ? sampler.index : i;
        float* y = batch.y + uint64_t(i) * batch.values;
        if (entry >= batch.m) {
            each_unit<4>(batch.values, share, [&](uint32_t first, int valid) { store(y + first, valid, {NAN, NAN, NAN, NAN}); });
            continue;
        }
        const ImageSpan span = batch.spans[entry];
        Work<BUFFERS> work(batch.pixels + span.offset, span, buffers, buffers + batch.stride, stage);
        for (uint32_t position = 0; position < batch.count; ++position) {
            const AugmentStep& step = batch.steps[position];
            const Draws draws = sampler.draws(position, 0);
            if constexpr (BUFFERS != NONE) {
                const Source needed = work.needed(step);
                if (needed == FLOATS) work.template load<float>(FLOATS);
                if (needed == BYTES) work.template load<uint8_t>(BYTES);
            }
            switch (step.kind) {
            case RANDOM_FLIP:
                if (!draws.block(0).x.positive()) {
                    work.cols.flip();
                    work.unchanged = false;
                }
                break;
            case RESIZE: work.resize(step.n[0], step.n[1]); break;
            case RANDOM_CROP: {
                const Words words = draws.block(0);
                const uint32_t height = step.n[0], width = step.n[1];
                work.crop({words.x.below(work.rows.size - height + 1), words.y.below(work.cols.size - width + 1), height, width});
                break;
            }
            case CENTER_CROP: work.center_crop(step.n[0], step.n[1]); break;
            case DISTORTED_BOX_CROP:  // f: bounds of area and aspect ratio; n: attempts
                work.crop(DistortedBox{step.f[0], step.f[1], step.f[2], step.f[3], step.n[0]}.draw(draws, work.rows.size,
                                                                                                   work.cols.size));
                break;
            default:
                if constexpr (BUFFERS != NONE) pixel_step(step, sampler, position, work, *scratch);
            }
        }
        work.write(y, share);
        if (BUFFERS != NONE) __syncthreads();
    }
}

extern "C" __global__ void __launch_bounds__(AUGMENT_BLOCK, 1) augment_pipeline_geometry_f32(Batch batch) {
    __shared__ float stage[AUGMENT_BLOCK * 3];
    pipeline<NONE>(batch, nullptr, stage, nullptr);
}

extern "C" __global__ void __launch_bounds__(AUGMENT_BLOCK) augment_pipeline_shared_f32(Batch batch) {
    extern __shared__ __align__(16) uint8_t buffers[];
    __shared__ Scratch scratch;
    static_assert(sizeof(Scratch) <= 8192, "what the host leaves besides the images");
    pipeline<SHARED>(batch, buffers, scratch.stage, &scratch);
}

extern "C" __global__ void __launch_bounds__(AUGMENT_BLOCK) augment_pipeline_workspace_f32(Batch batch, uint8_t* workspace) {
    __shared__ Scratch scratch;
    pipeline<WORKSPACE>(batch, workspace + uint64_t(blockIdx.x) * 2 * batch.stride, scratch.stage, &scratch);
}
