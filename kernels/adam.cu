// Adam in Keras' form, over all parameters in one launch.
//
// Computes     m += (g - m) * share_1, v += (g * g - v) * share_2, w -= rate * m / (sqrt(v) + eps)
//              with rate = learning_rate * sqrt(1 - beta_2^t) / (1 - beta_1^t), share_i = 1 - beta_i.
// Shapes       params [parameter arena]; grads, m, v [gradient arena]; copy: null or [parameter arena] in bf16.
// Launch       one block of 256 per piece of the span table.
// Requires     pieces of at most 4,096 elements that do not overlap.
// Writes       params, m, v (+=), copy (=); elements outside the spans are not touched.
// Determinism  every element on its own; bit-equal to the CPU.
// Cost         bound by memory: 28 bytes per element, 30 with the copy.
// Source       Kingma and Ba, "Adam" (2015), the efficient form at the end of section 2.

#include "spans.cuh"

// What changes from step to step lies in device memory, so that a captured graph reads the present values.
struct AdamStep {
    float rate, share_1, share_2, eps;
};

extern "C" __global__ void __launch_bounds__(SPAN_BLOCK)
    adam_f32(const Span* spans, const AdamStep* step, float* params, const float* grads, float* m, float* v, bf16* copy) {
    const AdamStep s = *step;
    each_in_span(spans, [&](uint64_t p, uint64_t g, int valid) {
        float w[4], dw[4], m1[4], v1[4];
        load(params + p, valid, w);
        load(grads + g, valid, dw);
        load(m + g, valid, m1);
        load(v + g, valid, v1);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            m1[i] += (dw[i] - m1[i]) * s.share_1;
            v1[i] += (dw[i] * dw[i] - v1[i]) * s.share_2;
            w[i] -= s.rate * m1[i] / (sqrtf(v1[i]) + s.eps);
        }
        store(m + g, valid, m1);
        store(v + g, valid, v1);
        store(params + p, valid, w);
        if (copy) store(copy + p, valid, w);
    });
}
