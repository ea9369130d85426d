// What a plan predicts from a machine's rates.
#include "model/prediction.h"

#include <gtest/gtest.h>

#include "core/units.h"
#include "model/generate.h"
#include "model/score.h"
#include "tests/streamed_run.h"

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

TEST(Rates, StartsLieBetweenThoseMeasured) {
  MachineRates rates = some_rates();
  EXPECT_EQ(rates.start_seconds(1), 0) << "a profile that lacks them counts them in its rates";
  rates.matmuls = {{1, 20e9, 4e-6, 1e-9}, {5, 10e9, 8e-6, 5e-9}, {512, 1e9, 0}};
  EXPECT_DOUBLE_EQ(rates.start_seconds(0), 0);
  EXPECT_DOUBLE_EQ(rates.start_seconds(1), 4e-6);
  EXPECT_DOUBLE_EQ(rates.start_seconds(2), 5e-6);
  EXPECT_DOUBLE_EQ(rates.output_seconds(0), 0);
  EXPECT_DOUBLE_EQ(rates.output_seconds(2), 2e-9);
  EXPECT_DOUBLE_EQ(rates.start_seconds(5), 8e-6);
  EXPECT_DOUBLE_EQ(rates.start_seconds(5000), 0) << "the largest, whatever the rows";
}

TEST(Rates, ReadsOfAnyShape) {
  const MachineRates rates = {
      {{1 << 20, 2, 1e9}, {1 << 20, 8, 3e9}, {4 << 20, 2, 2e9}, {4 << 20, 8, 4e9}}, 0, {{1, 1e9}}};
  EXPECT_DOUBLE_EQ(rates.read_of(1 << 20, 8), 3e9);
  EXPECT_DOUBLE_EQ(rates.read_of(1 << 20, 4), 2e9) << "half way between 2 and 8";
  EXPECT_DOUBLE_EQ(rates.read_of(2 << 20, 8), 3.5e9);
  EXPECT_DOUBLE_EQ(rates.read_of(2 << 20, 4), 2.5e9);
  EXPECT_DOUBLE_EQ(rates.read_of(64 << 10, 1), 1e9) << "the nearest, not the best";
  EXPECT_DOUBLE_EQ(rates.read_of(16 << 20, 64), 4e9);
  EXPECT_DOUBLE_EQ(rates.best_read(), 4e9);
  EXPECT_DOUBLE_EQ(rates.read_latency(), 2 * (1 << 20) / 1e9);
}

TEST(Amount, OfPromptsAndNewTokens) {
  Workload workload;
  workload.sequences = {{5, 10}, {20, 4}};
  WorkAmount amount = work_amount(workload);
  EXPECT_EQ(amount.prompt_tokens, 25u);
  EXPECT_DOUBLE_EQ(amount.prompt_positions, (5 * 3.0 + 20 * 10.5) / 25);
  EXPECT_EQ(amount.decode_passes, 9u) << "the prompt's last row gives the first token";
  // 6 to 14 positions, and 21 to 23.
  EXPECT_DOUBLE_EQ(amount.decode_positions, (9 * 10.0 + 3 * 22.0) / 12);
  workload.sequences = {{5, 10, 8}};
  amount = work_amount(workload);
  EXPECT_EQ(amount.prompt_tokens, 13u) << "with those that are fed again";
  EXPECT_DOUBLE_EQ(amount.prompt_positions, (5 * 3.0 + 8 * 4.5) / 13);
  EXPECT_EQ(amount.decode_passes, 8u) << "and what is fed again another one";
  workload.sequences = {{15, 0}, {30, 0}};
  workload.scoring = true;
  amount = work_amount(workload);
  EXPECT_EQ(amount.prompt_tokens, 45u);
  EXPECT_EQ(amount.decode_passes, 0u);
}

/// Planned with rates that a test sets.
class Choosing : public test::StreamedRun {
 protected:
  ChosenPlan choose(const MachineRates& rates) {
    return choose_plan(config_, *model_, machine_, workload_, work_amount(workload_), rates);
  }
  static MachineRates rates(double small_reads) {
    return {{{kMiB, 8, 2e9}, {256 * kKiB, 32, small_reads}}, 0, {{1, 20e9}, {512, 1e9}}};
  }
};

