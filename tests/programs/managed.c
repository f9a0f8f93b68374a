// SPDX-License-Identifier: Apache-2.0 OR MIT
// Managed memory: host and device write and read it in turn, at one address.
#include "common.h"

enum {
    CU_MEM_ATTACH_GLOBAL = 1,
    CU_MEM_ATTACH_SINGLE = 4,
    CU_MEM_ADVISE_SET_READ_MOSTLY = 1,
    CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY = 1,
    MANAGED_MEMORY = 83,
    CONCURRENT_MANAGED_ACCESS = 89,
    IS_MANAGED = 8,
    CUDA_ERROR_INVALID_DEVICE = 101,
};
CUresult cuMemAllocManaged(CUdeviceptr *pointer, size_t bytes, unsigned flags);
CUresult cuMemPrefetchAsync(CUdeviceptr at, size_t bytes, CUdevice device, CUstream stream);
CUresult cuMemAdvise(CUdeviceptr at, size_t bytes, int advice, CUdevice device);
CUresult cuMemRangeGetAttribute(void *data, size_t bytes, int attribute, CUdeviceptr at, size_t len);
CUresult cuStreamAttachMemAsync(CUstream stream, CUdeviceptr at, size_t len, unsigned flags);

int main(int argc, char **argv) {
    size_t words = (size_t)argument(argc, argv, 1, 100000), bytes = 4 * words;
    setup();
    int managed = 0, concurrent = 0;
    CHECK(cuDeviceGetAttribute(&managed, MANAGED_MEMORY, 0));
    CHECK(cuDeviceGetAttribute(&concurrent, CONCURRENT_MANAGED_ACCESS, 0));
    EXPECT(managed == 1, "the device has no managed memory");
    CUdeviceptr at = 0;
    EXPECT(cuMemAllocManaged(&at, 0, CU_MEM_ATTACH_GLOBAL) == CUDA_ERROR_INVALID_VALUE, "no bytes were allocated");
    EXPECT(cuMemAllocManaged(&at, 64, 0) == CUDA_ERROR_INVALID_VALUE, "memory was attached to nothing");
    CHECK(cuMemAllocManaged(&at, bytes, CU_MEM_ATTACH_GLOBAL));
    uint32_t *host = (uint32_t *)(uintptr_t)at;
    unsigned char is = 0;
    CHECK(cuPointerGetAttribute(&is, IS_MANAGED, at));
    EXPECT(is == 1, "it is not said to be managed");
    CUstream stream;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamAttachMemAsync(stream, at, 0, CU_MEM_ATTACH_GLOBAL));
    EXPECT(cuStreamAttachMemAsync(stream, at, bytes / 2, CU_MEM_ATTACH_GLOBAL) != CUDA_SUCCESS, "half of it was attached");
    EXPECT(cuStreamAttachMemAsync(NULL, at, 0, CU_MEM_ATTACH_SINGLE) != CUDA_SUCCESS, "it was attached to the null stream");
    uint32_t by = 5, n = (uint32_t)words;
    void *params[] = {&at, &by, &n};
    CUfunction increment = kernel("increment");
    for (uint32_t round = 0; round < 3; round++) {
        for (size_t i = 0; i < words; i++)
            host[i] = round == 0 ? (uint32_t)i : host[i] + 1;
        CHECK(cuLaunchKernel(increment, (n + 255) / 256, 1, 1, 256, 1, 1, 0, stream, params, NULL));
        CHECK(cuStreamSynchronize(stream));
        for (size_t i = 0; i < words; i++)
            EXPECT(host[i] == i + 5 * (round + 1) + round, "word %zu is %u", i, host[i]);
    }
    // What a synchronous copy or fill wrote is there when the call returns.
    uint32_t *local = malloc(bytes);
    EXPECT(local != NULL, "no memory");
    for (size_t i = 0; i < words; i++)
        local[i] = (uint32_t)(7 * i);
    CHECK(cuMemcpyHtoD_v2(at, local, bytes));
    for (size_t i = 0; i < words; i++)
        EXPECT(host[i] == 7 * i, "copied word %zu is %u", i, host[i]);
    CUdeviceptr d = device_alloc(bytes);
    CHECK(cuMemsetD32_v2(d, 99, words));
    CHECK(cuMemcpyDtoD_v2(at, d, bytes));
    CHECK(cuCtxSynchronize());
    EXPECT(host[0] == 99 && host[words - 1] == 99, "copied words are %u and %u", host[0], host[words - 1]);
    CHECK(cuMemsetD32_v2(at, 3, words));
    CHECK(cuCtxSynchronize());
    EXPECT(host[words - 1] == 3, "the filled word is %u", host[words - 1]);
    // Advice is remembered; what nothing can follow is refused.
    int mostly = 9;
    CHECK(cuMemRangeGetAttribute(&mostly, 4, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, at, bytes));
    EXPECT(mostly == 0, "nobody said that it is mostly read");
    CHECK(cuMemAdvise(at, bytes, CU_MEM_ADVISE_SET_READ_MOSTLY, 0));
    CHECK(cuMemRangeGetAttribute(&mostly, 4, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, at, bytes));
    EXPECT(mostly == 1, "it is not said to be mostly read");
    CUresult prefetched = cuMemPrefetchAsync(at, bytes, 0, stream);
    EXPECT(prefetched == (concurrent ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE), "prefetching gave %d", prefetched);
    EXPECT(cuMemPrefetchAsync(d, bytes, 0, stream) == CUDA_ERROR_INVALID_VALUE, "device memory was prefetched");
    CHECK(cuStreamSynchronize(stream));
    EXPECT(cuMemFreeHost(host) != CUDA_SUCCESS, "it was freed as what it is not");
    CHECK(cuMemFree_v2(at));
    EXPECT(cuMemFree_v2(at) != CUDA_SUCCESS, "it was freed twice");
    printf("managed: %zu words right in both directions\n", words);
    return 0;
}
