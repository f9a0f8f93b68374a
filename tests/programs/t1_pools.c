// SPDX-License-Identifier: Apache-2.0 OR MIT
// Memory pools and allocation in the order of a stream.
#include "t1_memory.h"

static CUstream stream;

static void with_stream(void) {
    with_kernels();
    NEED(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
}

static CUmemPoolProps props_of_device(void) {
    CUmemPoolProps props = {.allocType = CU_MEM_ALLOCATION_TYPE_PINNED, .location = {CU_MEM_LOCATION_TYPE_DEVICE, device}};
    return props;
}

// Fills, changes and reads memory of 4 * n bytes in the order of the stream.
static int works(CUdeviceptr word, unsigned n) {
    unsigned by = 5, *got = malloc(4 * n), good = 0;
    void *parameters[] = {&word, &by, &n};
    NEED(cuMemsetD32Async(word, 7, n, stream));
    NEED(cuLaunchKernel(kernel_of(module, "increment"), (n + 255) / 256, 1, 1, 256, 1, 1, 0, stream, parameters, NULL));
    NEED(cuMemcpyDtoHAsync_v2(got, word, 4 * n, stream));
    NEED(cuStreamSynchronize(stream));
    for (unsigned i = 0; i < n; i++)
        good += got[i] == 12;
    free(got);
    return good == n;
}

static void default_pool(void) {
    with_stream();
    CUmemoryPool pool = NULL, again = NULL, current = NULL;
    TELL(cuDeviceGetDefaultMemPool(NULL, device));
    TELL(cuDeviceGetDefaultMemPool(&pool, 1000));
    TELL(cuDeviceGetDefaultMemPool(&pool, device));
    TELL(cuDeviceGetDefaultMemPool(&again, device));
    TELL(cuDeviceGetMemPool(&current, device));
    say("the same: %d %d", pool == again, pool == current);
    CUdeviceptr a = 0, b = 0;
    TELL(cuMemAllocAsync(NULL, 64, stream));
    TELL(cuMemAllocAsync(&a, (size_t)1 << 46, stream));
    TELL(cuMemAllocAsync(&a, 1 << 20, stream));
    TELL(cuMemAllocAsync(&b, 4000, NULL));
    say("works: %d %d", works(a, 1 << 18), works(b, 1000));
    TELL(cuMemcpyDtoD_v2(a, b, 4000));
    TELL(cuMemsetD8_v2(b, 1, 4000));
    TELL(cuMemFreeAsync(a, stream));
    TELL(cuMemFreeAsync(b, NULL));
    TELL(cuMemFreeAsync(b + 64, stream));
    TELL(cuMemFreeAsync(0, stream));
    TELL(cuMemFreeAsync(0, NULL));
    TELL(cuStreamSynchronize(stream));
    TELL(cuCtxSynchronize());
    // What is freed in order may be used by what was submitted before.
    NEED(cuMemAllocAsync(&a, 1 << 20, stream));
    NEED(cuMemsetD32Async(a, 3, 1 << 18, stream));
    keep_busy(a, stream, 20000000);
    TELL(cuMemFreeAsync(a, stream));
    TELL(cuStreamSynchronize(stream));
    TELL(cuMemAllocAsync_ptsz(&a, 100, NULL));
    TELL(cuMemFreeAsync_ptsz(a, NULL));
    TELL(cuCtxSynchronize());
}

static void freed_otherwise(void) {
    with_stream();
    CUdeviceptr a, b;
    NEED(cuMemAllocAsync(&a, 5000, stream));
    TELL(cuStreamSynchronize(stream));
    TELL(cuMemFree_v2(a));
    NEED(cuMemAlloc_v2(&b, 5000));
    say("works: %d", works(b, 1000));
    TELL(cuMemFreeAsync(b, stream));
    TELL(cuStreamSynchronize(stream));
    // Two streams: an event orders the use before the free.
    CUstream other;
    CUevent event;
    unsigned got = 0;
    NEED(cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    NEED(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    NEED(cuMemAllocAsync(&a, 4096, stream));
    NEED(cuEventRecord(event, stream));
    NEED(cuStreamWaitEvent(other, event, 0));
    TELL(cuMemsetD32Async(a, 77, 1024, other));
    TELL(cuMemcpyDtoHAsync_v2(&got, a + 4092, 4, other));
    NEED(cuEventRecord(event, other));
    NEED(cuStreamWaitEvent(stream, event, 0));
    TELL(cuMemFreeAsync(a, stream));
    TELL(cuStreamSynchronize(stream));
    TELL(cuStreamSynchronize(other));
    say("got %u", got);
}

// Memory of no pool is freed in the order of a stream as well: nothing else of the program waits for that.
static void freed_behind_a_wait(void) {
    enum { EQUAL = 1, ROUNDS = 4 };
    with_stream();
    CUdeviceptr freed[ROUNDS], other;
    volatile unsigned *word;
    unsigned sent = 9, got = 0;
    NEED(cuMemHostAlloc((void **)&word, sizeof *word, 0));
    NEED(cuMemAlloc_v2(&other, 4096));
    for (int round = 0; round < ROUNDS; round++)
        NEED(cuMemAlloc_v2(&freed[round], 4096));
    *word = 0;
    NEED(cuStreamWaitValue32_v2(stream, (CUdeviceptr)(uintptr_t)word, 1, EQUAL));
    for (int round = 0; round < ROUNDS; round++) {
        NEED(cuMemsetD8Async(freed[round], 1, 4096, stream));
        TELL(cuMemFreeAsync(freed[round], stream));
    }
    TELL(cuMemcpyHtoD_v2(other, &sent, sizeof sent));
    TELL(cuStreamQuery(stream));
    *word = 1;
    TELL(cuStreamSynchronize(stream));
    TELL(cuMemcpyDtoH_v2(&got, other, sizeof got));
    say("got %u", got);
    TELL(cuMemFreeAsync(other, NULL));
    TELL(cuCtxSynchronize());
}

static void own_pool(void) {
    with_stream();
    CUmemoryPool pool = NULL, current = NULL, standard = NULL;
    CUmemPoolProps props = props_of_device();
    TELL(cuMemPoolCreate(NULL, &props));
    TELL(cuMemPoolCreate(&pool, NULL));
    props.allocType = 0;
    TELL(cuMemPoolCreate(&pool, &props));
    props = props_of_device();
    props.location.id = 1000;
    TELL(cuMemPoolCreate(&pool, &props));
    props = props_of_device();
    TELL(cuMemPoolCreate(&pool, &props));
    TELL(cuDeviceSetMemPool(device, pool));
    TELL(cuDeviceGetMemPool(&current, device));
    TELL(cuDeviceGetDefaultMemPool(&standard, device));
    say("current %d, default %d", current == pool, standard == pool);
    CUdeviceptr a = 0, b = 0, c = 0;
    TELL(cuMemAllocAsync(&a, 1 << 20, stream));
    TELL(cuMemAllocFromPoolAsync(&b, 3 << 20, pool, stream));
    TELL(cuMemAllocFromPoolAsync(&c, 3 << 20, standard, stream));
    uint64_t used = 0, high = 0;
    TELL_VALUE(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used), used);
    TELL(cuMemFreeAsync(b, stream));
    TELL(cuStreamSynchronize(stream));
    TELL_VALUE(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &used), used);
    TELL_VALUE(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &high), high);
    high = 0;
    TELL(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &high));
    TELL_VALUE(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_HIGH, &high), high);
    TELL(cuMemPoolTrimTo(pool, 0));
    uint64_t threshold = 64 << 20;
    int reuse = 0;
    TELL(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold));
    threshold = 0;
    TELL_VALUE(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, &threshold), threshold);
    TELL(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES, &reuse));
    reuse = 9;
    TELL_VALUE(cuMemPoolGetAttribute(pool, CU_MEMPOOL_ATTR_REUSE_FOLLOW_EVENT_DEPENDENCIES, &reuse), reuse);
    TELL(cuMemPoolGetAttribute(pool, 0, &threshold));
    TELL(cuMemPoolGetAttribute(pool, 1000, &threshold));
    TELL(cuMemPoolSetAttribute(pool, CU_MEMPOOL_ATTR_USED_MEM_CURRENT, &threshold));
    CUmemLocation location = {CU_MEM_LOCATION_TYPE_DEVICE, device};
    int flags = 0;
    TELL_VALUE(cuMemPoolGetAccess(&flags, pool, &location), flags);
    CUmemAccessDesc access = {location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    TELL(cuMemPoolSetAccess(pool, &access, 1));
    say("works: %d %d", works(a, 1000), works(c, 1000));
    TELL(cuMemPoolDestroy(pool));
    TELL(cuDeviceGetMemPool(&current, device));
    say("default again: %d", current == standard);
    // What is allocated of it stays.
    say("works: %d", works(a, 1 << 18));
    TELL(cuMemFreeAsync(a, stream));
    TELL(cuMemFreeAsync(c, stream));
    TELL(cuStreamSynchronize(stream));
}

