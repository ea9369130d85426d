#include "core/block_encoding.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace spillway {
namespace {

using Values = std::vector<float>;

Values coded(WeightFormat format, const Values& values) {
  std::vector<std::byte> bytes(row_bytes(format, values.size()) + 1);
  // Not aligned.
  EXPECT_EQ(encode_values(format, values.data(), values.size(), bytes.data() + 1),
            EncodeResult::kDone);
  Values back(values.size());
  decode_values(format, bytes.data() + 1, back.size(), back.data());
  return back;
}

double squared_distance(const Values& a, const Values& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
  return sum;
}

float half(float value) {
  return f32_from_f16(f16_from_f32(value));
}
float nearest(float value, float low, float high) {
  return std::clamp(std::nearbyint(value), low, high);
}
float over(float value, float scale) {
  return scale == 0 ? 0 : value / scale;
}

// Plain rounding, written down anew: the extreme value of a part takes the extreme integer.

void plain_scaled(const float* x, size_t count, float lowest, float* out) {
  const float most =
      *std::max_element(x, x + count, [](float a, float b) { return std::abs(a) < std::abs(b); });
  const float d = half(most / lowest);
  for (size_t i = 0; i < count; ++i) out[i] = d * nearest(over(x[i], d), lowest, -lowest - 1);
}

void plain_lined(const float* x, size_t count, float high, float* out) {
  const auto [low, most] = std::minmax_element(x, x + count);
  const float d = half((*most - *low) / high);
  const float m = half(*low);
  for (size_t i = 0; i < count; ++i) out[i] = d * nearest(over(x[i] - m, d), 0, high) + m;
}

void plain_q4_k(const float* x, float high, float* out) {
  float scales[8];
  float mins[8];
  for (size_t p = 0; p < 8; ++p) {
    const auto [low, most] = std::minmax_element(x + 32 * p, x + 32 * p + 32);
    mins[p] = std::max(-*low, 0.0f);
    scales[p] = (*most + mins[p]) / high;
  }
  const float d = half(*std::max_element(scales, scales + 8) / 63);
  const float dmin = half(*std::max_element(mins, mins + 8) / 63);
  for (size_t p = 0; p < 8; ++p) {
    const float scale = d * nearest(over(scales[p], d), 0, 63);
    const float min = dmin * nearest(over(mins[p], dmin), 0, 63);
    for (size_t i = 32 * p; i < 32 * p + 32; ++i) {
      out[i] = scale * nearest(over(x[i] + min, scale), 0, high) - min;
    }
  }
}

void plain_q6_k(const float* x, float* out) {
  float scales[16];
  for (size_t p = 0; p < 16; ++p) {
    scales[p] = *std::max_element(x + 16 * p, x + 16 * p + 16, [](float a, float b) {
      return std::abs(a) < std::abs(b);
    }) / -32;
  }
  const float most = *std::max_element(scales, scales + 16,
                                       [](float a, float b) { return std::abs(a) < std::abs(b); });
  const float d = half(most / -128);
  for (size_t p = 0; p < 16; ++p) {
    const float scale = d * nearest(over(scales[p], d), -128, 127);
    for (size_t i = 16 * p; i < 16 * p + 16; ++i) {
      out[i] = scale * nearest(over(x[i], scale), -32, 31);
    }
  }
}

Values plainly_coded(WeightFormat format, const Values& values) {
  Values out(values.size());
  const size_t block = traits_of(format).block_values;
  for (size_t i = 0; i < values.size(); i += block) {
    const float* x = &values[i];
    switch (format) {
      case WeightFormat::kQ8_0:
        plain_scaled(x, block, -128, &out[i]);
        break;
      case WeightFormat::kQ4_0:
        plain_scaled(x, block, -8, &out[i]);
        break;
      case WeightFormat::kQ5_0:
        plain_scaled(x, block, -16, &out[i]);
        break;
      case WeightFormat::kQ4_1:
        plain_lined(x, block, 15, &out[i]);
        break;
      case WeightFormat::kQ5_1:
        plain_lined(x, block, 31, &out[i]);
        break;
      case WeightFormat::kQ4_K:
        plain_q4_k(x, 15, &out[i]);
        break;
      case WeightFormat::kQ5_K:
        plain_q4_k(x, 31, &out[i]);
        break;
      case WeightFormat::kQ6_K:
        plain_q6_k(x, &out[i]);
        break;
      default:
        ADD_FAILURE();
    }
  }
  return out;
}

struct EncodedFormat {
  WeightFormat format;
  double relative_error;  ///< of normal values, root mean square: no more
};

class BlockEncoding : public testing::TestWithParam<EncodedFormat> {
 protected:
  WeightFormat format() const { return GetParam().format; }
};

constexpr size_t kRow = 4096;

Values row_of(const std::function<float(size_t)>& value) {
  Values values(kRow);
  for (size_t i = 0; i < kRow; ++i) values[i] = value(i);
  return values;
}

/// Rows of many kinds, each of several sizes.
std::vector<Values> hard_rows() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::cauchy_distribution<float> wild;
  std::vector<Values> rows;
  for (const float size : {1.0f, 0.02f, 1e-4f, 1e-6f, 3e-8f, 1e-12f, 1e-40f, 1e3f}) {
    const auto add = [&](const std::function<float(size_t)>& value) {
      rows.push_back(row_of([&](size_t i) { return size * value(i); }));
    };
    add([&](size_t) { return normal(random); });
    add([&](size_t) { return uniform(random); });
    add([&](size_t) { return std::clamp(wild(random), -50.0f, 50.0f); });
    add([&](size_t) { return std::abs(normal(random)); });
    add([&](size_t) { return -std::abs(normal(random)); });
    add([&](size_t) { return 5 + 0.01f * normal(random); });
    add([&](size_t) { return -5 + 0.01f * normal(random); });
    add([](size_t) { return 1.0f; });
    add([](size_t) { return -0.7f; });
    add([](size_t i) { return i % 2 == 0 ? 1.0f : -1.0f; });
    add([](size_t i) { return static_cast<float>(i % 256) / 256; });
    add([](size_t i) { return i % 256 == 77 ? 10.0f : 0.0f; });
    add([&](size_t i) { return i % 256 == 77 ? -40.0f : 0.001f * normal(random); });
    add([&](size_t i) {
      return std::exp2(static_cast<float>(i / 32 % 12)) * normal(random) / 999;
    });
    add([&](size_t) { return random() % 8 == 0 ? normal(random) : 0.0f; });
  }
  rows.push_back(row_of([](size_t) { return 0.0f; }));
  rows.push_back(row_of([](size_t) { return -0.0f; }));
  rows.push_back(row_of([](size_t) { return std::numeric_limits<float>::denorm_min(); }));
  return rows;
}

