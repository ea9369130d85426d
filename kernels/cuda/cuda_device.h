// The CUDA device: memory, streams and events. Its operations come with a later version; this part
// is compiled wherever the toolkit is, so that the Device interface is known to fit.
#pragma once

#include <memory>
#include <string>

#include "core/device.h"

namespace spillway {

/// One line on what CUDA offers here: "no NVIDIA driver is loaded", "1 CUDA device: ...".
std::string cuda_state();

/// Throws Error naming the call and the cause: no driver, too old, no such device.
std::unique_ptr<Device> make_cuda_device(int ordinal, uint64_t budget_bytes);

}  // namespace spillway
