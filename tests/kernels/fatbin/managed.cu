// Managed variables of each kind: with and without an initial value, one that begins as another variable's address.
struct Pair {
    int number;
    double half;
};

__device__ int ordinary = 4;
__managed__ int total = 3;
__managed__ float array[64];
__managed__ Pair pair = {-1, 0.5};
__managed__ int *pointer = &ordinary;
__managed__ char text[8] = "hello";

extern "C" __global__ void use(int i) {
    total += i;
    array[i] = pair.half + text[i];
    array[5] = 1;
    atomicAdd(&total, 1);
    *pointer += 1;
}
