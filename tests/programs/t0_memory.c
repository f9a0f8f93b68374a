// SPDX-License-Identifier: Apache-2.0 OR MIT
// Device memory, copies, fills, pinned memory.
#include "t0.h"

static CUdeviceptr of(const void *pointer) {
    return (CUdeviceptr)(uintptr_t)pointer;
}

static void allocating(void) {
    with_context();
    CUdeviceptr a = 0, b = 0;
    size_t free_bytes = 0, total = 0, device_total = 0;
    TELL(cuMemAlloc_v2(NULL, 16));
    TELL(cuMemAlloc_v2(NULL, 0));
    TELL(cuMemAlloc_v2(&a, 0));
    TELL(cuMemAlloc_v2(&a, (size_t)1 << 46));
    TELL(cuMemAlloc_v2(&a, SIZE_MAX));
    TELL(cuMemAlloc_v2(&a, SIZE_MAX - 4095));
    TELL(cuMemAlloc_v2(&a, 1));
    TELL(cuMemAlloc_v2(&b, (8 << 20) + 5));
    say("aligned to 256: %d %d", a % 256 == 0, b % 256 == 0);
    TELL(cuMemFree_v2(b + 256));
    TELL(cuMemFree_v2(b + 1));
    TELL(cuMemFree_v2(b));
    TELL(cuMemFree_v2(b));
    TELL(cuMemFree_v2(0));
    TELL(cuMemFree_v2(1));
    TELL(cuMemFree_v2(0xdeadbeef000));
    TELL(cuMemFree_v2(~0ull));
    TELL(cuMemFree_v2(of(&a)));
    TELL(cuMemFree_v2(a));
    TELL(cuMemGetInfo_v2(&free_bytes, &total));
    NEED(cuDeviceTotalMem_v2(&device_total, device));
    say("free of total: %d, total is the device's: %d", free_bytes > 0 && free_bytes <= total, total == device_total);
    TELL(cuMemGetInfo_v2(&free_bytes, NULL));
    TELL(cuMemGetInfo_v2(NULL, &total));
    TELL(cuMemGetInfo_v2(NULL, NULL));
}

static void many(void) {
    with_context();
    static CUdeviceptr all[500];
    for (int i = 0; i < 500; i++)
        NEED(cuMemAlloc_v2(&all[i], 1 + (size_t)i * 997));
    for (int i = 0; i < 500; i++)
        NEED(cuMemsetD8_v2(all[i], (unsigned char)i, 1 + (size_t)i * 997));
    int wrong = 0;
    for (int i = 499; i >= 0; i--) {
        unsigned char last = 0;
        NEED(cuMemcpyDtoH_v2(&last, all[i] + (size_t)i * 997, 1));
        wrong += last != (unsigned char)i;
        NEED(cuMemFree_v2(all[i]));
    }
    say("500 allocations: %d wrong", wrong);
}

#define BIG ((3 << 20) + 7)
static unsigned char source[BIG], target[BIG];

