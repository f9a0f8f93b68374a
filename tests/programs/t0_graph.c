// SPDX-License-Identifier: Apache-2.0 OR MIT
// Graphs: what captures tell of theirs, graphs that are built node by node, looked at, changed, copied, updated.
#include "graph_abi.h"
#include "t0.h"

enum { N = 256 };

static CUstream stream;
static CUdeviceptr numbers;
static uint32_t *pinned;

static void with_memory(void) {
    with_kernels();
    NEED(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    NEED(cuMemAlloc_v2(&numbers, N * sizeof(uint32_t)));
    NEED(cuMemsetD32_v2(numbers, 0, N));
    NEED(cuCtxSynchronize());
    NEED(cuMemHostAlloc((void **)&pinned, N * sizeof(uint32_t), 0));
    memset(pinned, 0, N * sizeof(uint32_t));
}

// A kernel that adds to every number.
static uint32_t by, count = N;
static void *arguments[] = {&numbers, &by, &count};
static struct kernel_params adding(uint32_t amount) {
    by = amount;
    return (struct kernel_params){.function = kernel_of(module, "increment"),
                                  .grid = {N / 64, 1, 1},
                                  .block = {64, 1, 1},
                                  .params = arguments};
}

static struct memset_params filling(uint32_t value) {
    return (struct memset_params){.to = numbers, .value = value, .element = 4, .width = N, .height = 1};
}

// A copy of all numbers to pinned memory.
static struct copy_params copying(void) {
    size_t bytes = N * sizeof(uint32_t);
    return (struct copy_params){.from = {.memory = DEVICE_MEMORY, .device = numbers, .pitch = bytes, .rows = 1},
                                .to = {.memory = HOST_MEMORY, .host = pinned, .pitch = bytes, .rows = 1},
                                .width = bytes,
                                .height = 1,
                                .depth = 1};
}

// All numbers, if they are the same, once all work is done.
static long number;
static void read_number(void) {
    static uint32_t got[N];
    NEED(cuCtxSynchronize());
    NEED(cuMemcpyDtoH_v2(got, numbers, sizeof got));
    for (int i = 1; i < N; i++)
        if (got[i] != got[0])
            got[0] = -1u;
    number = got[0];
}

// Types of a graph's nodes, in order, and how many edges it has.
static void describe(const char *what, CUgraph graph) {
    CUgraphNode nodes[32];
    size_t len = 32, edges = 0, roots = 0;
    char types[128] = "";
    NEED(cuGraphGetNodes(graph, nodes, &len));
    NEED(cuGraphGetRootNodes(graph, NULL, &roots));
    NEED(cuGraphGetEdges_v2(graph, NULL, NULL, NULL, &edges));
    int found[16] = {0};
    for (size_t i = 0; i < len; i++) {
        unsigned type = 15;
        NEED(cuGraphNodeGetType(nodes[i], &type));
        found[type & 15]++;
    }
    for (int i = 0; i < 16; i++)
        if (found[i] != 0)
            snprintf(types + strlen(types), sizeof types - strlen(types), " %dx%d", found[i], i);
    say("%s: %zu nodes%s, %zu edges, %zu roots", what, len, types, edges, roots);
}

static void launch(CUgraph graph) {
    CUgraphExec exec;
    NEED(cuGraphInstantiateWithFlags(&exec, graph, 0));
    NEED(cuGraphLaunch(exec, stream));
    NEED(cuStreamSynchronize(stream));
    NEED(cuGraphExecDestroy(exec));
}

static void captures_told(void) {
    with_memory();
    int status = -1;
    uint64_t id = 0, again = 0;
    CUgraph graph = NULL, same = NULL, ended = NULL;
    const CUgraphNode *nodes = NULL;
    const struct edge_data *edges = NULL;
    size_t len = 99;
    TELL_VALUE(cuStreamGetCaptureInfo_v2(stream, &status, NULL, NULL, NULL, NULL), status);
    TELL(cuStreamGetCaptureInfo_v2(stream, NULL, NULL, NULL, NULL, NULL));
    NEED(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_GLOBAL));
    TELL_VALUE(cuStreamGetCaptureInfo_v2(stream, &status, &id, &graph, &nodes, &len), status);
    say("%zu dependencies, a graph: %d, an id: %d", len, graph != NULL, id != 0);
    struct kernel_params add = adding(3);
    NEED(cuLaunchKernel(add.function, N / 64, 1, 1, 64, 1, 1, 0, stream, arguments, NULL));
    NEED(cuMemsetD32Async(numbers, 5, N, stream));
    TELL_VALUE(cuStreamGetCaptureInfo_v3(stream, &status, &again, &same, &nodes, &edges, &len), status);
    say("%zu dependencies, the same graph: %d, the same id: %d", len, graph == same, id == again);
    unsigned type = 99;
    TELL_VALUE(cuGraphNodeGetType(nodes[0], &type), type);
    describe("so far", graph);
    TELL(cuStreamEndCapture(stream, &ended));
    say("that graph: %d", ended == graph);
    describe("ended", ended);
    TELL(cuGraphDestroy(ended));
    // A capture that fails takes its graph with it.
    NEED(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_GLOBAL));
    NEED(cuStreamGetCaptureInfo_v2(stream, &status, &id, &graph, &nodes, &len));
    TELL(cuStreamSynchronize(stream));
    TELL_VALUE(cuStreamGetCaptureInfo_v2(stream, &status, NULL, NULL, NULL, NULL), status);
    TELL(cuStreamEndCapture(stream, &ended));
    say("a graph: %d", ended != NULL);
}

