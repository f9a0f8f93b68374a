// What the threads of a warp tell each other.

// 12 results for each thread.
extern "C" __global__ void votes(const int *in, unsigned *out)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x, all = 0xffffffffu;
    int value = in[i], lane = threadIdx.x % 32, agreed;
    unsigned *o = out + 12 * i;
    o[0] = __ballot_sync(all, value > 0);
    o[1] = __any_sync(all, value == 5);
    o[2] = __all_sync(all, value < 1000);
    o[3] = __match_any_sync(all, value % 4);
    o[4] = __match_all_sync(all, value / 1000, &agreed);
    o[5] = agreed;
    o[6] = __shfl_sync(all, value, (lane * 7) % 32);
    o[7] = __shfl_xor_sync(all, value, 5);
    o[8] = __shfl_up_sync(all, value, 3, 8);
    o[9] = __shfl_down_sync(all, value, 2, 16);
    o[10] = __popc(__activemask());
    // Only some of the warp.
    unsigned odd = __ballot_sync(all, lane % 2);
    o[11] = lane % 2 ? __ballot_sync(odd, value > 10) : 0;
    __syncwarp();
}

#ifndef __clang__ // whose headers (19) hand the instruction its operands in the wrong order
// Reductions in one instruction.
extern "C" __global__ void warp_reductions(const int *in, int *out)
{
    unsigned all = 0xffffffffu, i = blockIdx.x * blockDim.x + threadIdx.x;
    int value = in[i];
    int *o = out + 6 * i;
    o[0] = __reduce_add_sync(all, value);
    o[1] = __reduce_min_sync(all, value);
    o[2] = __reduce_max_sync(all, (unsigned)value);
    o[3] = __reduce_and_sync(all, value);
    o[4] = __reduce_or_sync(all, value);
    o[5] = __reduce_xor_sync(all, value);
}
#endif

// Barriers that count.
extern "C" __global__ void counting_barriers(const int *in, int *out)
{
    int value = in[threadIdx.x];
    int positive = __syncthreads_count(value > 0);
    int both = __syncthreads_and(value > -1000) * 2 + __syncthreads_or(value > 1000);
    out[threadIdx.x] = positive * 10 + both;
}
