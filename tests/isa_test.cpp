// The tables of instruction sets themselves, on weights that end where memory ends: behind them,
// and in front of them, lies a page that nobody may read.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <span>

#include "kernels/host/cpu_features.h"
#include "kernels/host/isa_kernels.h"
#include "tests/fenced.h"
#include "tests/support.h"

namespace spillway {
namespace {

using test::Fenced;
using test::kBothWays;

struct IsaCase {
  const char* name;
  Isa isa;
  const IsaKernels* kernels;
};

class IsaTest : public ::testing::TestWithParam<IsaCase> {
 protected:
  void SetUp() override {
    if (GetParam().isa > detect_isa()) GTEST_SKIP() << "this CPU lacks the instruction set";
  }
  const IsaKernels& isa() const { return *GetParam().kernels; }

  /// Widths with whole chunks of 256 values, without, and with a rest.
  static std::vector<uint32_t> widths(WeightFormat format) {
    if (!has_blocks(format)) return {1, 5, 64, 259};
    if (traits_of(format).block_values == 256) return {256, 1280};
    return {32, 224, 256, 544, 1024};
  }
  std::vector<float> random_floats(size_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& value : values) value = normal(random_);
    return values;
  }
  /// Random in every bit; scales are numbers, but of any size.
  std::vector<std::byte> wild_weights(WeightFormat format, uint64_t count) {
    std::vector<std::byte> bytes(row_bytes(format, count));
    std::vector<float> values(count);
    const FormatTraits& traits = traits_of(format);
    for (uint64_t i = 0; i < count; i += traits.block_values) {
      std::byte* block = &bytes[row_bytes(format, i)];
      do {
        for (uint32_t b = 0; b < traits.block_bytes; ++b) {
          block[b] = static_cast<std::byte>(random_());
        }
        decode_values(format, block, traits.block_values, &values[i]);
      } while (!std::all_of(&values[i], &values[i] + traits.block_values,
                            [](float value) { return std::isfinite(value); }));
    }
    return bytes;
  }

  uint64_t seed_ = test::run_seed();
  std::mt19937_64 random_{seed_};
  testing::ScopedTrace trace_{__FILE__, __LINE__, test::seed_note(seed_)};
};

TEST_P(IsaTest, ValuesHaveTheBitsOfTheReference) {
  for (const FormatTraits& traits : kFormats) {
    const auto format = static_cast<size_t>(traits.format);
    for (uint32_t count : widths(traits.format)) {
      count *= 3;
      const auto bytes = wild_weights(traits.format, count);
      std::vector<float> expected(count);
      decode_values(traits.format, bytes.data(), count, expected.data());
      for (const Fenced::Touches touches : kBothWays) {
        const Fenced weights(bytes, touches);
        std::vector<float> values(count, -1);
        isa().to_f32[format](weights.data(), values.data(), count);
        for (uint32_t i = 0; i < count; ++i) {
          ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), std::bit_cast<uint32_t>(expected[i]))
              << traits.name << " value " << i << ": " << values[i] << ", not " << expected[i];
        }
        if (!has_blocks(traits.format)) continue;
        std::vector<uint16_t> halves(count, 1);
        isa().to_bf16[format](weights.data(), halves.data(), count, 32);
        for (uint32_t i = 0; i < count; ++i) {
          ASSERT_EQ(halves[i], bf16_from_f32(expected[i])) << traits.name << " value " << i;
        }
      }
    }
  }
}

TEST_P(IsaTest, NumbersThatAreNoneStayNone) {
  for (const FormatTraits& traits : kFormats) {
    if (!has_blocks(traits.format)) continue;
    const uint32_t count = 256;
    for (const std::byte filling : {std::byte{0x7f}, std::byte{0xff}}) {
      const std::vector<std::byte> bytes(row_bytes(traits.format, count), filling);
      std::vector<float> expected(count);
      decode_values(traits.format, bytes.data(), count, expected.data());
      std::vector<float> values(count);
      std::vector<uint16_t> halves(count);
      isa().to_f32[static_cast<size_t>(traits.format)](bytes.data(), values.data(), count);
      isa().to_bf16[static_cast<size_t>(traits.format)](bytes.data(), halves.data(), count, 32);
      for (uint32_t i = 0; i < count; ++i) {
        ASSERT_EQ(std::isnan(values[i]), std::isnan(expected[i])) << traits.name << " " << i;
        ASSERT_EQ(std::isnan(f32_from_bf16(halves[i])), std::isnan(expected[i])) << traits.name;
      }
    }
  }
}

