// SPDX-License-Identifier: Apache-2.0 OR MIT
// Arrays, textures, surfaces.
#include "t0.h"

#define U8 1
#define U32 3
#define FLOAT 0x20
#define LAYERED 1
#define SURFACE 2

// CUDA_MEMCPY2D.
typedef struct {
    size_t srcXInBytes, srcY;
    int srcMemoryType;
    const void *srcHost;
    CUdeviceptr srcDevice;
    CUarray srcArray;
    size_t srcPitch;
    size_t dstXInBytes, dstY;
    int dstMemoryType;
    void *dstHost;
    CUdeviceptr dstDevice;
    CUarray dstArray;
    size_t dstPitch;
    size_t WidthInBytes, Height;
} copy_2d;
CUresult cuMemcpy2D_v2(const copy_2d *copy);

static void describe(const char *what, CUarray array) {
    array3d_descriptor full = {0};
    array_descriptor flat = {0};
    CUresult result = cuArray3DGetDescriptor_v2(&full, array);
    say("%s: %s, %zu x %zu x %zu, format %d, %u channels, flags %#x", what, result_name(result), full.width, full.height, full.depth,
        full.format, full.channels, full.flags);
    result = cuArrayGetDescriptor_v2(&flat, array);
    say("%s: %s, %zu x %zu, format %d, %u channels", what, result_name(result), flat.width, flat.height, flat.format, flat.channels);
}

static void creating(void) {
    with_context();
    CUarray array = NULL;
    TELL(cuArrayCreate_v2(&array, &(array_descriptor){100, 0, U32, 1}));
    describe("one dimension", array);
    TELL(cuArrayDestroy(array));
    TELL(cuArrayCreate_v2(&array, &(array_descriptor){100, 20, FLOAT, 4}));
    describe("two dimensions", array);
    TELL(cuArrayDestroy(array));
    TELL(cuArray3DCreate_v2(&array, &(array3d_descriptor){16, 8, 4, U8, 2, SURFACE}));
    describe("three dimensions", array);
    TELL(cuArrayDestroy(array));
    TELL(cuArray3DCreate_v2(&array, &(array3d_descriptor){16, 8, 4, FLOAT, 1, LAYERED}));
    describe("layers", array);
    TELL(cuArrayDestroy(array));
    TELL(cuArrayDestroy(NULL));
    TELL(cuArrayCreate_v2(NULL, &(array_descriptor){100, 0, U32, 1}));
    TELL(cuArrayCreate_v2(&array, NULL));
    TELL(cuArrayCreate_v2(&array, &(array_descriptor){0, 0, U32, 1}));
    TELL(cuArrayCreate_v2(&array, &(array_descriptor){100, 0, U32, 3}));
    TELL(cuArrayCreate_v2(&array, &(array_descriptor){100, 0, 77, 1}));
}

static void copying(void) {
    with_context();
    enum { COUNT = 1000 };
    static unsigned values[COUNT], got[COUNT];
    CUarray one, other;
    CUdeviceptr memory;
    CUstream stream;
    void *pinned;
    for (unsigned i = 0; i < COUNT; i++)
        values[i] = i * 7 + 1;
    NEED(cuArrayCreate_v2(&one, &(array_descriptor){COUNT, 0, U32, 1}));
    NEED(cuArrayCreate_v2(&other, &(array_descriptor){COUNT, 0, U32, 1}));
    NEED(cuMemAlloc_v2(&memory, sizeof values));
    NEED(cuStreamCreate(&stream, 1));
    NEED(cuMemHostAlloc(&pinned, sizeof values, 0));
    TELL(cuMemcpyHtoA_v2(one, 0, values, sizeof values));
    TELL(cuMemcpyAtoA_v2(other, 0, one, 0, sizeof values));
    TELL(cuMemcpyAtoD_v2(memory, other, 400, 2000));
    TELL(cuMemcpyDtoA_v2(other, 0, memory, 2000));
    TELL(cuMemcpyAtoH_v2(got, other, 0, sizeof got));
    unsigned wrong = 0;
    for (unsigned i = 0; i < COUNT; i++)
        wrong += got[i] != (i < 500 ? values[i + 100] : values[i]);
    say("%u wrong", wrong);
    memset(pinned, 0, sizeof values);
    TELL(cuMemcpyAtoHAsync_v2(pinned, one, 0, sizeof values, stream));
    TELL(cuStreamSynchronize(stream));
    say("pinned: %d", memcmp(pinned, values, sizeof values) == 0);
    memset(pinned, 3, sizeof values);
    TELL(cuMemcpyHtoAAsync_v2(one, 4, pinned, 8, stream));
    TELL(cuMemcpyAtoHAsync_v2(got, one, 0, 16, stream));
    TELL(cuStreamSynchronize(stream));
    say("%u %#x %#x %u", got[0], got[1], got[2], got[3]);
    TELL(cuMemcpyHtoA_v2(one, 4, values, sizeof values));
    TELL(cuMemcpyAtoH_v2(got, one, sizeof values, 4));
    TELL(cuMemcpyAtoH_v2(NULL, one, 0, 4));
    TELL(cuMemcpyAtoD_v2(memory + (1 << 30), one, 0, 4));
    TELL(cuMemcpyAtoH_v2(got, NULL, 0, 4));
    TELL(cuMemcpyAtoH_v2(got, one, 0, 0));
    TELL(cuArrayDestroy(one));
    TELL(cuArrayDestroy(other));
}

