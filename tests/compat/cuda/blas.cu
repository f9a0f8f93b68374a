// compat: toolkit 12.0
// compat: libraries cublas cublasLt
// Matrix products of every kind of number, with cuBLAS and cuBLASLt.
#include "compat.h"
#include <cublasLt.h>
#include <cublas_v2.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#define BLAS(call)                                                                                                              \
    do {                                                                                                                        \
        cublasStatus_t status_ = (call);                                                                                        \
        if (status_ != CUBLAS_STATUS_SUCCESS) compat::fail(__FILE__, __LINE__, std::string(#call) + ": " + cublasGetStatusString(status_)); \
    } while (0)

template <typename T> T *converted(const std::vector<float> &values) {
    std::vector<T> host(values.begin(), values.end());
    T *memory = nullptr;
    CHECK(cudaMalloc(&memory, host.size() * sizeof(T)));
    CHECK(cudaMemcpy(memory, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
    return memory;
}

const int M = 256, N = 192, K = 320;

template <typename T, typename C>
void multiply(cublasHandle_t handle, const char *name, cudaDataType in, cudaDataType out, cublasComputeType_t compute) {
    T *a = converted<T>(compat::noise(M * K, 1)), *b = converted<T>(compat::noise(K * N, 2));
    C *c = converted<C>(std::vector<float>(M * N, 0.5f));
    float one = 1, half_one = 0.5f;
    double wide[] = {1, 0.5};
    bool is_double = compute == CUBLAS_COMPUTE_64F;
    const void *alpha = is_double ? (const void *)&wide[0] : &one, *beta = is_double ? (const void *)&wide[1] : &half_one;
    BLAS(cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, M, N, K, alpha, a, in, K, b, in, K, beta, c, out, M, compute, CUBLAS_GEMM_DEFAULT));
    std::vector<C> found = compat::fetch(c, M * N);
    compat::save_bytes(name, sizeof(C) == 8 ? "f8" : sizeof(C) == 4 ? "f4" : out == CUDA_R_16BF ? "bf2" : "f2", found.data(), found.size() * sizeof(C));
    CHECK(cudaFree(a));
    CHECK(cudaFree(b));
    CHECK(cudaFree(c));
}

template <typename T> void lt(cublasLtHandle_t handle, const char *name, cudaDataType in, cudaDataType out, cublasComputeType_t compute, cublasLtEpilogue_t epilogue) {
    T *a = converted<T>(compat::noise(M * K, 1)), *b = converted<T>(compat::noise(K * N, 2));
    __nv_bfloat16 *c = converted<__nv_bfloat16>(std::vector<float>(M * N, 0)), *bias = converted<__nv_bfloat16>(compat::noise(M, 3));
    cublasLtMatmulDesc_t description;
    BLAS(cublasLtMatmulDescCreate(&description, compute, CUDA_R_32F));
    cublasOperation_t transposed = CUBLAS_OP_T;
    BLAS(cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed));
    BLAS(cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue));
    if (epilogue != CUBLASLT_EPILOGUE_DEFAULT) BLAS(cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias, sizeof bias));
    float *scale = converted<float>({0.5f});
    if (sizeof(T) == 1) {
        BLAS(cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &scale, sizeof scale));
        BLAS(cublasLtMatmulDescSetAttribute(description, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &scale, sizeof scale));
    }
    cublasLtMatrixLayout_t of_a, of_b, of_c;
    BLAS(cublasLtMatrixLayoutCreate(&of_a, in, K, M, K));
    BLAS(cublasLtMatrixLayoutCreate(&of_b, in, K, N, K));
    BLAS(cublasLtMatrixLayoutCreate(&of_c, out, M, N, M));
    size_t space = 32 << 20;
    void *workspace = nullptr;
    CHECK(cudaMalloc(&workspace, space));
    cublasLtMatmulPreference_t preference;
    BLAS(cublasLtMatmulPreferenceCreate(&preference));
    BLAS(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &space, sizeof space));
    cublasLtMatmulHeuristicResult_t best[1];
    int count = 0;
    BLAS(cublasLtMatmulAlgoGetHeuristic(handle, description, of_a, of_b, of_c, of_c, preference, 1, best, &count));
    EXPECT(count == 1);
    float one = 1, zero = 0;
    BLAS(cublasLtMatmul(handle, description, &one, a, of_a, b, of_b, &zero, c, of_c, c, of_c, &best[0].algo, workspace, space, 0));
    auto found = compat::fetch(c, M * N);
    compat::save_bytes(name, "bf2", found.data(), found.size() * 2);
    BLAS(cublasLtMatmulPreferenceDestroy(preference));
    BLAS(cublasLtMatmulDescDestroy(description));
}

