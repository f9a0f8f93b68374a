// SPDX-License-Identifier: Apache-2.0 OR MIT
// Managed memory: host and device write and read it in turn, at one address.
#include "common.h"

enum {
    CU_MEM_ATTACH_GLOBAL = 1,
    CU_MEM_ATTACH_SINGLE = 4,
    CU_MEM_ADVISE_SET_READ_MOSTLY = 1,
    CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY = 1,
    MANAGED_MEMORY = 83,
    CONCURRENT_MANAGED_ACCESS = 89,
    IS_MANAGED = 8,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_NOT_SUPPORTED = 801,
};
CUresult cuMemAllocManaged(CUdeviceptr *pointer, size_t bytes, unsigned flags);
CUresult cuMemPrefetchAsync(CUdeviceptr at, size_t bytes, CUdevice device, CUstream stream);
CUresult cuMemAdvise(CUdeviceptr at, size_t bytes, int advice, CUdevice device);
CUresult cuMemRangeGetAttribute(void *data, size_t bytes, int attribute, CUdeviceptr at, size_t len);
CUresult cuStreamAttachMemAsync(CUstream stream, CUdeviceptr at, size_t len, unsigned flags);

typedef struct CUlib_st *CUlibrary;
CUresult cuLibraryLoadData(CUlibrary *library, const void *code, int *jit_options, void **jit_values, unsigned jit_len,
                           int *options, void **values, unsigned len);
CUresult cuLibraryUnload(CUlibrary library);
CUresult cuLibraryGetManaged(CUdeviceptr *pointer, size_t *bytes, CUlibrary library, const char *name);
CUresult cuLibraryGetModule(CUmodule *module, CUlibrary library);

// `bump` adds a number to `total` and to what `pointer` points to, which is `ordinary`.
static const char VARIABLES[] =
    ".version 7.0\n.target sm_80\n.address_size 64\n"
    ".visible .global .align 4 .u32 ordinary = 40;\n"
    ".visible .global .attribute(.managed) .align 4 .u32 total = 7;\n"
    ".visible .global .attribute(.managed) .align 8 .u64 pointer = generic(ordinary);\n"
    ".visible .global .attribute(.managed) .align 4 .b8 many[4096];\n"
    ".visible .entry bump(.param .u32 by)\n{\n"
    " .reg .b32 %r<8>; .reg .b64 %rd<8>;\n"
    " ld.param.u32 %r1, [by];\n"
    " ld.global.u32 %r2, [total]; add.u32 %r2, %r2, %r1; st.global.u32 [total], %r2;\n"
    " ld.global.u64 %rd1, [pointer]; ld.u32 %r3, [%rd1]; add.u32 %r3, %r3, %r1; st.u32 [%rd1], %r3;\n"
    " mov.u64 %rd2, many; st.global.u32 [%rd2+4], %r1; st.global.u32 [many+4092], %r1;\n"
    " ret;\n}\n";
// Two variables in one declaration, which no compiler makes and the guest's library does not write anew.
static const char HIDDEN[] =
    ".version 7.0\n.target sm_80\n.address_size 64\n"
    ".visible .global .attribute(.managed) .align 4 .u32 hidden, second;\n"
    ".visible .entry nothing()\n{\n ret;\n}\n";

static void bumped(CUmodule module, CUdeviceptr at, CUdeviceptr many, int concurrent) {
    volatile uint32_t *total = (uint32_t *)(uintptr_t)at;
    EXPECT(*total == 7, "it begins as %u", *total);
    *total = 100;
    CUfunction bump;
    CHECK(cuModuleGetFunction(&bump, module, "bump"));
    CUdeviceptr plain, pointer;
    CHECK(cuModuleGetGlobal_v2(&plain, NULL, module, "ordinary"));
    CHECK(cuModuleGetGlobal_v2(&pointer, NULL, module, "pointer"));
    // NVIDIA's library finds it filled when it loads that for the first time, and never again.
    uint64_t *to = (uint64_t *)(uintptr_t)pointer;
    if (concurrent && !*to)
        *to = plain;
    uint32_t by = 5;
    void *params[] = {&by};
    CHECK(cuLaunchKernel(bump, 1, 1, 1, 1, 1, 1, 0, NULL, params, NULL));
    CHECK(cuCtxSynchronize());
    EXPECT(*total == 105, "a kernel made %u of it", *total);
    uint32_t *words = (uint32_t *)(uintptr_t)many;
    EXPECT(words[0] == 0 && words[1] == 5 && words[1023] == 5, "%u, %u, %u", words[0], words[1], words[1023]);
    uint32_t ordinary = 0;
    CHECK(cuMemcpyDtoH_v2(&ordinary, plain, 4));
    EXPECT(ordinary == 45, "by its address it became %u", ordinary);
    unsigned char is = 0;
    CHECK(cuPointerGetAttribute(&is, IS_MANAGED, at));
    EXPECT(is == 1, "it is not said to be managed");
    EXPECT(cuMemFree_v2(at) != CUDA_SUCCESS, "a variable was freed");
}

