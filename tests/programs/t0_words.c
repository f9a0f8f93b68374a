// SPDX-License-Identifier: Apache-2.0 OR MIT
// Operations of streams on words of memory.
#include "t0.h"

#define GEQ 0
#define EQ 1
#define AND 2
#define NOR 3

static CUdeviceptr words;
static volatile uint32_t *pinned;
static CUstream one, other;

static void with_words(void) {
    with_kernels();
    void *host;
    NEED(cuMemAlloc_v2(&words, 4096));
    NEED(cuMemsetD8_v2(words, 0, 4096));
    NEED(cuMemHostAlloc(&host, 4096, 0));
    memset(host, 0, 4096);
    pinned = host;
    NEED(cuStreamCreate(&one, 1));
    NEED(cuStreamCreate(&other, 1));
    NEED(cuCtxSynchronize());
}

static CUdeviceptr of(volatile uint32_t *word) { return (CUdeviceptr)(uintptr_t)word; }

static void writing(void) {
    with_words();
    uint32_t got[8];
    TELL(cuStreamWriteValue32_v2(one, words, 0x11111111, 0));
    TELL(cuStreamWriteValue32_v2(one, words + 4, 0x22222222, 1));
    TELL(cuStreamWriteValue64_v2(one, words + 8, 0x3333333344444444ull, 0));
    TELL(cuStreamWriteValue32_v2(NULL, words + 16, 0x55555555, 0));
    TELL(cuStreamWriteValue32_v2_ptsz(NULL, words + 20, 0x66666666, 0));
    TELL(cuStreamWriteValue64_v2(one, of(pinned), 7, 0));
    TELL(cuCtxSynchronize());
    TELL(cuMemcpyDtoH_v2(got, words, sizeof got));
    for (int i = 0; i < 8; i++)
        say("word %d: %#x", i, got[i]);
    say("pinned: %u %u", pinned[0], pinned[1]);
}

static void writing_wrongly(void) {
    with_words();
    TELL(cuStreamWriteValue32_v2(one, words + 1, 1, 0));
    TELL(cuStreamWriteValue64_v2(one, words + 4, 1, 0));
    TELL(cuStreamWriteValue32_v2(one, words, 1, 2));
    TELL(cuStreamWriteValue32_v2(one, words + 4096, 1, 0));
    TELL(cuStreamWriteValue32_v2(one, 0, 1, 0));
    TELL(cuStreamWriteValue32_v2(one, 4096, 1, 0));
    TELL(cuStreamWaitValue32_v2(one, words + 2, 0, 0));
    TELL(cuStreamWaitValue64_v2(one, words + 4, 0, 0));
    TELL(cuStreamWaitValue32_v2(one, words, 0, 4));
    TELL(cuStreamWaitValue32_v2(one, words + 4096, 0, 0));
    TELL(cuStreamQuery(one));
    TELL(cuCtxSynchronize());
}

// Each wait is seen to hold the stream up, and to end with the value.
static void waiting(void) {
    with_words();
    static const struct {
        unsigned flags;
        uint32_t before, value, after;
    } waits[] = {{GEQ, 4, 5, 5}, {GEQ, 4, 5, 6}, {GEQ, 0xfffffff0, 5, 5}, {EQ, 4, 5, 5}, {AND, 4, 3, 6}, {NOR, 0xfffffff0, 15, 0}};
    for (size_t i = 0; i < sizeof waits / sizeof waits[0]; i++) {
        pinned[0] = waits[i].before;
        pinned[2] = 0;
        TELL(cuStreamWaitValue32_v2(one, of(pinned), waits[i].value, waits[i].flags));
        TELL(cuStreamWriteValue32_v2(one, of(pinned + 2), 1, 0));
        usleep(20000);
        TELL(cuStreamQuery(one));
        say("behind it: %u", pinned[2]);
        pinned[0] = waits[i].after;
        TELL(cuStreamSynchronize(one));
        say("behind it: %u", pinned[2]);
    }
    *(volatile uint64_t *)pinned = 1ull << 32;
    TELL(cuStreamWaitValue64_v2(one, of(pinned), 1ull << 33, GEQ));
    TELL(cuStreamWriteValue64_v2(other, of(pinned), 1ull << 34, 0));
    TELL(cuStreamSynchronize(one));
}

