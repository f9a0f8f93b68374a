// What a kernel may not do.

extern "C" __global__ void store_at(int *where, int value)
{
    *where = value;
}

extern "C" __global__ void trap_if(int yes)
{
    if (yes)
        __trap();
}

// Recursion without an end, unless depth is small.
__device__ __noinline__ int descend(int depth, volatile int *out)
{
    volatile int own[16];
    own[depth % 16] = depth;
    int below = depth == 0 ? 0 : descend(depth - 1, out);
    *out = below;
    return below + own[depth % 16];
}

extern "C" __global__ void too_deep(int depth, int *out)
{
    out[0] = descend(depth, out + 1);
}

extern "C" __global__ void shared_at(int index, int *out)
{
    __shared__ int small[4];
    small[threadIdx.x % 4] = 7;
    __syncthreads();
    *out = small[index];
}