static void dependencies_updated(void) {
    with_memory();
    int status;
    CUgraph graph, ended;
    const CUgraphNode *nodes;
    size_t len;
    NEED(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_GLOBAL));
    NEED(cuMemsetD32Async(numbers, 1, N, stream));
    NEED(cuStreamGetCaptureInfo_v2(stream, &status, NULL, &graph, &nodes, &len));
    CUgraphNode first = nodes[0], own = NULL, stranger = NULL;
    // A node of one's own between two that are captured.
    TELL(cuGraphAddEmptyNode(&own, graph, &first, 1));
    TELL(cuStreamUpdateCaptureDependencies(stream, &own, 1, 1));
    NEED(cuStreamGetCaptureInfo_v2(stream, &status, NULL, &graph, &nodes, &len));
    say("%zu dependencies, that node: %d", len, nodes[0] == own);
    TELL(cuStreamUpdateCaptureDependencies(stream, &first, 1, 0));
    NEED(cuStreamGetCaptureInfo_v2(stream, &status, NULL, &graph, &nodes, &len));
    say("%zu dependencies", len);
    TELL(cuStreamUpdateCaptureDependencies(stream, &own, 1, 7));
    struct kernel_params add = adding(3);
    NEED(cuLaunchKernel(add.function, N / 64, 1, 1, 64, 1, 1, 0, stream, arguments, NULL));
    TELL(cuStreamEndCapture(stream, &ended));
    describe("ended", ended);
    launch(ended);
    read_number();
    say("the number is %ld", number);
    TELL(cuStreamUpdateCaptureDependencies(stream, &stranger, 0, 0));
}

static void captures_into_graphs(void) {
    with_memory();
    CUgraph graph, ended = NULL;
    CUgraphNode fill;
    struct memset_params seven = filling(7);
    NEED(cuGraphCreate(&graph, 0));
    NEED(cuGraphAddMemsetNode(&fill, graph, NULL, 0, &seven, context));
    TELL(cuStreamBeginCaptureToGraph(stream, NULL, NULL, NULL, 0, CU_STREAM_CAPTURE_GLOBAL));
    TELL(cuStreamBeginCaptureToGraph(stream, graph, &fill, NULL, 1, CU_STREAM_CAPTURE_GLOBAL));
    struct kernel_params add = adding(3);
    NEED(cuLaunchKernel(add.function, N / 64, 1, 1, 64, 1, 1, 0, stream, arguments, NULL));
    TELL(cuStreamEndCapture(stream, &ended));
    say("that graph: %d", ended == graph);
    describe("captured into", graph);
    launch(graph);
    read_number();
    say("the number is %ld", number);
    TELL(cuGraphDestroy(graph));
}

// Who captures into a graph has it, and need not ask for it.
static void captures_not_asked_for(void) {
    with_memory();
    CUgraph graph;
    int status = -1;
    NEED(cuGraphCreate(&graph, 0));
    for (int fails = 0; fails < 2; fails++) {
        NEED(cuStreamBeginCaptureToGraph(stream, graph, NULL, NULL, 0, CU_STREAM_CAPTURE_GLOBAL));
        NEED(cuMemsetD32Async(numbers, 7, N, stream));
        if (fails)
            TELL(cuStreamSynchronize(stream));
        TELL(cuStreamEndCapture(stream, NULL));
        TELL_VALUE(cuStreamIsCapturing(stream, &status), status);
        // What a capture that failed leaves of it nobody knows.
        if (!fails)
            describe("captured into", graph);
    }
}
// Nor must who has none.
static void a_capture_nobody_wants(void) {
    with_memory();
    CUgraph graph = NULL;
    int status = -1;
    NEED(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_GLOBAL));
    NEED(cuMemsetD32Async(numbers, 7, N, stream));
    TELL(cuStreamEndCapture(stream, NULL));
    TELL_VALUE(cuStreamIsCapturing(stream, &status), status);
    TELL(cuStreamEndCapture(stream, &graph));
    say("a graph: %d", graph != NULL);
}

static void instantiating(void) {
    with_memory();
    CUgraph graph;
    CUgraphExec exec = NULL;
    CUgraphNode fill, error = (CUgraphNode)&graph;
    char log[16] = "log";
    uint64_t flags = 99;
    struct memset_params seven = filling(7);
    NEED(cuGraphCreate(&graph, 0));
    NEED(cuGraphAddMemsetNode(&fill, graph, NULL, 0, &seven, context));
    TELL(cuGraphInstantiateWithFlags(NULL, graph, 0));
    TELL(cuGraphInstantiateWithFlags(&exec, NULL, 0));
    TELL(cuGraphInstantiate_v2(&exec, graph, &error, log, sizeof log));
    say("the error's node: %d", error != NULL);
    TELL_VALUE(cuGraphExecGetFlags(exec, &flags), flags);
    NEED(cuGraphExecDestroy(exec));
    struct instantiate_params params = {.flags = 2 | 8, .upload_stream = stream, .result = 99};
    TELL_VALUE(cuGraphInstantiateWithParams(&exec, graph, &params), params.result);
    TELL_VALUE(cuGraphExecGetFlags(exec, &flags), flags);
    TELL(cuGraphUpload(exec, stream));
    TELL(cuGraphUpload(NULL, stream));
    NEED(cuGraphLaunch(exec, stream));
    read_number();
    say("the number is %ld", number);
    TELL(cuGraphExecDestroy(exec));
    TELL(cuGraphDestroy(graph));
}

static int host_calls;
static void count_call(void *data) {
    host_calls += (int)(intptr_t)data;
}