TEST_F(Choosing, TakesWhatIsClearlyFaster) {
  const ChosenPlan faster = choose(rates(3e9));
  EXPECT_EQ(faster.plan.stream.chunk_bytes, 256 * kKiB);
  EXPECT_EQ(faster.plan.stream.io_depth, 32u);
  EXPECT_GT(faster.candidates, 2u);
  config_.stream_slots = 4;
  const ChosenPlan alike = choose(rates(2.02e9));
  EXPECT_EQ(alike.plan.stream.chunk_bytes, kMiB) << "a hundredth is noise";
}

TEST_F(Choosing, LeavesWhatIsConfigured) {
  config_.io_depth = 8;
  config_.io_chunk_bytes = kMiB;
  config_.stream_slots = 3;
  const ChosenPlan chosen = choose(rates(3e9));
  EXPECT_EQ(chosen.plan.stream.chunk_bytes, kMiB);
  EXPECT_EQ(chosen.plan.stream.placement.slots, 3u);
}

TEST_F(Choosing, HasNothingToChooseWhereNothingStreams) {
  config_.ram_bytes = kGiB;
  const ChosenPlan chosen = choose(rates(3e9));
  EXPECT_EQ(chosen.candidates, 1u);
  EXPECT_EQ(chosen.plan.stream.placement.nvme_bytes_per_pass, 0u);
}

/// A queue of half a millisecond runs dry when the feeder gets its turn late.
TEST_F(Choosing, KeepsTheQueueFullOnTheHost) {
  MachineRates shallow = rates(2e9);
  shallow.reads[1] = {256 * kKiB, 2, 5e9};
  EXPECT_EQ(choose(shallow).plan.stream.io_depth, 8u);
}

TEST_F(Choosing, PredictsTheBottleneckAndItsRate) {
  const ChosenPlan chosen = choose(rates(1e9));
  const auto decode = predict_pass(*model_, chosen.plan, true, decode_shape(workload_), rates(1e9));
  EXPECT_EQ(decode.bottleneck, "NVMe");
  EXPECT_NEAR(decode.nvme_bytes_per_second, 2e9, 0.1e9);
  MachineRates slow_cores = rates(1e9);
  slow_cores.matmuls[0].weight_bytes_per_second = 0.1e9;
  const auto computing =
      predict_pass(*model_, chosen.plan, true, decode_shape(workload_), slow_cores);
  EXPECT_EQ(computing.bottleneck, "compute");
  EXPECT_GE(computing.seconds, static_cast<double>(model_->weights.pass_bytes()) / 0.1e9);
}

/// Every operation is started once, whatever it has to do: seven matmuls and two norms a layer,
/// rotation, attention and activation beside them, and what the head does.
TEST_F(Choosing, CountsTheStartOfEveryOperation) {
  config_.ram_bytes = kGiB;
  const ChosenPlan chosen = choose(rates(1e9));
  const auto computing = [&](double start, double operation, uint32_t rows, double output = 0) {
    MachineRates costly = rates(1e9);
    for (RowRate& rate : costly.matmuls) {
      rate.start_seconds = start;
      rate.output_seconds = output;
    }
    costly.operation_seconds = operation;
    return predict_pass(*model_, chosen.plan, true, {rows, rows, 8, true}, costly).compute_seconds;
  };
  ASSERT_EQ(chosen.plan.stream.placement.nvme_bytes_per_pass, 0u);
  uint32_t tiles = 0;  // of matrices: neighbours in place are one
  uint64_t outputs = 0;
  for (const Unit& unit : chosen.plan.stream.units) {
    for (const Part& part : unit.parts) {
      const bool matrix = chosen.plan.stream.layers[unit.layer].tensors[part.tensor].rows > 1;
      tiles += matrix && part.first_row == 0 ? 1 : 0;
      outputs += matrix ? part.rows : 0;
    }
  }
  EXPECT_EQ(tiles, 6u * 7 + 1);
  const double nothing = computing(0, 0, 1);
  EXPECT_NEAR(computing(1e-3, 0, 1) - nothing, 1e-3 * (tiles + 6), 1e-9) << "and attention";
  EXPECT_NEAR(computing(0, 1e-3, 1) - nothing, 1e-3 * (6 * 4 + 4), 1e-9);
  EXPECT_NEAR(computing(1e-3, 0, 4) - computing(0, 0, 4), 1e-3 * (tiles + 4 * 6), 1e-9)
      << "each sequence attends by itself";
  EXPECT_NEAR(computing(0, 0, 1, 1e-6) - nothing, 1e-6 * static_cast<double>(outputs), 1e-9);
}

