// 2-d convolution as implicit GEMM: fprop, dgrad, wgrad, and the gradient of the bias.
//
// Computes     fprop: y[n,p,q,k] = sum over r, s, c of x[n, p*stride_h + r*dilation_h - pad_top, .., c] * w[k,r,s,c]
//              (+ bias[k]) (+ residual); dgrad: dx, its adjoint in x; wgrad: dw += its adjoint in w; bias_grad: db[k]
//              += sum of dy.
// Shapes       x, dx [n,h,w,c]; w, dw [k,r,s,c]; y, dy, residual [n,p,q,k]; bias, db [k]; partials [parts, result].
// Launch       block: THREADS of tile.cuh (tensor cores 128, FMA units 256); grid.x = tiles of M x tiles of N, those of
//              N next to each other, for dgrad of every one of the residues min(stride_h, h) * min(stride_w, w); grid.y =
//              parts of the depth; dynamic shared memory: STAGES stages of both tiles. bias_grad: rows.cuh.
//              reduce_parts: a thread per four elements.
//              Types: bf16, f32 (true f32 on FMA units) and tf32 (floats, products of 10 bits of mantissa). gemm: 1x1
//              windows that take every pixel once.
// Requires     padded extents below 2^29, strides no longer; pixels, dilation_h*max(w, q) and r*s*max(c, k) below 2^30; not
//              `guarded`: pointers aligned to 16 bytes, rows of every operand whole packs of 16 bytes (fprop c, dgrad and
//              wgrad c and k), 64 rows of a matrix below 2^31 packs; not `gemm` either: of fprop c at least BK, of dgrad k
//              whole BK, the images of 128 pixels and ((r-1)*dilation_h*w + (s-1)*dilation_w)*c, of dgrad with q and k,
//              together below 2^31 packs.
// Writes       `=`, of wgrad and bias_grad `+=`; partials `=`.
// Determinism  the depth of a tile in one order, its parts added in theirs.
// Cost         2 * n*p*q * k * r*s*c FLOPs; an operand is read once per tile of the other's extent, mostly from L2.
// Source       CUTLASS's implicit GEMM convolution (names); Chetlur et al., "cuDNN" (2014).

#include "gather.cuh"
#include "product.cuh"
#include "rows.cuh"

template <class MATH, bool GUARDED, typename T = typename MATH::Element>
__device__ inline void fprop(const Conv2dProblem& p, Parts parts, const T* x, const T* w, const Finish<T>& finish) {
    using A = WindowRows<T, typename MATH::template Deep<MATH::BM>, MATH::THREADS, GUARDED>;
    using B = DeepRows<T, typename MATH::template Deep<MATH::BN>, MATH::THREADS, GUARDED>;
    const Gather g = fprop_gather(p);
    Place<MATH> at(blockIdx.x, p.k, parts);
    const uint32_t tiles = at.tiles(g.depth(), parts);
    A a(g, x, at.row, at.begin, at.end);
    B b(w, g.depth(), at.column, p.k, at.begin, at.end);
    multiply(a, b, tiles, at, g.rows(), p.k, uint64_t(g.rows()) * p.k, finish,
             [&](uint32_t row) { return uint64_t(row) * p.k; });
}

template <class MATH, bool GUARDED, typename T = typename MATH::Element>
__device__ inline void dgrad(const Conv2dProblem& p, Parts parts, const T* w, const T* dy, const Finish<T>& finish) {
    using A = WindowRows<T, typename MATH::template Deep<MATH::BM>, MATH::THREADS, GUARDED>;
    using B = FilterRows<T, typename MATH::template Wide<MATH::BN>, MATH::THREADS, GUARDED>;
    // Every residue has as many tiles as the one with the most pixels, the first.
    const uint32_t tiles_each = Place<MATH>::tiles_of(dgrad_gather(p, 0).rows(), p.c);
    Place<MATH> at(blockIdx.x % tiles_each, p.c, parts);
    const Gather g = dgrad_gather(p, blockIdx.x / tiles_each);
    if (at.row >= g.rows()) return;
    const uint32_t tiles = at.tiles(g.depth(), parts);
    A a(g, dy, at.row, at.begin, at.end);
    B b(g, p, w, at.column, at.begin, at.end);
    multiply(a, b, tiles, at, g.rows(), p.c, p.n * g.out_h * g.out_w * p.c,
             Finish<T>{nullptr, nullptr, finish.out, finish.partials},
             [&](uint32_t row) { return g.pixel(row) * p.c; });
}

