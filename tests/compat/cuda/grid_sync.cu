// compat: nvcc -rdc=true
// A cooperative launch: all blocks wait for each other.
#include "compat.h"
#include <cooperative_groups.h>
#include <cooperative_groups/reduce.h>
namespace cg = cooperative_groups;

__global__ void sums(const int *data, int n, int *out) {
    cg::thread_block_tile<32> tile = cg::tiled_partition<32>(cg::this_thread_block());
    int own = 0;
    for (int i = cg::this_grid().thread_rank(); i < n; i += cg::this_grid().size()) own += data[i];
    own = cg::reduce(tile, own, cg::plus<int>());
    if (tile.thread_rank() == 0) atomicAdd(out, own);
}

// Each element is read a round before it is written by another one.
__global__ void shift(const int *in, int *out, int n) {
    cg::grid_group grid = cg::this_grid();
    for (int round = 0; round < 8; round++) {
        const int *from = round & 1 ? out : in;
        int *to = round & 1 ? const_cast<int *>(in) : out;
        for (int i = grid.thread_rank(); i < n; i += grid.size()) to[i] = from[(i + 1) % n] + 1;
        grid.sync();
    }
}

int main() {
    int supported = 0, per_multiprocessor = 0, multiprocessors = 0, n = 50000;
    CHECK(cudaDeviceGetAttribute(&supported, cudaDevAttrCooperativeLaunch, 0));
    CHECK(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
    EXPECT(supported);
    CHECK(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, shift, 256, 0));
    save("blocks", per_multiprocessor);
    std::vector<int> host(n);
    for (int i = 0; i < n; i++) host[i] = i * 7 % 1001;
    int *in = compat::device(host), *out = compat::zeros<int>(n);
    const int *in_argument = in;
    void *arguments[] = {&in_argument, &out, &n};
    dim3 grid(per_multiprocessor * multiprocessors);
    CHECK(cudaLaunchCooperativeKernel((void *)shift, grid, dim3(256), arguments, 0, 0));
    CHECK(cudaDeviceSynchronize());
    std::vector<int> found = compat::fetch(in, n);
    for (int i = 0; i < n; i++) EXPECT(found[i] == host[(i + 8) % n] + 8);
    save("shifted", found);
    save("too many blocks", cudaLaunchCooperativeKernel((void *)shift, dim3(grid.x + 1), dim3(256), arguments, 0, 0));
    cudaGetLastError();
    int *sum = compat::zeros<int>(1);
    sums<<<20, 128>>>(in, n, sum);
    int expected = 0;
    for (int value : found) expected += value;
    EXPECT(compat::fetch(sum, 1)[0] == expected);
    std::printf("grid_sync: done\n");
}
