// SPDX-License-Identifier: Apache-2.0 OR MIT
// Memsets of every width, copies on the device, a module's global, and copies of odd lengths and places.
#include "common.h"

enum { N = 40000 };

int main(void) {
    setup();
    static uint8_t got[N], expected[N];
    CUdeviceptr a = device_alloc(N), b = device_alloc(N);
    CHECK(cuMemsetD8_v2(a, 0xa5, N));
    memset(expected, 0xa5, N);
    CHECK(cuMemsetD16_v2(a + 100, 0x1234, 50));
    for (int i = 0; i < 50; i++)
        memcpy(expected + 100 + 2 * i, &(uint16_t){0x1234}, 2);
    CHECK(cuMemsetD32_v2(a + 1000, 0xdeadbeef, 250));
    for (int i = 0; i < 250; i++)
        memcpy(expected + 1000 + 4 * i, &(uint32_t){0xdeadbeef}, 4);
    uint8_t patch[333];
    for (int i = 0; i < 333; i++)
        patch[i] = (uint8_t)(i * 7);
    CHECK(cuMemcpyHtoD_v2(a + 3001, patch, 333));
    memcpy(expected + 3001, patch, 333);
    CHECK(cuMemcpyDtoD_v2(b, a, N));
    CHECK(cuMemcpyDtoH_v2(got, b, N));
    for (int i = 0; i < N; i++)
        EXPECT(got[i] == expected[i], "byte %d is %#x, should be %#x", i, got[i], expected[i]);
    memset(got, 0, N);
    CHECK(cuMemcpyDtoH_v2(got + 1, b + 2999, 777));
    EXPECT(memcmp(got + 1, expected + 2999, 777) == 0, "a copy from the middle differs");
    EXPECT(got[0] == 0 && got[778] == 0, "it wrote beside its place");
    // The unified copy finds out which side is which.
    memset(got, 0, N);
    CHECK(cuMemcpy((CUdeviceptr)(uintptr_t)got, b, N));
    EXPECT(memcmp(got, expected, N) == 0, "a unified copy differs");
    CUdeviceptr global;
    size_t bytes;
    uint32_t answer = 0;
    CHECK(cuModuleGetGlobal_v2(&global, &bytes, module, "answer"));
    EXPECT(bytes == sizeof answer, "the global has %zu bytes", bytes);
    CHECK(cuMemcpyDtoH_v2(&answer, global, sizeof answer));
    EXPECT(answer == 42, "the global is %u", answer);
    EXPECT(cuMemcpyDtoH_v2(got, b + N - 8, 64u << 20) == CUDA_ERROR_INVALID_VALUE, "a copy past the end was done");
    printf("memset: every byte right\n");
    return 0;
}
