// The CPU as a device, in two forms.
#pragma once

#include <memory>

#include "core/device.h"

namespace spillway {

/// Unified: computes on host memory, streams run inline, copies are memcpy on the caller's thread.
std::unique_ptr<Device> make_host_device();

/// The same CPU behind an arena of its own with an enforced budget (0 = none) and copy streams that
/// run on threads: all three tiers, the double buffer and the events are exercised with no GPU.
std::unique_ptr<Device> make_discrete_host_device(uint64_t budget_bytes);

}  // namespace spillway
