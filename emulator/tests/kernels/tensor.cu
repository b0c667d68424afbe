// Tensor-core kernels: fragments by hand, ldmatrix, cp.async pipelines.
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#include <cstdint>

__device__ __forceinline__ void mma_bf16(float* d, const uint32_t* a, const uint32_t* b, const float* c) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
                 : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}

// One warp, one fragment: operands are loaded element by element from row-major A [16][16], B [16][8], C [16][8] at the
// places the ISA names (groupID = lane >> 2, threadID_in_group = lane % 4).
#define FRAGMENT(name, TYPE, PTX)                                                                                       \
    extern "C" __global__ void name(const TYPE* a, const TYPE* b, const float* c, float* d) {                            \
        int g = threadIdx.x >> 2, t = threadIdx.x % 4;                                                                   \
        TYPE fa[8], fb[4];                                                                                               \
        for (int i = 0; i < 8; i++) {                                                                                    \
            int row = (i < 2 || (i >= 4 && i < 6)) ? g : g + 8, col = t * 2 + (i & 1) + (i >= 4 ? 8 : 0);                \
            fa[i] = a[row * 16 + col];                                                                                   \
        }                                                                                                                \
        for (int i = 0; i < 4; i++) fb[i] = b[(t * 2 + (i & 1) + (i >= 2 ? 8 : 0)) * 8 + g];                             \
        float fc[4], fd[4];                                                                                              \
        for (int i = 0; i < 4; i++) fc[i] = c[(i < 2 ? g : g + 8) * 8 + t * 2 + (i & 1)];                                \
        const uint32_t *ra = (const uint32_t*)fa, *rb = (const uint32_t*)fb;                                             \
        asm volatile(PTX " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"                                    \
                     : "=f"(fd[0]), "=f"(fd[1]), "=f"(fd[2]), "=f"(fd[3])                                                \
                     : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]), "f"(fc[0]), "f"(fc[1]),   \
                       "f"(fc[2]), "f"(fc[3]));                                                                          \
        for (int i = 0; i < 4; i++) d[(i < 2 ? g : g + 8) * 8 + t * 2 + (i & 1)] = fd[i];                                \
    }

FRAGMENT(fragment_bf16, __nv_bfloat16, "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32")
FRAGMENT(fragment_f16, __half, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32")

// tf32: A [16][8], B [8][8].
extern "C" __global__ void fragment_tf32(const float* a, const float* b, const float* c, float* d) {
    int g = threadIdx.x >> 2, t = threadIdx.x % 4;
    uint32_t fa[4], fb[2];
    float fc[4], fd[4];
    for (int i = 0; i < 4; i++) {
        float v = a[(i % 2 == 0 ? g : g + 8) * 8 + (i < 2 ? t : t + 4)];
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(fa[i]) : "f"(v));
        fc[i] = c[(i < 2 ? g : g + 8) * 8 + t * 2 + (i & 1)];
    }
    for (int i = 0; i < 2; i++) asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(fb[i]) : "f"(b[(i == 0 ? t : t + 4) * 8 + g]));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
                 : "=f"(fd[0]), "=f"(fd[1]), "=f"(fd[2]), "=f"(fd[3])
                 : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]), "f"(fc[0]), "f"(fc[1]),
                   "f"(fc[2]), "f"(fc[3]));
    for (int i = 0; i < 4; i++) d[(i < 2 ? g : g + 8) * 8 + t * 2 + (i & 1)] = fd[i];
}

// f64: A [8][4], B [4][8], C [8][8].
extern "C" __global__ void fragment_f64(const double* a, const double* b, const double* c, double* d) {
    int g = threadIdx.x >> 2, t = threadIdx.x % 4;
    double d0, d1;
    asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%4,%5};"
                 : "=d"(d0), "=d"(d1)
                 : "d"(a[g * 4 + t]), "d"(b[t * 8 + g]), "d"(c[g * 8 + 2 * t]), "d"(c[g * 8 + 2 * t + 1]));
    d[g * 8 + 2 * t] = d0;
    d[g * 8 + 2 * t + 1] = d1;
}

// s8: A [16][32], B [32][8], C [16][8].
extern "C" __global__ void fragment_s8(const int8_t* a, const int8_t* b, const int* c, int* d) {
    int g = threadIdx.x >> 2, t = threadIdx.x % 4;
    int8_t fa[16], fb[8];
    for (int i = 0; i < 16; i++) {
        int row = (i < 4 || (i >= 8 && i < 12)) ? g : g + 8, col = t * 4 + (i & 3) + (i >= 8 ? 16 : 0);
        fa[i] = a[row * 32 + col];
    }
    for (int i = 0; i < 8; i++) fb[i] = b[(t * 4 + (i & 3) + (i >= 4 ? 16 : 0)) * 8 + g];
    const uint32_t *ra = (const uint32_t*)fa, *rb = (const uint32_t*)fb;
    int e[4];
    for (int i = 0; i < 4; i++) e[i] = c[(i < 2 ? g : g + 8) * 8 + t * 2 + (i & 1)];
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(e[0]), "+r"(e[1]), "+r"(e[2]), "+r"(e[3])
                 : "r"(ra[0]), "r"(ra[1]), "r"(ra[2]), "r"(ra[3]), "r"(rb[0]), "r"(rb[1]));
    for (int i = 0; i < 4; i++) d[(i < 2 ? g : g + 8) * 8 + t * 2 + (i & 1)] = e[i];
}

