// A tile loaded and stored by the tensor memory accelerator, which reads the map that the driver encodes.
// compat: toolkit 12.8
#include "compat.h"
#include <cuda/barrier>
#include <cuda/ptx>
namespace ptx = cuda::ptx;
using barrier = cuda::barrier<cuda::thread_scope_block>;

constexpr int TILE_H = 8, TILE_W = 32;

__global__ void through_tiles(const __grid_constant__ CUtensorMap in, const __grid_constant__ CUtensorMap out) {
    __shared__ alignas(128) float tile[TILE_H][TILE_W];
#pragma nv_diag_suppress static_var_with_dynamic_init
    __shared__ barrier arrived;
    int x = blockIdx.x * TILE_W, y = blockIdx.y * TILE_H;
    if (threadIdx.x == 0) {
        init(&arrived, blockDim.x);
        ptx::fence_proxy_async(ptx::space_shared);
    }
    __syncthreads();
    barrier::arrival_token token;
    if (threadIdx.x == 0) {
        const int at[2] = {x, y};
        ptx::cp_async_bulk_tensor(ptx::space_cluster, ptx::space_global, &tile, &in, at, cuda::device::barrier_native_handle(arrived));
        token = cuda::device::barrier_arrive_tx(arrived, 1, sizeof(tile));
    } else {
        token = arrived.arrive();
    }
    arrived.wait(std::move(token));
    for (int i = threadIdx.x; i < TILE_H * TILE_W; i += blockDim.x) tile[i / TILE_W][i % TILE_W] = tile[i / TILE_W][i % TILE_W] * 2 + 1;
    ptx::fence_proxy_async(ptx::space_shared);
    __syncthreads();
    if (threadIdx.x == 0) {
        const int at[2] = {x, y};
        ptx::cp_async_bulk_tensor(ptx::space_global, ptx::space_shared, &out, at, &tile);
        ptx::cp_async_bulk_commit_group();
        ptx::cp_async_bulk_wait_group_read(ptx::n32_t<0>());
    }
}

int main() {
    const int W = 100, H = 50, PITCH = 128;
    std::vector<float> host = compat::noise(PITCH * H);
    float *in = compat::device(host), *out = compat::zeros<float>(PITCH * H);
    auto encode = compat::driver<decltype(&cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
    CUtensorMap maps[2];
    for (int m = 0; m < 2; m++) {
        cuuint64_t size[2] = {W, H}, stride[1] = {PITCH * sizeof(float)};
        cuuint32_t box[2] = {TILE_W, TILE_H}, step[2] = {1, 1};
        CHECK(encode(&maps[m], CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, m ? out : in, size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                     CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
    }
    cuuint64_t size[2] = {W, H}, stride[1] = {13};
    cuuint32_t box[2] = {TILE_W, TILE_H}, step[2] = {1, 1};
    CUtensorMap bad;
    save("bad stride", int(encode(&bad, CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 2, in, size, stride, box, step, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                  CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)));
    through_tiles<<<dim3((W + TILE_W - 1) / TILE_W, (H + TILE_H - 1) / TILE_H), 64>>>(maps[0], maps[1]);
    CHECK(cudaGetLastError());
    CHECK(cudaDeviceSynchronize());
    std::vector<float> found = compat::fetch(out, PITCH * H);
    for (int y = 0; y < H; y++)
        for (int x = 0; x < PITCH; x++) EXPECT(found[y * PITCH + x] == (x < W ? host[y * PITCH + x] * 2 + 1 : 0));
    save("out", found);
    std::printf("tma: done\n");
}