static void building(void) {
    with_memory();
    CUgraph graph, child;
    CUgraphNode fill, add, copy, host, nothing, part, node;
    CUevent event;
    NEED(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    TELL(cuGraphCreate(&graph, 1));
    TELL(cuGraphCreate(NULL, 0));
    TELL(cuGraphCreate(&graph, 0));
    describe("empty", graph);
    struct memset_params seven = filling(7);
    struct kernel_params three = adding(3);
    struct copy_params out = copying();
    struct host_params call = {count_call, (void *)100};
    TELL(cuGraphAddMemsetNode(&fill, graph, NULL, 0, &seven, context));
    TELL(cuGraphAddKernelNode_v2(&add, graph, &fill, 1, &three));
    TELL(cuGraphAddMemcpyNode(&copy, graph, &add, 1, &out, context));
    TELL(cuGraphAddHostNode(&host, graph, &copy, 1, &call));
    TELL(cuGraphAddEmptyNode(&nothing, graph, &host, 1));
    NEED(cuGraphCreate(&child, 0));
    struct kernel_params five = adding(5);
    NEED(cuGraphAddKernelNode_v2(&node, child, NULL, 0, &five));
    TELL(cuGraphAddChildGraphNode(&part, graph, &nothing, 1, child));
    TELL(cuGraphAddEventRecordNode(&node, graph, &part, 1, event));
    TELL(cuGraphAddEventWaitNode(&node, graph, &node, 1, event));
    describe("built", graph);
    CUgraph inner = NULL;
    TELL(cuGraphChildGraphNodeGetGraph(part, &inner));
    say("the child's copy: %d", inner != child);
    describe("the child's", inner);
    TELL(cuGraphChildGraphNodeGetGraph(fill, &inner));
    NEED(cuGraphDestroy(child));
    launch(graph);
    read_number();
    say("the number is %ld, the copy says %u, host functions counted %d", number, pinned[N - 1], host_calls);
    launch(graph);
    read_number();
    say("the number is %ld, the copy says %u, host functions counted %d", number, pinned[N - 1], host_calls);
    TELL(cuEventQuery(event));
    // Wrong ones.
    struct memset_params bad = filling(1);
    bad.element = 3;
    TELL(cuGraphAddMemsetNode(&node, graph, NULL, 0, &bad, context));
    TELL(cuGraphAddMemsetNode(NULL, graph, NULL, 0, &seven, context));
    TELL(cuGraphAddMemsetNode(&node, NULL, NULL, 0, &seven, context));
    struct host_params none = {NULL, NULL};
    TELL(cuGraphAddHostNode(&node, graph, NULL, 0, &none));
    TELL(cuGraphAddEmptyNode(&node, graph, NULL, 1));
    describe("still", graph);
    TELL(cuGraphDestroy(graph));
}

// A graph that becomes part of another one itself, not a copy of it.
static void moving(void) {
    with_memory();
    CUgraph graph, child, inner = NULL;
    CUgraphNode fill, add, part, node;
    NEED(cuGraphCreate(&graph, 0));
    NEED(cuGraphCreate(&child, 0));
    struct memset_params seven = filling(7);
    struct kernel_params three = adding(3);
    NEED(cuGraphAddMemsetNode(&fill, child, NULL, 0, &seven, context));
    NEED(cuGraphAddKernelNode_v2(&add, child, &fill, 1, &three));
    struct node_params moves = {.type = GRAPH};
    moves.words[0] = (uint64_t)child;
    moves.words[1] = 1;
    TELL(cuGraphAddNode_v2(&part, graph, NULL, NULL, 0, &moves));
    TELL(cuGraphChildGraphNodeGetGraph(part, &inner));
    say("the child itself: %d", inner == child);
    describe("the whole", graph);
    describe("the child", child);
    launch(graph);
    read_number();
    say("the number is %ld", number);
    // Its nodes are what they were.
    struct kernel_params five = adding(5);
    TELL(cuGraphKernelNodeSetParams_v2(add, &five));
    TELL(cuGraphAddKernelNode_v2(&node, child, &add, 1, &five));
    launch(graph);
    read_number();
    say("the number is %ld", number);
    // It is no longer the program's.
    TELL(cuGraphAddNode_v2(&node, graph, &part, NULL, 1, &moves));
    TELL(cuGraphDestroy(child));
    moves.words[1] = 7;
    TELL(cuGraphAddNode_v2(&node, graph, &part, NULL, 1, &moves));
    describe("still", graph);
    TELL(cuGraphDestroy(graph));
    TELL(cuGraphNodeGetType(add, &(unsigned){0}));
}

// Copies from and to memory that nobody has pinned, which a graph reads and writes when it runs.
static void ordinary_memory(void) {
    with_memory();
    static uint32_t in[N], out[N], other[N];
    size_t bytes = sizeof in;
    CUgraph graph, clone;
    CUgraphNode copy_in, add, copy_out, found;
    CUgraphExec exec;
    for (int i = 0; i < N; i++)
        in[i] = 5;
    NEED(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_GLOBAL));
    TELL(cuMemcpyHtoDAsync_v2(numbers, in, bytes, stream));
    struct kernel_params three = adding(3);
    NEED(cuLaunchKernel(three.function, N / 64, 1, 1, 64, 1, 1, 0, stream, arguments, NULL));
    TELL(cuMemcpyDtoHAsync_v2(out, numbers, bytes, stream));
    NEED(cuStreamEndCapture(stream, &graph));
    describe("captured", graph);
    CUgraphNode captured[8];
    size_t many = 8;
    NEED(cuGraphGetNodes(graph, captured, &many));
    for (size_t i = 0; i < many && i < 8; i++) {
        struct copy_params copy;
        unsigned kind = 99;
        NEED(cuGraphNodeGetType(captured[i], &kind));
        if (kind != MEMCPY)
            continue;
        TELL(cuGraphMemcpyNodeGetParams(captured[i], &copy));
        say("%zu x %zu x %zu, there: %d %d", copy.width, copy.height, copy.depth,
            copy.from.host == in || copy.from.device == numbers, copy.to.host == out || copy.to.device == numbers);
    }
    NEED(cuGraphDestroy(graph));
    graph = NULL;
    NEED(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_GLOBAL));
    TELL(cuMemcpyAsync((CUdeviceptr)other, (CUdeviceptr)in, bytes / 2, stream));
    TELL(cuMemcpyAsync((CUdeviceptr)(other + N / 2), (CUdeviceptr)in, bytes / 2, stream));
    NEED(cuStreamEndCapture(stream, &graph));
    describe("between ordinary memories", graph);
    in[N / 2 - 1] = 55;
    launch(graph);
    say("as it was then: %u, %u, %u", other[0], other[N / 2 - 1], other[N - 1]);
    NEED(cuGraphDestroy(graph));
    NEED(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_GLOBAL));
    in[N / 2 - 1] = 5;
    TELL(cuMemcpyHtoDAsync_v2(numbers, in, bytes, stream));
    NEED(cuLaunchKernel(three.function, N / 64, 1, 1, 64, 1, 1, 0, stream, arguments, NULL));
    TELL(cuMemcpyDtoHAsync_v2(out, numbers, bytes, stream));
    NEED(cuStreamEndCapture(stream, &graph));
    in[7] = 50;
    say("nothing ran: %u", out[7]);
    launch(graph);
    say("as it was then: %u, %u", out[6], out[7]);
    in[7] = 60;
    launch(graph);
    say("and then: %u, %u", out[6], out[7]);
    NEED(cuGraphDestroy(graph));

    NEED(cuGraphCreate(&graph, 0));
    struct copy_params from_host = copying(), to_host = copying(), got = {0};
    from_host.to = from_host.from;
    from_host.from = to_host.to;
    from_host.from.host = in;
    to_host.to.host = out;
    TELL(cuGraphAddMemcpyNode(&copy_in, graph, NULL, 0, &from_host, context));
    NEED(cuGraphAddKernelNode_v2(&add, graph, &copy_in, 1, &three));
    TELL(cuGraphAddMemcpyNode(&copy_out, graph, &add, 1, &to_host, context));
    describe("from and to ordinary memory", graph);
    TELL(cuGraphMemcpyNodeGetParams(copy_in, &got));
    say("%zu x %zu x %zu, from %u to %u, there: %d %d", got.width, got.height, got.depth, got.from.memory, got.to.memory,
        got.from.host == in, got.to.device == numbers);
    in[7] = 70;
    launch(graph);
    say("through nodes: %u, %u", out[6], out[7]);
    // Somewhere else.
    to_host.to.host = other;
    TELL(cuGraphMemcpyNodeSetParams(copy_out, &to_host));
    NEED(cuGraphMemcpyNodeGetParams(copy_out, &got));
    say("there: %d", got.to.host == other);
    launch(graph);
    say("elsewhere: %u, %u", other[6], other[7]);
    // The other memory may be anything.
    to_host.to.host = pinned;
    TELL(cuGraphMemcpyNodeSetParams(copy_out, &to_host));
    launch(graph);
    say("pinned: %u, %u", pinned[6], pinned[7]);
    // Nothing changes where the copy is refused; nor does another graph, which may have got a number that was used meanwhile.
    CUgraph bystander;
    NEED(cuGraphCreate(&bystander, 0));
    struct copy_params refused = to_host;
    refused.from.device = 0x1234;
    TELL(cuGraphMemcpyNodeSetParams(copy_out, &refused));
    launch(graph);
    say("as before: %u, %u", pinned[6], pinned[7]);
    // Changed in an executable graph alone.
    NEED(cuGraphInstantiateWithFlags(&exec, graph, 0));
    from_host.from.host = other;
    to_host.to.host = out;
    TELL(cuGraphExecMemcpyNodeSetParams(exec, copy_in, &from_host, context));
    TELL(cuGraphExecMemcpyNodeSetParams(exec, copy_out, &to_host, context));
    NEED(cuGraphLaunch(exec, stream));
    NEED(cuStreamSynchronize(stream));
    say("in the executable graph: %u, %u", out[6], out[7]);
    NEED(cuGraphExecDestroy(exec));
    // A copy of the graph.
    unsigned type = 99;
    NEED(cuGraphClone(&clone, graph));
    NEED(cuGraphNodeFindInClone(&found, copy_in, clone));
    TELL_VALUE(cuGraphNodeGetType(found, &type), type);
    describe("the copy", clone);
    in[7] = 80;
    launch(clone);
    say("in the copy: %u, %u", pinned[6], pinned[7]);
    // Every other number, into rows of another length.
    struct copy_params rows = from_host;
    rows.from.host = in;
    rows.from.pitch = 8;
    rows.to.pitch = 4;
    rows.width = 4;
    rows.height = N / 2;
    TELL(cuGraphMemcpyNodeSetParams(copy_in, &rows));
    in[8] = 90;
    launch(graph);
    say("rows: %u, %u, %u", pinned[3], pinned[4], pinned[5]);
    TELL(cuGraphDestroy(clone));
    TELL(cuGraphDestroy(graph));
    describe("another", bystander);
    TELL(cuGraphDestroy(bystander));
}

