// Planted bugs, each beside its repaired twin (suffix _ok), or repaired by its arguments. Compiled with -lineinfo, so that
// reports name lines of this file.
#define COPY_16(to, from) asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((unsigned)__cvta_generic_to_shared(to)), "l"(from))
#define COMMIT() asm volatile("cp.async.commit_group;")
#define WAIT(n) asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory")

extern "C" __global__ void read_past(const float* x, float* y, int n) { y[threadIdx.x] = x[threadIdx.x + n]; }
extern "C" __global__ void write_past(float* y, int n) { y[(int)threadIdx.x + n] = 1.f; }
extern "C" __global__ void atomic_past(int* y, int n) { atomicAdd(y + threadIdx.x + n, 1); }
extern "C" __global__ void shared_past(float* y, int n) {
    extern __shared__ float s[];
    s[threadIdx.x + n] = 1.f;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x + n];
}
extern "C" __global__ void local_past(float* y, int n) {
    float v[8];
    for (int i = 0; i < 8; i++) v[i] = i;
    v[n] = 5.f;
    float s = 0.f;
    for (int i = 0; i < 8; i++) s += v[(i + n) & 7];
    y[threadIdx.x] = s;
}
extern "C" __global__ void misaligned(const char* x, float* y, int shift) { y[threadIdx.x] = *(const float*)(x + 4 * threadIdx.x + shift); }
extern "C" __global__ void misaligned_vector(const float* x, float4* y, int shift) { y[threadIdx.x] = *(const float4*)(x + 4 * threadIdx.x + shift); }

extern "C" __global__ void uninitialised_shared(float* y, int n) {
    __shared__ float s[64];
    if (threadIdx.x < n) s[threadIdx.x] = 1.f;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}

