// SPDX-License-Identifier: Apache-2.0 OR MIT
// Many allocations, launches and objects, all given back; large ones, so often that what is not given back runs out.
// Argument: rounds (default 200).
#include "common.h"

int main(int argc, char **argv) {
    long rounds = argument(argc, argv, 1, 200);
    setup();
    CUfunction increment = kernel("increment");
    size_t free, total;
    CHECK(cuMemGetInfo_v2(&free, &total));
    EXPECT(free <= total && total > 0, "%zu of %zu bytes free", free, total);
    for (long round = 0; round < rounds; round++) {
        uint32_t n = 256 + (uint32_t)(round % 7) * 100, by = (uint32_t)round, last = 0;
        CUdeviceptr p = device_alloc(n * sizeof(uint32_t));
        CUstream stream;
        CUevent event;
        CHECK(cuStreamCreate(&stream, round % 2 ? CU_STREAM_NON_BLOCKING : 0));
        CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
        CHECK(cuMemsetD32Async(p, 5, n, stream));
        void *params[] = {&p, &by, &n};
        CHECK(cuLaunchKernel(increment, (n + 255) / 256, 1, 1, 256, 1, 1, 0, stream, params, NULL));
        CHECK(cuEventRecord(event, stream));
        CHECK(cuEventSynchronize(event));
        CHECK(cuMemcpyDtoH_v2(&last, p + (n - 1) * sizeof last, sizeof last));
        EXPECT(last == by + 5, "round %ld: %u", round, last);
        CHECK(cuEventDestroy_v2(event));
        CHECK(cuStreamDestroy_v2(stream));
        CHECK(cuMemFree_v2(p));
    }
    // Others use the GPU, too: what is free says nothing of a leak, but three times the memory in all does.
    for (int i = 0; i < 30; i++)
        CHECK(cuMemFree_v2(device_alloc(total / 10)));
    EXPECT(cuMemFree_v2(0x1234) != CUDA_SUCCESS, "an address that was never given was freed");
    CUdeviceptr huge;
    EXPECT(cuMemAlloc_v2(&huge, (size_t)1 << 50) == CUDA_ERROR_OUT_OF_MEMORY, "a PiB was not refused");
    CHECK(cuCtxSynchronize());
    printf("many: %ld rounds right\n", rounds);
    return 0;
}
