// The CUDA device: memory, streams and events of one GPU.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <string>

#include "core/device.h"

namespace spillway {

/// What CUDA offers on this machine. `first_usable` is the first GPU new enough, or -1; then
/// `problem` says why in one line: no driver, a driver too old, no GPU, a GPU too old.
struct CudaState {
  int devices = 0;
  int first_usable = -1;
  std::string problem;
};
CudaState cuda_state();

/// Throws Error in one line: cuda_state()'s problem, no such device, or a GPU too old.
/// `budget_bytes` (0 = auto) is only named in messages: the plan keeps to it.
std::unique_ptr<Device> make_cuda_device(int ordinal, uint64_t budget_bytes);

/// "NVIDIA H200, compute capability 9.0".
std::string cuda_device_text(int ordinal);

/// Ordinal of a device made here.
int cuda_ordinal(const Device& device);
/// The stream of a Stream made here. Makes its device current on the calling thread.
cudaStream_t cuda_stream(Stream& stream);

}  // namespace spillway
