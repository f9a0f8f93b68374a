// SPDX-License-Identifier: Apache-2.0 OR MIT
// Modules from every kind of image, what is in them, and launches of every kind.
#include "t0.h"
#include "t0_images.h"

#define HEADER ".version 8.1\n.target sm_70\n.address_size 64\n"

// Copies its parameters, as bytes, to where the first one says: `len` of them behind a u64.
#define COPY_PARAMETER(name, len)                                                                                  \
    ".visible .entry " name "(.param .u64 to, .param .align 8 .b8 data[" #len "])\n"                               \
    "{\n"                                                                                                          \
    "    .reg .pred %p<2>;\n"                                                                                      \
    "    .reg .b16 %h<2>;\n"                                                                                       \
    "    .reg .b32 %r<2>;\n"                                                                                       \
    "    .reg .b64 %rd<7>;\n"                                                                                      \
    "    ld.param.u64 %rd1, [to];\n"                                                                               \
    "    mov.u64 %rd2, 0;\n"                                                                                       \
    "    mov.b64 %rd3, data;\n"                                                                                    \
    "AGAIN:\n"                                                                                                     \
    "    add.s64 %rd4, %rd3, %rd2;\n"                                                                              \
    "    ld.param.u8 %h1, [%rd4];\n"                                                                               \
    "    add.s64 %rd5, %rd1, %rd2;\n"                                                                              \
    "    st.global.u8 [%rd5], %h1;\n"                                                                              \
    "    add.s64 %rd2, %rd2, 1;\n"                                                                                 \
    "    setp.lt.u64 %p1, %rd2, " #len ";\n"                                                                       \
    "    @%p1 bra AGAIN;\n"                                                                                        \
    "    ret;\n"                                                                                                   \
    "}\n"

static const char kinds_ptx[] = HEADER
    ".visible .global .align 8 .b8 table[1000];\n"
    ".visible .const .align 4 .u32 fixed = 99;\n"
    ".visible .global .align 8 .u64 empty;\n"
    // Stores each of its parameters of four sizes as 64 bits.
    ".visible .entry sizes(.param .u8 a, .param .u16 b, .param .u32 c, .param .u64 d, .param .u8 e, .param .u64 to)\n"
    "{\n"
    "    .reg .b64 %rd<7>;\n"
    "    ld.param.u64 %rd6, [to];\n"
    "    ld.param.u8 %rd1, [a];\n"
    "    ld.param.u16 %rd2, [b];\n"
    "    ld.param.u32 %rd3, [c];\n"
    "    ld.param.u64 %rd4, [d];\n"
    "    ld.param.u8 %rd5, [e];\n"
    "    st.global.u64 [%rd6], %rd1;\n"
    "    st.global.u64 [%rd6+8], %rd2;\n"
    "    st.global.u64 [%rd6+16], %rd3;\n"
    "    st.global.u64 [%rd6+24], %rd4;\n"
    "    st.global.u64 [%rd6+32], %rd5;\n"
    "    ret;\n"
    "}\n"
    // 40 KiB of static shared memory.
    ".visible .entry static_shared(.param .u64 to)\n"
    "{\n"
    "    .reg .b32 %r<3>;\n"
    "    .reg .b64 %rd<2>;\n"
    "    .shared .align 4 .b8 much[40960];\n"
    "    ld.param.u64 %rd1, [to];\n"
    "    mov.u32 %r1, 5;\n"
    "    st.shared.u32 [much+40000], %r1;\n"
    "    ld.shared.u32 %r2, [much+40000];\n"
    "    st.global.u32 [%rd1], %r2;\n"
    "    ret;\n"
    "}\n"
    ".extern .shared .align 16 .b8 dynamic[];\n"
    // Writes to the last word of `bytes` of dynamic shared memory.
    ".visible .entry dynamic_shared(.param .u64 to, .param .u32 bytes)\n"
    "{\n"
    "    .reg .b32 %r<6>;\n"
    "    .reg .b64 %rd<2>;\n"
    "    ld.param.u64 %rd1, [to];\n"
    "    ld.param.u32 %r1, [bytes];\n"
    "    mov.u32 %r2, dynamic;\n"
    "    add.u32 %r3, %r2, %r1;\n"
    "    mov.u32 %r4, 6;\n"
    "    st.shared.u32 [%r3+-4], %r4;\n"
    "    ld.shared.u32 %r5, [%r3+-4];\n"
    "    st.global.u32 [%rd1], %r5;\n"
    "    ret;\n"
    "}\n"
    ".visible .entry bounded(.param .u64 to)\n"
    ".maxntid 64, 1, 1\n"
    "{\n"
    "    ret;\n"
    "}\n"
    ".visible .entry required(.param .u64 to)\n"
    ".reqntid 32, 1, 1\n"
    "{\n"
    "    ret;\n"
    "}\n"
    ".visible .entry nothing()\n"
    "{\n"
    "    ret;\n"
    "}\n"
    COPY_PARAMETER("copy_24", 24) COPY_PARAMETER("copy_4088", 4088) COPY_PARAMETER("copy_32752", 32752);

