// SPDX-License-Identifier: Apache-2.0 OR MIT
// Copies and fills of rows.
#include "t1_memory.h"

static CUstream stream;
static CUdeviceptr a, b;
static unsigned char *local, *back, *pinned;
#define BYTES ((size_t)8 << 20)

static void with_memory(void) {
    with_context();
    NEED(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    NEED(cuMemAlloc_v2(&a, BYTES));
    NEED(cuMemAlloc_v2(&b, BYTES));
    NEED(cuMemAllocHost_v2((void **)&pinned, BYTES));
    local = malloc(BYTES);
    back = malloc(BYTES);
    for (size_t i = 0; i < BYTES; i++)
        local[i] = i * 13 + i / 777;
    memcpy(pinned, local, BYTES);
}

static void clear(void) {
    NEED(cuMemsetD8_v2(a, 0, BYTES));
    NEED(cuMemsetD8_v2(b, 0, BYTES));
    NEED(cuCtxSynchronize());
    memset(back, 0, BYTES);
}

// What lies on the device now.
static unsigned device_sum(CUdeviceptr at) {
    static unsigned char *all;
    if (all == NULL)
        all = malloc(BYTES);
    NEED(cuCtxSynchronize());
    NEED(cuMemcpyDtoH_v2(all, at, BYTES));
    return sum_of(all, BYTES);
}

static CUDA_MEMCPY2D copy_2d(const void *from_host, CUdeviceptr from, void *to_host, CUdeviceptr to, size_t width, size_t height,
                             size_t from_pitch, size_t to_pitch) {
    CUDA_MEMCPY2D copy = {0};
    copy.srcMemoryType = from_host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
    copy.srcHost = from_host;
    copy.srcDevice = from;
    copy.srcPitch = from_pitch;
    copy.dstMemoryType = to_host ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
    copy.dstHost = to_host;
    copy.dstDevice = to;
    copy.dstPitch = to_pitch;
    copy.WidthInBytes = width;
    copy.Height = height;
    return copy;
}

static void plain_2d(void) {
    with_memory();
    struct {
        size_t width, height, from, to;
    } shapes[] = {{100, 10, 128, 256}, {1000, 2000, 1024, 4096}, {1, 5000, 1, 512}, {3 << 20, 2, 3 << 20, 3 << 20}, {5, 1, 0, 0}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        size_t w = shapes[i].width, h = shapes[i].height, f = shapes[i].from, t = shapes[i].to;
        clear();
        CUDA_MEMCPY2D in = copy_2d(local, 0, NULL, a, w, h, f, t);
        CUDA_MEMCPY2D across = copy_2d(NULL, a, NULL, b, w, h, t, f);
        CUDA_MEMCPY2D out = copy_2d(NULL, b, back, 0, w, h, f, f);
        CUresult r1 = cuMemcpy2D_v2(&in), r2 = cuMemcpy2DUnaligned_v2(&across), r3 = cuMemcpy2D_v2(&out);
        int equal = 1;
        for (size_t row = 0; row < h; row++)
            equal &= memcmp(local + row * f, back + row * f, w) == 0;
        say("%zu x %zu: %s %s %s, equal %d, %u %u", w, h, result_name(r1), result_name(r2), result_name(r3), equal, device_sum(a),
            device_sum(b));
        clear();
        in = copy_2d(pinned, 0, NULL, a, w, h, f, t);
        out = copy_2d(NULL, a, pinned + (4 << 20), 0, w, h, t, f);
        memset(pinned + (4 << 20), 0, 4 << 20);
        if (f * h <= 4 << 20) {
            r1 = cuMemcpy2DAsync_v2(&in, stream);
            r2 = cuMemcpy2DAsync_v2(&out, stream);
            r3 = cuStreamSynchronize(stream);
            say("pinned: %s %s %s, %u %u", result_name(r1), result_name(r2), result_name(r3), device_sum(a),
                sum_of(pinned + (4 << 20), 4 << 20));
        }
        memcpy(pinned, local, BYTES);
    }
}

static void parts_2d(void) {
    with_memory();
    clear();
    CUDA_MEMCPY2D in = copy_2d(local, 0, NULL, a, 50, 20, 200, 512);
    in.srcXInBytes = 7;
    in.srcY = 3;
    in.dstXInBytes = 100;
    in.dstY = 9;
    TELL(cuMemcpy2D_v2(&in));
    say("device %u", device_sum(a));
    CUDA_MEMCPY2D out = copy_2d(NULL, a, back, 0, 50, 20, 512, 99);
    out.srcXInBytes = 100;
    out.srcY = 9;
    out.dstXInBytes = 49;
    out.dstY = 2;
    TELL(cuMemcpy2D_v2(&out));
    say("host %u", sum_of(back, BYTES));
    out.srcMemoryType = CU_MEMORYTYPE_UNIFIED;
    TELL(cuMemcpy2D_v2(&out));
    CUDA_MEMCPY2D hosts = copy_2d(local, 0, back, 0, 50, 20, 60, 70);
    TELL(cuMemcpy2D_v2(&hosts));
    say("host %u", sum_of(back, BYTES));
}

static void wrong_2d(void) {
    with_memory();
    CUDA_MEMCPY2D copy;
#define WRONG(change)                                                                                              \
    do {                                                                                                           \
        copy = copy_2d(NULL, a, NULL, b, 100, 10, 512, 512);                                                       \
        change;                                                                                                    \
        CUresult r1 = cuMemcpy2DUnaligned_v2(&copy), r2 = cuMemcpy2DAsync_v2(&copy, stream);                        \
        say("%s: %s %s", #change, result_name(r1), result_name(r2));                                               \
        NEED(cuCtxSynchronize());                                                                                  \
    } while (0)
    WRONG((void)0);
    WRONG(copy.WidthInBytes = 0);
    WRONG(copy.Height = 0);
    WRONG(copy.srcPitch = 99);
    WRONG(copy.dstPitch = 99);
    WRONG(copy.srcXInBytes = 413);
    WRONG(copy.srcMemoryType = 0);
    WRONG(copy.dstMemoryType = 9);
    WRONG(copy.srcDevice = 0);
    WRONG(copy.dstDevice = b + BYTES - 4708 + 1);
    WRONG(copy.dstDevice = b + BYTES - 4708);
    WRONG(copy.Height = SIZE_MAX);
    WRONG(copy.srcY = SIZE_MAX / 512);
}

static void copies_3d(void) {
    with_memory();
    clear();
    CUDA_MEMCPY3D in = {0};
    in.srcMemoryType = CU_MEMORYTYPE_HOST;
    in.srcHost = local;
    in.srcPitch = 128;
    in.srcHeight = 30;
    in.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    in.dstDevice = a;
    in.dstPitch = 256;
    in.dstHeight = 25;
    in.WidthInBytes = 100;
    in.Height = 20;
    in.Depth = 12;
    in.srcXInBytes = 3;
    in.srcY = 4;
    in.srcZ = 5;
    in.dstXInBytes = 16;
    in.dstY = 2;
    in.dstZ = 1;
    TELL(cuMemcpy3D_v2(&in));
    say("device %u", device_sum(a));
    in.srcHost = pinned;
    clear();
    TELL(cuMemcpy3DAsync_v2(&in, stream));
    say("device %u", device_sum(a));
    CUDA_MEMCPY3D out = in;
    out.srcMemoryType = CU_MEMORYTYPE_DEVICE;
    out.srcDevice = a;
    out.srcPitch = 256;
    out.srcHeight = 25;
    out.srcXInBytes = 16;
    out.srcY = 2;
    out.srcZ = 1;
    out.dstMemoryType = CU_MEMORYTYPE_HOST;
    out.dstHost = back;
    out.dstPitch = 128;
    out.dstHeight = 30;
    out.dstXInBytes = 3;
    out.dstY = 4;
    out.dstZ = 5;
    TELL(cuMemcpy3D_v2(&out));
    say("host %u", sum_of(back, BYTES));
    out.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    out.dstDevice = b;
    TELL(cuMemcpy3DAsync_v2(&out, stream));
    say("device %u", device_sum(b));
    in.srcContext = context;
    in.dstContext = context;
    TELL(cuMemcpy3DPeer(&in));
    out.dstHeight = 19;
    TELL(cuMemcpy3D_v2(&out));
    out.dstHeight = 30;
    out.Depth = SIZE_MAX;
    TELL(cuMemcpy3D_v2(&out));
    out.Depth = 0;
    TELL(cuMemcpy3D_v2(&out));
    // More than the staging holds at once.
    CUDA_MEMCPY3D much = {0};
    much.srcMemoryType = CU_MEMORYTYPE_HOST;
    much.srcHost = local;
    much.srcPitch = 2048;
    much.srcHeight = 1024;
    much.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    much.dstDevice = a;
    much.dstPitch = 2000;
    much.dstHeight = 1000;
    much.WidthInBytes = 2000;
    much.Height = 1000;
    much.Depth = 4;
    TELL(cuMemcpy3D_v2(&much));
    say("device %u", device_sum(a));
}

static void filling(void) {
    with_memory();
#define FILLED(call)                                                                                               \
    do {                                                                                                           \
        clear();                                                                                                   \
        CUresult r1 = (call), r2 = cuCtxSynchronize();                                                             \
        say("%s = %s %s, %u", #call, result_name(r1), result_name(r2), device_sum(a));                             \
    } while (0)
    FILLED(cuMemsetD2D8_v2(a + 5, 300, 0xab, 200, 40));
    FILLED(cuMemsetD2D16_v2(a + 4, 300, 0xabcd, 100, 40));
    FILLED(cuMemsetD2D32_v2(a + 8, 400, 0xabcdef01, 100, 40));
    FILLED(cuMemsetD2D8Async(a + 5, 300, 0xab, 200, 40, stream));
    FILLED(cuMemsetD2D16Async(a + 4, 300, 0xabcd, 100, 40, stream));
    FILLED(cuMemsetD2D32Async(a + 8, 400, 0xabcdef01, 100, 40, stream));
    FILLED(cuMemsetD2D8_v2(a, 1, 7, 1, 5000));
    FILLED(cuMemsetD2D8_v2(a, 0, 7, 100, 1));
    FILLED(cuMemsetD2D8_v2(a, 99, 7, 100, 2));
    FILLED(cuMemsetD2D16_v2(a + 1, 300, 7, 100, 2));
    FILLED(cuMemsetD2D32_v2(a + 2, 400, 7, 100, 2));
    FILLED(cuMemsetD2D32_v2(a, 400, 7, 0, 2));
    FILLED(cuMemsetD2D32_v2(a, 400, 7, 2, 0));
    FILLED(cuMemsetD2D8_v2(a, 4096, 7, 4096, 2049));
    FILLED(cuMemsetD2D8_v2(a, (size_t)1 << 40, 7, 1, SIZE_MAX));
    FILLED(cuMemsetD2D32_v2(a, 400, 7, SIZE_MAX / 2, 1));
}

int main(int argc, char **argv) {
    static const struct section sections[] = {
        SECTION(plain_2d), SECTION(parts_2d), SECTION(wrong_2d), SECTION(copies_3d), SECTION(filling),
    };
    return RUN_SECTIONS(sections);
}
