// SPDX-License-Identifier: Apache-2.0 OR MIT
// Streams and events, and what a capture forbids.
#include "t0.h"

static void creating_streams(void) {
    with_kernels();
    CUstream stream = NULL, other;
    CUdeviceptr word;
    NEED(cuMemAlloc_v2(&word, 64));
    TELL(cuStreamCreate(NULL, 0));
    TELL(cuStreamCreate(&stream, 2));
    TELL(cuStreamCreate(&stream, 4));
    TELL(cuStreamCreate(&stream, 0xffffffff));
    TELL(cuStreamCreate(&stream, 1));
    TELL(cuStreamQuery(stream));
    TELL(cuStreamSynchronize(stream));
    keep_busy(word, stream, WHILE_BUSY);
    TELL(cuStreamQuery(stream));
    TELL(cuStreamQuery(NULL));
    TELL(cuStreamSynchronize(stream));
    TELL(cuStreamQuery(stream));
    TELL(cuStreamCreate(&other, 0));
    keep_busy(word, other, WHILE_BUSY);
    // The legacy stream waits for blocking ones.
    TELL(cuStreamQuery(other));
    TELL(cuStreamQuery(NULL));
    TELL(cuStreamQuery((CUstream)1));
    TELL(cuStreamQuery((CUstream)2));
    TELL(cuStreamQuery_ptsz(NULL));
    TELL(cuStreamSynchronize(NULL));
    TELL(cuStreamQuery(other));
    TELL(cuStreamSynchronize_ptsz(NULL));
    TELL(cuStreamSynchronize_ptsz(other));
    // Destroying a busy one lets its work go on.
    NEED(cuMemsetD32_v2(word, 0, 1));
    NEED(cuCtxSynchronize());
    keep_busy(word, other, WHILE_BUSY);
    TELL(cuStreamDestroy_v2(other));
    unsigned got = 0;
    TELL(cuCtxSynchronize());
    TELL(cuMemcpyDtoH_v2(&got, word, 4));
    say("the destroyed stream's kernel wrote %u", got);
    TELL(cuStreamDestroy_v2(stream));
    TELL(cuStreamDestroy_v2(NULL));
    TELL(cuStreamDestroy_v2((CUstream)1));
    TELL(cuStreamDestroy_v2((CUstream)2));
}

static void many_streams(void) {
    with_context();
    static CUstream all[300];
    CUdeviceptr words;
    unsigned got[300], wrong = 0;
    NEED(cuMemAlloc_v2(&words, sizeof got));
    for (int i = 0; i < 300; i++) {
        NEED(cuStreamCreate(&all[i], i % 2));
        NEED(cuMemsetD32Async(words + 4 * i, i, 1, all[i]));
    }
    NEED(cuCtxSynchronize());
    NEED(cuMemcpyDtoH_v2(got, words, sizeof got));
    for (unsigned i = 0; i < 300; i++) {
        wrong += got[i] != i;
        NEED(cuStreamDestroy_v2(all[i]));
    }
    say("300 streams: %u wrong", wrong);
}

static void events(void) {
    with_kernels();
    CUevent event = NULL, other = NULL, untimed = NULL;
    CUstream stream;
    CUdeviceptr word;
    float ms = -1;
    NEED(cuMemAlloc_v2(&word, 64));
    NEED(cuStreamCreate(&stream, 1));
    TELL(cuEventCreate(NULL, 0));
    for (unsigned flags = 0; flags < 9; flags++) {
        CUresult made = cuEventCreate(&event, flags);
        say("cuEventCreate, flags %u: %s", flags, result_name(made));
        if (made == CUDA_SUCCESS)
            TELL(cuEventDestroy_v2(event));
    }
    TELL(cuEventCreate(&event, 0x10));
    TELL(cuEventCreate(&event, 0xffffffff));
    NEED(cuEventCreate(&event, 0));
    NEED(cuEventCreate(&other, 1));
    NEED(cuEventCreate(&untimed, 2));
    // Never recorded.
    TELL(cuEventQuery(event));
    TELL(cuEventSynchronize(event));
    TELL(cuStreamWaitEvent(stream, event, 0));
    TELL(cuEventElapsedTime(&ms, event, other));
    TELL(cuEventElapsedTime_v2(&ms, event, other));
    TELL(cuEventElapsedTime(&ms, event, event));
    TELL(cuEventRecord(event, stream));
    TELL(cuEventSynchronize(event));
    TELL(cuEventQuery(event));
    TELL(cuEventElapsedTime(&ms, event, other));
    TELL(cuEventElapsedTime(&ms, other, event));
    TELL(cuEventElapsedTime(&ms, event, event));
    say("to itself: %f", ms);
    keep_busy(word, stream, WHILE_BUSY);
    TELL(cuEventRecord(other, stream));
    TELL(cuEventQuery(other));
    TELL(cuEventElapsedTime(&ms, event, other));
    TELL(cuEventElapsedTime_v2(&ms, other, event));
    TELL(cuStreamWaitEvent(NULL, other, 0));
    TELL(cuStreamQuery(NULL));
    TELL(cuEventSynchronize(other));
    TELL(cuEventQuery(other));
    TELL(cuStreamSynchronize(NULL));
    TELL(cuEventElapsedTime(&ms, event, other));
    say("as long as the kernel: %d", ms >= WHILE_BUSY / 1e6 * 0.99 && ms < 60000);
    TELL(cuEventElapsedTime_v2(&ms, other, event));
    say("backwards: %d", ms < 0);
    TELL(cuEventElapsedTime(NULL, event, other));
    TELL(cuEventRecord(untimed, stream));
    TELL(cuEventSynchronize(untimed));
    TELL(cuEventElapsedTime(&ms, event, untimed));
    TELL(cuEventElapsedTime(&ms, untimed, event));
    TELL(cuEventElapsedTime_v2(&ms, untimed, untimed));
    // Recorded again while busy: it stands for the later place.
    keep_busy(word, stream, WHILE_BUSY);
    TELL(cuEventRecord(event, stream));
    TELL(cuEventQuery(event));
    TELL(cuEventRecord(event, (CUstream)2));
    TELL(cuEventSynchronize(event));
    TELL(cuStreamQuery(stream));
    TELL(cuStreamWaitEvent(stream, event, 1));
    TELL(cuStreamWaitEvent(stream, event, 2));
    TELL(cuStreamWaitEvent(stream, event, 0xffffffff));
    TELL(cuEventRecord_ptsz(event, NULL));
    TELL(cuEventSynchronize(event));
    TELL(cuStreamWaitEvent_ptsz(NULL, event, 0));
    TELL(cuStreamSynchronize_ptsz(NULL));
    keep_busy(word, stream, WHILE_BUSY);
    TELL(cuEventRecord(other, stream));
    TELL(cuEventDestroy_v2(other));
    TELL(cuStreamQuery(stream));
    TELL(cuStreamSynchronize(stream));
}

