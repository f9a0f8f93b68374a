// Graphs built of nodes: kernels, copies, fills, host functions, child graphs, events, memory; changed and updated.
#include "compat.h"

__global__ void add(int *data, int n, int by) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] += by;
}

static void CUDART_CB count(void *data) { ++*(int *)data; }

static cudaKernelNodeParams kernel(void **arguments, int n) {
    cudaKernelNodeParams node = {};
    node.func = (void *)add;
    node.gridDim = dim3((n + 127) / 128);
    node.blockDim = dim3(128);
    node.kernelParams = arguments;
    return node;
}

int main() {
    int N = 1000, one = 1, ten = 10, hundred = 100, called = 0;
    int *data = compat::zeros<int>(N);
    std::vector<int> out(N);
    cudaGraph_t graph, child, clone;
    cudaGraphNode_t clear, first, second, copy, call, inner, inside, record, wait;
    CHECK(cudaGraphCreate(&graph, 0));
    cudaMemsetParams fill = {};
    fill.dst = data;
    fill.value = 5;
    fill.elementSize = 4;
    fill.width = N;
    fill.height = 1;
    CHECK(cudaGraphAddMemsetNode(&clear, graph, nullptr, 0, &fill));
    void *arguments[] = {&data, &N, &one};
    cudaKernelNodeParams node = kernel(arguments, N);
    CHECK(cudaGraphAddKernelNode(&first, graph, &clear, 1, &node));
    CHECK(cudaGraphCreate(&child, 0));
    void *of_child[] = {&data, &N, &hundred};
    node = kernel(of_child, N);
    CHECK(cudaGraphAddKernelNode(&inside, child, nullptr, 0, &node));
    CHECK(cudaGraphAddChildGraphNode(&inner, graph, &first, 1, child));
    cudaHostNodeParams host = {count, &called};
    CHECK(cudaGraphAddHostNode(&call, graph, &inner, 1, &host));
    void *of_second[] = {&data, &N, &ten};
    node = kernel(of_second, N);
    CHECK(cudaGraphAddKernelNode(&second, graph, &inner, 1, &node));
    cudaEvent_t event;
    CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    CHECK(cudaGraphAddEventRecordNode(&record, graph, &second, 1, event));
    CHECK(cudaGraphAddEventWaitNode(&wait, graph, &record, 1, event));
    cudaGraphNode_t both[] = {wait, call};
    CHECK(cudaGraphAddMemcpyNode1D(&copy, graph, both, 2, out.data(), data, N * sizeof(int), cudaMemcpyDeviceToHost));
    cudaGraphNode_t empty;
    CHECK(cudaGraphAddEmptyNode(&empty, graph, &copy, 1));
    CHECK(cudaGraphClone(&clone, graph));
    cudaGraphNode_t of_clone;
    CHECK(cudaGraphNodeFindInClone(&of_clone, second, clone));
    size_t dependencies = 0;
    CHECK(cudaGraphNodeGetDependencies(copy, nullptr, nullptr, &dependencies));
    save("dependencies", uint64_t(dependencies));

    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    cudaGraphExec_t exec;
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    for (int i = 0; i < 3; i++) CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    EXPECT(called == 3);
    for (int value : out) EXPECT(value == 116);

    // Other arguments for a node of the executable graph; a node switched off; another fill.
    int thousand = 1000;
    void *others[] = {&data, &N, &thousand};
    node = kernel(others, N);
    CHECK(cudaGraphExecKernelNodeSetParams(exec, second, &node));
    CHECK(cudaGraphNodeSetEnabled(exec, first, 0));
    unsigned enabled = 1;
    CHECK(cudaGraphNodeGetEnabled(exec, first, &enabled));
    EXPECT(enabled == 0);
    fill.value = 7;
    CHECK(cudaGraphExecMemsetNodeSetParams(exec, clear, &fill));
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    for (int value : out) EXPECT(value == 7 + 100 + 1000);
    save("changed", out);

    // The whole executable graph updated from another graph.
    int minus = -4;
    void *negative[] = {&data, &N, &minus};
    node = kernel(negative, N);
    CHECK(cudaGraphKernelNodeSetParams(of_clone, &node));
    cudaKernelNodeParams told = {};
    CHECK(cudaGraphKernelNodeGetParams(of_clone, &told));
    EXPECT(told.gridDim.x == 8 && told.blockDim.x == 128 && *(int *)told.kernelParams[2] == -4);
    cudaGraphExecUpdateResultInfo result = {};
    CHECK(cudaGraphExecUpdate(exec, clone, &result));
    save("update", int(result.result));
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    save("updated", out);

    // One whose shape is another cannot be taken.
    cudaGraph_t different;
    CHECK(cudaGraphCreate(&different, 0));
    CHECK(cudaGraphAddEmptyNode(&empty, different, nullptr, 0));
    save("another shape", cudaGraphExecUpdate(exec, different, &result));
    save("why", int(result.result));
    cudaGetLastError();
    cudaGraphNode_t loop;
    save("another's node", cudaGraphAddEmptyNode(&loop, different, &copy, 1));
    cudaGetLastError();
    CHECK(cudaGraphExecDestroy(exec));

    // Memory of the graph's own.
    cudaGraph_t memory;
    CHECK(cudaGraphCreate(&memory, 0));
    cudaMemAllocNodeParams allocate = {};
    allocate.poolProps.allocType = cudaMemAllocationTypePinned;
    allocate.poolProps.location = {cudaMemLocationTypeDevice, 0};
    allocate.bytesize = N * sizeof(int);
    cudaGraphNode_t get, give, set, use, fetch;
    CHECK(cudaGraphAddMemAllocNode(&get, memory, nullptr, 0, &allocate));
    int *own = (int *)allocate.dptr;
    fill.dst = own;
    fill.value = 3;
    CHECK(cudaGraphAddMemsetNode(&set, memory, &get, 1, &fill));
    void *of_own[] = {&own, &N, &hundred};
    node = kernel(of_own, N);
    CHECK(cudaGraphAddKernelNode(&use, memory, &set, 1, &node));
    CHECK(cudaGraphAddMemcpyNode1D(&fetch, memory, &use, 1, out.data(), own, N * sizeof(int), cudaMemcpyDeviceToHost));
    CHECK(cudaGraphAddMemFreeNode(&give, memory, &fetch, 1, own));
    CHECK(cudaGraphInstantiate(&exec, memory, 0));
    for (int i = 0; i < 5; i++) CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    for (int value : out) EXPECT(value == 103);
    uint64_t used = 1;
    CHECK(cudaDeviceGetGraphMemAttribute(0, cudaGraphMemAttrUsedMemCurrent, &used));
    save("used", used);
    CHECK(cudaDeviceGraphMemTrim(0));
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(memory));
    CHECK(cudaGraphDestroy(different));
    CHECK(cudaGraphDestroyNode(of_clone));
    CHECK(cudaGraphDestroy(clone));
    CHECK(cudaGraphDestroy(child));
    CHECK(cudaGraphDestroy(graph));
    std::printf("graph_nodes: done\n");
}