static char padded[9 << 20];

static void with_kinds(void) {
    with_context();
    NEED(cuModuleLoadData(&module, kinds_ptx));
}

// Loads, tells, and shows that what was loaded works.
static void try_image(const char *what, const void *image, int how) {
    CUmodule loaded = NULL;
    CUfunction function;
    CUdeviceptr counter = 0;
    size_t bytes = 0;
    unsigned value = 41, initial = 0;
    CUresult result = how == 0   ? cuModuleLoadData(&loaded, image)
                      : how == 1 ? cuModuleLoadDataEx(&loaded, image, 0, NULL, NULL)
                                 : cuModuleLoadFatBinary(&loaded, image);
    static const char *calls[] = {"cuModuleLoadData", "cuModuleLoadDataEx", "cuModuleLoadFatBinary"};
    say("%s of %s: %s", calls[how], what, result_name(result));
    if (result != CUDA_SUCCESS)
        return;
    CUresult r1 = cuModuleGetFunction(&function, loaded, "add_one");
    CUresult r2 = cuModuleGetGlobal_v2(&counter, &bytes, loaded, "counter");
    if (r1 == CUDA_SUCCESS && r2 == CUDA_SUCCESS) {
        CUdeviceptr p;
        NEED(cuMemAlloc_v2(&p, 4));
        NEED(cuMemcpyHtoD_v2(p, &value, 4));
        void *parameters[] = {&p};
        NEED(cuMemcpyDtoH_v2(&initial, counter, 4));
        CUresult r3 = cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL);
        CUresult r4 = cuMemcpyDtoH_v2(&value, p, 4);
        say("  counter of %zu bytes is %u; launch %s, copy %s, 41 became %u", bytes, initial, result_name(r3),
            result_name(r4), value);
        NEED(cuMemFree_v2(p));
    } else {
        say("  function %s, variable %s", result_name(r1), result_name(r2));
    }
    say("  unloaded: %s", result_name(cuModuleUnload(loaded)));
}

// What a compiler leaves in a program around a fat binary.
struct wrapper {
    int magic, version;
    const void *data;
    void *unused;
};

// As compilers put them into programs; NVIDIA's runtime knows them, its driver does not.
static void wrapped_images(void) {
    with_context();
    struct wrapper wrapped = {0x466243b1, 1, image_fatbin_zstd, NULL};
    for (int how = 0; how < 3; how++)
        try_image("a wrapped fatbin", &wrapped, how);
}

static void images(void) {
    with_context();
    for (int how = 0; how < 3; how++) {
        try_image("a cubin", image_cubin, how);
        try_image("a fatbin", image_fatbin, how);
        try_image("a fatbin compressed with zstd", image_fatbin_zstd, how);
        try_image("a fatbin compressed with LZ4", image_fatbin_lz4, how);
    }
    for (int how = 0; how < 2; how++) {
        try_image("PTX", kernels_ptx, how);
        // 9 MiB, nearly all of it comments.
        memset(padded, ' ', sizeof padded);
        for (size_t i = 0; i < sizeof padded - sizeof kernels_ptx - 3; i += 80)
            memcpy(padded + i, "\n//", 3);
        memset(padded + sizeof padded - sizeof kernels_ptx - 160, '\n', 160);
        strcpy(padded + sizeof padded - sizeof kernels_ptx, kernels_ptx);
        try_image("9 MiB of PTX", padded, how);
    }
}