// Managed variables, of a module and of a library.
static void variables(int concurrent) {
    CUmodule module;
    CUdeviceptr total = 0, pointer = 0, many = 0;
    size_t bytes = 0;
    CHECK(cuModuleLoadData(&module, VARIABLES));
    CHECK(cuModuleGetGlobal_v2(&total, &bytes, module, "total"));
    EXPECT(bytes == 4, "it has %zu bytes", bytes);
    CHECK(cuModuleGetGlobal_v2(&many, &bytes, module, "many"));
    EXPECT(bytes == 4096, "they have %zu bytes", bytes);
    bumped(module, total, many, concurrent);
    CHECK(cuModuleUnload(module));
    CUlibrary library;
    CHECK(cuLibraryLoadData(&library, VARIABLES, NULL, NULL, 0, NULL, NULL, 0));
    CHECK(cuLibraryGetManaged(&total, &bytes, library, "total"));
    EXPECT(bytes == 4, "the library's has %zu bytes", bytes);
    CHECK(cuLibraryGetManaged(&pointer, NULL, library, "pointer"));
    CHECK(cuLibraryGetManaged(&many, NULL, library, "many"));
    EXPECT(cuLibraryGetManaged(NULL, NULL, library, "total") == CUDA_ERROR_INVALID_VALUE, "nothing was wanted");
    EXPECT(cuLibraryGetManaged(&pointer, NULL, library, "none") == CUDA_ERROR_NOT_FOUND, "there is no such variable");
    EXPECT(cuLibraryGetManaged(&pointer, NULL, library, "ordinary") == CUDA_ERROR_NOT_FOUND, "it is none");
    CHECK(cuLibraryGetModule(&module, library));
    bumped(module, total, many, concurrent);
    CHECK(cuLibraryUnload(library));
    // Before CUDA 13 runtimes ask the library's module, and nothing else before.
    CHECK(cuLibraryLoadData(&library, VARIABLES, NULL, NULL, 0, NULL, NULL, 0));
    CHECK(cuLibraryGetModule(&module, library));
    CHECK(cuModuleGetGlobal_v2(&total, &bytes, module, "total"));
    EXPECT(bytes == 4, "the module's has %zu bytes", bytes);
    CHECK(cuModuleGetGlobal_v2(&many, NULL, module, "many"));
    CHECK(cuLibraryGetManaged(&pointer, NULL, library, "total"));
    EXPECT(pointer == total, "the library has another one");
    bumped(module, total, many, concurrent);
    CHECK(cuLibraryUnload(library));
    if (concurrent)
        return;
    // Once a kernel of it was handed out, it is too late.
    CUfunction bump;
    CHECK(cuLibraryLoadData(&library, VARIABLES, NULL, NULL, 0, NULL, NULL, 0));
    CHECK(cuLibraryGetModule(&module, library));
    CHECK(cuModuleGetFunction(&bump, module, "bump"));
    CUresult late = cuModuleGetGlobal_v2(&total, NULL, module, "total");
    EXPECT(late == CUDA_ERROR_NOT_SUPPORTED, "asked late it gave %d", late);
    CHECK(cuLibraryUnload(library));
    // What the host's library has to keep for itself is refused, and does not end the program.
    CHECK(cuModuleLoadData(&module, HIDDEN));
    CUresult found = cuModuleGetGlobal_v2(&total, NULL, module, "hidden");
    EXPECT(found == CUDA_ERROR_NOT_SUPPORTED, "a hidden variable gave %d", found);
    CHECK(cuModuleUnload(module));
    CHECK(cuLibraryLoadData(&library, HIDDEN, NULL, NULL, 0, NULL, NULL, 0));
    found = cuLibraryGetManaged(&total, NULL, library, "hidden");
    EXPECT(found == CUDA_ERROR_NOT_SUPPORTED, "a library's hidden variable gave %d", found);
    CHECK(cuLibraryUnload(library));
}

