// Element types of weights as stored in checkpoints, and scalar conversions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string_view>

namespace spillway {

enum class DType : uint8_t { kF32, kF16, kBF16 };

constexpr size_t dtype_bytes(DType dtype) {
  return dtype == DType::kF32 ? 4 : 2;
}

/// "F32", "F16", "BF16": the names safetensors uses.
std::string_view dtype_name(DType dtype);
std::optional<DType> parse_dtype(std::string_view name);

/// Round to nearest even; NaN stays NaN.
inline uint16_t bf16_from_f32(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline float f32_from_bf16(uint16_t value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value) << 16);
}
float f32_from_f16(uint16_t value);
uint16_t f16_from_f32(float value);

/// The bits of a 16-bit number, to any address.
inline void put_half(std::byte* at, uint16_t bits) {
  std::memcpy(at, &bits, sizeof(bits));
}

/// Element `index` of an array of `dtype` as f32; the data may have any alignment.
float load_f32(const std::byte* data, DType dtype, size_t index);

}  // namespace spillway