static void bad_images(void) {
    with_context();
    static char copy[sizeof kernels_ptx + 4096];
    try_image("nothing", "", 0);
    try_image("a space", " ", 0);
    try_image("garbage", "this is no image", 0);
    try_image("PTX without a header", ".visible .entry f() { ret; }", 0);
    try_image("PTX of a version to come", ".version 99.0\n.target sm_90\n.address_size 64\n", 0);
    try_image("PTX for a device to come", ".version 8.0\n.target sm_999\n.address_size 64\n", 0);
    try_image("PTX with an unknown instruction",
              HEADER ".visible .entry f()\n{\n    frobnicate.u32;\n    ret;\n}\n", 0);
    try_image("PTX with an unknown register", HEADER ".visible .entry f()\n{\n    mov.u32 %r1, 1;\n    ret;\n}\n", 0);
    try_image("PTX with an undefined function",
              HEADER ".extern .func g();\n.visible .entry f()\n{\n    call g;\n    ret;\n}\n", 0);
    try_image("PTX without kernels", HEADER, 0);
    for (int part = 1; part < 4; part++) {
        strcpy(copy, kernels_ptx);
        copy[strlen(copy) * part / 4] = 0;
        try_image("PTX cut short", copy, 0);
    }
    try_image("a file's magic number alone, text behind it", "\177ELF nothing", 0);
    TELL(cuModuleLoadData(NULL, kernels_ptx));
    CUmodule loaded;
    TELL(cuModuleLoad(&loaded, "/nonexistent/file"));
    TELL(cuModuleLoad(&loaded, "/"));
    TELL(cuModuleLoad(&loaded, "/dev/null"));
}

static void no_image(void) {
    with_context();
    TELL(cuModuleLoadData(&module, NULL));
    TELL(cuModuleLoadDataEx(&module, NULL, 0, NULL, NULL));
    TELL(cuModuleLoadFatBinary(&module, NULL));
    TELL(cuModuleLoad(NULL, "/nonexistent"));
    TELL(cuModuleLoad(&module, NULL));
}

// Images whose headers are right and whose rest is not there: zeroes behind.
static void cut_images(void) {
    with_context();
    static _Alignas(4096) unsigned char copy[1 << 16];
    for (size_t keep = 16; keep < sizeof image_cubin; keep = keep < 128 ? keep * 2 : keep + 700) {
        memset(copy, 0, sizeof copy);
        memcpy(copy, image_cubin, keep);
        CUresult result = cuModuleLoadData(&module, copy);
        say("the first %zu bytes of a cubin: %s", keep, result_name(result));
    }
}
static void cut_fatbins(void) {
    with_context();
    static _Alignas(4096) unsigned char copy[1 << 16];
    for (size_t keep = 16; keep < sizeof image_fatbin_zstd; keep = keep < 128 ? keep * 2 : keep + 300) {
        memset(copy, 0, sizeof copy);
        memcpy(copy, image_fatbin_zstd, keep);
        CUresult result = cuModuleLoadData(&module, copy);
        say("the first %zu bytes of a fatbin: %s", keep, result_name(result));
    }
    memcpy(copy, image_fatbin_zstd, sizeof image_fatbin_zstd);
    memset(copy + 8, 0, 8);
    say("a fatbin of no bytes: %s", result_name(cuModuleLoadData(&module, copy)));
}

