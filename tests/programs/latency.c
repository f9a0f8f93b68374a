// SPDX-License-Identifier: Apache-2.0 OR MIT
// How long a short kernel takes from launch to the end of the wait, when one comes every 10 ms.
// Arguments: calls (default 300), kernel's microseconds (default 50), milliseconds between calls (default 10), calls that
// come back to back each time (default 1), seconds after which no more are made (default: no limit).
#include "common.h"

// One line: how many, and their percentiles; sorts them.
static void tell(const char *name, double *took, long calls) {
    double p50 = percentile(took, (size_t)calls, 0.5), p99 = percentile(took, (size_t)calls, 0.99);
    printf("%s: %ld calls, us: p50 %.0f p99 %.0f max %.0f\n", name, calls, p50, p99, took[calls - 1]);
}

int main(int argc, char **argv) {
    long calls = argument(argc, argv, 1, 300);
    uint64_t nanoseconds = (uint64_t)argument(argc, argv, 2, 50) * 1000u;
    long gap = argument(argc, argv, 3, 10), burst = argument(argc, argv, 4, 1), limit = argument(argc, argv, 5, 0);
    setup();
    EXPECT(calls > 0 && burst > 0, "%ld calls, %ld at a time", calls, burst);
    double *took = malloc((size_t)calls * sizeof *took), *in_order = malloc((size_t)calls * sizeof *took);
    double *later = malloc((size_t)calls * sizeof *took);
    EXPECT(took && in_order && later, "no memory for %ld calls", calls);
    CUdeviceptr d = device_alloc(sizeof(uint32_t));
    CUfunction spin = kernel("spin");
    void *params[] = {&d, &nanoseconds};
    CHECK(cuLaunchKernel(spin, 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL));
    CHECK(cuCtxSynchronize());
    printf("latency: running\n");
    struct timespec pause = {gap / 1000, gap % 1000 * 1000000};
    double began = seconds();
    long made = 0, not_first = 0;
    for (; made < calls && (limit == 0 || seconds() - began < (double)limit); made++) {
        if (made % burst == 0)
            nanosleep(&pause, NULL);
        double start = seconds();
        CHECK(cuLaunchKernel(spin, 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL));
        CHECK(cuCtxSynchronize());
        took[made] = in_order[made] = (seconds() - start) * 1e6;
        if (made % burst != 0)
            later[not_first++] = took[made];
    }
    double lasted = seconds() - began;
    qsort(took, (size_t)made, sizeof *took, compare_doubles);
    printf("the slowest calls, with their numbers:");
    for (long worst = 1; worst <= 6 && worst <= made; worst++)
        for (long i = 0; i < made; i++)
            if (in_order[i] == took[made - worst]) {
                printf(" %.0f us (%ld)", in_order[i], i);
                break;
            }
    printf("\nmeasured for %.6f s\n", lasted);
    if (not_first > 0)
        tell("those that came right after another", later, not_first);
    tell("latency", took, made);
    return 0;
}
