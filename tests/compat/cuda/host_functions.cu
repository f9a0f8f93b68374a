// Functions of the host in the order of a stream, of both kinds; kernels that wait for what they write.
#include "compat.h"
#include <atomic>

struct Told {
    std::atomic<int> calls{0};
    int seen[40];
    int *pinned;
};

__global__ void store(int *to, int value) { *to = value; }

static void CUDART_CB call(void *data) {
    Told *told = (Told *)data;
    int at = told->calls.load();
    told->seen[at] = *told->pinned;
    told->calls = at + 1;
}
static void CUDART_CB notify(cudaStream_t, cudaError_t status, void *data) {
    if (status == cudaSuccess) call(data);
}
static void CUDART_CB raise_flag(void *flag) { ((std::atomic<int> *)flag)->store(1); }

int main() {
    Told told;
    CHECK(cudaMallocHost(&told.pinned, sizeof(int)));
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    for (int i = 0; i < 20; i++) {
        store<<<1, 1, 0, stream>>>(told.pinned, i * i);
        CHECK(cudaLaunchHostFunc(stream, call, &told));
    }
    for (int i = 0; i < 5; i++) {
        store<<<1, 1, 0, stream>>>(told.pinned, 1000 + i);
        CHECK(cudaStreamAddCallback(stream, notify, &told, 0));
    }
    CHECK(cudaStreamSynchronize(stream));
    EXPECT(told.calls == 25);
    save("seen", told.seen, 25);

    // Another stream waits for what a host function allows.
    cudaStream_t other;
    CHECK(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking));
    std::atomic<int> flag{0};
    cudaEvent_t event;
    CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    CHECK(cudaLaunchHostFunc(stream, raise_flag, &flag));
    CHECK(cudaEventRecord(event, stream));
    CHECK(cudaStreamWaitEvent(other, event, 0));
    store<<<1, 1, 0, other>>>(told.pinned, 7);
    CHECK(cudaStreamSynchronize(other));
    EXPECT(flag == 1 && *told.pinned == 7);
    std::printf("host_functions: %d calls\n", told.calls.load());
}
