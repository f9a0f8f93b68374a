// SPDX-License-Identifier: Apache-2.0 OR MIT
// Memory of the program's own, registered: copies both ways, and kernels that use the program's own pointers. Argument: MiB
// (default 8).
#include "common.h"
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

// CUpointer_attribute and CU_STREAM_WAIT_VALUE_EQ.
enum { MEMORY_TYPE = 2, DEVICE_POINTER = 3, HOST_POINTER = 4, IS_MANAGED = 8, RANGE_START = 11, RANGE_SIZE = 12, EQUAL = 1 };
enum { NOT_SUPPORTED = 801, ALREADY_REGISTERED = 712, NOT_REGISTERED = 713 };

static CUfunction increment;

// Has a kernel add `by` to `n` words.
static void add(uint32_t *words, uint32_t by, uint32_t n) {
    CUdeviceptr at = (CUdeviceptr)(uintptr_t)words;
    void *params[] = {&at, &by, &n};
    CHECK(cuLaunchKernel(increment, (n + 255) / 256, 1, 1, 256, 1, 1, 0, NULL, params, NULL));
    CHECK(cuCtxSynchronize());
}

static uint32_t *own_pages(size_t bytes) {
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT(at != MAP_FAILED, "no memory");
    return at;
}

// Whole pages, of which every one gets its own number.
static void whole_pages(size_t bytes) {
    size_t words = bytes / sizeof(uint32_t);
    uint32_t *own = own_pages(bytes);
    for (size_t i = 0; i < words; i++)
        own[i] = (uint32_t)(i * 2654435761u);
    CHECK(cuMemHostRegister_v2(own, bytes, 0));
    for (size_t i = 0; i < words; i++)
        EXPECT(own[i] == (uint32_t)(i * 2654435761u), "word %zu is %#x once it is registered", i, own[i]);
    CUdeviceptr seen = 0;
    CHECK(cuMemHostGetDevicePointer_v2(&seen, own, 0));
    EXPECT(seen == (CUdeviceptr)(uintptr_t)own, "the device sees it at %#llx, the host at %p", seen, (void *)own);
    add(own, 7, (uint32_t)words);
    CUdeviceptr d = device_alloc(bytes);
    CUstream stream;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemcpyHtoDAsync_v2(d, own, bytes, stream));
    uint32_t by = 1, n = (uint32_t)words;
    void *params[] = {&d, &by, &n};
    CHECK(cuLaunchKernel(increment, (n + 255) / 256, 1, 1, 256, 1, 1, 0, stream, params, NULL));
    CHECK(cuMemcpyDtoHAsync_v2(own, d, bytes, stream));
    CHECK(cuStreamSynchronize(stream));
    for (size_t i = 0; i < words; i++)
        EXPECT(own[i] == (uint32_t)(i * 2654435761u) + 8, "word %zu is %#x", i, own[i]);
    // A stream waits for a word of it, and writes one, while the program looks at them.
    volatile uint32_t *word = own;
    word[0] = word[1] = 0;
    CUdeviceptr at = (CUdeviceptr)(uintptr_t)own;
    CHECK(cuStreamWaitValue32_v2(stream, at, 1, EQUAL));
    CHECK(cuStreamWriteValue32_v2(stream, at + 4, 5, 0));
    EXPECT(cuStreamQuery(stream) == CUDA_ERROR_NOT_READY, "the stream does not wait");
    word[0] = 1;
    while (word[1] != 5) {
    }
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuMemHostUnregister(own));
    EXPECT(own[1] == 5 && own[2] == (uint32_t)(2 * 2654435761u) + 8, "the content is gone: %u %#x", own[1], own[2]);
    EXPECT(cuMemHostUnregister(own) == NOT_REGISTERED, "it was unregistered twice");
    EXPECT(cuMemHostGetDevicePointer_v2(&seen, own, 0) != CUDA_SUCCESS, "the device still sees it");
    CHECK(cuMemFree_v2(d));
    CHECK(cuStreamDestroy_v2(stream));
    munmap(own, bytes);
}

