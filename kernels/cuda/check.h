// CUDA and cuBLAS results as Errors that name the call.
#pragma once

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <string>

namespace spillway {

/// Throws Error "cudaMemcpyAsync of 4.00 MiB failed: an illegal memory access … (cudaError…)".
/// Errors of work that ran earlier surface at later calls; those say so.
void check_cuda(cudaError_t status, const char* call);
/// The same with the size the call was about.
void check_cuda(cudaError_t status, const char* call, unsigned long long bytes);
void check_cublas(cublasStatus_t status, const char* call);

}  // namespace spillway
