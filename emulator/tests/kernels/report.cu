// What kernels print, and kernels that are slow for one reason each.
#include <cstdio>

extern "C" __global__ void formats(int i, unsigned u, long long l, double d, const char* s) {
    printf("[%d|%i|%u|%o|%x|%X|%c]\n", i, i, u, u, u, u, 'c');
    printf("[%+d|% d|%+i|%05d|%-6d|%6d|%.4d|%8.4d|%-8.4d|%08.4d]\n", i, i, -i, i, i, i, i, i, i, i);
    printf("[%#x|%#X|%#o|%#x|%#.3f|%#g]\n", u, u, u, 0, d, 2.0);
    printf("[%hhd|%hhu|%hd|%hu|%ld|%lu|%lld|%llx|%zu|%jd|%td]\n", i + 256, i + 256, i + 65536, i + 65536, (long)l,
           (unsigned long)l, l, l, (size_t)l, l, l);
    printf("[%.2s|%s|%8s|%-8s|%8.3s|%.*s|%*s|%-*s]\n", s, s, s, s, s, 1, s, 7, s, 7, s);
    printf("[%f|%F|%.0f|%.3f|%10.2f|%-10.2f|%010.2f|%+.1f]\n", d, d, d, d, d, d, d, d);
    printf("[%e|%E|%.0e|%.3E|%g|%G|%g|%g|%.3g|%g]\n", d, d, d, d, d, d, 1e-5, 1e20, d, 100000.0);
    printf("[%a|%A|%.1a|%f|%F|%5.1f|%-5f|%E]\n", 1.5, 1.5, 1.5, 1. / 0., -1. / 0., 1. / 0., __longlong_as_double(0x7ff8000000000000), 1. / 0.);
    printf("[%*d|%-*d|%*d|%.*f|%*.*f|%.*d]\n", 6, i, 6, i, -6, i, 2, d, 9, 1, d, -1, i);
    printf("[%p|%%|%5c|%-3c|100%]\n", (void*)0x7f00, 'x', 'y');
    printf("[%y|%5y|%n]\n");
}

// What printf returns: the number of arguments.
extern "C" __global__ void format_results(int* y) {
    y[0] = printf("nothing\n");
    y[1] = printf("%d %*d\n", 1, 3, 2);
    y[2] = printf(nullptr);
}

extern "C" __global__ void say(const char* format, const char* s) { printf(format, s); }

#define EIGHT "%d %d %d %d %d %d %d %d "
extern "C" __global__ void many(int i) {
    printf(EIGHT EIGHT EIGHT EIGHT "%d|%d\n", i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i, i,
           i, i, i, i, i, i);
}

// The two sides of every warp run one after the other.
extern "C" __global__ void parted(const float* x, float* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float v = x[i];
    if (threadIdx.x & 1)
        for (int k = 0; k < 50; k++) v = v * v + 1.5f;
    else
        for (int k = 0; k < 50; k++) v = 0.5f - v * 0.25f;
    y[i] = v;
}

// The same work, parted between warps.
extern "C" __global__ void parted_ok(const float* x, float* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float v = x[i];
    if (threadIdx.x & 32)
        for (int k = 0; k < 50; k++) v = v * v + 1.5f;
    else
        for (int k = 0; k < 50; k++) v = 0.5f - v * 0.25f;
    y[i] = v;
}

// Every thread adds to one word.
extern "C" __global__ void crowded(const int* x, int* sum) {
    atomicAdd(sum, x[blockIdx.x * blockDim.x + threadIdx.x]);
}

// Every warp adds up first.
extern "C" __global__ void crowded_ok(const int* x, int* sum) {
    int v = __reduce_add_sync(~0u, x[blockIdx.x * blockDim.x + threadIdx.x]);
    if (threadIdx.x % 32 == 0) atomicAdd(sum + blockIdx.x % 32 * 8, v);
}

// An array that is indexed at run time lies in local memory.
extern "C" __global__ void indexed(const float* x, float* y, int n) {
    float v[16];
    for (int k = 0; k < 16; k++) v[k] = x[threadIdx.x + 32 * k];
    y[threadIdx.x] = v[n];
}

extern "C" __global__ void indexed_ok(const float* x, float* y, int n) {
    float v = 0.f;
    for (int k = 0; k < 16; k++) v = k == n ? x[threadIdx.x + 32 * k] : v;
    y[threadIdx.x] = v;
}

// Nothing but special functions.
extern "C" __global__ void sines(const float* x, float* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float v = x[i];
    for (int k = 0; k < 64; k++) v = __sinf(v);
    y[i] = v;
}
