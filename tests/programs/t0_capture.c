// SPDX-License-Identifier: Apache-2.0 OR MIT
// What a program takes away, makes, asks and has done in a capture: some of it is refused then, which ends the capture. What is not
// taken away stays as it was.
#include "graph_abi.h"
#include "memory_abi.h"
#include "t0.h"

typedef struct CUlib_st *CUlibrary;
CUresult cuLibraryLoadData(CUlibrary *library, const void *code, void *options, void *values, unsigned count,
                           void *library_options, void *library_values, unsigned library_count);
CUresult cuLibraryGetModule(CUmodule *module, CUlibrary library);
CUresult cuLibraryUnload(CUlibrary library);
CUresult cuMemAllocPitch_v2(CUdeviceptr *pointer, size_t *pitch, size_t width, size_t height, unsigned element);
CUresult cuMemAllocManaged(CUdeviceptr *pointer, size_t bytes, unsigned flags);
CUresult cuCtxGetLimit(size_t *value, int limit);
CUresult cuCtxSetLimit(int limit, size_t value);
CUresult cuFuncSetAttribute(CUfunction function, int attribute, int value);
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *blocks, CUfunction function, int block, size_t shared,
                                                              unsigned flags);
CUresult cuStreamGetFlags(CUstream stream, unsigned *flags);
CUresult cuStreamGetPriority(CUstream stream, int *priority);
CUresult cuIpcGetMemHandle(void *handle, CUdeviceptr pointer);

enum { BYTES = 1 << 20, HANDLE_BYTES = 2 << 20, FLOAT = 0x20 };

// One captures, the other has no part in that.
static CUstream stream, other;
static int mode;

#define IN_A_CAPTURE(call)                                                                                         \
    do {                                                                                                           \
        CUgraph graph_ = NULL;                                                                                     \
        NEED(cuStreamBeginCapture_v2(stream, mode));                                                               \
        TELL(call);                                                                                                \
        TELL(cuStreamEndCapture(stream, &graph_));                                                                 \
        if (graph_ != NULL)                                                                                        \
            NEED(cuGraphDestroy(graph_));                                                                          \
    } while (0)

static void arrays(void) {
    CUarray array;
    CUmipmappedArray mipmapped;
    CUtexObject texture;
    texture_desc how = {0};
    NEED(cuArrayCreate_v2(&array, &(array_descriptor){64, 64, FLOAT, 1}));
    IN_A_CAPTURE(cuArrayDestroy(array));
    NEED(cuMipmappedArrayCreate(&mipmapped, &(array3d_descriptor){64, 64, 0, FLOAT, 1, 0}, 3));
    IN_A_CAPTURE(cuMipmappedArrayDestroy(mipmapped));
    NEED(cuArrayCreate_v2(&array, &(array_descriptor){64, 64, FLOAT, 1}));
    resource_desc of_array = {.type = 0, .array = array};
    NEED(cuTexObjectCreate(&texture, &of_array, &how, NULL));
    IN_A_CAPTURE(cuTexObjectDestroy(texture));
    IN_A_CAPTURE(cuTexObjectCreate(&texture, &of_array, &how, NULL));
}

static void modules(void) {
    CUmodule loaded;
    CUfunction function;
    CUlinkState link;
    NEED(cuModuleLoadData(&loaded, kernels_ptx));
    NEED(cuModuleGetFunction(&function, loaded, "null_kernel"));
    IN_A_CAPTURE(cuModuleUnload(loaded));
    if (mode != CU_STREAM_CAPTURE_RELAXED) {
        TELL(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, other, NULL, NULL));
        TELL(cuStreamSynchronize(other));
        TELL(cuModuleUnload(loaded));
    }
    NEED(cuLinkCreate_v2(0, NULL, NULL, &link));
    IN_A_CAPTURE(cuLinkDestroy(link));
}

static void libraries(void) {
    CUmodule of_library;
    CUlibrary library;
    for (int used = 0; used < 2; used++) {
        say("used: %d", used);
        NEED(cuLibraryLoadData(&library, kernels_ptx, NULL, NULL, 0, NULL, NULL, 0));
        if (used) {
            NEED(cuLibraryGetModule(&of_library, library));
            NEED(cuLaunchKernel(kernel_of(of_library, "null_kernel"), 1, 1, 1, 1, 1, 1, 0, other, NULL, NULL));
            NEED(cuStreamSynchronize(other));
        }
        IN_A_CAPTURE(cuLibraryUnload(library));
        if (mode != CU_STREAM_CAPTURE_RELAXED)
            TELL(cuLibraryUnload(library));
    }
}

