// SPDX-License-Identifier: Apache-2.0 OR MIT
// Memory of cuMemAlloc that is freed in the order of a stream counts until the stream has come there, and no longer. Argument: more
// than half of what the VM may have, in MiB (default 320).
#include "common.h"

enum { EQUAL = 1, ROUNDS = 4 };
CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream stream);

int main(int argc, char **argv) {
    size_t bytes = (size_t)argument(argc, argv, 1, 320) << 20, before = 0, after = 0, total = 0;
    setup();
    CUstream stream;
    volatile uint32_t *word;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemHostAlloc((void **)&word, sizeof *word, 0));
    CHECK(cuMemGetInfo_v2(&before, &total));
    EXPECT(bytes > total / 2 && bytes < before, "%zu bytes of %zu, %zu of them free", bytes, total, before);
    for (int round = 0; round < ROUNDS; round++) {
        CUdeviceptr p = device_alloc(bytes), another;
        *word = 0;
        CHECK(cuStreamWaitValue32_v2(stream, (CUdeviceptr)(uintptr_t)word, 1, EQUAL));
        CHECK(cuMemFreeAsync(p, stream));
        CUresult result = cuMemAlloc_v2(&another, bytes);
        EXPECT(result == CUDA_ERROR_OUT_OF_MEMORY, "round %d: beside it %d was the answer", round, result);
        *word = 1;
        CHECK(cuStreamSynchronize(stream));
    }
    CHECK(cuMemGetInfo_v2(&after, &total));
    EXPECT(after == before, "%zu bytes are free, and %zu were", after, before);
    printf("leaves: all rounds right\n");
    return 0;
}
