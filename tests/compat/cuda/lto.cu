// compat: toolkit 13.0
// compat: with parts/device_functions.cu
// compat: nvcc -rdc=true
// compat: code -arch=sm_ARCH -dlto
// Device code of two sources, optimised as one when it is linked.
#include "compat.h"

extern __device__ int step_count;
extern __constant__ float weights[4];
__device__ float weigh(float x, int i);
typedef float (*Function)(float, int);
__device__ Function by_pointer = weigh;

__global__ void apply(float *data, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = weigh(data[i], i) + by_pointer(1.0f, i);
}

int main() {
    const int N = 2000;
    float host[4] = {0.5f, 2, -1, 3};
    CHECK(cudaMemcpyToSymbol(weights, host, sizeof host));
    float *data = compat::device(compat::noise(N));
    apply<<<(N + 127) / 128, 128>>>(data, N);
    CHECK(cudaGetLastError());
    int steps = 0;
    CHECK(cudaMemcpyFromSymbol(&steps, step_count, sizeof steps));
    EXPECT(steps == 2 * N);
    save("data", compat::fetch(data, N));
    std::printf("lto: %d steps\n", steps);
}