static void memory(void) {
    CUdeviceptr memory;
    void *host;
    NEED(cuMemAlloc_v2(&memory, BYTES));
    IN_A_CAPTURE(cuMemFree_v2(memory));
    if (mode != CU_STREAM_CAPTURE_RELAXED)
        TELL(cuMemFree_v2(memory));
    NEED(cuMemAlloc_v2(&memory, BYTES));
    IN_A_CAPTURE(cuMemFreeAsync(memory, other));
    NEED(cuMemAllocAsync(&memory, BYTES, other));
    NEED(cuStreamSynchronize(other));
    IN_A_CAPTURE(cuMemFreeAsync(memory, other));
    NEED(cuMemHostAlloc(&host, BYTES, 0));
    IN_A_CAPTURE(cuMemFreeHost(host));
    NEED(posix_memalign(&host, 4096, BYTES));
    NEED(cuMemHostRegister_v2(host, BYTES, 0));
    IN_A_CAPTURE(cuMemHostUnregister(host));
}

static void handles(void) {
    CUmemLocation here = {CU_MEM_LOCATION_TYPE_DEVICE, device};
    CUmemAllocationProp wanted = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = here};
    CUmemPoolProps pooled = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = here};
    CUmemGenericAllocationHandle handle;
    CUmemoryPool pool;
    CUdeviceptr room;
    NEED(cuMemCreate(&handle, HANDLE_BYTES, &wanted, 0));
    NEED(cuMemAddressReserve(&room, HANDLE_BYTES, 0, 0, 0));
    NEED(cuMemMap(room, HANDLE_BYTES, 0, handle, 0));
    IN_A_CAPTURE(cuMemRelease(handle));
    IN_A_CAPTURE(cuMemUnmap(room, HANDLE_BYTES));
    IN_A_CAPTURE(cuMemAddressFree(room, HANDLE_BYTES));
    NEED(cuMemCreate(&handle, HANDLE_BYTES, &wanted, 0));
    IN_A_CAPTURE(cuMemRelease(handle));
    NEED(cuMemPoolCreate(&pool, &pooled));
    IN_A_CAPTURE(cuMemPoolTrimTo(pool, 0));
    IN_A_CAPTURE(cuMemPoolDestroy(pool));
}

static void work(void) {
    CUevent event;
    CUstream third;
    CUgraph graph;
    CUgraphExec exec;
    CUcontext another;
    CUdeviceptr memory;
    CUmodule loaded;
    NEED(cuEventCreate(&event, 0));
    NEED(cuEventRecord(event, other));
    IN_A_CAPTURE(cuEventDestroy_v2(event));
    NEED(cuStreamCreate(&third, CU_STREAM_NON_BLOCKING));
    IN_A_CAPTURE(cuStreamDestroy_v2(third));
    NEED(cuGraphCreate(&graph, 0));
    NEED(cuGraphInstantiateWithFlags(&exec, graph, 0));
    IN_A_CAPTURE(cuGraphExecDestroy(exec));
    IN_A_CAPTURE(cuGraphDestroy(graph));
    NEED(cuCtxCreate_v2(&another, 0, device));
    NEED(cuMemAlloc_v2(&memory, BYTES));
    NEED(cuModuleLoadData(&loaded, kernels_ptx));
    NEED(cuCtxSetCurrent(context));
    IN_A_CAPTURE(cuCtxDestroy_v2(another));
}

// Makes a context that is not the current one.
static CUresult context_beside(CUcontext *another) {
    CUresult result = cuCtxCreate_v2(another, 0, device);
    NEED(cuCtxSetCurrent(context));
    return result;
}