/// Where the host uses units in place, what is cut into several of them is still one matmul.
TEST_F(Choosing, CountsOneStartForNeighboursInPlace) {
  config_.stream_unit_bytes = 64 * kKiB;
  for (const PlacementPolicy policy : {PlacementPolicy::kAuto, PlacementPolicy::kNvme}) {
    config_.ram_bytes = kGiB;
    config_.policy = policy;
    const ChosenPlan chosen = choose(rates(1e9));
    const StreamPlan& stream = chosen.plan.stream;
    const bool in_place = policy == PlacementPolicy::kAuto;
    ASSERT_EQ(stream.placement.nvme_bytes_per_pass == 0, in_place);
    uint32_t matrices = 0;
    uint32_t tiles = 0;
    for (const Unit& unit : stream.units) {
      for (const Part& part : unit.parts) {
        if (stream.layers[unit.layer].tensors[part.tensor].rows == 1) continue;
        ++tiles;
        matrices += part.first_row == 0 ? 1 : 0;
      }
    }
    ASSERT_EQ(matrices, 6u * 7 + 1);
    ASSERT_GT(tiles, matrices + 6) << "matrices are cut";
    const auto computing = [&](double start) {
      MachineRates costly = rates(1e9);
      costly.matmuls[0].start_seconds = start;
      const PassShape shape{1, 1, 8, true};
      return predict_pass(*model_, chosen.plan, true, shape, costly).compute_seconds;
    };
    EXPECT_NEAR((computing(1e-3) - computing(0)) / 1e-3, (in_place ? matrices : tiles) + 6, 1e-3);
  }
}

/// Beyond what caches hold a byte costs few rows more, in proportion to how far beyond.
TEST_F(Choosing, CountsMemoryBeyondTheCaches) {
  config_.ram_bytes = kGiB;
  const ChosenPlan chosen = choose(rates(1e9));
  uint64_t memory_bytes = 0;
  uint64_t weight_bytes = 0;
  for (const Unit& unit : chosen.plan.stream.units) {
    memory_bytes += unit.home_bytes;
    weight_bytes += unit.bytes;
  }
  const auto more = [&](uint64_t usual_bytes, uint64_t bytes, uint32_t rows = 1) {
    MachineRates costly = rates(1e9);
    const PassShape shape{rows, rows, 10, true};
    const auto computing = [&] {
      return predict_pass(*model_, chosen.plan, true, shape, costly).compute_seconds;
    };
    const double usual = computing();
    costly.wide_memory = {usual_bytes, bytes, 1e-10};
    return (computing() - usual) / (1e-10 * static_cast<double>(weight_bytes));
  };
  EXPECT_NEAR(more(memory_bytes / 4, memory_bytes / 2), 1, 0.02);
  EXPECT_NEAR(more(memory_bytes / 4, memory_bytes), 1, 0.02);
  EXPECT_NEAR(more(memory_bytes / 2, 2 * memory_bytes), 0.5, 0.02);
  EXPECT_EQ(more(memory_bytes, 2 * memory_bytes), 0);
  EXPECT_NEAR(more(memory_bytes / 4, memory_bytes, 8), 1, 0.02);
  EXPECT_EQ(more(memory_bytes / 4, memory_bytes, 9), 0) << "hidden behind arithmetic";
}

