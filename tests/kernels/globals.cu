// Variables of the module: constant, initialised, counted in, and addresses of one another.

__constant__ float weights[8] = {1, 2, 4, 8, 16, 32, 64, 128};
__constant__ struct {
    int bias;
    short steps[3];
    double scale;
} settings = {5, {1, -2, 3}, 0.5};
__device__ int counter = 40;
__device__ unsigned char text[] = "vgpu";
__device__ int table[3][2] = {{1, 2}, {3, 4}, {5, 6}};
__device__ int *middle = &table[1][1];
__device__ double zeros[100];

extern "C" __global__ void weigh(const float *in, float *out)
{
    unsigned i = threadIdx.x;
    out[i] = in[i] * weights[i % 8] + settings.bias + settings.steps[i % 3] * (float)settings.scale;
}

extern "C" __global__ void count(int *old)
{
    old[threadIdx.x] = atomicAdd(&counter, 1);
    zeros[threadIdx.x % 100] += 1;
}

extern "C" __global__ void look(int *out)
{
    out[0] = *middle;
    out[1] = middle[1];
    out[2] = text[0] + 256 * text[3];
    out[3] = text[4];
    out[4] = (int)(zeros[3] * 10);
    out[5] = table[2][1];
    // The next one to look sees another place.
    if (middle != &table[2][0])
        middle = &table[2][0];
}