static void makes(void) {
    CUmemLocation here = {CU_MEM_LOCATION_TYPE_DEVICE, device};
    CUmemAllocationProp wanted = {.type = CU_MEM_ALLOCATION_TYPE_PINNED, .location = here};
    CUmemPoolProps pooled = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = here};
    CUmemAccessDesc access = {here, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUmemGenericAllocationHandle handle, prepared;
    CUmemoryPool pool;
    CUdeviceptr memory, room;
    CUarray array;
    CUmipmappedArray mipmapped;
    CUsurfObject surface;
    CUevent event;
    CUstream third;
    CUgraph graph;
    CUgraphExec exec;
    CUlinkState link;
    CUcontext another;
    size_t pitch;
    void *host;
    IN_A_CAPTURE(cuMemAlloc_v2(&memory, BYTES));
    IN_A_CAPTURE(cuMemAllocPitch_v2(&memory, &pitch, 1000, 10, 4));
    IN_A_CAPTURE(cuMemHostAlloc(&host, BYTES, 0));
    NEED(posix_memalign(&host, 4096, BYTES));
    IN_A_CAPTURE(cuMemHostRegister_v2(host, BYTES, 0));
    IN_A_CAPTURE(cuMemAllocAsync(&memory, BYTES, other));
    IN_A_CAPTURE(cuArrayCreate_v2(&array, &(array_descriptor){64, 64, FLOAT, 1}));
    IN_A_CAPTURE(cuMipmappedArrayCreate(&mipmapped, &(array3d_descriptor){64, 64, 0, FLOAT, 1, 0}, 3));
    NEED(cuArray3DCreate_v2(&array, &(array3d_descriptor){64, 64, 0, FLOAT, 1, 2}));
    IN_A_CAPTURE(cuSurfObjectCreate(&surface, &(resource_desc){.type = 0, .array = array}));
    IN_A_CAPTURE(cuEventCreate(&event, 0));
    IN_A_CAPTURE(cuStreamCreate(&third, CU_STREAM_NON_BLOCKING));
    IN_A_CAPTURE(cuGraphCreate(&graph, 0));
    IN_A_CAPTURE(cuGraphInstantiateWithFlags(&exec, graph, 0));
    IN_A_CAPTURE(cuLinkCreate_v2(0, NULL, NULL, &link));
    IN_A_CAPTURE(cuMemPoolCreate(&pool, &pooled));
    IN_A_CAPTURE(cuMemCreate(&handle, HANDLE_BYTES, &wanted, 0));
    IN_A_CAPTURE(cuMemAddressReserve(&room, HANDLE_BYTES, 0, 0, 0));
    NEED(cuMemCreate(&prepared, HANDLE_BYTES, &wanted, 0));
    NEED(cuMemAddressReserve(&room, HANDLE_BYTES, 0, 0, 0));
    IN_A_CAPTURE(cuMemMap(room, HANDLE_BYTES, 0, prepared, 0));
    IN_A_CAPTURE(cuMemSetAccess(room, HANDLE_BYTES, &access, 1));
    IN_A_CAPTURE(context_beside(&another));
}

// What the software GPU's own library does not have.
static void more(void) {
    CUdeviceptr memory;
    char handle[64];
    IN_A_CAPTURE(cuMemAllocManaged(&memory, BYTES, 1));
    NEED(cuMemAlloc_v2(&memory, BYTES));
    IN_A_CAPTURE(cuIpcGetMemHandle(handle, memory));
}

