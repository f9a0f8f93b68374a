// SPDX-License-Identifier: Apache-2.0 OR MIT
// C = A B with tiles of 16 x 16 in shared memory. Argument: the matrices' side, a multiple of 16 (default 96).
#include "common.h"
#include <math.h>
#include "embed.h"

EMBED(matmul_ptx, "../kernels/ptx/clang16-O3/matmul.ptx");

#define TILE 16

int main(int argc, char **argv) {
    unsigned n = (unsigned)argument(argc, argv, 1, 96);
    EXPECT(n > 0 && n % TILE == 0, "the side is a multiple of %d", TILE);
    setup();
    size_t count = (size_t)n * n, bytes = count * sizeof(float);
    float *a = malloc(bytes), *b = malloc(bytes), *c = malloc(bytes);
    EXPECT(a && b && c, "no memory for %u x %u elements", n, n);
    // Small whole numbers: every sum is exact, in whatever order it is made.
    for (size_t i = 0; i < count; i++) {
        a[i] = (float)(int)(i * 7 % 23) - 11.0f;
        b[i] = (float)(int)(i * 5 % 19) - 9.0f;
        c[i] = NAN;
    }
    CUmodule tiled;
    CUfunction matmul;
    CHECK(cuModuleLoadData(&tiled, matmul_ptx));
    CHECK(cuModuleGetFunction(&matmul, tiled, "matmul"));
    CUdeviceptr da = device_alloc(bytes), db = device_alloc(bytes), dc = device_alloc(bytes);
    CHECK(cuMemcpyHtoD_v2(da, a, bytes));
    CHECK(cuMemcpyHtoD_v2(db, b, bytes));
    CHECK(cuMemcpyHtoD_v2(dc, c, bytes));
    void *params[] = {&da, &db, &dc, &n};
    unsigned tiles = n / TILE;
    CHECK(cuLaunchKernel(matmul, tiles, tiles, 1, TILE, TILE, 1, 0, NULL, params, NULL));
    CHECK(cuMemcpyDtoH_v2(c, dc, bytes));
    for (unsigned row = 0; row < n; row++)
        for (unsigned column = 0; column < n; column++) {
            float sum = 0;
            for (unsigned k = 0; k < n; k++)
                sum += a[(size_t)row * n + k] * b[(size_t)k * n + column];
            float got = c[(size_t)row * n + column];
            EXPECT(got == sum, "element %u, %u is %g, should be %g", row, column, got, sum);
        }
    CHECK(cuModuleUnload(tiled));
    printf("matmul: %u x %u elements right\n", n, n);
    return 0;
}
