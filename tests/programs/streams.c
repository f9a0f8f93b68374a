// SPDX-License-Identifier: Apache-2.0 OR MIT
// Two streams and the events between them: order, queries, elapsed time.
#include "common.h"

enum { N = 1 << 14 };

int main(void) {
    setup();
    CUstream first, second;
    CHECK(cuStreamCreate(&first, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&second, 0));
    CUevent start, end, handed;
    CHECK(cuEventCreate(&start, 0));
    CHECK(cuEventCreate(&end, 0));
    CHECK(cuEventCreate(&handed, CU_EVENT_DISABLE_TIMING));
    EXPECT(cuEventQuery(handed) == CUDA_SUCCESS, "an event that was never recorded is complete");

    CUdeviceptr p = device_alloc(N * sizeof(uint32_t)), flag = device_alloc(sizeof(uint32_t));
    CUfunction increment = kernel("increment"), spin = kernel("spin");
    uint32_t by = 1, n = N;
    uint64_t nanoseconds = 30000000;
    void *add[] = {&p, &by, &n}, *busy[] = {&flag, &nanoseconds};
    CHECK(cuMemsetD32_v2(p, 0, N));
    CHECK(cuCtxSynchronize());
    for (int round = 1; round <= 3; round++) {
        // The first stream works for 30 ms, then adds; the second may add only after it.
        CHECK(cuEventRecord(start, first));
        CHECK(cuLaunchKernel(spin, 1, 1, 1, 32, 1, 1, 0, first, busy, NULL));
        CHECK(cuLaunchKernel(increment, N / 256, 1, 1, 256, 1, 1, 0, first, add, NULL));
        CHECK(cuEventRecord(handed, first));
        CHECK(cuEventRecord(end, first));
        CHECK(cuStreamWaitEvent(second, handed, 0));
        CHECK(cuLaunchKernel(increment, N / 256, 1, 1, 256, 1, 1, 0, second, add, NULL));
        CHECK(cuStreamSynchronize(second));
        EXPECT(cuEventQuery(handed) == CUDA_SUCCESS, "the second stream waited for it");
        EXPECT(cuStreamQuery(second) == CUDA_SUCCESS, "it was waited for");
        CHECK(cuEventSynchronize(end));
        float milliseconds = 0;
        CHECK(cuEventElapsedTime(&milliseconds, start, end));
        EXPECT(milliseconds >= 29.0f, "30 ms of work took %g ms", milliseconds);
        static uint32_t got[N];
        CHECK(cuMemcpyDtoH_v2(got, p, sizeof got));
        for (int i = 0; i < N; i++)
            EXPECT(got[i] == 2u * (uint32_t)round, "round %d: element %d is %u", round, i, got[i]);
    }
    CHECK(cuEventDestroy_v2(handed));
    CHECK(cuEventDestroy_v2(start));
    CHECK(cuEventDestroy_v2(end));
    CHECK(cuStreamDestroy_v2(first));
    CHECK(cuStreamDestroy_v2(second));
    printf("streams: order, queries and times right\n");
    return 0;
}
