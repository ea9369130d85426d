// CUDA results as Errors that name the call.
#pragma once

#include <cuda_runtime_api.h>

namespace spillway {

/// Throws Error "cudaMemcpyAsync of 4.00 MiB failed: an illegal memory access … (cudaError…)".
/// Errors of work that ran earlier surface at later calls; those say so.
void check_cuda(cudaError_t status, const char* call);
/// The same with the size the call was about.
void check_cuda(cudaError_t status, const char* call, unsigned long long bytes);

}  // namespace spillway
