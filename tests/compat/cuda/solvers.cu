// compat: libraries cusolver cusparse cublas
// Systems of equations with cuSOLVER, sparse matrices with cuSPARSE.
#include "compat.h"
#include <cusolverDn.h>
#include <cusparse.h>

#define SOLVER(call) EXPECT((call) == CUSOLVER_STATUS_SUCCESS)
#define SPARSE(call) EXPECT((call) == CUSPARSE_STATUS_SUCCESS)

int main() {
    const int N = 100;
    // Symmetric, and positive definite by its diagonal.
    std::vector<float> noise = compat::noise(N * N);
    std::vector<double> matrix(N * N), right(N);
    for (int i = 0; i < N; i++) {
        for (int j = 0; j < N; j++) matrix[i * N + j] = (noise[i * N + j] + noise[j * N + i]) / 2 + (i == j ? N : 0);
        right[i] = noise[i];
    }
    cusolverDnHandle_t handle;
    SOLVER(cusolverDnCreate(&handle));
    int space = 0, *info = compat::zeros<int>(1);
    double *a = compat::device(matrix), *b = compat::device(right);
    SOLVER(cusolverDnDpotrf_bufferSize(handle, CUBLAS_FILL_MODE_LOWER, N, a, N, &space));
    double *work = compat::zeros<double>(space + 1);
    SOLVER(cusolverDnDpotrf(handle, CUBLAS_FILL_MODE_LOWER, N, a, N, work, space, info));
    SOLVER(cusolverDnDpotrs(handle, CUBLAS_FILL_MODE_LOWER, N, 1, a, N, b, N, info));
    std::vector<double> x = compat::fetch(b, N);
    for (int i = 0; i < N; i++) {
        double sum = 0;
        for (int j = 0; j < N; j++) sum += matrix[i * N + j] * x[j];
        EXPECT(std::abs(sum - right[i]) < 1e-9);
    }
    EXPECT(compat::fetch(info, 1)[0] == 0);
    save("cholesky", x);

    a = compat::device(matrix);
    b = compat::device(right);
    int *pivots = compat::zeros<int>(N);
    SOLVER(cusolverDnDgetrf_bufferSize(handle, N, N, a, N, &space));
    work = compat::zeros<double>(space + 1);
    SOLVER(cusolverDnDgetrf(handle, N, N, a, N, work, pivots, info));
    SOLVER(cusolverDnDgetrs(handle, CUBLAS_OP_N, N, 1, a, N, pivots, b, N, info));
    save("lu", compat::fetch(b, N));
    save("pivots", compat::fetch(pivots, N));

    a = compat::device(matrix);
    double *values = compat::zeros<double>(N);
    SOLVER(cusolverDnDsyevd_bufferSize(handle, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, N, a, N, values, &space));
    work = compat::zeros<double>(space + 1);
    SOLVER(cusolverDnDsyevd(handle, CUSOLVER_EIG_MODE_VECTOR, CUBLAS_FILL_MODE_LOWER, N, a, N, values, work, space, info));
    save("eigenvalues", compat::fetch(values, N));
    save("eigenvectors", compat::fetch(a, N * N));

    a = compat::device(matrix);
    double *u = compat::zeros<double>(N * N), *v = compat::zeros<double>(N * N);
    SOLVER(cusolverDnDgesvd_bufferSize(handle, N, N, &space));
    work = compat::zeros<double>(space + 1);
    SOLVER(cusolverDnDgesvd(handle, 'A', 'A', N, N, a, N, values, u, N, v, N, work, space, nullptr, info));
    save("singular values", compat::fetch(values, N));
    SOLVER(cusolverDnDestroy(handle));

    // A matrix of three diagonals, by rows.
    const int S = 5000;
    std::vector<int> rows = {0}, columns;
    std::vector<float> entries;
    for (int i = 0; i < S; i++) {
        for (int j = i - 1; j <= i + 1; j++) {
            if (j < 0 || j >= S) continue;
            columns.push_back(j);
            entries.push_back(i == j ? 2.0f : -1.0f);
        }
        rows.push_back(int(columns.size()));
    }
    cusparseHandle_t sparse;
    SPARSE(cusparseCreate(&sparse));
    cusparseSpMatDescr_t description;
    SPARSE(cusparseCreateCsr(&description, S, S, columns.size(), compat::device(rows), compat::device(columns), compat::device(entries), CUSPARSE_INDEX_32I,
                             CUSPARSE_INDEX_32I, CUSPARSE_INDEX_BASE_ZERO, CUDA_R_32F));
    std::vector<float> vector = compat::noise(S, 4);
    float *in = compat::device(vector), *out = compat::zeros<float>(S), one = 1, zero = 0;
    cusparseDnVecDescr_t of_in, of_out;
    SPARSE(cusparseCreateDnVec(&of_in, S, in, CUDA_R_32F));
    SPARSE(cusparseCreateDnVec(&of_out, S, out, CUDA_R_32F));
    size_t bytes = 0;
    void *buffer = nullptr;
    SPARSE(cusparseSpMV_bufferSize(sparse, CUSPARSE_OPERATION_NON_TRANSPOSE, &one, description, of_in, &zero, of_out, CUDA_R_32F, CUSPARSE_SPMV_ALG_DEFAULT, &bytes));
    CHECK(cudaMalloc(&buffer, bytes + 1));
    SPARSE(cusparseSpMV(sparse, CUSPARSE_OPERATION_NON_TRANSPOSE, &one, description, of_in, &zero, of_out, CUDA_R_32F, CUSPARSE_SPMV_ALG_DEFAULT, buffer));
    std::vector<float> product = compat::fetch(out, S);
    EXPECT(std::abs(product[10] - (2 * vector[10] - vector[9] - vector[11])) < 1e-5f);
    save("spmv", product);
    const int C = 16;
    float *dense = compat::device(compat::noise(S * C, 6)), *wide = compat::zeros<float>(S * C);
    cusparseDnMatDescr_t of_dense, of_wide;
    SPARSE(cusparseCreateDnMat(&of_dense, S, C, S, dense, CUDA_R_32F, CUSPARSE_ORDER_COL));
    SPARSE(cusparseCreateDnMat(&of_wide, S, C, S, wide, CUDA_R_32F, CUSPARSE_ORDER_COL));
    SPARSE(cusparseSpMM_bufferSize(sparse, CUSPARSE_OPERATION_NON_TRANSPOSE, CUSPARSE_OPERATION_NON_TRANSPOSE, &one, description, of_dense, &zero, of_wide, CUDA_R_32F, CUSPARSE_SPMM_ALG_DEFAULT, &bytes));
    CHECK(cudaMalloc(&buffer, bytes + 1));
    SPARSE(cusparseSpMM(sparse, CUSPARSE_OPERATION_NON_TRANSPOSE, CUSPARSE_OPERATION_NON_TRANSPOSE, &one, description, of_dense, &zero, of_wide, CUDA_R_32F, CUSPARSE_SPMM_ALG_DEFAULT, buffer));
    save("spmm", compat::fetch(wide, S * C));
    SPARSE(cusparseDestroySpMat(description));
    SPARSE(cusparseDestroy(sparse));
    std::printf("solvers: done\n");
}
