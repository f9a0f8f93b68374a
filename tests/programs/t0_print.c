// SPDX-License-Identifier: Apache-2.0 OR MIT
// What kernels print, and in what order with what the program prints. Which of a warp's threads comes first nobody says.
#include "printing.h"
#include "t0.h"

static CUfunction hello;

static void with_printing(void) {
    with_context();
    NEED(cuModuleLoadData(&module, printing_ptx));
    hello = kernel_of(module, "hello");
}

static void print_from(unsigned first, CUstream stream) {
    void *parameters[] = {&first};
    NEED(cuLaunchKernel(hello, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL));
}

// Behind each way of waiting the text is there.
static void waited_for(void) {
    with_printing();
    CUstream stream;
    CUevent event;
    CUdeviceptr memory;
    unsigned got;
    NEED(cuStreamCreate(&stream, 0));
    NEED(cuEventCreate(&event, 0));
    NEED(cuMemAlloc_v2(&memory, 4));
    print_from(1, NULL);
    TELL(cuCtxSynchronize());
    print_from(2, stream);
    TELL(cuStreamSynchronize(stream));
    print_from(3, stream);
    TELL(cuEventRecord(event, stream));
    TELL(cuEventSynchronize(event));
    print_from(4, NULL);
    TELL(cuMemcpyDtoH_v2(&got, memory, 4));
    print_from(5, NULL);
    print_from(6, NULL);
    say("not yet");
    TELL(cuCtxSynchronize());
}

static void much(void) {
    with_printing();
    for (unsigned i = 0; i < 3000; i++)
        print_from(i, NULL);
    TELL(cuCtxSynchronize());
}

static void a_failed_assertion(void) {
    with_printing();
    int value = 1;
    void *parameters[] = {&value};
    CUfunction check = kernel_of(module, "check");
    TELL(cuLaunchKernel(check, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
    TELL(cuCtxSynchronize());
    value = 2;
    TELL(cuLaunchKernel(check, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
    TELL(cuCtxSynchronize());
}

int main(int argc, char **argv) {
    static const struct section sections[] = {SECTION(waited_for), SECTION(much), SECTION(a_failed_assertion)};
    return RUN_SECTIONS(sections);
}