/// Against double sums of the reference's values; every count of rows gives the same bits, nothing
/// is read beside the weights, and nothing is written beside the results.
TEST_P(IsaTest, ProductsAreThoseOfTheReferenceForEveryCountOfRows) {
  for (const FormatTraits& traits : kFormats) {
    for (const uint32_t cols : widths(traits.format)) {
      for (const uint32_t w_rows : {1u, 2u, 3u, 4u, 9u}) {
        const auto bytes = test::random_weights(traits.format, uint64_t{w_rows} * cols, 1, random_);
        std::vector<float> values(size_t{w_rows} * cols);
        decode_values(traits.format, bytes.data(), values.size(), values.data());
        const size_t x_stride = cols + 3;
        const auto x = random_floats(4 * x_stride);
        std::vector<float> of_four;
        for (const Fenced::Touches touches : kBothWays) {
          const Fenced weights(bytes, touches);
          for (uint32_t rows = 4; rows > 0; --rows) {
            const size_t stride = w_rows + 1;
            std::vector<float> out(4 * stride, -77);
            isa().gemv[static_cast<size_t>(traits.format)](x.data(), x_stride, rows, weights.data(),
                                                           w_rows, cols, out.data(), stride);
            if (of_four.empty()) of_four = out;
            for (uint32_t r = 0; r < 4; ++r) {
              for (uint32_t n = 0; n < stride; ++n) {
                const bool inside = r < rows && n < w_rows;
                ASSERT_EQ(out[r * stride + n], inside ? of_four[r * stride + n] : -77)
                    << traits.name << " " << cols << "x" << w_rows << ", " << rows << " rows at "
                    << r << "," << n;
                if (!inside) continue;
                double sum = 0;
                double size = 0;
                for (uint32_t k = 0; k < cols; ++k) {
                  const double product = double{x[r * x_stride + k]} * values[n * cols + k];
                  sum += product;
                  size += std::abs(product);
                }
                ASSERT_NEAR(out[r * stride + n], sum, 3e-7 * size + 1e-30) << traits.name;
              }
            }
          }
        }
      }
    }
  }
}

/// From numbers that are their own tanh to those whose tanh is 1: two and a half units in the last
/// place of f32 were seen.
TEST_P(IsaTest, SoftCapIsWithinThreeUnitsInTheLastPlace) {
  constexpr size_t kCount = 300007;  // a rest behind the last whole vector
  std::vector<float> x(kCount);
  for (size_t i = 0; i < kCount; ++i) {
    const float size = std::exp2(-40.0f + 44.0f * static_cast<float>(i) / kCount);
    x[i] = i % 2 == 0 ? size : -size;
  }
  std::vector<float> capped = x;
  isa().soft_cap(capped.data(), kCount, 1.0f);
  for (size_t i = 0; i < kCount; ++i) {
    const double expected = std::tanh(double{x[i]});
    const double unit = std::ldexp(1.0, std::ilogb(static_cast<float>(expected)) - 23);
    ASSERT_LE(std::abs(capped[i] - expected), 3 * unit) << "tanh " << x[i];
    ASSERT_LE(std::abs(capped[i]), 1.0f);
  }
}

/// Each of its places is found, and nothing outside is read; NaN and what equals the bound are not
/// above it.
TEST_P(IsaTest, FirstAboveFindsTheFirst) {
  for (uint32_t count = 0; count < 200; ++count) {
    std::vector<float> values(count, 2.0f);
    for (float& value : values) value = random_() % 8 == 0 ? NAN : random_() % 2 == 0 ? 2 : -1;
    for (uint32_t at = 0; at <= count; at += 1 + static_cast<uint32_t>(random_() % 9)) {
      auto with = values;
      for (uint32_t i = at; i < count; ++i) {
        if (i == at || random_() % 3 == 0) with[i] = 2.5f;
      }
      for (const Fenced::Touches touches : kBothWays) {
        const Fenced fenced(std::as_bytes(std::span(with)), touches);
        const auto* x = reinterpret_cast<const float*>(fenced.data());
        ASSERT_EQ(isa().first_above(x, count, 2.0f), at) << count;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, IsaTest,
                         ::testing::Values(IsaCase{"baseline", Isa::kBaseline, &kBaselineKernels},
                                           IsaCase{"avx2", Isa::kAvx2, &kAvx2Kernels},
                                           IsaCase{"avx512", Isa::kAvx512, &kAvx512Kernels}),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace spillway