/// A prompt's rows attend to what they see, and what goes over values once takes every row.
TEST_F(Choosing, CountsAttentionAndValuesOfPrompts) {
  config_.ram_bytes = kGiB;
  const ChosenPlan chosen = choose(rates(1e9));
  const auto computing = [&](double attention, double value, double positions, double score = 0,
                             double gated = 0) {
    MachineRates costly = rates(1e9);
    costly.attention_seconds = attention;
    costly.score_seconds = score;
    costly.value_seconds = value;
    costly.gated_seconds = gated;
    return predict_pass(*model_, chosen.plan, true, {64, 1, positions, false}, costly)
        .compute_seconds;
  };
  const ModelConfig& model = model_->config;
  const double each = 64.0 * model.layers * model.q_width() * 2;
  EXPECT_NEAR(computing(2e-9, 0, 30) - computing(1e-9, 0, 30), 1e-9 * 30 * each, 1e-9);
  EXPECT_NEAR(computing(1e-9, 0, 50) - computing(1e-9, 0, 30), 1e-9 * 20 * each, 1e-9);
  const double scores = 64.0 * 30 * model.layers * model.heads;
  EXPECT_NEAR(computing(1e-9, 0, 30, 1e-9) - computing(1e-9, 0, 30), 1e-9 * scores, 1e-9);
  const double values = 4.0 * model.hidden + 2.0 * model.q_width() + 2.0 * model.kv_width() +
                        2.0 * model.intermediate;
  EXPECT_NEAR(computing(0, 1e-9, 30) - computing(0, 0, 30), 1e-9 * 64 * model.layers * values,
              1e-9);
  EXPECT_NEAR(computing(0, 1e-9, 30, 0, 3e-9) - computing(0, 1e-9, 30),
              2e-9 * 64 * model.layers * model.intermediate, 1e-9)
      << "an activated value takes longer than another";
}

/// A prompt's layers take longer than their parts; its head and decode passes do not.
TEST_F(Choosing, CountsWhatLayersTakeBesideTheirParts) {
  config_.ram_bytes = kGiB;
  const ChosenPlan chosen = choose(rates(1e9));
  const auto computing = [&](double layer_share, PassShape shape, double outputs = 0) {
    MachineRates longer = rates(1e9);
    longer.layer_share = layer_share;
    longer.matmuls.back().output_seconds = outputs;
    return predict_pass(*model_, chosen.plan, true, shape, longer).compute_seconds;
  };
  const PassShape prompt{512, 0, 10, false};
  EXPECT_NEAR(computing(1.25, prompt) / computing(1, prompt), 1.25, 0.001);
  const PassShape with_head{512, 64, 10, false};
  EXPECT_NEAR(computing(1.25, with_head) - computing(1, with_head),
              computing(1.25, prompt) - computing(1, prompt), 1e-9);
  const PassShape half{260, 0, 10, false};
  EXPECT_NEAR(computing(1.25, half) / computing(1, half), 1.125, 0.001);
  for (const PassShape& shape : {PassShape{64, 64, 10, true}, PassShape{8, 1, 10, false}}) {
    EXPECT_EQ(computing(1.25, shape), computing(1, shape));
  }
}

/// Reading and computing share the memory: while both go on each is slower, and a pass takes what
/// the slower one then takes.
TEST_F(Choosing, CountsWhatReadingAndComputingCostEachOther) {
  const ChosenPlan chosen = choose(rates(1e9));
  const PassShape shape = decode_shape(workload_);
  const auto alone = predict_pass(*model_, chosen.plan, true, shape, rates(1e9));
  MachineRates shared = rates(1e9);
  shared.matmuls[0].beside_reads = 5e9;
  shared.matmuls[0].read_share = 1;
  const auto slower = predict_pass(*model_, chosen.plan, true, shape, shared);
  EXPECT_NEAR(slower.seconds / alone.seconds, 1, 0.02) << "still hidden behind the reads";
  EXPECT_NEAR(slower.compute_seconds / alone.compute_seconds, 4, 0.2);
  shared.matmuls[0].read_share = 0.8;
  const auto both = predict_pass(*model_, chosen.plan, true, shape, shared);
  // The drive gives a fifth less for as long as there is something to compute.
  const double longer = both.compute_seconds * 0.2;
  EXPECT_NEAR(both.read_seconds, alone.read_seconds + longer, 0.05 * alone.read_seconds);
  EXPECT_NEAR(both.seconds, alone.seconds + longer, 0.05 * alone.seconds);
  // Where computing is the limit it is slower as long as there is something to read.
  MachineRates slow_cores = rates(1e9);
  slow_cores.matmuls[0].weight_bytes_per_second = 0.5e9;
  const auto computing = predict_pass(*model_, chosen.plan, true, shape, slow_cores);
  slow_cores.matmuls[0].beside_reads = 0.25e9;
  slow_cores.matmuls[0].read_share = 1;
  const auto beside = predict_pass(*model_, chosen.plan, true, shape, slow_cores);
  EXPECT_NEAR(beside.seconds, computing.seconds + computing.read_seconds / 2,
              0.05 * computing.seconds);
}

