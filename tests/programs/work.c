// SPDX-License-Identifier: Apache-2.0 OR MIT
// Exact arithmetic in kernels of a chosen length, back to back; every thread's result is checked.
// Arguments: iterations of a kernel (default 10,000), kernels (default 10), blocks (default 4), threads of a block (default 64).
#include "common.h"

int main(int argc, char **argv) {
    uint64_t iterations = (uint64_t)argument(argc, argv, 1, 10000);
    long kernels = argument(argc, argv, 2, 10);
    unsigned blocks = (unsigned)argument(argc, argv, 3, 4), threads = (unsigned)argument(argc, argv, 4, 64);
    setup();
    size_t count = (size_t)blocks * threads;
    uint64_t *out = malloc(count * sizeof *out);
    EXPECT(out, "no memory for %zu results", count);
    CUdeviceptr d = device_alloc(count * sizeof *out);
    CUfunction work = kernel("work");
    CHECK(cuCtxSynchronize());
    printf("work: running\n");
    double start = seconds();
    for (long k = 0; k < kernels; k++) {
        uint64_t these = iterations + (uint64_t)k;
        void *params[] = {&d, &these};
        CHECK(cuMemsetD32_v2(d, 0, count * 2));
        CHECK(cuLaunchKernel(work, blocks, 1, 1, threads, 1, 1, 0, NULL, params, NULL));
        CHECK(cuMemcpyDtoH_v2(out, d, count * sizeof *out));
        for (size_t i = 0; i < count; i++)
            EXPECT(out[i] == work_result(i, these), "kernel %ld: thread %zu computed %#llx, should be %#llx", k, i,
                   (unsigned long long)out[i], (unsigned long long)work_result(i, these));
    }
    double took = seconds() - start;
    printf("work: %ld kernels right, %.3f ms each\n", kernels, took * 1e3 / (double)kernels);
    return 0;
}
