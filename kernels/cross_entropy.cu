// Cross-entropy with integer labels, on logits and on probabilities; the count of right answers; the mean of losses.
//
// Computes     cross_entropy: losses[row] = log sum exp z - z[label]; its backward: dz (= or +=) dloss * (softmax(z) -
//              onehot) / rows; cross_entropy_probs: losses[row] = log sum p - log p[label] with p clipped to [least, most];
//              its backward: dp = dloss / rows * (1 / sum p - onehot / p), 0 where the clip acts; correct: += rows whose
//              largest logit is at the label, of equals the first; loss_mean: loss = sum losses / rows, per_sample = losses.
// Shapes       z, p, dz, dp [rows, classes]; labels, losses, per_sample [rows]; dloss, loss, correct [1].
// Launch       grid ceil(rows / 8), block 256: a warp per row; loss_mean: one block.
// Requires     a label outside 0..classes makes its row's loss NaN and its gradient that of no class.
// Writes       `=` except where `+=` stands above; per_sample may be null.
// Determinism  a fixed tree per row, losses added in a fixed order; correct adds integers.
// Cost         bound by latency: rows * classes numbers a few times from the L1 cache.
// Source       Keras: SparseCategoricalCrossentropy.

#include "loss_rows.cuh"

extern "C" __global__ void __launch_bounds__(LOSS_BLOCK)
    cross_entropy_f32(uint64_t rows, uint32_t classes, const float* z, const int32_t* labels, double* losses) {
    const uint64_t row = loss_row();
    if (row >= rows) return;
    const float* zs = z + row * classes;
    const double normaliser = log_sum_exp(classes, [&](uint32_t k) { return double(zs[k]); });
    if (threadIdx.x % 32 == 0) {
        const uint32_t label = uint32_t(labels[row]);
        losses[row] = label < classes ? normaliser - double(zs[label]) : NAN;
    }
}

extern "C" __global__ void __launch_bounds__(LOSS_BLOCK)
    cross_entropy_backward_f32(uint64_t rows, uint32_t classes, const float* z, const int32_t* labels, const float* dloss,
                               uint32_t accumulate, float* dz) {
    const uint64_t row = loss_row();
    if (row >= rows) return;
    const float* zs = z + row * classes;
    const double normaliser = log_sum_exp(classes, [&](uint32_t k) { return double(zs[k]); });
    const double scale = double(*dloss) / double(rows);
    const uint32_t label = uint32_t(labels[row]);
    each_class(classes, [&](uint32_t k) {
        const float g = float(scale * (exp(double(zs[k]) - normaliser) - (k == label ? 1.0 : 0.0)));
        float* to = dz + row * classes + k;
        *to = accumulate ? *to + g : g;
    });
}

extern "C" __global__ void __launch_bounds__(LOSS_BLOCK)
    cross_entropy_probs_f32(uint64_t rows, uint32_t classes, const float* p, const int32_t* labels, double least,
                            double most, double* losses) {
    const uint64_t row = loss_row();
    if (row >= rows) return;
    const Clip clip{least, most};
    const float* ps = p + row * classes;
    double sum = 0.0;
    each_class(classes, [&](uint32_t k) { sum += clip(double(ps[k])); });
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) {
        const uint32_t label = uint32_t(labels[row]);
        losses[row] = label < classes ? log(sum) - log(clip(double(ps[label]))) : NAN;
    }
}

extern "C" __global__ void __launch_bounds__(LOSS_BLOCK)
    cross_entropy_probs_backward_f32(uint64_t rows, uint32_t classes, const float* p, const int32_t* labels, double least,
                                     double most, const float* dloss, float* dp) {
    const uint64_t row = loss_row();
    if (row >= rows) return;
    const Clip clip{least, most};
    const float* ps = p + row * classes;
    double sum = 0.0;
    each_class(classes, [&](uint32_t k) { sum += clip(double(ps[k])); });
    sum = warp_sum(sum);
    const double scale = double(*dloss) / double(rows);
    const uint32_t label = uint32_t(labels[row]);
    each_class(classes, [&](uint32_t k) {
        const double value = ps[k], target = k == label ? 1.0 / value : 0.0;
        dp[row * classes + k] = clip.contains(value) ? float(scale * (1.0 / sum - target)) : 0.0f;
    });
}

extern "C" __global__ void __launch_bounds__(LOSS_BLOCK)
    cross_entropy_correct_f32(uint64_t rows, uint32_t classes, const float* z, const int32_t* labels, uint32_t* correct) {
    const uint64_t row = loss_row();
    if (row >= rows) return;
    const float* zs = z + row * classes;
    // As a loop over the classes would find it: the first stands until a larger one comes, and NaN is larger than nothing.
    float best = zs[0];
    uint32_t place = 0;
    each_class(classes, [&](uint32_t k) {
        if (k > 0 && zs[k] > best) {
            best = zs[k];
            place = k;
        }
    });
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, best, distance);
        const uint32_t at = __shfl_xor_sync(ALL_LANES, place, distance);
        if (other > best || (other == best && at < place)) {
            best = other;
            place = at;
        }
    }
    if (threadIdx.x % 32 == 0 && place == uint32_t(labels[row])) atomicAdd(correct, 1u);
}

extern "C" __global__ void __launch_bounds__(LOSS_BLOCK)
    loss_mean_f64(uint64_t rows, const double* losses, float* per_sample, float* loss) {
    __shared__ double sums[LOSS_BLOCK];
    double sum = 0.0;
    for (uint64_t row = threadIdx.x; row < rows; row += LOSS_BLOCK) {
        sum += losses[row];
        if (per_sample) per_sample[row] = float(losses[row]);
    }
    sums[threadIdx.x] = sum;
    for (uint32_t stride = LOSS_BLOCK / 2; stride > 0; stride /= 2) {
        __syncthreads();
        if (threadIdx.x < stride) sums[threadIdx.x] += sums[threadIdx.x + stride];
    }
    if (threadIdx.x == 0) *loss = float(sums[0] / double(rows));
}