static void files(void) {
    with_context();
    char path[] = "/tmp/t0-module-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0)
        exit(1);
    struct {
        const char *what;
        const void *bytes;
        size_t len;
    } contents[] = {
        {"PTX", kernels_ptx, sizeof kernels_ptx - 1},
        {"a cubin", image_cubin, sizeof image_cubin},
        {"a fatbin", image_fatbin_zstd, sizeof image_fatbin_zstd},
        {"half a cubin", image_cubin, sizeof image_cubin / 2},
        {"garbage", "garbage", 7},
    };
    for (size_t i = 0; i < sizeof contents / sizeof *contents; i++) {
        if (pwrite(fd, contents[i].bytes, contents[i].len, 0) < 0 || ftruncate(fd, contents[i].len) != 0)
            exit(1);
        CUmodule loaded;
        CUfunction function;
        CUresult result = cuModuleLoad(&loaded, path);
        say("cuModuleLoad of %s: %s", contents[i].what, result_name(result));
        if (result == CUDA_SUCCESS) {
            TELL(cuModuleGetFunction(&function, loaded, i == 0 ? "vadd" : "add_one"));
            TELL(cuModuleUnload(loaded));
        }
    }
    unlink(path);
}

static void jit_options(void) {
    with_context();
    static char info[4096], error[4096];
    CUmodule loaded = NULL;
    const char *wrong = HEADER ".visible .entry f()\n{\n    frobnicate.u32;\n    ret;\n}\n";
    for (int round = 0; round < 3; round++) {
        memset(info, 0, sizeof info);
        memset(error, 0, sizeof error);
        int options[] = {3, 4, 5, 6};
        void *values[] = {info, (void *)sizeof info, error, (void *)sizeof error};
        if (round == 2)
            values[3] = (void *)16;
        CUresult result = cuModuleLoadDataEx(&loaded, round == 0 ? kernels_ptx : wrong, 4, options, values);
        say("with logs: %s, an error is logged: %d, within its buffer: %d, sizes changed: %d %d", result_name(result),
            error[0] != 0, strlen(error) < (round == 2 ? 16 : sizeof error), values[1] != (void *)sizeof info,
            values[3] != (round == 2 ? (void *)16 : (void *)sizeof error));
    }
    struct {
        const char *what;
        int option;
        uintptr_t value;
    } single[] = {{"32 registers at most", 0, 32}, {"128 threads per block", 1, 128}, {"wall time", 2, 0},
                  {"optimisation 0", 7, 0},        {"optimisation 9", 7, 9},          {"target of the context", 8, 0},
                  {"target sm_90", 9, 90},         {"target sm_35", 9, 35},           {"prefer PTX", 10, 0},
                  {"debug information", 11, 1},    {"verbose", 12, 1},                {"line information", 13, 1},
                  {"cache mode", 14, 0},           {"option 15", 15, 0},              {"option 77", 77, 0},
                  {"option -1", -1, 0}};
    for (size_t i = 0; i < sizeof single / sizeof *single; i++) {
        void *value = (void *)single[i].value;
        CUresult result = cuModuleLoadDataEx(&loaded, kernels_ptx, 1, &single[i].option, &value);
        say("with %s: %s", single[i].what, result_name(result));
        if (result == CUDA_SUCCESS)
            NEED(cuModuleUnload(loaded));
    }
}
static void jit_options_missing(void) {
    with_context();
    CUmodule loaded;
    int option = 2;
    TELL(cuModuleLoadDataEx(&loaded, kernels_ptx, 0, &option, NULL));
    TELL(cuModuleLoadDataEx(&loaded, kernels_ptx, 1, NULL, NULL));
}

