// SPDX-License-Identifier: Apache-2.0 OR MIT
// Threads that use one context: each on a stream of its own, and one after the other on work that another
// submitted, with nothing but the program's own order between them. Argument: threads (default 4).
#include "common.h"
#include <pthread.h>

enum { N = 8192, ROUNDS = 25, THREADS_MAX = 80 };

static CUfunction increment;
static long threads;

static void *alone(void *argument) {
    uint32_t by = (uint32_t)(uintptr_t)argument, n = N;
    CHECK(cuCtxSetCurrent(context));
    CUstream stream;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CUdeviceptr p = device_alloc(N * sizeof(uint32_t));
    uint32_t *got = malloc(N * sizeof *got);
    EXPECT(got, "no memory");
    CHECK(cuMemsetD32Async(p, 0, N, stream));
    void *params[] = {&p, &by, &n};
    for (int round = 1; round <= ROUNDS; round++) {
        CHECK(cuLaunchKernel(increment, N / 256, 1, 1, 256, 1, 1, 0, stream, params, NULL));
        CHECK(cuMemcpyDtoHAsync_v2(got, p, N * sizeof *got, stream));
        CHECK(cuStreamSynchronize(stream));
        for (int i = 0; i < N; i++)
            EXPECT(got[i] == by * (uint32_t)round, "thread %u, round %d: element %d is %u", by, round, i, got[i]);
    }
    CHECK(cuStreamDestroy_v2(stream));
    CHECK(cuMemFree_v2(p));
    free(got);
    return NULL;
}

// A baton of work: thread i launches on the stream that thread i - 1 created or used last, without waiting
// for the GPU in between. The sum is right only if the host ran the threads' calls in the program's order.
static struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    long turn;
    CUstream stream;
    CUdeviceptr p;
} baton = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void *in_turn(void *argument) {
    long me = (long)(intptr_t)argument;
    uint32_t n = N, by = (uint32_t)me + 1;
    CHECK(cuCtxSetCurrent(context));
    for (long round = 0; round < ROUNDS; round++) {
        pthread_mutex_lock(&baton.mutex);
        while (baton.turn != round * threads + me)
            pthread_cond_wait(&baton.changed, &baton.mutex);
        if (me == 0) {
            // A stream made by one thread and used by the others at once.
            if (baton.stream != NULL)
                CHECK(cuStreamDestroy_v2(baton.stream));
            CHECK(cuStreamSynchronize(NULL));
            CHECK(cuStreamCreate(&baton.stream, 0));
            CHECK(cuMemsetD32Async(baton.p, 0, N, baton.stream));
        }
        // p = p + by, then everything again from a copy: order matters only through the stream, so any
        // launch that overtakes the memset or the stream's creation shows.
        void *params[] = {&baton.p, &by, &n};
        CHECK(cuLaunchKernel(increment, N / 256, 1, 1, 256, 1, 1, 0, baton.stream, params, NULL));
        if (me == threads - 1) {
            static uint32_t got[N];
            CHECK(cuMemcpyDtoHAsync_v2(got, baton.p, sizeof got, baton.stream));
            CHECK(cuStreamSynchronize(baton.stream));
            uint32_t sum = (uint32_t)(threads * (threads + 1) / 2);
            for (int i = 0; i < N; i++)
                EXPECT(got[i] == sum, "baton, round %ld: element %d is %u, should be %u", round, i, got[i], sum);
        }
        baton.turn++;
        pthread_cond_broadcast(&baton.changed);
        pthread_mutex_unlock(&baton.mutex);
    }
    return NULL;
}

static void run_all(void *(*function)(void *), long first) {
    pthread_t ids[THREADS_MAX];
    for (long i = 0; i < threads; i++)
        EXPECT(pthread_create(&ids[i], NULL, function, (void *)(intptr_t)(first + i)) == 0, "no thread %ld", i);
    for (long i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
}

int main(int argc, char **argv) {
    threads = argument(argc, argv, 1, 4);
    EXPECT(threads >= 1 && threads <= THREADS_MAX, "%ld threads", threads);
    setup();
    increment = kernel("increment");
    run_all(alone, 1);
    baton.p = device_alloc(N * sizeof(uint32_t));
    run_all(in_turn, 0);
    printf("threads: %ld threads right, alone and in turn\n", threads);
    return 0;
}
