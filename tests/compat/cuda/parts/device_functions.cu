// Compiled apart from lto.cu and separate.cu, and linked to them on the device.
__device__ int step_count;
__constant__ float weights[4];

__device__ float weigh(float x, int i) {
    atomicAdd(&step_count, 1);
    return x * weights[i & 3] + i;
}
