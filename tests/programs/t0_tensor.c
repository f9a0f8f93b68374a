// SPDX-License-Identifier: Apache-2.0 OR MIT
// Tensor maps. What is in one only the library knows; here they are only compared with each other.
#include "t0.h"

struct map {
    _Alignas(64) unsigned char bytes[128];
};

static void *at(CUdeviceptr address) { return (void *)(uintptr_t)address; }

static void tiled(void) {
    with_context();
    CUdeviceptr memory;
    NEED(cuMemAlloc_v2(&memory, 1 << 20));
    struct map map, again, moved;
    uint64_t dims[] = {256, 128, 4, 2, 1}, strides[] = {512, 65536, 262144, 524288};
    uint32_t box[] = {64, 8, 1, 1, 1}, steps[] = {1, 1, 1, 1, 1};
    for (uint32_t rank = 0; rank < 7; rank++)
        TELL(cuTensorMapEncodeTiled(&map, 6, rank, at(memory), dims, strides, box, steps, 0, 0, 0, 0));
    TELL(cuTensorMapEncodeTiled(&map, 6, 2, at(memory), dims, strides, box, steps, 0, 3, 2, 0));
    TELL(cuTensorMapEncodeTiled(&again, 6, 2, at(memory), dims, strides, box, steps, 0, 3, 2, 0));
    say("the same again: %d", memcmp(&map, &again, sizeof map) == 0);
    TELL(cuTensorMapEncodeTiled(&moved, 6, 2, at(memory + 4096), dims, strides, box, steps, 0, 3, 2, 0));
    say("elsewhere: %d", memcmp(&map, &moved, sizeof map) == 0);
    TELL(cuTensorMapReplaceAddress(&map, at(memory + 4096)));
    say("moved there: %d", memcmp(&map, &moved, sizeof map) == 0);
    TELL(cuTensorMapReplaceAddress(&map, at(memory + 8)));
    TELL(cuTensorMapReplaceAddress(NULL, at(memory)));
    TELL(cuTensorMapEncodeTiled(NULL, 6, 2, at(memory), dims, strides, box, steps, 0, 0, 0, 0));
    TELL(cuTensorMapEncodeTiled(map.bytes + 16, 6, 2, at(memory), dims, strides, box, steps, 0, 0, 0, 0));
    TELL(cuTensorMapEncodeTiled(&map, 6, 2, at(memory + 8), dims, strides, box, steps, 0, 0, 0, 0));
    TELL(cuTensorMapEncodeTiled(&map, 99, 2, at(memory), dims, strides, box, steps, 0, 0, 0, 0));
    TELL(cuTensorMapEncodeTiled(&map, 6, 2, at(memory), NULL, strides, box, steps, 0, 0, 0, 0));
    TELL(cuTensorMapEncodeTiled(&map, 6, 2, at(memory), dims, NULL, box, steps, 0, 0, 0, 0));
    TELL(cuTensorMapEncodeTiled(&map, 6, 2, at(memory), dims, strides, NULL, steps, 0, 0, 0, 0));
    TELL(cuTensorMapEncodeTiled(&map, 6, 2, at(memory), dims, strides, box, NULL, 0, 0, 0, 0));
    TELL(cuTensorMapEncodeTiled(&map, 6, 2, at(memory), dims, strides, box, steps, 9, 0, 0, 0));
    TELL(cuTensorMapEncodeTiled(&map, 6, 2, at(memory), dims, strides, box, steps, 0, 0, 9, 0));
    TELL(cuTensorMapEncodeTiled(&map, 6, 2, at(memory), dims, strides, box, steps, 0, 0, 0, 9));
    strides[0] = 520;
    TELL(cuTensorMapEncodeTiled(&map, 6, 2, at(memory), dims, strides, box, steps, 0, 0, 0, 0));
    strides[0] = 512;
    box[0] = 257;
    TELL(cuTensorMapEncodeTiled(&map, 6, 2, at(memory), dims, strides, box, steps, 0, 0, 0, 0));
    box[0] = 64;
    steps[1] = 9;
    TELL(cuTensorMapEncodeTiled(&map, 6, 2, at(memory), dims, strides, box, steps, 0, 0, 0, 0));
}

static void images_to_columns(void) {
    with_context();
    CUdeviceptr memory;
    NEED(cuMemAlloc_v2(&memory, 1 << 20));
    struct map map, again;
    uint64_t dims[] = {64, 16, 16, 4}, strides[] = {128, 2048, 32768};
    int lower[] = {-1, -1}, upper[] = {-1, -1};
    uint32_t steps[] = {1, 1, 1, 1};
    TELL(cuTensorMapEncodeIm2col(&map, 6, 4, at(memory), dims, strides, lower, upper, 64, 128, steps, 0, 3, 0, 0));
    TELL(cuTensorMapEncodeIm2col(&again, 6, 4, at(memory), dims, strides, lower, upper, 64, 64, steps, 0, 3, 0, 0));
    say("with fewer pixels: %d", memcmp(&map, &again, sizeof map) == 0);
    TELL(cuTensorMapEncodeIm2col(&map, 6, 2, at(memory), dims, strides, lower, upper, 64, 128, steps, 0, 3, 0, 0));
    TELL(cuTensorMapEncodeIm2col(&map, 6, 4, at(memory), dims, strides, NULL, upper, 64, 128, steps, 0, 3, 0, 0));
    TELL(cuTensorMapEncodeIm2col(&map, 6, 4, at(memory), dims, strides, lower, upper, 257, 128, steps, 0, 3, 0, 0));
}

int main(int argc, char **argv) {
    static const struct section sections[] = {SECTION(tiled), SECTION(images_to_columns)};
    return RUN_SECTIONS(sections);
}
