#include "kernels/registry.h"

#include <fmt/format.h>

#include <charconv>

#include "core/error.h"
#include "kernels/host/host_device.h"
#include "kernels/host/host_ops.h"
#ifdef SPILLWAY_HAS_CUDA
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_ops.h"
#endif

namespace spillway {
namespace {

/// N of cuda:N; 0 for cuda. The configuration was checked to be one of the two.
int ordinal_of(const std::string& name) {
  constexpr std::string_view kPrefix = "cuda:";
  int ordinal = 0;
  if (name.size() > kPrefix.size()) {
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), ordinal);
  }
  return ordinal;
}

}  // namespace

std::unique_ptr<Device> open_device(const std::string& name, const DeviceOptions& options) {
  if (name == "host") return make_host_device();
  if (name == "host-discrete") return make_discrete_host_device(options.gpu_bytes);
  const int ordinal = ordinal_of(name);
#ifdef SPILLWAY_HAS_CUDA
  return make_cuda_device(ordinal, options.gpu_bytes);
#else
  throw Error(
      fmt::format("device cuda:{}: CUDA is not built in; use device: host, or put nvcc on PATH and "
                  "configure with -DSPILLWAY_CUDA=ON",
                  ordinal));
#endif
}

std::unique_ptr<Ops> make_ops(const Device& device, const DeviceOptions& options) {
#ifdef SPILLWAY_HAS_CUDA
  if (device.name().rfind("cuda:", 0) == 0) return make_cuda_ops(cuda_ordinal(device));
#endif
  CHECK(device.name() == "host" || device.name() == "host-discrete");
  return make_host_ops(options);
}

AutoDevice choose_device() {
#ifdef SPILLWAY_HAS_CUDA
  const CudaState state = cuda_state();
  if (state.first_usable >= 0) return {fmt::format("cuda:{}", state.first_usable), ""};
  return {"host", state.problem};
#else
  return {"host", "CUDA is not built in"};
#endif
}

}  // namespace spillway
