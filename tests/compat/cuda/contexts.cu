// Contexts of the driver's, beside the runtime's: made, pushed, popped, with memory, modules and streams of their own; libcuda opened
// by a program itself.
#include "compat.h"
#include <dlfcn.h>
#include <thread>

static const char *SOURCE = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .global .u32 word = 6;\n.visible .entry nothing() { ret; }\n";

int main() {
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    EXPECT(library);
    auto init = (CUresult(*)(unsigned))dlsym(library, "cuInit");
    auto count = (CUresult(*)(int *))dlsym(library, "cuDeviceGetCount");
    int devices = 0;
    save("before cuInit", int(count(&devices)));
    CHECK(init(0));
    CHECK(count(&devices));
    EXPECT(devices > 0);
    save("no such symbol", int(dlsym(library, "cuNoSuchCall") != nullptr));
    auto retain = compat::driver<decltype(&cuDevicePrimaryCtxRetain)>("cuDevicePrimaryCtxRetain");
    auto state = compat::driver<decltype(&cuDevicePrimaryCtxGetState)>("cuDevicePrimaryCtxGetState");
    auto create = (CUresult(*)(CUcontext *, unsigned, CUdevice))dlsym(library, "cuCtxCreate_v2");
    auto destroy = (CUresult(*)(CUcontext))dlsym(library, "cuCtxDestroy_v2");
    auto push = (CUresult(*)(CUcontext))dlsym(library, "cuCtxPushCurrent_v2");
    auto pop = (CUresult(*)(CUcontext *))dlsym(library, "cuCtxPopCurrent_v2");
    auto current = compat::driver<decltype(&cuCtxGetCurrent)>("cuCtxGetCurrent");
    auto set = compat::driver<decltype(&cuCtxSetCurrent)>("cuCtxSetCurrent");
    auto synchronize = compat::driver<CUresult (*)()>("cuCtxSynchronize");
    auto version = compat::driver<decltype(&cuCtxGetApiVersion)>("cuCtxGetApiVersion");
    auto load = compat::driver<decltype(&cuModuleLoadData)>("cuModuleLoadData");
    auto global = compat::driver<CUresult (*)(CUdeviceptr *, size_t *, CUmodule, const char *)>("cuModuleGetGlobal");
    auto get = compat::driver<decltype(&cuModuleGetFunction)>("cuModuleGetFunction");
    auto launch = compat::driver<decltype(&cuLaunchKernel)>("cuLaunchKernel");
    unsigned flags = 9;
    int active = 9;
    CHECK(state(0, &flags, &active));
    save("primary", std::vector<int>{int(flags), active});
    CUcontext contexts[3], seen = nullptr;
    CUmodule modules[3];
    CUdeviceptr words[3];
    size_t size;
    for (int c = 0; c < 3; c++) {
        CHECK(create(&contexts[c], c == 1 ? CU_CTX_SCHED_BLOCKING_SYNC : 0, 0));
        CHECK(load(&modules[c], SOURCE));
        CHECK(global(&words[c], &size, modules[c], "word"));
        CHECK(cudaMemset((void *)words[c], c + 1, 4));
    }
    CHECK(current(&seen));
    EXPECT(seen == contexts[2]);
    for (int c = 2; c >= 0; c--) {
        unsigned word = 0;
        CHECK(cudaMemcpy(&word, (void *)words[c], 4, cudaMemcpyDeviceToHost));
        EXPECT(word == (c + 1) * 0x01010101u);
        CUfunction function;
        CHECK(get(&function, modules[c], "nothing"));
        CHECK(launch(function, 1, 1, 1, 1, 1, 1, 0, nullptr, nullptr, nullptr));
        CHECK(synchronize());
        CHECK(pop(&seen));
        EXPECT(seen == contexts[c]);
    }
    CHECK(current(&seen));
    save("none left", int(seen == nullptr));
    save("none to pop", int(pop(&seen)));
    save("none to wait for", int(synchronize()));
    // A thread has a stack of its own.
    std::thread([&] {
        CUcontext own = (CUcontext)1;
        CHECK(current(&own));
        EXPECT(own == nullptr);
        CHECK(push(contexts[1]));
        CHECK(synchronize());
        CHECK(pop(&own));
        EXPECT(own == contexts[1]);
    }).join();
    unsigned number = 0;
    CHECK(version(contexts[0], &number));
    save("version", number);
    CHECK(push(contexts[0]));
    CHECK(destroy(contexts[0]));
    CHECK(current(&seen));
    save("destroyed while current", int(seen == nullptr));
    CHECK(destroy(contexts[1]));
    CHECK(destroy(contexts[2]));
    CUcontext primary;
    CHECK(retain(&primary, 0));
    CHECK(set(primary));
    CHECK(cudaFree(0));
    CHECK(current(&seen));
    EXPECT(seen == primary);
    CHECK(state(0, &flags, &active));
    EXPECT(active == 1);
    dlclose(library);
    int *memory = compat::zeros<int>(10);
    EXPECT(compat::fetch(memory, 10)[9] == 0);
    std::printf("contexts: done\n");
}
