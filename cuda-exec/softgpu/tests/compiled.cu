// The source of compiled.ptx: NVRTC 13.0, --gpu-architecture=compute_90 -default-device.
#include <cuda_fp16.h>

extern "C" __global__ void matmul(const float *a, const float *b, float *c, int n)
{
    __shared__ float ta[16][16], tb[16][16];
    int x = blockIdx.x * 16 + threadIdx.x, y = blockIdx.y * 16 + threadIdx.y;
    float sum = 0;
    for (int t = 0; t < n; t += 16) {
        ta[threadIdx.y][threadIdx.x] = a[y * n + t + threadIdx.x];
        tb[threadIdx.y][threadIdx.x] = b[(t + threadIdx.y) * n + x];
        __syncthreads();
        for (int k = 0; k < 16; k++)
            sum += ta[threadIdx.y][k] * tb[k][threadIdx.x];
        __syncthreads();
    }
    c[y * n + x] = sum;
}

extern "C" __global__ void sum(const int *in, int *out, int n)
{
    __shared__ int warps[32];
    int v = 0;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        v += in[i];
    for (int o = 16; o; o >>= 1)
        v += __shfl_down_sync(~0u, v, o);
    if (!(threadIdx.x & 31))
        warps[threadIdx.x >> 5] = v;
    __syncthreads();
    if (threadIdx.x < 32) {
        v = threadIdx.x < blockDim.x / 32 ? warps[threadIdx.x] : 0;
        for (int o = 16; o; o >>= 1)
            v += __shfl_down_sync(~0u, v, o);
        if (!threadIdx.x)
            atomicAdd(out, v);
    }
}

__device__ __noinline__ int fibonacci(int n)
{
    int a = 0, b = 1;
    for (int i = 0; i < n; i++) {
        int c = a + b;
        a = b;
        b = c;
    }
    return a;
}

// A call, and an array in local memory.
extern "C" __global__ void calls(int *out)
{
    int local[8], s = 0;
    for (int i = 0; i < 8; i++)
        local[(i * 3) & 7] = fibonacci(i + threadIdx.x);
    for (int i = 0; i < 8; i++)
        s = s * 3 + local[(i + threadIdx.x) & 7];
    out[threadIdx.x] = s;
}

extern "C" __global__ void halves(const __half2 *a, const __half2 *b, __half2 *c, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        c[i] = __hadd2(__hmul2(a[i], b[i]), a[i]);
}

struct Options {
    int a;
    double b;
    short c[3];
};

extern "C" __global__ void by_value(Options o, double *out)
{
    switch (o.a) {
    case 0: out[0] = o.b / 3; break;
    case 1: out[0] = o.c[2]; break;
    case 2: out[0] = (long long)(o.b * 1000) % 77; break;
    case 3: out[0] = sqrt(o.b); break;
    case 4: out[0] = __popc(o.c[0]) + __clz(o.c[1]); break;
    case 5: out[0] = (unsigned)o.b * 5000000000ull % 1000; break;
    default: out[0] = -1;
    }
}
