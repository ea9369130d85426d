// What a plan predicts from a machine's rates.
#include "model/prediction.h"

#include <gtest/gtest.h>

#include "core/units.h"

namespace spillway {
namespace {

Placement reading(uint64_t nvme_bytes, uint64_t copied_bytes) {
  Placement placement;
  placement.nvme_bytes_per_pass = nvme_bytes;
  placement.copied_bytes_per_pass = copied_bytes;
  return placement;
}

constexpr MachineRates kRates{2e9, 10e9, 20e9, 100e9};
constexpr uint64_t kWeights = 4'000'000'000;

TEST(Prediction, IsTheSlowestStage) {
  const auto reads = predict_pass(reading(3e9, 4e9), kWeights, DType::kBF16, 1, kRates);
  EXPECT_DOUBLE_EQ(reads.read_seconds, 1.5);
  EXPECT_DOUBLE_EQ(reads.copy_seconds, 0.4);
  EXPECT_DOUBLE_EQ(reads.compute_seconds, 0.2);
  EXPECT_DOUBLE_EQ(reads.seconds, 1.5);
  EXPECT_EQ(reads.bottleneck, "NVMe");
  EXPECT_EQ(predict_pass(reading(1e8, 4e9), kWeights, DType::kBF16, 1, kRates).bottleneck,
            "copies");
  EXPECT_EQ(predict_pass(reading(0, 0), kWeights, DType::kBF16, 1, kRates).bottleneck, "compute");
}

/// Few rows cost what the weights cost, many what the arithmetic does.
TEST(Prediction, ComputeDependsOnRows) {
  const auto seconds = [](uint32_t rows, DType dtype) {
    return predict_pass(reading(0, 0), kWeights, dtype, rows, kRates).seconds;
  };
  EXPECT_DOUBLE_EQ(seconds(1, DType::kBF16), 0.2);
  EXPECT_DOUBLE_EQ(seconds(5, DType::kBF16), 0.2);
  EXPECT_DOUBLE_EQ(seconds(100, DType::kBF16), 2.0 * 100 * 2e9 / 100e9);
  EXPECT_DOUBLE_EQ(seconds(100, DType::kF32), 2.0 * 100 * 1e9 / 100e9);
}

TEST(Prediction, UnknownRatesCostNothing) {
  const auto pass = predict_pass(reading(3e9, 4e9), kWeights, DType::kBF16, 1, {2e9, 0, 20e9, 0});
  EXPECT_EQ(pass.copy_seconds, 0);
  EXPECT_DOUBLE_EQ(pass.seconds, 1.5);
}

}  // namespace
}  // namespace spillway
