// SPDX-License-Identifier: Apache-2.0 OR MIT
// What every program here does the same way: check each call, set a context up, load the kernels.
#pragma once
#include "cuda_abi.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels.h"

// Any call that fails ends the program with status 1 and one line that names it.
#define CHECK(call)                                                                                                \
    do {                                                                                                           \
        CUresult result_ = (call);                                                                                 \
        if (result_ != CUDA_SUCCESS) {                                                                             \
            const char *name_ = "?";                                                                               \
            cuGetErrorName(result_, &name_);                                                                       \
            printf("%s:%d: %s gave %s (%d)\n", __FILE_NAME__, __LINE__, #call, name_, result_);                         \
            exit(1);                                                                                               \
        }                                                                                                          \
    } while (0)

// A result that is wrong ends it, too.
#define EXPECT(condition, ...)                                                                                     \
    do {                                                                                                           \
        if (!(condition)) {                                                                                        \
            printf("%s:%d: not so: %s: ", __FILE_NAME__, __LINE__, #condition);                                         \
            printf(__VA_ARGS__);                                                                                   \
            printf("\n");                                                                                          \
            exit(1);                                                                                               \
        }                                                                                                          \
    } while (0)

static inline double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

// Whether the GPU is one of vgpu's; the few programs ask whose subject is what the machine's own library does otherwise.
static inline int over_vgpu(void) { return getenv("VGPU_SOCKET") != NULL || access("/dev/vgpu", F_OK) == 0; }

// What setup() leaves: the first device's context, current, and the module of kernels.h.
static CUdevice device;
static CUcontext context;
static CUmodule module;

static inline void setup(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    CHECK(cuInit(0));
    CHECK(cuDeviceGet(&device, 0));
    CHECK(cuCtxCreate_v2(&context, 0, device));
    CHECK(cuModuleLoadData(&module, kernels_ptx));
}

static inline CUfunction kernel(const char *name) {
    CUfunction function;
    CHECK(cuModuleGetFunction(&function, module, name));
    return function;
}

static inline CUdeviceptr device_alloc(size_t bytes) {
    CUdeviceptr pointer;
    CHECK(cuMemAlloc_v2(&pointer, bytes));
    return pointer;
}

// The first argument as a number, or what it is without one.
static inline long argument(int argc, char **argv, int index, long otherwise) {
    return argc > index ? strtol(argv[index], NULL, 0) : otherwise;
}

// What kernel `work` computes for a thread in `iterations` steps, in logarithmic time: an affine map's power.
static inline uint64_t work_result(uint64_t thread, uint64_t iterations) {
    uint64_t a = 6364136223846793005u, c = 1442695040888963407u, power_a = 1, power_c = 0;
    for (; iterations != 0; iterations >>= 1) {
        if (iterations & 1) {
            power_c = power_c * a + c;
            power_a *= a;
        }
        c = c * a + c;
        a *= a;
    }
    return power_a * (1 + (thread & 3)) + power_c;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

// The value below which `part` (0 to 1) of `count` values lie; sorts them.
static inline double percentile(double *values, size_t count, double part) {
    qsort(values, count, sizeof *values, compare_doubles);
    size_t index = (size_t)(part * (double)count);
    return values[index < count ? index : count - 1];
}
