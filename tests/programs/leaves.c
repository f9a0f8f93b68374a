// SPDX-License-Identifier: Apache-2.0 OR MIT
// Memory of cuMemAlloc that is freed in the order of a stream counts until the stream has come there, and no longer, whatever other
// streams and contexts do. Argument: more than half of what the VM may have, in MiB (default 320).
#include "common.h"

enum { EQUAL = 1, ROUNDS = 4 };
CUresult cuMemFreeAsync(CUdeviceptr pointer, CUstream stream);

// A stream that waits for a word. Once the word is 1 it goes on.
static CUstream waiting(volatile uint32_t **word) {
    CUstream stream;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemHostAlloc((void **)word, sizeof **word, 0));
    **word = 0;
    return stream;
}

static void wait_on(CUstream stream, volatile uint32_t *word) {
    *word = 0;
    CHECK(cuStreamWaitValue32_v2(stream, (CUdeviceptr)(uintptr_t)word, 1, EQUAL));
}

// Another stream is busy, of another context, whose work is looked at on the way: what is allocated is this context's.
static void beside_another(CUstream stream, volatile uint32_t *word, size_t bytes) {
    CUcontext other;
    volatile uint32_t *others_word;
    CHECK(cuCtxCreate_v2(&other, 0, device));
    CUstream others = waiting(&others_word);
    CUdeviceptr small = device_alloc(4096), p, again;
    CHECK(cuCtxSetCurrent(context));
    p = device_alloc(bytes);
    wait_on(stream, word);
    CHECK(cuMemFreeAsync(p, stream));
    wait_on(others, others_word);
    CHECK(cuMemFreeAsync(small, others));
    *word = 1;
    CHECK(cuStreamSynchronize(stream));
    again = device_alloc(bytes);
    *others_word = 1;
    // It goes with its context if it is that one's.
    CHECK(cuCtxDestroy_v2(other));
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuMemsetD8_v2(again, 1, bytes));
    CHECK(cuMemFree_v2(again));
}

// A context is destroyed beside a capture that refuses to have memory freed: what it had is free.
static void a_context_in_a_capture(CUstream stream, size_t bytes) {
    CUcontext other;
    CUgraph graph;
    CHECK(cuCtxCreate_v2(&other, 0, device));
    device_alloc(bytes);
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_GLOBAL));
    CHECK(cuCtxDestroy_v2(other));
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphDestroy(graph));
    CHECK(cuMemFree_v2(device_alloc(bytes)));
}

int main(int argc, char **argv) {
    size_t bytes = (size_t)argument(argc, argv, 1, 320) << 20, before = 0, after = 0, total = 0;
    setup();
    volatile uint32_t *word;
    CUstream stream = waiting(&word);
    CHECK(cuMemGetInfo_v2(&before, &total));
    EXPECT(bytes > total / 2 && bytes < before, "%zu bytes of %zu, %zu of them free", bytes, total, before);
    for (int round = 0; round < ROUNDS; round++) {
        CUdeviceptr p = device_alloc(bytes), another;
        wait_on(stream, word);
        CHECK(cuMemFreeAsync(p, stream));
        CUresult result = cuMemAlloc_v2(&another, bytes);
        EXPECT(result == CUDA_ERROR_OUT_OF_MEMORY, "round %d: beside it %d was the answer", round, result);
        *word = 1;
        CHECK(cuStreamSynchronize(stream));
    }
    CHECK(cuMemGetInfo_v2(&after, &total));
    EXPECT(after == before, "%zu bytes are free, and %zu were", after, before);
    beside_another(stream, word, bytes);
    a_context_in_a_capture(stream, bytes);
    printf("leaves: all rounds right\n");
    return 0;
}
