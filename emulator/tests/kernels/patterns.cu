// Patterns from kernels that are known to be right on GPUs: what the checks must accept, beside a broken twin.

// Every thread fences its own write before the barrier; one thread takes the ticket behind it; the last block sums.
template <bool fenced>
__device__ void ticket(float* parts, unsigned* count, float* out) {
    __shared__ bool last;
    parts[blockIdx.x * blockDim.x + threadIdx.x] = threadIdx.x + 1.f;
    if (fenced) __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(count, 1u) == gridDim.x - 1;
    __syncthreads();
    if (last) {
        float sum = 0.f;
        for (unsigned b = 0; b < gridDim.x; b++) sum += parts[b * blockDim.x + threadIdx.x];
        out[threadIdx.x] = sum;
    }
}
extern "C" __global__ void ticket_fenced(float* parts, unsigned* count, float* out) { ticket<true>(parts, count, out); }
extern "C" __global__ void ticket_unfenced(float* parts, unsigned* count, float* out) { ticket<false>(parts, count, out); }

// All warps add to shared memory, only the first stays to write the sums out: the exits count at the barrier.
extern "C" __global__ void few_write_out(float* y, int barrier) {
    __shared__ float sums[32];
    if (threadIdx.x < 32) sums[threadIdx.x] = 0.f;
    __syncthreads();
    atomicAdd(&sums[threadIdx.x % 32], 1.f);
    if (threadIdx.x >= 32) return;
    if (barrier) __syncthreads();
    y[threadIdx.x] = sums[threadIdx.x];
}

// A shuffle waits only for lanes that have not exited; what it reads of those that have is undefined.
extern "C" __global__ void shuffle_of_the_rest(int* y, int n, int step) {
    int v = y[threadIdx.x];
    if (threadIdx.x >= n) return;
    for (int i = 0; i < 2; i++) v += __shfl_down_sync(0xffffffffu, v, step);
    y[threadIdx.x] = v;
}

// One array for two sums, without the barrier between reading the first and writing the second: both races are told.
extern "C" __global__ void reused_slot(const float* x, float* y, int barrier) {
    __shared__ float slot;
    if (threadIdx.x == 0) slot = x[0];
    __syncthreads();
    float first = slot;
    if (barrier) __syncthreads();
    if (threadIdx.x == 0) slot = x[1];
    __syncthreads();
    y[threadIdx.x] = first + slot;
}

// Each half of the warp has a mask of its own, then each parity: the second masks cross the first.
extern "C" __global__ void crossing_masks(const int* x, int* y) {
    int lane = threadIdx.x % 32, v = x[threadIdx.x];
    unsigned half = lane < 16 ? 0xffffu : 0xffff0000u, parity = lane % 2 ? 0xaaaaaaaau : 0x55555555u;
    y[threadIdx.x * 4] = __reduce_max_sync(half, v);
    y[threadIdx.x * 4 + 1] = __reduce_add_sync(parity, v);
    y[threadIdx.x * 4 + 2] = __shfl_xor_sync(parity, v, 16);
    y[threadIdx.x * 4 + 3] = __ballot_sync(parity, v > 50);
}

// A part of a warp leaves before the barriers, some of it with work still to do; the rest sums over shared memory.
extern "C" __global__ void early_return(const float* x, float* y, int n) {
    __shared__ float s[64];
    int i = threadIdx.x;
    if (i >= n) return;
    s[i] = x[i];
    for (int step = 1; step < n; step *= 2) {
        __syncthreads();
        float v = i >= step ? s[i - step] : 0.f;
        __syncthreads();
        s[i] += v;
    }
    y[i] = s[i];
}
extern "C" __global__ void early_return_ok(const float* x, float* y, int n) {
    __shared__ float s[64];
    int i = threadIdx.x;
    if (i < n) s[i] = x[i];
    for (int step = 1; step < n; step *= 2) {
        __syncthreads();
        float v = i >= step && i < n ? s[i - step] : 0.f;
        __syncthreads();
        if (i < n) s[i] += v;
    }
    if (i < n) y[i] = s[i];
}
// The same with work on the way out, and a barrier that counts 64 threads.
extern "C" __global__ void late_return(const float* x, float* y, int n) {
    __shared__ float s[64];
    int i = threadIdx.x;
    if (i >= n) {
        for (int k = 0; k <= i % 4; k++) y[i] = x[i] + k;
        return;
    }
    s[i] = x[i];
    asm volatile("bar.sync 1, 64;" ::: "memory");
    y[i] = s[n - 1 - i];
}
