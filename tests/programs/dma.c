// SPDX-License-Identifier: Apache-2.0 OR MIT
// Copies pinned memory to and from the device until it is ended from outside. Argument: MiB (default 64).
#include "common.h"

int main(int argc, char **argv) {
    size_t bytes = (size_t)argument(argc, argv, 1, 64) << 20;
    setup();
    void *to, *from;
    CHECK(cuMemHostAlloc(&from, bytes, 0));
    CHECK(cuMemHostAlloc(&to, bytes, 0));
    memset(from, 0x5a, bytes);
    CUdeviceptr d = device_alloc(bytes);
    CUstream up, down;
    CHECK(cuStreamCreate(&up, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&down, CU_STREAM_NON_BLOCKING));
    for (unsigned long round = 0;; round++) {
        CHECK(cuMemcpyHtoDAsync_v2(d, from, bytes, up));
        CHECK(cuMemcpyDtoHAsync_v2(to, d, bytes, down));
        CHECK(cuStreamSynchronize(up));
        CHECK(cuStreamSynchronize(down));
        if (round == 0)
            printf("dma: running\n");
    }
}
