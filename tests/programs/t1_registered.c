// SPDX-License-Identifier: Apache-2.0 OR MIT
// Memory of the program's own, registered.
#include "t0.h"

static char *pages(size_t bytes) {
    char *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        exit(1);
    return at;
}

static CUdeviceptr of(const void *pointer) { return (CUdeviceptr)(uintptr_t)pointer; }

static void without_one(void) {
    char *own = pages(4096);
    TELL(cuMemHostRegister_v2(own, 4096, 0));
    TELL(cuMemHostUnregister(own));
    NEED(cuInit(0));
    TELL(cuMemHostRegister_v2(own, 4096, 0));
    TELL(cuMemHostUnregister(own));
}

static void attributes(void) {
    with_context();
    for (int attribute = 91; attribute <= 113; attribute += attribute == 91 ? 8 : 14) {
        int value = -1;
        CUresult result = cuDeviceGetAttribute(&value, attribute, device);
        say("attribute %d: %s %d", attribute, result_name(result), value);
    }
}

static void registering(void) {
    with_context();
    char *own = pages(1 << 20), *other = pages(1 << 20);
    void *pinned;
    CUdeviceptr memory, there;
    NEED(cuMemHostAlloc(&pinned, 8192, 0));
    NEED(cuMemAlloc_v2(&memory, 8192));
    TELL(cuMemHostRegister_v2(NULL, 10, 0));
    TELL(cuMemHostRegister_v2(own, 0, 0));
    TELL(cuMemHostRegister_v2(own, 4096, 16));
    TELL(cuMemHostRegister_v2(own, 4096, 0xffffffff));
    TELL(cuMemHostRegister_v2(own, SIZE_MAX, 0));
    for (unsigned flags = 4; flags < 16; flags += flags == 7 ? 5 : 1)
        TELL(cuMemHostRegister_v2(own, 4096, flags));
    // The kernel's, and what is nobody's.
    TELL(cuMemHostRegister_v2((void *)0xffff800000000000, 4096, 0));
    TELL(cuMemHostRegister_v2((void *)0xffff800000000000, 4096, 4));
    TELL(cuMemHostRegister_v2((void *)0xfffffffffffff000, 4096, 0));
    TELL(cuMemHostRegister_v2((void *)0xfffffffffffff000, 8192, 0));
    TELL(cuMemHostRegister_v2(own, 0xffff800000000001 - of(own), 0));
    TELL(cuMemHostRegister_v2((void *)0x800000000000, 4096, 0));
    TELL(cuMemHostRegister_v2((void *)0x7ffffffff000, 1 << 20, 0));
    TELL(cuMemHostRegister_v2((void *)(uintptr_t)memory, 64, 0));
    TELL(cuMemHostRegister_v2(pinned, 64, 0));
    for (unsigned flags = 0; flags < 4; flags++) {
        TELL(cuMemHostRegister_v2(own + 100, 10000, flags));
        CUresult found = cuMemHostGetDevicePointer_v2(&there, own + 100, 0);
        say("flags %u: %s, same address %d", flags, result_name(found), there == of(own + 100));
        TELL(cuMemHostUnregister(own + 100));
    }
    TELL(cuMemHostRegister_v2(own + 100, 10000, 8));
    TELL(cuMemHostUnregister(own + 100));
    TELL(cuMemHostUnregister(own + 100));
    TELL(cuMemHostUnregister(NULL));
    TELL(cuMemHostUnregister(pinned));
    TELL(cuMemHostUnregister((void *)(uintptr_t)memory));
    TELL(cuMemHostUnregister(other));
    TELL(cuMemHostRegister_v2(own, 100000, 0));
    TELL(cuMemHostRegister_v2(own, 100000, 0));
    TELL(cuMemHostRegister_v2(own, 10, 0));
    TELL(cuMemHostRegister_v2(own + 99999, 10, 0));
    TELL(cuMemHostRegister_v2(own + 8192, 4096, 0));
    // The rest of a page, of which another range has a part.
    TELL(cuMemHostRegister_v2(own + 100000, 10, 0));
    TELL(cuMemHostRegister_v2(own + 100010, 100000, 0));
    TELL(cuMemHostUnregister(own + 4096));
    TELL(cuMemHostUnregister(own));
    TELL(cuMemHostUnregister(own + 100000));
    TELL(cuMemFreeHost(own + 100010));
    TELL(cuMemHostUnregister(own + 100010));
    TELL(cuMemFreeHost(pinned));
}

static void pointers(void) {
    with_context();
    char *own = pages(1 << 20);
    NEED(cuMemHostRegister_v2(own + 64, 100000, 0));
    CUdeviceptr there;
    unsigned flags = 0;
    TELL(cuMemHostGetDevicePointer_v2(&there, own + 64, 0));
    TELL(cuMemHostGetDevicePointer_v2(&there, own + 64, 1));
    TELL(cuMemHostGetDevicePointer_v2(&there, own + 5000, 0));
    say("inside: %d", there == of(own + 5000));
    TELL(cuMemHostGetDevicePointer_v2(&there, own + (1 << 19), 0));
    TELL(cuMemHostGetFlags(&flags, own + (1 << 19)));
    for (int attribute = 2; attribute <= 8; attribute += attribute == 4 ? 4 : 1) {
        uint64_t value = 0;
        CUresult result = cuPointerGetAttribute(&value, attribute, of(own + 100));
        int is_pointer = attribute == 3 || attribute == 4;
        say("attribute %d: %s %d", attribute, result_name(result), is_pointer ? value == of(own + 100) : (int)value);
    }
    uint64_t value = 0;
    TELL(cuPointerGetAttribute(&value, 11, of(own + 100)));
    say("start: %d", value == of(own + 64));
    TELL_VALUE(cuPointerGetAttribute(&value, 12, of(own + 100)), value);
    TELL(cuPointerGetAttribute(&value, 2, of(own + (1 << 19))));
    TELL(cuMemHostUnregister(own + 64));
    TELL(cuPointerGetAttribute(&value, 2, of(own + 100)));
    TELL(cuMemHostGetDevicePointer_v2(&there, own + 64, 0));
}

