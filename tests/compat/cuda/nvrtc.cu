// compat: toolkit 12.0
// compat: libraries nvrtc nvJitLink
// Code compiled and linked while the program runs: NVRTC to machine code, PTX and intermediate code; nvJitLink joins two parts.
#include "compat.h"
#include <nvJitLink.h>
#include <nvrtc.h>

#define RTC(call) EXPECT((call) == NVRTC_SUCCESS)
#define LINK(call) EXPECT((call) == NVJITLINK_SUCCESS)

static const char *SOURCE = R"(
template <typename T> __device__ T cube(T x) { return x * x * x; }
__constant__ int shift;
template <typename T> __global__ void apply(T *data, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) data[i] = cube(data[i]) + shift;
}
)";
static const char *PARTS[2] = {R"(extern "C" __device__ int part(int x) { return x * 10 + 1; })",
                               R"(extern "C" __device__ int part(int); extern "C" __global__ void whole(int *data) { data[threadIdx.x] = part(threadIdx.x); })"};

static std::string architecture(const char *prefix) {
    cudaDeviceProp p;
    CHECK(cudaGetDeviceProperties(&p, 0));
    return prefix + std::to_string(p.major * 10 + p.minor);
}

int main() {
    CHECK(cudaFree(0));
    auto load = compat::driver<decltype(&cuModuleLoadData)>("cuModuleLoadData");
    auto get = compat::driver<decltype(&cuModuleGetFunction)>("cuModuleGetFunction");
    auto global = compat::driver<CUresult (*)(CUdeviceptr *, size_t *, CUmodule, const char *)>("cuModuleGetGlobal");
    auto launch = compat::driver<decltype(&cuLaunchKernel)>("cuLaunchKernel");
    auto unload = compat::driver<decltype(&cuModuleUnload)>("cuModuleUnload");
    int n = 1000;
    for (bool machine_code : {true, false}) {
        nvrtcProgram program;
        RTC(nvrtcCreateProgram(&program, SOURCE, "apply.cu", 0, nullptr, nullptr));
        for (const char *name : {"apply<int>", "apply<double>", "&shift"}) RTC(nvrtcAddNameExpression(program, name));
        std::string arch = architecture(machine_code ? "--gpu-architecture=sm_" : "--gpu-architecture=compute_");
        const char *options[] = {arch.c_str(), "--std=c++17"};
        RTC(nvrtcCompileProgram(program, 2, options));
        size_t size = 0;
        RTC(machine_code ? nvrtcGetCUBINSize(program, &size) : nvrtcGetPTXSize(program, &size));
        std::vector<char> code(size);
        RTC(machine_code ? nvrtcGetCUBIN(program, code.data()) : nvrtcGetPTX(program, code.data()));
        CUmodule module;
        CHECK(load(&module, code.data()));
        const char *lowered = nullptr;
        RTC(nvrtcGetLoweredName(program, "&shift", &lowered));
        CUdeviceptr shift;
        size_t bytes;
        CHECK(global(&shift, &bytes, module, lowered));
        int value = 4;
        CHECK(cudaMemcpy((void *)shift, &value, sizeof value, cudaMemcpyHostToDevice));
        std::vector<double> host(n);
        for (int i = 0; i < n; i++) host[i] = i * 0.1;
        double *data = compat::device(host);
        void *arguments[] = {&data, &n};
        CUfunction function;
        RTC(nvrtcGetLoweredName(program, "apply<double>", &lowered));
        CHECK(get(&function, module, lowered));
        CHECK(launch(function, 8, 1, 1, 128, 1, 1, 0, nullptr, arguments, nullptr));
        save(machine_code ? "machine code" : "ptx", compat::fetch(data, n));
        RTC(nvrtcDestroyProgram(&program));
        CHECK(unload(module));
    }
    nvrtcProgram wrong;
    RTC(nvrtcCreateProgram(&wrong, "__global__ void f() { nonsense; }", "wrong.cu", 0, nullptr, nullptr));
    save("wrong", nvrtcGetErrorString(nvrtcCompileProgram(wrong, 0, nullptr)));
    size_t length = 0;
    RTC(nvrtcGetProgramLogSize(wrong, &length));
    std::string log(length, 0);
    RTC(nvrtcGetProgramLog(wrong, &log[0]));
    save("log", log.c_str());

    for (bool intermediate : {true, false}) {
        std::string arch = architecture("-arch=sm_"), compile = architecture(intermediate ? "--gpu-architecture=compute_" : "--gpu-architecture=sm_");
        const char *link_options[] = {arch.c_str(), "-lto"};
        nvJitLinkHandle linker;
        LINK(nvJitLinkCreate(&linker, intermediate ? 2 : 1, link_options));
        for (int p = 0; p < 2; p++) {
            nvrtcProgram program;
            RTC(nvrtcCreateProgram(&program, PARTS[p], "part.cu", 0, nullptr, nullptr));
            const char *options[] = {compile.c_str(), "-rdc=true", "-dlto"};
            RTC(nvrtcCompileProgram(program, intermediate ? 3 : 2, options));
            size_t size = 0;
            RTC(intermediate ? nvrtcGetLTOIRSize(program, &size) : nvrtcGetCUBINSize(program, &size));
            std::vector<char> code(size);
            RTC(intermediate ? nvrtcGetLTOIR(program, code.data()) : nvrtcGetCUBIN(program, code.data()));
            LINK(nvJitLinkAddData(linker, intermediate ? NVJITLINK_INPUT_LTOIR : NVJITLINK_INPUT_CUBIN, code.data(), size, "part"));
            RTC(nvrtcDestroyProgram(&program));
        }
        LINK(nvJitLinkComplete(linker));
        size_t size = 0;
        LINK(nvJitLinkGetLinkedCubinSize(linker, &size));
        std::vector<char> linked(size);
        LINK(nvJitLinkGetLinkedCubin(linker, linked.data()));
        LINK(nvJitLinkDestroy(&linker));
        CUmodule module;
        CUfunction function;
        CHECK(load(&module, linked.data()));
        CHECK(get(&function, module, "whole"));
        int *data = compat::zeros<int>(64);
        void *arguments[] = {&data};
        CHECK(launch(function, 1, 1, 1, 64, 1, 1, 0, nullptr, arguments, nullptr));
        std::vector<int> found = compat::fetch(data, 64);
        EXPECT(found[63] == 631);
        CHECK(unload(module));
    }

    // The driver's own linker, of PTX.
    auto create = compat::driver<CUresult (*)(unsigned, CUjit_option *, void **, CUlinkState *)>("cuLinkCreate");
    auto add = compat::driver<CUresult (*)(CUlinkState, CUjitInputType, void *, size_t, const char *, unsigned, CUjit_option *, void **)>("cuLinkAddData");
    auto complete = compat::driver<decltype(&cuLinkComplete)>("cuLinkComplete");
    auto destroy = compat::driver<decltype(&cuLinkDestroy)>("cuLinkDestroy");
    CUlinkState state;
    CHECK(create(0, nullptr, nullptr, &state));
    for (int p = 0; p < 2; p++) {
        nvrtcProgram program;
        RTC(nvrtcCreateProgram(&program, PARTS[p], "part.cu", 0, nullptr, nullptr));
        std::string compile = architecture("--gpu-architecture=compute_");
        const char *options[] = {compile.c_str(), "-rdc=true"};
        RTC(nvrtcCompileProgram(program, 2, options));
        size_t size = 0;
        RTC(nvrtcGetPTXSize(program, &size));
        std::vector<char> code(size);
        RTC(nvrtcGetPTX(program, code.data()));
        CHECK(add(state, CU_JIT_INPUT_PTX, code.data(), size, "part.ptx", 0, nullptr, nullptr));
        RTC(nvrtcDestroyProgram(&program));
    }
    void *image = nullptr;
    size_t size = 0;
    CHECK(complete(state, &image, &size));
    CUmodule module;
    CUfunction function;
    CHECK(load(&module, image));
    CHECK(destroy(state));
    CHECK(get(&function, module, "whole"));
    int *data = compat::zeros<int>(64);
    void *arguments[] = {&data};
    CHECK(launch(function, 1, 1, 1, 64, 1, 1, 0, nullptr, arguments, nullptr));
    EXPECT(compat::fetch(data, 64)[5] == 51);
    std::printf("nvrtc: done\n");
}
