#include "model/synthetic_values.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "core/error.h"

namespace spillway {
namespace {

constexpr double kStandardDeviation = 0.02;
constexpr uint32_t kQuantiles = 65536;
constexpr uint64_t kWordsPerBlock = 32;  // 256 bytes: more than any block has
constexpr uint32_t kSampleBlocks = 512;

/// Quantile function of the normal distribution (P. J. Acklam's rational approximation).
double normal_quantile(double p) {
  constexpr double a[] = {-3.969683028665376e+01, 2.209460984245205e+02,  -2.759285104469687e+02,
                          1.383577518672690e+02,  -3.066479806614716e+01, 2.506628277459239e+00};
  constexpr double b[] = {-5.447609879822406e+01, 1.615858368580409e+02, -1.556989798598866e+02,
                          6.680131188771972e+01, -1.328068155288572e+01};
  constexpr double c[] = {-7.784894002430293e-03, -3.223964580411365e-01, -2.400758277161838e+00,
                          -2.549732539343734e+00, 4.374664141464968e+00,  2.938163982698783e+00};
  constexpr double d[] = {7.784695709041462e-03, 3.224671290700398e-01, 2.445134137142996e+00,
                          3.754408661907416e+00};
  if (p > 0.97575) return -normal_quantile(1 - p);
  if (p < 0.02425) {
    const double q = std::sqrt(-2 * std::log(p));
    return (((((c[0] * q + c[1]) * q + c[2]) * q + c[3]) * q + c[4]) * q + c[5]) /
           ((((d[0] * q + d[1]) * q + d[2]) * q + d[3]) * q + 1);
  }
  const double q = p - 0.5;
  const double r = q * q;
  return (((((a[0] * r + a[1]) * r + a[2]) * r + a[3]) * r + a[4]) * r + a[5]) * q /
         (((((b[0] * r + b[1]) * r + b[2]) * r + b[3]) * r + b[4]) * r + 1);
}

uint64_t mix(uint64_t x) {  // splitmix64's finalizer: a counter in, an independent word out
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

/// Where a block keeps its f16 numbers, and the second one's ratio to the first with which values
/// have mean 0.
struct BlockShape {
  uint32_t scale_at = 0;
  uint32_t other_at = 0;  ///< 0 = there is none
  double other_ratio = 0;
};

BlockShape shape_of(WeightFormat format) {
  switch (format) {
    case WeightFormat::kQ4_1:
      return {0, 2, -7.5};
    case WeightFormat::kQ5_1:
      return {0, 2, -15.5};
    case WeightFormat::kQ4_K:
      return {0, 2, 7.5};
    case WeightFormat::kQ5_K:
      return {0, 2, 15.5};
    case WeightFormat::kQ2_K:
      return {80, 82, 1.5};
    case WeightFormat::kQ3_K:
      return {108, 0, 0};
    case WeightFormat::kQ6_K:
      return {208, 0, 0};
    default:
      return {};
  }
}

/// A scale in the upper half of `most`, and a minimum within one of it.
std::pair<uint32_t, uint32_t> scale_and_min(uint64_t bits, uint32_t most) {
  const auto scale = static_cast<uint32_t>((most + 1) / 2 + bits % ((most + 1) / 2));
  const auto jitter = static_cast<uint32_t>(bits >> 6 & 3u);  // 0 and 3: as large
  const uint32_t min = jitter == 1 ? scale - 1 : jitter == 2 ? std::min(scale + 1, most) : scale;
  return {scale, min};
}

/// The eight pairs of Q4_K and Q5_K in 12 bytes.
void put_pairs(std::byte* at, uint64_t bits) {
  uint8_t packed[12] = {};
  for (uint32_t j = 0; j < 8; ++j) {
    const auto [scale, min] = scale_and_min(bits >> (8 * j), 63);
    if (j < 4) {
      packed[j] |= static_cast<uint8_t>(scale);
      packed[j + 4] |= static_cast<uint8_t>(min);
    } else {
      packed[j + 4] = static_cast<uint8_t>((scale & 15u) | (min & 15u) << 4);
      packed[j - 4] |= static_cast<uint8_t>(scale >> 4 << 6);
      packed[j] |= static_cast<uint8_t>(min >> 4 << 6);
    }
  }
  std::memcpy(at, packed, sizeof(packed));
}

}  // namespace

SyntheticValues::SyntheticValues(WeightFormat format, uint64_t seed)
    : format_(format), seed_(mix(seed)) {
  if (has_blocks(format)) choose_scales();
  for (uint32_t i = 0; !has_blocks(format) && i < kQuantiles; ++i) {
    const auto value =
        static_cast<float>(kStandardDeviation * normal_quantile((i + 0.5) / kQuantiles));
    if (format == WeightFormat::kF32) floats_.push_back(value);
    if (format == WeightFormat::kF16) halves_.push_back(f16_from_f32(value));
    if (format == WeightFormat::kBF16) halves_.push_back(bf16_from_f32(value));
  }
}

uint64_t SyntheticValues::unit_values() const {
  return has_blocks(format_) ? traits_of(format_).block_values : 4;
}

uint64_t SyntheticValues::unit_bytes() const {
  return row_bytes(format_, unit_values());
}

/// From blocks whose scales are 1: what makes their deviation the wanted one.
void SyntheticValues::choose_scales() {
  const bool exponents = format_ == WeightFormat::kMXFP4;
  const BlockShape shape = shape_of(format_);
  exponent_ = 127;
  scales_.fill({f16_from_f32(1), f16_from_f32(static_cast<float>(shape.other_ratio))});
  std::vector<std::byte> blocks(uint64_t{kSampleBlocks} * traits_of(format_).block_bytes);
  std::vector<float> values(uint64_t{kSampleBlocks} * traits_of(format_).block_values);
  fill(0, false, 0, values.size(), blocks.data());
  decode_values(format_, blocks.data(), values.size(), values.data());
  double squares = 0;
  for (const float value : values) squares += double{value} * value;
  const double wanted =
      kStandardDeviation / std::sqrt(squares / static_cast<double>(values.size()));
  if (exponents) {
    const double low = std::exp2(std::floor(std::log2(wanted)));
    exponent_ = static_cast<uint8_t>(127 + std::lround(std::log2(low)));
    const double share = (wanted * wanted - low * low) / (3 * low * low);
    larger_below_ = static_cast<uint64_t>(std::lround(share * 65536));
    return;
  }
  for (size_t i = 0; i < kScales; ++i) {  // from 0.75 to 1.25 of it, whose mean square is 1.0208
    const size_t step = i / 2;
    const double place = static_cast<double>(step) / static_cast<double>(kSteps - 1);
    const double factor = (0.75 + 0.5 * place) / std::sqrt(1.0208);
    const double scale = wanted * factor * (i % 2 == 0 ? 1 : -1);
    scales_[i] = {f16_from_f32(static_cast<float>(scale)),
                  f16_from_f32(static_cast<float>(scale * shape.other_ratio))};
  }
}

void SyntheticValues::set_scales(uint64_t bits, std::byte* block) const {
  if (format_ == WeightFormat::kMXFP4) {
    const uint8_t larger = (bits & 0xFFFFu) < larger_below_ ? 1 : 0;
    block[0] = static_cast<std::byte>(exponent_ + larger);
    return;
  }
  const BlockShape shape = shape_of(format_);
  const ScalePair pair = scales_[bits % kScales];
  put_half(block + shape.scale_at, pair.scale);
  if (shape.other_at != 0) put_half(block + shape.other_at, pair.other);
  if (format_ == WeightFormat::kQ4_K || format_ == WeightFormat::kQ5_K) {
    put_pairs(block + 4, mix(bits));
  } else if (format_ == WeightFormat::kQ2_K) {
    for (uint32_t j = 0; j < 16; ++j) {
      const auto own = std::to_integer<uint32_t>(block[j]);
      const auto [scale, min] = scale_and_min(own ^ (bits >> (3 * j) & 0xFFu), 15);
      block[j] = static_cast<std::byte>(scale | min << 4);
    }
  }
}

void SyntheticValues::fill_block(uint64_t key, uint64_t block, std::byte* out) const {
  const uint64_t bytes = traits_of(format_).block_bytes;
  const uint64_t counter = key + block * kWordsPerBlock;
  for (uint64_t at = 0; at < bytes; at += 8) {
    const uint64_t word = mix(counter + at / 8);
    std::memcpy(out + at, &word, std::min<uint64_t>(8, bytes - at));
  }
  set_scales(mix(counter + kWordsPerBlock - 1), out);
}

void SyntheticValues::put_number(std::byte* out, uint64_t index, uint32_t pick) const {
  if (format_ == WeightFormat::kF32) {
    std::memcpy(out + index * 4, &floats_[pick], 4);
  } else {
    std::memcpy(out + index * 2, &halves_[pick], 2);
  }
}

/// 16 random bits of a word for each of four neighbours look up one of 65536 normal quantiles.
void SyntheticValues::fill_plain(uint64_t key, uint64_t first, uint64_t count,
                                 std::byte* out) const {
  uint64_t done = 0;
  while (done < count) {
    const uint64_t place = first + done;
    const uint64_t bits = mix(key + place / 4) >> (16 * (place % 4));
    const uint64_t some = std::min<uint64_t>(4 - place % 4, count - done);
    for (uint64_t lane = 0; lane < some; ++lane) {
      put_number(out, done + lane, static_cast<uint16_t>(bits >> (16 * lane)));
    }
    done += some;
  }
}

void SyntheticValues::fill_ones(uint64_t count, std::byte* out) const {
  CHECK(!has_blocks(format_));
  const float one = 1;
  const uint16_t half = format_ == WeightFormat::kF16 ? f16_from_f32(one) : bf16_from_f32(one);
  for (uint64_t i = 0; i < count; ++i) {
    if (format_ == WeightFormat::kF32) {
      std::memcpy(out + i * 4, &one, 4);
    } else {
      put_half(out + i * 2, half);
    }
  }
}

void SyntheticValues::fill(uint64_t tensor, bool ones, uint64_t first, uint64_t count,
                           std::byte* out) const {
  const uint64_t key = seed_ ^ mix(tensor + 1);
  if (ones) return fill_ones(count, out);
  if (!has_blocks(format_)) return fill_plain(key, first, count, out);
  const FormatTraits& traits = traits_of(format_);
  CHECK(first % traits.block_values == 0 && count % traits.block_values == 0);
  for (uint64_t i = 0; i < count; i += traits.block_values, out += traits.block_bytes) {
    fill_block(key, (first + i) / traits.block_values, out);
  }
}

}  // namespace spillway
