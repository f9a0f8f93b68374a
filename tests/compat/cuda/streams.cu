// compat: variants static shared ptds
// Streams: priorities, flags, ids, the legacy stream's order, capture state, attributes, threads with a stream each.
#include "compat.h"
#include <thread>

__global__ void spin(long long cycles, int *out, int value) {
    long long start = clock64();
    while (clock64() - start < cycles) {
    }
    *out = value;
}
__global__ void copy(const int *from, int *to) { *to = *from + 1; }
__global__ void add(int *data, int n, int by) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] += by;
}

int main() {
    int least = 9, greatest = 9;
    CHECK(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    save("range", std::vector<int>{least, greatest});
    for (int wanted : {least, greatest, greatest - 10, 3}) {
        cudaStream_t stream;
        int priority = 99;
        unsigned flags = 99;
        CHECK(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, wanted));
        CHECK(cudaStreamGetPriority(stream, &priority));
        CHECK(cudaStreamGetFlags(stream, &flags));
        save("priority", priority);
        save("flags", flags);
#if CUDART_VERSION >= 12080
        unsigned long long id = 0;
        CHECK(cudaStreamGetId(stream, &id));
        EXPECT(id != 0);
        int device = -1;
        CHECK(cudaStreamGetDevice(stream, &device));
        EXPECT(device == 0);
#endif
        cudaStreamCaptureStatus status;
        CHECK(cudaStreamIsCapturing(stream, &status));
        EXPECT(status == cudaStreamCaptureStatusNone);
        CHECK(cudaStreamDestroy(stream));
    }

    // The legacy stream waits for blocking streams, and they for it.
    int *memory = compat::zeros<int>(4);
    cudaStream_t blocking, free_one;
    CHECK(cudaStreamCreate(&blocking));
    CHECK(cudaStreamCreateWithFlags(&free_one, cudaStreamNonBlocking));
    spin<<<1, 1, 0, blocking>>>(50000000, memory, 5);
    copy<<<1, 1, 0, cudaStreamLegacy>>>(memory, memory + 1);
    copy<<<1, 1, 0, blocking>>>(memory + 1, memory + 2);
    CHECK(cudaStreamSynchronize(blocking));
    std::vector<int> order = compat::fetch(memory, 3);
    EXPECT(order[1] == 6 && order[2] == 7);
    spin<<<1, 1, 0, free_one>>>(400000000, memory, 8);
    save("query", cudaStreamQuery(free_one));
    cudaEvent_t event;
    CHECK(cudaEventCreate(&event));
    CHECK(cudaEventRecord(event, free_one));
    save("event", cudaEventQuery(event));
    CHECK(cudaEventSynchronize(event));
    CHECK(cudaStreamQuery(free_one));

    cudaStreamAttrValue value = {};
    value.syncPolicy = cudaSyncPolicyYield;
    CHECK(cudaStreamSetAttribute(free_one, cudaStreamAttributeSynchronizationPolicy, &value));
    value = {};
    CHECK(cudaStreamGetAttribute(free_one, cudaStreamAttributeSynchronizationPolicy, &value));
    save("policy", int(value.syncPolicy));
    CHECK(cudaStreamCopyAttributes(blocking, free_one));
    value = {};
    value.accessPolicyWindow = {memory, 4096, 0.6f, cudaAccessPropertyPersisting, cudaAccessPropertyStreaming};
    CHECK(cudaStreamSetAttribute(free_one, cudaStreamAttributeAccessPolicyWindow, &value));
    add<<<1, 4, 0, free_one>>>(memory, 4, 1);
    CHECK(cudaStreamSynchronize(free_one));

    // Threads, each on its default stream (a common one, or its own, as this was compiled) and one of its own.
    const int THREADS = 8, N = 4096;
    std::vector<std::vector<int>> found(THREADS);
    std::vector<std::thread> threads;
    for (int t = 0; t < THREADS; t++) {
        threads.emplace_back([t, &found] {
            int *data = compat::zeros<int>(N);
            cudaStream_t own;
            CHECK(cudaStreamCreate(&own));
            CHECK(cudaStreamSynchronize(0));
            for (int i = 0; i < 100; i++) {
                add<<<N / 256, 256>>>(data, N, t);
                if (i % 10 == 0) CHECK(cudaStreamSynchronize(0));
            }
            CHECK(cudaStreamSynchronize(cudaStreamPerThread));
            CHECK(cudaStreamSynchronize(0));
            add<<<N / 256, 256, 0, own>>>(data, N, 1);
            CHECK(cudaStreamSynchronize(own));
            found[t].resize(N);
            CHECK(cudaMemcpyAsync(found[t].data(), data, N * sizeof(int), cudaMemcpyDeviceToHost, own));
            CHECK(cudaStreamSynchronize(own));
            CHECK(cudaFree(data));
            CHECK(cudaStreamDestroy(own));
        });
    }
    for (auto &thread : threads) thread.join();
    for (int t = 0; t < THREADS; t++)
        for (int value : found[t]) EXPECT(value == 100 * t + 1);
    save("no stream", cudaStreamWaitEvent(blocking, nullptr, 0));
    cudaGetLastError();
    std::printf("streams: done\n");
}
