// SPDX-License-Identifier: Apache-2.0 OR MIT
// Linking at run time.
#include "t0.h"

#define PTX 1
#define INFO_LOG 3
#define INFO_LOG_SIZE 4
#define ERROR_LOG 5
#define ERROR_LOG_SIZE 6

static char callee[] = ".version 7.8\n.target sm_50\n.address_size 64\n"
                       ".visible .func (.param .b32 r) twice(.param .b32 x)\n{\n"
                       ".reg .b32 %r<3>;\nld.param.b32 %r1, [x];\nadd.s32 %r2, %r1, %r1;\nst.param.b32 [r], %r2;\nret;\n}\n";
static char caller[] = ".version 7.8\n.target sm_50\n.address_size 64\n"
                       ".extern .func (.param .b32 r) twice(.param .b32 x);\n"
                       ".visible .entry double_it(.param .u64 word)\n{\n"
                       ".reg .b32 %r<3>;\n.reg .b64 %rd<3>;\nld.param.u64 %rd1, [word];\ncvta.to.global.u64 %rd2, %rd1;\n"
                       "ld.global.b32 %r1, [%rd2];\n{\n.param .b32 a;\n.param .b32 b;\nst.param.b32 [a], %r1;\n"
                       "call (b), twice, (a);\nld.param.b32 %r2, [b];\n}\nst.global.b32 [%rd2], %r2;\nret;\n}\n";
static char broken[] = ".version 7.8\n.target sm_50\n.address_size 64\n.visible .entry broken()\n{\nno such thing;\n}\n";

static void run(CUmodule linked) {
    CUdeviceptr word;
    unsigned got = 0;
    NEED(cuMemAlloc_v2(&word, 4));
    NEED(cuMemsetD32_v2(word, 21, 1));
    void *parameters[] = {&word};
    TELL(cuLaunchKernel(kernel_of(linked, "double_it"), 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
    TELL(cuMemcpyDtoH_v2(&got, word, 4));
    say("it is %u", got);
}

static void two_parts(void) {
    with_context();
    CUlinkState link;
    void *image = NULL;
    size_t bytes = 0;
    CUmodule linked;
    TELL(cuLinkCreate_v2(0, NULL, NULL, &link));
    TELL(cuLinkAddData_v2(link, PTX, callee, sizeof callee, "callee", 0, NULL, NULL));
    TELL(cuLinkAddData_v2(link, PTX, caller, sizeof caller, NULL, 0, NULL, NULL));
    TELL(cuLinkComplete(link, &image, &bytes));
    say("an image: %d, of some bytes: %d", image != NULL, bytes > 0);
    TELL(cuModuleLoadData(&linked, image));
    TELL(cuLinkDestroy(link));
    run(linked);
    TELL(cuModuleUnload(linked));
}

static void a_file(void) {
    with_context();
    CUlinkState link;
    void *image = NULL;
    size_t bytes = 0;
    CUmodule linked;
    char path[] = "/tmp/t0_link.XXXXXX";
    int file = mkstemp(path);
    if (file < 0 || write(file, callee, strlen(callee)) != (ssize_t)strlen(callee)) {
        say("no file");
        return;
    }
    close(file);
    NEED(cuLinkCreate_v2(0, NULL, NULL, &link));
    say("cuLinkAddFile_v2 = %s", result_name(cuLinkAddFile_v2(link, PTX, path, 0, NULL, NULL)));
    unlink(path);
    TELL(cuLinkAddFile_v2(link, PTX, "/nowhere/at/all", 0, NULL, NULL));
    TELL(cuLinkAddData_v2(link, PTX, caller, sizeof caller, "caller", 0, NULL, NULL));
    TELL(cuLinkComplete(link, &image, &bytes));
    TELL(cuModuleLoadData(&linked, image));
    run(linked);
    TELL(cuLinkDestroy(link));
}

static void a_bad_part(void) {
    with_context();
    CUlinkState link;
    static char info[1024], error[1024];
    int options[] = {INFO_LOG, INFO_LOG_SIZE, ERROR_LOG, ERROR_LOG_SIZE};
    void *values[] = {info, (void *)sizeof info, error, (void *)sizeof error};
    TELL(cuLinkCreate_v2(4, options, values, &link));
    TELL(cuLinkAddData_v2(link, PTX, broken, sizeof broken, "broken", 0, NULL, NULL));
    say("something is said of it: %d", error[0] != 0);
    TELL(cuLinkDestroy(link));
}

static void used_wrongly(void) {
    with_context();
    CUlinkState link;
    void *image;
    size_t bytes;
    TELL(cuLinkCreate_v2(0, NULL, NULL, NULL));
    TELL(cuLinkCreate_v2(0, NULL, NULL, &link));
    TELL(cuLinkAddData_v2(link, PTX, NULL, 10, "nothing", 0, NULL, NULL));
    TELL(cuLinkAddData_v2(link, 77, callee, sizeof callee, "callee", 0, NULL, NULL));
    TELL(cuLinkAddData_v2(link, PTX, callee, sizeof callee, "callee", 0, NULL, NULL));
    TELL(cuLinkComplete(link, NULL, &bytes));
    TELL(cuLinkComplete(link, &image, &bytes));
    TELL(cuLinkDestroy(link));
}

int main(int argc, char **argv) {
    static const struct section sections[] = {SECTION(two_parts), SECTION(a_file), SECTION(a_bad_part), SECTION(used_wrongly)};
    return RUN_SECTIONS(sections);
}