int main() {
    cublasHandle_t handle;
    BLAS(cublasCreate(&handle));
    multiply<float, float>(handle, "fp32", CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F);
    multiply<float, float>(handle, "tf32", CUDA_R_32F, CUDA_R_32F, CUBLAS_COMPUTE_32F_FAST_TF32);
    multiply<double, double>(handle, "fp64", CUDA_R_64F, CUDA_R_64F, CUBLAS_COMPUTE_64F);
    multiply<half, half>(handle, "fp16", CUDA_R_16F, CUDA_R_16F, CUBLAS_COMPUTE_32F);
    multiply<half, float>(handle, "fp16 to fp32", CUDA_R_16F, CUDA_R_32F, CUBLAS_COMPUTE_32F);
    multiply<__nv_bfloat16, __nv_bfloat16>(handle, "bf16", CUDA_R_16BF, CUDA_R_16BF, CUBLAS_COMPUTE_32F);
    float *x = converted<float>(compat::noise(10000, 5)), *y = converted<float>(compat::noise(10000, 6)), result = 0, two = 2;
    BLAS(cublasSdot(handle, 10000, x, 1, y, 1, &result));
    save("dot", result);
    BLAS(cublasSnrm2(handle, 10000, x, 1, &result));
    save("norm", result);
    BLAS(cublasSaxpy(handle, 10000, &two, x, 1, y, 1));
    save("axpy", compat::fetch(y, 10000));
    int largest = 0;
    BLAS(cublasIsamax(handle, 10000, x, 1, &largest));
    save("largest", largest);
    BLAS(cublasSetPointerMode(handle, CUBLAS_POINTER_MODE_DEVICE));
    float *on_device = compat::zeros<float>(1);
    BLAS(cublasSasum(handle, 10000, x, 1, on_device));
    save("sum", compat::fetch(on_device, 1));
    BLAS(cublasSetPointerMode(handle, CUBLAS_POINTER_MODE_HOST));
    // In a batch, on a stream, with several matrices from one end of memory to the other; captured in a graph.
    cudaStream_t stream;
    CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
    BLAS(cublasSetStream(handle, stream));
    void *workspace = nullptr;
    CHECK(cudaMalloc(&workspace, 32 << 20));
    BLAS(cublasSetWorkspace(handle, workspace, 32 << 20));
    float *c = compat::zeros<float>(10 * 30 * 30), zero = 0;
    CHECK(cudaDeviceSynchronize());
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CHECK(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    BLAS(cublasSgemmStridedBatched(handle, CUBLAS_OP_N, CUBLAS_OP_T, 30, 30, 30, &two, x, 30, 900, x, 30, 900, &zero, c, 30, 900, 10));
    CHECK(cudaStreamEndCapture(stream, &graph));
    CHECK(cudaGraphInstantiate(&exec, graph, 0));
    CHECK(cudaGraphLaunch(exec, stream));
    CHECK(cudaStreamSynchronize(stream));
    save("batch", compat::fetch(c, 9000));
    BLAS(cublasDestroy(handle));

    cublasLtHandle_t light;
    BLAS(cublasLtCreate(&light));
    lt<__nv_bfloat16>(light, "lt bf16", CUDA_R_16BF, CUDA_R_16BF, CUBLAS_COMPUTE_32F, CUBLASLT_EPILOGUE_DEFAULT);
    lt<__nv_bfloat16>(light, "lt bf16 gelu bias", CUDA_R_16BF, CUDA_R_16BF, CUBLAS_COMPUTE_32F, CUBLASLT_EPILOGUE_GELU_BIAS);
    lt<__nv_fp8_e4m3>(light, "lt fp8", CUDA_R_8F_E4M3, CUDA_R_16BF, CUBLAS_COMPUTE_32F, CUBLASLT_EPILOGUE_DEFAULT);
    BLAS(cublasLtDestroy(light));
    std::printf("blas: done\n");
}
