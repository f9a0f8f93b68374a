// What the device is: its properties, each attribute, versions. What may differ is left out: names, the place on the bus,
// the amount of memory (a quota), and what managed memory can do.
// compat: toolkit 12.0
#include "compat.h"
#include <set>

int main() {
    int runtime = 0, count = 0, device = -1;
    CHECK(cudaRuntimeGetVersion(&runtime));
    save("runtime", runtime);
    int version = 0;
    CHECK(cudaDriverGetVersion(&version));
    EXPECT(version >= 13000);
    save("driver", version);
    CHECK(cudaGetDeviceCount(&count));
    EXPECT(count > 0);
    CHECK(cudaGetDevice(&device));
    save("device", device);
    cudaDeviceProp p;
    CHECK(cudaGetDeviceProperties(&p, 0));
    EXPECT(p.name[0] != 0 && p.totalGlobalMem > 0);
    std::vector<int> shape = {p.major, p.minor, p.multiProcessorCount, p.warpSize, p.maxThreadsPerBlock, p.maxThreadsDim[0], p.maxThreadsDim[1],
                              p.maxThreadsDim[2], p.maxGridSize[0], p.maxGridSize[1], p.maxGridSize[2], p.regsPerBlock, p.regsPerMultiprocessor,
                              p.maxThreadsPerMultiProcessor, p.maxBlocksPerMultiProcessor, p.l2CacheSize, p.memoryBusWidth, p.ECCEnabled,
                              p.asyncEngineCount, p.unifiedAddressing, p.canMapHostMemory, p.integrated, p.cooperativeLaunch,
                              p.streamPrioritiesSupported, p.globalL1CacheSupported, p.localL1CacheSupported, p.memoryPoolsSupported, p.concurrentKernels,
                              p.persistingL2CacheMaxSize, p.accessPolicyMaxWindowSize, p.clusterLaunch};
    save("properties", shape);
    save("sizes", std::vector<uint64_t>{p.sharedMemPerBlock, p.sharedMemPerBlockOptin, p.sharedMemPerMultiprocessor, p.totalConstMem, p.memPitch,
                                        p.textureAlignment, p.texturePitchAlignment, p.surfaceAlignment, p.reservedSharedMemPerBlock});
    // Where it is on the bus and in the host, and managed memory.
    std::set<int> differ = {cudaDevAttrPciBusId, cudaDevAttrPciDeviceId, cudaDevAttrPciDomainId,
#if CUDART_VERSION >= 12080
                            cudaDevAttrGpuPciDeviceId, cudaDevAttrGpuPciSubsystemId,
#endif
                            cudaDevAttrHostNumaId, cudaDevAttrNumaId, cudaDevAttrNumaConfig, cudaDevAttrConcurrentManagedAccess,
                            cudaDevAttrPageableMemoryAccess, cudaDevAttrPageableMemoryAccessUsesHostPageTables, cudaDevAttrDirectManagedMemAccessFromHost,
                            cudaDevAttrGPUDirectRDMASupported, cudaDevAttrGPUDirectRDMAFlushWritesOptions, cudaDevAttrGPUDirectRDMAWritesOrdering};
    for (int attribute = 1; attribute < cudaDevAttrMax; attribute++) {
        if (differ.count(attribute)) continue;
        int value = -1;
        cudaError_t status = cudaDeviceGetAttribute(&value, cudaDeviceAttr(attribute), 0);
        save("attribute " + std::to_string(attribute), status == cudaSuccess ? std::to_string(value) : cudaGetErrorName(status));
    }
    size_t available = 0, total = 0;
    CHECK(cudaMemGetInfo(&available, &total));
    EXPECT(available > 0 && available <= total);
    char address[32];
    int back = -1;
    CHECK(cudaDeviceGetPCIBusId(address, sizeof address, 0));
    CHECK(cudaDeviceGetByPCIBusId(&back, address));
    EXPECT(back == 0);
    cudaDeviceProp wanted = {};
    wanted.major = 1;
    CHECK(cudaChooseDevice(&back, &wanted));
    save("no such device", cudaSetDevice(count + 3));
    save("no such attribute", cudaDeviceGetAttribute(&back, cudaDeviceAttr(9999), 0));
    cudaGetLastError();
    unsigned flags = 0;
    CHECK(cudaGetDeviceFlags(&flags));
    save("flags", flags);
    save("set flags", cudaSetDeviceFlags(cudaDeviceScheduleBlockingSync));
    CHECK(cudaGetDeviceFlags(&flags));
    save("flags afterwards", flags);
    std::printf("attributes: done\n");
}
