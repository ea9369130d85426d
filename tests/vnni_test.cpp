// Products in whole numbers (kernels/host/vnni.h), on weights that end where memory ends: against
// sums in double precision, and exactly where f32 would be exact.
#include "kernels/host/vnni.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>

#include "kernels/host/cpu_features.h"
#include "tests/fenced.h"
#include "tests/support.h"

namespace spillway {
namespace {

using test::Fenced;
using test::kBothWays;

constexpr uint32_t kOutputs = 11;  // a whole tile of rows and a rest

/// What scales of blocks are: any of the size that models have, or one power of two.
enum class Sizes { kAny, kPower };

class Vnni : public ::testing::TestWithParam<WeightFormat> {
 protected:
  void SetUp() override {
    if (detect_isa() < Isa::kAvx512Vnni) GTEST_SKIP() << "this CPU lacks AVX512-VNNI";
    kernels_ = vnni_kernels(format());
    ASSERT_NE(kernels_, nullptr);
  }
  static WeightFormat format() { return GetParam(); }
  static const FormatTraits& traits() { return traits_of(format()); }

  struct Weights {
    std::vector<std::byte> bytes;
    std::vector<float> values;  // [kOutputs, cols]
  };
  Weights random_weights(uint32_t cols, Sizes scales) {
    const uint64_t count = uint64_t{kOutputs} * cols;
    Weights w{std::vector<std::byte>(row_bytes(format(), count)), std::vector<float>(count)};
    for (std::byte& byte : w.bytes) byte = static_cast<std::byte>(random_());
    for (size_t block = 0; block < w.bytes.size(); block += traits().block_bytes) {
      for (const size_t place : test::half_places(format())) {
        const uint16_t half = f16_from_f32(
            scales == Sizes::kPower ? 0.125f : std::normal_distribution<float>(0, 0.01f)(random_));
        std::memcpy(&w.bytes[block + place], &half, sizeof(half));
      }
    }
    decode_values(format(), w.bytes.data(), count, w.values.data());
    return w;
  }

  std::vector<float> multiply(const std::byte* weights, const std::vector<float>& x, uint32_t rows,
                              uint32_t cols) {
    const size_t stride = vnni_input_bytes(cols);
    std::vector<std::byte> packed(rows * stride, std::byte{0x55});
    for (uint32_t r = 0; r < rows; ++r) {
      const std::vector<std::byte> row(reinterpret_cast<const std::byte*>(&x[r * cols]),
                                       reinterpret_cast<const std::byte*>(&x[r * cols] + cols));
      const Fenced input(row, Fenced::Touches::kEnd);
      kernels_->pack(reinterpret_cast<const float*>(input.data()), cols, &packed[r * stride]);
    }
    constexpr float kFree = -7777;
    std::vector<float> out(rows * (kOutputs + 1), kFree);
    kernels_->gemv(packed.data(), stride, rows, weights, kOutputs, cols, out.data(), kOutputs + 1);
    for (uint32_t r = 0; r < rows; ++r) {  // what lies between rows goes
      const auto between = out.begin() + r * kOutputs + kOutputs;
      EXPECT_EQ(*between, kFree);
      out.erase(between);
    }
    return out;
  }

  /// Of the block of 32 values, or 256, that value k of a row lies in.
  static double largest_of_block(const float* row, uint32_t k) {
    const float* block = row + k / traits().block_values * traits().block_values;
    double largest = 0;
    for (uint32_t i = 0; i < traits().block_values; ++i) {
      largest = std::max(largest, std::abs(double{block[i]}));
    }
    return largest;
  }

