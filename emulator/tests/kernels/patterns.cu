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

// Tiles of a warp, each with a member mask of its own, before what all of the warp must do together. `width` lanes are
// summed; the tiles may be wider.
__device__ unsigned tile_mask(int tile) { return ~0u >> (32 - tile) << (threadIdx.x % 32 / tile * tile); }

extern "C" __global__ void tile_sums(const float* x, float* y, int width, int tile) {
    __shared__ float sums[64];
    float v = x[threadIdx.x];
    for (int o = width / 2; o > 0; o /= 2) v += __shfl_xor_sync(tile_mask(tile), v, o);
    sums[threadIdx.x] = v;
    __syncthreads();
    y[threadIdx.x] = sums[63 - threadIdx.x];
}

// The sums go into a matrix product, of which this is the first element of each lane.
extern "C" __global__ void tile_sums_mma(const float* x, float* y, int width, int tile) {
    float v = x[threadIdx.x], d[4] = {0.f, 0.f, 0.f, 0.f};
    for (int o = width / 2; o > 0; o /= 2) v += __shfl_xor_sync(tile_mask(tile), v, o);
    unsigned a = __float_as_uint(v);
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%4,%4,%4}, {%4,%4}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a));
    y[threadIdx.x] = d[0];
}

// Lanes with one key count each other, and wait for each other, before a barrier of the block.
extern "C" __global__ void keys(const int* x, int* y) {
    __shared__ int seen[64];
    int t = threadIdx.x;
    unsigned mates = __match_any_sync(~0u, x[t]);
    seen[t] = __reduce_add_sync(mates, t) * 100 + __popc(__ballot_sync(mates, t % 2));
    __syncwarp(mates);
    int first = seen[t / 32 * 32 + __ffs(mates) - 1];
    __syncthreads();
    y[t] = first + seen[63 - t];
}

// Both ways of a branch come to an operation of their own with the same masks: `tile` of the lanes, wherever they are.
extern "C" __global__ void two_places(const float* x, float* y, int split, int tile) {
    __shared__ float got[64];
    int t = threadIdx.x;
    float v = x[t];
    if (t % 32 < split) {
        got[t] = __shfl_xor_sync(tile_mask(tile), v * 2.f, tile / 2) + 1.f;
    } else {
        got[t] = __shfl_xor_sync(tile_mask(tile), v * 3.f, tile / 2) - 1.f;
    }
    __syncthreads();
    y[t] = got[63 - t];
}

// The other operations that wait for lanes: vote, match, reduction, and the order of memory.
extern "C" __global__ void two_places_all(const int* x, int* y, int split, unsigned low, unsigned high) {
    __shared__ int s[32];
    int t = threadIdx.x, v = x[t], votes, mates, sum, other;
    if (t < split) {
        s[t] = v;
        votes = __ballot_sync(~0u, v > 3);
        mates = __match_any_sync(~0u, v);
        sum = __reduce_add_sync(~0u, v);
        __syncwarp(low);
        other = s[31 - t];
    } else {
        s[t] = -v;
        votes = __ballot_sync(~0u, v < 6);
        mates = __match_any_sync(~0u, v + 1);
        sum = __reduce_add_sync(~0u, v * 5);
        __syncwarp(high);
        other = s[31 - t] * 2;
    }
    y[4 * t] = votes, y[4 * t + 1] = mates, y[4 * t + 2] = sum, y[4 * t + 3] = other;
}

// Operations that differ do not meet.
extern "C" __global__ void two_places_two_modes(const float* x, float* y, int split) {
    float v = x[threadIdx.x];
    if (threadIdx.x < split) {
        y[threadIdx.x] = __shfl_xor_sync(~0u, v, 16);
    } else {
        y[threadIdx.x] = __shfl_down_sync(~0u, v, 0);
    }
}

// A value handed to a thread of another warp, of the same block or of another one: fences and atomics have a scope.
template <bool wide_fence, bool wide_atomic>
__device__ void hand_over(int* data, int* flag, int* out, int from) {
    if (threadIdx.x == 0 && blockIdx.x == 0) {
        *data = 42;
        if (wide_fence) __threadfence(); else __threadfence_block();
        if (wide_atomic) atomicExch(flag, 1); else atomicExch_block(flag, 1);
    }
    if (threadIdx.x == 32 && blockIdx.x == from) {
        while ((wide_atomic ? atomicAdd(flag, 0) : atomicAdd_block(flag, 0)) == 0) {}
        *out = *data;
    }
}
extern "C" __global__ void hand_over_device(int* d, int* f, int* o, int from) { hand_over<true, true>(d, f, o, from); }
extern "C" __global__ void hand_over_fence(int* d, int* f, int* o, int from) { hand_over<false, true>(d, f, o, from); }
extern "C" __global__ void hand_over_atomic(int* d, int* f, int* o, int from) { hand_over<true, false>(d, f, o, from); }

// The same with a release and an acquire.
#define RELEASE_ACQUIRE(name, scope)                                                                            \
    extern "C" __global__ void name(int* data, int* flag, int* out, int from) {                                 \
        if (threadIdx.x == 0 && blockIdx.x == 0) {                                                              \
            *data = 42;                                                                                         \
            asm volatile("st.release." scope ".global.s32 [%0], 1;" ::"l"(flag) : "memory");                    \
        }                                                                                                       \
        if (threadIdx.x == 32 && blockIdx.x == from) {                                                          \
            int v;                                                                                              \
            do asm volatile("ld.acquire." scope ".global.s32 %0, [%1];" : "=r"(v) : "l"(flag) : "memory");      \
            while (v == 0);                                                                                     \
            *out = *data;                                                                                       \
        }                                                                                                       \
    }
RELEASE_ACQUIRE(release_device, "gpu")
RELEASE_ACQUIRE(release_block, "cta")

// Sums of blocks in one word.
extern "C" __global__ void count_device(int* n) { atomicAdd(n, 1); }
extern "C" __global__ void count_block(int* n) { atomicAdd_block(n, 1); }
