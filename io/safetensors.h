// The safetensors header: 8 bytes little-endian length, JSON, then payload back to back.
// Format: https://github.com/huggingface/safetensors#format
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/weight_format.h"

namespace spillway {

struct TensorEntry {
  std::string name;
  uint32_t file = 0;    ///< index into Checkpoint::files()
  uint64_t offset = 0;  ///< of the first payload byte, from the start of the file
  uint64_t bytes = 0;
  std::optional<WeightFormat> format;  ///< empty: one the engine cannot compute with
  std::string format_text;
  std::vector<uint64_t> shape;
};

inline constexpr uint64_t kMaxHeaderBytes = 100'000'000;  ///< the format's own limit

/// Length of the JSON header from the first 8 bytes; Error when it cannot be right for the file.
uint64_t safetensors_header_bytes(std::string_view first_bytes, uint64_t file_bytes,
                                  const std::string& path);

/// Parses and validates a header: names, dtypes, shape products, offsets in range, in agreement
/// with the shapes, without overlap, file long enough. Sorted by offset. Throws Error.
std::vector<TensorEntry> parse_safetensors_header(std::string_view json, uint64_t file_bytes,
                                                  const std::string& path);

}  // namespace spillway
