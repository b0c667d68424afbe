// One kernel, packed by nvcc --fatbin in three ways: PTX as it is, PTX compressed, machine code only.
extern "C" __global__ void twice(const int* x, int* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = 2 * x[i];
}
