// SPDX-License-Identifier: Apache-2.0 OR MIT
// Addresses at which there is no memory, in captures and in graphs: cuDNN captures what it would do with addresses that it
// makes up, only to look at the graph. Nothing here runs.
#include "graph_abi.h"
#include "t1_memory.h"

enum { BYTES = 4096 };

static CUstream stream;
static CUdeviceptr memory;
static unsigned char *pinned, ordinary[BYTES];
// Made up, and behind the end of memory that there is.
static const CUdeviceptr nowhere = 0x80, other = 0x10000;
static CUdeviceptr behind;

static void with_memory(void) {
    with_context();
    NEED(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    NEED(cuMemAlloc_v2(&memory, BYTES));
    NEED(cuMemHostAlloc((void **)&pinned, BYTES, 0));
    behind = memory + ((CUdeviceptr)4 << 30);
}

// What came of a capture, or of a node that was added.
static void look_at(CUgraph graph) {
    CUgraphNode nodes[4];
    size_t len = 4;
    TELL_VALUE(cuGraphGetNodes(graph, nodes, &len), len);
    for (size_t i = 0; i < len && i < 4; i++) {
        unsigned type = 99;
        struct memset_params fill = {0};
        struct copy_params copy = {0};
        TELL_VALUE(cuGraphNodeGetType(nodes[i], &type), type);
        if (type == MEMSET && TELL(cuGraphMemsetNodeGetParams(nodes[i], &fill)) == CUDA_SUCCESS)
            say("to nowhere: %d, %zu x %zu of %u, %u", fill.to == nowhere, fill.width, fill.height, fill.element, fill.value);
        if (type == MEMCPY && TELL(cuGraphMemcpyNodeGetParams(nodes[i], &copy)) == CUDA_SUCCESS)
            say("%zu x %zu x %zu, memory of type %u to %u, from nowhere: %d, to nowhere: %d", copy.width, copy.height, copy.depth,
                copy.from.memory, copy.to.memory, copy.from.device == nowhere || copy.from.host == (void *)nowhere,
                copy.to.device == nowhere || copy.to.host == (void *)nowhere);
    }
}

static void made_of(CUgraph graph) {
    CUgraphExec exec;
    if (TELL(cuGraphInstantiateWithFlags(&exec, graph, 0)) == CUDA_SUCCESS)
        TELL(cuGraphExecDestroy(exec));
}

#define CAPTURED(call)                                                                                             \
    do {                                                                                                           \
        CUgraph captured_ = NULL;                                                                                  \
        NEED(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_GLOBAL));                                          \
        TELL(call);                                                                                                \
        if (TELL(cuStreamEndCapture(stream, &captured_)) == CUDA_SUCCESS) {                                        \
            look_at(captured_);                                                                                    \
            made_of(captured_);                                                                                    \
            NEED(cuGraphDestroy(captured_));                                                                       \
        }                                                                                                          \
    } while (0)

static void fills(void) {
    with_memory();
    CAPTURED(cuMemsetD8Async(nowhere, 1, 0x280, stream));
    CAPTURED(cuMemsetD16Async(nowhere, 1, 0x280, stream));
    CAPTURED(cuMemsetD32Async(nowhere, 1, 0x280, stream));
    CAPTURED(cuMemsetD32Async(nowhere + 2, 1, 0x280, stream));
    CAPTURED(cuMemsetD8Async(nowhere, 1, 0, stream));
    CAPTURED(cuMemsetD8Async(0, 1, 16, stream));
    CAPTURED(cuMemsetD8Async(behind, 1, 16, stream));
    CAPTURED(cuMemsetD8Async(memory, 1, (size_t)1 << 40, stream));
    CAPTURED(cuMemsetD8Async((CUdeviceptr)ordinary, 1, 16, stream));
    CAPTURED(cuMemsetD2D8Async(nowhere, 512, 1, 100, 3, stream));
    CAPTURED(cuMemsetD2D32Async(nowhere, 512, 1, 100, 3, stream));
}

