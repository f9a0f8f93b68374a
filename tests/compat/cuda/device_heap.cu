// Memory that kernels allocate, kept from one launch to the next; virtual functions; recursion.
#include "compat.h"

struct Shape {
    __device__ virtual float area() const = 0;
    __device__ virtual ~Shape() {}
};
struct Square : Shape {
    float edge;
    __device__ Square(float e) : edge(e) {}
    __device__ float area() const override { return edge * edge; }
};
struct Circle : Shape {
    float radius;
    __device__ Circle(float r) : radius(r) {}
    __device__ float area() const override { return 3.0f * radius * radius; }
};

__device__ Shape *shapes[1000];

__global__ void make(int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) shapes[i] = i % 2 ? (Shape *)new Square(i) : (Shape *)new Circle(i);
}
__global__ void measure(float *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = shapes[i]->area();
}
__global__ void drop(int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) delete shapes[i];
}
__device__ int fibonacci(int n) { return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2); }
__global__ void recurse(int *out) { out[threadIdx.x] = fibonacci(threadIdx.x); }
__global__ void exhaust(int *refused) {
    if (!malloc(1 << 20)) atomicAdd(refused, 1);
}

int main() {
    const int N = 1000;
    CHECK(cudaDeviceSetLimit(cudaLimitMallocHeapSize, 32 << 20));
    CHECK(cudaDeviceSetLimit(cudaLimitStackSize, 8192));
    float *out = compat::zeros<float>(N);
    make<<<8, 128>>>(N);
    measure<<<8, 128>>>(out, N);
    drop<<<8, 128>>>(N);
    CHECK(cudaDeviceSynchronize());
    std::vector<float> found = compat::fetch(out, N);
    EXPECT(found[11] == 121 && found[10] == 300);
    save("areas", found);
    int *numbers = compat::zeros<int>(21);
    recurse<<<1, 21>>>(numbers);
    CHECK(cudaDeviceSynchronize());
    EXPECT(compat::fetch(numbers, 21)[20] == 6765);
    int *refused = compat::zeros<int>(1);
    exhaust<<<1, 64>>>(refused);
    CHECK(cudaDeviceSynchronize());
    EXPECT(compat::fetch(refused, 1)[0] > 0);
    std::printf("device_heap: done\n");
}