static void null_events(void) {
    with_context();
    float ms;
    CUevent event;
    NEED(cuEventCreate(&event, 0));
    TELL(cuEventQuery(NULL));
    TELL(cuEventSynchronize(NULL));
    TELL(cuEventRecord(NULL, NULL));
    TELL(cuEventDestroy_v2(NULL));
    TELL(cuStreamWaitEvent(NULL, NULL, 0));
    TELL(cuEventElapsedTime(&ms, NULL, event));
    TELL(cuEventElapsedTime(&ms, event, NULL));
}

// Order across streams.
static void order(void) {
    with_kernels();
    CUstream a, b;
    CUevent event;
    CUdeviceptr word;
    unsigned got;
    NEED(cuStreamCreate(&a, 1));
    NEED(cuStreamCreate(&b, 1));
    NEED(cuEventCreate(&event, 2));
    NEED(cuMemAlloc_v2(&word, 64));
    NEED(cuMemsetD32_v2(word, 0, 16));
    NEED(cuCtxSynchronize());
    for (int round = 0; round < 5; round++) {
        keep_busy(word + 4, a, WHILE_BUSY / 100);
        NEED(cuMemsetD32Async(word, 100 + round, 1, a));
        NEED(cuEventRecord(event, a));
        NEED(cuStreamWaitEvent(b, event, 0));
        NEED(cuMemcpyDtoDAsync_v2(word + 8, word, 4, b));
        NEED(cuStreamSynchronize(b));
        NEED(cuMemcpyDtoH_v2(&got, word + 8, 4));
        say("round %d: %u", round, got);
    }
}