int main(int argc, char **argv) {
    size_t words = (size_t)argument(argc, argv, 1, 100000), bytes = 4 * words;
    setup();
    int managed = 0, concurrent = 0;
    CHECK(cuDeviceGetAttribute(&managed, MANAGED_MEMORY, 0));
    CHECK(cuDeviceGetAttribute(&concurrent, CONCURRENT_MANAGED_ACCESS, 0));
    EXPECT(managed == 1, "the device has no managed memory");
    CUdeviceptr at = 0;
    EXPECT(cuMemAllocManaged(&at, 0, CU_MEM_ATTACH_GLOBAL) == CUDA_ERROR_INVALID_VALUE, "no bytes were allocated");
    EXPECT(cuMemAllocManaged(&at, 64, 0) == CUDA_ERROR_INVALID_VALUE, "memory was attached to nothing");
    CHECK(cuMemAllocManaged(&at, bytes, CU_MEM_ATTACH_GLOBAL));
    uint32_t *host = (uint32_t *)(uintptr_t)at;
    unsigned char is = 0;
    CHECK(cuPointerGetAttribute(&is, IS_MANAGED, at));
    EXPECT(is == 1, "it is not said to be managed");
    CUstream stream;
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuStreamAttachMemAsync(stream, at, 0, CU_MEM_ATTACH_GLOBAL));
    EXPECT(cuStreamAttachMemAsync(stream, at, bytes / 2, CU_MEM_ATTACH_GLOBAL) != CUDA_SUCCESS, "half of it was attached");
    EXPECT(cuStreamAttachMemAsync(NULL, at, 0, CU_MEM_ATTACH_SINGLE) != CUDA_SUCCESS, "it was attached to the null stream");
    uint32_t by = 5, n = (uint32_t)words;
    void *params[] = {&at, &by, &n};
    CUfunction increment = kernel("increment");
    for (uint32_t round = 0; round < 3; round++) {
        for (size_t i = 0; i < words; i++)
            host[i] = round == 0 ? (uint32_t)i : host[i] + 1;
        CHECK(cuLaunchKernel(increment, (n + 255) / 256, 1, 1, 256, 1, 1, 0, stream, params, NULL));
        CHECK(cuStreamSynchronize(stream));
        for (size_t i = 0; i < words; i++)
            EXPECT(host[i] == i + 5 * (round + 1) + round, "word %zu is %u", i, host[i]);
    }
    // What a synchronous copy or fill wrote is there when the call returns.
    uint32_t *local = malloc(bytes);
    EXPECT(local != NULL, "no memory");
    for (size_t i = 0; i < words; i++)
        local[i] = (uint32_t)(7 * i);
    CHECK(cuMemcpyHtoD_v2(at, local, bytes));
    for (size_t i = 0; i < words; i++)
        EXPECT(host[i] == 7 * i, "copied word %zu is %u", i, host[i]);
    CUdeviceptr d = device_alloc(bytes);
    CHECK(cuMemsetD32_v2(d, 99, words));
    CHECK(cuMemcpyDtoD_v2(at, d, bytes));
    CHECK(cuCtxSynchronize());
    EXPECT(host[0] == 99 && host[words - 1] == 99, "copied words are %u and %u", host[0], host[words - 1]);
    CHECK(cuMemsetD32_v2(at, 3, words));
    CHECK(cuCtxSynchronize());
    EXPECT(host[words - 1] == 3, "the filled word is %u", host[words - 1]);
    // Advice is remembered; what nothing can follow is refused.
    int mostly = 9;
    CHECK(cuMemRangeGetAttribute(&mostly, 4, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, at, bytes));
    EXPECT(mostly == 0, "nobody said that it is mostly read");
    CHECK(cuMemAdvise(at, bytes, CU_MEM_ADVISE_SET_READ_MOSTLY, 0));
    CHECK(cuMemRangeGetAttribute(&mostly, 4, CU_MEM_RANGE_ATTRIBUTE_READ_MOSTLY, at, bytes));
    EXPECT(mostly == 1, "it is not said to be mostly read");
    CUresult prefetched = cuMemPrefetchAsync(at, bytes, 0, stream);
    EXPECT(prefetched == (concurrent ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE), "prefetching gave %d", prefetched);
    EXPECT(cuMemPrefetchAsync(d, bytes, 0, stream) == CUDA_ERROR_INVALID_VALUE, "device memory was prefetched");
    CHECK(cuStreamSynchronize(stream));
    EXPECT(cuMemFreeHost(host) != CUDA_SUCCESS, "it was freed as what it is not");
    CHECK(cuMemFree_v2(at));
    EXPECT(cuMemFree_v2(at) != CUDA_SUCCESS, "it was freed twice");
    variables(concurrent);
    printf("managed: %zu words right in both directions\n", words);
    return 0;
}
