// Tensor cores, asynchronous copies into shared memory, half and bfloat16 arithmetic, warp functions.
#include "compat.h"
#include <cooperative_groups.h>
#include <cooperative_groups/memcpy_async.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <mma.h>
namespace cg = cooperative_groups;
using namespace nvcuda;

__global__ void multiply(const half *a, const half *b, float *c) {
    wmma::fragment<wmma::matrix_a, 16, 16, 16, half, wmma::row_major> fa;
    wmma::fragment<wmma::matrix_b, 16, 16, 16, half, wmma::col_major> fb;
    wmma::fragment<wmma::accumulator, 16, 16, 16, float> fc;
    wmma::fill_fragment(fc, 0);
    for (int k = 0; k < 64; k += 16) {
        wmma::load_matrix_sync(fa, a + k, 64);
        wmma::load_matrix_sync(fb, b + k, 64);
        wmma::mma_sync(fc, fa, fb, fc);
    }
    wmma::store_matrix_sync(c, fc, 16, wmma::mem_row_major);
}
__global__ void convert(const float *in, float *out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    __nv_bfloat16 b = __float2bfloat16(in[i]);
    half h = __float2half(in[i]);
    __nv_fp8_e4m3 e(in[i]);
    out[3 * i] = __bfloat162float(__hmul(b, b));
    out[3 * i + 1] = __half2float(hexp(h));
    out[3 * i + 2] = float(e);
}
__global__ void staged(const int *in, int *out, int n) {
    __shared__ int part[256];
    auto block = cg::this_thread_block();
    int total = 0;
    for (int at = 0; at < n; at += 256) {
        cg::memcpy_async(block, part, in + at, sizeof part);
        cg::wait(block);
        total += part[255 - threadIdx.x] * (at + 1);
        block.sync();
    }
    unsigned votes = __ballot_sync(0xffffffff, total & 1);
    out[threadIdx.x] = total + __popc(votes) + __reduce_add_sync(0xffffffff, threadIdx.x) + __match_any_sync(0xffffffff, threadIdx.x / 8);
}

int main() {
    std::vector<float> values = compat::noise(64 * 16 * 2);
    std::vector<half> halves(values.size());
    for (size_t i = 0; i < values.size(); i++) halves[i] = __float2half(values[i]);
    half *device = nullptr;
    CHECK(cudaMalloc(&device, halves.size() * 2));
    CHECK(cudaMemcpy(device, halves.data(), halves.size() * 2, cudaMemcpyHostToDevice));
    float *c = compat::zeros<float>(256);
    multiply<<<1, 32>>>(device, device + 1024, c);
    std::vector<float> product = compat::fetch(c, 256);
    float exact = 0;
    for (int k = 0; k < 64; k++) exact += __half2float(halves[3 * 64 + k]) * __half2float(halves[1024 + 5 * 64 + k]);
    EXPECT(std::abs(product[3 * 16 + 5] - exact) < 1e-3);
    save("product", product);
    float *in = compat::device(values), *out = compat::zeros<float>(3 * values.size());
    convert<<<8, 256>>>(in, out, int(values.size()));
    save("converted", compat::fetch(out, 3 * values.size()));
    std::vector<int> numbers(4096);
    for (int i = 0; i < 4096; i++) numbers[i] = i * 31 % 257;
    int *data = compat::device(numbers), *staged_out = compat::zeros<int>(256);
    staged<<<1, 256>>>(data, staged_out, 4096);
    save("staged", compat::fetch(staged_out, 256));
    CHECK(cudaDeviceSynchronize());
    std::printf("tensor_cores: done\n");
}