// Copies `len` bytes there and back by one pair of functions each, and says whether they came.
static void round_trips(CUdeviceptr a, CUdeviceptr b, void *pinned, size_t len) {
    CUstream stream;
    NEED(cuStreamCreate(&stream, 0));
    for (size_t i = 0; i < len; i++)
        source[i] = (unsigned char)(i * 31 + len);
#define TRIP(name, there, across, back)                                                                            \
    do {                                                                                                           \
        memset(target, 0xee, len);                                                                                 \
        CUresult r1 = (there), r2 = (across), r3 = (back);                                                         \
        CUresult r4 = cuStreamSynchronize(stream), r5 = cuCtxSynchronize();                                        \
        say("%s of %zu bytes: %s %s %s %s %s, same: %d", name, len, result_name(r1), result_name(r2),              \
            result_name(r3), result_name(r4), result_name(r5), memcmp(source, target, len) == 0);                  \
    } while (0)
    TRIP("sync", cuMemcpyHtoD_v2(a, source, len), cuMemcpyDtoD_v2(b, a, len), cuMemcpyDtoH_v2(target, b, len));
    TRIP("sync ptds", cuMemcpyHtoD_v2_ptds(a, source, len), cuMemcpyDtoD_v2_ptds(b, a, len),
         cuMemcpyDtoH_v2_ptds(target, b, len));
    TRIP("any", cuMemcpy(a, of(source), len), cuMemcpy(b, a, len), cuMemcpy(of(target), b, len));
    TRIP("any ptds", cuMemcpy_ptds(a, of(source), len), cuMemcpy_ptds(b, a, len), cuMemcpy_ptds(of(target), b, len));
    TRIP("async", cuMemcpyHtoDAsync_v2(a, source, len, stream), cuMemcpyDtoDAsync_v2(b, a, len, stream),
         cuMemcpyDtoHAsync_v2(target, b, len, stream));
    TRIP("async ptsz", cuMemcpyHtoDAsync_v2_ptsz(a, source, len, stream),
         cuMemcpyDtoDAsync_v2_ptsz(b, a, len, stream), cuMemcpyDtoHAsync_v2_ptsz(target, b, len, stream));
    TRIP("any async", cuMemcpyAsync(a, of(source), len, stream), cuMemcpyAsync(b, a, len, stream),
         cuMemcpyAsync(of(target), b, len, stream));
    TRIP("any async ptsz, null stream", cuMemcpyAsync_ptsz(a, of(source), len, NULL),
         cuMemcpyAsync_ptsz(b, a, len, NULL), cuMemcpyAsync_ptsz(of(target), b, len, NULL));
    memcpy(pinned, source, len);
    TRIP("pinned to device, sync", cuMemcpyHtoD_v2(a, pinned, len), cuMemcpyDtoD_v2(b, a, len),
         cuMemcpyDtoH_v2(target, b, len));
    memset(pinned, 0, len);
    TRIP("device to pinned, async", cuMemcpyHtoDAsync_v2(a, source, len, stream),
         cuMemcpyDtoHAsync_v2(pinned, a, len, stream), cuStreamSynchronize(stream) ?: (memcpy(target, pinned, len), 0));
    memset(pinned, 0, len);
    TRIP("pageable to pinned to pageable", cuMemcpy(of(pinned), of(source), len), 0, cuMemcpy(of(target), of(pinned), len));
    TRIP("pageable to pageable", cuMemcpy(of(target), of(source), len), 0, 0);
    memset(pinned, 0, len);
    TRIP("pinned as device memory", cuMemcpyHtoD_v2(of(pinned), source, len), cuMemcpyDtoD_v2(a, of(pinned), len),
         cuMemcpyDtoH_v2(target, a, len));
    NEED(cuStreamDestroy_v2(stream));
}

static void copying(void) {
    with_context();
    CUdeviceptr a, b;
    void *pinned;
    NEED(cuMemAlloc_v2(&a, BIG));
    NEED(cuMemAlloc_v2(&b, BIG));
    NEED(cuMemAllocHost_v2(&pinned, BIG));
    const size_t lengths[] = {0, 1, 3, 64, 4095, 65536, 65537, 1 << 20, BIG};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        round_trips(a, b, pinned, lengths[i]);
}

