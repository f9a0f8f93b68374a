// What every program here uses: checks that end it, and results that are saved for the comparison (see ../compare.py).
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

namespace compat {

// The exit status of a program that cannot run here.
constexpr int SKIP = 77;

[[noreturn]] inline void fail(const char *file, int line, const std::string &what) {
    std::printf("%s:%d: %s", std::strrchr(file, '/') ? std::strrchr(file, '/') + 1 : file, line, what.c_str());
    // A launch that failed before, and that nobody asked about, may be why.
    cudaError_t before = cudaPeekAtLastError();
    if (before != cudaSuccess && what.find(cudaGetErrorName(before)) == std::string::npos) std::printf(" (after %s)", cudaGetErrorName(before));
    std::printf("\n");
    std::fflush(stdout);
    _exit(1);
}

inline void check(cudaError_t status, const char *file, int line, const char *call) {
    if (status != cudaSuccess) fail(file, line, std::string(call) + ": " + cudaGetErrorName(status));
}

inline void check(CUresult status, const char *file, int line, const char *call) {
    if (status != CUDA_SUCCESS) fail(file, line, std::string(call) + ": CUresult " + std::to_string(int(status)));
}

[[noreturn]] inline void skip(const char *why) {
    std::printf("skip: %s\n", why);
    std::fflush(stdout);
    _exit(SKIP);
}

inline void save_bytes(const std::string &name, const char *kind, const void *data, size_t bytes) {
    const char *folder = std::getenv("COMPAT_OUT");
    if (!folder) return;
    std::FILE *values = std::fopen((std::string(folder) + "/results.bin").c_str(), "ab");
    std::FILE *index = std::fopen((std::string(folder) + "/results.txt").c_str(), "a");
    if (!values || !index) fail(__FILE__, __LINE__, "cannot write to " + std::string(folder));
    std::fseek(values, 0, SEEK_END);
    long offset = std::ftell(values);
    std::fwrite(data, 1, bytes, values);
    std::fclose(values);
    std::fprintf(index, "%s\t%s\t%zu\t%ld\n", name.c_str(), kind, bytes, offset);
    std::fclose(index);
}

template <typename T> std::string kind() {
    static_assert(std::is_arithmetic<T>::value, "a type that the comparison does not know");
    const char *letter = std::is_same<T, bool>::value ? "b" : std::is_floating_point<T>::value ? "f" : std::is_signed<T>::value ? "i" : "u";
    return letter + std::to_string(sizeof(T));
}

template <typename T> void save(const std::string &name, const T *data, size_t count) {
    save_bytes(name, kind<T>().c_str(), data, count * sizeof(T));
}
template <typename T> void save(const std::string &name, const std::vector<T> &data) { save(name, data.data(), data.size()); }
template <typename T, typename = std::enable_if_t<std::is_arithmetic<T>::value>> void save(const std::string &name, T value) {
    save(name, &value, 1);
}
inline void save(const std::string &name, const std::string &text) { save_bytes(name, "s", text.data(), text.size()); }
inline void save(const std::string &name, const char *text) { save(name, std::string(text)); }
inline void save(const std::string &name, cudaError_t status) { save(name, std::string(cudaGetErrorName(status))); }

// Device memory as a vector.
template <typename T> std::vector<T> fetch(const T *device, size_t count) {
    std::vector<T> host(count);
    check(cudaMemcpy(host.data(), device, count * sizeof(T), cudaMemcpyDefault), __FILE__, __LINE__, "fetch");
    return host;
}

template <typename T> T *device(const std::vector<T> &host) {
    T *memory = nullptr;
    check(cudaMalloc(&memory, host.size() * sizeof(T)), __FILE__, __LINE__, "cudaMalloc");
    check(cudaMemcpy(memory, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice), __FILE__, __LINE__, "cudaMemcpy");
    return memory;
}

template <typename T> T *zeros(size_t count) {
    T *memory = nullptr;
    check(cudaMalloc(&memory, count * sizeof(T)), __FILE__, __LINE__, "cudaMalloc");
    check(cudaMemset(memory, 0, count * sizeof(T)), __FILE__, __LINE__, "cudaMemset");
    return memory;
}

// The same numbers in every run: -1 to 1.
inline std::vector<float> noise(size_t count, uint32_t seed = 1) {
    std::vector<float> values(count);
    uint32_t state = seed * 2654435761u + 12345;
    for (float &value : values) {
        state = state * 1664525u + 1013904223u;
        value = float(int32_t(state) >> 8) / float(1 << 23);
    }
    return values;
}

// A driver function as the runtime finds it, so that no program is linked to libcuda.
template <typename F> F driver(const char *name) {
    void *function = nullptr;
#if CUDART_VERSION >= 12050
    cudaDriverEntryPointQueryResult found;
    check(cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found), __FILE__, __LINE__, name);
#else
    check(cudaGetDriverEntryPoint(name, &function, cudaEnableDefault), __FILE__, __LINE__, name);
#endif
    if (!function) fail(__FILE__, __LINE__, std::string(name) + " is not there");
    return reinterpret_cast<F>(function);
}

} // namespace compat