static void lookups(void) {
    with_kinds();
    CUfunction function = NULL, again = NULL;
    CUdeviceptr address = 0;
    size_t bytes = 0;
    unsigned value = 0;
    TELL(cuModuleGetFunction(&function, module, "nothing"));
    TELL(cuModuleGetFunction(&again, module, "nothing"));
    say("the same function: %d", function == again);
    TELL(cuModuleGetFunction(&function, module, "Nothing"));
    TELL(cuModuleGetFunction(&function, module, ""));
    TELL(cuModuleGetFunction(&function, module, "table"));
    TELL(cuModuleGetFunction(&function, module, NULL));
    TELL(cuModuleGetFunction(NULL, module, "nothing"));
    static char name[6000];
    memset(name, 'x', sizeof name - 1);
    TELL(cuModuleGetFunction(&function, module, name));
    TELL_VALUE(cuModuleGetGlobal_v2(&address, &bytes, module, "table"), bytes);
    TELL_VALUE(cuModuleGetGlobal_v2(&address, &bytes, module, "fixed"), bytes);
    TELL(cuMemcpyDtoH_v2(&value, address, 4));
    say("fixed is %u", value);
    value = 100;
    TELL(cuMemcpyHtoD_v2(address, &value, 4));
    TELL_VALUE(cuModuleGetGlobal_v2(&address, &bytes, module, "empty"), bytes);
    TELL(cuMemcpyHtoD_v2(address, &value, 4));
    TELL(cuMemFree_v2(address));
    TELL_VALUE(cuModuleGetGlobal_v2(NULL, &bytes, module, "table"), bytes);
    TELL(cuModuleGetGlobal_v2(&address, NULL, module, "table"));
    TELL(cuModuleGetGlobal_v2(NULL, NULL, module, "table"));
    TELL(cuModuleGetGlobal_v2(&address, &bytes, module, "nothing"));
    TELL(cuModuleGetGlobal_v2(&address, &bytes, module, "missing"));
    TELL(cuModuleGetGlobal_v2(&address, &bytes, module, ""));
    TELL(cuModuleGetGlobal_v2(&address, &bytes, module, NULL));
    NEED(cuModuleGetGlobal_v2(&address, &bytes, module, "table"));
    TELL(cuMemsetD8_v2(address, 1, 1000));
    TELL(cuModuleUnload(module));
    TELL(cuMemsetD8_v2(address, 1, 1000));
    TELL(cuCtxSynchronize());
}

