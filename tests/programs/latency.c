// SPDX-License-Identifier: Apache-2.0 OR MIT
// How long a short kernel takes from launch to the end of the wait, when one comes every 10 ms.
// Arguments: calls (default 300), kernel's microseconds (default 50), milliseconds between calls (default 10).
#include "common.h"

int main(int argc, char **argv) {
    long calls = argument(argc, argv, 1, 300);
    uint64_t nanoseconds = (uint64_t)argument(argc, argv, 2, 50) * 1000u;
    long gap = argument(argc, argv, 3, 10);
    setup();
    EXPECT(calls > 0, "%ld calls", calls);
    double *took = malloc((size_t)calls * sizeof *took), *in_order = malloc((size_t)calls * sizeof *took);
    EXPECT(took && in_order, "no memory for %ld calls", calls);
    CUdeviceptr d = device_alloc(sizeof(uint32_t));
    CUfunction spin = kernel("spin");
    void *params[] = {&d, &nanoseconds};
    CHECK(cuLaunchKernel(spin, 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL));
    CHECK(cuCtxSynchronize());
    printf("latency: running\n");
    struct timespec pause = {gap / 1000, gap % 1000 * 1000000};
    for (long i = 0; i < calls; i++) {
        nanosleep(&pause, NULL);
        double start = seconds();
        CHECK(cuLaunchKernel(spin, 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL));
        CHECK(cuCtxSynchronize());
        took[i] = in_order[i] = (seconds() - start) * 1e6;
    }
    double p50 = percentile(took, (size_t)calls, 0.5), p99 = percentile(took, (size_t)calls, 0.99);
    printf("the slowest calls, with their numbers:");
    for (long worst = 1; worst <= 6 && worst <= calls; worst++)
        for (long i = 0; i < calls; i++)
            if (in_order[i] == took[calls - worst]) {
                printf(" %.0f us (%ld)", in_order[i], i);
                break;
            }
    printf("\nlatency: %ld calls, us: p50 %.0f p99 %.0f max %.0f\n", calls, p50, p99, took[calls - 1]);
    return 0;
}
