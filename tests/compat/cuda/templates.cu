// compat: nvcc --extended-lambda
// compat: limit 90
// Thrust and CUB: sorting, scanning, reducing, selecting.
#include "compat.h"
#include <cub/cub.cuh>
#include <thrust/count.h>
#include <thrust/device_vector.h>
#include <thrust/host_vector.h>
#include <thrust/inner_product.h>
#include <thrust/scan.h>
#include <thrust/sequence.h>
#include <thrust/sort.h>
#include <thrust/unique.h>

int main() {
    const int N = 200000;
    std::vector<unsigned> keys(N);
    for (int i = 0; i < N; i++) keys[i] = unsigned(i) * 2654435761u % 100003;
    thrust::device_vector<unsigned> d(keys.begin(), keys.end()), values(N);
    thrust::sequence(values.begin(), values.end());
    thrust::stable_sort_by_key(d.begin(), d.end(), values.begin());
    EXPECT(thrust::is_sorted(d.begin(), d.end()));
    std::vector<unsigned> sorted(N);
    thrust::copy(values.begin(), values.end(), sorted.begin());
    save("order", sorted);
    thrust::exclusive_scan(d.begin(), d.end(), values.begin());
    thrust::copy(values.begin(), values.end(), sorted.begin());
    save("scan", sorted);
    unsigned odd = thrust::count_if(d.begin(), d.end(), [] __device__(unsigned x) { return x % 2 == 1; });
    save("odd", odd);
    save("inner product", thrust::inner_product(d.begin(), d.end(), values.begin(), 0u));
    auto end = thrust::unique(d.begin(), d.end());
    save("unique", int(end - d.begin()));

    std::vector<float> noise = compat::noise(N);
    float *in = compat::device(noise), *out = compat::zeros<float>(N);
    int *count = compat::zeros<int>(1);
    void *scratch = nullptr;
    size_t bytes = 0;
    CHECK(cub::DeviceReduce::Sum(scratch, bytes, in, out, N));
    CHECK(cudaMalloc(&scratch, bytes));
    CHECK(cub::DeviceReduce::Sum(scratch, bytes, in, out, N));
    save("sum", compat::fetch(out, 1));
    CHECK(cudaFree(scratch));
    scratch = nullptr;
    auto positive = [] __device__(float x) { return x > 0.25f; };
    CHECK(cub::DeviceSelect::If(scratch, bytes, in, out, count, N, positive));
    CHECK(cudaMalloc(&scratch, bytes));
    CHECK(cub::DeviceSelect::If(scratch, bytes, in, out, count, N, positive));
    int selected = compat::fetch(count, 1)[0];
    save("selected", compat::fetch(out, selected));
    CHECK(cudaFree(scratch));
    scratch = nullptr;
    CHECK(cub::DeviceRadixSort::SortKeysDescending(scratch, bytes, in, out, N));
    CHECK(cudaMalloc(&scratch, bytes));
    CHECK(cub::DeviceRadixSort::SortKeysDescending(scratch, bytes, in, out, N));
    save("descending", compat::fetch(out, N));
    std::printf("templates: done\n");
}