static void capture_forbids(void) {
    with_kernels();
    CUstream stream, other;
    CUgraph graph = NULL;
    CUdeviceptr word, more = 0;
    CUevent event, outside;
    int status = -1;
    unsigned value = 0;
    void *none[] = {NULL};
    CUfunction nothing = kernel_of(module, "null_kernel");
    NEED(cuStreamCreate(&stream, 0));
    NEED(cuStreamCreate(&other, 1));
    NEED(cuEventCreate(&event, 0));
    NEED(cuEventCreate(&outside, 0));
    NEED(cuEventRecord(outside, other));
    NEED(cuMemAlloc_v2(&word, 64));
    NEED(cuCtxSynchronize());
    TELL(cuStreamEndCapture(stream, &graph));
    TELL(cuStreamBeginCapture_v2(NULL, 0));
    TELL(cuStreamBeginCapture_v2(stream, 7));
    TELL_VALUE(cuStreamIsCapturing(stream, &status), status);
    TELL(cuStreamIsCapturing(stream, NULL));
#define CAPTURED(call)                                                                                             \
    do {                                                                                                           \
        NEED(cuStreamBeginCapture_v2(stream, 0));                                                                  \
        CUresult captured_ = (call);                                                                               \
        CUresult asked_ = cuStreamIsCapturing(stream, &status);                                                    \
        graph = NULL;                                                                                              \
        CUresult ended_ = cuStreamEndCapture(stream, &graph);                                                      \
        say("in a capture: %s = %s; then %s %d; end %s, graph %d", #call, result_name(captured_),                  \
            result_name(asked_), status, result_name(ended_), graph != NULL);                                      \
        if (graph != NULL)                                                                                         \
            NEED(cuGraphDestroy(graph));                                                                           \
    } while (0)
    CAPTURED(0);
    CAPTURED(cuStreamBeginCapture_v2(stream, 0));
    CAPTURED(cuStreamSynchronize(stream));
    CAPTURED(cuStreamQuery(stream));
    CAPTURED(cuStreamSynchronize(other));
    CAPTURED(cuStreamQuery(other));
    CAPTURED(cuStreamSynchronize(NULL));
    CAPTURED(cuStreamQuery(NULL));
    CAPTURED(cuCtxSynchronize());
    CAPTURED(cuEventRecord(event, stream));
    CAPTURED(cuEventQuery(event));
    CAPTURED(cuEventSynchronize(event));
    CAPTURED(cuEventQuery(outside));
    CAPTURED(cuEventSynchronize(outside));
    CAPTURED(cuStreamWaitEvent(stream, outside, 0));
    CAPTURED(cuLaunchKernel(nothing, 1, 1, 1, 1, 1, 1, 0, stream, none, NULL));
    CAPTURED(cuLaunchKernel(nothing, 1, 1, 1, 1, 1, 1, 0, other, none, NULL));
    CAPTURED(cuLaunchKernel(nothing, 1, 1, 1, 1, 1, 1, 0, NULL, none, NULL));
    CAPTURED(cuLaunchKernel(nothing, 1, 1, 1, 2000, 1, 1, 0, stream, none, NULL));
    CAPTURED(cuLaunchKernel(nothing, 1, 1, 1, 1, 1, 1, 1 << 20, stream, none, NULL));
    CAPTURED(cuMemsetD32Async(word, 1, 4, NULL));
    CAPTURED(cuMemsetD32Async(word, 1, 4, stream));
    CAPTURED(cuMemsetD32Async(word + 1, 1, 4, stream));
    CAPTURED(cuMemsetD32_v2(word, 1, 4));
    CAPTURED(cuMemcpyDtoDAsync_v2(word, word + 32, 4, stream));
    CAPTURED(cuMemcpyDtoD_v2(word, word + 32, 4));
    CAPTURED(cuMemcpyHtoD_v2(word, &value, 4));
    CAPTURED(cuMemcpyDtoH_v2(&value, word, 4));
    CAPTURED(cuMemAlloc_v2(&more, 64));
    if (more != 0)
        NEED(cuMemFree_v2(more));
    NEED(cuMemAlloc_v2(&more, 64));
    CAPTURED(cuMemFree_v2(more));
    CAPTURED(cuEventRecord(outside, other));
    CAPTURED(cuEventRecord(outside, NULL));
    CAPTURED(cuStreamIsCapturing(NULL, &status));
    CAPTURED(cuStreamEndCapture(other, &graph));
    TELL(cuCtxSynchronize());
    TELL_VALUE(cuStreamIsCapturing(stream, &status), status);
}

static void a_destroyed_stream(void) {
    with_context();
    CUstream stream;
    NEED(cuStreamCreate(&stream, 0));
    NEED(cuStreamDestroy_v2(stream));
    TELL(cuStreamQuery(stream));
    TELL(cuStreamSynchronize(stream));
    TELL(cuStreamDestroy_v2(stream));
}
static void a_destroyed_event(void) {
    with_context();
    CUevent event;
    NEED(cuEventCreate(&event, 0));
    NEED(cuEventDestroy_v2(event));
    TELL(cuEventQuery(event));
    TELL(cuEventRecord(event, NULL));
    TELL(cuEventDestroy_v2(event));
}
static char zeroes[8192];
static void a_strange_stream(void) {
    with_context();
    TELL(cuStreamQuery((CUstream)zeroes));
    TELL(cuStreamSynchronize((CUstream)zeroes));
    TELL(cuStreamDestroy_v2((CUstream)zeroes));
}
static void a_strange_event(void) {
    with_context();
    TELL(cuEventQuery((CUevent)zeroes));
    TELL(cuEventDestroy_v2((CUevent)zeroes));
}
static void a_small_stream(void) {
    with_context();
    TELL(cuStreamQuery((CUstream)3));
}
static void an_event_as_a_stream(void) {
    with_context();
    CUevent event;
    NEED(cuEventCreate(&event, 0));
    TELL(cuStreamQuery((CUstream)event));
}

int main(int argc, char **argv) {
    static const struct section sections[] = {
        SECTION(creating_streams),  SECTION(many_streams),      SECTION(events),           SECTION(null_events),
        SECTION(order),             SECTION(capture_forbids),   SECTION(a_destroyed_stream), SECTION(a_destroyed_event),
        SECTION(a_strange_stream),  SECTION(a_strange_event),   SECTION(a_small_stream),   SECTION(an_event_as_a_stream),
    };
    return RUN_SECTIONS(sections);
}
