// SPDX-License-Identifier: Apache-2.0 OR MIT
// Kernels back to back, from SIGUSR1 until SIGTERM. Each goes on with the results of the one before, so that one that is
// lost, runs twice or computes something else shows in every thread's result at the end.
// Arguments: iterations of a kernel (default 10,000), blocks (default 4), threads of a block (default 64), kernels in
// flight (default 4, at most 64).
#include "common.h"
#include "told.h"

enum { IN_FLIGHT_MAX = 64 };

int main(int argc, char **argv) {
    uint64_t iterations = (uint64_t)argument(argc, argv, 1, 10000);
    unsigned blocks = (unsigned)argument(argc, argv, 2, 4), threads = (unsigned)argument(argc, argv, 3, 64);
    long in_flight = argument(argc, argv, 4, 4), kernels = 0;
    block_signals();
    setup();
    EXPECT(in_flight >= 1 && in_flight <= IN_FLIGHT_MAX, "%ld in flight", in_flight);
    size_t count = (size_t)blocks * threads;
    uint64_t *out = malloc(count * sizeof *out);
    EXPECT(out, "no memory for %zu results", count);
    for (size_t i = 0; i < count; i++)
        out[i] = work_result(i, 0);
    CUdeviceptr d = device_alloc(count * sizeof *out);
    CHECK(cuMemcpyHtoD_v2(d, out, count * sizeof *out));
    CUfunction work_on = kernel("work_on");
    CUevent done[IN_FLIGHT_MAX];
    for (long i = 0; i < in_flight; i++)
        CHECK(cuEventCreate(&done[i], CU_EVENT_DISABLE_TIMING));
    uint64_t none = 0;
    void *params[] = {&d, &iterations}, *nothing[] = {&d, &none};
    // What only a first kernel pays is paid before anybody measures.
    CHECK(cuLaunchKernel(work_on, blocks, 1, 1, threads, 1, 1, 0, NULL, nothing, NULL));
    CHECK(cuCtxSynchronize());
    wait_to_begin("busy");
    double start = seconds();
    while (!told_to_end()) {
        if (kernels >= in_flight) {
            CHECK(cuEventSynchronize(done[kernels % in_flight]));
            if (told_to_end())
                break;
        }
        CHECK(cuLaunchKernel(work_on, blocks, 1, 1, threads, 1, 1, 0, NULL, params, NULL));
        CHECK(cuEventRecord(done[kernels % in_flight], NULL));
        kernels++;
    }
    CHECK(cuCtxSynchronize());
    double took = seconds() - start;
    CHECK(cuMemcpyDtoH_v2(out, d, count * sizeof *out));
    uint64_t expected[4];
    for (uint64_t i = 0; i < 4; i++)
        expected[i] = work_result(i, iterations * (uint64_t)kernels);
    for (size_t i = 0; i < count; i++)
        EXPECT(out[i] == expected[i & 3], "thread %zu computed %#llx, should be %#llx after %ld kernels", i,
               (unsigned long long)out[i], (unsigned long long)expected[i & 3], kernels);
    printf("busy: %ld kernels right in %.6f s\n", kernels, took);
    return 0;
}
