#include "kernels/registry.h"

#include <fmt/format.h>

#include "core/error.h"
#include "kernels/host/host_device.h"
#include "kernels/host/host_ops.h"
#ifdef SPILLWAY_HAS_CUDA
#include "kernels/cuda/cuda_device.h"
#endif

namespace spillway {
namespace {

[[noreturn]] void refuse_cuda(const std::string& name) {
#ifdef SPILLWAY_HAS_CUDA
  const std::string state = cuda_state();
  throw Error(
      fmt::format("device {}: {}; this version computes on the host only: use device: host or auto",
                  name, state));
#else
  throw Error(fmt::format(
      "device {}: CUDA is not built in; use device: host, or configure with SPILLWAY_CUDA=ON",
      name));
#endif
}

}  // namespace

std::unique_ptr<Device> open_device(const std::string& name, const DeviceOptions& options) {
  if (name == "host") return make_host_device();
  if (name == "host-discrete") return make_discrete_host_device(options.gpu_bytes);
  refuse_cuda(name);
}

std::unique_ptr<Ops> make_ops(const Device& device, const DeviceOptions& options) {
  CHECK(device.name() == "host" || device.name() == "host-discrete");
  return make_host_ops(options);
}

AutoDevice choose_device() {
#ifdef SPILLWAY_HAS_CUDA
  return {"host", cuda_state()};
#else
  return {"host", "CUDA is not built in"};
#endif
}

}  // namespace spillway
