// SPDX-License-Identifier: Apache-2.0 OR MIT
// Virtual memory: reserved addresses, memory that is mapped there, access.
#include "t1_granule.h"

static void with_granule(void) { with_granule_for(0); }

static void granularity(void) {
    with_granule();
    size_t bytes = 0;
    say("granule %zu", granule);
    TELL_VALUE(cuMemGetAllocationGranularity(&bytes, &props, 1), bytes);
    TELL(cuMemGetAllocationGranularity(NULL, &props, 0));
    TELL(cuMemGetAllocationGranularity(&bytes, NULL, 0));
    TELL(cuMemGetAllocationGranularity(&bytes, &props, 2));
    props.location.id = 1000;
    TELL(cuMemGetAllocationGranularity(&bytes, &props, 0));
    props.location.id = 0;
    props.type = 0;
    TELL(cuMemGetAllocationGranularity(&bytes, &props, 0));
    // Asked before it is tried whether there is memory of the host's.
    props.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    props.location = (CUmemLocation){CU_MEM_LOCATION_TYPE_HOST_NUMA, 0};
    bytes = 0;
    TELL(cuMemGetAllocationGranularity(&bytes, &props, 0));
    say("of the host: %d", bytes > 0 && bytes % 4096 == 0);
}

static void reserving(void) {
    with_granule();
    CUdeviceptr a = 0, b = 0;
    TELL(cuMemAddressReserve(NULL, granule, 0, 0, 0));
    TELL(cuMemAddressReserve(&a, 0, 0, 0, 0));
    TELL(cuMemAddressReserve(&a, granule + 1, 0, 0, 0));
    TELL(cuMemAddressReserve(&a, granule, 0, 0, 1));
    TELL(cuMemAddressReserve(&a, granule, 12345, 0, 0));
    TELL(cuMemAddressReserve(&a, 4 * granule, 0, 0, 0));
    TELL(cuMemAddressReserve(&b, (size_t)64 << 30, 0, 0, 0));
    say("aligned: %d %d", a % granule == 0, b % granule == 0);
    TELL(cuMemsetD8_v2(a, 1, 1));
    TELL(cuMemAddressFree(a, granule));
    TELL(cuMemAddressFree(a + granule, granule));
    TELL(cuMemAddressFree(a, 4 * granule));
    TELL(cuMemAddressFree(a, 4 * granule));
    TELL(cuMemAddressFree(b, (size_t)64 << 30));
}