extern "C" __global__ void race_raw(const float* x, float* y) {
    __shared__ float s[128];
    s[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = s[127 - threadIdx.x];
}
extern "C" __global__ void race_raw_ok(const float* x, float* y) {
    __shared__ float s[128];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[127 - threadIdx.x];
}
extern "C" __global__ void race_war(const float* x, float* y) {
    __shared__ float s[128];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    float v = s[(threadIdx.x + 32) & 127];
    s[threadIdx.x] = v;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void race_war_ok(const float* x, float* y) {
    __shared__ float s[128];
    s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    float v = s[(threadIdx.x + 32) & 127];
    __syncthreads();
    s[threadIdx.x] = v;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void race_waw(float* y) {
    __shared__ float s[32];
    s[threadIdx.x & 31] = threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x & 31];
}
extern "C" __global__ void race_waw_ok(float* y) {
    __shared__ float s[32];
    if (threadIdx.x < 32) s[threadIdx.x] = threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x & 31];
}
extern "C" __global__ void race_warp(const float* x, float* y) {
    __shared__ float s[32];
    s[threadIdx.x] = x[threadIdx.x];
    y[threadIdx.x] = s[31 - threadIdx.x];
}
extern "C" __global__ void race_warp_ok(const float* x, float* y) {
    __shared__ float s[32];
    s[threadIdx.x] = x[threadIdx.x];
    __syncwarp();
    y[threadIdx.x] = s[31 - threadIdx.x];
}

extern "C" __global__ void divergent_barrier(float* y, int n) {
    if (threadIdx.x < n) __syncthreads();
    y[threadIdx.x] = 1.f;
}
extern "C" __global__ void half_barrier(float* y, int n) {
    if (threadIdx.x >= n) return;
    __syncthreads();
    y[threadIdx.x] = 1.f;
}
extern "C" __global__ void bad_mask(const int* x, int* y, int n) {
    int v = x[threadIdx.x];
    if (threadIdx.x < n) v = __shfl_sync(0xffffffffu, v, 0);
    y[threadIdx.x] = v;
}
extern "C" __global__ void bad_mask_own(const int* x, int* y, unsigned mask) { y[threadIdx.x] = __shfl_sync(mask, x[threadIdx.x], 0); }

extern "C" __global__ void global_race(const float* x, float* y) {
    y[blockIdx.x] = x[blockIdx.x];
    if (threadIdx.x == 0) y[gridDim.x + blockIdx.x] = y[(blockIdx.x + 1) % gridDim.x];
}
extern "C" __global__ void global_race_ok(const float* x, float* y) {
    if (threadIdx.x == 0) y[blockIdx.x] = x[blockIdx.x];
    if (threadIdx.x == 0) y[gridDim.x + blockIdx.x] = y[blockIdx.x];
}

extern "C" __global__ void missing_wait(const float4* x, float4* y) {
    __shared__ float4 s[32];
    COPY_16(&s[threadIdx.x], &x[threadIdx.x]);
    COMMIT();
    y[threadIdx.x] = s[threadIdx.x];
}
extern "C" __global__ void missing_wait_ok(const float4* x, float4* y) {
    __shared__ float4 s[32];
    COPY_16(&s[threadIdx.x], &x[threadIdx.x]);
    COMMIT();
    WAIT(0);
    y[threadIdx.x] = s[threadIdx.x];
}
// A wait covers the thread's own copies: what other warps copied needs a barrier too.
extern "C" __global__ void wait_without_barrier(const float4* x, float4* y) {
    __shared__ float4 s[64];
    COPY_16(&s[threadIdx.x], &x[threadIdx.x]);
    COMMIT();
    WAIT(0);
    y[threadIdx.x] = s[63 - threadIdx.x];
}
extern "C" __global__ void wait_without_barrier_ok(const float4* x, float4* y) {
    __shared__ float4 s[64];
    COPY_16(&s[threadIdx.x], &x[threadIdx.x]);
    COMMIT();
    WAIT(0);
    __syncthreads();
    y[threadIdx.x] = s[63 - threadIdx.x];
}
// The next stage is fetched into the buffer that slower warps still read.
extern "C" __global__ void stage_overwritten(const float4* x, float4* y, int steps) {
    __shared__ float4 s[64];
    for (int i = 0; i < steps; i++) {
        COPY_16(&s[threadIdx.x], &x[64 * i + threadIdx.x]);
        COMMIT();
        WAIT(0);
        __syncthreads();
        y[64 * i + threadIdx.x] = s[63 - threadIdx.x];
    }
}
extern "C" __global__ void stage_overwritten_ok(const float4* x, float4* y, int steps) {
    __shared__ float4 s[64];
    for (int i = 0; i < steps; i++) {
        COPY_16(&s[threadIdx.x], &x[64 * i + threadIdx.x]);
        COMMIT();
        WAIT(0);
        __syncthreads();
        y[64 * i + threadIdx.x] = s[63 - threadIdx.x];
        __syncthreads();
    }
}

// A block hands data to another through a flag: without the fences nothing orders the data before it.
extern "C" __global__ void publish(int* data, int* flag, int* y) {
    if (blockIdx.x == 0) {
        *data = 42;
        atomicExch(flag, 1);
    } else {
        while (atomicAdd(flag, 0) == 0) {}
        *y = *data;
    }
}
extern "C" __global__ void publish_ok(int* data, int* flag, int* y) {
    if (blockIdx.x == 0) {
        *data = 42;
        __threadfence();
        atomicExch(flag, 1);
    } else {
        while (atomicAdd(flag, 0) == 0) {}
        __threadfence();
        *y = *data;
    }
}

extern "C" __global__ void wait_for_ever(volatile int* flag) {
    while (*flag == 0) {}
}
extern "C" __global__ void barrier_deadlock(float* y) {
    if (threadIdx.x < 32) asm volatile("bar.sync 1, 64;");
    y[threadIdx.x] = 1.f;
    __syncthreads();
}
extern "C" __global__ void barrier_deadlock_ok(float* y) {
    if (threadIdx.x < 32)
        asm volatile("bar.sync 1, 64;");
    else
        asm volatile("bar.arrive 1, 64;");
    y[threadIdx.x] = 1.f;
    __syncthreads();
}
extern "C" __global__ void stop() { __trap(); }
extern "C" __global__ void copy(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i];
}
// Bytes of one word written by different warps: no race.
extern "C" __global__ void bytes_ok(const unsigned char* x, unsigned char* y) { y[threadIdx.x * 32 % 127 + threadIdx.x / 127] = x[threadIdx.x]; }
// Each half of the warp has a mask: it orders nothing between the halves.
extern "C" __global__ void partial_syncwarp(const float* x, float* y, unsigned low, unsigned high, int flip) {
    __shared__ float s[32];
    int lane = threadIdx.x;
    s[lane] = x[lane];
    __syncwarp(lane < 16 ? low : high);
    y[lane] = s[lane ^ flip];
}
// Lane 1 meets lane 0, then lane 2: what lane 0 wrote is known to lane 2, or would be the other way round.
extern "C" __global__ void chained_syncwarp(const float* x, float* y, int last) {
    __shared__ float s[32];
    int lane = threadIdx.x;
    s[lane] = x[lane];
    if (lane < 2) __syncwarp(3u);
    if (lane == 1 || lane == 2) __syncwarp(6u);
    if (lane == last) y[lane] = s[2 - last];
}
// Many barriers before the race.
extern "C" __global__ void late_race(const float* x, float* y, int barriers, int last_one) {
    __shared__ float s[64];
    for (int i = 0; i < barriers; i++) __syncthreads();
    s[threadIdx.x] = x[threadIdx.x];
    if (last_one) __syncthreads();
    y[threadIdx.x] = s[63 - threadIdx.x];
}
extern "C" __global__ void late_race_warp(const float* x, float* y, int barriers, int last_one) {
    __shared__ float s[32];
    for (int i = 0; i < barriers; i++) __syncwarp();
    s[threadIdx.x] = x[threadIdx.x];
    if (last_one) __syncwarp();
    y[threadIdx.x] = s[31 - threadIdx.x];
}
// A fence orders what others see of one thread: it is no meeting of the lanes.
extern "C" __global__ void fence_is_no_barrier(const float* x, float* y, int meet) {
    __shared__ float s[32];
    s[threadIdx.x] = x[threadIdx.x];
    __threadfence_block();
    if (meet) __syncwarp();
    y[threadIdx.x] = s[31 - threadIdx.x];
}
// Two arrays side by side: one element more, or less, lies in the neighbour.
extern "C" __global__ void neighbours(float* y, int n, int m) {
    __shared__ float low[32];
    __shared__ float high[32];
    low[threadIdx.x + n] = 1.f;
    high[(int)threadIdx.x + m] = 2.f;
    __syncthreads();
    y[threadIdx.x] = low[threadIdx.x + n] + high[(int)threadIdx.x + m];
}
extern "C" __global__ void before_dynamic(float* y, int n, int m) {
    __shared__ float first[32];
    extern __shared__ float4 rest[];
    first[threadIdx.x + n] = 1.f;
    rest[(int)threadIdx.x + m] = make_float4(2.f, 2.f, 2.f, 2.f);
    __syncthreads();
    y[threadIdx.x] = first[threadIdx.x + n] + rest[(int)threadIdx.x + m].x;
}
// The read-only cache does not see what the kernel itself has written, barriers or not.
extern "C" __global__ void stale_read(int* x, int* y, int change) {
    if (change) x[threadIdx.x] = change;
    __syncthreads();
    y[threadIdx.x] = __ldg(x + (threadIdx.x ^ 32));
}
extern "C" __global__ void stale_read_ok(int* x, int* y, int change) {
    if (change) x[threadIdx.x] = change;
    __syncthreads();
    y[threadIdx.x] = x[threadIdx.x ^ 32];
}
