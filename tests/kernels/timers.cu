// Clocks.

__device__ unsigned long long global_timer()
{
    unsigned long long now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    return now;
}

// Runs for some nanoseconds; says when it began and ended, and how many cycles passed.
extern "C" __global__ void spin(unsigned long long nanoseconds, unsigned long long *out)
{
    unsigned long long began = global_timer(), now;
    long long cycles = clock64();
    unsigned low = clock();
    do
        now = global_timer();
    while (now - began < nanoseconds);
    out[0] = began;
    out[1] = now;
    out[2] = clock64() - cycles;
    out[3] = (unsigned)clock() != low;
}

// The first thread waits, asleep, for what the last one stores late.
extern "C" __global__ void sleeper(volatile unsigned *flag, unsigned *out)
{
    if (threadIdx.x == 0) {
        while (*flag == 0)
            __nanosleep(1000);
        *out = *flag;
    } else if (threadIdx.x == blockDim.x - 1) {
        __nanosleep(50000);
        *flag = 42;
    }
}
