// What kernels print reaches the program's output, in order with its own at each synchronisation.
#include "compat.h"

__global__ void hello(int launch) {
    printf("launch %d thread %d: %s %5.2f %08x %llu%c\n", launch, threadIdx.x, "text", launch * 1.5, 0xabcu + launch, 1ull << 40, '!');
}
__global__ void many(int n) {
    for (int i = 0; i < n; i++) printf("line %d\n", i);
}

int main() {
    size_t fifo = 0;
    CHECK(cudaDeviceGetLimit(&fifo, cudaLimitPrintfFifoSize));
    save("fifo", uint64_t(fifo));
    std::printf("before\n");
    std::fflush(stdout);
    for (int launch = 0; launch < 3; launch++) {
        hello<<<1, 4>>>(launch);
        CHECK(cudaDeviceSynchronize());
        std::printf("launched %d\n", launch);
        std::fflush(stdout);
    }
    many<<<1, 1>>>(500);
    CHECK(cudaStreamSynchronize(0));
    std::printf("after\n");
    std::fflush(stdout);
    hello<<<1, 1>>>(9);
    // Not waited for: it must be there at the program's end all the same.
    CHECK(cudaDeviceReset());
}
