// SPDX-License-Identifier: Apache-2.0 OR MIT
// A stream's work captured into a graph, and the graph run many times.
#include "common.h"
#include "memory_abi.h"
#include <pthread.h>
#include <stdatomic.h>

enum { N = 4096, LAUNCHES = 10, REPLAYS = 20, ROUNDS = 200 };

static CUcontext shared;
static CUdeviceptr source;

// Whether a call succeeded, which may also be forbidden while another thread captures.
static int may(CUresult result, const char *what) {
    EXPECT(result == CUDA_SUCCESS || result == 900 || result == 901, "%s gave %d", what, result);
    return result == CUDA_SUCCESS;
}

// Captures, over and over, while another thread does and makes it fail: each wait of one is forbidden while the other captures.
// Whatever comes of a capture, its stream is good for the next; and the graph of one that fails, which goes with it, is not touched
// (the software GPU ends a process that does, as NVIDIA's library may). Natively that library does so by itself, in one run of five.
static void *captures(void *unused) {
    CHECK(cuCtxSetCurrent(shared));
    CUstream stream;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    uint32_t *there = malloc(4096);
    for (int round = 0; round < ROUNDS; round++) {
        CUgraph graph = NULL;
        CUgraphExec exec;
        CHECK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_GLOBAL));
        may(cuMemcpyDtoHAsync_v2(there, source, 4096, stream), "the copy");
        if (!may(cuStreamEndCapture(stream, &graph), "the end of the capture"))
            continue;
        if (may(cuGraphInstantiateWithFlags(&exec, graph, 0), "making it executable")) {
            if (may(cuGraphLaunch(exec, stream), "the launch"))
                may(cuStreamSynchronize(stream), "the wait");
            may(cuGraphExecDestroy(exec), "its end");
        }
        may(cuGraphDestroy(graph), "the graph's end");
    }
    return unused;
}

static atomic_int capturing_threads;

// Makes, frees and waits meanwhile, of which much is forbidden beside a capture, and ends it.
static void *disturbs(void *unused) {
    CHECK(cuCtxSetCurrent(shared));
    CUstream stream;
    CUevent event;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    while (atomic_load(&capturing_threads) != 0) {
        CUdeviceptr p;
        may(cuMemsetD8Async(source, 1, 4096, stream), "a fill");
        may(cuEventRecord(event, stream), "an event");
        if (may(cuMemAlloc_v2(&p, 4096), "memory"))
            may(cuMemFree_v2(p), "freeing it");
        if (may(cuMemAllocAsync(&p, 4096, stream), "a stream's memory"))
            may(cuMemFreeAsync(p, stream), "freeing a stream's");
        may(cuEventSynchronize(event), "an event's wait");
        may(cuStreamSynchronize(stream), "a stream's wait");
        may(cuMemcpyDtoH_v2(&p, source, sizeof p), "a synchronous copy");
        may(cuCtxSynchronize(), "the context's wait");
    }
    return unused;
}

static void at_once(void) {
    CHECK(cuCtxGetCurrent(&shared));
    source = device_alloc(4096);
    pthread_t threads[2], other;
    atomic_store(&capturing_threads, 2);
    for (int i = 0; i < 2; i++)
        EXPECT(pthread_create(&threads[i], NULL, captures, NULL) == 0, "no thread");
    EXPECT(pthread_create(&other, NULL, disturbs, NULL) == 0, "no thread");
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        atomic_fetch_sub(&capturing_threads, 1);
    }
    pthread_join(other, NULL);
}

// A stream of another context takes part, if that may be: it is an ordinary one again when the capture has ended.
static void in_two_contexts(void) {
    CUcontext other;
    CUstream stream, others;
    CUevent event, others_event;
    CUgraph graph;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CHECK(cuCtxCreate_v2(&other, 0, device));
    CHECK(cuStreamCreate(&others, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&others_event, CU_EVENT_DISABLE_TIMING));
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_RELAXED));
    CHECK(cuEventRecord(event, stream));
    if (cuStreamWaitEvent(others, event, 0) == CUDA_SUCCESS) {
        CHECK(cuEventRecord(others_event, others));
        CHECK(cuStreamWaitEvent(stream, others_event, 0));
        CHECK(cuStreamEndCapture(stream, &graph));
        CHECK(cuGraphDestroy(graph));
    } else if (cuStreamEndCapture(stream, &graph) == CUDA_SUCCESS) {
        CHECK(cuGraphDestroy(graph));
    }
    CHECK(cuStreamSynchronize(others));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuStreamDestroy_v2(stream));
    CHECK(cuEventDestroy_v2(event));
    CHECK(cuCtxDestroy_v2(other));
}

int main(void) {
    setup();
    CUstream stream;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CUdeviceptr p = device_alloc(N * sizeof(uint32_t));
    CHECK(cuMemsetD32_v2(p, 0, N));
    CHECK(cuCtxSynchronize());
    CUfunction increment = kernel("increment");
    uint32_t by = 3, n = N;
    void *params[] = {&p, &by, &n};
    int capturing = -1;
    CHECK(cuStreamIsCapturing(stream, &capturing));
    EXPECT(capturing == 0, "status %d before", capturing);
    CHECK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_GLOBAL));
    CHECK(cuStreamIsCapturing(stream, &capturing));
    EXPECT(capturing == 1, "status %d during", capturing);
    for (int i = 0; i < LAUNCHES; i++)
        CHECK(cuLaunchKernel(increment, N / 256, 1, 1, 256, 1, 1, 0, stream, params, NULL));
    CUgraph graph;
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuStreamIsCapturing(stream, &capturing));
    EXPECT(capturing == 0, "status %d after", capturing);
    CUgraphExec exec;
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CHECK(cuGraphDestroy(graph));
    by = 1000; // what was captured stays as it was
    for (int i = 0; i < REPLAYS; i++)
        CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
    static uint32_t got[N];
    CHECK(cuMemcpyDtoH_v2(got, p, sizeof got));
    for (int i = 0; i < N; i++)
        EXPECT(got[i] == 3u * LAUNCHES * REPLAYS, "element %d is %u, should be %u", i, got[i], 3u * LAUNCHES * REPLAYS);
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuStreamDestroy_v2(stream));
    in_two_contexts();
    if (over_vgpu())
        at_once();
    printf("capture: %d launches replayed %d times, right\n", LAUNCHES, REPLAYS);
    return 0;
}
