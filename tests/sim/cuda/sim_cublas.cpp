#include <cublas_v2.h>

#include <cstring>
#include <vector>

#include "core/dtype.h"
#include "core/error.h"
#include "kernels/cuda/cublas_library.h"
#include "tests/sim/cuda/simt.h"

struct SimCublas {
  cudaStream_t stream = nullptr;
  size_t workspace_bytes = 0;
};

namespace {

using spillway::DType;

std::vector<float> as_f32(const void* data, cudaDataType_t type, uint64_t count) {
  const DType dtype = type == CUDA_R_32F   ? DType::kF32
                      : type == CUDA_R_16F ? DType::kF16
                                           : DType::kBF16;
  std::vector<float> values(count);
  for (uint64_t i = 0; i < count; ++i) {
    values[i] = spillway::load_f32(static_cast<const std::byte*>(data), dtype, i);
  }
  return values;
}

}  // namespace

namespace spillway {

void Cublas::check(cublasStatus_t status, const char* call) const {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw Error(std::string(call) + ": " + status_string(status));
}

std::shared_ptr<const Cublas> load_cublas() {
  return std::make_shared<const Cublas>(Cublas{&cublasCreate, &cublasDestroy, &cublasSetStream,
                                               &cublasSetWorkspace, &cublasGemmEx,
                                               &cublasGetStatusString});
}

}  // namespace spillway

const char* cublasGetStatusString(cublasStatus_t) {
  return "CUBLAS_STATUS_NOT_INITIALIZED";
}

cublasStatus_t cublasCreate(cublasHandle_t* handle) {
  *handle = new SimCublas;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasDestroy(cublasHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetStream(cublasHandle_t handle, cudaStream_t stream) {
  handle->stream = stream;
  handle->workspace_bytes = 0;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasSetWorkspace(cublasHandle_t handle, void*, size_t bytes) {
  handle->workspace_bytes = bytes;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasGemmEx(cublasHandle_t handle, cublasOperation_t op_a, cublasOperation_t op_b,
                            int m, int n, int k, const void* alpha, const void* a,
                            cudaDataType_t a_type, int lda, const void* b, cudaDataType_t b_type,
                            int ldb, const void* beta, void* c, cudaDataType_t c_type, int ldc,
                            cublasComputeType_t, cublasGemmAlgo_t) {
  using spillway::sim_cuda::require;
  const bool known = op_a == CUBLAS_OP_T && op_b == CUBLAS_OP_N && c_type == CUDA_R_32F &&
                     a_type == b_type && *static_cast<const float*>(alpha) == 1 &&
                     *static_cast<const float*>(beta) == 0;
  require(known, "a GEMM that the simulation does not know");
  require(handle->workspace_bytes > 0, "a GEMM with no workspace of its own");
  require(lda >= k && ldb >= k && ldc >= m, "a leading dimension that is too small");
  cudaLaunchConfig_t config;
  config.blockDim = 32;
  config.stream = handle->stream;
  spillway::sim_cuda::enqueue_kernel(config, [=] {
    if (spillway::sim_cuda::threadIdx.x != 0) return;
    const auto left = as_f32(a, a_type, static_cast<uint64_t>(m - 1) * lda + k);
    const auto right = as_f32(b, b_type, static_cast<uint64_t>(n - 1) * ldb + k);
    for (int column = 0; column < n; ++column) {
      for (int row = 0; row < m; ++row) {
        const float* x = left.data() + static_cast<uint64_t>(row) * lda;
        const float* y = right.data() + static_cast<uint64_t>(column) * ldb;
        float sums[16] = {};
        for (int i = 0; i < k; ++i) sums[i % 16] += x[i] * y[i];
        float sum = 0;
        for (const float part : sums) sum += part;
        static_cast<float*>(c)[static_cast<uint64_t>(column) * ldc + row] = sum;
      }
    }
  });
  return CUBLAS_STATUS_SUCCESS;
}