// What the runtime of CUDA 13 calls so, as earlier ones do.
#if CUDART_VERSION < 13000
inline cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus *status, unsigned long long *id, cudaGraph_t *graph,
                                            const cudaGraphNode_t **last, std::nullptr_t, size_t *count) {
#if CUDART_VERSION < 12000
    return cudaStreamGetCaptureInfo_v2(stream, status, id, graph, last, count);
#else
    return cudaStreamGetCaptureInfo(stream, status, id, graph, last, count);
#endif
}
inline cudaError_t cudaStreamUpdateCaptureDependencies(cudaStream_t stream, cudaGraphNode_t *nodes, std::nullptr_t, size_t count, unsigned flags) {
    return cudaStreamUpdateCaptureDependencies(stream, nodes, count, flags);
}
inline cudaError_t cudaGraphGetEdges(cudaGraph_t graph, cudaGraphNode_t *from, cudaGraphNode_t *to, std::nullptr_t, size_t *count) {
    return cudaGraphGetEdges(graph, from, to, count);
}
inline cudaError_t cudaGraphNodeGetDependencies(cudaGraphNode_t node, cudaGraphNode_t *nodes, std::nullptr_t, size_t *count) {
    return cudaGraphNodeGetDependencies(node, nodes, count);
}
#endif
#if CUDART_VERSION < 12020
inline cudaError_t cudaMemPrefetchAsync(const void *memory, size_t bytes, cudaMemLocation where, unsigned, cudaStream_t stream) {
    return cudaMemPrefetchAsync(memory, bytes, where.id, stream);
}
inline cudaError_t cudaMemAdvise(const void *memory, size_t bytes, cudaMemoryAdvise advice, cudaMemLocation where) {
    return cudaMemAdvise(memory, bytes, advice, where.id);
}
#endif
#if CUDART_VERSION < 12000
inline cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags) {
    return cudaGraphInstantiateWithFlags(exec, graph, flags);
}
struct cudaGraphExecUpdateResultInfo {
    cudaGraphExecUpdateResult result;
};
inline cudaError_t cudaGraphExecUpdate(cudaGraphExec_t exec, cudaGraph_t graph, cudaGraphExecUpdateResultInfo *info) {
    cudaGraphNode_t node;
    return cudaGraphExecUpdate(exec, graph, &node, &info->result);
}
#endif

#define CHECK(call) compat::check((call), __FILE__, __LINE__, #call)
#define EXPECT(condition)                                                                                                       \
    do {                                                                                                                        \
        if (!(condition)) compat::fail(__FILE__, __LINE__, "not so: " #condition);                                              \
    } while (0)
using compat::save;
