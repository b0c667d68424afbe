// Kernels with known answers: the steps from a plain product to the tensor cores, and the patterns real kernels are made of.
#include <cstdint>

// --- Transposition: the classic lesson about coalescing and bank conflicts. Square tiles of 32, 32 x 8 threads. ---

extern "C" __global__ void transpose_naive(const float* x, float* y, int n) {
    int col = blockIdx.x * 32 + threadIdx.x;
    for (int i = threadIdx.y; i < 32; i += 8) {
        int row = blockIdx.y * 32 + i;
        y[col * n + row] = x[row * n + col];
    }
}

template <int PITCH>
__device__ void transpose_shared(const float* x, float* y, int n) {
    __shared__ float tile[32 * PITCH];
    for (int i = threadIdx.y; i < 32; i += 8)
        tile[i * PITCH + threadIdx.x] = x[(blockIdx.y * 32 + i) * n + blockIdx.x * 32 + threadIdx.x];
    __syncthreads();
    for (int i = threadIdx.y; i < 32; i += 8)
        y[(blockIdx.x * 32 + i) * n + blockIdx.y * 32 + threadIdx.x] = tile[threadIdx.x * PITCH + i];
}

extern "C" __global__ void transpose_tiled(const float* x, float* y, int n) { transpose_shared<32>(x, y, n); }
extern "C" __global__ void transpose_padded(const float* x, float* y, int n) { transpose_shared<33>(x, y, n); }

// --- Products. ---

// C = A B, 64 x 64 tiles, 256 threads with 4 x 4 results each, shared tiles of depth 16 filled by float4 loads.
// m and n multiples of 64, k of 16.
extern "C" __global__ void __launch_bounds__(256) gemm_blocked(const float* a, const float* b, float* c, int m, int n, int k) {
    __shared__ float ta[16][64 + 4];  // transposed, so that a thread's four rows lie side by side
    __shared__ float tb[16][64];
    int t = threadIdx.x, tx = t % 16, ty = t / 16, row0 = blockIdx.y * 64, col0 = blockIdx.x * 64;
    float acc[4][4] = {};
    for (int k0 = 0; k0 < k; k0 += 16) {
        float4 va = *(const float4*)&a[(row0 + t / 4) * k + k0 + t % 4 * 4];
        ta[t % 4 * 4 + 0][t / 4] = va.x;
        ta[t % 4 * 4 + 1][t / 4] = va.y;
        ta[t % 4 * 4 + 2][t / 4] = va.z;
        ta[t % 4 * 4 + 3][t / 4] = va.w;
        *(float4*)&tb[t / 16][t % 16 * 4] = *(const float4*)&b[(k0 + t / 16) * n + col0 + t % 16 * 4];
        __syncthreads();
        for (int i = 0; i < 16; i++) {
            float4 fa = *(const float4*)&ta[i][ty * 4], fb = *(const float4*)&tb[i][tx * 4];
            float ra[4] = {fa.x, fa.y, fa.z, fa.w}, rb[4] = {fb.x, fb.y, fb.z, fb.w};
            for (int r = 0; r < 4; r++)
                for (int q = 0; q < 4; q++) acc[r][q] = fmaf(ra[r], rb[q], acc[r][q]);
        }
        __syncthreads();
    }
    for (int r = 0; r < 4; r++)
        *(float4*)&c[(row0 + ty * 4 + r) * n + col0 + tx * 4] = make_float4(acc[r][0], acc[r][1], acc[r][2], acc[r][3]);
}

// C = A B on the tensor cores: one warp per 16 x 8 tile, tf32 operands straight from global memory. m multiple of 16, n and k of 8.
extern "C" __global__ void gemm_tf32(const float* a, const float* b, float* c, int m, int n, int k) {
    int lane = threadIdx.x, g = lane / 4, t = lane % 4, row0 = blockIdx.y * 16, col0 = blockIdx.x * 8;
    auto tf32 = [](float v) {
        uint32_t r;
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(v));
        return r;
    };
    float d[4] = {};
    for (int k0 = 0; k0 < k; k0 += 8) {
        uint32_t fa[4], fb[2];
        for (int i = 0; i < 4; i++) fa[i] = tf32(a[(row0 + g + i % 2 * 8) * k + k0 + t + i / 2 * 4]);
        for (int i = 0; i < 2; i++) fb[i] = tf32(b[(k0 + t + i * 4) * n + col0 + g]);
        asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                     : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
    }
    for (int i = 0; i < 4; i++) c[(row0 + g + i / 2 * 8) * n + col0 + 2 * t + i % 2] = d[i];
}

// --- Reductions, scans, sorting. ---

// Mean and sum of squared deviations of each row, one block of 128 per row, by Chan's merging of Welford's pairs.
extern "C" __global__ void welford_rows(const float* x, float* mean, float* m2, int cols) {
    __shared__ float sm[4], s2[4], sn[4];
    float n = 0.f, mu = 0.f, q = 0.f;
    for (int c = threadIdx.x; c < cols; c += 128) {
        float v = x[blockIdx.x * cols + c], d = v - mu;
        n += 1.f;
        mu += d / n;
        q += d * (v - mu);
    }
    auto merge = [&](float on, float om, float oq) {
        float total = n + on;
        if (total == 0.f) return;
        float d = om - mu;
        mu += d * (on / total);
        q += oq + d * d * (n * on / total);
        n = total;
    };
    for (int s = 16; s > 0; s /= 2) {
        float on = __shfl_down_sync(~0u, n, s), om = __shfl_down_sync(~0u, mu, s), oq = __shfl_down_sync(~0u, q, s);
        if (threadIdx.x % 32 < s) merge(on, om, oq);
    }
    if (threadIdx.x % 32 == 0) { sn[threadIdx.x / 32] = n; sm[threadIdx.x / 32] = mu; s2[threadIdx.x / 32] = q; }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int w = 1; w < 4; w++) merge(sn[w], sm[w], s2[w]);
        mean[blockIdx.x] = mu;
        m2[blockIdx.x] = q;
    }
}

