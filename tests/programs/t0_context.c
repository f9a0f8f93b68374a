// SPDX-License-Identifier: Apache-2.0 OR MIT
// Contexts and each thread's stack of them.
#include "t0.h"
#include <pthread.h>

// Which of the contexts that the section made a handle is.
static CUcontext known[4];
static const char *which(CUcontext context) {
    static const char *names[] = {"A", "B", "C", "D"};
    if (context == NULL)
        return "none";
    for (int i = 0; i < 4; i++)
        if (context == known[i])
            return names[i];
    return "another";
}
static void current(void) {
    CUcontext now = NULL;
    CUresult result = cuCtxGetCurrent(&now);
    say("current: %s, %s", result_name(result), which(now));
}

static void without_one(void) {
    NEED(cuInit(0));
    int number;
    unsigned version;
    size_t bytes;
    char buffer[64];
    void *pointer;
    CUdeviceptr address;
    CUdevice device;
    CUcontext context = NULL;
    CUstream stream;
    CUevent event;
    CUmodule module;
    current();
    TELL(cuCtxGetCurrent(NULL));
    TELL(cuCtxPopCurrent_v2(&context));
    TELL(cuCtxPopCurrent_v2(NULL));
    TELL(cuCtxSetCurrent(NULL));
    TELL(cuCtxPushCurrent_v2(NULL));
    TELL(cuCtxDestroy_v2(NULL));
    TELL(cuCtxGetDevice(&device));
    TELL(cuCtxGetDevice_v2(&device, NULL));
    TELL(cuCtxSynchronize());
    TELL(cuCtxSynchronize_v2(NULL));
    TELL(cuCtxGetApiVersion(NULL, &version));
    TELL(cuMemAlloc_v2(&address, 16));
    TELL(cuMemAlloc_v2(NULL, 16));
    TELL(cuMemFree_v2(0x1000));
    TELL(cuMemFree_v2(0));
    TELL(cuMemGetInfo_v2(&bytes, &bytes));
    TELL(cuMemAllocHost_v2(&pointer, 16));
    TELL(cuMemHostAlloc(&pointer, 16, 0));
    TELL(cuMemFreeHost(buffer));
    TELL(cuMemHostGetDevicePointer_v2(&address, buffer, 0));
    TELL(cuMemcpyHtoD_v2(0x1000, buffer, 16));
    TELL(cuMemcpyDtoH_v2(buffer, 0x1000, 16));
    TELL(cuMemcpyDtoD_v2(0x1000, 0x2000, 16));
    TELL(cuMemcpy((CUdeviceptr)(uintptr_t)buffer, 0x1000, 16));
    TELL(cuMemcpyHtoDAsync_v2(0x1000, buffer, 16, NULL));
    TELL(cuMemsetD8_v2(0x1000, 0, 16));
    TELL(cuMemsetD32Async(0x1000, 0, 16, NULL));
    TELL(cuModuleLoadData(&module, kernels_ptx));
    TELL(cuModuleLoad(&module, "/nonexistent"));
    TELL(cuModuleLoadFatBinary(&module, kernels_ptx));
    TELL(cuStreamCreate(&stream, 0));
    TELL(cuStreamSynchronize(NULL));
    TELL(cuStreamQuery(NULL));
    TELL(cuEventCreate(&event, 0));
    TELL(cuModuleGetLoadingMode(&number));
}

static void creating(void) {
    NEED(cuInit(0));
    CUcontext context = NULL;
    unsigned version = 0;
    CUdevice device = -1;
    TELL(cuCtxCreate_v2(NULL, 0, 0));
    TELL(cuCtxCreate_v2(&context, 0, -1));
    TELL(cuCtxCreate_v2(&context, 0, 1000));
    TELL(cuCtxCreate_v2(&context, 0x7, 0));
    TELL(cuCtxCreate_v2(&context, 0x3, 0));
    TELL(cuCtxCreate_v2(&context, 0x100, 0));
    TELL(cuCtxCreate_v2(&context, 0xffffffff, 0));
    current();
    for (unsigned flags = 0; flags <= 4; flags = flags == 0 ? 1 : flags * 2) {
        CUresult result = cuCtxCreate_v2(&context, flags, 0);
        say("cuCtxCreate_v2, flags %u: %s", flags, result_name(result));
        if (result == CUDA_SUCCESS)
            TELL(cuCtxDestroy_v2(context));
    }
    TELL(cuCtxCreate_v2(&context, 0x18, 0));
    TELL_VALUE(cuCtxGetApiVersion(context, &version), version);
    TELL_VALUE(cuCtxGetApiVersion(NULL, &version), version);
    TELL(cuCtxGetApiVersion(context, NULL));
    TELL_VALUE(cuCtxGetDevice(&device), device);
    TELL(cuCtxGetDevice(NULL));
    TELL_VALUE(cuCtxGetDevice_v2(&device, context), device);
    TELL_VALUE(cuCtxGetDevice_v2(&device, NULL), device);
    TELL(cuCtxGetDevice_v2(NULL, NULL));
    TELL(cuCtxSynchronize_v2(context));
    TELL(cuCtxDestroy_v2(context));
    TELL(cuCtxCreate_v3(&context, NULL, 0, 0, 0));
    TELL_VALUE(cuCtxGetApiVersion(context, &version), version);
    TELL(cuCtxDestroy_v2(context));
    TELL(cuCtxCreate_v4(&context, NULL, 0, 0));
    TELL_VALUE(cuCtxGetApiVersion(context, &version), version);
    TELL(cuCtxDestroy_v2(context));
    TELL(cuCtxCreate_v3(NULL, NULL, 0, 0, 0));
    TELL(cuCtxCreate_v4(NULL, NULL, 0, 0));
    TELL(cuCtxCreate_v4(&context, NULL, 0, 77));
}

