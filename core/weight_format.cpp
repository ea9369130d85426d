#include "core/weight_format.h"

#include <cstring>

#include "core/error.h"

namespace spillway {
namespace {

using Bytes = const std::byte*;

uint32_t byte_at(Bytes p) {
  return std::to_integer<uint32_t>(*p);
}
uint32_t half_word_at(Bytes p) {
  return byte_at(p) | byte_at(p + 1) << 8;
}
float half_at(Bytes p) {
  return f32_from_f16(static_cast<uint16_t>(half_word_at(p)));
}
float signed_at(Bytes p) {
  return static_cast<float>(static_cast<int8_t>(byte_at(p)));
}
/// Element i of 32 nibbles: the low halves of 16 bytes, then the high ones.
uint32_t nibble(Bytes p, uint32_t i) {
  return i < 16 ? byte_at(p + i) & 15u : byte_at(p + i - 16) >> 4;
}
uint32_t bit(Bytes p, uint32_t i) {
  return byte_at(p + i / 8) >> (i % 8) & 1u;
}
float to_float(uint32_t value, int32_t zero = 0) {
  return static_cast<float>(static_cast<int32_t>(value) - zero);
}

constexpr std::array<float, 16> kIq4 = {-127, -104, -83, -65, -49, -35, -22, -10,
                                        1,    13,   25,  38,  53,  69,  89,  113};
constexpr std::array<float, 16> kE2m1 = {0, 0.5f,  1,  1.5f,  2,  3,  4,  6,
                                         0, -0.5f, -1, -1.5f, -2, -3, -4, -6};

/// Scale and minimum of sub-block j of Q4_K and Q5_K: 8 pairs of 6 bits in 12 bytes.
struct ScaleAndMin {
  ScaleAndMin(Bytes s, uint32_t j) {
    if (j < 4) {
      scale = byte_at(s + j) & 63u;
      min = byte_at(s + j + 4) & 63u;
    } else {
      scale = (byte_at(s + j + 4) & 15u) | byte_at(s + j - 4) >> 6 << 4;
      min = byte_at(s + j + 4) >> 4 | byte_at(s + j) >> 6 << 4;
    }
  }
  uint32_t scale;
  uint32_t min;
};

/// Scale j of Q3_K: 16 of 6 bits in 12 bytes, four low bits in the first eight.
uint32_t q3_scale(Bytes s, uint32_t j) {
  const uint32_t low = j < 8 ? byte_at(s + j) & 15u : byte_at(s + j - 8) >> 4;
  return low | (byte_at(s + 8 + j % 4) >> (2 * (j / 4)) & 3u) << 4;
}

/// 2^(exponent - 127), subnormal below 1.
float e8m0(uint32_t exponent) {
  return exponent == 0 ? 0x1p-127f : std::bit_cast<float>(exponent << 23);
}

void decode_q8_0(Bytes b, float* out) {
  const float d = half_at(b);
  for (uint32_t i = 0; i < 32; ++i) out[i] = d * signed_at(b + 2 + i);
}
void decode_q4_0(Bytes b, float* out) {
  const float d = half_at(b);
  for (uint32_t i = 0; i < 32; ++i) out[i] = d * to_float(nibble(b + 2, i), 8);
}
void decode_q4_1(Bytes b, float* out) {
  const float d = half_at(b);
  const float m = half_at(b + 2);
  for (uint32_t i = 0; i < 32; ++i) out[i] = d * to_float(nibble(b + 4, i)) + m;
}
void decode_q5_0(Bytes b, float* out) {
  const float d = half_at(b);
  for (uint32_t i = 0; i < 32; ++i) {
    out[i] = d * to_float(nibble(b + 6, i) | bit(b + 2, i) << 4, 16);
  }
}
void decode_q5_1(Bytes b, float* out) {
  const float d = half_at(b);
  const float m = half_at(b + 2);
  for (uint32_t i = 0; i < 32; ++i)
    out[i] = d * to_float(nibble(b + 8, i) | bit(b + 4, i) << 4) + m;
}
void decode_iq4_nl(Bytes b, float* out) {
  const float d = half_at(b);
  for (uint32_t i = 0; i < 32; ++i) out[i] = d * kIq4[nibble(b + 2, i)];
}
void decode_mxfp4(Bytes b, float* out) {
  const float d = e8m0(byte_at(b));
  for (uint32_t i = 0; i < 32; ++i) out[i] = d * kE2m1[nibble(b + 1, i)];
}

/// Two bits of value i of 256: 128 values in 32 bytes, shifted by 0, 2, 4, 6.
uint32_t two_bits(Bytes qs, uint32_t i) {
  return byte_at(qs + i / 128 * 32 + i % 32) >> (i % 128 / 32 * 2) & 3u;
}

void decode_q2_k(Bytes b, float* out) {
  const float d = half_at(b + 80);
  const float min = half_at(b + 82);
  for (uint32_t i = 0; i < 256; ++i) {
    const uint32_t scale = byte_at(b + i / 16);
    const float q = to_float(two_bits(b + 16, i));
    out[i] = d * to_float(scale & 15u) * q - min * to_float(scale >> 4);
  }
}
void decode_q3_k(Bytes b, float* out) {
  const float d = half_at(b + 108);
  for (uint32_t i = 0; i < 256; ++i) {
    const float scale = d * to_float(q3_scale(b + 96, i / 16), 32);
    const uint32_t high = byte_at(b + i % 32) >> (i / 32) & 1u;
    out[i] = scale * to_float(two_bits(b + 32, i) | high << 2, 4);
  }
}
/// Nibble of value i of 256: 64 values in 32 bytes, low halves first.
uint32_t nibble_of_256(Bytes qs, uint32_t i) {
  return byte_at(qs + i / 64 * 32 + i % 32) >> (i % 64 / 32 * 4) & 15u;
}
void decode_q4_k(Bytes b, float* out) {
  for (uint32_t i = 0; i < 256; ++i) {
    const ScaleAndMin part(b + 4, i / 32);
    out[i] = half_at(b) * to_float(part.scale) * to_float(nibble_of_256(b + 16, i)) -
             half_at(b + 2) * to_float(part.min);
  }
}
void decode_q5_k(Bytes b, float* out) {
  for (uint32_t i = 0; i < 256; ++i) {
    const ScaleAndMin part(b + 4, i / 32);
    const uint32_t high = byte_at(b + 16 + i % 32) >> (i / 32) & 1u;
    out[i] = half_at(b) * to_float(part.scale) * to_float(nibble_of_256(b + 48, i) | high << 4) -
             half_at(b + 2) * to_float(part.min);
  }
}
void decode_q6_k(Bytes b, float* out) {
  const float d = half_at(b + 208);
  for (uint32_t i = 0; i < 256; ++i) {
    const uint32_t low_byte = byte_at(b + i / 128 * 64 + i % 64);
    const uint32_t low = i % 128 < 64 ? low_byte & 15u : low_byte >> 4;
    const uint32_t high = byte_at(b + 128 + i / 128 * 32 + i % 32) >> (i % 128 / 32 * 2) & 3u;
    out[i] = d * signed_at(b + 192 + i / 16) * to_float(low | high << 4, 32);
  }
}
void decode_iq4_xs(Bytes b, float* out) {
  const float d = half_at(b);
  for (uint32_t j = 0; j < 8; ++j) {
    const uint32_t low = byte_at(b + 4 + j / 2) >> (j % 2 * 4) & 15u;
    const uint32_t high = half_word_at(b + 2) >> (2 * j) & 3u;
    const float scale = d * to_float(low | high << 4, 32);
    for (uint32_t i = 0; i < 32; ++i) out[32 * j + i] = scale * kIq4[nibble(b + 8 + 16 * j, i)];
  }
}

using Decode = void (*)(Bytes, float*);
Decode decoder_of(WeightFormat format) {
  switch (format) {
    case WeightFormat::kF32:
    case WeightFormat::kF16:
    case WeightFormat::kBF16:
      break;
    case WeightFormat::kQ8_0:
      return decode_q8_0;
    case WeightFormat::kQ4_0:
      return decode_q4_0;
    case WeightFormat::kQ4_1:
      return decode_q4_1;
    case WeightFormat::kQ5_0:
      return decode_q5_0;
    case WeightFormat::kQ5_1:
      return decode_q5_1;
    case WeightFormat::kQ2_K:
      return decode_q2_k;
    case WeightFormat::kQ3_K:
      return decode_q3_k;
    case WeightFormat::kQ4_K:
      return decode_q4_k;
    case WeightFormat::kQ5_K:
      return decode_q5_k;
    case WeightFormat::kQ6_K:
      return decode_q6_k;
    case WeightFormat::kIQ4_NL:
      return decode_iq4_nl;
    case WeightFormat::kIQ4_XS:
      return decode_iq4_xs;
    case WeightFormat::kMXFP4:
      return decode_mxfp4;
  }
  return nullptr;
}

}  // namespace

std::optional<WeightFormat> parse_format(std::string_view name) {
  for (const FormatTraits& traits : kFormats) {
    if (traits.name == name) return traits.format;
  }
  return std::nullopt;
}

void decode_values(WeightFormat format, const std::byte* data, uint64_t count, float* out) {
  const FormatTraits& traits = traits_of(format);
  CHECK(count % traits.block_values == 0);
  if (const auto dtype = plain_dtype(format)) {
    for (uint64_t i = 0; i < count; ++i) out[i] = load_f32(data, *dtype, i);
    return;
  }
  const Decode decode = decoder_of(format);
  for (uint64_t i = 0; i < count; i += traits.block_values, data += traits.block_bytes) {
    decode(data, out + i);
  }
}

}  // namespace spillway
