// SPDX-License-Identifier: Apache-2.0 OR MIT
// Pinned host memory: copies both ways, and the GPU's own view of it. Argument: MiB (default 8).
// Exit status 2 means that the memory was refused with CUDA_ERROR_OUT_OF_MEMORY.
#include "common.h"

int main(int argc, char **argv) {
    size_t bytes = (size_t)argument(argc, argv, 1, 8) << 20, words = bytes / sizeof(uint32_t);
    setup();
    uint32_t *host = NULL;
    double start = seconds();
    CUresult result = cuMemHostAlloc((void **)&host, bytes, 0);
    if (result == CUDA_ERROR_OUT_OF_MEMORY) {
        printf("pinned: %zu MiB refused after %.0f ms\n", bytes >> 20, (seconds() - start) * 1e3);
        return 2;
    }
    CHECK(result);
    double allocated = seconds() - start;
    for (size_t i = 0; i < words; i++)
        EXPECT(host[i] == 0 || i > 1024, "fresh memory is not zero at %zu", i);
    size_t part = bytes < (64u << 20) ? bytes : 64u << 20;
    CUdeviceptr d = device_alloc(part);
    CUstream stream;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    // Every page gets its own number, so that a page in a wrong place is found.
    size_t step = bytes > (64u << 20) ? 1024 : 1;
    for (size_t i = 0; i < words; i += step)
        host[i] = (uint32_t)(i * 2654435761u);
    uint32_t by = 7, n = (uint32_t)(part / sizeof(uint32_t));
    void *params[] = {&d, &by, &n};
    CUfunction increment = kernel("increment");
    for (size_t at = 0; at < bytes; at += part) {
        size_t now = bytes - at < part ? bytes - at : part;
        CHECK(cuMemcpyHtoDAsync_v2(d, (char *)host + at, now, stream));
        CHECK(cuLaunchKernel(increment, (n + 255) / 256, 1, 1, 256, 1, 1, 0, stream, params, NULL));
        CHECK(cuMemcpyDtoHAsync_v2((char *)host + at, d, now, stream));
    }
    CHECK(cuStreamSynchronize(stream));
    for (size_t i = 0; i < words; i += step)
        EXPECT(host[i] == (uint32_t)(i * 2654435761u) + 7, "word %zu is %#x, should be %#x", i, host[i],
               (uint32_t)(i * 2654435761u) + 7);
    // A kernel reaches it, too, at the address that the host uses.
    CUdeviceptr seen;
    CHECK(cuMemHostGetDevicePointer_v2(&seen, host, 0));
    EXPECT(seen == (CUdeviceptr)(uintptr_t)host, "the device sees it at %#llx, the host at %p", seen, (void *)host);
    uint32_t before = host[0], few = 1;
    void *direct[] = {&seen, &by, &few};
    CHECK(cuLaunchKernel(increment, 1, 1, 1, 32, 1, 1, 0, stream, direct, NULL));
    CHECK(cuStreamSynchronize(stream));
    EXPECT(host[0] == before + 7, "a kernel's store gave %#x, should be %#x", host[0], before + 7);
    CHECK(cuMemFreeHost(host));
    EXPECT(cuMemFreeHost(host) != CUDA_SUCCESS, "it was freed twice");
    printf("pinned: %zu MiB right both ways, allocated in %.0f ms\n", bytes >> 20, allocated * 1e3);
    return 0;
}
