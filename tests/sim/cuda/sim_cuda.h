// The simulated machine: which GPUs there are, how much memory they have, and what fails.
//
// A program that links this in place of CUDA can be told from outside:
//   SPILLWAY_SIM_CUDA="devices=1 driver=13000 memory=4096 pin=0 fail=100" (MiB; fail: the kernel of
//   that number stops the device). Tests set the same through machine().
#pragma once

#include <cstdint>
#include <optional>

namespace spillway::sim_cuda {

struct Machine {
  int devices = 1;
  int driver_version = 13000;  ///< 0 = no driver
  int major = 9;               ///< compute capability
  bool has_code = true;        ///< false: the build holds no code for the GPU
  int code_for = 90;           ///< what the code was compiled for; the driver translates older
  uint64_t memory_bytes = uint64_t{4} << 30;
  std::optional<uint64_t> pin_limit_bytes;     ///< more is refused
  bool refuse_host_alloc = false;              ///< no pinned memory of the driver's own either
  std::optional<uint64_t> fail_after_kernels;  ///< the device stops at that one
  uint64_t seed = 1;
};
/// Settings of the one machine; change them while nothing runs.
Machine& machine();
/// A machine as new: settings at their defaults, no error pending, nothing counted. Everything
/// allocated must have been freed.
void reset(uint64_t seed);

struct Counts {
  uint64_t kernels = 0;
  uint64_t early_kernels = 0;    ///< launched before the work ahead of them has ended
  uint64_t pageable_copies = 0;  ///< copies that CUDA would make wait: host memory not pinned
  uint64_t allocations = 0;
  uint64_t device_bytes = 0;
  uint64_t pinned_bytes = 0;
  uint64_t host_allocations = 0;  ///< pinned memory of the driver's own
};
Counts counts();

}  // namespace spillway::sim_cuda