// Smallest value and its first place, by shuffles of pairs and one 64-bit atomic per warp.
extern "C" __global__ void arg_min(const unsigned* x, unsigned long long* best, int n) {
    unsigned long long mine = ~0ull;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        unsigned long long v = (unsigned long long)x[i] << 32 | i;
        mine = v < mine ? v : mine;
    }
    for (int s = 16; s > 0; s /= 2) {
        unsigned long long other = __shfl_xor_sync(~0u, mine, s);
        mine = other < mine ? other : mine;
    }
    if (threadIdx.x % 32 == 0) atomicMin(best, mine);
}

// Sum, smallest and largest of each warp by redux.
extern "C" __global__ void redux_all(const int* x, int* sum, int* low, int* high) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, v = x[i];
    int s = __reduce_add_sync(~0u, v), a = __reduce_min_sync(~0u, v), b = __reduce_max_sync(~0u, v);
    if (threadIdx.x % 32 == 0) { sum[i / 32] = s; low[i / 32] = a; high[i / 32] = b; }
}

// Inclusive prefix sums of a block of 256: shuffles inside warps, one warp over the warps' sums.
extern "C" __global__ void scan_block(const int* x, int* y) {
    __shared__ int sums[8];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, v = x[blockIdx.x * 256 + threadIdx.x];
    for (int s = 1; s < 32; s *= 2) {
        int o = __shfl_up_sync(~0u, v, s);
        if (lane >= s) v += o;
    }
    if (lane == 31) sums[warp] = v;
    __syncthreads();
    if (warp == 0) {
        int t = lane < 8 ? sums[lane] : 0;
        for (int s = 1; s < 8; s *= 2) {
            int o = __shfl_up_sync(~0u, t, s);
            if (lane >= s) t += o;
        }
        if (lane < 8) sums[lane] = t;
    }
    __syncthreads();
    y[blockIdx.x * 256 + threadIdx.x] = v + (warp > 0 ? sums[warp - 1] : 0);
}

// Bitonic sort of 512 keys in shared memory.
extern "C" __global__ void sort_block(const unsigned* x, unsigned* y) {
    __shared__ unsigned s[512];
    unsigned t = threadIdx.x;
    s[t] = x[t];
    s[t + 256] = x[t + 256];
    for (unsigned size = 2; size <= 512; size *= 2)
        for (unsigned stride = size / 2; stride > 0; stride /= 2) {
            __syncthreads();
            unsigned i = 2 * t - (t & (stride - 1)), j = i + stride;
            bool up = (i & size) == 0;
            unsigned a = s[i], b = s[j];
            if ((a > b) == up) { s[i] = b; s[j] = a; }
        }
    __syncthreads();
    y[t] = s[t];
    y[t + 256] = s[t + 256];
}

// --- Divergence. ---

// The first place where a row holds a value above the limit: lanes return from inside two nested loops.
extern "C" __global__ void find_first(const float* x, int* at, int rows, int cols, float limit) {
    int r = blockIdx.x * blockDim.x + threadIdx.x;
    if (r >= rows) return;
    for (int c0 = 0; c0 < cols; c0 += 8) {
        for (int c = c0; c < min(c0 + 8, cols); c++) {
            float v = x[r * cols + c];
            if (v != v) continue;
            if (v > limit) {
                at[r] = c;
                return;
            }
            if (v < -limit) {
                at[r] = -2;
                return;
            }
        }
    }
    at[r] = -1;
}

// --- A pipeline of asynchronous copies: every thread fetches four stages ahead of what it adds up. ---

template <int STAGES, int PENDING>
__device__ void sum_pipeline(const float4* x, float* y, int steps) {
    __shared__ float4 s[STAGES][64];
    const float4* from = x + (size_t)blockIdx.x * steps * 64 + threadIdx.x;
    auto fetch = [&](int i) {
        if (i < steps) {
            uint32_t to = (uint32_t)__cvta_generic_to_shared(&s[i % STAGES][threadIdx.x]);
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from + i * 64));
        }
        asm volatile("cp.async.commit_group;");
    };
    for (int i = 0; i < STAGES - 1; i++) fetch(i);
    float sum = 0.f;
    for (int i = 0; i < steps; i++) {
        asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
        __syncthreads();
        float4 v = s[i % STAGES][63 - threadIdx.x];
        sum += v.x + v.y + v.z + v.w;
        // The stage that is filled now was read in the last step, before the barrier.
        fetch(i + STAGES - 1);
    }
    y[blockIdx.x * 64 + threadIdx.x] = sum;
}

extern "C" __global__ void pipeline_sum(const float4* x, float* y, int steps) { sum_pipeline<4, 2>(x, y, steps); }
extern "C" __global__ void pipeline_sum_missing_wait(const float4* x, float* y, int steps) { sum_pipeline<4, 3>(x, y, steps); }

// --- A launch that takes long, in blocks that do not need each other. ---
extern "C" __global__ void busy(unsigned* y, int n) {
    unsigned v = blockIdx.x * blockDim.x + threadIdx.x;
    for (int i = 0; i < n; i++) v = v * 1664525u + 1013904223u;
    y[blockIdx.x * blockDim.x + threadIdx.x] = v;
}
