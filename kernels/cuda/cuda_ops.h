// Ops on a CUDA device: cuBLAS for matmuls of many rows, own kernels for everything else.
#pragma once

#include <memory>

#include "kernels/ops.h"

namespace spillway {

/// Throws Error when this build has no code for the device, or cuBLAS cannot start.
std::unique_ptr<Ops> make_cuda_ops(int ordinal);

}  // namespace spillway