/// A context that ends soon ends the work soon.
TEST_F(Choosing, CountsTokensThatTheContextAllows) {
  config_.max_new_tokens = 1'000'000;
  workload_ = generation_workload(config_, *model_, {{"", {1, 2, 3}}});
  EXPECT_EQ(work_amount(workload_).decode_passes, model_->config.context - 3 - 1);
}

/// Rows of the input embeddings that are read one by one take time and bytes of every pass.
TEST_F(Choosing, CountsTheGatherOfEmbeddingRows) {
  const ChosenPlan chosen = choose(rates(1e9));
  ASSERT_EQ(chosen.plan.stream.placement.embed_tier, Tier::kNvme);
  const RowGather one = gather_of(*model_, chosen.plan.stream, 1, rates(1e9));
  EXPECT_DOUBLE_EQ(one.seconds, rates(1e9).read_latency() + static_cast<double>(one.bytes) / 2e9);
  EXPECT_GE(one.bytes, 1024u);
  const RowGather many = gather_of(*model_, chosen.plan.stream, 2 * RowSource::kDepth, rates(1e9));
  EXPECT_EQ(many.bytes, 2 * RowSource::kDepth * one.bytes);
  EXPECT_EQ(many.waves, 2u);
  EXPECT_GT(many.seconds, 2 * rates(1e9).read_latency());
  RunPlan resident = chosen.plan;
  resident.stream.placement.embed_tier = Tier::kRam;
  EXPECT_EQ(gather_of(*model_, resident.stream, 64, rates(1e9)).bytes, 0u);
  const PassShape shape = decode_shape(workload_);
  const auto with = predict_pass(*model_, chosen.plan, true, shape, rates(1e9));
  const auto without = predict_pass(*model_, resident, true, shape, rates(1e9));
  EXPECT_NEAR(with.read_seconds - without.read_seconds, static_cast<double>(one.bytes) / 2e9, 1e-9);
  EXPECT_GT(with.seconds, without.seconds);
}

/// Texts that are scored: a drive that is slower than a chunk computes is read once for many.
TEST_F(Choosing, TakesSweepsWhereTheDriveIsSlow) {
  config_.score_chunk_tokens = 32;
  const std::vector<std::vector<uint32_t>> texts(64, std::vector<uint32_t>(32, 7));
  const Workload scoring = scoring_workload(config_, *model_, texts);
  const auto chosen = [&](double reads) {
    const MachineRates slow{{{kMiB, 8, reads}}, 0, {{1, 20e9}, {512, 1e9}}};
    return choose_plan(config_, *model_, machine_, scoring, work_amount(scoring), slow);
  };
  EXPECT_EQ(chosen(1e12).plan.limits.sweep_rows, 0u) << "a chunk hides the drive";
  const ChosenPlan sweeps = chosen(0.05e9);
  EXPECT_GE(sweeps.plan.limits.sweep_rows, 512u);
  EXPECT_EQ(sweeps.prompt_rows, sweeps.plan.limits.sweep_rows);
  EXPECT_EQ(sweeps.config.score_sweep_tokens, sweeps.plan.limits.sweep_rows);
  config_.score_sweep_tokens = 1;
  EXPECT_EQ(chosen(0.05e9).plan.limits.sweep_rows, 0u) << "as it is configured";
}