static void looking(void) {
    with_memory();
    CUgraph graph;
    CUgraphNode fill, add, copy, host, record, wait;
    CUevent event, other, got_event;
    NEED(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    NEED(cuEventCreate(&other, CU_EVENT_DISABLE_TIMING));
    NEED(cuGraphCreate(&graph, 0));
    struct memset_params seven = filling(7), got_fill = {0};
    struct kernel_params three = adding(3), got = {0};
    struct copy_params out = copying(), got_copy = {0};
    struct host_params call = {count_call, (void *)100}, got_call = {0};
    NEED(cuGraphAddMemsetNode(&fill, graph, NULL, 0, &seven, context));
    NEED(cuGraphAddKernelNode_v2(&add, graph, &fill, 1, &three));
    NEED(cuGraphAddMemcpyNode(&copy, graph, &add, 1, &out, context));
    NEED(cuGraphAddHostNode(&host, graph, &copy, 1, &call));
    NEED(cuGraphAddEventRecordNode(&record, graph, &host, 1, event));
    NEED(cuGraphAddEventWaitNode(&wait, graph, &record, 1, event));
    by = 99;
    TELL(cuGraphKernelNodeGetParams_v2(add, &got));
    say("the function: %d, grid %u %u %u, block %u, parameters %u %u, the pointer: %d", got.function == three.function,
        got.grid[0], got.grid[1], got.grid[2], got.block[0], *(uint32_t *)got.params[1], *(uint32_t *)got.params[2],
        *(CUdeviceptr *)got.params[0] == numbers);
    TELL(cuGraphMemsetNodeGetParams(fill, &got_fill));
    say("value %u, element %u, %zu x %zu, there: %d", got_fill.value, got_fill.element, got_fill.width, got_fill.height,
        got_fill.to == numbers);
    TELL(cuGraphMemcpyNodeGetParams(copy, &got_copy));
    say("%zu x %zu x %zu, from %u to %u, there: %d %d", got_copy.width, got_copy.height, got_copy.depth,
        got_copy.from.memory, got_copy.to.memory, got_copy.from.device == numbers, got_copy.to.host == pinned);
    TELL(cuGraphHostNodeGetParams(host, &got_call));
    say("the function: %d, its data: %d", got_call.function == count_call, got_call.data == (void *)100);
    TELL(cuGraphEventRecordNodeGetEvent(record, &got_event));
    say("the event: %d", got_event == event);
    TELL(cuGraphEventWaitNodeGetEvent(wait, &got_event));
    say("the event: %d", got_event == event);
    // Of another kind.
    TELL(cuGraphKernelNodeGetParams_v2(fill, &got));
    TELL(cuGraphMemsetNodeGetParams(add, &got_fill));
    TELL(cuGraphEventRecordNodeGetEvent(wait, &got_event));
    // Changed.
    struct kernel_params five = adding(5);
    five.grid[1] = 2;
    TELL(cuGraphKernelNodeSetParams_v2(add, &five));
    by = 1;
    NEED(cuGraphKernelNodeGetParams_v2(add, &got));
    say("grid %u %u, parameter %u", got.grid[0], got.grid[1], *(uint32_t *)got.params[1]);
    struct memset_params nine = filling(9);
    TELL(cuGraphMemsetNodeSetParams(fill, &nine));
    NEED(cuGraphMemsetNodeGetParams(fill, &got_fill));
    say("value %u", got_fill.value);
    call.data = (void *)200;
    TELL(cuGraphHostNodeSetParams(host, &call));
    NEED(cuGraphHostNodeGetParams(host, &got_call));
    say("its data: %d", got_call.data == (void *)200);
    TELL(cuGraphEventRecordNodeSetEvent(record, other));
    NEED(cuGraphEventRecordNodeGetEvent(record, &got_event));
    say("the other event: %d", got_event == other);
    TELL(cuGraphMemcpyNodeSetParams(copy, &out));
    TELL(cuGraphMemsetNodeSetParams(add, &nine));
    struct node_params any = {.type = MEMSET, .memset = filling(11)};
    any.words[5] = (uint64_t)context;
    TELL(cuGraphNodeSetParams(fill, &any));
    NEED(cuGraphMemsetNodeGetParams(fill, &got_fill));
    say("value %u", got_fill.value);
    TELL(cuGraphNodeSetParams(add, &any));
}

static void captured_nodes(void) {
    with_memory();
    CUgraph graph;
    CUgraphNode nodes[4];
    size_t len = 4;
    NEED(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_GLOBAL));
    struct kernel_params add = adding(3), got = {0};
    NEED(cuLaunchKernel(add.function, N / 64, 1, 1, 64, 1, 1, 0, stream, arguments, NULL));
    NEED(cuMemcpyDtoHAsync_v2(pinned, numbers, N * sizeof(uint32_t), stream));
    NEED(cuLaunchHostFunc(stream, count_call, (void *)1));
    NEED(cuStreamEndCapture(stream, &graph));
    TELL_VALUE(cuGraphGetNodes(graph, nodes, &len), len);
    say("the fourth is none: %d", nodes[3] == NULL);
    for (size_t i = 0; i < len; i++) {
        unsigned type;
        NEED(cuGraphNodeGetType(nodes[i], &type));
        if (type == KERNEL) {
            by = 77;
            TELL(cuGraphKernelNodeGetParams_v2(nodes[i], &got));
            say("the function: %d, parameter %u", got.function == add.function, *(uint32_t *)got.params[1]);
        } else if (type == MEMCPY) {
            struct copy_params copy;
            TELL(cuGraphMemcpyNodeGetParams(nodes[i], &copy));
            say("%zu bytes", copy.width * copy.height * copy.depth);
        } else if (type == HOST) {
            struct host_params call;
            TELL(cuGraphHostNodeGetParams(nodes[i], &call));
            say("the function: %d", call.function == count_call);
        }
    }
}

