// Sums through shared memory, warp shuffles and atomics.
#include "compat.h"

__global__ void by_shared(const int *in, int n, int *out) {
    __shared__ int part[256];
    int sum = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) sum += in[i];
    part[threadIdx.x] = sum;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) atomicAdd(out, part[0]);
}

__global__ void by_shuffle(const int *in, int n, int *out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    int value = i < n ? in[i] : 0;
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_down_sync(0xffffffff, value, offset);
    if (threadIdx.x % 32 == 0) atomicAdd(out, value);
}

__global__ void histogram(const int *in, int n, unsigned *bins) {
    extern __shared__ unsigned local[];
    if (threadIdx.x < 64) local[threadIdx.x] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) atomicAdd(&local[in[i] & 63], 1);
    __syncthreads();
    if (threadIdx.x < 64) atomicAdd(&bins[threadIdx.x], local[threadIdx.x]);
}

int main() {
    const int N = 100000;
    std::vector<int> in(N);
    int expected = 0;
    std::vector<unsigned> counts(64);
    for (int i = 0; i < N; i++) {
        in[i] = (i * 7919) % 1000 - 400;
        expected += in[i];
        counts[in[i] & 63]++;
    }
    int *data = compat::device(in), *sums = compat::zeros<int>(2);
    unsigned *bins = compat::zeros<unsigned>(64);
    by_shared<<<32, 256>>>(data, N, sums);
    by_shuffle<<<(N + 255) / 256, 256>>>(data, N, sums + 1);
    histogram<<<16, 128, 64 * sizeof(unsigned)>>>(data, N, bins);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
    std::vector<int> found = compat::fetch(sums, 2);
    EXPECT(found[0] == expected);
    EXPECT(found[1] == expected);
    std::vector<unsigned> binned = compat::fetch(bins, 64);
    EXPECT(binned == counts);
    save("sums", found);
    save("bins", binned);
    std::printf("reduce: the sum of %d elements right\n", N);
}