// A kernel behind a wait runs only once another stream, to which more is submitted later, has written the value; many streams wait.
static void ended_by_later_work(void) {
    with_words();
    enum { COUNT = 40 };
    CUstream all[COUNT];
    CUdeviceptr results = words + 1024;
    for (int i = 0; i < COUNT; i++) {
        NEED(cuStreamCreate(&all[i], 1));
        NEED(cuStreamWaitValue32_v2(all[i], words, 1, GEQ));
        for (int j = 0; j < 20; j++)
            NEED(cuMemsetD32Async(results + 4 * i, i + j, 1, all[i]));
    }
    NEED(cuMemsetD32Async(words + 512, 77, 1, other));
    NEED(cuStreamWriteValue32_v2(other, words, 1, 0));
    NEED(cuCtxSynchronize());
    uint32_t got[COUNT], wrong = 0;
    NEED(cuMemcpyDtoH_v2(got, results, sizeof got));
    for (unsigned i = 0; i < COUNT; i++)
        wrong += got[i] != i + 19;
    say("%d streams waited: %u wrong", COUNT, wrong);
}

static CUstreamBatchMemOpParams word_op(int operation, CUdeviceptr address, uint64_t value, unsigned flags) {
    CUstreamBatchMemOpParams made;
    memset(&made, 0, sizeof made);
    made.word.operation = operation;
    made.word.address = address;
    made.word.value64 = value;
    made.word.flags = flags;
    return made;
}

static void batches(void) {
    with_words();
    CUstreamBatchMemOpParams operations[300];
    memset(operations, 0, sizeof operations);
    operations[0] = word_op(1, of(pinned), 3, EQ);
    operations[1] = word_op(2, words, 10, 0);
    operations[2] = word_op(5, words + 8, 1ull << 40, 0);
    operations[3] = word_op(4, words + 8, 1ull << 40, EQ);
    operations[4].barrier.operation = 6;
    operations[5] = word_op(2, of(pinned + 2), 11, 0);
    TELL(cuStreamBatchMemOp_v2(one, 6, operations, 0));
    usleep(20000);
    TELL(cuStreamQuery(one));
    say("behind it: %u", pinned[2]);
    pinned[0] = 3;
    TELL(cuStreamSynchronize(one));
    uint64_t got[2];
    TELL(cuMemcpyDtoH_v2(got, words, sizeof got));
    say("behind it: %u, %llu, %llu", pinned[2], (unsigned long long)got[0], (unsigned long long)got[1]);
    TELL(cuStreamBatchMemOp_v2(one, 0, operations, 0));
    TELL(cuStreamBatchMemOp_v2(one, 1, NULL, 0));
    TELL(cuStreamBatchMemOp_v2(one, 1, operations, 1));
    TELL(cuStreamBatchMemOp_v2(one, 257, operations, 0));
    operations[2] = word_op(2, words + 2, 1, 0);
    TELL(cuStreamBatchMemOp_v2(one, 3, operations, 0));
    operations[2] = word_op(77, words, 1, 0);
    TELL(cuStreamBatchMemOp_v2(one, 3, operations, 0));
    TELL(cuCtxSynchronize());
}

// In a capture they become part of the graph.
static void captured(void) {
    with_words();
    CUgraph graph;
    CUgraphExec exec;
    TELL(cuStreamBeginCapture_v2(one, CU_STREAM_CAPTURE_GLOBAL));
    TELL(cuStreamWaitValue32_v2(one, of(pinned), 1, GEQ));
    TELL(cuStreamWriteValue32_v2(one, of(pinned + 2), 9, 0));
    TELL(cuStreamEndCapture(one, &graph));
    TELL(cuGraphInstantiateWithFlags(&exec, graph, 0));
    TELL(cuGraphLaunch(exec, one));
    usleep(20000);
    say("before: %u", pinned[2]);
    pinned[0] = 1;
    TELL(cuStreamSynchronize(one));
    say("after: %u", pinned[2]);
    TELL(cuGraphExecDestroy(exec));
    TELL(cuGraphDestroy(graph));
}

int main(int argc, char **argv) {
    static const struct section sections[] = {
        SECTION(writing), SECTION(writing_wrongly), SECTION(waiting), SECTION(ended_by_later_work), SECTION(batches), SECTION(captured),
    };
    return RUN_SECTIONS(sections);
}
