// SPDX-License-Identifier: Apache-2.0 OR MIT
// What a program has and takes away in a capture: some of it is refused then, which ends the capture, and stays as it was.
#include "graph_abi.h"
#include "memory_abi.h"
#include "t0.h"

typedef struct CUlib_st *CUlibrary;
CUresult cuLibraryLoadData(CUlibrary *library, const void *code, void *options, void *values, unsigned count,
                           void *library_options, void *library_values, unsigned library_count);
CUresult cuLibraryGetModule(CUmodule *module, CUlibrary library);
CUresult cuLibraryUnload(CUlibrary library);

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
    NEED(cuCtxSetCurrent(context));
    IN_A_CAPTURE(cuCtxDestroy_v2(another));
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

int main(int argc, char **argv) {
    static const struct section sections[] = {
        {"arrays", in_each_mode_arrays}, {"modules", in_each_mode_modules}, {"libraries", in_each_mode_libraries},
        {"memory", in_each_mode_memory}, {"handles", in_each_mode_handles}, {"work", in_each_mode_work},
    };
    return RUN_SECTIONS(sections);
}