static void copies(void) {
    with_memory();
    CAPTURED(cuMemcpyDtoDAsync_v2(nowhere, other, 100, stream));
    CAPTURED(cuMemcpyDtoDAsync_v2(memory, nowhere, 100, stream));
    CAPTURED(cuMemcpyDtoDAsync_v2(nowhere, memory, 100, stream));
    CAPTURED(cuMemcpyDtoDAsync_v2(behind, memory, 100, stream));
    CAPTURED(cuMemcpyDtoDAsync_v2(0, memory, 100, stream));
    CAPTURED(cuMemcpyDtoDAsync_v2(memory, (CUdeviceptr)ordinary, 100, stream));
}

static void copies_to_device(void) {
    with_memory();
    CAPTURED(cuMemcpyHtoDAsync_v2(nowhere, pinned, 100, stream));
    CAPTURED(cuMemcpyHtoDAsync_v2(nowhere, ordinary, 100, stream));
    CAPTURED(cuMemcpyHtoDAsync_v2(behind, pinned, 100, stream));
    CAPTURED(cuMemcpyHtoDAsync_v2(0, pinned, 100, stream));
    CAPTURED(cuMemcpyHtoDAsync_v2(memory, (void *)nowhere, 100, stream));
    CAPTURED(cuMemcpyHtoDAsync_v2(nowhere, (void *)other, 100, stream));
}

static void copies_to_host(void) {
    with_memory();
    CAPTURED(cuMemcpyDtoHAsync_v2(pinned, nowhere, 100, stream));
    CAPTURED(cuMemcpyDtoHAsync_v2(ordinary, nowhere, 100, stream));
    CAPTURED(cuMemcpyDtoHAsync_v2(pinned, behind, 100, stream));
    CAPTURED(cuMemcpyDtoHAsync_v2(pinned, 0, 100, stream));
    CAPTURED(cuMemcpyDtoHAsync_v2((void *)nowhere, memory, 100, stream));
    CAPTURED(cuMemcpyDtoHAsync_v2((void *)nowhere, other, 100, stream));
}

static void copies_by_address(void) {
    with_memory();
    CAPTURED(cuMemcpyAsync(memory, nowhere, 100, stream));
    CAPTURED(cuMemcpyAsync(nowhere, memory, 100, stream));
    CAPTURED(cuMemcpyAsync((CUdeviceptr)pinned, nowhere, 100, stream));
    CAPTURED(cuMemcpyAsync(nowhere, (CUdeviceptr)pinned, 100, stream));
    CAPTURED(cuMemcpyAsync(nowhere, other, 100, stream));
    CAPTURED(cuMemcpyAsync((CUdeviceptr)ordinary, (CUdeviceptr)ordinary + 200, 100, stream));
}

// A copy of rows between two addresses.
static CUDA_MEMCPY2D rows(int from_type, CUdeviceptr from, int to_type, CUdeviceptr to) {
    CUDA_MEMCPY2D copy = {.srcMemoryType = from_type, .srcPitch = 128, .dstMemoryType = to_type, .dstPitch = 128, .WidthInBytes = 100, .Height = 3};
    if (from_type == CU_MEMORYTYPE_HOST)
        copy.srcHost = (void *)from;
    else
        copy.srcDevice = from;
    if (to_type == CU_MEMORYTYPE_HOST)
        copy.dstHost = (void *)to;
    else
        copy.dstDevice = to;
    return copy;
}