template <class MATH, bool GUARDED, typename T = typename MATH::Element>
__device__ inline void wgrad(const Conv2dProblem& p, Parts parts, const T* x, const T* dy,
                             const Finish<float>& finish) {
    using A = WideRows<T, typename MATH::template Wide<MATH::BM>, MATH::THREADS, GUARDED>;
    using B = WindowColumns<T, typename MATH::template Wide<MATH::BN>, MATH::THREADS, GUARDED>;
    const uint32_t columns = p.r * p.s * p.c;
    Place<MATH> at(blockIdx.x, columns, parts);
    const uint32_t tiles = at.tiles(p.n * p.p * p.q, parts);
    A a(dy, p.k, at.row, p.k, at.begin, at.end);
    B b(p, x, at.column, at.begin, at.end);
    multiply(a, b, tiles, at, p.k, columns, uint64_t(p.k) * columns,
             Finish<float>{nullptr, finish.residual, finish.out, finish.partials},
             [&](uint32_t row) { return uint64_t(row) * columns; });
}

// Windows of one pixel, each pixel once: plain matrices of pixels [rows, c] and [rows, k], and filters [k, c]. Nothing is
// gathered; on tensor cores, whose loops the gathering makes longer, that is worth kernels of their own: instructions of
// the main loop on sm_80 for 64 mma (128x128, bf16; tf32) fall from 177 to 135 and 306 to 291 in fprop, 198 to 132 and 362
// to 294 in dgrad, 207 to 131 and 402 to 325 in wgrad. The loops of the FMA units stay as long as they are, so f32 has no
// such kernels.
template <class MATH, typename T = typename MATH::Element>
__device__ inline void fprop_gemm(const Conv2dProblem& p, Parts parts, const T* x, const T* w, const Finish<T>& finish) {
    using A = DeepRows<T, typename MATH::template Deep<MATH::BM>, MATH::THREADS, false>;
    using B = DeepRows<T, typename MATH::template Deep<MATH::BN>, MATH::THREADS, false>;
    const uint32_t rows = p.n * p.h * p.w;
    Place<MATH> at(blockIdx.x, p.k, parts);
    const uint32_t tiles = at.tiles(p.c, parts);
    A a(x, p.c, at.row, rows, at.begin, at.end);
    B b(w, p.c, at.column, p.k, at.begin, at.end);
    multiply(a, b, tiles, at, rows, p.k, uint64_t(rows) * p.k, finish,
             [&](uint32_t row) { return uint64_t(row) * p.k; });
}

template <class MATH, typename T = typename MATH::Element>
__device__ inline void dgrad_gemm(const Conv2dProblem& p, Parts parts, const T* w, const T* dy, const Finish<T>& finish) {
    using A = DeepRows<T, typename MATH::template Deep<MATH::BM>, MATH::THREADS, false>;
    using B = WideRows<T, typename MATH::template Wide<MATH::BN>, MATH::THREADS, false>;
    const uint32_t rows = p.n * p.h * p.w;
    Place<MATH> at(blockIdx.x, p.c, parts);
    const uint32_t tiles = at.tiles(p.k, parts);
    A a(dy, p.k, at.row, rows, at.begin, at.end);
    B b(w, p.c, at.column, p.c, at.begin, at.end);
    multiply(a, b, tiles, at, rows, p.c, uint64_t(rows) * p.c,
             Finish<T>{nullptr, nullptr, finish.out, finish.partials}, [&](uint32_t row) { return uint64_t(row) * p.c; });
}

