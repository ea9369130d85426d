// The k likeliest of a row of logits, as Ops::fold_top_k() says. Pure functions on plain arrays: no
// threads, no allocation.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/host/isa_kernels.h"

namespace spillway {

/// Folds one row's tile into its list; values.size() = ids.size() = k.
void host_fold_top_k(const IsaKernels& isa, std::span<const float> logits, uint32_t first_id,
                     std::span<float> values, std::span<uint32_t> ids);

}  // namespace spillway
