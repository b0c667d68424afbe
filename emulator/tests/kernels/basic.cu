// Small kernels with known answers: one idea each.
#include <cstdio>
#include <cassert>

extern "C" __global__ void vector_add(const float* x, const float* y, float* z, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) z[i] = x[i] + y[i];
}

// Sum of a block through shared memory, then one atomic per block.
extern "C" __global__ void reduce_sum(const float* x, float* sum, int n) {
    __shared__ float part[256];
    int t = threadIdx.x;
    float s = 0.f;
    for (int i = blockIdx.x * blockDim.x + t; i < n; i += gridDim.x * blockDim.x) s += x[i];
    part[t] = s;
    __syncthreads();
    for (int step = 128; step > 0; step /= 2) {
        if (t < step) part[t] += part[t + step];
        __syncthreads();
    }
    if (t == 0) atomicAdd(sum, part[0]);
}

extern "C" __global__ void warp_sum(const int* x, int* sum, int* any_negative) {
    int v = x[blockIdx.x * blockDim.x + threadIdx.x];
    unsigned negative = __ballot_sync(0xffffffffu, v < 0);
    for (int step = 16; step > 0; step /= 2) v += __shfl_xor_sync(0xffffffffu, v, step);
    if ((threadIdx.x & 31) == 0) {
        sum[(blockIdx.x * blockDim.x + threadIdx.x) / 32] = v;
        any_negative[(blockIdx.x * blockDim.x + threadIdx.x) / 32] = __popc(negative);
    }
}

extern "C" __global__ void histogram(const unsigned char* x, unsigned* bins, int n) {
    __shared__ unsigned local[256];
    local[threadIdx.x] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&local[x[i]], 1u);
    __syncthreads();
    atomicAdd(&bins[threadIdx.x], local[threadIdx.x]);
}

// Collatz steps: lanes leave the loop one by one.
extern "C" __global__ void collatz(const unsigned* x, unsigned* steps, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    unsigned v = x[i], count = 0;
    while (v != 1) {
        if (v & 1) v = 3 * v + 1; else v >>= 1;
        if (++count > 1000) break;
    }
    steps[i] = count;
}

// A lock that the lanes of one warp fight for.
extern "C" __global__ void spin_lock(int* lock, int* counter) {
    bool done = false;
    while (!done) {
        if (atomicCAS(lock, 0, 1) == 0) {
            __threadfence();
            *(volatile int*)counter = *(volatile int*)counter + 1;
            __threadfence();
            atomicExch(lock, 0);
            done = true;
        }
    }
}

// The same, written so that the winner waits for the losers on machines without independent threads.
extern "C" __global__ void spin_lock_naive(int* lock, int* counter) {
    while (atomicCAS(lock, 0, 1) != 0) {}
    __threadfence();
    *(volatile int*)counter = *(volatile int*)counter + 1;
    __threadfence();
    atomicExch(lock, 0);
}

extern "C" __global__ void dynamic_shared(const float* x, float* y) {
    extern __shared__ float buffer[];
    int n = 16384;
    for (int i = threadIdx.x; i < n; i += blockDim.x) buffer[i] = x[i];
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = buffer[n - 1 - i];
}

__device__ __noinline__ float horner(float x, int n) {
    float s = 0.f;
    for (int i = n; i > 0; i--) s = s * x + (float)i;
    return s;
}

extern "C" __global__ void calls(const float* x, float* y, int n) {
    int i = threadIdx.x;
    if (i % 3 == 0) y[i] = horner(x[i], n); else y[i] = horner(x[i], 2) - 1.f;
}

extern "C" __global__ void speak(int n) {
    if (threadIdx.x < n) printf("thread %d of %s: %5.2f|%-4u|%x\n", threadIdx.x, "block", threadIdx.x * 0.5, threadIdx.x, 255);
}

extern "C" __global__ void claim(const int* x) { assert(x[threadIdx.x] < 100); }