__device__ __forceinline__ uint32_t smem(const void* p) { return (uint32_t)__cvta_generic_to_shared(p); }

// C [m][n] = A [m][k] * B [k][n] in bf16 with f32 sums: 64x64 tiles, 4 warps, STAGES stages of 32 columns, swizzled
// shared memory, ldmatrix. m and n multiples of 64, k of 32.
template <int STAGES, int PENDING>
__device__ void pipeline(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int m, int n, int k) {
    __shared__ alignas(128) __nv_bfloat16 sa[STAGES][64 * 32], sb[STAGES][32 * 64];
    int tid = threadIdx.x, warp = tid / 32, lane = tid % 32;
    int row0 = blockIdx.y * 64, col0 = blockIdx.x * 64;
    auto load = [&](int stage, int k0) {
        for (int i = tid; i < 256; i += 128) {
            int r = i / 4, chunk = i % 4;  // A: 64 rows of 4 chunks of 8
            uint32_t to = smem(&sa[stage][r * 32 + ((chunk ^ (r / 2 & 3)) * 8)]);
            const void* from = a + (size_t)(row0 + r) * k + k0 + chunk * 8;
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from));
            int rb = i / 8, cb = i % 8;  // B: 32 rows of 8 chunks
            to = smem(&sb[stage][rb * 64 + ((cb ^ (rb & 7)) * 8)]);
            from = b + (size_t)(k0 + rb) * n + col0 + cb * 8;
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from));
        }
    };
    float acc[2][4][4] = {};
    int wm = warp / 2 * 32, wn = warp % 2 * 32, steps = k / 32;
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) load(s, s * 32);
        asm volatile("cp.async.commit_group;");
    }
    for (int step = 0; step < steps; step++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(PENDING));
        __syncthreads();
        int next = step + STAGES - 1;
        if (next < steps) load(next % STAGES, next * 32);
        asm volatile("cp.async.commit_group;");
        const __nv_bfloat16 *ta = sa[step % STAGES], *tb = sb[step % STAGES];
        for (int kk = 0; kk < 2; kk++) {
            uint32_t fa[2][4], fb[4][2];
            for (int i = 0; i < 2; i++) {
                int r = wm + i * 16 + lane % 16, chunk = kk * 2 + lane / 16;
                uint32_t p = smem(&ta[r * 32 + ((chunk ^ (r / 2 & 3)) * 8)]);
                asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                             : "=r"(fa[i][0]), "=r"(fa[i][1]), "=r"(fa[i][2]), "=r"(fa[i][3]) : "r"(p));
            }
            for (int j = 0; j < 2; j++) {
                int r = kk * 16 + lane % 16, chunk = (wn + j * 16) / 8 + lane / 16;
                uint32_t p = smem(&tb[r * 64 + ((chunk ^ (r & 7)) * 8)]);
                asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                             : "=r"(fb[2 * j][0]), "=r"(fb[2 * j][1]), "=r"(fb[2 * j + 1][0]), "=r"(fb[2 * j + 1][1]) : "r"(p));
            }
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 4; j++) mma_bf16(acc[i][j], fa[i], fb[j], acc[i][j]);
        }
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int e = 0; e < 4; e++) {
                int r = row0 + wm + i * 16 + lane / 4 + (e < 2 ? 0 : 8), q = col0 + wn + j * 8 + lane % 4 * 2 + (e & 1);
                c[(size_t)r * n + q] = acc[i][j][e];
            }
}

extern "C" __global__ void __launch_bounds__(128) gemm_bf16_pipeline(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int m, int n, int k) {
    pipeline<3, 1>(a, b, c, m, n, k);
}

// The same with a wait that leaves the newest two groups pending: the stage about to be read may still be under way.
extern "C" __global__ void __launch_bounds__(128) gemm_bf16_missing_wait(const __nv_bfloat16* a, const __nv_bfloat16* b, float* c, int m, int n, int k) {
    pipeline<3, 2>(a, b, c, m, n, k);
}

// For the speed of the emulator: chains of mma alone.
extern "C" __global__ void mma_chain(float* out, int n) {
    uint32_t a[4] = {threadIdx.x, threadIdx.x + 1, 3, 4}, b[2] = {5, threadIdx.x};
    float c[4][4] = {};
    for (int i = 0; i < n; i++)
        for (int j = 0; j < 4; j++) mma_bf16(c[j], a, b, c[j]);
    float s = 0.f;
    for (int j = 0; j < 4; j++)
        for (int e = 0; e < 4; e++) s += c[j][e];
    out[blockIdx.x * blockDim.x + threadIdx.x] = s;
}

// For the speed of the emulator: integer and float arithmetic in a loop.
extern "C" __global__ void alu_chain(float* out, int n) {
    float x = threadIdx.x, y = 1.5f, z = 0.25f;
    unsigned u = threadIdx.x, v = 12345;
#pragma unroll 8
    for (int i = 0; i < n; i++) {
        x = fmaf(x, y, z);
        u = u * 1664525u + v;
        z = x * 0.5f - z;
        v ^= u >> 3;
        y = y + z * 1e-8f;
        u += v;
    }
    out[blockIdx.x * blockDim.x + threadIdx.x] = x + y + z + u + v;
}

extern "C" __global__ void axpy(const float* x, float* y, float a, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) y[i] = a * x[i] + y[i];
}