static void edges(void) {
    with_memory();
    CUgraph graph, other;
    CUgraphNode a, b, c, foreign, got[4];
    size_t len = 4;
    NEED(cuGraphCreate(&graph, 0));
    NEED(cuGraphCreate(&other, 0));
    NEED(cuGraphAddEmptyNode(&a, graph, NULL, 0));
    NEED(cuGraphAddEmptyNode(&b, graph, NULL, 0));
    NEED(cuGraphAddEmptyNode(&c, graph, NULL, 0));
    NEED(cuGraphAddEmptyNode(&foreign, other, NULL, 0));
    CUgraphNode from[] = {a, b}, to[] = {b, c};
    TELL(cuGraphAddDependencies(graph, from, to, 2));
    TELL(cuGraphAddDependencies(graph, from, to, 1));
    describe("a, b, c", graph);
    TELL_VALUE(cuGraphNodeGetDependencies(b, got, &len), len);
    say("that is a: %d", got[0] == a);
    len = 4;
    TELL_VALUE(cuGraphNodeGetDependentNodes(b, got, &len), len);
    say("that is c: %d", got[0] == c);
    TELL_VALUE(cuGraphNodeGetDependentNodes(c, NULL, &len), len);
    TELL(cuGraphAddDependencies(graph, &foreign, &a, 1));
    TELL(cuGraphRemoveDependencies(graph, from, to, 1));
    TELL(cuGraphRemoveDependencies(graph, from, to, 1));
    describe("without the first", graph);
    TELL(cuGraphDestroyNode(b));
    describe("without b", graph);
    NEED(cuGraphDestroy(other));
    NEED(cuGraphDestroy(graph));
}

static void copies(void) {
    with_memory();
    CUgraph graph, clone;
    CUgraphNode fill, add, found, none;
    NEED(cuGraphCreate(&graph, 0));
    struct memset_params seven = filling(7);
    struct kernel_params three = adding(3), got = {0};
    NEED(cuGraphAddMemsetNode(&fill, graph, NULL, 0, &seven, context));
    NEED(cuGraphAddKernelNode_v2(&add, graph, &fill, 1, &three));
    TELL(cuGraphClone(NULL, graph));
    TELL(cuGraphClone(&clone, graph));
    describe("the copy", clone);
    TELL(cuGraphNodeFindInClone(&found, add, clone));
    say("another node: %d", found != add);
    TELL(cuGraphNodeFindInClone(&none, found, graph));
    NEED(cuGraphKernelNodeGetParams_v2(found, &got));
    say("parameter %u", *(uint32_t *)got.params[1]);
    struct kernel_params five = adding(5);
    NEED(cuGraphKernelNodeSetParams_v2(found, &five));
    NEED(cuGraphDestroy(graph));
    launch(clone);
    read_number();
    say("the number is %ld", number);
    TELL(cuGraphDestroy(clone));
}

