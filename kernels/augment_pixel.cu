// The ops of the two RandAugment policies on image batches with given parameters.
//
// Computes     rand_augment: y = one of the model garden's ops of x; keras: one of keras_cv's. The formulas stand at the ops.
// Shapes       x, y [n,h,w,3].
// Launch       grid n * parts, block 512; parts = 1 where an op needs statistics of the whole image.
// Requires     extents below 2^24, fewer than 2^32 values an image; the arguments of an op as the host documents them.
// Writes       `=`; y is not x.
// Determinism  counts are whole numbers, sums have a fixed order; bit-equal to the CPU.
// Cost         bound by memory: x and y once; ops with statistics read x twice, the second time from L2.
// Source       Cubuk et al., "RandAugment" (2020); keras_cv.layers.RandAugment.

#include "augment_pixel.cuh"

extern "C" __global__ void __launch_bounds__(AUGMENT_BLOCK)
    augment_pixel_rand_augment_u8(uint32_t parts, uint32_t h, uint32_t w, PixelOp op, const uint8_t* x, uint8_t* y) {
    __shared__ Scratch scratch;
    const uint64_t offset = uint64_t(blockIdx.x / parts) * h * w * 3;
    rand_augment_op(op, x + offset, y + offset, h, w, {blockIdx.x % parts, parts}, Staged{scratch.stage}, scratch);
}

extern "C" __global__ void __launch_bounds__(AUGMENT_BLOCK)
    augment_pixel_keras_f32(uint32_t parts, uint32_t h, uint32_t w, PixelOp op, const float* x, float* y) {
    __shared__ Scratch scratch;
    const uint64_t offset = uint64_t(blockIdx.x / parts) * h * w * 3;
    keras_op(op, x + offset, y + offset, h, w, {blockIdx.x % parts, parts}, Staged{scratch.stage}, scratch);
}
