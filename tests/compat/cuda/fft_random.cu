// compat: libraries cufft curand
// Fourier transforms with cuFFT; random numbers with cuRAND, of the host's calls and in kernels.
#include "compat.h"
#include <cufft.h>
#include <curand.h>
#include <curand_kernel.h>

#define FFT(call) EXPECT((call) == CUFFT_SUCCESS)
#define RAND(call) EXPECT((call) == CURAND_STATUS_SUCCESS)

__global__ void draw(float *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    curandStatePhilox4_32_10_t state;
    curand_init(1234, i, 0, &state);
    if (i < n) out[i] = curand_normal(&state) + curand_uniform(&state);
}

int main() {
    for (int n : {1024, 1000, 997, 30030}) {
        std::vector<float> host = compat::noise(2 * n);
        float *data = compat::device(host);
        cufftHandle plan;
        FFT(cufftPlan1d(&plan, n, CUFFT_C2C, 1));
        FFT(cufftExecC2C(plan, (cufftComplex *)data, (cufftComplex *)data, CUFFT_FORWARD));
        std::vector<float> there = compat::fetch(data, 2 * n);
        FFT(cufftExecC2C(plan, (cufftComplex *)data, (cufftComplex *)data, CUFFT_INVERSE));
        std::vector<float> back = compat::fetch(data, 2 * n);
        for (int i = 0; i < 2 * n; i++) EXPECT(std::abs(back[i] / n - host[i]) < 1e-3f);
        save("c2c " + std::to_string(n), there);
        FFT(cufftDestroy(plan));
        CHECK(cudaFree(data));
    }
    int size[] = {64, 48};
    float *in = compat::device(compat::noise(64 * 48 * 8)), *out = compat::zeros<float>(64 * 25 * 2 * 8);
    cufftHandle many;
    size_t work = 0;
    FFT(cufftCreate(&many));
    FFT(cufftMakePlanMany(many, 2, size, nullptr, 1, 0, nullptr, 1, 0, CUFFT_R2C, 8, &work));
    cudaStream_t stream;
    CHECK(cudaStreamCreate(&stream));
    FFT(cufftSetStream(many, stream));
    FFT(cufftExecR2C(many, in, (cufftComplex *)out));
    CHECK(cudaStreamSynchronize(stream));
    save("r2c", compat::fetch(out, 64 * 25 * 2 * 8));
    FFT(cufftDestroy(many));
    double *wide = compat::zeros<double>(512);
    double one = 1;
    CHECK(cudaMemcpy(wide, &one, sizeof one, cudaMemcpyHostToDevice));
    cufftHandle plan;
    FFT(cufftPlan1d(&plan, 256, CUFFT_Z2Z, 1));
    FFT(cufftExecZ2Z(plan, (cufftDoubleComplex *)wide, (cufftDoubleComplex *)wide, CUFFT_FORWARD));
    save("z2z", compat::fetch(wide, 512));

    const int N = 20000;
    float *numbers = compat::zeros<float>(N);
    for (auto kind : {CURAND_RNG_PSEUDO_XORWOW, CURAND_RNG_PSEUDO_PHILOX4_32_10, CURAND_RNG_PSEUDO_MRG32K3A, CURAND_RNG_PSEUDO_MTGP32, CURAND_RNG_PSEUDO_MT19937, CURAND_RNG_QUASI_SOBOL32}) {
        curandGenerator_t generator;
        RAND(curandCreateGenerator(&generator, kind));
        if (kind < CURAND_RNG_QUASI_DEFAULT) RAND(curandSetPseudoRandomGeneratorSeed(generator, 77));
        RAND(curandGenerateUniform(generator, numbers, N));
        save("uniform " + std::to_string(kind), compat::fetch(numbers, N));
        RAND(curandGenerateNormal(generator, numbers, N, 1, 2));
        save("normal " + std::to_string(kind), compat::fetch(numbers, N));
        RAND(curandDestroyGenerator(generator));
    }
    draw<<<(N + 127) / 128, 128>>>(numbers, N);
    save("in a kernel", compat::fetch(numbers, N));
    std::printf("fft_random: done\n");
}