// Of the heap: ranges begin and end anywhere, and share pages.
static void parts_of_pages(void) {
    enum { BYTES = 300000, MANY = 50, LEN = 80 };
    char *heap = malloc(BYTES + 100);
    uint32_t *inside = (uint32_t *)(heap + 64);
    for (uint32_t i = 0; i < BYTES / 4; i++)
        inside[i] = i;
    CHECK(cuMemHostRegister_v2(inside, BYTES, 1));
    EXPECT(cuMemHostRegister_v2(inside, BYTES, 0) == ALREADY_REGISTERED, "twice");
    EXPECT(cuMemHostRegister_v2((char *)inside + 8192, 4096, 0) == ALREADY_REGISTERED, "a part of it");
    EXPECT(cuMemHostUnregister((char *)inside + 4) == CUDA_ERROR_INVALID_VALUE, "not from its start");
    uint64_t value = 0;
    unsigned type = 0, managed = 9;
    CUdeviceptr at = (CUdeviceptr)(uintptr_t)(inside + 10);
    CHECK(cuPointerGetAttribute(&type, MEMORY_TYPE, at));
    CHECK(cuPointerGetAttribute(&managed, IS_MANAGED, at));
    EXPECT(type == 1 && managed == 0, "type %u, managed %u", type, managed);
    CHECK(cuPointerGetAttribute(&value, HOST_POINTER, at));
    EXPECT(value == at, "the host's pointer");
    CHECK(cuPointerGetAttribute(&value, DEVICE_POINTER, at));
    EXPECT(value == at, "the device's pointer");
    add(inside, 3, BYTES / 4);
    for (uint32_t i = 0; i < BYTES / 4; i++)
        EXPECT(inside[i] == i + 3, "word %u is %u", i, inside[i]);
    CHECK(cuMemHostUnregister(inside));
    EXPECT(inside[1000] == 1003, "the content is gone");
    free(heap);
    // Small ones side by side, given back in another order; the heap is in use all the while.
    uint32_t *small = malloc(MANY * LEN);
    memset(small, 0, MANY * LEN);
    for (int i = 0; i < MANY; i++)
        CHECK(cuMemHostRegister_v2((char *)small + i * LEN, LEN, 0));
    for (int i = 0; i < MANY; i++) {
        int one = i * 7 % MANY;
        add(small + one * LEN / 4, 1 + one, LEN / 4);
        CHECK(cuMemHostUnregister((char *)small + one * LEN));
        free(malloc(1000 + i * 100));
    }
    for (int i = 0; i < MANY * LEN / 4; i++)
        EXPECT(small[i] == 1 + (uint32_t)i / (LEN / 4), "word %d is %u", i, small[i]);
    free(small);
}

// A variable of a function, as libraries register them. Its pages are in use all the while.
static void on_the_stack(void) {
    volatile uint32_t word = 40;
    CHECK(cuMemHostRegister_v2((void *)&word, sizeof word, 2));
    add((uint32_t *)&word, 2, 1);
    EXPECT(word == 42, "the word is %u", word);
    CHECK(cuMemHostUnregister((void *)&word));
}