/// A budget that leaves room for few hidden states makes short sweeps, which read the weights
/// often; those on the drive are a fraction of that. Where nothing is gained nothing is spilled.
TEST_F(Choosing, SpillsWhereThatIsClearlyFaster) {
  const test::TempDir spill;
  config_.score_chunk_tokens = 32;
  config_.score_spill_dir = spill.path();
  config_.policy = PlacementPolicy::kNvme;
  const std::vector<std::vector<uint32_t>> texts(600, std::vector<uint32_t>(32, 7));
  const Workload scoring = scoring_workload(config_, *model_, texts);
  config_.ram_bytes = 0;
  config_.score_sweep_tokens = 64;
  const auto found = find_plan(config_, *model_, machine_, scoring);
  config_.ram_bytes = std::get<Refusal>(found).needed_bytes;
  config_.score_sweep_tokens.reset();
  const auto chosen = [&](double reads) {
    const MachineRates slow{{{kMiB, 8, reads}}, 0, {{1, 20e9}, {512, 1e9}}};
    return choose_plan(config_, *model_, machine_, scoring, work_amount(scoring), slow);
  };
  const ChosenPlan spilled = chosen(0.05e9);
  EXPECT_GT(spilled.plan.spill.file_bytes, 0u);
  EXPECT_GT(spilled.plan.limits.sweep_rows, 4096u);
  EXPECT_EQ(spilled.config.score_spill, SpillChoice::kAlways);
  EXPECT_LE(spilled.plan.stream.placement.ram_planned_bytes, *config_.ram_bytes);
  config_.score_spill = SpillChoice::kNever;
  const ChosenPlan in_memory = chosen(0.05e9);
  EXPECT_EQ(in_memory.plan.spill.file_bytes, 0u);
  const auto seconds = [](const ChosenPlan& of) { return of.prompt.seconds / of.prompt_rows; };
  EXPECT_LT(seconds(spilled), 0.95 * seconds(in_memory));
  config_.score_spill = SpillChoice::kAuto;
  EXPECT_EQ(chosen(1e12).plan.spill.file_bytes, 0u) << "a chunk hides the drive";
  config_.score_spill_dir = "/nowhere/x";
  EXPECT_EQ(chosen(0.05e9).plan.limits.sweep_rows, in_memory.plan.limits.sweep_rows) << "no room";
  config_.score_spill_dir = spill.path();
  config_.ram_bytes = kGiB;
  EXPECT_EQ(chosen(0.05e9).plan.spill.file_bytes, 0u) << "memory is faster, where there is some";
}

/// Texts that do not fill chunks and sweeps that are no power of two: what is predicted is what
/// will be done.
TEST_F(Choosing, CountsSweepsAsTextsFillThem) {
  config_.score_chunk_tokens = 32;
  const std::vector<std::vector<uint32_t>> texts(100, std::vector<uint32_t>(20, 7));
  const Workload scoring = scoring_workload(config_, *model_, texts);
  const MachineRates slow{{{kMiB, 8, 0.05e9}}, 0, {{1, 20e9}, {512, 1e9}}};
  const WorkAmount amount = work_amount(scoring);
  const ChosenPlan all = choose_plan(config_, *model_, machine_, scoring, amount, slow);
  const PassCounts counts =
      scoring.pass_counts(all.plan.limits.max_rows, all.plan.limits.sweep_rows);
  EXPECT_EQ(counts.passes, 1u) << "one read of the weights serves all";
  EXPECT_EQ(all.prompt_rows, 2000u);
  EXPECT_EQ(all.chunk_rows, 20u) << "a text fills a chunk";
  config_.score_sweep_tokens = 320;  // 16 texts, and 4 in the last of 7
  const RunPlan plan = plan_run(config_, *model_, machine_, scoring);
  const PassShape shape = prompt_shape(plan, scoring, amount);
  EXPECT_EQ(shape.passes, 7u);
  EXPECT_EQ(shape.batches, 16u);
  EXPECT_EQ(shape.last_batches, 4u);
}

/// More slots must not be bought with a smaller prompt chunk, which rounds otherwise.
TEST_F(Choosing, ChangesNoBits) {
  workload_ = generation_workload(config_, *model_, {{"", std::vector<uint32_t>(400, 7)}});
  for (uint64_t budget = 20; budget < 60; budget += 2) {
    config_.ram_bytes = budget * kMiB;
    const auto found = find_plan(config_, *model_, machine_, workload_);
    const auto* plan = std::get_if<RunPlan>(&found);
    if (plan == nullptr) continue;
    EXPECT_EQ(choose(rates(3e9)).plan.limits.max_rows, plan->limits.max_rows) << budget;
  }
}

}  // namespace
}  // namespace spillway
