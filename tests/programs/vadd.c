// SPDX-License-Identifier: Apache-2.0 OR MIT
// Adds two vectors. Argument: elements (default 100,000).
#include "common.h"

int main(int argc, char **argv) {
    unsigned n = (unsigned)argument(argc, argv, 1, 100000);
    setup();
    float *a = malloc(n * sizeof *a), *b = malloc(n * sizeof *b), *c = malloc(n * sizeof *c);
    EXPECT(a && b && c, "no memory for %u elements", n);
    for (unsigned i = 0; i < n; i++) {
        a[i] = (float)i * 0.5f;
        b[i] = 1000.0f - (float)i;
        c[i] = -1.0f;
    }
    CUdeviceptr da = device_alloc(n * sizeof *a), db = device_alloc(n * sizeof *b), dc = device_alloc(n * sizeof *c);
    CHECK(cuMemcpyHtoD_v2(da, a, n * sizeof *a));
    CHECK(cuMemcpyHtoD_v2(db, b, n * sizeof *b));
    void *params[] = {&da, &db, &dc, &n};
    CHECK(cuLaunchKernel(kernel("vadd"), (n + 255) / 256, 1, 1, 256, 1, 1, 0, NULL, params, NULL));
    CHECK(cuMemcpyDtoH_v2(c, dc, n * sizeof *c));
    for (unsigned i = 0; i < n; i++)
        EXPECT(c[i] == a[i] + b[i], "element %u is %g, should be %g", i, c[i], a[i] + b[i]);
    CHECK(cuMemFree_v2(da));
    CHECK(cuMemFree_v2(db));
    CHECK(cuMemFree_v2(dc));
    CHECK(cuModuleUnload(module));
    CHECK(cuCtxDestroy_v2(context));
    printf("vadd: %u sums right\n", n);
    return 0;
}
