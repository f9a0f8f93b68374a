// Sums of two vectors in pieces on several streams, timed and ordered by events.
#include "compat.h"

__global__ void vadd(const float *a, const float *b, float *c, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) c[i] = a[i] + b[i];
}

int main() {
    const int N = 1 << 18, PARTS = 4, PART = N / PARTS;
    std::vector<float> a = compat::noise(N, 1), b = compat::noise(N, 2), c(N);
    float *da, *db, *dc;
    CHECK(cudaMalloc(&da, N * sizeof(float)));
    CHECK(cudaMalloc(&db, N * sizeof(float)));
    CHECK(cudaMalloc(&dc, N * sizeof(float)));
    cudaStream_t streams[PARTS], last;
    cudaEvent_t begin, done[PARTS], end;
    CHECK(cudaEventCreate(&begin));
    CHECK(cudaEventCreate(&end));
    CHECK(cudaStreamCreateWithFlags(&last, cudaStreamNonBlocking));
    CHECK(cudaEventRecord(begin, last));
    for (int p = 0; p < PARTS; p++) {
        int at = p * PART;
        CHECK(cudaStreamCreateWithFlags(&streams[p], cudaStreamNonBlocking));
        CHECK(cudaEventCreateWithFlags(&done[p], cudaEventDisableTiming));
        CHECK(cudaMemcpyAsync(da + at, &a[at], PART * sizeof(float), cudaMemcpyHostToDevice, streams[p]));
        CHECK(cudaMemcpyAsync(db + at, &b[at], PART * sizeof(float), cudaMemcpyHostToDevice, streams[p]));
        vadd<<<(PART + 255) / 256, 256, 0, streams[p]>>>(da + at, db + at, dc + at, PART);
        CHECK(cudaGetLastError());
        CHECK(cudaEventRecord(done[p], streams[p]));
        CHECK(cudaStreamWaitEvent(last, done[p], 0));
    }
    CHECK(cudaMemcpyAsync(c.data(), dc, N * sizeof(float), cudaMemcpyDeviceToHost, last));
    CHECK(cudaEventRecord(end, last));
    CHECK(cudaEventSynchronize(end));
    CHECK(cudaEventQuery(end));
    float ms = -1;
    CHECK(cudaEventElapsedTime(&ms, begin, end));
    EXPECT(ms >= 0);
    for (int i = 0; i < N; i++) EXPECT(c[i] == a[i] + b[i]);
    save("c", c);
    for (int p = 0; p < PARTS; p++) {
        CHECK(cudaStreamQuery(streams[p]));
        CHECK(cudaEventDestroy(done[p]));
        CHECK(cudaStreamDestroy(streams[p]));
    }
    CHECK(cudaEventDestroy(begin));
    CHECK(cudaEventDestroy(end));
    CHECK(cudaStreamDestroy(last));
    CHECK(cudaFree(da));
    CHECK(cudaFree(db));
    CHECK(cudaFree(dc));
    std::printf("vadd: %d sums right\n", N);
}
