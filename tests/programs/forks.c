// SPDX-License-Identifier: Apache-2.0 OR MIT
// What a forked process may do, by the argument:
// before: fork, then both use CUDA, the child first; after: the child of a process that uses CUDA may not, and ends without
// harm, whatever way it ends; during: nor may one of a process that just starts CUDA, which does not hang; exec: its child runs a program that does; outlived: the child lives on when the parent has ended.
#include "sums.h"
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

static int child_ends(pid_t child) {
    int status;
    EXPECT(waitpid(child, &status, 0) == child, "no child");
    EXPECT(WIFEXITED(status), "the child ended with %#x", status);
    return WEXITSTATUS(status);
}

static void child_must(pid_t child, int wanted) {
    int status = child_ends(child);
    EXPECT(status == wanted, "the child ended with %d", status);
}

static pid_t forked(void) {
    fflush(stdout);
    pid_t child = fork();
    EXPECT(child >= 0, "no child");
    return child;
}

#define REFUSED(call) EXPECT((call) == CUDA_ERROR_NOT_INITIALIZED, "%s in a child", #call)

static void refused_in_child(void) {
    CUdeviceptr p = 0;
    CUstream stream;
    int count;
    REFUSED(cuInit(0));
    REFUSED(cuDeviceGetCount(&count));
    REFUSED(cuCtxSetCurrent(context));
    REFUSED(cuMemAlloc_v2(&p, 4096));
    REFUSED(cuStreamCreate(&stream, 0));
    REFUSED(cuCtxSynchronize());
}

// How a child ends that was not refused, since the thread had not come to start CUDA.
enum { EARLY = 5 };
static atomic_int starting, started;

static void *starts(void *unused) {
    (void)unused;
    atomic_store(&starting, 1);
    CHECK(cuInit(0));
    atomic_store(&started, 1);
    return NULL;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "before")) {
        pid_t child = forked();
        if (child)
            child_must(child, 0);
        setup();
        check_sums();
        if (!child)
            return 0;
    } else if (!strcmp(what, "after")) {
        setup();
        for (int way = 0; way < 3; way++) {
            pid_t child = forked();
            if (!child) {
                refused_in_child();
                if (way == 0)
                    _exit(3);
                if (way == 1)
                    exit(3);
                // Its own child is no better off.
                pid_t grandchild = forked();
                if (!grandchild) {
                    refused_in_child();
                    _exit(4);
                }
                child_must(grandchild, 4);
                _exit(3);
            }
            // While the child is there.
            check_sums();
            child_must(child, 3);
            check_sums();
        }
    } else if (!strcmp(what, "during")) {
        pthread_t thread;
        EXPECT(!pthread_create(&thread, NULL, starts, NULL), "no thread");
        while (!atomic_load(&starting))
            ;
        usleep(1000);
        // On a busy machine the thread may not have come to cuInit yet: a child starts CUDA by itself then. Once one was refused all are.
        for (int ended = 0, refused = 0; !ended && refused < 20;) {
            ended = atomic_load(&started);
            pid_t child = forked();
            if (!child) {
                alarm(60);
                if (!ended && refused == 0 && cuInit(0) == CUDA_SUCCESS)
                    _exit(EARLY);
                refused_in_child();
                _exit(0);
            }
            int end = child_ends(child);
            EXPECT(end == 0 || end == EARLY, "a child ended with %d", end);
            refused += end == 0;
        }
        EXPECT(!pthread_join(thread, NULL), "no thread");
        setup();
        check_sums();
    } else if (!strcmp(what, "exec")) {
        setup();
        pid_t child = forked();
        if (!child) {
            execvp("vadd", (char *[]){"vadd", NULL});
            _exit(1);
        }
        check_sums();
        child_must(child, 0);
        check_sums();
    } else if (!strcmp(what, "outlived")) {
        setup();
        launch_spin(600000);
        pid_t child = forked();
        if (!child) {
            // What would be read by who waits for the parent's output.
            close(STDOUT_FILENO);
            close(STDERR_FILENO);
            sleep(600);
            _exit(0);
        }
        printf("forks: child %d\n", (int)child);
        fflush(stdout);
        _exit(0);
    } else {
        printf("forks: unknown: %s\n", what);
        return 1;
    }
    printf("forks: %s right\n", what);
    return 0;
}
