// SPDX-License-Identifier: Apache-2.0 OR MIT
// Work whose every result is one number whenever and however often it is stopped: kernels that follow each other, a graph,
// atomics, and all of these at once on streams that wait for one another. Prints a hash of each buffer.
// Arguments: iterations of a kernel (default 10,000), blocks (default 4), threads of a block (default 64), rounds (default 4),
// atomics of a thread (default 100).
#include "common.h"

enum { STREAMS = 4, BINS = 64 };

static uint64_t iterations, drawn;
static unsigned blocks, threads;
static long rounds;
static size_t count;
static CUfunction work_on, tally, increment;
static void *host;

// FNV-1a, of 64 bits.
static uint64_t hash_of(const void *data, size_t bytes) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ ((const unsigned char *)data)[i]) * 0x100000001b3u;
    return hash;
}

static void tell(const char *name, CUdeviceptr d, size_t bytes) {
    CHECK(cuMemcpyDtoH_v2(host, d, bytes));
    printf("exact: %s %016llx\n", name, (unsigned long long)hash_of(host, bytes));
}

// A buffer that `work_on` can go on from.
static CUdeviceptr fresh(void) {
    CUdeviceptr d = device_alloc(count * sizeof(uint64_t));
    for (size_t i = 0; i < count; i++)
        ((uint64_t *)host)[i] = work_result(i, 0);
    CHECK(cuMemcpyHtoD_v2(d, host, count * sizeof(uint64_t)));
    return d;
}

static CUdeviceptr fresh_bins(void) {
    CUdeviceptr d = device_alloc(BINS * sizeof(uint32_t));
    CHECK(cuMemsetD32_v2(d, 0, BINS));
    return d;
}

static void launch_work(CUdeviceptr d, unsigned with_blocks, CUstream stream) {
    void *params[] = {&d, &iterations};
    CHECK(cuLaunchKernel(work_on, with_blocks, 1, 1, threads, 1, 1, 0, stream, params, NULL));
}

static void launch_tally(CUdeviceptr d, CUstream stream) {
    void *params[] = {&d, &drawn};
    CHECK(cuLaunchKernel(tally, blocks, 1, 1, threads, 1, 1, 0, stream, params, NULL));
}

static void launch_increment(CUdeviceptr d, uint32_t by, CUstream stream) {
    uint32_t n = (uint32_t)count;
    void *params[] = {&d, &by, &n};
    CHECK(cuLaunchKernel(increment, (n + 255) / 256, 1, 1, 256, 1, 1, 0, stream, params, NULL));
}

// Two long kernels, a short one and a copy as a graph.
static CUgraphExec graph_of(CUdeviceptr from, CUdeviceptr to, CUstream stream) {
    CUgraph graph;
    CUgraphExec exec;
    CHECK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_GLOBAL));
    launch_work(from, blocks, stream);
    launch_increment(from, 7, stream);
    launch_work(from, blocks, stream);
    CHECK(cuMemcpyDtoDAsync_v2(to, from, count * sizeof(uint64_t), stream));
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CHECK(cuGraphDestroy(graph));
    return exec;
}

static void at_once(CUstream *streams) {
    CUdeviceptr own = fresh(), from = fresh(), to = fresh(), baton = fresh(), bins = fresh_bins();
    CUgraphExec exec = graph_of(from, to, streams[1]);
    CUevent handed[STREAMS];
    for (int i = 0; i < STREAMS; i++)
        CHECK(cuEventCreate(&handed[i], CU_EVENT_DISABLE_TIMING));
    CHECK(cuCtxSynchronize());
    for (long round = 0; round < rounds; round++) {
        launch_work(own, blocks, streams[0]);
        CHECK(cuGraphLaunch(exec, streams[1]));
        launch_tally(bins, streams[2]);
        // A buffer that goes from stream to stream: right only in this order.
        for (int i = 0; i < STREAMS; i++) {
            if (round > 0 || i > 0)
                CHECK(cuStreamWaitEvent(streams[i], handed[(i + STREAMS - 1) % STREAMS], 0));
            launch_work(baton, (blocks + 3) / 4, streams[i]);
            launch_increment(baton, (uint32_t)i + 1, streams[i]);
            CHECK(cuEventRecord(handed[i], streams[i]));
        }
    }
    CHECK(cuCtxSynchronize());
    tell("streams", own, count * sizeof(uint64_t));
    tell("streams-graph", to, count * sizeof(uint64_t));
    tell("streams-atomics", bins, BINS * sizeof(uint32_t));
    tell("streams-baton", baton, count * sizeof(uint64_t));
}

int main(int argc, char **argv) {
    iterations = (uint64_t)argument(argc, argv, 1, 10000);
    blocks = (unsigned)argument(argc, argv, 2, 4);
    threads = (unsigned)argument(argc, argv, 3, 64);
    rounds = argument(argc, argv, 4, 4);
    drawn = (uint64_t)argument(argc, argv, 5, 100);
    setup();
    count = (size_t)blocks * threads;
    size_t bytes = count * sizeof(uint64_t) > BINS * sizeof(uint32_t) ? count * sizeof(uint64_t) : BINS * sizeof(uint32_t);
    host = malloc(bytes);
    EXPECT(host, "no memory for %zu bytes", bytes);
    work_on = kernel("work_on");
    tally = kernel("tally");
    increment = kernel("increment");
    CUstream streams[STREAMS];
    for (int i = 0; i < STREAMS; i++)
        CHECK(cuStreamCreate(&streams[i], CU_STREAM_NON_BLOCKING));
    CUdeviceptr filled = fresh(), from = fresh(), to = fresh(), bins = fresh_bins();
    CUgraphExec exec = graph_of(from, to, streams[0]);
    CHECK(cuCtxSynchronize());
    printf("exact: running\n");
    double start = seconds();

    for (long round = 0; round < rounds; round++)
        launch_work(filled, blocks, streams[0]);
    CHECK(cuStreamSynchronize(streams[0]));
    tell("kernels", filled, count * sizeof(uint64_t));
    // The first one's results are known without a GPU as well.
    for (size_t i = 0; i < count; i++)
        EXPECT(((uint64_t *)host)[i] == work_result(i, iterations * (uint64_t)rounds), "thread %zu computed %#llx", i,
               (unsigned long long)((uint64_t *)host)[i]);

    for (long round = 0; round < rounds; round++)
        CHECK(cuGraphLaunch(exec, streams[0]));
    CHECK(cuStreamSynchronize(streams[0]));
    tell("graph", to, count * sizeof(uint64_t));

    for (long round = 0; round < rounds; round++)
        launch_tally(bins, streams[0]);
    CHECK(cuStreamSynchronize(streams[0]));
    tell("atomics", bins, BINS * sizeof(uint32_t));

    at_once(streams);
    printf("exact: done in %.6f s\n", seconds() - start);
    return 0;
}