static void changing_executables(void) {
    with_memory();
    CUgraph graph, other;
    CUgraphExec exec;
    CUgraphNode fill, add, host, node;
    unsigned enabled = 99;
    NEED(cuGraphCreate(&graph, 0));
    struct memset_params seven = filling(7), nine = filling(9);
    struct kernel_params three = adding(3);
    struct host_params call = {count_call, (void *)1};
    NEED(cuGraphAddMemsetNode(&fill, graph, NULL, 0, &seven, context));
    NEED(cuGraphAddKernelNode_v2(&add, graph, &fill, 1, &three));
    NEED(cuGraphAddHostNode(&host, graph, &add, 1, &call));
    NEED(cuGraphInstantiateWithFlags(&exec, graph, 0));
    NEED(cuGraphLaunch(exec, stream));
    read_number();
    say("the number is %ld, host functions counted %d", number, host_calls);
    TELL(cuGraphExecMemsetNodeSetParams(exec, fill, &nine, context));
    struct kernel_params five = adding(5);
    TELL(cuGraphExecKernelNodeSetParams_v2(exec, add, &five));
    call.data = (void *)10;
    TELL(cuGraphExecHostNodeSetParams(exec, host, &call));
    TELL(cuGraphExecMemsetNodeSetParams(exec, add, &nine, context));
    NEED(cuGraphLaunch(exec, stream));
    read_number();
    say("the number is %ld, host functions counted %d", number, host_calls);
    TELL_VALUE(cuGraphNodeGetEnabled(exec, add, &enabled), enabled);
    TELL(cuGraphNodeSetEnabled(exec, add, 0));
    TELL_VALUE(cuGraphNodeGetEnabled(exec, add, &enabled), enabled);
    NEED(cuGraphLaunch(exec, stream));
    read_number();
    say("the number is %ld", number);
    TELL(cuGraphNodeSetEnabled(exec, add, 1));
    // From another graph of the same shape.
    NEED(cuGraphCreate(&other, 0));
    struct memset_params one = filling(1);
    struct kernel_params two = adding(2);
    NEED(cuGraphAddMemsetNode(&node, other, NULL, 0, &one, context));
    NEED(cuGraphAddKernelNode_v2(&node, other, &node, 1, &two));
    NEED(cuGraphAddHostNode(&node, other, &node, 1, &call));
    struct update_info info = {.result = 99};
    TELL_VALUE(cuGraphExecUpdate_v2(exec, other, &info), info.result);
    NEED(cuGraphLaunch(exec, stream));
    read_number();
    say("the number is %ld", number);
    NEED(cuGraphAddEmptyNode(&node, other, &node, 1));
    TELL(cuGraphExecUpdate_v2(exec, other, &info));
    say("why: %d", info.result);
    NEED(cuGraphDestroy(other));
    NEED(cuGraphDestroy(graph));
    NEED(cuGraphExecDestroy(exec));
}

// An executable graph is updated from graphs that differ in one thing each, also by the function of CUDA 10 and 11, whose
// programs learn less of why it cannot be.
static void updates(void) {
    with_memory();
    static const char *const ways[] = {"nothing", "all", "a node more", "an edge less", "a type", "a function", "a grid",
                                       "a width", "a height"};
    for (int way = 0; way < 9; way++) {
        for (int old = 0; old < 2; old++) {
            CUgraph graphs[2];
            CUgraphNode nodes[2][3];
            CUgraphExec exec;
            for (int i = 0; i < 2; i++) {
                int differs = i == 1 ? way : 0;
                size_t len = 2;
                struct kernel_params kernel = adding(1);
                struct memset_params fill = filling(1);
                kernel.grid[0] = differs == 6 ? 1 : N / 64;
                fill.width = differs == 7 ? N / 2 : differs == 8 ? N / 4 : N;
                fill.height = differs == 8 ? 2 : 1;
                fill.pitch = differs == 8 ? N : 0;
                if (differs == 5)
                    kernel.function = kernel_of(module, "null_kernel");
                NEED(cuGraphCreate(&graphs[i], 0));
                if (differs == 1) {
                    NEED(cuGraphAddEmptyNode(&nodes[i][0], graphs[i], NULL, 0));
                    continue;
                }
                if (differs == 4)
                    NEED(cuGraphAddMemsetNode(&nodes[i][0], graphs[i], NULL, 0, &fill, context));
                else
                    NEED(cuGraphAddKernelNode_v2(&nodes[i][0], graphs[i], NULL, 0, &kernel));
                NEED(cuGraphAddMemsetNode(&nodes[i][1], graphs[i], &nodes[i][0], differs != 3, &fill, context));
                if (differs == 2)
                    NEED(cuGraphAddEmptyNode(&nodes[i][len++], graphs[i], &nodes[i][1], 1));
            }
            say("what differs: %s", ways[way]);
            NEED(cuGraphInstantiateWithFlags(&exec, graphs[0], 0));
            struct update_info info = {.result = 99, .error_node = nodes[0][0]};
            if (old)
                TELL(cuGraphExecUpdate(exec, graphs[1], &info.error_node, &info.result));
            else
                TELL(cuGraphExecUpdate_v2(exec, graphs[1], &info));
            const char *node = info.error_node == NULL            ? "none"
                               : info.error_node == nodes[1][0]   ? "the first"
                               : info.error_node == nodes[1][1]   ? "the second"
                                                                  : "another";
            say("why: %d, because of: %s, of: %d", info.result, node, info.error_from != NULL);
            if (old)
                TELL(cuGraphExecUpdate(exec, graphs[1], NULL, NULL));
            NEED(cuGraphExecDestroy(exec));
            NEED(cuGraphDestroy(graphs[0]));
            NEED(cuGraphDestroy(graphs[1]));
        }
    }
}

static void memory_in_graphs(void) {
    with_memory();
    CUgraph graph;
    CUgraphNode alloc, fill, copy, end;
    CUdeviceptr told = 0;
    NEED(cuGraphCreate(&graph, 0));
    struct node_params params = {.type = MEM_ALLOC,
                                 .alloc = {.type = 1, .location_type = 1, .location = 0, .bytes = N * sizeof(uint32_t)}};
    TELL(cuGraphAddNode_v2(&alloc, graph, NULL, NULL, 0, &params));
    CUdeviceptr inner = params.alloc.pointer;
    say("an address: %d", inner != 0);
    struct memset_params eight = filling(8);
    eight.to = inner;
    TELL(cuGraphAddMemsetNode(&fill, graph, &alloc, 1, &eight, context));
    struct copy_params out = copying();
    out.from.device = inner;
    TELL(cuGraphAddMemcpyNode(&copy, graph, &fill, 1, &out, context));
    struct node_params freed = {.type = MEM_FREE, .free = inner};
    TELL(cuGraphAddNode_v2(&end, graph, &copy, NULL, 1, &freed));
    TELL(cuGraphMemFreeNodeGetParams(end, &told));
    say("the address: %d", told == inner);
    describe("with memory", graph);
    launch(graph);
    say("the copy says %u", pinned[N - 1]);
    TELL(cuGraphDestroy(graph));
}