TEST_P(BlockEncoding, IsNeverWorseThanPlainRounding) {
  for (const Values& row : hard_rows()) {
    const Values ours = coded(format(), row);
    const Values plain = plainly_coded(format(), row);
    const size_t block = traits_of(format()).block_values;
    for (size_t i = 0; i < row.size(); i += block) {
      const auto part = [&](const Values& all) {
        return Values(all.begin() + static_cast<ptrdiff_t>(i),
                      all.begin() + static_cast<ptrdiff_t>(i + block));
      };
      const double limit = squared_distance(part(row), part(plain));
      EXPECT_LE(squared_distance(part(row), part(ours)), limit * (1 + 1e-5) + 1e-30)
          << row[i] << " " << row[i + 1];
    }
  }
}

TEST_P(BlockEncoding, IsBetterThanPlainRoundingOnNormalValues) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal(0, 0.02f);
  const Values row = row_of([&](size_t) { return normal(random); });
  const double error = squared_distance(row, coded(format(), row));
  EXPECT_LT(error, 0.97 * squared_distance(row, plainly_coded(format(), row)));
  const double relative = std::sqrt(error / squared_distance(row, Values(kRow)));
  EXPECT_LT(relative, GetParam().relative_error);
  EXPECT_GT(relative, 0.5 * GetParam().relative_error) << "the bound is not of this format";
}

