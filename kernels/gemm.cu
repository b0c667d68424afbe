// Matrix products: the first and the last step of the study ladder.
//
// Computes     c[m,n] (= or +=) sum over k of a[m,k] * b[k,n].
// Shapes       a [m,k], b [k,n], c [m,n], row-major.
// Launch       naive: block 256, 16 x 16 results; grid.x = tiles of m x tiles of n, those of n next to each other.
//              tensor_core: block 128, tiles of 128 x 128 (guarded 64 x 64), dynamic shared memory: 4 stages of both
//              operands' tiles.
// Requires     extents below 2^30; tensor_core: a and b aligned to 16 bytes, k and n multiples of 8, 64 rows of a and of b
//              below 2^31 packs of 16 bytes; guarded: nothing more.
// Writes       `=`, with a residual (c itself) `+=`.
// Determinism  every result is one sum in the order of k (tensor cores: of groups of 16).
// Cost         2 m n k FLOPs. naive: every operand is read from the caches once per result; tensor_core: once per tile.
// Source       the study ladder of siboehm.com/articles/22/CUDA-MMM; CUTLASS's multistage pipeline.

#include "product.cuh"

constexpr int SIDE = 16;

// A thread per result, which reads its row of a and its column of b.
template <typename T>
__device__ inline void naive(uint32_t m, uint32_t n, uint32_t k, const T* a, const T* b, const Finish<T>& finish) {
    const uint32_t across = (n + SIDE - 1) / SIDE;
    const uint32_t row = blockIdx.x / across * SIDE + threadIdx.x / SIDE;
    const uint32_t column = blockIdx.x % across * SIDE + threadIdx.x % SIDE;
    if (row >= m || column >= n) return;
    float sum[1] = {};
    for (uint32_t i = 0; i < k; ++i)
        sum[0] = fmaf(to_float(a[uint64_t(row) * k + i]), to_float(b[uint64_t(i) * n + column]), sum[0]);
    finish.complete(uint64_t(row) * n + column, column, 1, sum);
}

// Tiles in shared memory, copied while others are multiplied: tile.cuh.
template <class MATH, bool GUARDED, typename T = typename MATH::Element>
__device__ inline void tiled(uint32_t m, uint32_t n, uint32_t k, const T* a, const T* b, const Finish<T>& finish) {
    using A = DeepRows<T, typename MATH::template Deep<MATH::BM>, MATH::THREADS, GUARDED>;
    using B = WideRows<T, typename MATH::template Wide<MATH::BN>, MATH::THREADS, GUARDED>;
    const Parts whole = {1, (k + MATH::BK - 1) / MATH::BK};
    Place<MATH> at(blockIdx.x, n, whole);
    const uint32_t tiles = at.tiles(k, whole);
    A rows(a, k, at.row, m, at.begin, at.end);
    B columns(b, n, at.column, n, at.begin, at.end);
    multiply(rows, columns, tiles, at, m, n, uint64_t(m) * n, finish, [&](uint32_t row) { return uint64_t(row) * n; });
}

#define GEMM_NAIVE(T, SUFFIX)                                                                                          \
    extern "C" __global__ void __launch_bounds__(SIDE* SIDE)                                                           \
        gemm_naive_##SUFFIX(uint32_t m, uint32_t n, uint32_t k, const T* a, const T* b, Finish<T> finish) {            \
        naive(m, n, k, a, b, finish);                                                                                  \
    }

GEMM_NAIVE(float, f32)
GEMM_NAIVE(bf16, bf16)

#define GEMM_TILED(NAME, MATH, GUARDED, SUFFIX)                                                                        \
    extern "C" __global__ void __launch_bounds__(MATH::THREADS)                                                        \
        gemm_##NAME##_##SUFFIX(uint32_t m, uint32_t n, uint32_t k, const MATH::Element* a, const MATH::Element* b,     \
                               Finish<MATH::Element> finish) {                                                         \
        tiled<MATH, GUARDED>(m, n, k, a, b, finish);                                                                   \
    }

using Tensor128x128 = TensorCores<128, 128, bf16>;
using Tensor64x64 = TensorCores<64, 64, bf16>;

GEMM_TILED(tensor_core, Tensor128x128, false, bf16)
GEMM_TILED(tensor_core_guarded, Tensor64x64, true, bf16)
