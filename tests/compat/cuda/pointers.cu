// What a pointer is: of the device, pinned, registered, managed, of a pool, ordinary.
#include "compat.h"

__device__ int global_one[10];

static void about(const char *name, const void *pointer) {
    cudaPointerAttributes a;
    std::memset(&a, 0, sizeof a);
    cudaError_t status = cudaPointerGetAttributes(&a, pointer);
    save(std::string(name) + " status", status);
    save(std::string(name) + " type", int(a.type));
    save(std::string(name) + " device", a.device);
    save(std::string(name) + " pointers", std::vector<int>{a.devicePointer == pointer, a.hostPointer == pointer, !a.devicePointer, !a.hostPointer});
}

int main() {
    char *device, *pinned, *managed, *pooled, *own = (char *)malloc(100000), ordinary = 0;
    CHECK(cudaMalloc(&device, 1000));
    CHECK(cudaMallocHost(&pinned, 1000));
    CHECK(cudaMallocManaged(&managed, 1000));
    CHECK(cudaMallocAsync(&pooled, 1000, 0));
    CHECK(cudaHostRegister(own, 100000, 0));
    void *global;
    CHECK(cudaGetSymbolAddress(&global, global_one));
    about("device", device);
    about("inside", device + 999);
    about("pinned", pinned);
    about("inside pinned", pinned + 500);
    about("managed", managed);
    about("pooled", pooled);
    about("registered", own);
    about("global", global);
    about("ordinary", &ordinary);
    about("nothing", nullptr);
    auto range = compat::driver<CUresult (*)(CUdeviceptr *, size_t *, CUdeviceptr)>("cuMemGetAddressRange");
    CUdeviceptr base;
    size_t size;
    CHECK(range(&base, &size, (CUdeviceptr)(device + 77)));
    EXPECT(base == (CUdeviceptr)device);
    save("size", uint64_t(size));
    auto attribute = compat::driver<decltype(&cuPointerGetAttribute)>("cuPointerGetAttribute");
    unsigned type = 0;
    CHECK(attribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, (CUdeviceptr)device));
    save("memory type", type);
    unsigned long long id = 0;
    CHECK(attribute(&id, CU_POINTER_ATTRIBUTE_BUFFER_ID, (CUdeviceptr)device));
    EXPECT(id != 0);
    int mapped = 0;
    CHECK(attribute(&mapped, CU_POINTER_ATTRIBUTE_MAPPED, (CUdeviceptr)device));
    save("mapped", mapped);
    CHECK(cudaHostUnregister(own));
    about("no longer registered", own);
    CHECK(cudaFree(device));
    about("freed", device);
    cudaGetLastError();
    free(own);
    std::printf("pointers: done\n");
}
