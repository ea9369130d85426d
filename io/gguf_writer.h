// Lays out a GGUF file, version 3: the bytes of its header, and where the payload that is streamed
// behind it belongs. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/weight_format.h"
#include "io/gguf.h"

namespace spillway {

struct GgufTensorSpec {
  std::string name;
  std::vector<uint64_t> ne;  ///< innermost first, as the file has it: {cols, rows}
  WeightFormat format = WeightFormat::kF32;

  /// Of its payload; the innermost size is a multiple of the format's block.
  uint64_t bytes() const;
};

struct GgufLayout {
  std::string header;             ///< padded up to where the payload begins
  std::vector<uint64_t> offsets;  ///< from the start of the file, one per tensor, in their order
  uint64_t file_bytes = 0;        ///< with the padding behind the last tensor
};

/// Tensors lie in the order given, each at a multiple of `general.alignment` of the metadata (32
/// where it has none), which is a power of two.
GgufLayout lay_out_gguf(const GgufMetadata& metadata, const std::vector<GgufTensorSpec>& tensors);

}  // namespace spillway
