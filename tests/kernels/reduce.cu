// Reductions: through a warp by shuffles, through a block by dynamic shared memory.

__device__ float warp_sum(float value)
{
    for (int step = 16; step > 0; step /= 2)
        value += __shfl_down_sync(0xffffffffu, value, step);
    return value;
}

// One sum per block; the block has whole warps. Shared memory: a float per warp.
extern "C" __global__ void block_sum(const float *in, float *out, unsigned n)
{
    extern __shared__ float sums[];
    float value = 0;
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        value += in[i];
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0)
        sums[threadIdx.x / 32] = value;
    __syncthreads();
    if (threadIdx.x < 32) {
        value = threadIdx.x < blockDim.x / 32 ? sums[threadIdx.x] : 0;
        value = warp_sum(value);
        if (threadIdx.x == 0)
            out[blockIdx.x] = value;
    }
}

// The largest value and where it first is, by a tree in dynamic shared memory behind a static array.
// Shared memory: an int and an unsigned per thread. The block's size is a power of two.
extern "C" __global__ void block_max(const int *in, int *largest, unsigned *where)
{
    extern __shared__ int values[];
    __shared__ unsigned base;
    unsigned *places = (unsigned *)(values + blockDim.x);
    unsigned t = threadIdx.x;
    if (t == 0)
        base = blockIdx.x * blockDim.x;
    __syncthreads();
    values[t] = in[base + t];
    places[t] = base + t;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (t < half && values[t + half] > values[t]) {
            values[t] = values[t + half];
            places[t] = places[t + half];
        }
    }
    if (t == 0) {
        largest[blockIdx.x] = values[0];
        where[blockIdx.x] = places[0];
    }
}

// The inclusive prefix sum of each warp, in 64 bits.
extern "C" __global__ void warp_scan(const long long *in, long long *out)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    int lane = threadIdx.x % 32;
    long long value = in[i];
    for (int step = 1; step < 32; step *= 2) {
        long long other = __shfl_up_sync(0xffffffffu, value, step);
        if (lane >= step)
            value += other;
    }
    out[i] = value;
}
