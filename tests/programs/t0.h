// SPDX-License-Identifier: Apache-2.0 OR MIT
// What the t0_* programs share. Each makes many calls, right and wrong ones, and prints a line per call: what was called and
// what came back. Two libraries behave alike if the texts are equal, so nothing is printed that may differ from run to run:
// no address, no time, no amount of free memory.
//
// A program is a list of sections, each with contexts of its own. They run in a child process; when a library does not survive
// a wrong argument (NVIDIA's follows some handles blindly), that costs the rest of one section, and another child goes on
// behind it.
#pragma once
#include "cuda_abi.h"
#include "kernels.h"
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

// How long a section may take before it counts as hung.
#define SECTION_SECONDS 100

static const char *section_name = "";

static inline const char *result_name(CUresult result) {
    static char number[32];
    const char *name = NULL;
    if (cuGetErrorName(result, &name) == CUDA_SUCCESS && name != NULL)
        return strncmp(name, "CUDA_ERROR_", 11) == 0 ? name + 11 : strncmp(name, "CUDA_", 5) == 0 ? name + 5 : name;
    snprintf(number, sizeof number, "%d", result);
    return number;
}

// A line of this section.
__attribute__((format(printf, 1, 2))) static inline void say(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("%s: ", section_name);
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
}

static inline CUresult tell(const char *call, CUresult result) {
    say("%s = %s", call, result_name(result));
    return result;
}

// Makes a call and tells its result.
#define TELL(call) tell(#call, (call))
// The same, and the number that it gave if it succeeded.
#define TELL_VALUE(call, value)                                                                                    \
    do {                                                                                                           \
        CUresult told_ = (call);                                                                                   \
        if (told_ == CUDA_SUCCESS)                                                                                 \
            say("%s = %s, %lld", #call, result_name(told_), (long long)(value));                                   \
        else                                                                                                       \
            say("%s = %s", #call, result_name(told_));                                                             \
    } while (0)

// What a section needs to go on at all.
#define NEED(call)                                                                                                 \
    do {                                                                                                           \
        CUresult needed_ = (call);                                                                                 \
        if (needed_ != CUDA_SUCCESS) {                                                                             \
            say("needed, but %s = %s", #call, result_name(needed_));                                               \
            exit(1);                                                                                               \
        }                                                                                                          \
    } while (0)

static CUdevice device;
static CUcontext context;
static CUmodule module;

static inline void with_context(void) {
    NEED(cuInit(0));
    NEED(cuDeviceGet(&device, 0));
    NEED(cuCtxCreate_v2(&context, 0, device));
}

static inline CUfunction kernel_of(CUmodule from, const char *name) {
    CUfunction function;
    NEED(cuModuleGetFunction(&function, from, name));
    return function;
}

static inline void with_kernels(void) {
    with_context();
    NEED(cuModuleLoadData(&module, kernels_ptx));
}

// Many times as long as it takes to ask whether a stream is busy, also where every CPU is.
#define WHILE_BUSY 500000000ull

// Keeps a stream busy for that long.
static inline void keep_busy(CUdeviceptr word, CUstream stream, uint64_t nanoseconds) {
    void *parameters[] = {&word, &nanoseconds};
    NEED(cuLaunchKernel(kernel_of(module, "spin"), 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL));
}

struct section {
    const char *name;
    void (*run)(void);
};
#define SECTION(name) {#name, name}

// Destroys what contexts a section left. If a kernel's error made the process useless, that is its end.
static inline void without_contexts(void) {
    CUcontext left = NULL;
    CUresult error = cuCtxSynchronize();
    if (error >= 700 && error < 800)
        exit(0);
    for (int i = 0; i < 16 && cuCtxGetCurrent(&left) == CUDA_SUCCESS && left != NULL; i++)
        if (cuCtxDestroy_v2(left) != CUDA_SUCCESS)
            cuCtxPopCurrent_v2(&left);
}

static int run_sections(int argc, char **argv, const struct section *sections, size_t count) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    // The section that a child is in.
    volatile size_t *at = mmap(NULL, sizeof *at, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return 1;
    int failed = 0;
    for (size_t next = 0; next < count; next = *at + 1) {
        *at = next;
        pid_t child = fork();
        if (child == 0) {
            for (; *at < count; *at += 1) {
                section_name = sections[*at].name;
                if (argc > 1 && strcmp(argv[1], section_name) != 0)
                    continue;
                alarm(SECTION_SECONDS);
                sections[*at].run();
                say("end");
                without_contexts();
            }
            exit(0);
        }
        int status = 0;
        if (child < 0 || waitpid(child, &status, 0) != child)
            return 1;
        if (WIFSIGNALED(status)) {
            printf("%s: killed by %s\n", sections[*at].name, WTERMSIG(status) == SIGALRM ? "the alarm" : "a signal");
            failed |= WTERMSIG(status) == SIGALRM;
        } else if (WEXITSTATUS(status) != 0) {
            printf("%s: exit status %d\n", sections[*at].name, WEXITSTATUS(status));
            failed = 1;
        }
    }
    return failed;
}
#define RUN_SECTIONS(sections) run_sections(argc, argv, sections, sizeof(sections) / sizeof(sections)[0])
