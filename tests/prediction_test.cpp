// What a plan predicts from a machine's rates.
#include "model/prediction.h"

#include <gtest/gtest.h>

namespace spillway {
namespace {

MachineRates some_rates() {
  return {{{1 << 20, 8, 3e9}, {4 << 20, 8, 2e9}}, 10e9, {{1, 20e9}, {16, 10e9}, {512, 1e9}}};
}

TEST(Rates, BetweenMeasuredRowsInProportion) {
  const MachineRates rates = some_rates();
  EXPECT_DOUBLE_EQ(rates.seconds_per_byte(0), 0);
  EXPECT_DOUBLE_EQ(rates.seconds_per_byte(1), 1 / 20e9);
  EXPECT_DOUBLE_EQ(rates.seconds_per_byte(16), 1 / 10e9);
  EXPECT_NEAR(rates.seconds_per_byte(8), 1 / 20e9 + 7.0 / 15 * (1 / 10e9 - 1 / 20e9), 1e-18);
  EXPECT_DOUBLE_EQ(rates.seconds_per_byte(1024), 2 / 1e9) << "beyond the largest with the rows";
}

TEST(Rates, ReadsAsThePlanMakesThem) {
  const MachineRates rates = some_rates();
  StreamPlan plan;
  plan.chunk_bytes = 4 << 20;
  plan.io_depth = 8;
  EXPECT_DOUBLE_EQ(rates.read_of(plan), 2e9);
  plan.io_depth = 5;
  EXPECT_DOUBLE_EQ(rates.read_of(plan), 3e9) << "a shape that was not measured: the best";
  EXPECT_DOUBLE_EQ(rates.best_read(), 3e9);
}

TEST(Amount, OfPromptsAndNewTokens) {
  Config config;
  config.max_new_tokens = 10;
  Workload workload;
  workload.kv_lengths = {15, 30};
  EXPECT_EQ(work_amount(config, workload).prompt_tokens, 25u);
  EXPECT_EQ(work_amount(config, workload).new_tokens, 10u);
  workload.scoring = true;
  EXPECT_EQ(work_amount(config, workload).prompt_tokens, 45u);
  EXPECT_EQ(work_amount(config, workload).new_tokens, 0u);
}

}  // namespace
}  // namespace spillway
