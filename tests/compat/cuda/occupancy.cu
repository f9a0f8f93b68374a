// What the runtime says of kernels: registers, memory, occupancy; limits that can be set; large dynamic shared memory.
#include "compat.h"

__global__ void small(int *p) { *p = 1; }
__global__ void __launch_bounds__(128, 4) bounded(float *p) {
    __shared__ float part[512];
    part[threadIdx.x] = p[threadIdx.x];
    __syncthreads();
    p[threadIdx.x] = part[127 - threadIdx.x];
}
__global__ void large(int *out, int n) {
    extern __shared__ int values[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) values[i] = i;
    __syncthreads();
    int sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) sum += values[n - 1 - i] & 7;
    atomicAdd(out, sum);
}

template <typename F> void about(const char *name, F kernel) {
    cudaFuncAttributes a;
    CHECK(cudaFuncGetAttributes(&a, kernel));
    std::vector<int> all = {int(a.sharedSizeBytes), int(a.constSizeBytes), int(a.localSizeBytes), a.maxThreadsPerBlock, a.numRegs, a.ptxVersion,
                            a.binaryVersion, a.cacheModeCA, a.maxDynamicSharedSizeBytes, a.preferredShmemCarveout};
    save(std::string(name) + " attributes", all);
    for (int threads : {32, 128, 1000}) {
        for (size_t shared : {size_t(0), size_t(20000)}) {
            int blocks;
            cudaError_t status = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared);
            save(std::string(name) + " blocks", status == cudaSuccess ? std::to_string(blocks) : cudaGetErrorName(status));
        }
    }
    cudaGetLastError();
    int grid, block;
    CHECK(cudaOccupancyMaxPotentialBlockSize(&grid, &block, kernel, 0, 0));
    save(std::string(name) + " potential", std::vector<int>{grid, block});
    size_t available = 0;
    CHECK(cudaOccupancyAvailableDynamicSMemPerBlock(&available, kernel, 2, 128));
    save(std::string(name) + " shared memory", uint64_t(available));
}

int main() {
    about("small", small);
    about("bounded", bounded);
    about("large", large);
    int most = 0;
    CHECK(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, 0));
    int *out = compat::zeros<int>(1);
    large<<<1, 256, most>>>(out, most / 4);
    save("not asked for", cudaGetLastError());
    CHECK(cudaFuncSetAttribute(large, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
    CHECK(cudaFuncSetAttribute(large, cudaFuncAttributePreferredSharedMemoryCarveout, 100));
    large<<<1, 256, most>>>(out, most / 4);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
    save("sum", compat::fetch(out, 1));
    save("too much", cudaFuncSetAttribute(large, cudaFuncAttributeMaxDynamicSharedMemorySize, most + 1));
    cudaGetLastError();
    about("large, afterwards", large);
    CHECK(cudaFuncSetCacheConfig(small, cudaFuncCachePreferL1));
    for (auto limit : {cudaLimitStackSize, cudaLimitPrintfFifoSize, cudaLimitMallocHeapSize, cudaLimitDevRuntimePendingLaunchCount, cudaLimitMaxL2FetchGranularity, cudaLimitPersistingL2CacheSize}) {
        size_t value = 0;
        cudaError_t status = cudaDeviceGetLimit(&value, limit);
        save("limit", status);
        save("limit value", uint64_t(value));
    }
    CHECK(cudaDeviceSetLimit(cudaLimitStackSize, 4096));
    size_t value = 0;
    CHECK(cudaDeviceGetLimit(&value, cudaLimitStackSize));
    save("stack", uint64_t(value));
    std::printf("occupancy: done\n");
}
