// Memory of the program's own, registered: of mmap and, not on page boundaries, of malloc.
#include "compat.h"
#include <sys/mman.h>

__global__ void twice(float *data, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = data[i] * 2 + 1;
}

int main() {
    const int N = 1 << 16;
    size_t bytes = 1 << 20;
    float *own = (float *)mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT(own != MAP_FAILED);
    char *heap = (char *)malloc(bytes + 100);
    float *inside = (float *)(heap + 64);
    for (int i = 0; i < N; i++) own[i] = inside[i] = float(i);
    CHECK(cudaHostRegister(own, bytes, cudaHostRegisterMapped));
    CHECK(cudaHostRegister(inside, N * sizeof(float), cudaHostRegisterDefault));
    float *own_device, *inside_device;
    CHECK(cudaHostGetDevicePointer(&own_device, own, 0));
    CHECK(cudaHostGetDevicePointer(&inside_device, inside, 0));
    twice<<<N / 256, 256>>>(own_device, N);
    twice<<<N / 256, 256>>>(inside_device, N);
    CHECK(cudaDeviceSynchronize());
    for (int i = 0; i < N; i++) EXPECT(own[i] == i * 2.0f + 1 && inside[i] == own[i]);
    save("registered twice", cudaHostRegister(own, bytes, 0));
    cudaGetLastError();
    CHECK(cudaHostUnregister(own));
    CHECK(cudaHostUnregister(inside));
    save("unregistered twice", cudaHostUnregister(own));
    munmap(own, bytes);
    free(heap);
    std::printf("registered: %d elements right\n", N);
}