// A 32-bit and a 64-bit write.
static CUstreamBatchMemOpParams writes[2];
static struct words_params writing(uint32_t small, uint64_t large) {
    memset(writes, 0, sizeof writes);
    writes[0].word.operation = 2;
    writes[0].word.address = numbers;
    writes[0].word.value = small;
    writes[1].word.operation = 5;
    writes[1].word.address = numbers + 8;
    writes[1].word.value64 = large;
    return (struct words_params){.context = context, .count = 2, .operations = writes};
}

static void read_words(const char *when) {
    uint32_t got[4];
    NEED(cuCtxSynchronize());
    NEED(cuMemcpyDtoH_v2(got, numbers, sizeof got));
    say("%s: %u, %u, %u, %u", when, got[0], got[1], got[2], got[3]);
}

static void words_in_graphs(void) {
    with_memory();
    CUgraph graph;
    CUgraphExec exec;
    CUgraphNode write, wait, fill;
    unsigned type = 99;
    NEED(cuGraphCreate(&graph, 0));
    struct memset_params nine = filling(9);
    struct words_params params = writing(7, 1ull << 32 | 5), got = {0};
    TELL(cuGraphAddMemsetNode(&fill, graph, NULL, 0, &nine, context));
    TELL(cuGraphAddBatchMemOpNode(&write, graph, &fill, 1, &params));
    TELL_VALUE(cuGraphNodeGetType(write, &type), type);
    // A wait for what was just written is over at once.
    CUstreamBatchMemOpParams is_seven = {0};
    is_seven.word.operation = 1;
    is_seven.word.address = numbers;
    is_seven.word.value = 7;
    is_seven.word.flags = 1;
    struct node_params waiting = {.type = 12, .words_of = {.context = context, .count = 1, .operations = &is_seven}};
    TELL(cuGraphAddNode_v2(&wait, graph, &write, NULL, 1, &waiting));
    describe("with words", graph);
    TELL_VALUE(cuGraphBatchMemOpNodeGetParams(write, &got), got.count);
    say("its context is the same: %d, its operations: %u to the first word, %u to the third, values %llu and %llu", got.context == context,
        got.operations[0].operation, got.operations[1].operation, (unsigned long long)got.operations[0].word.value,
        (unsigned long long)got.operations[1].word.value64);
    say("their words: %d", got.operations[0].word.address == numbers && got.operations[1].word.address == numbers + 8);
    TELL(cuGraphInstantiateWithFlags(&exec, graph, 0));
    NEED(cuGraphLaunch(exec, stream));
    read_words("written");
    params = writing(7, 3);
    TELL(cuGraphExecBatchMemOpNodeSetParams(exec, write, &params));
    NEED(cuGraphLaunch(exec, stream));
    read_words("written otherwise");
    params = writing(7, 11);
    TELL(cuGraphBatchMemOpNodeSetParams(write, &params));
    TELL_VALUE(cuGraphBatchMemOpNodeGetParams(write, &got), got.operations[1].word.value64);
    NEED(cuGraphLaunch(exec, stream));
    read_words("the executable graph stays");
    // Wrong ones.
    TELL(cuGraphBatchMemOpNodeGetParams(fill, &got));
    params.count = 0;
    TELL(cuGraphAddBatchMemOpNode(&wait, graph, NULL, 0, &params));
    params = writing(1, 1);
    writes[1].operation = 99;
    TELL(cuGraphAddBatchMemOpNode(&wait, graph, NULL, 0, &params));
    params = writing(1, 1);
    writes[0].word.address += 2;
    TELL(cuGraphAddBatchMemOpNode(&wait, graph, NULL, 0, &params));
    TELL(cuGraphBatchMemOpNodeSetParams(fill, &params));
    describe("still", graph);
    NEED(cuGraphDestroy(graph));
    NEED(cuGraphExecDestroy(exec));
}

static void many_nodes(void) {
    with_memory();
    enum { MANY = 5000 };
    static CUgraphNode nodes[MANY], got[MANY];
    CUgraph graph;
    CUgraphNode last;
    size_t len = MANY, edges = 0;
    NEED(cuGraphCreate(&graph, 0));
    for (int i = 0; i < MANY; i++)
        NEED(cuGraphAddEmptyNode(&nodes[i], graph, NULL, 0));
    TELL(cuGraphAddEmptyNode(&last, graph, nodes, MANY));
    TELL_VALUE(cuGraphNodeGetDependencies(last, got, &len), len);
    TELL(cuGraphGetEdges_v2(graph, NULL, NULL, NULL, &edges));
    say("%zu edges", edges);
    launch(graph);
    TELL(cuGraphDestroy(graph));
}

// A stream that joins a capture may be destroyed before the capture ends; one that has not come back is missed.
static void forked_and_gone(void) {
    with_memory();
    for (int comes_back = 1; comes_back >= 0; comes_back--) {
        CUgraph graph = NULL;
        CUstream other;
        CUevent forks, joins;
        NEED(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
        NEED(cuEventCreate(&forks, CU_EVENT_DISABLE_TIMING));
        NEED(cuEventCreate(&joins, CU_EVENT_DISABLE_TIMING));
        struct kernel_params add = adding(3);
        TELL(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_GLOBAL));
        NEED(cuLaunchKernel(add.function, N / 64, 1, 1, 64, 1, 1, 0, stream, arguments, NULL));
        TELL(cuEventRecord(forks, stream));
        TELL(cuStreamWaitEvent(other, forks, 0));
        NEED(cuLaunchKernel(add.function, N / 64, 1, 1, 64, 1, 1, 0, other, arguments, NULL));
        TELL(cuEventRecord(joins, other));
        if (comes_back)
            TELL(cuStreamWaitEvent(stream, joins, 0));
        TELL(cuStreamDestroy_v2(other));
        TELL(cuEventDestroy_v2(forks));
        TELL(cuEventDestroy_v2(joins));
        TELL(cuStreamEndCapture(stream, &graph));
        say("a graph: %d", graph != NULL);
        if (graph == NULL)
            continue;
        describe("forked", graph);
        launch(graph);
        read_number();
        say("the number is %ld", number);
        TELL(cuGraphDestroy(graph));
    }
}

