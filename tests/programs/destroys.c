// SPDX-License-Identifier: Apache-2.0 OR MIT
// One thread destroys what others are using and makes it anew, which no program should do: their calls may fail, and nothing else
// does. NVIDIA's library leaves it open what comes of that, so natively it is not tried. Argument: how often (default 300).
#include "common.h"
#include <pthread.h>
#include <sched.h>

enum { N = 1024, USERS = 3 };

static CUfunction increment;
static CUdeviceptr memory;
static uint32_t by = 1, n = N;

// What is destroyed. The users take whatever is there.
static struct {
    CUevent volatile event;
    CUstream volatile stream;
    CUmodule volatile module;
    CUfunction volatile function;
    CUgraph volatile graph;
    CUgraphExec volatile exec;
    CUcontext volatile context;
} shared;

static CUresult increment_on(CUfunction function, CUstream stream) {
    void *params[] = {&memory, &by, &n};
    return cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, stream, params, NULL);
}

static void make_event(void) {
    CUevent event;
    CHECK(cuEventCreate(&event, 0));
    shared.event = event;
}
static void destroy_event(void) { CHECK(cuEventDestroy_v2(shared.event)); }
static CUresult use_event(CUstream own) {
    CUresult result = cuEventRecord(shared.event, own);
    cuEventSynchronize(shared.event);
    cuStreamWaitEvent(own, shared.event, 0);
    cuEventQuery(shared.event);
    return result;
}

static void make_stream(void) {
    CUstream stream;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    shared.stream = stream;
}
static void destroy_stream(void) { CHECK(cuStreamDestroy_v2(shared.stream)); }
static CUresult use_stream(CUstream own) {
    (void)own;
    static __thread uint32_t word[N];
    CUresult result = cuMemcpyHtoDAsync_v2(memory, word, sizeof word, shared.stream);
    increment_on(increment, shared.stream);
    cuMemcpyDtoHAsync_v2(word, memory, sizeof word, shared.stream);
    cuStreamSynchronize(shared.stream);
    cuStreamQuery(shared.stream);
    return result;
}

static void make_module(void) {
    CUmodule made;
    CUfunction function;
    CHECK(cuModuleLoadData(&made, kernels_ptx));
    CHECK(cuModuleGetFunction(&function, made, "increment"));
    shared.module = made;
    shared.function = function;
}
static void destroy_module(void) { CHECK(cuModuleUnload(shared.module)); }
static CUresult use_module(CUstream own) {
    increment_on(shared.function, own);
    return increment_on(shared.function, own);
}

static void make_graph(void) {
    CUstream stream;
    CUgraph graph;
    CUgraphExec exec;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_RELAXED));
    CHECK(increment_on(increment, stream));
    CHECK(increment_on(increment, stream));
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    CHECK(cuStreamDestroy_v2(stream));
    shared.graph = graph;
    shared.exec = exec;
}
static void destroy_graph(void) {
    CHECK(cuGraphExecDestroy(shared.exec));
    CHECK(cuGraphDestroy(shared.graph));
}
static CUresult use_graph(CUstream own) {
    cuGraphLaunch(shared.exec, own);
    return cuGraphLaunch(shared.exec, own);
}

static void make_context(void) {
    CUcontext made;
    CHECK(cuCtxCreate_v2(&made, 0, device));
    CHECK(cuCtxSetCurrent(context));
    shared.context = made;
}
static void destroy_context(void) { CHECK(cuCtxDestroy_v2(shared.context)); }
static CUresult use_context(CUstream own) {
    CUstream stream;
    CUdeviceptr p;
    CUresult result = cuCtxSetCurrent(shared.context);
    if (result == CUDA_SUCCESS)
        result = cuMemAlloc_v2(&p, N);
    if (result == CUDA_SUCCESS) {
        cuMemsetD32Async(p, 1, N / 4, NULL);
        if (cuStreamCreate(&stream, 0) == CUDA_SUCCESS) {
            cuMemsetD32Async(p, 2, N / 4, stream);
            cuStreamSynchronize(stream);
            cuStreamDestroy_v2(stream);
        }
        cuStreamSynchronize(NULL);
        cuMemFree_v2(p);
    }
    CHECK(cuCtxSetCurrent(context));
    cuStreamSynchronize(own);
    return result;
}

static const struct kind {
    const char *name;
    void (*make)(void), (*destroy)(void);
    CUresult (*use)(CUstream own);
    // How often it is made, beside the others.
    int part;
} kinds[] = {
    {"event", make_event, destroy_event, use_event, 1},
    {"stream", make_stream, destroy_stream, use_stream, 1},
    {"module", make_module, destroy_module, use_module, 2},
    {"graph", make_graph, destroy_graph, use_graph, 2},
    {"context", make_context, destroy_context, use_context, 10},
};
static const struct kind *volatile kind;
static volatile int ending;
// How often a use was taken.
static _Atomic long uses;

static void *user(void *nothing) {
    (void)nothing;
    CUstream own;
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuStreamCreate(&own, CU_STREAM_NON_BLOCKING));
    while (!ending) {
        uses += kind->use(own) == CUDA_SUCCESS;
        cuStreamSynchronize(own);
    }
    CHECK(cuStreamDestroy_v2(own));
    return NULL;
}

// All is as it was, in this thread and on a new stream.
static void all_is_right(void) {
    static uint32_t got[N];
    CUstream stream;
    size_t free_bytes, total;
    // What the others' calls came to is nobody's now.
    cuCtxSynchronize();
    CHECK(cuCtxSynchronize());
    CHECK(cuMemGetInfo_v2(&free_bytes, &total));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemsetD32Async(memory, 41, N, stream));
    void *params[] = {&memory, &by, &n};
    CHECK(cuLaunchKernel(increment, N / 256, 1, 1, 256, 1, 1, 0, stream, params, NULL));
    CHECK(cuMemcpyDtoHAsync_v2(got, memory, sizeof got, stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuStreamDestroy_v2(stream));
    for (int i = 0; i < N; i++)
        EXPECT(got[i] == 42, "after %s: element %d is %u", kind->name, i, got[i]);
}

int main(int argc, char **argv) {
    long times = argument(argc, argv, 1, 300);
    if (!over_vgpu()) {
        printf("destroys: not tried natively\n");
        return 0;
    }
    setup();
    increment = kernel("increment");
    memory = device_alloc(N * sizeof(uint32_t));
    for (kind = kinds; kind < kinds + sizeof kinds / sizeof *kinds; kind++) {
        pthread_t users[USERS];
        ending = 0;
        kind->make();
        for (int i = 0; i < USERS; i++)
            EXPECT(pthread_create(&users[i], NULL, user, NULL) == 0, "no thread %d", i);
        for (long i = 0; i < times / kind->part; i++) {
            // Somebody comes through in between.
            for (long before = uses; uses == before;)
                sched_yield();
            kind->destroy();
            kind->make();
        }
        ending = 1;
        for (int i = 0; i < USERS; i++)
            pthread_join(users[i], NULL);
        kind->destroy();
        all_is_right();
        printf("destroys: %s, %ld times\n", kind->name, times / kind->part);
    }
    printf("destroys: all is right\n");
    return 0;
}