#define ROWS(...)                                                                                                  \
    do {                                                                                                           \
        CUDA_MEMCPY2D rows_ = rows(__VA_ARGS__);                                                                   \
        say("%s", #__VA_ARGS__);                                                                                   \
        CAPTURED(cuMemcpy2DAsync_v2(&rows_, stream));                                                              \
    } while (0)

static void copies_of_rows(void) {
    with_memory();
    enum { OF_HOST = CU_MEMORYTYPE_HOST, OF_DEVICE = CU_MEMORYTYPE_DEVICE, UNIFIED = CU_MEMORYTYPE_UNIFIED };
    ROWS(OF_DEVICE, nowhere, OF_DEVICE, memory);
    ROWS(OF_DEVICE, memory, OF_DEVICE, nowhere);
    ROWS(OF_HOST, (CUdeviceptr)pinned, OF_DEVICE, nowhere);
    ROWS(OF_DEVICE, nowhere, OF_HOST, (CUdeviceptr)pinned);
    ROWS(OF_HOST, (CUdeviceptr)ordinary, OF_DEVICE, nowhere);
    ROWS(OF_DEVICE, nowhere, OF_HOST, (CUdeviceptr)ordinary);
    ROWS(UNIFIED, nowhere, UNIFIED, memory);
    ROWS(UNIFIED, memory, UNIFIED, nowhere);
}

static void freeing(void) {
    with_memory();
    CAPTURED(cuMemFreeAsync(nowhere, stream));
}

static struct memset_params fill_of(CUdeviceptr to, size_t height) {
    return (struct memset_params){.to = to, .pitch = 512, .value = 3, .element = 4, .width = 10, .height = height};
}

static struct copy_params copy_of(CUdeviceptr to, CUdeviceptr from, size_t height) {
    return (struct copy_params){.from = {.memory = DEVICE_MEMORY, .device = from, .pitch = 128, .rows = 4},
                                .to = {.memory = DEVICE_MEMORY, .device = to, .pitch = 128, .rows = 4},
                                .width = 100,
                                .height = height,
                                .depth = 1};
}

static void nodes(void) {
    with_memory();
    static const char *const names[] = {"nowhere", "behind", "ordinary", "null"};
    const CUdeviceptr all[] = {nowhere, behind, (CUdeviceptr)ordinary, 0};
    for (int i = 0; i < 4; i++) {
        CUgraph graph;
        CUgraphNode node;
        NEED(cuGraphCreate(&graph, 0));
        say("%s", names[i]);
        struct memset_params fill = fill_of(all[i], 1);
        TELL(cuGraphAddMemsetNode(&node, graph, NULL, 0, &fill, context));
        fill = fill_of(all[i], 3);
        TELL(cuGraphAddMemsetNode(&node, graph, NULL, 0, &fill, context));
        struct copy_params copy = copy_of(all[i], memory, 1);
        TELL(cuGraphAddMemcpyNode(&node, graph, NULL, 0, &copy, context));
        copy = copy_of(memory, all[i], 3);
        TELL(cuGraphAddMemcpyNode(&node, graph, NULL, 0, &copy, context));
        look_at(graph);
        made_of(graph);
        NEED(cuGraphDestroy(graph));
    }
}

static void changes(void) {
    with_memory();
    CUgraph graph;
    CUgraphExec exec;
    CUgraphNode filled, copied;
    NEED(cuGraphCreate(&graph, 0));
    struct memset_params fill = fill_of(memory, 1);
    struct copy_params copy = copy_of(memory, memory + 1024, 1);
    NEED(cuGraphAddMemsetNode(&filled, graph, NULL, 0, &fill, context));
    NEED(cuGraphAddMemcpyNode(&copied, graph, NULL, 0, &copy, context));
    NEED(cuGraphInstantiateWithFlags(&exec, graph, 0));
    fill = fill_of(nowhere, 1);
    copy = copy_of(memory, nowhere, 1);
    TELL(cuGraphExecMemsetNodeSetParams(exec, filled, &fill, context));
    TELL(cuGraphExecMemcpyNodeSetParams(exec, copied, &copy, context));
    TELL(cuGraphMemsetNodeSetParams(filled, &fill));
    TELL(cuGraphMemcpyNodeSetParams(copied, &copy));
    look_at(graph);
    struct update_info info = {0};
    TELL_VALUE(cuGraphExecUpdate_v2(exec, graph, &info), info.result);
    made_of(graph);
}

int main(int argc, char **argv) {
    static const struct section sections[] = {
        SECTION(fills),           SECTION(copies),         SECTION(copies_to_device), SECTION(copies_to_host),
        SECTION(copies_by_address), SECTION(copies_of_rows), SECTION(freeing),  SECTION(nodes),
        SECTION(changes),
    };
    return RUN_SECTIONS(sections);
}
