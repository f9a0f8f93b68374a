// compat: toolkit 12.0
// compat: nvcc -rdc=true -lcudadevrt
// Kernels that launch kernels.
#include "compat.h"

__global__ void leaf(int *data, int from, int n, int depth) {
    int i = threadIdx.x + blockIdx.x * blockDim.x;
    if (i < n) atomicAdd(&data[from + i], depth);
}

__global__ void tree(int *data, int from, int n, int depth) {
    if (threadIdx.x) return;
    leaf<<<(n + 63) / 64, 64>>>(data, from, n, depth);
    if (depth > 1) {
        tree<<<1, 32>>>(data, from, n / 2, depth - 1);
        tree<<<1, 32>>>(data, from + n / 2, n - n / 2, depth - 1);
    }
}

__global__ void tail(int *flag) { *flag += 100; }
__global__ void parent(int *flag) {
    *flag = 1;
    tail<<<1, 1, 0, cudaStreamTailLaunch>>>(flag);
    *flag = 2;
}

int main() {
    const int N = 1000;
    int *data = compat::zeros<int>(N + 1);
    tree<<<1, 32>>>(data, 0, N, 5);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
    std::vector<int> found = compat::fetch(data, N);
    for (int value : found) EXPECT(value == 15);
    parent<<<1, 1>>>(data + N);
    CHECK(cudaDeviceSynchronize());
    EXPECT(compat::fetch(data + N, 1)[0] == 102);
    save("data", found);
    std::printf("dynamic_parallelism: done\n");
}