  /// Beside double precision, as shares of the largest input of four times the largest weight of a
  /// block; `input(i)` makes input i.
  template <typename Input>
  void expect_small_errors(double share, const Input& input_of) {
    for (const uint32_t cols : widths()) {
      const Weights w = random_weights(cols, Sizes::kAny);
      for (const uint32_t rows : {1u, 2u, 3u, 4u}) {
        std::vector<float> x(size_t{rows} * cols);
        for (size_t i = 0; i < x.size(); ++i) x[i] = input_of(i);
        for (const Fenced::Touches touches : kBothWays) {
          const Fenced weights(w.bytes, touches);
          const auto out = multiply(weights.data(), x, rows, cols);
          for (size_t i = 0; i < out.size(); ++i) {
            const float* row = &w.values[i % kOutputs * cols];
            const float* input = &x[i / kOutputs * cols];
            double expected = 0;
            double size = 0;
            for (uint32_t k = 0; k < cols; k += 4) {
              double largest = 0;
              for (uint32_t at = k; at < k + 4; ++at) {
                expected += double{input[at]} * row[at];
                largest = std::max(largest, std::abs(double{input[at]}));
              }
              size += largest * largest_of_block(row, k);
            }
            constexpr double kSubnormal = 1e-43;  // some roundings of f32's smallest numbers
            ASSERT_NEAR(out[i], expected, share * size + kSubnormal)
                << cols << " columns, " << rows << " rows, result " << i;
          }
        }
      }
    }
  }

  static std::vector<uint32_t> widths() {
    if (traits().block_values == 256) return {256, 1280};
    return {32, 128, 160, 224, 256, 384, 544, 1024};
  }

