// A graph captured from two streams, launched many times; what may not happen during a capture.
#include "compat.h"

__global__ void step(float *data, int n, float by) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = data[i] * 0.5f + by;
}

int main() {
    const int N = 4096;
    std::vector<float> host = compat::noise(N), out(N);
    float *data = compat::device(host), *other = compat::device(host), *pinned;
    CHECK(cudaMallocHost(&pinned, N * sizeof(float)));
    cudaStream_t stream, side;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    CHECK(cudaStreamCreateWithFlags(&side, cudaStreamNonBlocking));
    cudaEvent_t fork, join;
    CHECK(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming));
    CHECK(cudaEventCreateWithFlags(&join, cudaEventDisableTiming));
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    step<<<N / 256, 256, 0, stream>>>(data, N, 1);
    CHECK(cudaEventRecord(fork, stream));
    CHECK(cudaStreamWaitEvent(side, fork, 0));
    step<<<N / 256, 256, 0, side>>>(other, N, 2);
    CHECK(cudaMemsetAsync(other, 0, 64, side));
    CHECK(cudaEventRecord(join, side));
    step<<<N / 256, 256, 0, stream>>>(data, N, 3);
    CHECK(cudaStreamWaitEvent(stream, join, 0));
    CHECK(cudaMemcpyAsync(pinned, data, N * sizeof(float), cudaMemcpyDeviceToHost, stream));
    cudaGraph_t graph;
    CHECK(cudaStreamEndCapture(stream, &graph));
    size_t nodes = 0, edges = 0;
    CHECK(cudaGraphGetNodes(graph, nullptr, &nodes));
    CHECK(cudaGraphGetEdges(graph, nullptr, nullptr, nullptr, &edges));
    save("nodes", uint64_t(nodes));
    save("edges", uint64_t(edges));
    std::vector<cudaGraphNode_t> list(nodes);
    CHECK(cudaGraphGetNodes(graph, list.data(), &nodes));
    std::vector<int> types;
    for (auto node : list) {
        cudaGraphNodeType type;
        CHECK(cudaGraphNodeGetType(node, &type));
        types.push_back(type);
    }
    save("types", types);
    cudaGraphExec_t exec;
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaGraphUpload(exec, stream));
    for (int i = 0; i < 50; i++) CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    save("data", compat::fetch(data, N));
    save("other", compat::fetch(other, N));
    save("pinned", pinned, N);
    CHECK(cudaGraphExecDestroy(exec));

    // What is not allowed says so, and ends the capture.
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    save("synchronise", cudaStreamSynchronize(stream));
    cudaStreamCaptureStatus status;
    CHECK(cudaStreamIsCapturing(stream, &status));
    save("status", int(status));
    save("end", cudaStreamEndCapture(stream, &graph));
    cudaGetLastError();
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    float *fresh;
    save("malloc in global mode", cudaMalloc(&fresh, 100));
    save("end of it", cudaStreamEndCapture(stream, &graph));
    cudaGetLastError();
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    save("malloc in relaxed mode", cudaMalloc(&fresh, 100));
    save("end of that", cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphDestroy(graph));
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    save("begun twice", cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    cudaStreamEndCapture(stream, &graph);
    cudaGetLastError();
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    CHECK(cudaEventRecord(fork, stream));
    CHECK(cudaStreamWaitEvent(side, fork, 0));
    step<<<1, 32, 0, side>>>(other, 32, 0);
    save("not joined", cudaStreamEndCapture(stream, &graph));
    cudaGetLastError();
    CHECK(cudaStreamSynchronize(stream));
    step<<<1, 32, 0, side>>>(other, 32, 0);
    CHECK(cudaStreamSynchronize(side));
    save("ended", cudaStreamEndCapture(stream, &graph));
    cudaGetLastError();
    std::printf("graph_capture: done\n");
}
