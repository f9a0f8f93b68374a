// Wrong calls: what each says, and what of it is left for cudaGetLastError.
#include "compat.h"

__global__ void nothing(int *p) {
    if (p) *p = 1;
}
__global__ void __launch_bounds__(64) narrow(int *p) { p[threadIdx.x] = 1; }

static void told(const std::string &name, cudaError_t status) {
    save(name, status);
    save(name + ": peek", cudaPeekAtLastError());
    save(name + ": last", cudaGetLastError());
    save(name + ": then", cudaGetLastError());
}

int main() {
    int *memory = compat::zeros<int>(64);
    void *out;
    nothing<<<0, 1>>>(memory);
    told("no blocks", cudaSuccess);
    nothing<<<1, 0>>>(memory);
    told("no threads", cudaSuccess);
    nothing<<<1, 1025>>>(memory);
    told("too many threads", cudaSuccess);
    nothing<<<1, dim3(1, 1, 65)>>>(memory);
    told("too many in z", cudaSuccess);
    nothing<<<dim3(1, 65536), 1>>>(memory);
    told("too many blocks in y", cudaSuccess);
    nothing<<<1, 1, 1 << 20>>>(memory);
    told("too much shared memory", cudaSuccess);
    narrow<<<1, 65>>>(memory);
    told("beyond the bounds", cudaSuccess);
    CHECK(cudaDeviceSynchronize());
    told("malloc of too much", cudaMalloc(&out, size_t(1) << 48));
    told("malloc to nowhere", cudaMalloc((void **)nullptr, 10));
    out = (void *)1;
    told("malloc of nothing", cudaMalloc(&out, 0));
    save("is null", int(out == nullptr));
    told("free of nothing", cudaFree(nullptr));
    told("free inside", cudaFree((char *)memory + 4));
    told("free of the stack", cudaFree(&memory));
    told("free host", cudaFreeHost(memory));
    int *twice;
    CHECK(cudaMalloc(&twice, 100));
    CHECK(cudaFree(twice));
    told("free twice", cudaFree(twice));
    char host[1024] = {};
    told("copy of too much", cudaMemcpy(memory, memory, size_t(1) << 40, cudaMemcpyDeviceToDevice));
    told("copy from null", cudaMemcpy(memory, nullptr, 10, cudaMemcpyHostToDevice));
    told("fill of host memory", cudaMemset(host, 0, 10));
    told("synchronise nothing", cudaEventSynchronize(nullptr));
    cudaEvent_t event, untimed;
    CHECK(cudaEventCreate(&event));
    CHECK(cudaEventCreateWithFlags(&untimed, cudaEventDisableTiming));
    float ms;
    told("never recorded", cudaEventElapsedTime(&ms, event, event));
    told("query, never recorded", cudaEventQuery(event));
    CHECK(cudaEventRecord(event));
    CHECK(cudaEventRecord(untimed));
    told("without times", cudaEventElapsedTime(&ms, event, untimed));
    told("event flags", cudaEventCreateWithFlags(&event, 0x100));
    cudaStream_t stream;
    told("stream flags", cudaStreamCreateWithFlags(&stream, 0x80));
    told("device", cudaSetDevice(1000));
    told("attributes of no kernel", cudaFuncGetAttributes((cudaFuncAttributes *)host, (const void *)host));
    void *arguments[] = {&memory};
    told("launch of no kernel", cudaLaunchKernel((const void *)host, dim3(1), dim3(1), arguments, 0, 0));
    told("symbol", cudaMemcpyToSymbol(host, host, 4));
    cudaGraph_t graph;
    told("graph flags", cudaGraphCreate(&graph, 7));
    told("end of no capture", cudaStreamEndCapture(cudaStreamPerThread, &graph));
    told("capture of the legacy stream", cudaStreamBeginCapture(cudaStreamLegacy, cudaStreamCaptureModeGlobal));
    told("register of nothing", cudaHostRegister(nullptr, 10, 0));
    told("register of device memory", cudaHostRegister(memory, 64, 0));
    told("limit", cudaDeviceSetLimit(cudaLimit(99), 1));
    for (int code : {0, 1, 2, 3, 9, 35, 46, 98, 100, 101, 201, 209, 400, 600, 700, 710, 719, 720, 801, 900, 999, 12345}) {
        save("name " + std::to_string(code), cudaGetErrorName(cudaError_t(code)));
        save("text " + std::to_string(code), cudaGetErrorString(cudaError_t(code)));
    }
    nothing<<<1, 1>>>(memory);
    CHECK(cudaDeviceSynchronize());
    EXPECT(compat::fetch(memory, 1)[0] == 1);
    std::printf("errors: done\n");
}
