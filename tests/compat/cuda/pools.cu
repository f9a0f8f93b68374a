// Memory in the order of a stream: the device's pool, one's own, reuse, attributes, trimming.
#include "compat.h"

__global__ void fill(int *data, int n, int value) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = value + i;
}

int main() {
    const int N = 1 << 18;
    cudaStream_t one, other;
    CHECK(cudaStreamCreate(&one));
    CHECK(cudaStreamCreate(&other));
    int *a, *b;
    CHECK(cudaMallocAsync(&a, N * sizeof(int), one));
    fill<<<N / 256, 256, 0, one>>>(a, N, 1);
    std::vector<int> host(N);
    CHECK(cudaMemcpyAsync(host.data(), a, N * sizeof(int), cudaMemcpyDeviceToHost, one));
    CHECK(cudaFreeAsync(a, one));
    CHECK(cudaMallocAsync(&b, N * sizeof(int), one));
    fill<<<N / 256, 256, 0, one>>>(b, N, 7);
    cudaEvent_t event;
    CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    CHECK(cudaEventRecord(event, one));
    CHECK(cudaStreamWaitEvent(other, event, 0));
    std::vector<int> second(N);
    CHECK(cudaMemcpyAsync(second.data(), b, N * sizeof(int), cudaMemcpyDeviceToHost, other));
    CHECK(cudaFreeAsync(b, other));
    CHECK(cudaStreamSynchronize(one));
    CHECK(cudaStreamSynchronize(other));
    EXPECT(host[N - 1] == N && second[0] == 7);

    cudaMemPool_t pool, own;
    CHECK(cudaDeviceGetDefaultMemPool(&pool, 0));
    uint64_t threshold = 0, used = 1, reserved = 0;
    CHECK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
    save("threshold", threshold);
    threshold = UINT64_MAX;
    CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
    CHECK(cudaMallocAsync(&a, 64 << 20, one));
    CHECK(cudaStreamSynchronize(one));
    CHECK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used));
    CHECK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved));
    save("used", used);
    save("reserved", reserved);
    CHECK(cudaFreeAsync(a, one));
    CHECK(cudaStreamSynchronize(one));
    CHECK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used));
    save("used after", used);
    CHECK(cudaMemPoolTrimTo(pool, 0));
    CHECK(cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved));
    save("reserved after", reserved);

    cudaMemPoolProps wanted = {};
    wanted.allocType = cudaMemAllocationTypePinned;
    wanted.location.type = cudaMemLocationTypeDevice;
#if CUDART_VERSION >= 12020
    wanted.maxSize = 256 << 20;
#endif
    CHECK(cudaMemPoolCreate(&own, &wanted));
    int follow = 0;
    CHECK(cudaMemPoolSetAttribute(own, cudaMemPoolReuseFollowEventDependencies, &follow));
    follow = 1;
    CHECK(cudaMemPoolGetAttribute(own, cudaMemPoolReuseFollowEventDependencies, &follow));
    save("follow", follow);
    CHECK(cudaMallocFromPoolAsync(&a, N * sizeof(int), own, one));
    fill<<<N / 256, 256, 0, one>>>(a, N, 3);
    CHECK(cudaMemcpyAsync(host.data(), a, N * sizeof(int), cudaMemcpyDeviceToHost, one));
    CHECK(cudaFreeAsync(a, one));
    CHECK(cudaStreamSynchronize(one));
    save("own", host);
    save("more than the pool may have", cudaMallocFromPoolAsync(&a, size_t(1) << 40, own, one));
    cudaGetLastError();
    CHECK(cudaDeviceSetMemPool(0, own));
    cudaMemPool_t current;
    CHECK(cudaDeviceGetMemPool(&current, 0));
    EXPECT(current == own);
    CHECK(cudaMallocAsync(&a, 1000, one));
    // Freed the ordinary way, too.
    CHECK(cudaStreamSynchronize(one));
    CHECK(cudaFree(a));
    CHECK(cudaMalloc(&a, 1000));
    save("ordinary memory, in order", cudaFreeAsync(a, one));
    cudaGetLastError();
    CHECK(cudaDeviceSetMemPool(0, pool));
    CHECK(cudaMemPoolDestroy(own));

    // A program that allocates in every step.
    int *many[64];
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 64; i++) {
            CHECK(cudaMallocAsync(&many[i], 4096 * (1 + i % 5), one));
            fill<<<1, 256, 0, one>>>(many[i], 256, i + round);
        }
        for (int i = 0; i < 64; i++) CHECK(cudaFreeAsync(many[(i * 37) % 64], one));
    }
    CHECK(cudaStreamSynchronize(one));
    std::printf("pools: done\n");
}
