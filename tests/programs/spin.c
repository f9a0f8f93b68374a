// SPDX-License-Identifier: Apache-2.0 OR MIT
// One kernel that runs for a given time. Arguments: milliseconds (default 100), blocks (default 1).
#include "common.h"

int main(int argc, char **argv) {
    uint64_t nanoseconds = (uint64_t)argument(argc, argv, 1, 100) * 1000000u;
    unsigned blocks = (unsigned)argument(argc, argv, 2, 1);
    setup();
    uint32_t *out = calloc(blocks, sizeof *out);
    EXPECT(out, "no memory for %u blocks", blocks);
    CUdeviceptr d = device_alloc(blocks * sizeof *out);
    CHECK(cuMemsetD32_v2(d, 0, blocks));
    void *params[] = {&d, &nanoseconds};
    CUfunction spin = kernel("spin");
    CHECK(cuCtxSynchronize());
    double start = seconds();
    CHECK(cuLaunchKernel(spin, blocks, 1, 1, 32, 1, 1, 0, NULL, params, NULL));
    printf("spin: running\n");
    CHECK(cuCtxSynchronize());
    double took = seconds() - start;
    CHECK(cuMemcpyDtoH_v2(out, d, blocks * sizeof *out));
    for (unsigned i = 0; i < blocks; i++)
        EXPECT(out[i] == 1, "block %u wrote %u", i, out[i]);
    EXPECT(took * 1e9 >= (double)nanoseconds, "it took %g s only", took);
    printf("spin: ran %.0f ms\n", took * 1e3);
    return 0;
}