template <class MATH, typename T = typename MATH::Element>
__device__ inline void wgrad_gemm(const Conv2dProblem& p, Parts parts, const T* x, const T* dy,
                                  const Finish<float>& finish) {
    using A = WideRows<T, typename MATH::template Wide<MATH::BM>, MATH::THREADS, false>;
    using B = WideRows<T, typename MATH::template Wide<MATH::BN>, MATH::THREADS, false>;
    Place<MATH> at(blockIdx.x, p.c, parts);
    const uint32_t tiles = at.tiles(p.n * p.h * p.w, parts);
    A a(dy, p.k, at.row, p.k, at.begin, at.end);
    B b(x, p.c, at.column, p.c, at.begin, at.end);
    multiply(a, b, tiles, at, p.k, p.c, uint64_t(p.k) * p.c,
             Finish<float>{nullptr, finish.residual, finish.out, finish.partials},
             [&](uint32_t row) { return uint64_t(row) * p.c; });
}

// Adds the parts in their order and finishes.
template <typename T>
__device__ inline void reduce(uint64_t elems, uint32_t columns, uint32_t parts, const float* partials,
                              const Finish<T>& finish) {
    constexpr int V = 4;
    const uint64_t at = first_element<V>();
    if (at >= elems) return;
    const uint32_t column = at % columns;
    const int valid = valid_elements<V>(at, elems);
    float v[V], more[V];
    load(partials + at, valid, v);
    for (uint32_t part = 1; part < parts; ++part) {
        load(partials + part * elems + at, valid, more);
#pragma unroll
        for (int i = 0; i < V; ++i) v[i] += more[i];
    }
    if (column + valid <= columns) {
        finish.complete(at, column, valid, v);
    } else {
        for (int i = 0; i < valid; ++i) {
            float one[1] = {v[i]};
            finish.complete(at + i, (at + i) % columns, 1, one);
        }
    }
}

template <typename T> __device__ inline void bias_grad(const Rows& m, const T* dy, float* partials) {
    constexpr int V = VALUES<T>;
    const uint32_t ch = first_channel<V>(m);
    const int valid = valid_channels<V>(m, ch);
    float sums[1][V] = {};
    if (valid > 0)
        each_row(m, ch, [&](uint64_t at) {
            float v[V];
            load(dy + at, valid, v);
#pragma unroll
            for (int i = 0; i < V; ++i) sums[0][i] += v[i];
        });
    sum_over_rows(m, sums, [&](uint32_t ch, int valid, const auto& sums) {
        store(partials + uint64_t(blockIdx.y) * m.c + ch, valid, sums[0]);
    });
}

#define CONV2D_TILE(NAME, MATH, GUARDED, SUFFIX, BLOCKS)                                                               \
    extern "C" __global__ void __launch_bounds__(MATH::THREADS, BLOCKS) conv2d_fprop_implicit_gemm_##NAME##_##SUFFIX(  \
        Conv2dProblem p, Parts parts, const MATH::Element* x, const MATH::Element* w, Finish<MATH::Element> finish) {  \
        fprop<MATH, GUARDED>(p, parts, x, w, finish);                                                                  \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(MATH::THREADS, BLOCKS) conv2d_dgrad_implicit_gemm_##NAME##_##SUFFIX(  \
        Conv2dProblem p, Parts parts, const MATH::Element* w, const MATH::Element* dy, Finish<MATH::Element> finish) { \
        dgrad<MATH, GUARDED>(p, parts, w, dy, finish);                                                                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(MATH::THREADS, BLOCKS) conv2d_wgrad_implicit_gemm_##NAME##_##SUFFIX(  \
        Conv2dProblem p, Parts parts, const MATH::Element* x, const MATH::Element* dy, Finish<float> finish) {         \
        wgrad<MATH, GUARDED>(p, parts, x, dy, finish);                                                                 \
    }

