// SPDX-License-Identifier: Apache-2.0 OR MIT
// Starts CUDA where something is short, in a process of its own each time: it works, or says which error it is; it never
// hangs, and never ends the process. The argument names what is short:
// files: descriptors; addresses: address space, by a limit; window: free addresses; threads: room for the thread that runs
// host functions, once CUDA runs, and then there is some; memory: pinned memory, all of which is taken, and given back.
#define _GNU_SOURCE
#include "sums.h"
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static void limit(int resource, rlim_t value) {
    struct rlimit limit = {value, value};
    EXPECT(!setrlimit(resource, &limit), "a limit of %llu is refused", (unsigned long long)value);
}

// What cuInit gives in a child in which `spoil` has made something short; in one where it works, sums are right.
static CUresult start(void (*spoil)(long), long value) {
    fflush(stdout);
    pid_t child = fork();
    EXPECT(child >= 0, "no child");
    if (!child) {
        spoil(value);
        CUresult result = cuInit(0);
        if (result == CUDA_SUCCESS) {
            setup();
            check_sums();
        }
        _exit(result);
    }
    int status;
    EXPECT(waitpid(child, &status, 0) == child, "no child");
    EXPECT(WIFEXITED(status), "with %ld the process was ended by signal %d", value, WTERMSIG(status));
    return WEXITSTATUS(status);
}

static void few_files(long count) { limit(RLIMIT_NOFILE, (rlim_t)count); }

static void few_addresses(long mib) { limit(RLIMIT_AS, (rlim_t)mib << 20); }

// All that is free is taken, in pieces of a TiB; what lies between them is too small for a window.
static void no_window(long unused) {
    (void)unused;
    for (uint64_t at = 1ull << 40; at < 1ull << 47; at += 1ull << 40)
        mmap((void *)at, 1 << 21, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
}

static void one_of(CUresult result, long value, const CUresult *allowed) {
    for (; *allowed != -1; allowed++)
        if (result == *allowed)
            return;
    EXPECT(0, "cuInit gave %d with %ld", result, value);
}

// Taken until there is none, given back, and taken again: as much as before.
static void all_pinned_memory(void) {
    enum { BLOCK = 8 << 20, BLOCKS_MAX = 1 << 14 };
    static void *blocks[BLOCKS_MAX];
    int before = 0;
    setup();
    check_sums();
    for (int round = 0; round < 3; round++) {
        int count = 0;
        CUresult result = CUDA_SUCCESS;
        while (count < BLOCKS_MAX && (result = cuMemHostAlloc(&blocks[count], BLOCK, 0)) == CUDA_SUCCESS)
            count++;
        EXPECT(result == CUDA_ERROR_OUT_OF_MEMORY, "allocation %d gave %d", count, result);
        EXPECT(count > 0 && (!round || count >= before - before / 8 - 1), "%d blocks, %d before", count, before);
        before = count;
        for (int i = 0; i < count; i++) {
            memset(blocks[i], i, 4096);
            CHECK(cuMemFreeHost(blocks[i]));
        }
        check_sums();
    }
    printf("limits: %d MiB at most\n", before * (BLOCK >> 20));
}

static void count(void *count) { ++*(int *)count; }

static void no_thread(void) {
    CUstream stream;
    int ran = 0;
    unsigned long pages;
    setup();
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    FILE *statm = fopen("/proc/self/statm", "r");
    EXPECT(statm && fscanf(statm, "%lu", &pages) == 1, "no /proc/self/statm");
    struct rlimit old, tight;
    EXPECT(!getrlimit(RLIMIT_AS, &old), "no limit");
    tight = old;
    // Room for the call, and none for a stack.
    tight.rlim_cur = (rlim_t)pages * 4096 + (512 << 10);
    EXPECT(!setrlimit(RLIMIT_AS, &tight), "no limit");
    for (int i = 0; i < 2; i++) {
        CUresult result = cuLaunchHostFunc(stream, count, &ran);
        EXPECT(result == CUDA_ERROR_OPERATING_SYSTEM, "without room for a thread a host function gave %d", result);
    }
    EXPECT(!setrlimit(RLIMIT_AS, &old), "no limit");
    CHECK(cuLaunchHostFunc(stream, count, &ran));
    CHECK(cuStreamSynchronize(stream));
    EXPECT(ran == 1, "%d functions ran", ran);
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    int works = 0, fails = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (!strcmp(what, "files")) {
        for (long count = 0; count < 48; count++) {
            CUresult result = start(few_files, count);
            one_of(result, count, (CUresult[]){CUDA_SUCCESS, CUDA_ERROR_OPERATING_SYSTEM & 0xff, -1});
            result == CUDA_SUCCESS ? works++ : fails++;
        }
    } else if (!strcmp(what, "addresses")) {
        // From where the process itself still has room.
        for (long mib = 64; mib <= 8 << 20; mib *= 2) {
            CUresult result = start(few_addresses, mib);
            one_of(result, mib, (CUresult[]){CUDA_SUCCESS, CUDA_ERROR_OUT_OF_MEMORY, -1});
            result == CUDA_SUCCESS ? works++ : fails++;
        }
    } else if (!strcmp(what, "window")) {
        one_of(start(no_window, 0), 0, (CUresult[]){CUDA_ERROR_OUT_OF_MEMORY, -1});
        fails++;
    } else if (!strcmp(what, "threads")) {
        no_thread();
        return 0;
    } else if (!strcmp(what, "memory")) {
        all_pinned_memory();
        return 0;
    } else {
        printf("limits: unknown: %s\n", what);
        return 1;
    }
    setup();
    check_sums();
    printf("limits: %s: %d starts worked, %d did not\n", what, works, fails);
    return 0;
}