static void rows(void) {
    with_context();
    enum { WIDTH = 33, HEIGHT = 21 };
    static float values[HEIGHT][WIDTH], got[HEIGHT][WIDTH];
    CUarray array;
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 0; x < WIDTH; x++)
            values[y][x] = (float)(100 * y + x);
    NEED(cuArrayCreate_v2(&array, &(array_descriptor){WIDTH, HEIGHT, FLOAT, 1}));
    copy_2d in = {.srcMemoryType = 1, .srcHost = values, .srcPitch = sizeof values[0], .dstMemoryType = 3, .dstArray = array,
                        .WidthInBytes = sizeof values[0], .Height = HEIGHT};
    TELL(cuMemcpy2D_v2(&in));
    copy_2d out = {.srcMemoryType = 3, .srcArray = array, .srcXInBytes = 8, .srcY = 2, .dstMemoryType = 1, .dstHost = got,
                         .dstPitch = sizeof got[0], .WidthInBytes = 40, .Height = 5};
    TELL(cuMemcpy2D_v2(&out));
    int wrong = 0;
    for (int y = 0; y < 5; y++)
        for (int x = 0; x < 10; x++)
            wrong += got[y][x] != values[y + 2][x + 2];
    say("%d wrong", wrong);
    out.srcY = HEIGHT - 1;
    TELL(cuMemcpy2D_v2(&out));
    TELL(cuArrayDestroy(array));
    TELL(cuMemcpy2D_v2(&in));
}

static void levels(void) {
    with_context();
    CUmipmappedArray array;
    CUarray level, again;
    char name[20];
    TELL(cuMipmappedArrayCreate(&array, &(array3d_descriptor){64, 16, 0, FLOAT, 1, 0}, 4));
    for (unsigned i = 0; i < 4; i++) {
        TELL(cuMipmappedArrayGetLevel(&level, array, i));
        snprintf(name, sizeof name, "level %u", i);
        describe(name, level);
    }
    TELL(cuMipmappedArrayGetLevel(&level, array, 1));
    TELL(cuMipmappedArrayGetLevel(&again, array, 1));
    float values[4] = {1, 2, 3, 4}, got[4];
    TELL(cuMemcpyHtoA_v2(level, 0, values, sizeof values));
    TELL(cuMemcpyAtoH_v2(got, again, 0, sizeof got));
    say("the same level: %d", memcmp(values, got, sizeof got) == 0);
    TELL(cuMipmappedArrayGetLevel(&level, array, 4));
    TELL(cuMipmappedArrayGetLevel(NULL, array, 0));
    TELL(cuMipmappedArrayDestroy(array));
    TELL(cuMipmappedArrayCreate(&array, &(array3d_descriptor){64, 16, 0, FLOAT, 1, 0}, 0));
}

