// SPDX-License-Identifier: Apache-2.0 OR MIT
// Which GPUs a program sees: a line for each, by its ordinal, and all of them used. If it sees none, why.
#include "common.h"

int cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer);

enum { COUNT = 1000 };

// A number there and back, over a context of its own: what this GPU keeps is its own.
static void use(CUdevice gpu, uint32_t number) {
    static uint32_t back[COUNT];
    CUcontext own;
    CUdeviceptr there;
    CHECK(cuCtxCreate_v2(&own, 0, gpu));
    CHECK(cuMemAlloc_v2(&there, sizeof back));
    CHECK(cuMemsetD32_v2(there, number, COUNT));
    CHECK(cuMemcpyDtoH_v2(back, there, sizeof back));
    for (int at = 0; at < COUNT; at++)
        EXPECT(back[at] == number, "%u", back[at]);
    CHECK(cuCtxDestroy_v2(own));
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *name = "?";
    CUresult started = cuInit(0);
    cuGetErrorName(started, &name);
    if (started != CUDA_SUCCESS) {
        printf("visible: %s\n", name);
        return 0;
    }
    int count = 0;
    CHECK(cuDeviceGetCount(&count));
    printf("visible: %d\n", count);
    for (int ordinal = 0; ordinal < count; ordinal++) {
        CUdevice gpu, again;
        unsigned char uuid[16];
        char pci[32], text[64], *end = text;
        CHECK(cuDeviceGet(&gpu, ordinal));
        CHECK(cuDeviceGetUuid_v2(uuid, gpu));
        CHECK(cuDeviceGetPCIBusId(pci, sizeof pci, gpu));
        CHECK(cuDeviceGetByPCIBusId(&again, pci));
        EXPECT(again == gpu, "%d is %s, which is %d", gpu, pci, again);
        for (int at = 0; at < 16; at++)
            end += sprintf(end, at == 4 || at == 6 || at == 8 || at == 10 ? "-%02x" : "%02x", uuid[at]);
        printf("visible: %d is GPU-%s, %s\n", ordinal, text, pci);
        use(gpu, 0xa0 + (uint32_t)ordinal);
        for (int peer = 0; peer < count; peer++) {
            int can;
            CHECK(cuDeviceCanAccessPeer(&can, gpu, peer));
        }
    }
    CUdevice none;
    EXPECT(cuDeviceGet(&none, count) == 101, "there is one more");
    return 0;
}
