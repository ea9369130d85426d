// cuBLAS, loaded when a GPU is opened and not before: linked in, its libraries alone took runs on
// the host beyond their memory promise.
#pragma once

#include <cublas_v2.h>

#include <memory>

namespace spillway {

/// The calls in use. Shared by whoever holds it; the library stays loaded as long.
struct Cublas {
  /// Written out: the header overloads the name with an older form.
  using GemmEx = cublasStatus_t (*)(cublasHandle_t, cublasOperation_t, cublasOperation_t, int, int,
                                    int, const void*, const void*, cudaDataType, int, const void*,
                                    cudaDataType, int, const void*, void*, cudaDataType, int,
                                    cublasComputeType_t, cublasGemmAlgo_t);
  decltype(&cublasCreate) create = nullptr;
  decltype(&cublasDestroy) destroy = nullptr;
  decltype(&cublasSetStream) set_stream = nullptr;
  decltype(&cublasSetWorkspace) set_workspace = nullptr;
  GemmEx gemm_ex = nullptr;
  decltype(&cublasGetStatusString) status_string = nullptr;

  /// Throws Error "cublasCreate failed: …".
  void check(cublasStatus_t status, const char* call) const;
};

/// Throws Error that says what could not be loaded and how to have it found.
std::shared_ptr<const Cublas> load_cublas();

}  // namespace spillway
