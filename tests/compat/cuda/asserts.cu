// An assertion that fails in a kernel: its message, and the error that stays.
#include "compat.h"
#undef NDEBUG
#include <cassert>

__global__ void check(int n) { assert(threadIdx.x < n); }

int main() {
    dup2(1, 2);
    check<<<1, 4>>>(4);
    CHECK(cudaDeviceSynchronize());
    check<<<1, 4>>>(3);
    save("launch", cudaGetLastError());
    cudaError_t status = cudaDeviceSynchronize();
    EXPECT(status == cudaErrorAssert);
    save("synchronise", status);
    void *memory;
    save("later", cudaMalloc(&memory, 10));
    save("last", cudaGetLastError());
    check<<<1, 1>>>(9);
    save("launch later", cudaGetLastError());
    std::printf("asserts: done\n");
}
