// Launches of all kinds: large parameters, structures, many at once, programmatic dependence, attributes, grids in three dimensions.
// compat: toolkit 12.0
#include "compat.h"

struct Large {
    int values[1000];
};
struct alignas(16) Mixed {
    char letter;
    double number;
    short few[3];
    float4 four;
};

__global__ void sum(const __grid_constant__ Large all, int *out) {
    int total = 0;
    for (int i = threadIdx.x; i < 1000; i += blockDim.x) total += all.values[i];
    atomicAdd(out, total);
}
__global__ void mixed(char c, Mixed m, short s, double *out, bool b, long long l) {
    out[0] = c + m.letter + m.number + m.few[2] + m.four.w + s + (b ? 0.5 : 0) + double(l);
}
__global__ void where(int *out) {
    int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    out[block * blockDim.x * blockDim.y * blockDim.z + thread] = blockIdx.z * 100 + threadIdx.z;
}
__global__ void one_more(int *p) { atomicAdd(p, 1); }
__global__ void first(int *data, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = i;
    cudaTriggerProgrammaticLaunchCompletion();
}
__global__ void second(int *data, int n) {
    cudaGridDependencySynchronize();
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = data[i] * 2 + 1;
}

int main() {
    Large large;
    int expected = 0;
    for (int i = 0; i < 1000; i++) expected += large.values[i] = i * i % 97;
    int *out = compat::zeros<int>(1);
    sum<<<1, 64>>>(large, out);
    // The parameters are taken when it is launched.
    std::memset(&large, 0xff, sizeof large);
    EXPECT(compat::fetch(out, 1)[0] == expected);
    double *number = compat::zeros<double>(1);
    Mixed m = {'a', 2.25, {1, 2, 3}, {1, 2, 3, 4}};
    mixed<<<1, 1>>>('b', m, -7, number, true, 1ll << 40);
    double value = compat::fetch(number, 1)[0];
    EXPECT(value == 'b' + 'a' + 2.25 + 3 + 4 - 7 + 0.5 + double(1ll << 40));
    int *places = compat::zeros<int>(3 * 4 * 5 * 2 * 3 * 7);
    where<<<dim3(3, 4, 5), dim3(2, 3, 7)>>>(places);
    save("places", compat::fetch(places, 3 * 4 * 5 * 2 * 3 * 7));
    // More than fit into any queue.
    int *counter = compat::zeros<int>(1);
    for (int i = 0; i < 20000; i++) one_more<<<1, 1>>>(counter);
    CHECK(cudaGetLastError());
    EXPECT(compat::fetch(counter, 1)[0] == 20000);
    one_more<<<1000000, 32>>>(counter);
    EXPECT(compat::fetch(counter, 1)[0] == 20000 + 32000000);

    const int N = 1 << 16;
    int *data = compat::zeros<int>(N);
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    for (int round = 0; round < 20; round++) {
        first<<<N / 256, 256, 0, stream>>>(data, N);
        cudaLaunchConfig_t config = {};
        cudaLaunchAttribute attributes[2];
        attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[0].val.programmaticStreamSerializationAllowed = 1;
        attributes[1].id = cudaLaunchAttributePriority;
        attributes[1].val.priority = -1;
        config.gridDim = dim3(N / 256);
        config.blockDim = dim3(256);
        config.stream = stream;
        config.attrs = attributes;
        config.numAttrs = 2;
        CHECK(cudaLaunchKernelEx(&config, second, data, N));
    }
    CHECK(cudaStreamSynchronize(stream));
    std::vector<int> found = compat::fetch(data, N);
    for (int i = 0; i < N; i++) EXPECT(found[i] == 2 * i + 1);
    std::printf("launches: done\n");
}
