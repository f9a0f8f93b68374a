// Allocations in the order of a stream while it is captured; objects that a graph keeps; the graph of a capture that goes on.
#include "compat.h"

__global__ void fill(int *data, int n, int by) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = by * i;
}

static int destroyed = 0;

int main() {
    const int N = 10000;
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    int *out = compat::zeros<int>(N), *a;
    cudaGraph_t graph;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    CHECK(cudaMallocAsync(&a, N * sizeof(int), stream));
    fill<<<(N + 255) / 256, 256, 0, stream>>>(a, N, 3);
    CHECK(cudaMemcpyAsync(out, a, N * sizeof(int), cudaMemcpyDeviceToDevice, stream));
    CHECK(cudaFreeAsync(a, stream));
    cudaStreamCaptureStatus status;
    unsigned long long id = 0;
    cudaGraph_t going;
    const cudaGraphNode_t *last;
    size_t count;
    CHECK(cudaStreamGetCaptureInfo(stream, &status, &id, &going, &last, nullptr, &count));
    EXPECT(status == cudaStreamCaptureStatusActive && id != 0 && count == 1);
    // A node put into the graph by hand, behind which the capture goes on.
    cudaGraphNode_t by_hand;
    cudaMemsetParams params = {};
    params.dst = out + 5;
    params.value = 77;
    params.elementSize = 4;
    params.width = 3;
    params.height = 1;
    CHECK(cudaGraphAddMemsetNode(&by_hand, going, last, count, &params));
    CHECK(cudaStreamUpdateCaptureDependencies(stream, &by_hand, nullptr, 1, cudaStreamSetCaptureDependencies));
    CHECK(cudaMemsetAsync(out, 1, 4, stream));
    CHECK(cudaStreamEndCapture(stream, &graph));
    cudaUserObject_t object;
    CHECK(cudaUserObjectCreate(&object, &destroyed, [](void *flag) { ++*(int *)flag; }, 1, cudaUserObjectNoDestructorSync));
    CHECK(cudaGraphRetainUserObject(graph, object, 1, cudaGraphUserObjectMove));
    cudaGraphExec_t exec;
    CHECK(cudaGraphInstantiateWithFlags(&exec, graph, cudaGraphInstantiateFlagAutoFreeOnLaunch));
    for (int i = 0; i < 4; i++) CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    std::vector<int> found = compat::fetch(out, N);
    EXPECT(found[0] == 0x01010101);
    EXPECT(found[5] == 77 && found[7] == 77 && found[8] == 24);
    save("out", found);
    CHECK(cudaGraphExecDestroy(exec));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaDeviceSynchronize());
    for (int i = 0; i < 100 && !*(volatile int *)&destroyed; i++) usleep(20000);
    EXPECT(destroyed == 1);
    std::printf("graph_alloc: done\n");
}