TEST_P(BlockEncoding, KeepsZerosAndWhatItCanHold) {
  const Values zeros(256);
  EXPECT_EQ(coded(format(), zeros), zeros);
  // Encoding what was decoded changes little: all of it lies on a grid.
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  const Values once = coded(format(), row_of([&](size_t) { return normal(random); }));
  const Values twice = coded(format(), once);
  EXPECT_LT(std::sqrt(squared_distance(once, twice) / kRow), 0.01);
}

TEST_P(BlockEncoding, RefusesWhatIsNoNumberOrTooLarge) {
  std::vector<std::byte> out(row_bytes(format(), 256));
  for (const float value :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    Values values(256, 1);
    values[200] = value;
    values[3] = 1e38f;
    EXPECT_EQ(encode_values(format(), values.data(), 256, out.data()), EncodeResult::kNotFinite);
  }
  for (const float value : {1e38f, -1e38f, 1e12f}) {
    Values values(256, 0.5f);
    values[17] = value;
    EXPECT_EQ(encode_values(format(), values.data(), 256, out.data()), EncodeResult::kTooLarge);
  }
  // Near the limit it is one or the other, never an infinite value.
  for (float value = 1e4f; value < 1e9f; value *= 1.7f) {
    Values values(256, 1);
    values[17] = value;
    values[90] = -value / 3;
    if (encode_values(format(), values.data(), 256, out.data()) != EncodeResult::kDone) continue;
    Values back(256);
    decode_values(format(), out.data(), 256, back.data());
    EXPECT_NEAR(back[17], value, value / 5);
    for (const float one : back) EXPECT_TRUE(std::isfinite(one));
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, BlockEncoding,
                         testing::Values(EncodedFormat{WeightFormat::kQ8_0, 0.0058},
                                         EncodedFormat{WeightFormat::kQ4_0, 0.092},
                                         EncodedFormat{WeightFormat::kQ4_1, 0.082},
                                         EncodedFormat{WeightFormat::kQ5_0, 0.046},
                                         EncodedFormat{WeightFormat::kQ5_1, 0.041},
                                         EncodedFormat{WeightFormat::kQ4_K, 0.078},
                                         EncodedFormat{WeightFormat::kQ5_K, 0.039},
                                         EncodedFormat{WeightFormat::kQ6_K, 0.019}),
                         [](const auto& test) {
                           return std::string(format_name(test.param.format));
                         });

TEST(PlainEncoding, RoundsAndRefuses) {
  const Values values = {0, -1.5f, 65504, 1e-7f};
  std::vector<std::byte> out(16);
  Values back(4);
  ASSERT_EQ(encode_values(WeightFormat::kF16, values.data(), 4, out.data()), EncodeResult::kDone);
  decode_values(WeightFormat::kF16, out.data(), 4, back.data());
  EXPECT_EQ(back[2], 65504);
  const Values large = {0, 65520, 0, 0};
  EXPECT_EQ(encode_values(WeightFormat::kF16, large.data(), 4, out.data()),
            EncodeResult::kTooLarge);
  EXPECT_EQ(encode_values(WeightFormat::kBF16, large.data(), 4, out.data()), EncodeResult::kDone);
  const Values most = {std::numeric_limits<float>::max(), 0, 0, 0};
  EXPECT_EQ(encode_values(WeightFormat::kBF16, most.data(), 4, out.data()),
            EncodeResult::kTooLarge);
  EXPECT_EQ(encode_values(WeightFormat::kF32, most.data(), 4, out.data()), EncodeResult::kDone);
  EXPECT_FALSE(can_encode(WeightFormat::kMXFP4));
}

}  // namespace
}  // namespace spillway