static void using(void) {
    with_kernels();
    uint32_t *own = (uint32_t *)pages(1 << 20), n = 1000, by = 5, *words = own + 100;
    CUstream stream;
    CUdeviceptr memory, at = of(words);
    NEED(cuStreamCreate(&stream, 1));
    NEED(cuMemAlloc_v2(&memory, 1 << 20));
    void *parameters[] = {&at, &by, &n};
    for (uint32_t i = 0; i < 10000; i++)
        own[i] = i;
    NEED(cuMemHostRegister_v2(words, 4000, 0));
    TELL(cuLaunchKernel(kernel_of(module, "increment"), 4, 1, 1, 256, 1, 1, 0, stream, parameters, NULL));
    TELL(cuStreamSynchronize(stream));
    say("words %u %u %u %u", own[99], own[100], own[1099], own[1100]);
    TELL(cuMemcpyHtoDAsync_v2(memory, words, 4000, stream));
    TELL(cuMemsetD32Async(at, 9, 10, stream));
    TELL(cuMemcpyDtoHAsync_v2(words + 10, memory, 40, stream));
    TELL(cuMemcpyAsync(memory, at, 4000, stream));
    TELL(cuMemcpyDtoDAsync_v2(memory + 8000, at, 4000, stream));
    TELL(cuStreamSynchronize(stream));
    say("words %u %u %u %u", own[109], own[110], own[119], own[120]);
    TELL(cuMemsetD32_v2(at, 3, 5));
    say("words %u %u", own[104], own[105]);
    TELL(cuMemcpyDtoH_v2(own, memory, 40));
    TELL(cuMemcpyDtoH_v2(words + 500, memory + 8000, 40));
    say("words %u %u %u", own[0], own[9], own[600]);
    // Of what is not registered.
    TELL(cuMemsetD32_v2(at + 4000, 3, 5));
    TELL(cuMemsetD8_v2(at - 1, 3, 1));
    TELL(cuStreamWriteValue32_v2(stream, at, 77, 0));
    TELL(cuStreamWaitValue32_v2(stream, at, 77, 1));
    TELL(cuStreamSynchronize(stream));
    say("word %u", own[100]);
    TELL(cuMemHostUnregister(words));
    TELL(cuMemsetD32_v2(at, 3, 5));
    // Read by the device alone.
    NEED(cuMemHostRegister_v2(words, 4000, 8));
    TELL(cuMemcpyHtoDAsync_v2(memory, words, 4000, stream));
    TELL(cuStreamSynchronize(stream));
    TELL(cuMemHostUnregister(words));
    TELL(cuMemcpyHtoD_v2(memory, words, 4000));
}

static void in_a_capture(void) {
    with_context();
    char *own = pages(8192);
    CUstream stream;
    CUgraph graph = NULL;
    NEED(cuStreamCreate(&stream, 1));
    NEED(cuMemHostRegister_v2(own + 4096, 4096, 0));
    for (int mode = 0; mode < 3; mode++) {
        say("mode %d", mode);
        NEED(cuStreamBeginCapture_v2(stream, mode));
        TELL(cuMemHostRegister_v2(own, 4096, 0));
        TELL(cuStreamEndCapture(stream, &graph));
        if (cuMemHostUnregister(own) == CUDA_SUCCESS)
            say("it was registered");
        NEED(cuStreamBeginCapture_v2(stream, mode));
        TELL(cuMemHostUnregister(own + 4096));
        TELL(cuStreamEndCapture(stream, &graph));
        if (cuMemHostRegister_v2(own + 4096, 4096, 0) == CUDA_SUCCESS)
            say("it was unregistered");
    }
    TELL(cuMemHostUnregister(own + 4096));
}

static void with_its_context(void) {
    with_context();
    char *own = pages(8192);
    CUcontext other;
    CUdeviceptr there;
    NEED(cuCtxCreate_v2(&other, 0, device));
    TELL(cuMemHostRegister_v2(own, 4096, 1));
    TELL(cuCtxSetCurrent(context));
    TELL(cuMemHostGetDevicePointer_v2(&there, own, 0));
    TELL(cuMemsetD8_v2(of(own), 7, 4096));
    say("byte %d", own[4095]);
    TELL(cuCtxDestroy_v2(other));
    TELL(cuMemHostGetDevicePointer_v2(&there, own, 0));
    TELL(cuMemHostUnregister(own));
    TELL(cuMemHostRegister_v2(own, 4096, 1));
    TELL(cuMemHostUnregister(own));
}

int main(int argc, char **argv) {
    static const struct section sections[] = {
        SECTION(without_one), SECTION(attributes), SECTION(registering), SECTION(pointers),
        SECTION(using), SECTION(in_a_capture), SECTION(with_its_context),
    };
    return RUN_SECTIONS(sections);
}