static void asks(void) {
    CUmemoryPool pool;
    CUmodule fresh;
    CUfunction function = kernel_of(module, "increment");
    CUdeviceptr memory, seen;
    CUevent done, later;
    size_t bytes, all;
    int number, priority;
    unsigned flags;
    float milliseconds;
    void *host;
    uint64_t threshold = 1 << 20;
    NEED(cuMemAlloc_v2(&memory, BYTES));
    NEED(cuMemHostAlloc(&host, BYTES, 0));
    NEED(cuDeviceGetDefaultMemPool(&pool, device));
    NEED(cuModuleLoadData(&fresh, kernels_ptx));
    NEED(cuEventCreate(&done, 0));
    NEED(cuEventCreate(&later, 0));
    NEED(cuEventRecord(done, other));
    NEED(cuEventRecord(later, other));
    NEED(cuStreamSynchronize(other));
    IN_A_CAPTURE(cuMemGetInfo_v2(&bytes, &all));
    IN_A_CAPTURE(cuPointerGetAttribute(&number, 2, memory));
    IN_A_CAPTURE(cuMemHostGetDevicePointer_v2(&seen, host, 0));
    IN_A_CAPTURE(cuCtxGetLimit(&bytes, 0));
    IN_A_CAPTURE(cuCtxSetLimit(0, 2048));
    IN_A_CAPTURE(cuModuleGetFunction(&function, fresh, "increment"));
    IN_A_CAPTURE(cuModuleGetGlobal_v2(&seen, &bytes, fresh, "answer"));
    IN_A_CAPTURE(cuFuncGetAttribute(&number, 0, function));
    IN_A_CAPTURE(cuFuncSetAttribute(function, 8, 1024));
    IN_A_CAPTURE(cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(&number, function, 64, 0, 0));
    IN_A_CAPTURE(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
    IN_A_CAPTURE(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
    IN_A_CAPTURE(cuStreamGetFlags(other, &flags));
    IN_A_CAPTURE(cuStreamGetPriority(other, &priority));
    IN_A_CAPTURE(cuEventElapsedTime(&milliseconds, done, later));
    IN_A_CAPTURE(cuEventQuery(done));
    IN_A_CAPTURE(cuEventSynchronize(done));
    IN_A_CAPTURE(cuStreamQuery(other));
    IN_A_CAPTURE(cuStreamSynchronize(other));
    IN_A_CAPTURE(cuCtxSynchronize());
}

static void nothing(void *unused) { (void)unused; }

static void has_done(void) {
    CUdeviceptr memory, word;
    CUevent event, outside;
    CUgraph graph;
    CUgraphExec exec;
    uint32_t by = 1, count = 64, *host, ordinary[64] = {0}, more[64] = {0};
    NEED(cuMemAlloc_v2(&memory, sizeof ordinary));
    NEED(cuMemsetD32_v2(memory, 0, count));
    NEED(cuMemAlloc_v2(&word, sizeof *host));
    NEED(cuMemHostAlloc((void **)&host, sizeof ordinary, 0));
    memset(host, 0, sizeof ordinary);
    NEED(cuEventCreate(&event, 0));
    NEED(cuEventCreate(&outside, 0));
    NEED(cuEventRecord(outside, other));
    NEED(cuGraphCreate(&graph, 0));
    NEED(cuGraphInstantiateWithFlags(&exec, graph, 0));
    NEED(cuCtxSynchronize());
    void *arguments[] = {&memory, &by, &count};
    CUfunction function = kernel_of(module, "increment");
    IN_A_CAPTURE(cuLaunchKernel(function, 1, 1, 1, 64, 1, 1, 0, other, arguments, NULL));
    IN_A_CAPTURE(cuMemsetD32Async(memory, 1, count, other));
    IN_A_CAPTURE(cuMemcpyHtoDAsync_v2(memory, host, sizeof ordinary, other));
    IN_A_CAPTURE(cuMemcpyDtoHAsync_v2(host, memory, sizeof ordinary, other));
    IN_A_CAPTURE(cuMemcpyHtoDAsync_v2(memory, ordinary, sizeof ordinary, other));
    IN_A_CAPTURE(cuMemcpyDtoHAsync_v2(ordinary, memory, sizeof ordinary, other));
    IN_A_CAPTURE(cuMemcpyAsync((CUdeviceptr)(uintptr_t)more, (CUdeviceptr)(uintptr_t)ordinary, sizeof ordinary, other));
    IN_A_CAPTURE(cuMemcpyAsync((CUdeviceptr)(uintptr_t)host, (CUdeviceptr)(uintptr_t)ordinary, sizeof ordinary, other));
    IN_A_CAPTURE(cuMemcpy((CUdeviceptr)(uintptr_t)more, (CUdeviceptr)(uintptr_t)ordinary, sizeof ordinary));
    IN_A_CAPTURE(cuMemcpyHtoD_v2(memory, ordinary, sizeof ordinary));
    IN_A_CAPTURE(cuMemcpyDtoH_v2(ordinary, memory, sizeof ordinary));
    IN_A_CAPTURE(cuMemcpyDtoD_v2(memory, memory + 128, 128));
    IN_A_CAPTURE(cuMemsetD32_v2(memory, 1, count));
    IN_A_CAPTURE(cuStreamWriteValue32_v2(other, word, 1, 0));
    IN_A_CAPTURE(cuLaunchHostFunc(other, nothing, NULL));
    IN_A_CAPTURE(cuEventRecord(event, other));
    IN_A_CAPTURE(cuStreamWaitEvent(other, event, 0));
    IN_A_CAPTURE(cuStreamWaitEvent(stream, outside, 0));
    IN_A_CAPTURE(cuGraphUpload(exec, other));
    IN_A_CAPTURE(cuGraphLaunch(exec, other));
    IN_A_CAPTURE(cuGraphLaunch(exec, stream));
    IN_A_CAPTURE(cuLaunchKernel(function, 1, 1, 1, 64, 1, 1, 0, NULL, arguments, NULL));
    NEED(cuCtxSynchronize());
    say("%u", host[0]);
}

static void with_streams(void) {
    with_kernels();
    NEED(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    NEED(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
}

// A section that does the same in each mode.
#define IN_EACH_MODE(name)                                                                                         \
    static void in_each_mode_##name(void) {                                                                        \
        with_streams();                                                                                            \
        for (mode = CU_STREAM_CAPTURE_GLOBAL; mode <= CU_STREAM_CAPTURE_RELAXED; mode++) {                         \
            say("mode %d", mode);                                                                                  \
            name();                                                                                                \
        }                                                                                                          \
    }
IN_EACH_MODE(arrays)
IN_EACH_MODE(modules)
IN_EACH_MODE(libraries)
IN_EACH_MODE(memory)
IN_EACH_MODE(handles)
IN_EACH_MODE(work)
IN_EACH_MODE(makes)
IN_EACH_MODE(asks)
IN_EACH_MODE(has_done)
IN_EACH_MODE(more)

int main(int argc, char **argv) {
    static const struct section sections[] = {
        {"arrays", in_each_mode_arrays}, {"modules", in_each_mode_modules}, {"libraries", in_each_mode_libraries},
        {"memory", in_each_mode_memory}, {"handles", in_each_mode_handles}, {"work", in_each_mode_work},
        {"makes", in_each_mode_makes},   {"asks", in_each_mode_asks},       {"has_done", in_each_mode_has_done},
        {"more", in_each_mode_more},
    };
    return RUN_SECTIONS(sections);
}
