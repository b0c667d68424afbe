// Stochastic gradient descent with momentum in Keras' form, over all parameters in one launch.
//
// Computes     velocity = momentum * velocity - rate * (g + weight_decay * w), w += velocity;
//              without a velocity w -= rate * (g + weight_decay * w).
// Shapes       params [parameter arena]; grads, velocity (or null) [gradient arena]; copy: null or bf16 [parameter arena].
// Launch       one block of 256 per piece of the span table.
// Requires     pieces of at most 4,096 elements that do not overlap.
// Writes       params (+=), velocity (=), copy (=); elements outside the spans are not touched.
// Determinism  every element on its own; bit-equal to the CPU.
// Cost         bound by memory: 20 bytes per element, 12 without a velocity.
// Source       Sutskever et al., "On the importance of initialization and momentum in deep learning" (2013).

#include "spans.cuh"

struct SgdStep {
    float rate, momentum, weight_decay;
};

extern "C" __global__ void __launch_bounds__(SPAN_BLOCK)
    sgd_f32(const Span* spans, const SgdStep* step, float* params, const float* grads, float* velocity, bf16* copy) {
    const SgdStep s = *step;
    each_in_span(spans, [&](uint64_t p, uint64_t g, int valid) {
        float w[4], dw[4], u[4];
        load(params + p, valid, w);
        load(grads + g, valid, dw);
        if (velocity) load(velocity + g, valid, u);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float change = s.rate * (dw[i] + s.weight_decay * w[i]);
            if (velocity) {
                u[i] = s.momentum * u[i] - change;
                w[i] += u[i];
            } else {
                w[i] -= change;
            }
        }
        if (velocity) store(velocity + g, valid, u);
        store(params + p, valid, w);
        if (copy) store(copy + p, valid, w);
    });
}
