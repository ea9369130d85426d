// Devices by name, and the operations that belong to each: the only place that knows CUDA exists.
#pragma once

#include <memory>
#include <string>

#include "core/config.h"
#include "core/device.h"
#include "kernels/ops.h"

namespace spillway {

struct DeviceOptions {
  uint32_t threads = 0;    ///< 0 = every core this process may use
  uint64_t gpu_bytes = 0;  ///< memory.gpu; 0 = auto
  PromptMath prompt_math = PromptMath::kAuto;
};

/// host, host-discrete, cuda or cuda:N. Throws Error with one line for a device that cannot be had.
std::unique_ptr<Device> open_device(const std::string& name, const DeviceOptions& options);
std::unique_ptr<Ops> make_ops(const Device& device, const DeviceOptions& options);

/// Name that `auto` stands for on this machine, with a reason when it is not a GPU.
struct AutoDevice {
  std::string name;
  std::string reason;
};
AutoDevice choose_device();

}  // namespace spillway
