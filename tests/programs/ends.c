// SPDX-License-Identifier: Apache-2.0 OR MIT
// Ends in the middle of work, in the way that the argument names. The kernel that runs then would last for ten minutes.
// Ends with status 7 where a status can be given.
#include "sums.h"
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

enum { STATUS = 7, KERNEL_MS = 600000 };

// The library is still there while the process ends, and so is its session: calls that wait for nothing work.
static void calls_at_exit(void) {
    CUdeviceptr p;
    CHECK(cuMemAlloc_v2(&p, 1 << 20));
    printf("ends: a call at the exit works\n");
    fflush(stdout);
}

// The rest, with nothing running, is done as ever.
static void sums_at_exit(void) {
    check_sums();
    CHECK(cuCtxDestroy_v2(context));
    printf("ends: sums at the exit right\n");
    fflush(stdout);
}

static void *exits(void *unused) {
    (void)unused;
    usleep(100000);
    exit(STATUS);
}

// Submits without an end, so that the process ends in the middle of a record.
static void *submits(void *unused) {
    (void)unused;
    CHECK(cuCtxSetCurrent(context));
    CUdeviceptr p = device_alloc(4096);
    for (;;)
        CHECK(cuMemsetD32_v2(p, 1, 1024));
    return NULL;
}

int main(int argc, char **argv) {
    const char *way = argc > 1 ? argv[1] : "";
    pthread_t thread;
    setup();
    if (!strcmp(way, "atexit-idle")) {
        EXPECT(!atexit(sums_at_exit), "no handler");
        return STATUS;
    }
    if (!strcmp(way, "submitting")) {
        for (int i = 0; i < 3; i++)
            EXPECT(!pthread_create(&thread, NULL, submits, NULL), "no thread");
        usleep(100000);
        exit(STATUS);
    }
    launch_spin(KERNEL_MS);
    printf("ends: running\n");
    if (!strcmp(way, "thread")) {
        EXPECT(!pthread_create(&thread, NULL, exits, NULL), "no thread");
        CHECK(cuCtxSynchronize());
        EXPECT(0, "the kernel has ended");
    } else if (!strcmp(way, "atexit")) {
        EXPECT(!atexit(calls_at_exit), "no handler");
        return STATUS;
    } else if (!strcmp(way, "quick")) {
        _exit(STATUS);
    } else if (!strcmp(way, "abort")) {
        abort();
    } else if (!strcmp(way, "fault")) {
        raise(SIGSEGV);
    } else if (!strcmp(way, "exec")) {
        execvp("vadd", (char *[]){"vadd", NULL});
    }
    printf("ends: unknown way %s\n", way);
    return 1;
}
