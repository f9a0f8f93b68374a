// SPDX-License-Identifier: Apache-2.0 OR MIT
// What the basic calls cost, on whichever libcuda.so.1 is found. One figure per line: name, value, unit.
#include "common.h"

static double values[20000];

static void figure(const char *name, double value, const char *unit) {
    printf("%-28s %10.3f %s\n", name, value, unit);
}

static double bandwidth(size_t bytes, int times, CUdeviceptr d, void *host, int down, CUstream stream) {
    double best = 0;
    for (int repeat = 0; repeat < 3; repeat++) {
        CHECK(cuStreamSynchronize(stream));
        double start = seconds();
        for (int i = 0; i < times; i++) {
            if (down)
                CHECK(cuMemcpyDtoHAsync_v2(host, d, bytes, stream));
            else
                CHECK(cuMemcpyHtoDAsync_v2(d, host, bytes, stream));
        }
        CHECK(cuStreamSynchronize(stream));
        double rate = (double)bytes * times / (seconds() - start) * 1e-9;
        best = rate > best ? rate : best;
    }
    return best;
}

// A kernel that was compiled a moment ago, as programs do that compile at run time: its module loaded, the kernel run once, and the
// module unloaded.
static void compiled_at_run_time(CUstream stream) {
    static const char ptx[] = ".version 7.0\n.target sm_75\n.address_size 64\n.visible .entry fresh() { ret; }\n";
    CUlinkState link;
    void *image;
    size_t bytes;
    CHECK(cuLinkCreate_v2(0, NULL, NULL, &link));
    CHECK(cuLinkAddData_v2(link, 1, (void *)ptx, sizeof ptx, "fresh", 0, NULL, NULL));
    CHECK(cuLinkComplete(link, &image, &bytes));
    for (int i = 0; i < 200; i++) {
        CUmodule loaded;
        CUfunction fresh;
        double start = seconds();
        CHECK(cuModuleLoadData(&loaded, image));
        CHECK(cuModuleGetFunction(&fresh, loaded, "fresh"));
        double middle = seconds();
        CHECK(cuLaunchKernel(fresh, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
        CHECK(cuStreamSynchronize(stream));
        double end = seconds();
        CHECK(cuModuleUnload(loaded));
        values[i] = (middle - start) * 1e6;
        values[1000 + i] = (end - middle) * 1e6;
        values[2000 + i] = (seconds() - end) * 1e6;
    }
    CHECK(cuLinkDestroy(link));
    figure("module_load_p50", percentile(values, 200, 0.5), "us");
    figure("first_launch_p50", percentile(values + 1000, 200, 0.5), "us");
    figure("module_unload_p50", percentile(values + 2000, 200, 0.5), "us");
}

int main(int argc, char **argv) {
    size_t large = (size_t)argument(argc, argv, 1, 256) << 20;
    setup();
    CUfunction null_kernel = kernel("null_kernel");
    CUstream stream;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    for (int i = 0; i < 2000; i++)
        CHECK(cuLaunchKernel(null_kernel, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
    CHECK(cuStreamSynchronize(stream));

    // Asynchronous launches: enough of them that the queue is full and the cost is the pipeline's.
    for (int repeat = 0; repeat < 5; repeat++) {
        int count = 20000;
        double start = seconds();
        for (int i = 0; i < count; i++)
            CHECK(cuLaunchKernel(null_kernel, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
        double submitted = seconds() - start;
        CHECK(cuStreamSynchronize(stream));
        values[repeat] = (seconds() - start) / count * 1e6;
        values[10 + repeat] = submitted / count * 1e6;
    }
    figure("launch_async", percentile(values, 5, 0.5), "us");
    figure("launch_async_submit", percentile(values + 10, 5, 0.5), "us");

    for (int i = 0; i < 20000; i++) {
        double start = seconds();
        CHECK(cuLaunchKernel(null_kernel, 1, 1, 1, 1, 1, 1, 0, stream, NULL, NULL));
        CHECK(cuStreamSynchronize(stream));
        values[i] = (seconds() - start) * 1e6;
    }
    figure("launch_sync_p50", percentile(values, 20000, 0.5), "us");
    figure("launch_sync_p99", percentile(values, 20000, 0.99), "us");

    CUdeviceptr d = device_alloc(large);
    char small[4096] = {1};
    for (int i = 0; i < 2000; i++) {
        double start = seconds();
        CHECK(cuMemcpyHtoD_v2(d, small, sizeof small));
        CHECK(cuMemcpyDtoH_v2(small, d, sizeof small));
        values[i] = (seconds() - start) * 1e6;
    }
    figure("copy_4k_there_and_back_p50", percentile(values, 2000, 0.5), "us");

    void *pinned;
    CHECK(cuMemHostAlloc(&pinned, large, 0));
    memset(pinned, 1, large);
    figure("pinned_h2d", bandwidth(large, 8, d, pinned, 0, stream), "GB/s");
    figure("pinned_d2h", bandwidth(large, 8, d, pinned, 1, stream), "GB/s");
    void *pageable = malloc(large);
    EXPECT(pageable, "no memory");
    memset(pageable, 2, large);
    figure("pageable_h2d", bandwidth(large, 2, d, pageable, 0, stream), "GB/s");
    figure("pageable_d2h", bandwidth(large, 2, d, pageable, 1, stream), "GB/s");
    CHECK(cuMemFreeHost(pinned));
    for (int i = 0; i < 200; i++) {
        double start = seconds();
        CUdeviceptr p = device_alloc(1 << 20);
        double middle = seconds();
        CHECK(cuMemFree_v2(p));
        values[i] = (middle - start) * 1e6;
        values[1000 + i] = (seconds() - middle) * 1e6;
    }
    figure("alloc_1m_p50", percentile(values, 200, 0.5), "us");
    figure("free_1m_p50", percentile(values + 1000, 200, 0.5), "us");
    compiled_at_run_time(stream);
    return 0;
}
