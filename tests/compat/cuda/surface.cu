// Surfaces: written and read, 1D, 2D, 3D.
#include "compat.h"

__global__ void write2(cudaSurfaceObject_t surface, int n) {
    int x = threadIdx.x, y = blockIdx.x;
    surf2Dwrite(float4{float(x), float(y), float(x * y), 1}, surface, x * sizeof(float4), y);
}
__global__ void read2(cudaSurfaceObject_t surface, float *out, int n) {
    int x = threadIdx.x, y = blockIdx.x;
    float4 value;
    surf2Dread(&value, surface, (x + 1) * sizeof(float4), y - 1, cudaBoundaryModeClamp);
    out[y * n + x] = value.x * 1000 + value.y + value.z;
}
__global__ void write3(cudaSurfaceObject_t surface) {
    surf3Dwrite(int(threadIdx.x + 10 * threadIdx.y + 100 * threadIdx.z), surface, threadIdx.x * sizeof(int), threadIdx.y, threadIdx.z);
}

int main() {
    const int N = 48;
    cudaArray_t array;
    cudaChannelFormatDesc format = cudaCreateChannelDesc<float4>();
    CHECK(cudaMallocArray(&array, &format, N, N, cudaArraySurfaceLoadStore));
    cudaResourceDesc resource = {};
    resource.resType = cudaResourceTypeArray;
    resource.res.array.array = array;
    cudaSurfaceObject_t surface;
    CHECK(cudaCreateSurfaceObject(&surface, &resource));
    write2<<<N, N>>>(surface, N);
    float *out = compat::zeros<float>(N * N);
    read2<<<N, N>>>(surface, out, N);
    CHECK(cudaDeviceSynchronize());
    std::vector<float> found = compat::fetch(out, N * N);
    EXPECT(found[5 * N + 7] == 8 * 1000 + 4 + 8 * 4);
    save("2d", found);
    std::vector<float4> all(N * N);
    CHECK(cudaMemcpy2DFromArray(all.data(), N * 16, array, 0, 0, N * 16, N, cudaMemcpyDeviceToHost));
    EXPECT(all[3 * N + 4].z == 12);
    CHECK(cudaDestroySurfaceObject(surface));
    CHECK(cudaFreeArray(array));

    format = cudaCreateChannelDesc<int>();
    cudaExtent size = make_cudaExtent(8, 8, 8);
    CHECK(cudaMalloc3DArray(&array, &format, size, cudaArraySurfaceLoadStore));
    resource.res.array.array = array;
    CHECK(cudaCreateSurfaceObject(&surface, &resource));
    write3<<<1, dim3(8, 8, 8)>>>(surface);
    std::vector<int> cube(512);
    cudaMemcpy3DParms copy = {};
    copy.srcArray = array;
    copy.dstPtr = make_cudaPitchedPtr(cube.data(), 32, 8, 8);
    copy.extent = size;
    copy.kind = cudaMemcpyDeviceToHost;
    CHECK(cudaMemcpy3D(&copy));
    EXPECT(cube[7 + 8 * 6 + 64 * 5] == 567);
    save("3d", cube);
    CHECK(cudaDestroySurfaceObject(surface));
    CHECK(cudaFreeArray(array));
    std::printf("surface: done\n");
}
