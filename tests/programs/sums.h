// SPDX-License-Identifier: Apache-2.0 OR MIT
// Sums on the GPU, checked: for programs whose subject is something else. Needs setup().
#pragma once
#include "common.h"

static inline void check_sums(void) {
    enum { N = 1000 };
    float a[N], b[N], c[N];
    unsigned n = N;
    for (unsigned i = 0; i < N; i++) {
        a[i] = (float)i;
        b[i] = (float)(2 * i);
    }
    CUdeviceptr da = device_alloc(sizeof a), db = device_alloc(sizeof b), dc = device_alloc(sizeof c);
    CHECK(cuMemcpyHtoD_v2(da, a, sizeof a));
    CHECK(cuMemcpyHtoD_v2(db, b, sizeof b));
    void *params[] = {&da, &db, &dc, &n};
    CHECK(cuLaunchKernel(kernel("vadd"), (N + 255) / 256, 1, 1, 256, 1, 1, 0, NULL, params, NULL));
    CHECK(cuMemcpyDtoH_v2(c, dc, sizeof c));
    for (unsigned i = 0; i < N; i++)
        EXPECT(c[i] == (float)(3 * i), "sum %u is %g", i, c[i]);
    CHECK(cuMemFree_v2(da));
    CHECK(cuMemFree_v2(db));
    CHECK(cuMemFree_v2(dc));
}

// Launches a kernel that runs for so long, and does not wait for it.
static inline void launch_spin(uint64_t milliseconds) {
    uint64_t nanoseconds = milliseconds * 1000000u;
    CUdeviceptr d = device_alloc(sizeof(uint32_t));
    void *params[] = {&d, &nanoseconds};
    CHECK(cuLaunchKernel(kernel("spin"), 1, 1, 1, 32, 1, 1, 0, NULL, params, NULL));
}
