// Variables of the device: written, read, found by their addresses; constant memory.
#include "compat.h"

__constant__ float coefficients[16];
__device__ int counter = 5;
__device__ double table[100];
__device__ int *pointer;

__global__ void evaluate(float *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    float x = i * 0.01f, y = 0;
    for (int k = 15; k >= 0; k--) y = y * x + coefficients[k];
    out[i] = y;
    if (i < 100) table[i] = i * 0.5;
    atomicAdd(&counter, 1);
    if (i == 0) *pointer = 42;
}

int main() {
    const int N = 1000;
    float host[16];
    for (int k = 0; k < 16; k++) host[k] = 1.0f / (k + 1);
    CHECK(cudaMemcpyToSymbol(coefficients, host, sizeof host));
    CHECK(cudaMemcpyToSymbol(coefficients, &host[3], sizeof(float), 2 * sizeof(float)));
    int *target = compat::zeros<int>(1);
    CHECK(cudaMemcpyToSymbol(pointer, &target, sizeof target));
    float *out = compat::zeros<float>(N);
    evaluate<<<(N + 127) / 128, 128>>>(out, N);
    CHECK(cudaGetLastError());
    int count = 0;
    CHECK(cudaMemcpyFromSymbol(&count, counter, sizeof count));
    EXPECT(count == 5 + N);
    std::vector<double> values(100);
    CHECK(cudaMemcpyFromSymbol(values.data(), table, 100 * sizeof(double)));
    EXPECT(values[99] == 49.5);
    void *address = nullptr;
    size_t size = 0;
    CHECK(cudaGetSymbolAddress(&address, table));
    CHECK(cudaGetSymbolSize(&size, table));
    EXPECT(size == 100 * sizeof(double));
    double direct = 0;
    CHECK(cudaMemcpy(&direct, (char *)address + 8 * sizeof(double), sizeof direct, cudaMemcpyDeviceToHost));
    EXPECT(direct == 4.0);
    EXPECT(compat::fetch(target, 1)[0] == 42);
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    count = 77;
    CHECK(cudaMemcpyToSymbolAsync(counter, &count, sizeof count, 0, cudaMemcpyHostToDevice, stream));
    int again = 0;
    CHECK(cudaMemcpyFromSymbolAsync(&again, counter, sizeof again, 0, cudaMemcpyDeviceToHost, stream));
    CHECK(cudaStreamSynchronize(stream));
    EXPECT(again == 77);
    save("out", compat::fetch(out, N));
    save("table", values);
    std::printf("symbols: %d values right\n", N);
}
