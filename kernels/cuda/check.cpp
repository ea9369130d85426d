#include "kernels/cuda/check.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

/// Errors that belong to the device's state and not to the call that reports them.
bool sticky(cudaError_t status) {
  return status == cudaErrorIllegalAddress || status == cudaErrorLaunchFailure ||
         status == cudaErrorMisalignedAddress || status == cudaErrorIllegalInstruction ||
         status == cudaErrorLaunchTimeout || status == cudaErrorHardwareStackError ||
         status == cudaErrorAssert || status == cudaErrorECCUncorrectable ||
         status == cudaErrorUnknown;
}

}  // namespace

void check_cuda(cudaError_t status, const char* call) {
  if (status == cudaSuccess) [[likely]]
    return;
  throw Error(fmt::format(
      "{} failed: {} ({}){}", call, cudaGetErrorString(status), cudaGetErrorName(status),
      sticky(status) ? "; the device stopped at earlier work: run again, and see dmesg and "
                       "nvidia-smi for a hardware fault if it stays"
                     : ""));
}

void check_cuda(cudaError_t status, const char* call, unsigned long long bytes) {
  if (status == cudaSuccess) [[likely]]
    return;
  check_cuda(status, fmt::format("{} of {}", call, format_bytes(bytes)).c_str());
}

}  // namespace spillway
