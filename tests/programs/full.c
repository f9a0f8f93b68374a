// SPDX-License-Identifier: Apache-2.0 OR MIT
// A thread submits faster than the host takes, so that its ring is full, beside a call of another thread that comes after what
// it submitted. Argument: submissions (default 300), which must be more than a ring holds twice.
#include "common.h"
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

// Of these records a ring holds some sixty.
#define LARGE 4000
enum { FULL = 150 };

static const char large_ptx[] = ".version 7.0\n"
                                ".target sm_70\n"
                                ".address_size 64\n"
                                ".visible .entry large(.param .align 8 .b8 bytes[4000])\n"
                                "{\n"
                                "    ret;\n"
                                "}\n";

static CUfunction large;
static long submissions;
static atomic_long submitted;

static void *submits(void *unused) {
    static char bytes[LARGE];
    void *params[] = {bytes};
    (void)unused;
    CHECK(cuCtxSetCurrent(context));
    for (long i = 0; i < submissions; i++) {
        CHECK(cuLaunchKernel(large, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
        atomic_store(&submitted, i + 1);
    }
    return NULL;
}

int main(int argc, char **argv) {
    pthread_t thread;
    CUmodule own;
    uint32_t word = 0;
    submissions = argument(argc, argv, 1, 2 * FULL);
    setup();
    CHECK(cuModuleLoadData(&own, large_ptx));
    CHECK(cuModuleGetFunction(&large, own, "large"));
    CUdeviceptr p = device_alloc(sizeof word);
    EXPECT(!pthread_create(&thread, NULL, submits, NULL), "no thread");
    while (atomic_load(&submitted) < FULL)
        usleep(1000);
    printf("full: running\n");
    CHECK(cuMemsetD32_v2(p, 7, 1));
    pthread_join(thread, NULL);
    CHECK(cuMemcpyDtoH_v2(&word, p, sizeof word));
    EXPECT(word == 7, "it is %u", word);
    printf("full: %ld submissions, and one after them, right\n", submissions);
    return 0;
}