static void wrong_calls(void) {
    char *own = (char *)own_pages(8192);
    void *pinned;
    CUdeviceptr d = device_alloc(4096);
    CHECK(cuMemHostAlloc(&pinned, 4096, 0));
    EXPECT(cuMemHostRegister_v2(NULL, 10, 0) == CUDA_ERROR_INVALID_VALUE, "nothing");
    EXPECT(cuMemHostRegister_v2(own, 0, 0) == CUDA_ERROR_INVALID_VALUE, "no bytes");
    EXPECT(cuMemHostRegister_v2(own, SIZE_MAX, 0) == CUDA_ERROR_INVALID_VALUE, "all bytes");
    EXPECT(cuMemHostRegister_v2(own, 10, 16) == CUDA_ERROR_INVALID_VALUE, "an unknown flag");
    EXPECT(cuMemHostRegister_v2(own, 4096, 4) == CUDA_ERROR_INVALID_VALUE, "another device's memory");
    EXPECT(cuMemHostRegister_v2((void *)(uintptr_t)d, 64, 0) == CUDA_ERROR_INVALID_VALUE, "the device's memory");
    EXPECT(cuMemHostRegister_v2(pinned, 64, 0) == CUDA_ERROR_INVALID_VALUE, "pinned memory");
    EXPECT(cuMemHostUnregister(pinned) == CUDA_ERROR_INVALID_VALUE, "pinned memory was unregistered");
    EXPECT(cuMemHostUnregister(NULL) == CUDA_ERROR_INVALID_VALUE, "nothing was unregistered");
    EXPECT(cuMemHostRegister_v2((void *)(uintptr_t)0xffff800000000000, 4096, 0) == NOT_SUPPORTED, "the kernel's");
    EXPECT(cuMemHostRegister_v2((void *)(uintptr_t)0x800000000000, 4096, 0) == CUDA_ERROR_INVALID_VALUE, "nobody's");
    munmap(own + 4096, 4096);
    EXPECT(cuMemHostRegister_v2(own, 8192, 0) == CUDA_ERROR_INVALID_VALUE, "what is not there");
    EXPECT(mprotect(own, 4096, PROT_READ) == 0, "mprotect");
    EXPECT(cuMemHostRegister_v2(own, 4096, 0) == CUDA_ERROR_INVALID_VALUE, "what cannot be written");
    EXPECT(mprotect(own, 4096, PROT_READ | PROT_WRITE) == 0, "mprotect");
    CHECK(cuMemHostRegister_v2(own, 4096, 0));
    EXPECT(cuMemFreeHost(own) == CUDA_ERROR_INVALID_VALUE, "freed, not unregistered");
    CHECK(cuMemHostUnregister(own));
    CHECK(cuMemFreeHost(pinned));
    munmap(own, 4096);
}

// A child has memory of its own, whatever of its parent's is registered.
static void a_child(void) {
    volatile uint32_t *own = own_pages(8192);
    own[0] = 1;
    CHECK(cuMemHostRegister_v2((void *)own, 8192, 0));
    pid_t child = fork();
    if (child == 0) {
        int as_it_was = own[0] == 1;
        own[0] = 2;
        _exit(as_it_was ? 0 : 1);
    }
    int status = 0;
    EXPECT(waitpid(child, &status, 0) == child && status == 0, "the child ended with %#x", status);
    EXPECT(own[0] == 1, "a child wrote its parent's memory");
    add((uint32_t *)own, 1, 1);
    EXPECT(own[0] == 2, "after a fork the device has other memory: %u", own[0]);
    CHECK(cuMemHostUnregister((void *)own));
}

// What is given back to the system while it is registered costs nobody anything, and a context takes what it has with it.
static void left_behind(void) {
    uint32_t *gone = own_pages(1 << 20), *kept = own_pages(4096);
    CHECK(cuMemHostRegister_v2(gone, 1 << 20, 0));
    munmap(gone, 1 << 20);
    CHECK(cuMemHostUnregister(gone));
    CHECK(cuMemHostRegister_v2(kept, 4096, 0));
    CHECK(cuCtxDestroy_v2(context));
    CHECK(cuCtxCreate_v2(&context, 0, device));
    kept[0] = 5;
    CHECK(cuMemHostRegister_v2(kept, 4096, 0));
    CHECK(cuModuleLoadData(&module, kernels_ptx));
    increment = kernel("increment");
    add(kept, 1, 1);
    EXPECT(kept[0] == 6, "%u", kept[0]);
    // And what is registered when the program ends is nobody's business but the host's.
}

int main(int argc, char **argv) {
    size_t bytes = (size_t)argument(argc, argv, 1, 8) << 20;
    setup();
    increment = kernel("increment");
    double start = seconds();
    whole_pages(bytes);
    parts_of_pages();
    on_the_stack();
    wrong_calls();
    a_child();
    left_behind();
    printf("registered: %zu MiB and more, all right, in %.0f ms\n", bytes >> 20, (seconds() - start) * 1e3);
    return 0;
}