static void stack(void) {
    NEED(cuInit(0));
    CUcontext popped = NULL;
    NEED(cuCtxCreate_v2(&known[0], 0, 0));
    current();
    NEED(cuCtxCreate_v2(&known[1], 0, 0));
    current();
    TELL(cuCtxPopCurrent_v2(&popped));
    say("popped %s", which(popped));
    current();
    TELL(cuCtxPushCurrent_v2(known[0]));
    current();
    TELL(cuCtxSetCurrent(known[1]));
    current();
    TELL(cuCtxSetCurrent(NULL));
    current();
    TELL(cuCtxPopCurrent_v2(NULL));
    current();
    TELL(cuCtxPopCurrent_v2(&popped));
    TELL(cuCtxSetCurrent(known[1]));
    current();
    NEED(cuCtxCreate_v2(&known[2], 0, 0));
    current();
    // Not current, but on the stack.
    TELL(cuCtxDestroy_v2(known[1]));
    current();
    TELL(cuCtxDestroy_v2(known[2]));
    current();
    CUdevice device;
    CUdeviceptr address;
    TELL(cuCtxGetDevice(&device));
    TELL(cuMemAlloc_v2(&address, 16));
    TELL(cuCtxSynchronize());
    TELL(cuCtxPopCurrent_v2(&popped));
    current();
    TELL(cuCtxPushCurrent_v2(known[0]));
    TELL(cuMemAlloc_v2(&address, 16));
    TELL(cuCtxDestroy_v2(known[0]));
    current();
    TELL(cuMemAlloc_v2(&address, 16));
    TELL(cuCtxPopCurrent_v2(&popped));
}

static void *in_a_thread(void *unused) {
    (void)unused;
    CUdeviceptr address;
    CUcontext popped;
    current();
    TELL(cuMemAlloc_v2(&address, 16));
    TELL(cuCtxSetCurrent(known[0]));
    current();
    TELL(cuMemAlloc_v2(&address, 16));
    TELL(cuMemsetD32_v2(address, 7, 4));
    TELL(cuCtxPopCurrent_v2(&popped));
    current();
    return (void *)(uintptr_t)address;
}

static void threads(void) {
    NEED(cuInit(0));
    NEED(cuCtxCreate_v2(&known[0], 0, 0));
    pthread_t thread;
    void *address;
    for (int round = 0; round < 2; round++) {
        pthread_create(&thread, NULL, in_a_thread, NULL);
        pthread_join(thread, &address);
    }
    unsigned got[4] = {0};
    TELL(cuMemcpyDtoH_v2(got, (CUdeviceptr)(uintptr_t)address, sizeof got));
    say("the thread's values: %u %u %u %u", got[0], got[1], got[2], got[3]);
    current();
}

// Objects of one context while another is current.
static void two_contexts(void) {
    NEED(cuInit(0));
    CUdeviceptr address, other;
    CUstream stream;
    CUevent event, mine;
    CUmodule first;
    unsigned got[4] = {0};
    void *none[] = {NULL};
    NEED(cuCtxCreate_v2(&known[0], 0, 0));
    NEED(cuMemAlloc_v2(&address, 4096));
    NEED(cuStreamCreate(&stream, 0));
    NEED(cuEventCreate(&event, 0));
    NEED(cuModuleLoadData(&first, kernels_ptx));
    CUfunction function = kernel_of(first, "null_kernel");
    NEED(cuCtxCreate_v2(&known[1], 0, 0));
    NEED(cuMemAlloc_v2(&other, 4096));
    NEED(cuEventCreate(&mine, 0));
    TELL(cuMemsetD32_v2(address, 5, 4));
    TELL(cuMemcpyDtoH_v2(got, address, sizeof got));
    TELL(cuMemcpyDtoD_v2(other, address, 16));
    TELL(cuMemcpy(other, address, 16));
    TELL(cuMemsetD32Async(other, 5, 4, stream));
    TELL(cuMemcpyDtoDAsync_v2(other, other + 64, 16, stream));
    TELL(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, NULL, none, NULL));
    TELL(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, none, NULL));
    TELL(cuEventRecord(event, NULL));
    TELL(cuEventRecord(event, stream));
    TELL(cuEventRecord(mine, stream));
    TELL(cuEventRecord(mine, NULL));
    TELL(cuStreamWaitEvent(stream, mine, 0));
    TELL(cuStreamWaitEvent(NULL, event, 0));
    TELL(cuStreamSynchronize(stream));
    TELL(cuEventSynchronize(event));
    TELL(cuStreamQuery(stream));
    TELL(cuModuleGetFunction(&function, first, "vadd"));
    TELL(cuModuleUnload(first));
    TELL(cuEventDestroy_v2(event));
    TELL(cuStreamDestroy_v2(stream));
    TELL(cuMemFree_v2(address));
    TELL(cuCtxSynchronize());
}

