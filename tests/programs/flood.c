// SPDX-License-Identifier: Apache-2.0 OR MIT
// A program that asks for too much, from SIGUSR1 until SIGTERM. First argument: what.
// calls RATE: so many launches of nothing a second; queue DEPTH MICROSECONDS: so many kernels of that length before it waits;
// memory MIB: blocks of that size until one is refused, then all are freed; endless: a kernel of an hour, whose end is told.
#include "common.h"
#include "told.h"

enum { BLOCKS_MAX = 65536 };

static void calls(long rate) {
    CUfunction null_kernel = kernel("null_kernel");
    long made = 0;
    wait_to_begin("flood");
    double start = seconds();
    struct timespec pause = {0, 1000000};
    while (!told_to_end()) {
        long due = (long)((seconds() - start) * (double)rate);
        // Not all at once: the end may come while they are held back.
        for (long n = 0; made < due && n < 100; n++, made++)
            CHECK(cuLaunchKernel(null_kernel, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
        if (made >= due)
            nanosleep(&pause, NULL);
    }
    double asked = seconds() - start;
    CHECK(cuCtxSynchronize());
    printf("flood: %ld calls in %.6f s, asked for during %.6f s\n", made, seconds() - start, asked);
}

static void queue(long depth, long microseconds) {
    CUdeviceptr d = device_alloc(sizeof(uint32_t));
    CUfunction spin = kernel("spin");
    uint64_t nanoseconds = (uint64_t)microseconds * 1000u;
    void *params[] = {&d, &nanoseconds};
    long made = 0;
    wait_to_begin("flood");
    double start = seconds();
    while (!told_to_end()) {
        for (long n = 0; n < depth && !told_to_end(); n++, made++)
            CHECK(cuLaunchKernel(spin, 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL));
        CHECK(cuCtxSynchronize());
    }
    printf("flood: %ld calls in %.6f s, %ld at once\n", made, seconds() - start, depth);
}

static void memory(size_t block) {
    static CUdeviceptr blocks[BLOCKS_MAX];
    size_t least = SIZE_MAX, most = 0, free_least = SIZE_MAX, total = 0;
    long times = 0;
    wait_to_begin("flood");
    double start = seconds();
    do {
        size_t count = 0, free_now;
        CUresult result = CUDA_SUCCESS;
        while (count < BLOCKS_MAX && (result = cuMemAlloc_v2(&blocks[count], block)) == CUDA_SUCCESS)
            count++;
        EXPECT(result == CUDA_ERROR_OUT_OF_MEMORY, "block %zu gave %d", count, result);
        CHECK(cuMemGetInfo_v2(&free_now, &total));
        least = count * block < least ? count * block : least;
        most = count * block > most ? count * block : most;
        free_least = free_now < free_least ? free_now : free_least;
        for (size_t i = 0; i < count; i++)
            CHECK(cuMemFree_v2(blocks[i]));
        times++;
    } while (!told_to_end());
    printf("flood: %ld times refused in %.6f s, MiB: from %zu to %zu free %zu total %zu\n", times, seconds() - start,
           least >> 20, most >> 20, free_least >> 20, total >> 20);
}

static void endless(void) {
    CUdeviceptr d = device_alloc(sizeof(uint32_t));
    CUfunction spin = kernel("spin");
    uint64_t hour = 3600u * (uint64_t)1000000000u;
    void *params[] = {&d, &hour};
    wait_to_begin("flood");
    double start = seconds();
    CHECK(cuLaunchKernel(spin, 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL));
    CUresult result = cuCtxSynchronize();
    EXPECT(result == CUDA_ERROR_LAUNCH_TIMEOUT, "the wait gave %d after %.3f s", result, seconds() - start);
    printf("flood: error %d after %.6f s\n", result, seconds() - start);
    // The session is over: whatever is asked now gets the same answer.
    result = cuCtxSynchronize();
    EXPECT(result == CUDA_ERROR_LAUNCH_TIMEOUT, "the next wait gave %d", result);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    block_signals();
    setup();
    if (strcmp(what, "calls") == 0)
        calls(argument(argc, argv, 2, 100000));
    else if (strcmp(what, "queue") == 0)
        queue(argument(argc, argv, 2, 10000), argument(argc, argv, 3, 100));
    else if (strcmp(what, "memory") == 0)
        memory((size_t)argument(argc, argv, 2, 64) << 20);
    else if (strcmp(what, "endless") == 0)
        endless();
    else
        EXPECT(0, "%s: expected calls, queue, memory or endless", what);
    return 0;
}
