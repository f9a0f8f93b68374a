// SPDX-License-Identifier: Apache-2.0 OR MIT
// y = alpha x + y on a stream of its own, several times. Argument: elements (default 50,000).
#include "common.h"
#include <math.h>

int main(int argc, char **argv) {
    unsigned n = (unsigned)argument(argc, argv, 1, 50000);
    float alpha = 1.5f;
    setup();
    float *x = malloc(n * sizeof *x), *y = malloc(n * sizeof *y), *got = malloc(n * sizeof *got);
    EXPECT(x && y && got, "no memory for %u elements", n);
    for (unsigned i = 0; i < n; i++) {
        x[i] = (float)(i % 1000) * 0.25f;
        y[i] = (float)(i % 77);
    }
    CUstream stream;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CUdeviceptr dx = device_alloc(n * sizeof *x), dy = device_alloc(n * sizeof *y);
    CHECK(cuMemcpyHtoDAsync_v2(dx, x, n * sizeof *x, stream));
    CHECK(cuMemcpyHtoDAsync_v2(dy, y, n * sizeof *y, stream));
    CUfunction saxpy = kernel("saxpy");
    void *params[] = {&alpha, &dx, &dy, &n};
    for (int round = 0; round < 3; round++) {
        CHECK(cuLaunchKernel(saxpy, (n + 127) / 128, 1, 1, 128, 1, 1, 0, stream, params, NULL));
        for (unsigned i = 0; i < n; i++)
            y[i] = fmaf(alpha, x[i], y[i]);
    }
    CHECK(cuMemcpyDtoHAsync_v2(got, dy, n * sizeof *got, stream));
    CHECK(cuStreamSynchronize(stream));
    for (unsigned i = 0; i < n; i++)
        EXPECT(got[i] == y[i], "element %u is %g, should be %g", i, got[i], y[i]);
    CHECK(cuStreamDestroy_v2(stream));
    printf("saxpy: %u elements right\n", n);
    return 0;
}
