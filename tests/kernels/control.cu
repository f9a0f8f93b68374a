// Control flow in which the threads of a warp part.

// Steps of the Collatz sequence down to 1.
extern "C" __global__ void collatz(const unsigned *in, unsigned *steps, unsigned n)
{
    unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    unsigned long long value = in[i];
    unsigned count = 0;
    while (value != 1) {
        value = value % 2 ? 3 * value + 1 : value / 2;
        count++;
    }
    steps[i] = count;
}

// A switch with gaps, a fall-through and loops that end early.
extern "C" __global__ void branches(const int *in, int *out, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n)
        return;
    int value = in[i], result = 0;
    switch (value % 9) {
    case 0:
        result = 7 * value;
        break;
    case 1:
        result = value - 1;
        // fall through
    case 2:
        result += 1000;
        break;
    case 3:
        for (int k = 0; k < value; k++) {
            if (k % 3 == 1)
                continue;
            if (k > 40)
                break;
            result += k;
        }
        break;
    case 4:
        result = ~value;
        break;
    case 5:
        for (int k = 0; k < 5; k++)
            for (int l = k; l < 5; l++) {
                if (k * l == value % 7)
                    goto found;
                result += k ^ l;
            }
        result = -result;
    found:
        result *= 2;
        break;
    case 7:
        if (value > 50 && (value & 4 || value % 5 == 0))
            result = 77;
        else
            result = value < 20 ? 1 : 2;
        break;
    default:
        out[i] = -1;
        return;
    }
    out[i] = result;
}

// Threads of a warp that stay in a loop for different times, and meet behind it.
extern "C" __global__ void meet(unsigned *out)
{
    __shared__ unsigned order[256];
    unsigned t = threadIdx.x, value = t;
    for (unsigned k = 0; k < t % 7; k++)
        value = value * 1664525u + 1013904223u;
    order[t] = value;
    __syncthreads();
    out[t] = order[(t + 1) % blockDim.x] ^ order[t];
}
