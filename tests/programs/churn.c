// SPDX-License-Identifier: Apache-2.0 OR MIT
// What takes the driver's locks and the bus, again and again from SIGUSR1 until SIGTERM. Arguments: what, and MiB (default 64).
// contexts: a context made and destroyed; memory: device memory given and taken; pinned: host memory pinned and freed;
// copies: pinned memory to the device and back, both ways at once, and right at the end.
#include "common.h"
#include "told.h"

static size_t bytes;

static void contexts(void) {
    CUcontext other;
    CHECK(cuCtxCreate_v2(&other, 0, device));
    CHECK(cuCtxDestroy_v2(other));
    CHECK(cuCtxSetCurrent(context));
}

static void memory(void) {
    CHECK(cuMemFree_v2(device_alloc(bytes)));
}

static void pinned(void) {
    void *host;
    CHECK(cuMemHostAlloc(&host, bytes, 0));
    CHECK(cuMemFreeHost(host));
}

// Two of each, for the ways do not touch one another.
static struct {
    CUstream stream;
    unsigned char *host;
    CUdeviceptr device;
} up, down;

static void copies(void) {
    CHECK(cuMemcpyHtoDAsync_v2(up.device, up.host, bytes, up.stream));
    CHECK(cuMemcpyDtoHAsync_v2(down.host, down.device, bytes, down.stream));
    CHECK(cuStreamSynchronize(up.stream));
    CHECK(cuStreamSynchronize(down.stream));
}

static void copies_begin(void) {
    CHECK(cuStreamCreate(&up.stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamCreate(&down.stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemHostAlloc((void **)&up.host, bytes, 0));
    CHECK(cuMemHostAlloc((void **)&down.host, bytes, 0));
    up.device = device_alloc(bytes);
    down.device = device_alloc(bytes);
    memset(up.host, 0x5a, bytes);
    memset(down.host, 0, bytes);
    CHECK(cuMemsetD8_v2(up.device, 0, bytes));
    CHECK(cuMemsetD8_v2(down.device, 0xa5, bytes));
}

static void copies_end(void) {
    for (size_t i = 0; i < bytes; i++)
        EXPECT(down.host[i] == 0xa5, "byte %zu came back as %#x", i, down.host[i]);
    CHECK(cuMemcpyDtoH_v2(down.host, up.device, bytes));
    for (size_t i = 0; i < bytes; i++)
        EXPECT(down.host[i] == 0x5a, "byte %zu arrived as %#x", i, down.host[i]);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    void (*once)(void) = strcmp(what, "contexts") == 0 ? contexts
                         : strcmp(what, "memory") == 0 ? memory
                         : strcmp(what, "pinned") == 0 ? pinned
                         : strcmp(what, "copies") == 0 ? copies
                                                       : NULL;
    EXPECT(once, "%s: expected contexts, memory, pinned or copies", what);
    bytes = (size_t)argument(argc, argv, 2, 64) << 20;
    block_signals();
    setup();
    if (once == copies)
        copies_begin();
    wait_to_begin("churn");
    double start = seconds();
    long times = 0;
    // Once in any case: a machine may be so slow that the end comes first.
    do {
        once();
        times++;
    } while (!told_to_end());
    double took = seconds() - start;
    if (once == copies)
        copies_end();
    printf("churn: %ld times %s in %.6f s\n", times, what, took);
    return 0;
}
