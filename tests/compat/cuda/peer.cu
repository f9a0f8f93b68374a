// Two GPUs: copies between them, and a kernel that reads the other's memory.
#include "compat.h"

__global__ void twice(const int *in, int *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = in[i] * 2;
}

int main() {
    int count = 0;
    CHECK(cudaGetDeviceCount(&count));
    if (count < 2) compat::skip("there is one GPU");
    const int N = 10000;
    std::vector<int> host(N);
    for (int i = 0; i < N; i++) host[i] = i * 3;
    CHECK(cudaSetDevice(0));
    int *first = compat::device(host);
    CHECK(cudaSetDevice(1));
    int *second = compat::zeros<int>(N);
    CHECK(cudaMemcpyPeer(second, 1, first, 0, N * sizeof(int)));
    EXPECT(compat::fetch(second, N) == host);
    int can = 0;
    CHECK(cudaDeviceCanAccessPeer(&can, 1, 0));
    save("can", can);
    if (can) {
        CHECK(cudaDeviceEnablePeerAccess(0, 0));
        save("twice", cudaDeviceEnablePeerAccess(0, 0));
        cudaGetLastError();
        twice<<<(N + 255) / 256, 256>>>(first, second, N);
        CHECK(cudaDeviceSynchronize());
        save("read", compat::fetch(second, N));
        CHECK(cudaDeviceDisablePeerAccess(0));
    }
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    CHECK(cudaMemcpyPeerAsync(first, 0, second, 1, N * sizeof(int), stream));
    CHECK(cudaStreamSynchronize(stream));
    save("back", compat::fetch(first, N));
    cudaEvent_t event;
    CHECK(cudaEventCreate(&event));
    CHECK(cudaEventRecord(event, stream));
    CHECK(cudaSetDevice(0));
    CHECK(cudaStreamWaitEvent(0, event, 0));
    CHECK(cudaDeviceSynchronize());
    std::printf("peer: done\n");
}
