// Functions that are really called: by name, by themselves, by address.

__device__ __noinline__ unsigned long long fibonacci(unsigned n)
{
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

__device__ __noinline__ int is_odd(int n);

__device__ __noinline__ int is_even(int n)
{
    return n == 0 ? 1 : is_odd(n - 1);
}

__device__ __noinline__ int is_odd(int n)
{
    return n == 0 ? 0 : is_even(n - 1);
}

extern "C" __global__ void recursion(const unsigned *in, unsigned long long *out)
{
    unsigned n = in[threadIdx.x];
    out[threadIdx.x] = fibonacci(n) * 10 + is_even(n);
}

__device__ __noinline__ float twice(float x, float)
{
    return 2 * x;
}

__device__ __noinline__ float sum(float x, float y)
{
    return x + y;
}

__device__ __noinline__ float difference(float x, float y)
{
    return x - y;
}

typedef float (*Operation)(float, float);
__device__ Operation operations[] = {twice, sum, difference};

extern "C" __global__ void by_address(const int *which, const float *x, float *out)
{
    unsigned i = threadIdx.x;
    out[i] = operations[which[i]](x[i], 10);
}

struct Shape {
    __device__ virtual float area() const { return 0; }
    __device__ virtual int corners() const { return 4; }
};

struct Square : Shape {
    float side;
    __device__ Square(float s) : side(s) {}
    __device__ float area() const override { return side * side; }
};

struct Circle : Shape {
    float radius;
    __device__ Circle(float r) : radius(r) {}
    __device__ float area() const override { return 3 * radius * radius; }
    __device__ int corners() const override { return 0; }
};

extern "C" __global__ void virtual_calls(const float *size, float *out)
{
    unsigned i = threadIdx.x;
    Square square(size[i]);
    Circle circle(size[i]);
    const Shape *shape = i % 3 == 0 ? (const Shape *)&square : (const Shape *)&circle;
    out[i] = shape->area() * 10 + shape->corners();
}

// All threads of a warp meet in a function that they reach by different ways.
__device__ __noinline__ unsigned meeting(unsigned value)
{
    __syncthreads();
    return __shfl_xor_sync(0xffffffffu, value, 1);
}

extern "C" __global__ void barrier_in_function(unsigned *out)
{
    unsigned t = threadIdx.x, value;
    value = meeting(t * 3);
    for (unsigned k = 0; k < 3; k++)
        value = meeting(value + k);
    out[t] = value;
}
