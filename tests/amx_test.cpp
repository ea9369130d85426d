// Products on AMX tiles alone: for every rest of rows and columns the result of plain loops, whose
// bits depend on nothing but the two rows.
#include "kernels/host/amx.h"

#include <cmath>
#include <cstring>

#include "core/buffer.h"
#include "core/units.h"
#include "kernels/host/cpu_features.h"
#include "tests/support.h"

namespace spillway {
namespace {

constexpr float kUntouched = -77;

class AmxTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!allowed_amx()) GTEST_SKIP() << "this CPU or this system has no AMX";
  }
  static float bf16(float value) { return f32_from_bf16(bf16_from_f32(value)); }

  /// All blocks and slices of weights, of `slice` rows each.
  std::vector<float> multiply(WeightFormat format, const std::vector<std::byte>& weights,
                              uint32_t w_rows, const std::vector<float>& x, uint32_t rows,
                              uint32_t cols, uint32_t slice) {
    HugeBuffer packed(amx_input_bytes(rows, cols));
    HugeBuffer scratch(amx_scratch_bytes());
    std::memset(packed.data(), 0xff, packed.bytes());
    std::memset(scratch.data(), 0xff, scratch.bytes());
    for (uint32_t group = 0; group < ceil_div(rows, kAmxGroupRows); ++group) {
      amx_pack_input(x.data(), rows, cols, group, packed.data());
    }
    const uint32_t stride = w_rows + 3;
    std::vector<float> out(size_t{rows} * stride, kUntouched);
    for (uint32_t first = 0; first < w_rows; first += slice) {
      const AmxWeights some{weights.data() + first * row_bytes(format, cols),
                            kAvx512Kernels.to_bf16[static_cast<size_t>(format)],
                            row_bytes(format, cols), row_bytes(format, kAmxPartCols),
                            std::min(slice, w_rows - first)};
      for (uint32_t row = 0; row < rows; row += kAmxBlockRows) {
        amx_product(some, packed.data() + amx_block_offset(row / kAmxBlockRows, cols),
                    std::min(kAmxBlockRows, rows - row), cols,
                    out.data() + size_t{row} * stride + first, stride, scratch.data());
      }
    }
    return out;
  }

  std::vector<float> random_floats(size_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& value : values) value = normal(random_);
    return values;
  }

  uint64_t seed_ = test::run_seed();
  std::mt19937_64 random_{seed_};
  testing::ScopedTrace trace_{__FILE__, __LINE__, test::seed_note(seed_)};
};

TEST_F(AmxTest, ProductsOfEveryRest) {
  for (const WeightFormat format :
       {WeightFormat::kBF16, WeightFormat::kQ8_0, WeightFormat::kQ4_K}) {
    for (const uint32_t rows : {1u, 15u, 16u, 17u, 33u, 48u, 530u}) {
      for (const uint32_t wanted : {1u, 31u, 96u, 256u, 289u, 777u}) {
        const auto cols = static_cast<uint32_t>(align_up(wanted, traits_of(format).block_values));
        const uint32_t w_rows = 1 + static_cast<uint32_t>(random_() % 130);
        const auto weights = test::random_weights(format, uint64_t{w_rows} * cols, 1, random_);
        std::vector<float> values(size_t{w_rows} * cols);
        decode_values(format, weights.data(), values.size(), values.data());
        const auto x = random_floats(size_t{rows} * cols);
        const auto out = multiply(format, weights, w_rows, x, rows, cols, 64);
        for (int i = 0; i < 300; ++i) {
          const auto r = static_cast<uint32_t>(random_() % rows);
          const auto n = static_cast<uint32_t>(random_() % w_rows);
          double sum = 0;
          double size = 1e-30;
          for (uint32_t k = 0; k < cols; ++k) {
            const double product =
                double{bf16(x[size_t{r} * cols + k])} * bf16(values[size_t{n} * cols + k]);
            sum += product;
            size += std::abs(product);
          }
          ASSERT_NEAR(out[size_t{r} * (w_rows + 3) + n], sum, 1e-6 * size)
              << format_name(format) << " " << rows << "x" << cols << " by " << w_rows;
        }
        for (uint32_t r = 0; r < rows; ++r) {
          for (uint32_t n = w_rows; n < w_rows + 3; ++n) {
            ASSERT_EQ(out[size_t{r} * (w_rows + 3) + n], kUntouched);
          }
        }
      }
    }
  }
}

TEST_F(AmxTest, BitsDependOnTheTwoRowsAlone) {
  const uint32_t rows = 600;
  const uint32_t cols = 544;
  const uint32_t w_rows = 300;
  const auto weights =
      test::random_weights(WeightFormat::kBF16, uint64_t{w_rows} * cols, 1, random_);
  const auto x = random_floats(size_t{rows} * cols);
  const auto all = multiply(WeightFormat::kBF16, weights, w_rows, x, rows, cols, kAmxWeightRows);
  EXPECT_EQ(all, multiply(WeightFormat::kBF16, weights, w_rows, x, rows, cols, 64));
  for (const uint32_t row : {0u, 31u, 511u, 512u, 599u}) {
    const std::vector<float> one(x.begin() + row * cols, x.begin() + (row + 1) * cols);
    const auto alone = multiply(WeightFormat::kBF16, weights, w_rows, one, 1, cols, 32);
    EXPECT_EQ(alone, std::vector<float>(all.begin() + row * (w_rows + 3),
                                        all.begin() + (row + 1) * (w_rows + 3)));
  }
}

}  // namespace
}  // namespace spillway
