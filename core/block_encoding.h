// Floats into blocks: the other way of decode_values() (core/weight_format.h). Pure; any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/weight_format.h"

namespace spillway {

/// Plain numbers, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K.
bool can_encode(WeightFormat format);

enum class EncodeResult : uint8_t {
  kDone,
  kNotFinite,  ///< a value is infinite or not a number
  kTooLarge    ///< the format has no such values: its scales are f16
};

/// `count` values, whole blocks, into `out`, of any alignment. Of the scales that were tried each
/// block has those with the least squared error; rounding between its smallest and largest value,
/// the plain way, is among them. Values beneath what a scale can be become 0.
[[nodiscard]] EncodeResult encode_values(WeightFormat format, const float* values, uint64_t count,
                                         std::byte* out);

}  // namespace spillway
