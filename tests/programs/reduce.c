// SPDX-License-Identifier: Apache-2.0 OR MIT
// The sum of a vector: a warp adds by shuffles, a block in dynamic shared memory; a second launch adds the blocks' sums.
// Argument: elements (default 100,000).
#include "common.h"
#include "embed.h"

EMBED(reduce_ptx, "../kernels/ptx/clang16-O3/reduce.ptx");

#define THREADS 256
#define BLOCKS 64

int main(int argc, char **argv) {
    unsigned n = (unsigned)argument(argc, argv, 1, 100000), blocks = BLOCKS;
    setup();
    float *values = malloc(n * sizeof *values), got = 0;
    EXPECT(values, "no memory for %u elements", n);
    // Small whole numbers, positive and negative: every sum is exact, in whatever order it is made.
    double expected = 0;
    for (unsigned i = 0; i < n; i++) {
        values[i] = (float)(int)(i * 2654435761u >> 24) - 100.0f;
        expected += values[i];
    }
    CUmodule reductions;
    CUfunction block_sum;
    CHECK(cuModuleLoadData(&reductions, reduce_ptx));
    CHECK(cuModuleGetFunction(&block_sum, reductions, "block_sum"));
    CUdeviceptr in = device_alloc(n * sizeof *values), sums = device_alloc(blocks * sizeof got);
    CUdeviceptr sum = device_alloc(sizeof got);
    CHECK(cuMemcpyHtoD_v2(in, values, n * sizeof *values));
    void *all[] = {&in, &sums, &n}, *rest[] = {&sums, &sum, &blocks};
    unsigned shared = THREADS / 32 * sizeof got;
    CHECK(cuLaunchKernel(block_sum, blocks, 1, 1, THREADS, 1, 1, shared, NULL, all, NULL));
    CHECK(cuLaunchKernel(block_sum, 1, 1, 1, THREADS, 1, 1, shared, NULL, rest, NULL));
    CHECK(cuMemcpyDtoH_v2(&got, sum, sizeof got));
    EXPECT((double)got == expected, "the sum is %.0f, should be %.0f", got, expected);
    CHECK(cuModuleUnload(reductions));
    printf("reduce: the sum of %u elements right\n", n);
    return 0;
}
