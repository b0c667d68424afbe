// Stochastic weight averaging in the form of TensorFlow Addons, over all parameters in one launch.
//
// Computes     swa_update: average = (average * n + w) / (n + 1); swa_assign: w = average.
// Shapes       params [parameter arena], average [gradient arena]; copy: null or bf16 [parameter arena].
// Launch       one block of 256 per piece of the span table.
// Requires     pieces of at most 4,096 elements that do not overlap.
// Writes       swa_update average (=), swa_assign params and copy (=); elements outside the spans are not touched.
// Determinism  every element on its own; bit-equal to the CPU.
// Cost         bound by memory: 12 and 8 bytes per element.
// Source       Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization" (2018).

#include "spans.cuh"

// Snapshots that the average holds already.
struct SwaStep {
    float n;
};

extern "C" __global__ void __launch_bounds__(SPAN_BLOCK)
    swa_update_f32(const Span* spans, const SwaStep* step, const float* params, float* average) {
    const float n = step->n;
    each_in_span(spans, [&](uint64_t p, uint64_t g, int valid) {
        float w[4], a[4];
        load(params + p, valid, w);
        load(average + g, valid, a);
#pragma unroll
        for (int i = 0; i < 4; ++i) a[i] = (a[i] * n + w[i]) / (n + 1.0f);
        store(average + g, valid, a);
    });
}

extern "C" __global__ void __launch_bounds__(SPAN_BLOCK)
    swa_assign_f32(const Span* spans, const float* average, float* params, bf16* copy) {
    each_in_span(spans, [&](uint64_t p, uint64_t g, int valid) {
        float a[4];
        load(average + g, valid, a);
        store(params + p, valid, a);
        if (copy) store(copy + p, valid, a);
    });
}
