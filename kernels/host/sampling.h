// Picking a token on the host; the rule is Ops::sample's.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/ops.h"

namespace spillway {

/// The next token of one row of logits, or kBadLogits. `scratch` has room for logits.size() ids
/// where the temperature is not 0.
uint32_t host_sample(std::span<const float> logits, const SampleRow& row,
                     std::span<uint32_t> scratch);

}  // namespace spillway