static void mapping(void) {
    with_granule();
    CUdeviceptr at;
    CUmemGenericAllocationHandle one = 0, two = 0, got = 0;
    unsigned long long flags = 0;
    NEED(cuMemAddressReserve(&at, 8 * granule, 0, 0, 0));
    TELL(cuMemCreate(NULL, granule, &props, 0));
    TELL(cuMemCreate(&one, 0, &props, 0));
    TELL(cuMemCreate(&one, granule + 1, &props, 0));
    TELL(cuMemCreate(&one, granule, NULL, 0));
    TELL(cuMemCreate(&one, granule, &props, 1));
    TELL(cuMemCreate(&one, (size_t)1 << 46, &props, 0));
    TELL(cuMemCreate(&one, granule, &props, 0));
    TELL(cuMemCreate(&two, 2 * granule, &props, 0));
    TELL(cuMemMap(at, granule, 0, 12345, 0));
    TELL(cuMemMap(at, granule, 0, one, 1));
    TELL(cuMemMap(at + 8 * granule, granule, 0, one, 0));
    TELL(cuMemMap(at + 7 * granule, 2 * granule, 0, two, 0));
    TELL(cuMemMap(at, granule, 0, one, 0));
    TELL(cuMemMap(at, granule, 0, one, 0));
    TELL(cuMemMap(at + granule, 2 * granule, 0, two, 0));
    TELL(cuMemGetAccess(&flags, &props.location, at));
    say("flags %llu", flags);
    TELL(cuMemSetAccess(at, granule, NULL, 0));
    TELL(cuMemSetAccess(at + 4 * granule, granule, &everything, 1));
    TELL(cuMemSetAccess(at, 3 * granule, &everything, 1));
    TELL(cuMemGetAccess(&flags, &props.location, at));
    say("flags %llu", flags);
    // One range over both.
    unsigned n = 3 * granule / 4, by = 2, words[2] = {0};
    void *parameters[] = {&at, &by, &n};
    TELL(cuMemsetD32_v2(at, 40, n));
    TELL(cuLaunchKernel(kernel_of(module, "increment"), (n + 255) / 256, 1, 1, 256, 1, 1, 0, NULL, parameters, NULL));
    TELL(cuMemcpyDtoH_v2(words, at + granule - 4, 8));
    say("words %u %u", words[0], words[1]);
    TELL(cuMemsetD8_v2(at + 3 * granule, 1, 1));
    TELL(cuMemsetD8_v2(at, 1, 3 * granule + 1));
    char *local = malloc(3 * granule), *back = malloc(3 * granule);
    for (size_t i = 0; i < 3 * granule; i++)
        local[i] = i * 7 + i / 1000;
    TELL(cuMemcpyHtoD_v2(at, local, 3 * granule));
    TELL(cuMemcpyDtoH_v2(back, at, 3 * granule));
    say("equal: %d", memcmp(local, back, 3 * granule) == 0);
    TELL(cuMemFree_v2(at));
    TELL(cuMemAddressFree(at, 8 * granule));
    TELL(cuMemUnmap(at, granule / 2));
    TELL(cuMemUnmap(at + 3 * granule, granule));
    // A mapping holds the memory, and gives its handle.
    TELL(cuMemRelease(two));
    TELL(cuMemRetainAllocationHandle(&got, (void *)(uintptr_t)(at + 2 * granule)));
    say("the same: %d", got == two);
    TELL(cuMemRetainAllocationHandle(&got, (void *)(uintptr_t)(at + 5 * granule)));
    CUmemAllocationProp told;
    TELL(cuMemGetAllocationPropertiesFromHandle(&told, two));
    say("type %d, device %d", told.type, told.location.id == device);
    TELL(cuMemRelease(two));
    TELL(cuMemUnmap(at, 3 * granule));
    TELL(cuMemsetD8_v2(at, 1, 1));
    // Its content stays with the handle.
    TELL(cuMemMap(at + 4 * granule, granule, 0, one, 0));
    TELL(cuMemSetAccess(at + 4 * granule, granule, &everything, 1));
    TELL(cuMemcpyDtoH_v2(back, at + 4 * granule, granule));
    say("equal: %d", memcmp(local, back, granule) == 0);
    TELL(cuMemUnmap(at + 4 * granule, granule));
    TELL(cuMemRelease(one));
    TELL(cuMemRelease(one));
    TELL(cuMemAddressFree(at, 8 * granule));
    free(local);
    free(back);
}

// As an allocator does whose segments grow.
static void growing(void) {
    with_granule();
    CUdeviceptr at;
    CUmemGenericAllocationHandle handles[16];
    NEED(cuMemAddressReserve(&at, 16 * granule, 0, 0, 0));
    int right = 0;
    for (int i = 0; i < 16; i++) {
        NEED(cuMemCreate(&handles[i], granule, &props, 0));
        NEED(cuMemMap(at + i * granule, granule, 0, handles[i], 0));
        NEED(cuMemSetAccess(at + i * granule, granule, &everything, 1));
        NEED(cuMemsetD32_v2(at, i, (i + 1) * granule / 4));
        unsigned last = 99;
        NEED(cuMemcpyDtoH_v2(&last, at + (i + 1) * granule - 4, 4));
        right += last == (unsigned)i;
    }
    say("right: %d", right);
    NEED(cuCtxSynchronize());
    TELL(cuMemUnmap(at, 16 * granule));
    for (int i = 0; i < 16; i++)
        NEED(cuMemRelease(handles[i]));
    TELL(cuMemAddressFree(at, 16 * granule));
}

int main(int argc, char **argv) {
    static const struct section sections[] = {
        SECTION(granularity), SECTION(reserving), SECTION(mapping), SECTION(growing),
    };
    return RUN_SECTIONS(sections);
}
