// How a weight tensor's values are stored: plain numbers, or blocks that share scales. A format is
// storage alone; what is computed, and what caches hold, is a DType (core/dtype.h).
//
// Block layouts: ggml's, as GGUF files have them (https://github.com/ggml-org/ggml, ggml-common.h).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "core/dtype.h"

namespace spillway {

enum class WeightFormat : uint8_t {
  kF32,
  kF16,
  kBF16,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ4_NL,
  kIQ4_XS,
  kMXFP4,
};

struct FormatTraits {
  WeightFormat format;
  std::string_view name;  ///< as GGUF and safetensors spell it
  uint32_t block_values;  ///< values that one block holds, along a row
  uint32_t block_bytes;
  uint32_t gguf_id;
};

/// Indexed by WeightFormat.
inline constexpr auto kFormats = std::to_array<FormatTraits>({
    {WeightFormat::kF32, "F32", 1, 4, 0},
    {WeightFormat::kF16, "F16", 1, 2, 1},
    {WeightFormat::kBF16, "BF16", 1, 2, 30},
    {WeightFormat::kQ8_0, "Q8_0", 32, 34, 8},
    {WeightFormat::kQ4_0, "Q4_0", 32, 18, 2},
    {WeightFormat::kQ4_1, "Q4_1", 32, 20, 3},
    {WeightFormat::kQ5_0, "Q5_0", 32, 22, 6},
    {WeightFormat::kQ5_1, "Q5_1", 32, 24, 7},
    {WeightFormat::kQ2_K, "Q2_K", 256, 84, 10},
    {WeightFormat::kQ3_K, "Q3_K", 256, 110, 11},
    {WeightFormat::kQ4_K, "Q4_K", 256, 144, 12},
    {WeightFormat::kQ5_K, "Q5_K", 256, 176, 13},
    {WeightFormat::kQ6_K, "Q6_K", 256, 210, 14},
    {WeightFormat::kIQ4_NL, "IQ4_NL", 32, 18, 20},
    {WeightFormat::kIQ4_XS, "IQ4_XS", 256, 136, 23},
    {WeightFormat::kMXFP4, "MXFP4", 32, 17, 39},
});

constexpr const FormatTraits& traits_of(WeightFormat format) {
  return kFormats[static_cast<size_t>(format)];
}
constexpr std::string_view format_name(WeightFormat format) {
  return traits_of(format).name;
}
constexpr bool has_blocks(WeightFormat format) {
  return traits_of(format).block_values > 1;
}
/// Bytes of a row of `cols` values; cols is a multiple of the format's block_values.
constexpr uint64_t row_bytes(WeightFormat format, uint64_t cols) {
  return cols / traits_of(format).block_values * traits_of(format).block_bytes;
}

std::optional<WeightFormat> parse_format(std::string_view name);
constexpr WeightFormat format_of(DType dtype) {
  return dtype == DType::kF32   ? WeightFormat::kF32
         : dtype == DType::kF16 ? WeightFormat::kF16
                                : WeightFormat::kBF16;
}
/// The type of the format's plain numbers; empty for blocks.
constexpr std::optional<DType> plain_dtype(WeightFormat format) {
  if (format == WeightFormat::kF32) return DType::kF32;
  if (format == WeightFormat::kF16) return DType::kF16;
  if (format == WeightFormat::kBF16) return DType::kBF16;
  return std::nullopt;
}
/// The type in which 16-bit arithmetic takes these values: their own, or bf16 where they are
/// blocks.
constexpr DType compute_dtype(WeightFormat format) {
  return plain_dtype(format).value_or(DType::kBF16);
}

/// out[i] = value i of the `count` values that begin at `data`, exact in f32 (products of scales
/// and integers round once, as ggml's reference does). count is a multiple of block_values; the
/// data may have any alignment.
void decode_values(WeightFormat format, const std::byte* data, uint64_t count, float* out);

}  // namespace spillway
