// SPDX-License-Identifier: Apache-2.0 OR MIT
// A kernel that writes to an address it does not have: the context is lost, and says so from then on. With an argument launches
// block, and the launch itself says so.
#include "common.h"

int main(int argc, char **argv) {
    (void)argv;
    int blocking = argc > 1;
    if (blocking)
        setenv("CUDA_LAUNCH_BLOCKING", "1", 1);
    setup();
    CUdeviceptr bad = 0x10, good = device_alloc(4096);
    CUfunction poke = kernel("poke");
    void *params[] = {&bad};
    void *right[] = {&good};
    CHECK(cuLaunchKernel(poke, 1, 1, 1, 1, 1, 1, 0, NULL, right, NULL));
    CUresult wrong = cuLaunchKernel(poke, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL);
    EXPECT(wrong == (blocking ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_SUCCESS), "its launch gave %d", wrong);
    CUresult first = cuCtxSynchronize();
    EXPECT(first == CUDA_ERROR_ILLEGAL_ADDRESS, "the first wait gave %d", first);
    CUresult second = cuCtxSynchronize();
    EXPECT(second == CUDA_ERROR_ILLEGAL_ADDRESS, "the second wait gave %d", second);
    CUresult launch = cuLaunchKernel(poke, 1, 1, 1, 1, 1, 1, 0, NULL, right, NULL);
    EXPECT(launch == CUDA_ERROR_ILLEGAL_ADDRESS, "a launch afterwards gave %d", launch);
    CUdeviceptr more;
    CUresult alloc = cuMemAlloc_v2(&more, 4096);
    EXPECT(alloc == CUDA_ERROR_ILLEGAL_ADDRESS, "an allocation afterwards gave %d", alloc);
    printf("fault: error 700, and it stays\n");
    return 0;
}
