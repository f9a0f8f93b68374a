// SPDX-License-Identifier: Apache-2.0 OR MIT
// What libnvidia-ml.so.1 says. Without arguments: the GPUs and the processes on them, without using a GPU. With "check": it
// says the same as CUDA in a process that uses one, and sees that process with its memory.
#include "common.h"
#include <dlfcn.h>
#include <stdarg.h>
#include <string.h>
#include <unistd.h>

typedef int nvmlReturn;
typedef void *nvmlDevice;

typedef struct {
    unsigned long long total, free, used;
} nvmlMemory;

typedef struct {
    unsigned pid;
    unsigned long long used;
    unsigned gpu_instance, compute_instance;
} nvmlProcess;

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} nvmlPci;

static void *library;

static void *function(const char *name) {
    void *found = dlsym(library, name);
    EXPECT(found != NULL, "%s is missing", name);
    return found;
}

// Calls a function of the library, whatever its arguments.
#define NVML(name, ...) (((nvmlReturn (*)())function(#name))(__VA_ARGS__))
#define CHECK_NVML(name, ...)                                                                                      \
    do {                                                                                                           \
        nvmlReturn result_ = NVML(name, __VA_ARGS__);                                                              \
        if (result_ != 0) {                                                                                        \
            const char *text_ = ((const char *(*)(nvmlReturn))function("nvmlErrorString"))(result_);               \
            printf("nvml: %s gave %d (%s)\n", #name, result_, text_);                                              \
            exit(1);                                                                                               \
        }                                                                                                          \
    } while (0)

enum { NOT_SUPPORTED = 3, NO_PERMISSION = 4, MOST = 1024 };

static nvmlProcess processes[MOST];

static unsigned processes_of(nvmlDevice gpu) {
    unsigned count = MOST;
    CHECK_NVML(nvmlDeviceGetComputeRunningProcesses_v3, gpu, &count, processes);
    return count;
}

static void show(unsigned index, nvmlDevice gpu) {
    char name[96], uuid[96];
    nvmlPci pci;
    nvmlMemory memory;
    unsigned utilisation[2] = {0, 0};
    CHECK_NVML(nvmlDeviceGetName, gpu, name, (unsigned)sizeof name);
    CHECK_NVML(nvmlDeviceGetUUID, gpu, uuid, (unsigned)sizeof uuid);
    CHECK_NVML(nvmlDeviceGetPciInfo_v3, gpu, &pci);
    CHECK_NVML(nvmlDeviceGetMemoryInfo, gpu, &memory);
    EXPECT(memory.free + memory.used == memory.total, "%llu + %llu", memory.free, memory.used);
    // Before it is known it is not supported.
    nvmlReturn known = NVML(nvmlDeviceGetUtilizationRates, gpu, utilisation);
    EXPECT(known == 0 || known == NOT_SUPPORTED, "%d", known);
    printf("gpu %u: %s, %s, %s, total %llu, used %llu, busy %u%%\n", index, name, uuid, pci.bus_id, memory.total,
           memory.used, utilisation[0]);
}

static int list(void) {
    unsigned gpus, all = 0;
    int cuda;
    char driver[80];
    CHECK_NVML(nvmlDeviceGetCount_v2, &gpus);
    if (gpus > 0) {
        CHECK_NVML(nvmlSystemGetDriverVersion, driver, (unsigned)sizeof driver);
        CHECK_NVML(nvmlSystemGetCudaDriverVersion_v2, &cuda);
        printf("driver %s, CUDA %d\n", driver, cuda);
    }
    for (unsigned index = 0; index < gpus; index++) {
        nvmlDevice gpu;
        CHECK_NVML(nvmlDeviceGetHandleByIndex_v2, index, &gpu);
        show(index, gpu);
        unsigned count = processes_of(gpu);
        for (unsigned at = 0; at < count; at++) {
            char name[64] = "?";
            // It may just have ended.
            NVML(nvmlSystemGetProcessName, processes[at].pid, name, (unsigned)sizeof name);
            printf("process %u on gpu %u: %llu bytes, %s\n", processes[at].pid, index, processes[at].used, name);
        }
        all += count;
    }
    printf("nvml: %u GPUs, %u processes\n", gpus, all);
    return 0;
}

// The library's GPU that CUDA's first device is.
static nvmlDevice same_gpu(void) {
    unsigned char bytes[16];
    char pci[32], uuid[64] = "", name[96], cuda_name[96], expected[64];
    nvmlDevice by_pci, by_index;
    int major, minor, cuda_major, cuda_minor, version, cuda_version, count;
    unsigned gpus;
    CHECK(cuDeviceGetPCIBusId(pci, sizeof pci, device));
    CHECK_NVML(nvmlDeviceGetHandleByPciBusId_v2, pci, &by_pci);
    CHECK_NVML(nvmlDeviceGetHandleByIndex_v2, 0u, &by_index);
    EXPECT(by_pci == by_index, "%p, %p", by_pci, by_index);
    CHECK_NVML(nvmlDeviceGetCount_v2, &gpus);
    CHECK(cuDeviceGetCount(&count));
    EXPECT(gpus == (unsigned)count, "%u, %d", gpus, count);
    CHECK(cuDeviceGetUuid(bytes, device));
    CHECK_NVML(nvmlDeviceGetUUID, by_pci, uuid, (unsigned)sizeof uuid);
    char *end = expected + sprintf(expected, "%.4s", uuid);
    for (int at = 0; at < 16; at++)
        end += sprintf(end, at == 4 || at == 6 || at == 8 || at == 10 ? "-%02x" : "%02x", bytes[at]);
    EXPECT(strcmp(uuid, expected) == 0, "%s, %s", uuid, expected);
    CHECK_NVML(nvmlDeviceGetName, by_pci, name, (unsigned)sizeof name);
    CHECK(cuDeviceGetName(cuda_name, sizeof cuda_name, device));
    EXPECT(strcmp(name, cuda_name) == 0, "%s, %s", name, cuda_name);
    CHECK_NVML(nvmlDeviceGetCudaComputeCapability, by_pci, &major, &minor);
    CHECK(cuDeviceComputeCapability(&cuda_major, &cuda_minor, device));
    EXPECT(major == cuda_major && minor == cuda_minor, "%d.%d", major, minor);
    CHECK_NVML(nvmlSystemGetCudaDriverVersion, &version);
    CHECK(cuDriverGetVersion(&cuda_version));
    EXPECT(version == cuda_version, "%d, %d", version, cuda_version);
    return by_pci;
}

static int check(void) {
    enum { BYTES = 48 << 20 };
    setup();
    nvmlDevice gpu = same_gpu();
    CUdeviceptr pointer = device_alloc(BYTES);
    size_t free_bytes, total;
    nvmlMemory memory;
    // What the library says may be some tenths of a second old.
    unsigned found = 0, count = 0;
    for (double end = seconds() + 60; !found; usleep(20000)) {
        EXPECT(seconds() < end, "the process is not seen with its memory among %u", count);
        count = processes_of(gpu);
        for (unsigned at = 0; at < count; at++)
            found |= processes[at].pid == (unsigned)getpid() && processes[at].used >= BYTES;
    }
    CHECK_NVML(nvmlDeviceGetMemoryInfo, gpu, &memory);
    CHECK(cuMemGetInfo_v2(&free_bytes, &total));
    // Without a quota NVIDIA's own library counts what CUDA reserves as well.
    EXPECT(memory.total >= total && memory.total - total <= total / 32, "%llu, %zu", memory.total, total);
    EXPECT(memory.used >= BYTES, "%llu", memory.used);
    CHECK(cuMemFree_v2(pointer));
    // Nothing can be changed, and what is not known is said to be.
    EXPECT(NVML(nvmlDeviceSetPersistenceMode, gpu, 1) == NO_PERMISSION, "it could be set");
    EXPECT(NVML(nvmlDeviceSetGpuLockedClocks, gpu, 1, 2) == NO_PERMISSION, "they could be set");
    EXPECT(NVML(nvmlDeviceGetFanSpeed, gpu, &count) == NOT_SUPPORTED, "there is a fan");
    printf("nvml: as CUDA says, %u processes\n", processes_of(gpu));
    return 0;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    library = dlopen("libnvidia-ml.so.1", RTLD_NOW);
    EXPECT(library != NULL, "%s", dlerror());
    CHECK_NVML(nvmlInit_v2);
    int result = argc > 1 && strcmp(argv[1], "check") == 0 ? check() : list();
    CHECK_NVML(nvmlShutdown);
    return result;
}
