// Histograms, and every atomic operation with a result that does not depend on the order.

extern "C" __global__ void histogram(const unsigned char *data, unsigned n, unsigned *bins)
{
    __shared__ unsigned local[256];
    for (unsigned i = threadIdx.x; i < 256; i += blockDim.x)
        local[i] = 0;
    __syncthreads();
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        atomicAdd(&local[data[i]], 1u);
    __syncthreads();
    for (unsigned i = threadIdx.x; i < 256; i += blockDim.x)
        if (local[i])
            atomicAdd(&bins[i], local[i]);
}

struct Results {
    int sum, least, most;
    unsigned subtracted, least_u, most_u, and_bits, or_bits, xor_bits, wrapped_up, wrapped_down, winner, swaps;
    float sum_f;
    double sum_d;
    unsigned long long sum_l, most_l, cas_sum;
    long long least_l;
    unsigned tickets;
    unsigned spare;
};

// results is set by the host before. tickets[i] is 1 for each ticket that some thread drew.
extern "C" __global__ void atomics(Results *results, unsigned *tickets)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&results->sum, (int)i - 100);
    atomicMin(&results->least, (int)i - 100);
    atomicMax(&results->most, (int)i - 100);
    atomicSub(&results->subtracted, i);
    atomicMin(&results->least_u, i + 7);
    atomicMax(&results->most_u, i + 7);
    atomicAnd(&results->and_bits, ~(1u << i % 13));
    atomicOr(&results->or_bits, 1u << i % 13);
    atomicXor(&results->xor_bits, i * 2654435761u);
    atomicInc(&results->wrapped_up, 10);
    atomicDec(&results->wrapped_down, 10);
    atomicAdd(&results->sum_f, 0.5f);
    atomicAdd(&results->sum_d, 0.25);
    atomicAdd(&results->sum_l, (unsigned long long)i << 30);
    atomicMax(&results->most_l, (unsigned long long)i << 33);
    atomicMin(&results->least_l, -((long long)i << 33));
    if (atomicCAS(&results->winner, 0u, i + 1) == 0)
        atomicAdd(&results->swaps, 1u);
    unsigned long long seen = results->cas_sum, expected;
    do {
        expected = seen;
        seen = atomicCAS(&results->cas_sum, expected, expected + i);
    } while (seen != expected);
    atomicExch(&tickets[atomicAdd(&results->tickets, 1u)], 1u);
    __threadfence();
}

// A lock that threads of all blocks take in turn, to count without atomics.
extern "C" __global__ void locked_count(unsigned *lock, unsigned *count)
{
    bool done = false;
    while (!done) {
        if (atomicCAS(lock, 0u, 1u) == 0) {
            __threadfence();
            *(volatile unsigned *)count += 1;
            __threadfence();
            atomicExch(lock, 0u);
            done = true;
        }
    }
}
