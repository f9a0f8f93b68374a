// compat: toolkit 12.5
// compat: variants static shared ptds
// Driver functions by name: versions, those that are not there; the driver's own calls beside the runtime's.
#include "compat.h"

int main() {
    const char *names[] = {"cuInit", "cuMemAlloc", "cuMemcpyHtoD", "cuLaunchKernel", "cuStreamSynchronize", "cuEventRecord", "cuGraphLaunch",
                           "cuTensorMapEncodeTiled", "cuMemCreate", "cuDeviceGetUuid", "cuGetProcAddress", "cuMulticastCreate", "cuLibraryLoadData",
                           "cuStreamBeginCapture", "cuGraphInstantiate", "cuCtxCreate", "cuMemAllocAsync", "cuCoredumpGetAttribute", "cuNoSuchFunction", "cuDeviceGetExecAffinitySupport",
                           "cuGreenCtxCreate", "cuLogsRegisterCallback", "cuMemcpyBatchAsync", "cuCheckpointProcessLock"};
    for (const char *name : names) {
        for (unsigned version : {9000u, 11000u, 12000u, 12050u, 13000u}) {
            void *function = nullptr;
            cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
            cudaError_t status = cudaGetDriverEntryPointByVersion(name, &function, version, cudaEnableDefault, &result);
            save(std::string(name) + " " + std::to_string(version), std::string(cudaGetErrorName(status)) + " " + std::to_string(int(result)));
            EXPECT((function != nullptr) == (result == cudaDriverEntryPointSuccess));
        }
    }
    cudaGetLastError();
    // A context of the driver's while the runtime has the primary one.
    auto get_current = compat::driver<decltype(&cuCtxGetCurrent)>("cuCtxGetCurrent");
    auto retain = compat::driver<decltype(&cuDevicePrimaryCtxRetain)>("cuDevicePrimaryCtxRetain");
    auto release = compat::driver<CUresult (*)(CUdevice)>("cuDevicePrimaryCtxRelease");
    auto allocate = compat::driver<CUresult (*)(CUdeviceptr *, size_t)>("cuMemAlloc");
    auto fill = compat::driver<CUresult (*)(CUdeviceptr, unsigned, size_t)>("cuMemsetD32");
    auto text = compat::driver<decltype(&cuGetErrorString)>("cuGetErrorString");
    CHECK(cudaFree(0));
    CUcontext current = nullptr, primary = nullptr;
    CHECK(get_current(&current));
    CHECK(retain(&primary, 0));
    EXPECT(current == primary && primary);
    CUdeviceptr memory;
    CHECK(allocate(&memory, 4096));
    CHECK(fill(memory, 0x12345678, 1024));
    std::vector<unsigned> found = compat::fetch((unsigned *)memory, 1024);
    EXPECT(found[1023] == 0x12345678);
    CHECK(cudaFree((void *)memory));
    CHECK(release(0));
    for (int code : {0, 1, 2, 100, 201, 209, 400, 700, 719, 801, 999}) {
        const char *string = nullptr;
        CHECK(text(CUresult(code), &string));
        save("string " + std::to_string(code), string);
    }
    std::printf("entry_point: done\n");
}
