// Clusters of blocks that read each other's shared memory; launch attributes; occupancy of clusters.
// compat: toolkit 12.0
#include "compat.h"
#include <cooperative_groups.h>
namespace cg = cooperative_groups;

__global__ void neighbours(int *out, int n) {
    extern __shared__ int mine[];
    cg::cluster_group cluster = cg::this_cluster();
    int rank = cluster.block_rank(), size = cluster.num_blocks();
    mine[threadIdx.x] = blockIdx.x * 1000 + threadIdx.x;
    if (threadIdx.x == 0) mine[blockDim.x] = 0;
    cluster.sync();
    int *next = cluster.map_shared_rank(mine, (rank + 1) % size);
    int value = next[blockDim.x - 1 - threadIdx.x];
    atomicAdd(cluster.map_shared_rank(&mine[blockDim.x], 0), 1);
    cluster.sync();
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = value + (rank == 0 && threadIdx.x == 0 ? mine[blockDim.x] * 100000 : 0);
}

__global__ void __cluster_dims__(2, 1, 1) fixed(int *out) {
    out[blockIdx.x] = cg::this_cluster().block_rank() * 10 + cg::this_cluster().num_blocks();
}

int main() {
    const int BLOCKS = 32, THREADS = 128, N = BLOCKS * THREADS;
    int *out = compat::zeros<int>(N);
    for (unsigned size : {1u, 2u, 4u, 8u}) {
        cudaLaunchConfig_t config = {};
        cudaLaunchAttribute attribute[1];
        config.gridDim = dim3(BLOCKS);
        config.blockDim = dim3(THREADS);
        config.dynamicSmemBytes = (THREADS + 1) * sizeof(int);
        attribute[0].id = cudaLaunchAttributeClusterDimension;
        attribute[0].val.clusterDim.x = size;
        attribute[0].val.clusterDim.y = attribute[0].val.clusterDim.z = 1;
        config.attrs = attribute;
        config.numAttrs = 1;
        int clusters = 0;
        CHECK(cudaOccupancyMaxActiveClusters(&clusters, neighbours, &config));
        EXPECT(clusters > 0);
        CHECK(cudaLaunchKernelEx(&config, neighbours, out, N));
        CHECK(cudaDeviceSynchronize());
        std::vector<int> found = compat::fetch(out, N);
        for (int i = 0; i < N; i++) {
            int block = i / THREADS, next = block / int(size) * int(size) + (block + 1) % int(size);
            int counted = i % (THREADS * int(size)) ? 0 : THREADS * int(size) * 100000;
            EXPECT(found[i] == next * 1000 + THREADS - 1 - i % THREADS + counted);
        }
        save("size " + std::to_string(size), found);
    }
    int largest = 0;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(BLOCKS);
    config.blockDim = dim3(THREADS);
    CHECK(cudaOccupancyMaxPotentialClusterSize(&largest, neighbours, &config));
    save("largest", largest);
    CHECK(cudaFuncSetAttribute(neighbours, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    CHECK(cudaOccupancyMaxPotentialClusterSize(&largest, neighbours, &config));
    save("largest that is not portable", largest);
    fixed<<<8, 32>>>(out);
    CHECK(cudaDeviceSynchronize());
    save("fixed", compat::fetch(out, 8));
    cudaFuncAttributes about;
    CHECK(cudaFuncGetAttributes(&about, fixed));
    save("width", about.requiredClusterWidth);
    fixed<<<7, 32>>>(out);
    save("not a multiple", cudaGetLastError());
    std::printf("cluster: done\n");
}