static void null_module(void) {
    with_context();
    CUfunction function;
    CUdeviceptr address;
    TELL(cuModuleUnload(NULL));
    TELL(cuModuleGetFunction(&function, NULL, "nothing"));
    TELL(cuModuleGetGlobal_v2(&address, NULL, NULL, "nothing"));
}
static void null_function(void) {
    with_context();
    int value;
    TELL(cuFuncGetAttribute(&value, 0, NULL));
    TELL(cuLaunchKernel(NULL, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
}
static void an_unloaded_module(void) {
    with_kinds();
    NEED(cuModuleUnload(module));
    TELL(cuModuleUnload(module));
}
static void a_function_without_its_module(void) {
    with_kinds();
    CUfunction function = kernel_of(module, "nothing");
    NEED(cuModuleUnload(module));
    int value;
    TELL(cuFuncGetAttribute(&value, 0, function));
    TELL(cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    TELL(cuCtxSynchronize());
}

static void function_attributes(void) {
    with_kinds();
    static const char *names[] = {"sizes", "static_shared", "dynamic_shared", "bounded", "required", "nothing", "copy_4088"};
    int value;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        CUfunction function = kernel_of(module, names[i]);
        for (int attribute = -1; attribute <= 20; attribute++) {
            value = -1;
            CUresult result = cuFuncGetAttribute(&value, attribute, function);
            if (result == CUDA_SUCCESS)
                say("%s, attribute %d: %d", names[i], attribute, value);
            else
                say("%s, attribute %d: %s", names[i], attribute, result_name(result));
        }
    }
    TELL(cuFuncGetAttribute(NULL, 0, kernel_of(module, "nothing")));
    TELL(cuFuncGetAttribute(&value, 1000000, kernel_of(module, "nothing")));
}

static void shapes(void) {
    with_kinds();
    CUfunction nothing = kernel_of(module, "nothing");
    static const unsigned all[][6] = {
        {1, 1, 1, 1, 1, 1},     {1, 1, 1, 1024, 1, 1},   {1, 1, 1, 1, 1024, 1},  {1, 1, 1, 1, 1, 64},
        {1, 1, 1, 1025, 1, 1},  {1, 1, 1, 1, 1025, 1},   {1, 1, 1, 1, 1, 65},    {1, 1, 1, 32, 32, 2},
        {0, 1, 1, 1, 1, 1},     {1, 0, 1, 1, 1, 1},      {1, 1, 0, 1, 1, 1},     {1, 1, 1, 0, 1, 1},
        {1, 1, 1, 1, 0, 1},     {1, 1, 1, 1, 1, 0},      {65536, 1, 1, 1, 1, 1}, {1, 65535, 1, 1, 1, 1},
        {1, 65536, 1, 1, 1, 1}, {1, 1, 65536, 1, 1, 1},  {2147483648u, 1, 1, 1, 1, 1}, {4294967295u, 1, 1, 1, 1, 1},
        {1, 1, 1, 4294967295u, 1, 1}, {1, 1, 1, 65536, 65536, 65536}, {3, 5, 7, 8, 4, 2},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const unsigned *s = all[i];
        CUresult launched = cuLaunchKernel(nothing, s[0], s[1], s[2], s[3], s[4], s[5], 0, NULL, NULL, NULL);
        say("grid %u %u %u, block %u %u %u: %s, then %s", s[0], s[1], s[2], s[3], s[4], s[5], result_name(launched),
            result_name(cuCtxSynchronize()));
    }
    CUdeviceptr to;
    NEED(cuMemAlloc_v2(&to, 64));
    void *parameters[] = {&to};
    static const unsigned threads[] = {1, 31, 32, 33, 64, 65, 128, 1024};
    for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
        CUresult a = cuLaunchKernel(kernel_of(module, "bounded"), 1, 1, 1, threads[i], 1, 1, 0, NULL, parameters, NULL);
        CUresult b = cuLaunchKernel(kernel_of(module, "required"), 1, 1, 1, threads[i], 1, 1, 0, NULL, parameters, NULL);
        say("%u threads: bounded %s, required %s, then %s", threads[i], result_name(a), result_name(b),
            result_name(cuCtxSynchronize()));
    }
}

static void shared_memory(void) {
    with_kinds();
    CUdeviceptr to;
    NEED(cuMemAlloc_v2(&to, 64));
    static const unsigned sizes[] = {0,     4,     16384, 49152, 8192,   8196,   49153, 49156,
                                     65536, 99328, 166912, 232448, 233472, 1 << 20, 1 << 30, 4294967295u};
    CUfunction fixed = kernel_of(module, "static_shared"), dynamic = kernel_of(module, "dynamic_shared");
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned bytes = sizes[i], got = 0;
        void *parameters[] = {&to, &bytes};
        NEED(cuMemsetD32_v2(to, 0, 1));
        CUresult a = cuLaunchKernel(fixed, 1, 1, 1, 1, 1, 1, bytes, NULL, parameters, NULL);
        CUresult then = cuCtxSynchronize();
        NEED(cuMemcpyDtoH_v2(&got, to, 4));
        say("40960 and %u bytes: %s, then %s, %u", bytes, result_name(a), result_name(then), got);
        if (bytes < 4)
            continue;
        NEED(cuMemsetD32_v2(to, 0, 1));
        a = cuLaunchKernel(dynamic, 1, 1, 1, 1, 1, 1, bytes, NULL, parameters, NULL);
        then = cuCtxSynchronize();
        NEED(cuMemcpyDtoH_v2(&got, to, 4));
        say("%u bytes: %s, then %s, %u", bytes, result_name(a), result_name(then), got);
    }
}