static void captured(void) {
    with_stream();
    CUdeviceptr a = 0, kept = 0;
    CUgraph graph;
    CUgraphExec exec;
    unsigned got = 0;
    void *pinned;
    NEED(cuMemAllocHost_v2(&pinned, 4));
    NEED(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_GLOBAL));
    TELL(cuMemAllocAsync(&a, 1 << 20, stream));
    TELL(cuMemAllocAsync(&kept, 4096, stream));
    TELL(cuMemsetD32Async(a, 41, 1 << 18, stream));
    TELL(cuMemcpyDtoDAsync_v2(kept, a + 4, 4096, stream));
    TELL(cuMemcpyDtoHAsync_v2(pinned, a, 4, stream));
    TELL(cuMemFreeAsync(a, stream));
    TELL(cuStreamEndCapture(stream, &graph));
    TELL(cuGraphInstantiateWithFlags(&exec, graph, 0));
    TELL(cuGraphLaunch(exec, stream));
    TELL(cuStreamSynchronize(stream));
    say("pinned %u", *(unsigned *)pinned);
    TELL(cuMemcpyDtoH_v2(&got, kept + 4092, 4));
    say("kept %u", got);
    TELL(cuMemFreeAsync(kept, stream));
    *(unsigned *)pinned = 0;
    TELL(cuGraphLaunch(exec, stream));
    TELL(cuStreamSynchronize(stream));
    say("pinned %u", *(unsigned *)pinned);
    TELL(cuMemFree_v2(kept));
    TELL(cuGraphExecDestroy(exec));
    TELL(cuGraphDestroy(graph));
    TELL(cuMemFreeHost(pinned));
}

static void many(void) {
    with_stream();
    CUdeviceptr at[200];
    int made = 0, freed = 0, right = 0;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 200; i++) {
            made += cuMemAllocAsync(&at[i], 1000 * (i + 1), stream) == CUDA_SUCCESS;
            cuMemsetD8Async(at[i], i, 1000 * (i + 1), stream);
        }
        for (int i = 0; i < 200; i++) {
            unsigned char got = 0;
            cuMemcpyDtoHAsync_v2(&got, at[i] + 1000 * (i + 1) - 1, 1, stream);
            NEED(cuStreamSynchronize(stream));
            right += got == i;
            freed += cuMemFreeAsync(at[i], stream) == CUDA_SUCCESS;
        }
    }
    TELL(cuStreamSynchronize(stream));
    say("made %d, right %d, freed %d", made, right, freed);
}

int main(int argc, char **argv) {
    static const struct section sections[] = {
        SECTION(default_pool), SECTION(freed_otherwise), SECTION(freed_behind_a_wait), SECTION(own_pool), SECTION(captured), SECTION(many),
    };
    return RUN_SECTIONS(sections);
}
