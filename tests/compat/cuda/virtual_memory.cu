// Memory whose addresses and pages are managed by the program: reserved, created, mapped, grown, shared by a file descriptor.
#include "compat.h"

__global__ void fill(int *data, int n, int by) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = i * by;
}

int main() {
    CHECK(cudaFree(0));
    auto granularity = compat::driver<decltype(&cuMemGetAllocationGranularity)>("cuMemGetAllocationGranularity");
    auto reserve = compat::driver<decltype(&cuMemAddressReserve)>("cuMemAddressReserve");
    auto release_addresses = compat::driver<decltype(&cuMemAddressFree)>("cuMemAddressFree");
    auto create = compat::driver<decltype(&cuMemCreate)>("cuMemCreate");
    auto release = compat::driver<decltype(&cuMemRelease)>("cuMemRelease");
    auto map = compat::driver<decltype(&cuMemMap)>("cuMemMap");
    auto unmap = compat::driver<decltype(&cuMemUnmap)>("cuMemUnmap");
    auto set_access = compat::driver<decltype(&cuMemSetAccess)>("cuMemSetAccess");
    auto get_access = compat::driver<decltype(&cuMemGetAccess)>("cuMemGetAccess");
    auto retain = compat::driver<decltype(&cuMemRetainAllocationHandle)>("cuMemRetainAllocationHandle");
    auto properties = compat::driver<decltype(&cuMemGetAllocationPropertiesFromHandle)>("cuMemGetAllocationPropertiesFromHandle");
    auto out_of = compat::driver<decltype(&cuMemExportToShareableHandle)>("cuMemExportToShareableHandle");
    auto into = compat::driver<decltype(&cuMemImportFromShareableHandle)>("cuMemImportFromShareableHandle");
    CUmemAllocationProp wanted = {};
    wanted.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    wanted.location = {CU_MEM_LOCATION_TYPE_DEVICE, 0};
    size_t least = 0, best = 0;
    CHECK(granularity(&least, &wanted, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    CHECK(granularity(&best, &wanted, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED));
    save("granularity", std::vector<uint64_t>{least, best});
    CUdeviceptr base;
    const size_t PART = least, PARTS = 8;
    CHECK(reserve(&base, PART * PARTS, 0, 0, 0));
    EXPECT(base % least == 0);
    CUmemGenericAllocationHandle parts[PARTS];
    CUmemAccessDesc access = {wanted.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    for (size_t p = 0; p < 4; p++) {
        CHECK(create(&parts[p], PART, &wanted, 0));
        CHECK(map(base + p * PART, PART, 0, parts[p], 0));
        CHECK(set_access(base + p * PART, PART, &access, 1));
    }
    int *data = (int *)base, n = int(4 * PART / sizeof(int));
    fill<<<(n + 255) / 256, 256>>>(data, n, 3);
    CHECK(cudaDeviceSynchronize());
    std::vector<int> found = compat::fetch(data, n);
    EXPECT(found[n - 1] == (n - 1) * 3);
    // Grown, as allocators that grow segments do; a part moved to another address keeps what it has.
    for (size_t p = 4; p < 6; p++) {
        CHECK(create(&parts[p], PART, &wanted, 0));
        CHECK(map(base + p * PART, PART, 0, parts[p], 0));
    }
    CHECK(set_access(base + 4 * PART, 2 * PART, &access, 1));
    CHECK(cudaMemset((void *)(base + 4 * PART), 1, 2 * PART));
    CHECK(cudaDeviceSynchronize());
    CHECK(unmap(base + PART, PART));
    CHECK(map(base + 6 * PART, PART, 0, parts[1], 0));
    CHECK(set_access(base + 6 * PART, PART, &access, 1));
    std::vector<int> moved = compat::fetch((int *)(base + 6 * PART), PART / sizeof(int));
    EXPECT(moved[0] == int(PART / sizeof(int)) * 3);
    unsigned long long flags = 0;
    CUmemLocation here = wanted.location;
    CHECK(get_access(&flags, &here, base));
    save("access", uint64_t(flags));
    CUmemGenericAllocationHandle again;
    CHECK(retain(&again, (void *)base));
    CUmemAllocationProp told = {};
    CHECK(properties(&told, again));
    EXPECT(told.type == wanted.type && told.location.type == wanted.location.type);
    CHECK(release(again));
    save("mapped twice", int(map(base, PART, 0, parts[0], 0)));
    save("odd size", int(create(&again, PART + 1, &wanted, 0)));
    save("too much", int(create(&again, size_t(1) << 45, &wanted, 0)));
    save("odd address", int(unmap(base + 1, PART)));
    for (size_t p : {0, 2, 3, 4, 5, 6}) CHECK(unmap(base + p * PART, PART));
    for (size_t p = 0; p < 6; p++) CHECK(release(parts[p]));

    // Shared by a file descriptor, here with the same process.
    wanted.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
    CUmemGenericAllocationHandle ours, theirs;
    CHECK(create(&ours, PART, &wanted, 0));
    int file = -1;
    CHECK(out_of(&file, ours, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    EXPECT(file >= 0);
    CHECK(into(&theirs, (void *)(uintptr_t)file, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR));
    close(file);
    CHECK(map(base, PART, 0, ours, 0));
    CHECK(map(base + PART, PART, 0, theirs, 0));
    CHECK(set_access(base, 2 * PART, &access, 1));
    fill<<<4, 256>>>(data, 1024, 9);
    CHECK(cudaDeviceSynchronize());
    EXPECT(compat::fetch((int *)(base + PART), 1024)[1023] == 1023 * 9);
    CHECK(unmap(base, 2 * PART));
    CHECK(release(ours));
    CHECK(release(theirs));
    CHECK(release_addresses(base, PART * PARTS));
    std::printf("virtual_memory: done\n");
}