static void textures(void) {
    with_context();
    CUarray array;
    CUdeviceptr memory;
    size_t pitch = 1024;
    CUtexObject texture = 0, linear = 0, rows = 0;
    NEED(cuArray3DCreate_v2(&array, &(array3d_descriptor){64, 64, 0, FLOAT, 1, SURFACE}));
    NEED(cuMemAlloc_v2(&memory, 64 * pitch));
    texture_desc how = {.address_mode = {1, 1, 1}, .filter_mode = 1, .flags = 2}, told;
    resource_desc of_array = {.type = 0, .array = array}, of_memory = {.type = 2}, of_rows = {.type = 3}, of;
    of_memory.linear.address = memory;
    of_memory.linear.format = FLOAT;
    of_memory.linear.channels = 1;
    of_memory.linear.bytes = 4096;
    of_rows.rows.address = memory;
    of_rows.rows.format = FLOAT;
    of_rows.rows.channels = 1;
    of_rows.rows.width = 100;
    of_rows.rows.height = 64;
    of_rows.rows.pitch = pitch;
    TELL(cuTexObjectCreate(&texture, &of_array, &how, NULL));
    TELL(cuTexObjectGetResourceDesc(&of, texture));
    say("of the array: %d", of.type == 0 && of.array == array);
    TELL(cuTexObjectGetTextureDesc(&told, texture));
    say("modes %d %d, filter %d, flags %#x", told.address_mode[0], told.address_mode[1], told.filter_mode, told.flags);
    how = (texture_desc){0};
    TELL(cuTexObjectCreate(&linear, &of_memory, &how, NULL));
    TELL(cuTexObjectGetResourceDesc(&of, linear));
    say("of the memory: %d", of.type == 2 && of.linear.address == memory && of.linear.bytes == 4096);
    TELL(cuTexObjectCreate(&rows, &of_rows, &how, NULL));
    say("values differ: %d", texture != linear && linear != rows && texture != rows);
    TELL(cuTexObjectDestroy(rows));
    TELL(cuTexObjectDestroy(linear));
    resource_view_desc view = {.format = 0x16, .width = 64, .height = 64}, seen;
    CUtexObject viewed;
    TELL(cuTexObjectCreate(&viewed, &of_array, &how, &view));
    TELL(cuTexObjectGetResourceViewDesc(&seen, viewed));
    say("view: format %#x, %zu x %zu", seen.format, seen.width, seen.height);
    TELL(cuTexObjectDestroy(viewed));
    TELL(cuTexObjectCreate(NULL, &of_array, &how, NULL));
    TELL(cuTexObjectCreate(&linear, NULL, &how, NULL));
    of_array.type = 9;
    TELL(cuTexObjectCreate(&linear, &of_array, &how, NULL));
    TELL(cuTexObjectDestroy(texture));
    TELL(cuArrayDestroy(array));
    TELL(cuCtxSynchronize());
}

static void surfaces(void) {
    with_context();
    CUarray array;
    CUsurfObject surface;
    NEED(cuArray3DCreate_v2(&array, &(array3d_descriptor){64, 64, 0, FLOAT, 1, SURFACE}));
    resource_desc of_array = {.type = 0, .array = array}, of;
    TELL(cuSurfObjectCreate(&surface, &of_array));
    TELL(cuSurfObjectGetResourceDesc(&of, surface));
    say("of the array: %d", of.type == 0 && of.array == array);
    TELL(cuSurfObjectDestroy(surface));
    TELL(cuSurfObjectCreate(NULL, &of_array));
    of_array.type = 2;
    TELL(cuSurfObjectCreate(&surface, &of_array));
    TELL(cuCtxSynchronize());
}

// All of it goes with its context.
static void with_a_context(void) {
    with_context();
    CUarray array, level;
    CUmipmappedArray mipmapped;
    CUtexObject texture;
    texture_desc how = {0};
    NEED(cuArrayCreate_v2(&array, &(array_descriptor){100, 20, FLOAT, 4}));
    NEED(cuMipmappedArrayCreate(&mipmapped, &(array3d_descriptor){64, 16, 0, FLOAT, 1, 0}, 4));
    NEED(cuMipmappedArrayGetLevel(&level, mipmapped, 1));
    NEED(cuTexObjectCreate(&texture, &(resource_desc){.type = 0, .array = array}, &how, NULL));
    TELL(cuCtxDestroy_v2(context));
    NEED(cuCtxCreate_v2(&context, 0, device));
    TELL(cuArrayCreate_v2(&array, &(array_descriptor){100, 20, FLOAT, 4}));
    describe("another", array);
}

int main(int argc, char **argv) {
    static const struct section sections[] = {
        SECTION(creating), SECTION(copying), SECTION(rows), SECTION(levels), SECTION(textures), SECTION(surfaces), SECTION(with_a_context),
    };
    return RUN_SECTIONS(sections);
}
