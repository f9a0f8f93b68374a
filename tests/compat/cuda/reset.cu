// The device reset, and used again, with everything that modules hold made anew; destroyed objects; two rounds in one process.
#include "compat.h"

__device__ int counter = 10;
__constant__ int constant = 3;
__global__ void add(int *out) { *out = atomicAdd(&counter, constant); }

int main() {
    for (int round = 0; round < 3; round++) {
        int *out = compat::zeros<int>(1);
        cudaStream_t stream;
        CHECK(cudaStreamCreate(&stream));
        add<<<1, 1, 0, stream>>>(out);
        add<<<1, 1, 0, stream>>>(out);
        CHECK(cudaStreamSynchronize(stream));
        EXPECT(compat::fetch(out, 1)[0] == 13);
        int changed = 5 + round;
        CHECK(cudaMemcpyToSymbol(constant, &changed, sizeof changed));
        add<<<1, 1, 0, stream>>>(out);
        add<<<1, 1, 0, stream>>>(out);
        CHECK(cudaStreamSynchronize(stream));
        save("value", compat::fetch(out, 1));
        CHECK(cudaDeviceReset());
        int *other;
        CHECK(cudaMalloc(&other, 100));
        CHECK(cudaMemset(other, 0, 100));
    }
    std::printf("reset: done\n");
}