using Tensor128x128 = TensorCores<128, 128, bf16>;
using Tensor128x64 = TensorCores<128, 64, bf16>;
using Tensor64x64 = TensorCores<64, 64, bf16>;
using Tf128x128 = TensorCores<128, 128, float>;
using Tf128x64 = TensorCores<128, 64, float>;
using Tf64x64 = TensorCores<64, 64, float>;
using Fma128x128 = FmaUnits<8, 8>;
using Fma128x64 = FmaUnits<8, 4>;
using Fma64x64 = FmaUnits<4, 4>;

CONV2D_TILE(128x128, Tensor128x128, false, bf16, 2)
CONV2D_TILE(128x64, Tensor128x64, false, bf16, 2)
CONV2D_TILE(64x64, Tensor64x64, false, bf16, 3)
CONV2D_TILE(guarded, Tensor64x64, true, bf16, 2)
CONV2D_TILE(128x128, Tf128x128, false, tf32, 2)
CONV2D_TILE(128x64, Tf128x64, false, tf32, 2)
CONV2D_TILE(64x64, Tf64x64, false, tf32, 3)
CONV2D_TILE(128x128, Fma128x128, false, f32, 1)
CONV2D_TILE(128x64, Fma128x64, false, f32, 2)
CONV2D_TILE(64x64, Fma64x64, false, f32, 2)
CONV2D_TILE(guarded, Fma64x64, true, f32, 2)

#define CONV2D_GEMM(NAME, MATH, SUFFIX, BLOCKS)                                                                        \
    extern "C" __global__ void __launch_bounds__(MATH::THREADS, BLOCKS) conv2d_fprop_gemm_##NAME##_##SUFFIX(           \
        Conv2dProblem p, Parts parts, const MATH::Element* x, const MATH::Element* w, Finish<MATH::Element> finish) {  \
        fprop_gemm<MATH>(p, parts, x, w, finish);                                                                      \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(MATH::THREADS, BLOCKS) conv2d_dgrad_gemm_##NAME##_##SUFFIX(           \
        Conv2dProblem p, Parts parts, const MATH::Element* w, const MATH::Element* dy, Finish<MATH::Element> finish) { \
        dgrad_gemm<MATH>(p, parts, w, dy, finish);                                                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(MATH::THREADS, BLOCKS) conv2d_wgrad_gemm_##NAME##_##SUFFIX(           \
        Conv2dProblem p, Parts parts, const MATH::Element* x, const MATH::Element* dy, Finish<float> finish) {         \
        wgrad_gemm<MATH>(p, parts, x, dy, finish);                                                                     \
    }

CONV2D_GEMM(128x128, Tensor128x128, bf16, 2)
CONV2D_GEMM(128x64, Tensor128x64, bf16, 2)
CONV2D_GEMM(64x64, Tensor64x64, bf16, 3)
CONV2D_GEMM(128x128, Tf128x128, tf32, 2)
CONV2D_GEMM(128x64, Tf128x64, tf32, 2)
CONV2D_GEMM(64x64, Tf64x64, tf32, 3)

constexpr int BLOCK = 256;

#define CONV2D(T, SUFFIX)                                                                                              \
    extern "C" __global__ void __launch_bounds__(BLOCK) conv2d_reduce_parts_##SUFFIX(                                  \
        uint64_t elems, uint32_t columns, uint32_t parts, const float* partials, Finish<T> finish) {                   \
        reduce(elems, columns, parts, partials, finish);                                                               \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(ROWS_BLOCK)                                                           \
        conv2d_bias_grad_##SUFFIX(Rows m, const T* dy, float* partials) {                                              \
        bias_grad(m, dy, partials);                                                                                    \
    }

CONV2D(float, f32)
CONV2D(bf16, bf16)
