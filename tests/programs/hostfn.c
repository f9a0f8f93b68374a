// SPDX-License-Identifier: Apache-2.0 OR MIT
// Functions of this process that run in a stream's order: after the copy before them, before the copy behind.
#include "common.h"
#include <stdatomic.h>

enum { N = 1024, ROUNDS = 8 };

static uint32_t *shared;
static atomic_int ran;

static void check_and_bump(void *data) {
    uint32_t expected = (uint32_t)(uintptr_t)data;
    for (int i = 0; i < N; i++)
        if (shared[i] != expected) {
            printf("hostfn: element %d is %u, should be %u\n", i, shared[i], expected);
            _Exit(1);
        }
    for (int i = 0; i < N; i++)
        shared[i] += 10;
    atomic_fetch_add(&ran, 1);
}

int main(void) {
    setup();
    CUstream stream;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemHostAlloc((void **)&shared, N * sizeof *shared, 0));
    CUdeviceptr p = device_alloc(N * sizeof(uint32_t));
    CUfunction increment = kernel("increment");
    uint32_t by = 1, n = N;
    void *params[] = {&p, &by, &n};
    CHECK(cuMemsetD32Async(p, 0, N, stream));
    for (uint32_t round = 0; round < ROUNDS; round++) {
        CHECK(cuLaunchKernel(increment, N / 256, 1, 1, 256, 1, 1, 0, stream, params, NULL));
        CHECK(cuMemcpyDtoHAsync_v2(shared, p, N * sizeof(uint32_t), stream));
        CHECK(cuLaunchHostFunc(stream, check_and_bump, (void *)(uintptr_t)(11 * round + 1)));
        CHECK(cuMemcpyHtoDAsync_v2(p, shared, N * sizeof(uint32_t), stream));
    }
    CHECK(cuStreamSynchronize(stream));
    EXPECT(atomic_load(&ran) == ROUNDS, "%d functions ran", atomic_load(&ran));
    EXPECT(shared[N - 1] == 11 * ROUNDS, "the last element is %u", shared[N - 1]);
    printf("hostfn: %d functions in order\n", ROUNDS);
    return 0;
}
