// Ops on the CPU: own kernels for memory-bound work, oneDNN for prompts, TBB for threads.
#pragma once

#include <memory>

#include "kernels/host/cpu_features.h"
#include "kernels/ops.h"
#include "kernels/registry.h"

namespace spillway {

/// Uses `isa` or, by default, the best this CPU has; tests run every instruction set.
std::unique_ptr<Ops> make_host_ops(const DeviceOptions& options);
std::unique_ptr<Ops> make_host_ops(const DeviceOptions& options, Isa isa);

}  // namespace spillway
