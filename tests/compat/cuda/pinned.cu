// Pinned memory, copied and mapped; copies overlap with kernels on two streams.
#include "compat.h"

__global__ void twice(float *data, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = data[i] * 2 + 1;
}

int main() {
    const int N = 1 << 16;
    float *in, *out, *mapped, *mapped_device, *work[2];
    CHECK(cudaMallocHost(&in, N * sizeof(float)));
    CHECK(cudaHostAlloc(&out, N * sizeof(float), cudaHostAllocPortable));
    CHECK(cudaHostAlloc(&mapped, N * sizeof(float), cudaHostAllocMapped));
    CHECK(cudaHostGetDevicePointer(&mapped_device, mapped, 0));
    unsigned flags = 0;
    CHECK(cudaHostGetFlags(&flags, mapped));
    save("flags", flags);
    for (int i = 0; i < N; i++) in[i] = mapped[i] = float(i);
    cudaStream_t streams[2];
    for (int s = 0; s < 2; s++) {
        CHECK(cudaStreamCreate(&streams[s]));
        CHECK(cudaMalloc(&work[s], N / 2 * sizeof(float)));
    }
    cudaEvent_t done[2];
    for (int s = 0; s < 2; s++) {
        size_t bytes = N / 2 * sizeof(float);
        CHECK(cudaEventCreate(&done[s]));
        CHECK(cudaMemcpyAsync(work[s], in + s * N / 2, bytes, cudaMemcpyHostToDevice, streams[s]));
        twice<<<N / 2 / 256, 256, 0, streams[s]>>>(work[s], N / 2);
        CHECK(cudaMemcpyAsync(out + s * N / 2, work[s], bytes, cudaMemcpyDeviceToHost, streams[s]));
        CHECK(cudaEventRecord(done[s], streams[s]));
    }
    for (int s = 0; s < 2; s++) CHECK(cudaEventSynchronize(done[s]));
    for (int i = 0; i < N; i++) EXPECT(out[i] == i * 2.0f + 1);
    twice<<<N / 256, 256>>>(mapped_device, N);
    CHECK(cudaDeviceSynchronize());
    for (int i = 0; i < N; i++) EXPECT(mapped[i] == i * 2.0f + 1);
    save("mapped", mapped, N);
    CHECK(cudaFreeHost(in));
    CHECK(cudaFreeHost(out));
    CHECK(cudaFreeHost(mapped));
    std::printf("pinned: %d elements right\n", N);
}