static void copying_wrongly(void) {
    with_context();
    CUdeviceptr a, b;
    unsigned char buffer[64] = {0};
    NEED(cuMemAlloc_v2(&a, 4 << 20));
    NEED(cuMemAlloc_v2(&b, 4 << 20));
    NEED(cuMemFree_v2(b));
    static unsigned char much[(4 << 20) + 64];
    TELL(cuMemcpyHtoD_v2(a, much, (4 << 20) + 1));
    TELL(cuMemcpyHtoD_v2(a + (4 << 20) - 1, buffer, 2));
    TELL(cuMemcpyDtoH_v2(buffer, a + (4 << 20) - 1, 2));
    TELL(cuMemcpyHtoD_v2(a + (4 << 20) - 2, buffer, 2));
    TELL(cuMemcpyHtoD_v2(b, buffer, 16));
    TELL(cuMemcpyDtoH_v2(buffer, b, 16));
    TELL(cuMemcpyDtoD_v2(a, b, 16));
    TELL(cuMemcpyDtoD_v2(b, a, 16));
    TELL(cuMemcpyHtoD_v2(0, buffer, 16));
    TELL(cuMemcpyDtoH_v2(buffer, 0, 16));
    TELL(cuMemcpyDtoD_v2(a, 0, 16));
    TELL(cuMemcpyDtoD_v2(0, a, 16));
    TELL(cuMemcpyDtoD_v2(0, 0, 0));
    TELL(cuMemcpyHtoD_v2(0, buffer, 0));
    TELL(cuMemcpyHtoD_v2(a, NULL, 0));
    TELL(cuMemcpyDtoH_v2(NULL, a, 0));
    TELL(cuMemcpyDtoH_v2(buffer, 0, 0));
    TELL(cuMemcpy(0, 0, 0));
    TELL(cuMemcpyDtoD_v2(a, a + 1, 100));
    TELL(cuMemcpyDtoD_v2(a + 1, a, 100));
    TELL(cuMemcpyDtoD_v2(a, a, 100));
    TELL(cuMemcpyDtoD_v2(a, a + (2 << 20), (2 << 20) + 1));
    TELL(cuMemcpyHtoDAsync_v2(b, buffer, 16, NULL));
    TELL(cuMemcpyDtoHAsync_v2(buffer, b, 16, NULL));
    TELL(cuMemcpyDtoDAsync_v2(a, b, 16, NULL));
    TELL(cuMemcpyAsync(b, a, 16, NULL));
    TELL(cuMemcpyHtoD_v2(a, buffer, 16));
    TELL(cuMemcpyDtoH_v2(buffer, a, SIZE_MAX));
    TELL(cuCtxSynchronize());
    // Host memory where a device address belongs.
    TELL(cuMemcpyHtoD_v2(of(much), buffer, 16));
    TELL(cuMemcpyDtoH_v2(buffer, of(much), 16));
    TELL(cuMemcpyDtoD_v2(a, of(much), 16));
    TELL(cuMemcpyDtoD_v2(of(much), a, 16));
    TELL(cuCtxSynchronize());
    // A device address where host memory belongs.
    TELL(cuMemcpyHtoD_v2(a, (void *)(uintptr_t)(a + 64), 16));
    TELL(cuMemcpyDtoH_v2((void *)(uintptr_t)(a + 64), a, 16));
    TELL(cuCtxSynchronize());
}

static void from_null(void) {
    with_context();
    CUdeviceptr a;
    NEED(cuMemAlloc_v2(&a, 64));
    TELL(cuMemcpyHtoD_v2(a, NULL, 16));
}
static void to_null(void) {
    with_context();
    CUdeviceptr a;
    NEED(cuMemAlloc_v2(&a, 64));
    TELL(cuMemcpyDtoH_v2(NULL, a, 16));
}

