// Calls for a profiler that is not there.
#include "compat.h"

// Of cuda_profiler_api.h, which not every toolkit has.
extern "C" cudaError_t cudaProfilerStart();
extern "C" cudaError_t cudaProfilerStop();

__global__ void set(int *p) { *p = 8; }

int main() {
    int *p = compat::zeros<int>(1);
    save("start", cudaProfilerStart());
    set<<<1, 1>>>(p);
    CHECK(cudaDeviceSynchronize());
    save("stop", cudaProfilerStop());
    EXPECT(compat::fetch(p, 1)[0] == 8);
    std::printf("profiler: done\n");
}
