// Kernels that fail, each in a process of its own: the error, where it is seen first, and that it stays until the process ends.
// compat: limit 240
#include "compat.h"
#include <sys/wait.h>

__global__ void store(int *to) { *to = 1; }
__global__ void trap() { __trap(); }
__global__ void misaligned(char *memory) { *(int *)(memory + 1) = 5; }
__global__ void shared_out(int *out, int offset) {
    __shared__ int part[32];
    part[threadIdx.x] = 1;
    __syncthreads();
    volatile int *beyond = part;
    out[threadIdx.x] = beyond[threadIdx.x + offset];
}
__global__ void fine(int *to) { *to = 3; }

static int fail_as(int how) {
    int *memory = compat::zeros<int>(64);
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    std::string name = "way " + std::to_string(how);
    switch (how) {
    case 0: store<<<1, 1, 0, stream>>>((int *)16); break;
    case 1: store<<<1, 1, 0, stream>>>((int *)0x7fffdeadbeef0000ull); break;
    case 2: trap<<<1, 1, 0, stream>>>(); break;
    case 3: misaligned<<<1, 1, 0, stream>>>((char *)memory); break;
    case 4: shared_out<<<1, 32, 0, stream>>>(memory, 1 << 20); break;
    }
    save(name + " launch", cudaGetLastError());
    save(name + " synchronise", cudaStreamSynchronize(stream));
    save(name + " peek", cudaPeekAtLastError());
    save(name + " last", cudaGetLastError());
    save(name + " copy", cudaMemcpy(memory, memory + 1, 4, cudaMemcpyDeviceToDevice));
    int *other;
    save(name + " malloc", cudaMalloc(&other, 10));
    fine<<<1, 1>>>(memory);
    save(name + " launch later", cudaGetLastError());
    cudaEvent_t event;
    save(name + " event", cudaEventCreate(&event));
    save(name + " destroy", cudaStreamDestroy(stream));
    int count = 0;
    save(name + " count", cudaGetDeviceCount(&count));
    save(name + " reset", cudaDeviceReset());
    save(name + " malloc afterwards", cudaMalloc(&other, 10));
    return 0;
}

int main() {
    for (int how = 0; how < 5; how++) {
        pid_t child = fork();
        if (child == 0) {
            fail_as(how);
            std::fflush(stdout);
            _exit(0);
        }
        int status = -1;
        EXPECT(waitpid(child, &status, 0) == child);
        save("end of way " + std::to_string(how), status);
    }
    // A process that had nothing to do with it.
    int *memory = compat::zeros<int>(1);
    fine<<<1, 1>>>(memory);
    CHECK(cudaDeviceSynchronize());
    EXPECT(compat::fetch(memory, 1)[0] == 3);
    std::printf("faults: done\n");
}
