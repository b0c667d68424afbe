// Softmax, Kullback-Leibler divergence, and their fusion for distillation.
//
// Computes     softmax: y = softmax(z / t); its backward: dz = y * (dy - sum dy * y) / t; kl_div: losses[row] = sum p *
//              log(p / q); its backward: dq = -dloss * p / (q * rows), 0 where the clip acts on q;
//              softmax_kl: losses[row] = KL(softmax(teacher / t) || softmax(student / t)) and, where asked, dstudent = dloss *
//              (q * sum p - p) / (t * rows) over the classes that the clip leaves alone. Distributions are clipped to [1e-7, 1].
// Shapes       scores and gradients [rows, classes]; losses [rows]; dloss [1].
// Launch       grid ceil(rows / 8), block 256: a warp per row.
// Requires     t > 0.
// Writes       `=`; dstudent may be null; losses are averaged by loss_mean (cross_entropy.cu).
// Determinism  a fixed tree per row.
// Cost         teacher and student are read from memory once and no distribution is written.
// Source       Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network" (2015); Keras: KLDivergence.

#include "loss_rows.cuh"

__device__ constexpr Clip KL_CLIP{1e-7, 1.0};

__device__ inline double divergence(double p, double q) {
    p = KL_CLIP(p);
    return p * log(p / KL_CLIP(q));
}

extern "C" __global__ void __launch_bounds__(LOSS_BLOCK)
    softmax_f32(uint64_t rows, uint32_t classes, const float* z, float temperature, float* y) {
    const uint64_t row = loss_row();
    if (row >= rows) return;
    const auto scaled = [&](uint32_t k) { return double(z[row * classes + k]) / double(temperature); };
    const double normaliser = log_sum_exp(classes, scaled);
    each_class(classes, [&](uint32_t k) { y[row * classes + k] = float(exp(scaled(k) - normaliser)); });
}

extern "C" __global__ void __launch_bounds__(LOSS_BLOCK)
    softmax_backward_f32(uint64_t rows, uint32_t classes, const float* y, const float* dy, float temperature, float* dz) {
    const uint64_t row = loss_row();
    if (row >= rows) return;
    const float *ys = y + row * classes, *dys = dy + row * classes;
    double dot = 0.0;
    each_class(classes, [&](uint32_t k) { dot += double(ys[k]) * double(dys[k]); });
    dot = warp_sum(dot);
    each_class(classes, [&](uint32_t k) {
        dz[row * classes + k] = float(double(ys[k]) * (double(dys[k]) - dot) / double(temperature));
    });
}

extern "C" __global__ void __launch_bounds__(LOSS_BLOCK)
    kl_div_f32(uint64_t rows, uint32_t classes, const float* p, const float* q, double* losses) {
    const uint64_t row = loss_row();
    if (row >= rows) return;
    double sum = 0.0;
    each_class(classes, [&](uint32_t k) { sum += divergence(p[row * classes + k], q[row * classes + k]); });
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) losses[row] = sum;
}

extern "C" __global__ void __launch_bounds__(LOSS_BLOCK)
    kl_div_backward_f32(uint64_t rows, uint32_t classes, const float* p, const float* q, const float* dloss, float* dq) {
    const uint64_t row = loss_row();
    if (row >= rows) return;
    const double scale = -double(*dloss) / double(rows);
    each_class(classes, [&](uint32_t k) {
        const double value = q[row * classes + k];
        const float g = float(scale * KL_CLIP(double(p[row * classes + k])) / value);
        dq[row * classes + k] = KL_CLIP.contains(value) ? g : 0.0f;
    });
}

// For more blocks than four on a multiprocessor ptxas spills.
extern "C" __global__ void __launch_bounds__(LOSS_BLOCK, 4)
    softmax_kl_f32(uint64_t rows, uint32_t classes, const float* teacher, const float* student, float temperature,
                   const float* dloss, double* losses, float* dstudent) {
    const uint64_t row = loss_row();
    if (row >= rows) return;
    const double t = temperature;
    const auto teachers = [&](uint32_t k) { return double(teacher[row * classes + k]) / t; };
    const auto students = [&](uint32_t k) { return double(student[row * classes + k]) / t; };
    const double teacher_norm = log_sum_exp(classes, teachers), student_norm = log_sum_exp(classes, students);
    // dloss/dq is -p / q where the clip leaves q alone; through the softmax that gives q * sum p - p.
    double loss = 0.0, open = 0.0;
    each_class(classes, [&](uint32_t k) {
        const double p = exp(teachers(k) - teacher_norm), q = exp(students(k) - student_norm);
        loss += divergence(p, q);
        open += KL_CLIP.contains(q) ? KL_CLIP(p) : 0.0;
    });
    loss = warp_sum(loss);
    open = warp_sum(open);
    if (threadIdx.x % 32 == 0) losses[row] = loss;
    if (!dstudent) return;
    const double scale = double(*dloss) / (t * double(rows));
    each_class(classes, [&](uint32_t k) {
        const double p = exp(teachers(k) - teacher_norm), q = exp(students(k) - student_norm);
        const double own = KL_CLIP.contains(q) ? KL_CLIP(p) : 0.0;
        dstudent[row * classes + k] = float(scale * (q * open - own));
    });
}
