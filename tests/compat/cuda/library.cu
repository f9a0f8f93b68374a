// Code loaded at run time: PTX given as text, a library's kernels and variables, kernels by their handles.
// compat: toolkit 12.8
#include "compat.h"

static const char *SOURCE = R"(
.version 8.0
.target sm_80
.address_size 64
.visible .global .align 4 .u32 factor = 3;
.visible .entry scale(.param .u64 data, .param .u32 n) {
    .reg .pred %p;
    .reg .b32 %r<8>;
    .reg .b64 %d<6>;
    ld.param.u64 %d1, [data];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p, %r5, %r1;
    @%p bra END;
    cvta.to.global.u64 %d1, %d1;
    mul.wide.u32 %d2, %r5, 4;
    add.s64 %d3, %d1, %d2;
    ld.global.u32 %r6, [%d3];
    ld.global.u32 %r7, [factor];
    mul.lo.u32 %r6, %r6, %r7;
    st.global.u32 [%d3], %r6;
END:
    ret;
}
)";

__global__ void own(int *p) { *p = 1; }

int main() {
    cudaLibrary_t library;
    CHECK(cudaLibraryLoadData(&library, SOURCE, nullptr, nullptr, 0, nullptr, nullptr, 0));
    unsigned count = 0;
    CHECK(cudaLibraryGetKernelCount(&count, library));
    save("kernels", count);
    cudaKernel_t kernel, listed;
    CHECK(cudaLibraryGetKernel(&kernel, library, "scale"));
    CHECK(cudaLibraryEnumerateKernels(&listed, 1, library));
    save("the same", int(kernel == listed));
    unsigned *factor;
    size_t bytes = 0;
    CHECK(cudaLibraryGetGlobal((void **)&factor, &bytes, library, "factor"));
    EXPECT(bytes == 4);
    std::vector<unsigned> host(1000);
    for (unsigned i = 0; i < 1000; i++) host[i] = i;
    unsigned *data = compat::device(host), n = 1000, five = 5;
    void *arguments[] = {&data, &n};
    CHECK(cudaLaunchKernel((const void *)kernel, dim3(8), dim3(128), arguments, 0, 0));
    CHECK(cudaDeviceSynchronize());
    CHECK(cudaMemcpy(factor, &five, 4, cudaMemcpyHostToDevice));
    CHECK(cudaLaunchKernel((const void *)kernel, dim3(8), dim3(128), arguments, 0, 0));
    std::vector<unsigned> found = compat::fetch(data, 1000);
    for (unsigned i = 0; i < 1000; i++) EXPECT(found[i] == i * 15);
    save("data", found);
    cudaKernel_t none;
    save("no such kernel", cudaLibraryGetKernel(&none, library, "nothing"));
    void *address;
    save("no such variable", cudaLibraryGetGlobal(&address, &bytes, library, "nothing"));
    CHECK(cudaLibraryUnload(library));
    save("nonsense", cudaLibraryLoadData(&library, "this is no code", nullptr, nullptr, 0, nullptr, nullptr, 0));
    cudaGetLastError();
    cudaFunction_t function;
    CHECK(cudaGetFuncBySymbol(&function, (const void *)own));
    CHECK(cudaGetKernel(&kernel, (const void *)own));
    int *flag = compat::zeros<int>(1);
    void *of_own[] = {&flag};
    CHECK(cudaLaunchKernel((const void *)kernel, dim3(1), dim3(1), of_own, 0, 0));
    EXPECT(compat::fetch(flag, 1)[0] == 1);

    // The driver's own way, with a log of the compiler's.
    auto load = compat::driver<decltype(&cuModuleLoadDataEx)>("cuModuleLoadDataEx");
    auto get = compat::driver<decltype(&cuModuleGetFunction)>("cuModuleGetFunction");
    auto launch = compat::driver<decltype(&cuLaunchKernel)>("cuLaunchKernel");
    auto unload = compat::driver<decltype(&cuModuleUnload)>("cuModuleUnload");
    char info[4096] = "", error[4096] = "";
    CUjit_option options[] = {CU_JIT_INFO_LOG_BUFFER, CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES, CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES, CU_JIT_LOG_VERBOSE, CU_JIT_MAX_REGISTERS};
    void *values[] = {info, (void *)sizeof info, error, (void *)sizeof error, (void *)1, (void *)32};
    CUmodule module;
    CHECK(load(&module, SOURCE, 6, options, values));
    // What the compiler says depends on whether its result was kept from an earlier run.
    CUfunction in_module;
    CHECK(get(&in_module, module, "scale"));
    CHECK(launch(in_module, 8, 1, 1, 128, 1, 1, 0, nullptr, arguments, nullptr));
    CHECK(cudaDeviceSynchronize());
    save("by the driver", compat::fetch(data, 1000));
    CHECK(unload(module));
    std::string wrong = std::string(SOURCE).replace(std::string(SOURCE).find("mul.lo"), 6, "mul.xx");
    values[1] = (void *)sizeof info;
    values[3] = (void *)sizeof error;
    save("wrong", int(load(&module, wrong.c_str(), 6, options, values)));
    save("its log", error);
    std::printf("library: done\n");
}
