// A matrix product by tiles in shared memory. Matrices are square, by rows, and their side is a multiple of 16.

#define TILE 16

extern "C" __global__ void matmul(const float *a, const float *b, float *c, int side)
{
    __shared__ float left[TILE][TILE];
    __shared__ float right[TILE][TILE];
    int x = threadIdx.x, y = threadIdx.y;
    int row = blockIdx.y * TILE + y;
    int column = blockIdx.x * TILE + x;
    float sum = 0;
    for (int at = 0; at < side; at += TILE) {
        left[y][x] = a[row * side + at + x];
        right[y][x] = b[(at + y) * side + column];
        __syncthreads();
        for (int k = 0; k < TILE; k++)
            sum += left[y][k] * right[k][x];
        __syncthreads();
    }
    c[row * side + column] = sum;
}
