// Arrays and structures of a thread's own.

// Sorts 16 numbers per thread.
extern "C" __global__ void sort16(int *data)
{
    int own[16];
    int *mine = data + 16 * (blockIdx.x * blockDim.x + threadIdx.x);
    for (int i = 0; i < 16; i++)
        own[i] = mine[i];
    for (int i = 1; i < 16; i++) {
        int value = own[i], at = i;
        while (at > 0 && own[at - 1] > value) {
            own[at] = own[at - 1];
            at--;
        }
        own[at] = value;
    }
    for (int i = 0; i < 16; i++)
        mine[i] = own[i];
}

struct Body {
    double mass;
    float place[3];
    char kind;
    short tags[5];
};

__device__ __noinline__ Body heavier(Body body, const float *shift)
{
    body.mass *= 2;
    for (int i = 0; i < 3; i++)
        body.place[i] += shift[i];
    body.tags[body.kind % 5] = 99;
    return body;
}

// Structures by value and by address, through a function.
extern "C" __global__ void structures(const Body *in, Body *out, float x, float y, float z)
{
    float shift[3] = {x, y, z};
    unsigned i = threadIdx.x;
    Body body = heavier(in[i], shift);
    if (i % 2)
        body = heavier(body, body.place);
    out[i] = body;
}

// A pointer that may go to shared, local or global memory.
extern "C" __global__ void anywhere(int *data, int *out)
{
    __shared__ int shared[64];
    int local[4];
    unsigned t = threadIdx.x;
    shared[t] = 1000 + t;
    for (int i = 0; i < 4; i++)
        local[i] = 2000 + i + t;
    __syncthreads();
    int *where = t % 3 == 0 ? shared + (t + 1) % blockDim.x : t % 3 == 1 ? local + t % 4 : data + t;
    int kind = __isShared(where) ? 1 : __isLocal(where) ? 2 : __isGlobal(where) ? 3 : 4;
    out[t] = *where * 10 + kind;
}