// What a context leaves when it is destroyed.
static void gone_with_it(void) {
    NEED(cuInit(0));
    CUdeviceptr address;
    void *pinned;
    unsigned got[4] = {0};
    NEED(cuCtxCreate_v2(&known[0], 0, 0));
    NEED(cuMemAlloc_v2(&address, 4096));
    NEED(cuMemAllocHost_v2(&pinned, 4096));
    NEED(cuCtxDestroy_v2(known[0]));
    NEED(cuCtxCreate_v2(&known[1], 0, 0));
    TELL(cuMemcpyDtoH_v2(got, address, sizeof got));
    TELL(cuMemsetD8_v2(address, 0, 4));
    TELL(cuMemFree_v2(address));
    TELL(cuMemFreeHost(pinned));
    TELL(cuCtxSynchronize());
}

static void a_destroyed_one(void) {
    NEED(cuInit(0));
    NEED(cuCtxCreate_v2(&known[0], 0, 0));
    NEED(cuCtxCreate_v2(&known[1], 0, 0));
    NEED(cuCtxDestroy_v2(known[0]));
    TELL(cuCtxSetCurrent(known[0]));
    current();
    TELL(cuCtxPushCurrent_v2(known[0]));
    current();
    TELL(cuCtxDestroy_v2(known[0]));
}

static void a_strange_one(void) {
    static char zeroes[8192];
    NEED(cuInit(0));
    unsigned version;
    TELL(cuCtxSetCurrent((CUcontext)zeroes));
    current();
    TELL(cuCtxGetApiVersion((CUcontext)zeroes, &version));
    TELL(cuCtxDestroy_v2((CUcontext)zeroes));
}

// CUdevResource, of which the caller gets what multiprocessors there are.
struct dev_resource {
    unsigned type;
    char internal[92];
    unsigned count, least, alignment;
    char rest[36];
};
CUresult cuDeviceGetDevResource(CUdevice device, struct dev_resource *resource, unsigned type);
CUresult cuCtxGetDevResource(CUcontext context, struct dev_resource *resource, unsigned type);
CUresult cuStreamGetGreenCtx(CUstream stream, void **context);

static void parts_of_a_device(void) {
    with_context();
    struct dev_resource all = {0}, has = {0};
    int multiprocessors = 0;
    CUstream stream;
    void *green = &green;
    NEED(cuDeviceGetAttribute(&multiprocessors, 16, device));
    NEED(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    TELL_VALUE(cuDeviceGetDevResource(device, &all, 1), all.type);
    TELL_VALUE(cuCtxGetDevResource(context, &has, 1), has.type);
    say("all multiprocessors: %d, and of the context: %d; at least %u, by %u", all.count == (unsigned)multiprocessors,
        has.count == all.count, has.least, has.alignment);
    TELL(cuDeviceGetDevResource(device, &all, 0));
    TELL(cuCtxGetDevResource(context, &has, 0));
    TELL(cuCtxGetDevResource(context, &has, 2));
    TELL(cuDeviceGetDevResource(device, NULL, 1));
    TELL(cuCtxGetDevResource(context, NULL, 1));
    TELL(cuDeviceGetDevResource(1000, &all, 1));
    TELL(cuCtxGetDevResource(NULL, &has, 1));
    TELL(cuStreamGetGreenCtx(stream, &green));
    say("a green context: %d", green != NULL);
    TELL(cuStreamGetGreenCtx(NULL, &green));
    TELL(cuStreamGetGreenCtx(stream, NULL));
}

int main(int argc, char **argv) {
    static const struct section sections[] = {
        SECTION(without_one), SECTION(creating), SECTION(stack), SECTION(threads),
        SECTION(two_contexts), SECTION(gone_with_it), SECTION(a_destroyed_one), SECTION(a_strange_one),
        SECTION(parts_of_a_device),
    };
    return RUN_SECTIONS(sections);
}
