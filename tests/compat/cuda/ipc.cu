// Memory and an event of one process used in another one.
#include "compat.h"
#include <sys/wait.h>

__global__ void add(int *data, int n, int by) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] += by;
}

struct Message {
    cudaIpcMemHandle_t memory;
    cudaIpcEventHandle_t event;
};

static void all(ssize_t done, size_t wanted) { EXPECT(done == ssize_t(wanted)); }

static int other(int in, int out, int n) {
    Message message;
    all(read(in, &message, sizeof message), sizeof message);
    int *data;
    CHECK(cudaIpcOpenMemHandle((void **)&data, message.memory, cudaIpcMemLazyEnablePeerAccess));
    cudaEvent_t event;
    CHECK(cudaIpcOpenEventHandle(&event, message.event));
    CHECK(cudaStreamWaitEvent(0, event, 0));
    add<<<(n + 255) / 256, 256>>>(data, n, 5);
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaIpcCloseMemHandle(data));
    CHECK(cudaEventDestroy(event));
    char done = 1;
    all(write(out, &done, 1), 1);
    return 0;
}

int main() {
    const int N = 5000;
    int there[2], back[2];
    EXPECT(pipe(there) == 0 && pipe(back) == 0);
    // Before CUDA is used: it does not outlive a fork.
    pid_t child = fork();
    if (child == 0) {
        // Each end is closed where it is not used, so that neither waits for one that failed.
        close(there[1]);
        close(back[0]);
        _exit(other(there[0], back[1], N));
    }
    close(there[0]);
    close(back[1]);
    int *data = compat::zeros<int>(N);
    cudaEvent_t event;
    CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventInterprocess));
    Message message;
    CHECK(cudaIpcGetMemHandle(&message.memory, data));
    CHECK(cudaIpcGetEventHandle(&message.event, event));
    add<<<(N + 255) / 256, 256>>>(data, N, 100);
    CHECK(cudaEventRecord(event, 0));
    all(write(there[1], &message, sizeof message), sizeof message);
    char done = 0;
    all(read(back[0], &done, 1), 1);
    int status = -1;
    EXPECT(waitpid(child, &status, 0) == child && status == 0);
    std::vector<int> found = compat::fetch(data, N);
    for (int value : found) EXPECT(value == 105);
    save("data", found);
    void *own;
    save("its own", cudaIpcOpenMemHandle(&own, message.memory, cudaIpcMemLazyEnablePeerAccess));
    cudaGetLastError();
    std::printf("ipc: done\n");
}