typedef struct CUlib_st *CUlibrary;
typedef struct CUkern_st *CUkernel;
CUresult cuLibraryLoadData(CUlibrary *library, const void *code, void *options, void *values, unsigned count,
                           void *library_options, void *library_values, unsigned library_count);
CUresult cuLibraryGetKernel(CUkernel *kernel, CUlibrary library, const char *name);
CUresult cuKernelGetFunction(CUfunction *function, CUkernel kernel);

// A library's kernel stays one in graphs, whichever way it came there.
static void kernels_of_libraries(void) {
    with_memory();
    CUlibrary library;
    CUkernel kernel;
    CUfunction plain = kernel_of(module, "increment"), of_kernel;
    NEED(cuLibraryLoadData(&library, kernels_ptx, NULL, NULL, 0, NULL, NULL, 0));
    NEED(cuLibraryGetKernel(&kernel, library, "increment"));
    NEED(cuKernelGetFunction(&of_kernel, kernel));
    for (int how = 0; how < 8; how++) {
        CUgraph graph, clone;
        CUgraphNode node, twin;
        struct kernel_params params = adding(3), got = {0};
        params.function = how == 0 || how == 4 ? plain : how == 2 ? of_kernel : NULL;
        params.kernel = how == 1 || how >= 3 ? kernel : NULL;
        params.context = how == 3 ? context : NULL;
        if (how < 5) {
            NEED(cuGraphCreate(&graph, 0));
            NEED(cuGraphAddKernelNode_v2(&node, graph, NULL, 0, &params));
        } else {
            CUfunction launched = how == 5 ? plain : how == 6 ? (CUfunction)kernel : of_kernel;
            size_t one = 1;
            NEED(cuStreamBeginCapture_v2(stream, 1));
            NEED(cuLaunchKernel(launched, N / 64, 1, 1, 64, 1, 1, 0, stream, arguments, NULL));
            NEED(cuStreamEndCapture(stream, &graph));
            NEED(cuGraphGetNodes(graph, &node, &one));
        }
        NEED(cuGraphClone(&clone, graph));
        NEED(cuGraphNodeFindInClone(&twin, node, clone));
        for (int cloned = 0; cloned < 2; cloned++) {
            TELL(cuGraphKernelNodeGetParams_v2(cloned ? twin : node, &got));
            const char *function = got.function == plain ? "the module's" : got.function == of_kernel ? "the kernel's" : "another";
            const char *told = got.kernel == kernel ? "the kernel" : got.kernel == NULL ? "none" : "another";
            say("way %d, cloned %d: function %s, kernel %s, the context: %d", how, cloned, function, told,
                got.context == context);
        }
    }
}

// Runtimes load code when a kernel of it is launched first, which may be in a capture.
static void code_loaded_in_captures(void) {
    with_memory();
    for (int mode = CU_STREAM_CAPTURE_GLOBAL; mode <= CU_STREAM_CAPTURE_RELAXED; mode++) {
        for (int as_library = 0; as_library < 2; as_library++) {
            CUmodule loaded = NULL;
            CUlibrary library = NULL;
            CUkernel kernel = NULL;
            CUfunction launched = NULL;
            CUgraph graph = NULL;
            CUgraphExec exec = NULL;
            CUresult result;
            say("mode %d, as a library: %d", mode, as_library);
            by = 7;
            NEED(cuMemsetD32_v2(numbers, 1, N));
            NEED(cuCtxSynchronize());
            NEED(cuStreamBeginCapture_v2(stream, mode));
            if (as_library) {
                TELL(result = cuLibraryLoadData(&library, kernels_ptx, NULL, NULL, 0, NULL, NULL, 0));
                TELL(result = result ? result : cuLibraryGetKernel(&kernel, library, "increment"));
                launched = (CUfunction)kernel;
            } else {
                TELL(result = cuModuleLoadData(&loaded, kernels_ptx));
                TELL(result = result ? result : cuModuleGetFunction(&launched, loaded, "increment"));
            }
            if (!result)
                TELL(cuLaunchKernel(launched, N / 64, 1, 1, 64, 1, 1, 0, stream, arguments, NULL));
            TELL(result = cuStreamEndCapture(stream, &graph));
            if (result)
                continue;
            describe("with it", graph);
            NEED(cuGraphInstantiateWithFlags(&exec, graph, 0));
            NEED(cuGraphLaunch(exec, stream));
            NEED(cuStreamSynchronize(stream));
            uint32_t now[N];
            NEED(cuMemcpyDtoH_v2(now, numbers, sizeof now));
            say("numbers: %u to %u", now[0], now[N - 1]);
            NEED(cuGraphExecDestroy(exec));
            NEED(cuGraphDestroy(graph));
            // Another is unloaded in one.
            CUmodule other;
            NEED(cuModuleLoadData(&other, kernels_ptx));
            NEED(cuStreamBeginCapture_v2(stream, mode));
            TELL(cuModuleUnload(other));
            TELL(cuStreamEndCapture(stream, &graph));
        }
    }
}

int main(int argc, char **argv) {
    static const struct section sections[] = {
        SECTION(captures_told), SECTION(dependencies_updated), SECTION(captures_into_graphs), SECTION(instantiating),
        SECTION(captures_not_asked_for), SECTION(a_capture_nobody_wants),
        SECTION(building), SECTION(moving), SECTION(ordinary_memory), SECTION(looking),
        SECTION(captured_nodes), SECTION(edges), SECTION(copies), SECTION(changing_executables),
        SECTION(updates), SECTION(memory_in_graphs), SECTION(many_nodes), SECTION(words_in_graphs),
        SECTION(kernels_of_libraries), SECTION(code_loaded_in_captures), SECTION(forked_and_gone),
    };
    return RUN_SECTIONS(sections);
}