static void filling(void) {
    with_context();
    CUdeviceptr a, b;
    CUstream stream;
    static unsigned char got[4096];
    NEED(cuStreamCreate(&stream, 0));
    NEED(cuMemAlloc_v2(&a, 4 << 20));
    NEED(cuMemAlloc_v2(&b, 4 << 20));
    NEED(cuMemFree_v2(b));
#define FILLED(call, at, len)                                                                                      \
    do {                                                                                                           \
        NEED(cuMemsetD8_v2(a, 0x11, 4096));                                                                        \
        CUresult r1 = (call), r2 = cuCtxSynchronize();                                                             \
        NEED(cuMemcpyDtoH_v2(got, a, sizeof got));                                                                 \
        unsigned sum = 0;                                                                                          \
        for (size_t i = 0; i < sizeof got; i++)                                                                    \
            sum = sum * 31 + got[i];                                                                               \
        say("%s = %s %s, %u", #call, result_name(r1), result_name(r2), sum);                                       \
    } while (0)
    FILLED(cuMemsetD8_v2(a + 3, 0xab, 101), 3, 101);
    FILLED(cuMemsetD16_v2(a + 2, 0xabcd, 101), 2, 202);
    FILLED(cuMemsetD32_v2(a + 4, 0xabcdef01, 101), 4, 404);
    FILLED(cuMemsetD8_v2_ptds(a + 3, 0xab, 101), 3, 101);
    FILLED(cuMemsetD16_v2_ptds(a + 2, 0xabcd, 101), 2, 202);
    FILLED(cuMemsetD32_v2_ptds(a + 4, 0xabcdef01, 101), 4, 404);
    FILLED(cuMemsetD8Async(a + 3, 0xab, 101, stream), 3, 101);
    FILLED(cuMemsetD16Async(a + 2, 0xabcd, 101, stream), 2, 202);
    FILLED(cuMemsetD32Async(a + 4, 0xabcdef01, 101, stream), 4, 404);
    FILLED(cuMemsetD8Async_ptsz(a + 3, 0xab, 101, stream), 3, 101);
    FILLED(cuMemsetD16Async_ptsz(a + 2, 0xabcd, 101, NULL), 2, 202);
    FILLED(cuMemsetD32Async_ptsz(a + 4, 0xabcdef01, 101, stream), 4, 404);
    FILLED(cuMemsetD16_v2(a + 1, 1, 10), 0, 0);
    FILLED(cuMemsetD32_v2(a + 1, 1, 10), 0, 0);
    FILLED(cuMemsetD32_v2(a + 2, 1, 10), 0, 0);
    FILLED(cuMemsetD16Async(a + 1, 1, 10, stream), 0, 0);
    FILLED(cuMemsetD32Async(a + 3, 1, 10, stream), 0, 0);
    FILLED(cuMemsetD8_v2(a, 1, 0), 0, 0);
    FILLED(cuMemsetD16_v2(a + 1, 1, 0), 0, 0);
    FILLED(cuMemsetD8_v2(0, 1, 0), 0, 0);
    FILLED(cuMemsetD8_v2(0, 1, 1), 0, 0);
    FILLED(cuMemsetD8_v2(b, 1, 1), 0, 0);
    FILLED(cuMemsetD8_v2(a, 0x22, (4 << 20) + 1), 0, 0);
    FILLED(cuMemsetD8_v2(a + (4 << 20) - 1, 0x22, 2), 0, 0);
    FILLED(cuMemsetD32_v2(a, 0x22, (1 << 20) + 1), 0, 0);
    FILLED(cuMemsetD32_v2(a, 0x22, SIZE_MAX), 0, 0);
    FILLED(cuMemsetD32_v2(a, 0x22, ((size_t)1 << 62) + 4), 0, 0);
    FILLED(cuMemsetD16Async(a, 0x22, (2 << 20) + 1, stream), 0, 0);
    FILLED(cuMemsetD8Async(b, 1, 1, stream), 0, 0);
    FILLED(cuMemsetD8_v2(of(got), 1, 1), 0, 0);
    FILLED(cuMemsetD8_v2(a, 0x5a, 4 << 20), 0, 0);
}

static void pinned_memory(void) {
    with_kernels();
    unsigned flags = 0;
    CUdeviceptr there = 0;
    void *p = NULL, *q = NULL;
    char local[16];
    TELL(cuMemAllocHost_v2(NULL, 16));
    TELL(cuMemAllocHost_v2(&p, 0));
    TELL(cuMemHostAlloc(NULL, 16, 0));
    TELL(cuMemHostAlloc(&p, 0, 0));
    TELL(cuMemHostAlloc(&p, 16, 8));
    TELL(cuMemHostAlloc(&p, 16, 0x10));
    TELL(cuMemHostAlloc(&p, 16, 0xffffffff));
    TELL(cuMemAllocHost_v2(&p, (size_t)1 << 46));
    TELL(cuMemAllocHost_v2(&p, SIZE_MAX));
    for (unsigned wanted = 0; wanted < 8; wanted++) {
        CUresult made = cuMemHostAlloc(&p, 5000, wanted);
        CUresult asked = cuMemHostGetFlags(&flags, p);
        CUresult found = cuMemHostGetDevicePointer_v2(&there, p, 0);
        say("flags %u: %s, %s %u, %s, same address %d, page-aligned %d", wanted, result_name(made), result_name(asked),
            flags, result_name(found), there == of(p), of(p) % 4096 == 0);
        TELL(cuMemFreeHost(p));
    }
    NEED(cuMemAllocHost_v2(&p, 5000));
    TELL_VALUE(cuMemHostGetFlags(&flags, p), flags);
    TELL_VALUE(cuMemHostGetFlags(&flags, (char *)p + 4999), flags);
    TELL(cuMemHostGetFlags(&flags, (char *)p + (64 << 20)));
    TELL(cuMemHostGetFlags(&flags, local));
    TELL(cuMemHostGetFlags(&flags, NULL));
    TELL(cuMemHostGetFlags(NULL, p));
    TELL(cuMemHostGetDevicePointer_v2(&there, (char *)p + 100, 0));
    say("inside: %d", there == of(p) + 100);
    TELL(cuMemHostGetDevicePointer_v2(&there, p, 1));
    TELL(cuMemHostGetDevicePointer_v2(NULL, p, 0));
    TELL(cuMemHostGetDevicePointer_v2(&there, local, 0));
    TELL(cuMemHostGetDevicePointer_v2(&there, NULL, 0));
    TELL(cuMemFreeHost((char *)p + 64));
    TELL(cuMemFreeHost(local));
    TELL(cuMemFreeHost(NULL));
    TELL(cuMemFree_v2(of(p)));
    // The device fills it, a kernel changes it, the host reads it.
    unsigned by = 3, n = 256;
    TELL(cuMemsetD32_v2(of(p), 4, 256));
    void *parameters[] = {&p, &by, &n};
    TELL(cuLaunchKernel(kernel_of(module, "increment"), 1, 1, 1, 256, 1, 1, 0, NULL, parameters, NULL));
    TELL(cuCtxSynchronize());
    say("values %u %u", ((unsigned *)p)[0], ((unsigned *)p)[255]);
    TELL(cuMemAllocHost_v2(&q, 100));
    memset(q, 1, 100);
    TELL(cuMemcpyDtoD_v2(of(p), of(q), 100));
    TELL(cuCtxSynchronize());
    say("copied: %d", memcmp(p, q, 100) == 0);
    TELL(cuMemFreeHost(q));
    TELL(cuMemFreeHost(q));
    TELL(cuMemFreeHost(p));
    TELL(cuMemHostGetFlags(&flags, p));
}

static void busy_memory(void) {
    with_kernels();
    CUdeviceptr word;
    void *pinned;
    unsigned got = 0;
    NEED(cuMemAlloc_v2(&word, 4096));
    NEED(cuMemAllocHost_v2(&pinned, 4096));
    NEED(cuMemsetD32_v2(word, 0, 1024));
    keep_busy(word, NULL, WHILE_BUSY);
    TELL(cuMemcpyDtoH_v2(&got, word, 4));
    say("a copy waits for the kernel before it: %u", got);
    keep_busy(word, NULL, WHILE_BUSY);
    TELL(cuMemcpyDtoHAsync_v2(pinned, word, 4, NULL));
    TELL(cuStreamQuery(NULL));
    // Freeing waits.
    TELL(cuMemFreeHost(pinned));
    TELL(cuMemcpyDtoH_v2(&got, word, 4));
    keep_busy(word, NULL, WHILE_BUSY);
    TELL(cuMemFree_v2(word));
    TELL(cuMemcpyDtoH_v2(&got, word, 4));
    TELL(cuStreamSynchronize(NULL));
}

CUresult cuPointerGetAttributes(unsigned count, const int *attributes, void **places, CUdeviceptr at);

// What is told of an address, one attribute at a time and by the call for many; what is not told leaves the place as it was.
static void about(const char *what, CUdeviceptr at) {
    const uint64_t untouched = 0x7777777777777777;
    for (int attribute = 1; attribute <= 21; attribute++) {
        // Tokens of GPUDirect; and what depends on hardware that a guest has not: access by other devices, decompression.
        if (attribute == 5 || attribute == 15 || attribute == 21)
            continue;
        for (int many = 0; many < 2; many++) {
            uint64_t value = untouched;
            void *place = &value;
            CUresult result = many ? cuPointerGetAttributes(1, &attribute, &place, at)
                                   : cuPointerGetAttribute(&value, attribute, at);
            const char *told = value == untouched ? "nothing" : value == 0 ? "0" : value == at ? "the address" : "a number";
            if (value >> 32 == untouched >> 32 && value != untouched)
                say("%s, attribute %d, many %d: %s, %d", what, attribute, many, result_name(result), (int)value);
            else
                say("%s, attribute %d, many %d: %s, %s", what, attribute, many, result_name(result), told);
        }
    }
}

static void addresses(void) {
    with_context();
    char own = 0;
    CUdeviceptr allocated;
    void *pinned;
    NEED(cuMemAlloc_v2(&allocated, 4096));
    NEED(cuMemHostAlloc(&pinned, 4096, 0));
    about("of the device", allocated);
    about("inside", allocated + 100);
    about("pinned", (CUdeviceptr)(uintptr_t)pinned);
    about("the program's own", (CUdeviceptr)(uintptr_t)&own);
    about("nowhere", 0x1234);
    about("null", 0);
    NEED(cuMemFree_v2(allocated));
    about("freed", allocated);
}

int main(int argc, char **argv) {
    static const struct section sections[] = {
        SECTION(allocating),    SECTION(many),    SECTION(copying), SECTION(copying_wrongly), SECTION(filling),
        SECTION(pinned_memory), SECTION(busy_memory), SECTION(from_null), SECTION(to_null),
        SECTION(addresses),
    };
    return RUN_SECTIONS(sections);
}