  const VnniKernels* kernels_ = nullptr;
  uint64_t seed_ = test::run_seed();
  std::mt19937_64 random_{seed_};
  testing::ScopedTrace trace_{__FILE__, __LINE__, test::seed_note(seed_)};
};

/// Of a size: none is more than 16 times as large as another. What a block's offset or minimum
/// takes away may be as much as its largest weight.
TEST_P(Vnni, ErrsByNoMoreThanSumsInF32) {
  std::uniform_real_distribution<float> mantissa(1, 2);
  expect_small_errors(1e-6, [&](size_t i) {
    const float value = std::ldexp(mantissa(random_), static_cast<int>(i / 4 * 7 % 4));
    return random_() % 2 == 0 ? value : -value;
  });
}

/// Inputs differ by up to 2^12 within four, and by far more between fours: in f32.
TEST_P(Vnni, ErrsByNoMoreThanSumsInF32WhateverInputsAre) {
  std::normal_distribution<float> normal;
  expect_small_errors(2e-6, [&](size_t i) {
    const int four = static_cast<int>(i / 4 * 7 % 41) - 20;
    return std::ldexp(normal(random_), four - static_cast<int>(random_() % 12));
  });
}

/// Whole numbers that f32 can sum without rounding: every code and scale is where it belongs.
TEST_P(Vnni, IsExactWhereF32Is) {
  for (const uint32_t cols : widths()) {
    if (cols > 256) break;
    for (int round = 0; round < 20; ++round) {
      const Weights w = random_weights(cols, Sizes::kPower);
      std::vector<float> x(4 * cols);
      for (float& value : x) value = static_cast<float>(static_cast<int>(random_() % 15) - 7);
      const auto out = multiply(w.bytes.data(), x, 4, cols);
      for (uint32_t r = 0; r < 4; ++r) {
        for (uint32_t n = 0; n < kOutputs; ++n) {
          double expected = 0;
          for (uint32_t k = 0; k < cols; ++k) expected += x[r * cols + k] * w.values[n * cols + k];
          ASSERT_EQ(out[r * kOutputs + n], expected) << cols << " columns: " << r << "," << n;
        }
      }
    }
  }
}

/// Every bit of the largest of four but the last, whatever its size; and zeros.
TEST_P(Vnni, TakesNumbersOfAnySize) {
  const uint32_t cols = 256;
  const Weights w = random_weights(cols, Sizes::kPower);
  for (const float size : {0.0f, 1e-42f, 1e-30f, 1.0f, 16777215.0f, -16777215.0f, 1e30f}) {
    for (const uint32_t every : {1u, 5u, 77u, 256u}) {
      std::vector<float> x(cols);
      for (uint32_t k = 0; k < cols; k += every) x[k] = size;
      const auto out = multiply(w.bytes.data(), x, 1, cols);
      for (uint32_t n = 0; n < kOutputs; ++n) {
        const float* row = &w.values[size_t{n} * cols];
        double expected = 0;
        double sum = 0;
        for (uint32_t k = 0; k < cols; ++k) {
          expected += double{x[k]} * row[k];
          sum += std::abs(double{x[k]}) * largest_of_block(row, k);
        }
        const double share = every < 77 ? 1e-6 : 4e-7;  // alone it keeps 23 bits
        ASSERT_NEAR(out[n], expected, share * sum + 1e-36) << size << " every " << every;
      }
    }
  }
}

/// Where the largest inputs lie among 256.
struct Outliers {
  const char* name;
  uint32_t every;  ///< 1 of so many values is huge
  uint32_t live;   ///< of so many fours but the first all are 0; 0 = none is
};

/// Models have inputs that are thousands of times as large as others, and weights as much smaller
/// for them. What the others give keeps its bits: it would not in whole numbers.
TEST_P(Vnni, ErrsByNoMoreThanProductsWhereInputsAreHuge) {
  std::normal_distribution<float> normal;
  for (const auto& [name, every, live] : {Outliers{"one", 256, 0},
                                          {"some", 24, 0},
                                          {"one in four", 4, 0},
                                          {"most", 1, 0},
                                          {"sparse", 256, 9}}) {
    for (const uint32_t cols : widths()) {
      const Weights w = random_weights(cols, Sizes::kAny);
      for (const float huge : {200.0f, 1e4f, 1e6f}) {
        for (uint32_t n = 0; n < kOutputs; ++n) {
          const float* row = &w.values[size_t{n} * cols];
          std::vector<float> x(cols);
          for (uint32_t k = 0; k < cols; ++k) {
            x[k] = live != 0 && k / 4 % live != 0 ? 0 : normal(random_);
          }
          for (uint32_t begin = 0; begin < cols; begin += every) {
            uint32_t least = begin;  // where what is huge costs no bits of the sum
            for (uint32_t k = begin; k < std::min(cols, begin + every); ++k) {
              if (x[k] != 0 && std::abs(row[k]) < std::abs(row[least])) least = k;
            }
            x[least] = huge * (normal(random_) < 0 ? -4.0f : 4.0f);
          }
          double expected = 0;
          double products = 0;
          for (uint32_t k = 0; k < cols; ++k) {
            expected += double{x[k]} * row[k];
            products += std::abs(double{x[k]} * row[k]);
          }
          ASSERT_NEAR(multiply(w.bytes.data(), x, 1, cols)[n], expected, 1e-6 * products)
              << name << ", " << cols << " columns, " << huge << ", output " << n;
        }
      }
    }
  }
}

/// As small as they may be: with ordinary scales a product is an ordinary number.
TEST_P(Vnni, TinyInputsKeepTheirBits) {
  std::normal_distribution<float> normal;
  for (const int exponent : {-79, -81, -99, -101, -105}) {
    expect_small_errors(1e-6, [&](size_t i) {
      return std::ldexp(1 + 0.1f * normal(random_), exponent + static_cast<int>(i / 4 % 3));
    });
  }
}

/// Sums of inputs overflow where products with small weights do not.
TEST_P(Vnni, HugeInputsOverflowWhereProductsDo) {
  const uint32_t cols = 256;
  const Weights w = random_weights(cols, Sizes::kAny);
  const std::vector<float> x(cols, 3e36f);
  const auto out = multiply(w.bytes.data(), x, 1, cols);
  for (uint32_t n = 0; n < kOutputs; ++n) {
    double expected = 0;
    double products = 0;
    for (uint32_t k = 0; k < cols; ++k) {
      expected += double{x[k]} * w.values[n * cols + k];
      products += std::abs(double{x[k]} * w.values[n * cols + k]);
    }
    if (products < 1e38) {
      EXPECT_NEAR(out[n], expected, 1e-6 * products) << n;
    }
  }
}

/// Rows beside it change no bit of a row's results, whatever is huge in either.
TEST_P(Vnni, RowsKeepToThemselves) {
  std::normal_distribution<float> normal;
  const uint32_t cols = widths().back();
  const Weights w = random_weights(cols, Sizes::kAny);
  for (int round = 0; round < 8; ++round) {
    std::vector<float> x(size_t{4} * cols);
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = normal(random_);
      const bool may = (round >> (i / cols) & 1) != 0;  // in some of the chunks
      if (may && i / 256 % 2 == 0 && random_() % 64 == 0) x[i] *= 1e5f;
    }
    const auto together = multiply(w.bytes.data(), x, 4, cols);
    for (uint32_t r = 0; r < 4; ++r) {
      const auto begin = x.begin() + r * cols;
      const auto alone = multiply(w.bytes.data(), {begin, begin + cols}, 1, cols);
      for (uint32_t n = 0; n < kOutputs; ++n) {
        ASSERT_EQ(together[r * kOutputs + n], alone[n]) << "row " << r << ", output " << n;
      }
    }
  }
}

TEST_P(Vnni, WhatIsNoNumberStaysNone) {
  const uint32_t cols = 256;
  const Weights w = random_weights(cols, Sizes::kAny);
  for (const float none :
       {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::quiet_NaN(),
        std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()}) {
    for (const uint32_t at : {0u, 3u, 130u, 255u, cols}) {  // cols: everywhere
      std::vector<float> x(2 * cols, 1.0f);
      if (at < cols) x[at] = none;
      if (at == cols) std::fill_n(x.begin(), cols, none);
      const auto out = multiply(w.bytes.data(), x, 2, cols);
      for (uint32_t n = 0; n < kOutputs; ++n) {
        EXPECT_FALSE(std::isfinite(out[n])) << none << " at " << at;
        EXPECT_TRUE(std::isfinite(out[kOutputs + n]));
      }
    }
  }
}

/// 28 ordinary inputs beside 228 huge ones, whose weights are 0: a code of 8.
TEST(VnniOfQ4_0, ErrsByNoMoreThanProductsWhereMostInputsAreHuge) {
  if (detect_isa() < Isa::kAvx512Vnni) GTEST_SKIP() << "this CPU lacks AVX512-VNNI";
  constexpr uint32_t kCols = 256;
  constexpr uint32_t kOrdinary = 28;
  const uint64_t seed = test::run_seed();
  SCOPED_TRACE(test::seed_note(seed));
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<std::byte> weights(row_bytes(WeightFormat::kQ4_0, kCols), std::byte{0x88});
  const uint16_t half = f16_from_f32(0.01f);
  for (size_t block = 0; block < weights.size(); block += 18) {
    std::memcpy(&weights[block], &half, sizeof(half));
  }
  for (uint32_t k = 0; k < 16; ++k) {  // columns k and k + 16
    const uint64_t codes = k + 16 < kOrdinary ? random() & 0xff : 0x80 | (random() & 0x0f);
    weights[2 + k] = static_cast<std::byte>(codes);
  }
  std::vector<float> values(kCols);
  decode_values(WeightFormat::kQ4_0, weights.data(), kCols, values.data());
  std::vector<float> x(kCols);
  double expected = 0;
  double products = 0;
  for (uint32_t k = 0; k < kCols; ++k) {
    x[k] = normal(random) * (k < kOrdinary ? 1 : 1e5f);
    expected += double{x[k]} * values[k];
    products += std::abs(double{x[k]} * values[k]);
  }
  const VnniKernels& kernels = *vnni_kernels(WeightFormat::kQ4_0);
  std::vector<std::byte> packed(vnni_input_bytes(kCols));
  kernels.pack(x.data(), kCols, packed.data());
  float out = 0;
  kernels.gemv(packed.data(), packed.size(), 1, weights.data(), 1, kCols, &out, 1);
  EXPECT_NEAR(out, expected, 1e-6 * products);
}

std::vector<WeightFormat> vnni_formats() {
  using enum WeightFormat;
  return {kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ2_K, kQ3_K, kQ4_K, kQ5_K, kQ6_K};
}
INSTANTIATE_TEST_SUITE_P(Formats, Vnni, ::testing::ValuesIn(vnni_formats()),
                         [](const auto& test) { return std::string(format_name(test.param)); });

}  // namespace
}  // namespace spillway