// Philox4x32-10, counter = (thread, 0, 0, 0).
extern "C" __global__ void philox(unsigned k0, unsigned k1, const uint4* counters, uint4* out) {
    uint4 c = counters[threadIdx.x];
    for (int round = 0; round < 10; round++) {
        unsigned h0 = __umulhi(0xD2511F53u, c.x), l0 = 0xD2511F53u * c.x;
        unsigned h1 = __umulhi(0xCD9E8D57u, c.z), l1 = 0xCD9E8D57u * c.z;
        c = make_uint4(h1 ^ c.y ^ k0, l1, h0 ^ c.w ^ k1, l0);
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[threadIdx.x] = c;
}

// Row softmax, one warp per row.
extern "C" __global__ void softmax(const float* x, float* y, int cols) {
    const float* row = x + (size_t)blockIdx.x * cols;
    float m = -INFINITY;
    for (int c = threadIdx.x; c < cols; c += 32) m = fmaxf(m, row[c]);
    for (int s = 16; s > 0; s /= 2) m = fmaxf(m, __shfl_xor_sync(~0u, m, s));
    float sum = 0.f;
    for (int c = threadIdx.x; c < cols; c += 32) sum += expf(row[c] - m);
    for (int s = 16; s > 0; s /= 2) sum += __shfl_xor_sync(~0u, sum, s);
    for (int c = threadIdx.x; c < cols; c += 32) y[(size_t)blockIdx.x * cols + c] = expf(row[c] - m) / sum;
}

extern "C" __global__ void gemm_naive(const float* a, const float* b, float* c, int m, int n, int k) {
    int row = blockIdx.y * blockDim.y + threadIdx.y, col = blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= m || col >= n) return;
    float s = 0.f;
    for (int i = 0; i < k; i++) s += a[row * k + i] * b[i * n + col];
    c[row * n + col] = s;
}

extern "C" __global__ void gemm_tiled(const float* a, const float* b, float* c, int m, int n, int k) {
    __shared__ float ta[16][16], tb[16][16];
    int x = threadIdx.x, y = threadIdx.y, row = blockIdx.y * 16 + y, col = blockIdx.x * 16 + x;
    float s = 0.f;
    for (int k0 = 0; k0 < k; k0 += 16) {
        ta[y][x] = row < m && k0 + x < k ? a[row * k + k0 + x] : 0.f;
        tb[y][x] = col < n && k0 + y < k ? b[(k0 + y) * n + col] : 0.f;
        __syncthreads();
        for (int i = 0; i < 16; i++) s += ta[y][i] * tb[i][x];
        __syncthreads();
    }
    if (row < m && col < n) c[row * n + col] = s;
}

// A grid-wide sum in one launch: the last block adds the parts of the others.
__device__ unsigned ticket = 0;
extern "C" __global__ void last_block_sum(const float* x, float* parts, float* sum, int n) {
    __shared__ bool last;
    float s = 0.f;
    for (int i = blockIdx.x * 32 + threadIdx.x; i < n; i += gridDim.x * 32) s += x[i];
    for (int d = 16; d > 0; d /= 2) s += __shfl_xor_sync(~0u, s, d);
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = s;
        __threadfence();
        last = atomicAdd(&ticket, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        float t = 0.f;
        for (int b = 0; b < gridDim.x; b++) t += ((volatile float*)parts)[b];
        *sum = t;
        ticket = 0;
    }
}

// Blocks that wait for each other: a barrier across the grid.
extern "C" __global__ void grid_barrier(unsigned* arrived, const int* x, int* y) {
    __shared__ int mine;
    if (threadIdx.x == 0) {
        y[gridDim.x + blockIdx.x] = x[blockIdx.x] * 2;
        __threadfence();
        atomicAdd(arrived, 1u);
        while (atomicAdd(arrived, 0u) < gridDim.x) {}
        __threadfence();
        mine = y[gridDim.x + (blockIdx.x + 1) % gridDim.x];
    }
    __syncthreads();
    if (threadIdx.x == 0) y[blockIdx.x] = mine;
}

extern "C" __global__ void switch_table(const int* x, int* y) {
    int v = x[threadIdx.x], r;
    switch (v) {
        case 0: r = v + 100; break;
        case 1: r = v * 7; break;
        case 2: r = -v; break;
        case 3: r = v << 4; break;
        case 4: r = v - 1000; break;
        case 5: r = ~v; break;
        case 6: r = v ^ 0x55; break;
        case 7: r = v % 3; break;
        default: r = 0;
    }
    y[threadIdx.x] = r;
}