static void parameters_one_by_one(void) {
    with_kinds();
    CUdeviceptr to;
    uint8_t a = 0xa1, e = 0xe5;
    uint16_t b = 0xb2b2;
    uint32_t c = 0xc3c3c3c3;
    uint64_t d = 0xd4d4d4d4d4d4d4d4;
    unsigned long long got[5] = {0};
    NEED(cuMemAlloc_v2(&to, 64));
    void *parameters[] = {&a, &b, &c, &d, &e, &to};
    TELL(cuLaunchKernel(kernel_of(module, "sizes"), 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
    TELL(cuMemcpyDtoH_v2(got, to, sizeof got));
    say("%llx %llx %llx %llx %llx", got[0], got[1], got[2], got[3], got[4]);
    TELL(cuLaunchKernel_ptsz(kernel_of(module, "sizes"), 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
    TELL(cuStreamSynchronize_ptsz(NULL));

    static const struct {
        const char *name;
        size_t len;
    } big[] = {{"copy_24", 24}, {"copy_4088", 4088}, {"copy_32752", 32752}};
    static unsigned char data[32752], back[32752];
    CUdeviceptr room;
    NEED(cuMemAlloc_v2(&room, sizeof data));
    for (size_t i = 0; i < sizeof big / sizeof *big; i++) {
        for (size_t j = 0; j < big[i].len; j++)
            data[j] = (unsigned char)(j * 7 + i);
        NEED(cuMemsetD8_v2(room, 0, sizeof data));
        void *two[] = {&room, data};
        CUresult result = cuLaunchKernel(kernel_of(module, big[i].name), 1, 1, 1, 1, 1, 1, 0, NULL, two, NULL);
        NEED(cuMemcpyDtoH_v2(back, room, big[i].len));
        say("%s: %s, same %d", big[i].name, result_name(result), memcmp(data, back, big[i].len) == 0);
    }
    TELL(cuLaunchKernel(kernel_of(module, "nothing"), 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    TELL(cuLaunchKernel(kernel_of(module, "nothing"), 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
    TELL(cuCtxSynchronize());
}

static void parameters_packed(void) {
    with_kinds();
    CUdeviceptr room;
    static unsigned char back[4096];
    static struct {
        CUdeviceptr to;
        unsigned char data[32752];
    } packed;
    NEED(cuMemAlloc_v2(&room, sizeof packed));
    NEED(cuMemsetD8_v2(room, 0, sizeof packed));
    packed.to = room;
    memset(packed.data, 0x5c, sizeof packed.data);
    CUfunction copy = kernel_of(module, "copy_24"), nothing = kernel_of(module, "nothing");
    static const size_t sizes[] = {32, 33, 40, 64, 4096, 32760, 31, 24};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t size = sizes[i];
        void *extra[] = {(void *)1, &packed, (void *)2, &size, NULL};
        CUresult a = cuLaunchKernel(copy, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, extra);
        say("%zu bytes: %s, then %s", size, result_name(a), result_name(cuCtxSynchronize()));
        a = cuLaunchKernel(nothing, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, extra);
        say("%zu bytes for a kernel without parameters: %s, then %s", size, result_name(a), result_name(cuCtxSynchronize()));
    }
    TELL(cuMemcpyDtoH_v2(back, room, 24));
    // As far as the last one's parameters go.
    say("copied: %x %x", back[0], back[15]);
    size_t size = 32;
    void *swapped[] = {(void *)2, &size, (void *)1, &packed, NULL};
    TELL(cuLaunchKernel(copy, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, swapped));
    void *unknown[] = {(void *)1, &packed, (void *)2, &size, (void *)7, NULL, NULL};
    TELL(cuLaunchKernel(copy, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, unknown));
    void *ended[] = {NULL};
    TELL(cuLaunchKernel(nothing, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, ended));
    void *no_buffer[] = {(void *)2, &size, NULL};
    TELL(cuLaunchKernel(copy, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, no_buffer));
    void *each[] = {&room, packed.data};
    TELL(cuLaunchKernel(copy, 1, 1, 1, 1, 1, 1, 0, NULL, each, swapped));
    TELL(cuLaunchKernel(nothing, 1, 1, 1, 1, 1, 1, 0, NULL, each, swapped));
    TELL(cuCtxSynchronize());
}

// Tells what becomes of a launch whose kernel may fault: if it does, that may be known before the launch returns.
static void tell_end(const char *what, CUresult launched) {
    CUresult then = cuCtxSynchronize();
    if (launched == CUDA_SUCCESS || launched == then)
        say("%s: ends in %s", what, result_name(then));
    else
        say("%s: %s, then %s", what, result_name(launched), result_name(then));
}

static void a_buffer_of_nothing(void) {
    with_kinds();
    void *ended[] = {NULL};
    tell_end("no buffer", cuLaunchKernel(kernel_of(module, "copy_24"), 1, 1, 1, 1, 1, 1, 0, NULL, NULL, ended));
}
static void a_buffer_without_size(void) {
    with_kinds();
    static char packed[32];
    void *no_size[] = {(void *)1, packed, NULL};
    tell_end("no size", cuLaunchKernel(kernel_of(module, "copy_24"), 1, 1, 1, 1, 1, 1, 0, NULL, NULL, no_size));
}
static void parameters_too_short(void) {
    with_kinds();
    static char packed[8];
    for (size_t size = 1; size < 2; size--) {
        void *extra[] = {(void *)1, packed, (void *)2, &size, NULL};
        tell_end(size == 1 ? "1 byte" : "0 bytes",
                 cuLaunchKernel(kernel_of(module, "copy_24"), 1, 1, 1, 1, 1, 1, 0, NULL, NULL, extra));
        if (cuCtxSynchronize() != CUDA_SUCCESS)
            return;
    }
}
static void parameters_missing(void) {
    with_kinds();
    TELL(cuLaunchKernel(kernel_of(module, "copy_24"), 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    TELL(cuCtxSynchronize());
}
static void a_parameter_of_null(void) {
    with_kinds();
    CUdeviceptr to = 0;
    void *parameters[] = {&to, NULL};
    TELL(cuLaunchKernel(kernel_of(module, "copy_24"), 1, 1, 1, 1, 1, 1, 0, NULL, parameters, NULL));
}

// An error of a kernel stays with its context.
static void a_fault(void) {
    with_kernels();
    CUdeviceptr address = 0x10, memory;
    void *parameters[] = {&address};
    CUstream stream;
    int value;
    NEED(cuStreamCreate(&stream, 0));
    NEED(cuMemAlloc_v2(&memory, 64));
    CUfunction nothing = kernel_of(module, "null_kernel");
    tell_end("poke", cuLaunchKernel(kernel_of(module, "poke"), 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL));
    TELL(cuStreamSynchronize(stream));
    TELL(cuStreamSynchronize(stream));
    TELL(cuStreamQuery(stream));
    TELL(cuCtxSynchronize());
    TELL(cuMemAlloc_v2(&memory, 64));
    TELL(cuMemFree_v2(memory));
    TELL(cuMemsetD8_v2(memory, 0, 64));
    TELL(cuLaunchKernel(nothing, 1, 1, 1, 1, 1, 1, 0, NULL, NULL, NULL));
    TELL(cuModuleGetFunction(&nothing, module, "null_kernel"));
    TELL(cuStreamCreate(&stream, 0));
    TELL(cuCtxGetCurrent(&context));
    TELL(cuDeviceGetAttribute(&value, 1, 0));
    TELL(cuDriverGetVersion(&value));
    TELL(cuCtxDestroy_v2(context));
    TELL(cuCtxCreate_v2(&context, 0, 0));
}

int main(int argc, char **argv) {
    static const struct section sections[] = {
        SECTION(images),
        SECTION(wrapped_images),
        SECTION(bad_images),
        SECTION(files),
        SECTION(jit_options),
        SECTION(lookups),
        SECTION(function_attributes),
        SECTION(shapes),
        SECTION(shared_memory),
        SECTION(parameters_one_by_one),
        SECTION(parameters_packed),
        SECTION(no_image),
        SECTION(cut_images),
        SECTION(cut_fatbins),
        SECTION(jit_options_missing),
        SECTION(null_module),
        SECTION(null_function),
        SECTION(an_unloaded_module),
        SECTION(a_function_without_its_module),
        SECTION(a_buffer_of_nothing),
        SECTION(a_buffer_without_size),
        SECTION(parameters_too_short),
        SECTION(parameters_missing),
        SECTION(a_parameter_of_null),
        // The last: the process is no good behind it.
        SECTION(a_fault),
    };
    return RUN_SECTIONS(sections);
}
