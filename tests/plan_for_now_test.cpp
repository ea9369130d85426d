// What a run says of speed: drive and cores looked at before it plans, predicted beside measured.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/plan_for_now.h"
#include "cli/predicted.h"
#include "core/error.h"
#include "core/units.h"
#include "model/generate.h"
#include "tests/sim/paced_disk.h"
#include "tests/streamed_run.h"

namespace spillway {
namespace {

/// A profile of a drive of 2 GB/s, and a disk that gives what it wants.
class Looking : public test::StreamedRun {
 protected:
  void SetUp() override {
    StreamedRun::SetUp();
    if (!model_->checkpoint.direct()) GTEST_SKIP() << "the temporary folder refuses direct reads";
    readers_.name = "paced";
    readers_.make = [&](uint32_t depth) { return std::make_unique<test::PacedDisk>(depth, pace_); };
    keep_profile({});
  }
  /// As probe would have, and what it gives a run.
  void keep_profile(std::vector<DriveReading> history) {
    HardwareProfile profile;
    profile.measured_at = "2026-01-02T03:04:05Z";
    profile.read_engine = "paced";
    profile.reads = {{{kMiB, 8, true}, 2e9}};
    profile.history = std::move(history);
    test::write_file(dir_ / "p.json", profile_json(profile).dump());
    known_.probed = {{{kMiB, 8, 2e9}}, 0, {{1, 20e9}, {512, 1e9}}};
    known_.rates = known_.probed;
    known_.measured_at = known_.drive_measured_at = profile.measured_at;
    known_.read_engine = "paced";
    known_.file = dir_ / "p.json";
  }
  PlannedRun plan() {
    return plan_for_now(known_, config_, *model_, machine_, workload_,
                        {&readers_, &pace_.clock, &stop_, notices_.sink(), matmuls_});
  }
  void ask_a_long_prompt() {
    workload_ = generation_workload(config_, *model_, {{"", std::vector<uint32_t>(100, 1)}});
  }
  /// Cores that are `few` times as fast with one row as probe saw them, `many` times with more.
  MatmulTimer cores(double few, double many) {
    return [=, this](const MatmulsToTime& matmuls) {
      looked_at_.push_back(matmuls);
      std::vector<TimedCall> calls;
      for (const uint32_t rows : matmuls.rows) {
        const double rate = rows == 1 ? few * 20e9 : many * 1e9;
        calls.push_back({4 * kMiB, 4 * kMiB / rate, 8 * kMiB / rate, 99, 512});
      }
      return calls;
    };
  }
  std::vector<DriveReading> history() const { return read_profile(dir_ / "p.json")->history; }

  test::Pace pace_;
  ReaderChoice readers_;
  StopFlag stop_;
  test::Notices notices_;
  KnownRates known_;
  MatmulTimer matmuls_;
  std::vector<MatmulsToTime> looked_at_;
};

TEST_F(Looking, ASlowerDriveIsSaidPlannedWithAndKept) {
  pace_.bytes_per_second = 1e9;
  const PlannedRun planned = plan();
  ASSERT_TRUE(planned.forecast.has_value());
  EXPECT_NEAR(planned.forecast->drive_rate / 1e9, 1, 1e-3);
  EXPECT_NEAR(planned.forecast->drive_change, 0.5, 1e-3);
  EXPECT_EQ(planned.forecast->decode.bottleneck, "NVMe");
  ASSERT_EQ(notices_.lines.size(), 1u);
  for (const char* word : {"1.00 GB/s now", "2.00", "2026-01-02T03:04:05Z", "planned with 1.00"}) {
    EXPECT_NE(notices_.lines[0].find(word), std::string::npos) << notices_.lines[0];
  }
  ASSERT_EQ(history().size(), 2u);
  EXPECT_EQ(history()[0].sample.bytes_per_second, 2e9);
  EXPECT_NEAR(history()[1].sample.bytes_per_second / 1e9, 1, 1e-3);
  EXPECT_EQ(history()[1].sample.shape.chunk_bytes, planned.plan.stream.chunk_bytes);
  EXPECT_LT(seconds(pace_.clock.now_ns()), 0.34) << "a run begins at once";
  EXPECT_FALSE(stop_.watched());
}

TEST_F(Looking, NoiseIsNoNews) {
  pace_.bytes_per_second = 1.9e9;
  const PlannedRun planned = plan();
  EXPECT_EQ(planned.forecast->drive_rate, 2e9);
  EXPECT_TRUE(notices_.lines.empty());
  EXPECT_TRUE(history().empty());
  EXPECT_EQ(pace_.readers, 1u);
}

/// What an earlier run found is no news either, but still not what probe measured.
TEST_F(Looking, WhatIsKnownIsSaidAgainAndRefreshed) {
  keep_profile({{known_.measured_at, {{kMiB, 8, true}, 2e9}},
                {"2026-01-02T04:00:00Z", {{kMiB, 8, true}, 1e9}}});
  known_.take_drive_change(0.5, "2026-01-02T04:00:00Z");
  pace_.bytes_per_second = 1.02e9;
  EXPECT_EQ(plan().forecast->drive_rate, 1e9);
  ASSERT_EQ(notices_.lines.size(), 1u);
  EXPECT_TRUE(
      notices_.lines[0].ends_with("planned with 1.00, which a run found (2026-01-02T04:00:00Z)"))
      << notices_.lines[0];
  ASSERT_EQ(history().size(), 2u);
  EXPECT_NE(history()[1].measured_at, "2026-01-02T04:00:00Z");
  // And when the neighbour is gone, that is news that needs no words.
  notices_.lines.clear();
  pace_.bytes_per_second = 2e9;
  EXPECT_NEAR(plan().forecast->drive_rate / 1e9, 2, 1e-3);
  EXPECT_TRUE(notices_.lines.empty());
  EXPECT_EQ(history().size(), 3u);
}

/// Long reads gave half of short ones: what is planned with is what the plan counts on.
TEST_F(Looking, WhatIsSaidIsWhatIsPlannedWith) {
  known_.sustained_share = 0.5;
  pace_.bytes_per_second = 3e9;
  const PlannedRun planned = plan();
  ASSERT_EQ(notices_.lines.size(), 1u);
  const std::string used = fmt::format("planned with {:.2f}", planned.forecast->drive_rate / 1e9);
  EXPECT_NE(notices_.lines[0].find(used), std::string::npos) << notices_.lines[0] << ", " << used;
  EXPECT_NEAR(planned.forecast->drive_rate / 1e9, 1.5, 1e-3);
}

TEST_F(Looking, ACacheThatCannotBeWrittenIsNoError) {
  known_.file = dir_ / "none/p.json";
  pace_.bytes_per_second = 1e9;
  EXPECT_NEAR(plan().forecast->drive_rate / 1e9, 1, 1e-3);
  ASSERT_EQ(notices_.lines.size(), 1u);
  EXPECT_NE(notices_.lines[0].find("plan will not know"), std::string::npos) << notices_.lines[0];
}

TEST_F(Looking, NothingIsReadWhereNothingIsToBeLearned) {
  config_.ram_bytes = kGiB;
  EXPECT_EQ(plan().plan.stream.placement.nvme_bytes_per_pass, 0u);
  config_.ram_bytes = 40 * kMiB;
  readers_.name = "pread";  // probe read otherwise: its figures are for another way
  plan();
  config_.io_engine = EngineChoice::kMmap;
  plan();
  config_.io_engine = EngineChoice::kAuto;
  plan_for_now(std::nullopt, config_, *model_, machine_, workload_,
               {&readers_, &pace_.clock, &stop_, notices_.sink(), matmuls_});
  EXPECT_EQ(pace_.readers, 0u);
  EXPECT_TRUE(notices_.lines.empty());
}

TEST_F(Looking, ReadsAsTheRunWill) {
  config_.io_chunk_bytes = 256 * kKiB;
  config_.io_depth = 2;
  config_.io_register_buffers = false;
  config_.stream_slots = 3;
  plan();
  EXPECT_EQ(pace_.depth, 2u);
  EXPECT_EQ(pace_.registered, 0u);
  ASSERT_GT(pace_.offsets.size(), 2u);
  EXPECT_EQ(pace_.offsets[1] - pace_.offsets[0], 256 * kKiB);
  config_.io_depth = 64;
  const PlannedRun deep = plan();
  const Placement& placement = deep.plan.stream.placement;
  EXPECT_LE(pace_.depth * 256 * kKiB, placement.slots * placement.slot_bytes) << "the budget";
}

TEST_F(Looking, ADriveThatDoesNotAnswerHoldsNobodyUp) {
  pace_.hangs = true;
  EXPECT_EQ(plan().forecast->drive_rate, 2e9);
  EXPECT_LT(seconds(pace_.clock.now_ns()), 0.34);
}

/// What was never read may lie where the host fetches it from, once.
TEST_F(Looking, ADriveThatOnlyFetchesIsLookedAtAgain) {
  config_.io_chunk_bytes = 256 * kKiB;
  config_.io_depth = 2;
  pace_.bytes_per_second = 2e9;
  pace_.new_bytes_per_second = 0.02e9;  // the first look gets through a small part of the file
  EXPECT_EQ(plan().forecast->drive_rate, 2e9);
  EXPECT_EQ(pace_.readers, 2u);
  EXPECT_LT(pace_.seen.size() * 256 * kKiB, 8 * kMiB);
  ASSERT_EQ(notices_.lines.size(), 1u);
  EXPECT_NE(notices_.lines[0].find("0.02 GB/s of what was not read lately, and 2.00 of the same"),
            std::string::npos)
      << notices_.lines[0];
  EXPECT_TRUE(history().empty());
  notices_.lines.clear();
  pace_.bytes_per_second = 0.5e9;  // slow the second time as well: it is the drive
  pace_.new_bytes_per_second = 0;
  EXPECT_NEAR(plan().forecast->drive_rate / 1e9, 0.5, 1e-2);
  EXPECT_EQ(pace_.readers, 4u);
  EXPECT_EQ(notices_.lines.size(), 1u);
  EXPECT_LT(seconds(pace_.clock.now_ns()), 4 * 0.34);
}

TEST_F(Looking, CoresAsProbeSawThemAreNoNews) {
  pace_.bytes_per_second = 2e9;
  ask_a_long_prompt();
  matmuls_ = cores(1.05, 0.95);
  const double usual = plan().forecast->decode.compute_seconds;
  EXPECT_TRUE(notices_.lines.empty());
  ASSERT_EQ(looked_at_.size(), 1u);
  EXPECT_EQ(looked_at_[0].rows, (std::vector<uint32_t>{1, 512})) << "nearest to the prompt's";
  EXPECT_EQ(looked_at_[0].format, known_.format);
  EXPECT_EQ(looked_at_[0].memory_bytes, *config_.ram_bytes / 2) << "the budget";
  matmuls_ = nullptr;
  EXPECT_EQ(plan().forecast->decode.compute_seconds, usual);
}

TEST_F(Looking, SlowerCoresAreSaidAndPlannedWith) {
  config_.ram_bytes = kGiB;  // nothing is read
  ask_a_long_prompt();
  const double usual = plan().forecast->decode.compute_seconds;
  const double usual_prompt = plan().forecast->prompt.compute_seconds;
  matmuls_ = cores(0.5, 0.96);
  const PlannedRun planned = plan();
  EXPECT_NEAR(planned.forecast->decode.compute_seconds / usual, 2, 0.01);
  EXPECT_NEAR(planned.forecast->prompt.compute_seconds / usual_prompt, 1.2, 0.2) << "in between";
  ASSERT_EQ(notices_.lines.size(), 1u);
  EXPECT_EQ(notices_.lines[0],
            "this run multiplies 0.50 times as fast (1 row), 0.96 times as fast (512 rows) as "
            "spillway probe did (2026-01-02T03:04:05Z): planned with that");
  EXPECT_TRUE(history().empty()) << "it is gone too soon to be kept";
}

TEST_F(Looking, CoresThatCannotBeTimedAreAsTheyWere) {
  config_.ram_bytes = kGiB;
  ask_a_long_prompt();
  const Forecast usual = *plan().forecast;
  const auto timed = [](uint64_t few_calls, uint64_t many_calls) {
    return [=](const MatmulsToTime&) {
      return std::vector<TimedCall>{{4 * kMiB, 1, 1, few_calls, 512}, {4 * kMiB, 1, 1, many_calls}};
    };
  };
  for (const MatmulTimer& timer : {MatmulTimer(timed(0, 2)), MatmulTimer([](const MatmulsToTime&) {
                                     throw Error("no room");
                                     return std::vector<TimedCall>();
                                   })}) {
    matmuls_ = timer;
    EXPECT_EQ(plan().forecast->decode.compute_seconds, usual.decode.compute_seconds);
    EXPECT_EQ(plan().forecast->prompt.compute_seconds, usual.prompt.compute_seconds);
  }
  ASSERT_EQ(notices_.lines.size(), 2u);
  EXPECT_EQ(notices_.lines[0], "the cores' rate could not be measured: no room");
}

/// One call of ten may take ten times as long: of few calls the middle one counts, and what was not
/// timed does not follow what was.
TEST_F(Looking, FewCallsAreWeighedWithCare) {
  config_.ram_bytes = kGiB;
  ask_a_long_prompt();
  const double usual = plan().forecast->prompt.compute_seconds;
  matmuls_ = [](const MatmulsToTime&) {
    const double few = 4 * kMiB / 20e9;
    const double many = 4 * kMiB / 1e9;
    return std::vector<TimedCall>{{4 * kMiB, 9 * few, few, 9, 512}, {4 * kMiB, 9 * many, many, 5}};
  };
  EXPECT_EQ(plan().forecast->prompt.compute_seconds, usual);
  EXPECT_TRUE(notices_.lines.empty());
}

/// A neighbour's burst is over before the run is: of what seems far too slow three looks are taken.
TEST_F(Looking, ABurstOnTheCoresIsNoNews) {
  config_.ram_bytes = kGiB;
  ask_a_long_prompt();
  const double usual = plan().forecast->prompt.compute_seconds;
  for (const size_t burst : {0, 1, 2}) {
    looked_at_.clear();
    matmuls_ = [=, this](const MatmulsToTime& matmuls) {
      const bool slow = looked_at_.empty() || looked_at_.size() == burst;
      return cores(1, slow ? 0.2 : 1)(matmuls);
    };
    // Slow at first and once more is slow; at first alone is not.
    const double seconds = plan().forecast->prompt.compute_seconds;
    EXPECT_EQ(seconds > 2 * usual, burst > 0) << burst;
    ASSERT_EQ(looked_at_.size(), burst == 1 ? 2u : 3u) << "two that agree are enough";
    EXPECT_EQ(looked_at_[0].rows, (std::vector<uint32_t>{1, 512}));
    EXPECT_EQ(looked_at_[1].rows, (std::vector<uint32_t>{512})) << "what was fast is known";
    EXPECT_EQ(notices_.lines.size(), burst);
  }
}

/// A look again that fails takes nothing from the first.
TEST_F(Looking, AFailureAfterABurstLosesNothing) {
  config_.ram_bytes = kGiB;
  ask_a_long_prompt();
  const double usual = plan().forecast->prompt.compute_seconds;
  matmuls_ = [this](const MatmulsToTime& matmuls) {
    if (!looked_at_.empty()) throw Error("no room");
    return cores(1, 0.2)(matmuls);
  };
  EXPECT_GT(plan().forecast->prompt.compute_seconds, 2 * usual);
}

/// Two looks that differ, and no third: the faster one may be all there is.
TEST_F(Looking, AFailureAfterTwoTakesTheFaster) {
  config_.ram_bytes = kGiB;
  ask_a_long_prompt();
  const double usual = plan().forecast->prompt.compute_seconds;
  matmuls_ = [this](const MatmulsToTime& matmuls) {
    if (looked_at_.size() == 2) throw Error("no room");
    return cores(1, looked_at_.empty() ? 0.5 : 0.1)(matmuls);
  };
  const double seconds = plan().forecast->prompt.compute_seconds;
  EXPECT_EQ(looked_at_.size(), 2u);
  EXPECT_GT(seconds, 1.5 * usual);
  EXPECT_LT(seconds, 3 * usual);
}

/// A look leaves nothing behind that a run would feel.
TEST_F(Looking, ARunAfterItGivesTheSameTokens) {
  const auto tokens = [&] {
    RunPlan plan = plan_run(config_, *model_, machine_, workload_);
    const ReaderChoice readers = choose_reader(EngineChoice::kAuto, silent_);
    Trace trace(pace_.clock, 0);
    Runtime runtime(
        {&config_, model_.get(), &machine_, &plan, readers.make, &trace, &pace_.clock, &stop_});
    runtime.load([](const char*, uint64_t, uint64_t) {});
    return generate(runtime, config_, {{"", {1, 2, 3}}}, {}).outputs[0].ids;
  };
  const auto before = tokens();
  MatmulsToTime wanted{WeightFormat::kBF16, {1, 64}, kGiB, 0.001};
  for (const TimedCall& call :
       time_matmuls(*machine_.device, *machine_.ops, wanted, kMiB, SteadyClock(), stop_)) {
    EXPECT_GT(call.calls, 0u);
    EXPECT_GT(call.seconds, 0);
    EXPECT_EQ(call.weight_bytes, 4 * kMiB);
  }
  EXPECT_EQ(tokens(), before);
  wanted.memory_bytes = 20 * kMiB;
  for (const TimedCall& call :
       time_matmuls(*machine_.device, *machine_.ops, wanted, kGiB, SteadyClock(), stop_)) {
    EXPECT_EQ(call.calls, 0u) << "no room";
  }
  stop_.request();
  wanted.memory_bytes = kGiB;
  EXPECT_THROW(time_matmuls(*machine_.device, *machine_.ops, wanted, kMiB, SteadyClock(), stop_),
               Stopped);
}

TEST(ComputeChanges, LieBetweenThoseSeen) {
  KnownRates known;
  known.probed = {{{kMiB, 8, 4e9}},
                  0,
                  {{1, 10e9, 1e-6, 1e-9, 5e9, 0.5}, {4, 9e9}, {16, 8e9}, {64, 7e9}, {512, 1e9}},
                  1e-6,
                  2e-11,
                  4e-10,
                  3e-10,
                  4e-10};
  known.probed.wide_memory = {kMiB, kGiB, 1e-12};
  known.take_compute_changes({{1, 0.5}, {16, 1}});
  EXPECT_DOUBLE_EQ(known.rates.wide_memory->more_seconds_per_byte, 2e-12);
  const std::vector<RowRate>& matmuls = known.rates.matmuls;
  EXPECT_DOUBLE_EQ(matmuls[0].weight_bytes_per_second, 5e9);
  EXPECT_DOUBLE_EQ(matmuls[0].beside_reads, 2.5e9);
  EXPECT_DOUBLE_EQ(matmuls[0].read_share, 0.5);
  EXPECT_DOUBLE_EQ(matmuls[0].start_seconds, 2e-6);
  EXPECT_DOUBLE_EQ(matmuls[0].output_seconds, 2e-9);
  EXPECT_DOUBLE_EQ(matmuls[1].weight_bytes_per_second, 0.75 * 9e9);
  EXPECT_DOUBLE_EQ(matmuls[2].weight_bytes_per_second, 8e9);
  EXPECT_DOUBLE_EQ(matmuls[4].weight_bytes_per_second, 1e9) << "as the nearest";
  EXPECT_DOUBLE_EQ(known.rates.operation_seconds, 2e-6);
  EXPECT_DOUBLE_EQ(known.rates.attention_seconds, 2e-11);
  EXPECT_DOUBLE_EQ(known.rates.value_seconds, 3e-10);
  known.take_compute_changes({{64, 0.5}});
  EXPECT_DOUBLE_EQ(known.rates.attention_seconds, 4e-11);
  EXPECT_DOUBLE_EQ(known.rates.score_seconds, 8e-10);
  EXPECT_DOUBLE_EQ(known.rates.value_seconds, 6e-10);
  EXPECT_DOUBLE_EQ(known.rates.gated_seconds, 8e-10);
  known.take_compute_changes({{64, 1}});
  EXPECT_DOUBLE_EQ(matmuls[0].weight_bytes_per_second, 10e9) << "of what probe saw, not on top";
}

TEST_F(Looking, AStopEndsIt) {
  pace_.bytes_per_second = 1e9;
  stop_.request();
  EXPECT_EQ(plan().forecast->drive_rate, 2e9);
  EXPECT_TRUE(history().empty());
}

TEST(DriveChange, IsTakenOfShortOrLongReadsWhicheverIsLess) {
  KnownRates known;
  known.probed = {{{kMiB, 8, 4e9}}, 0, {{1, 1e9}}};
  known.sustained_share = 0.75;
  const auto rate = [&](double change) {
    known.take_drive_change(change, "then");
    return known.rates.best_read() / 1e9;
  };
  EXPECT_DOUBLE_EQ(rate(1), 3) << "long reads";
  EXPECT_DOUBLE_EQ(rate(0.9), 3);
  EXPECT_DOUBLE_EQ(rate(0.5), 2) << "it has stepped down, or has a neighbour";
  EXPECT_DOUBLE_EQ(rate(2), 6);
}

PassRecord decode(double pass_seconds, double stalled_seconds, uint64_t nvme_bytes) {
  PassRecord pass;
  pass.kind = PassRecord::Kind::kDecode;
  pass.tokens = 1;
  pass.seconds = pass_seconds;
  pass.feed.stall_ns = static_cast<int64_t>(stalled_seconds * 1e9);
  pass.feed.nvme_bytes = nvme_bytes;
  return pass;
}

Forecast forecast_of(double pass_seconds, double compute_seconds, double nvme_rate) {
  Forecast forecast;
  forecast.decode_rows = forecast.prompt_rows = 1;
  forecast.drive_rate = 2e9;
  forecast.decode.seconds = pass_seconds;
  forecast.decode.compute_seconds = compute_seconds;
  forecast.decode.nvme_bytes_per_second = nvme_rate;
  return forecast;
}

TEST(PredictedAndMeasured, SaysWhatItsPercentIsOf) {
  const std::vector<PassRecord> passes(3, decode(0.5, 0.1, 500'000'000));
  const std::string text = predicted_and_measured_text(forecast_of(0.4, 0.35, 1.25e9), passes);
  EXPECT_EQ(text,
            "pass                   predicted   measured  of predicted  of the link's\n"
            "decode  time per pass    0.400 s    0.500 s         125 %\n"
            "        NVMe           1.25 GB/s  1.00 GB/s          80 %  50 % of 2.00 GB/s\n"
            "        computing        0.350 s    0.400 s         114 %\n"
            "        stalled            50 ms    0.100 s\n");
}

/// What a pass computes is of that pass: one that waits less may compute longer.
TEST(PredictedAndMeasured, MediansAreOfEachPass) {
  const std::vector<PassRecord> passes = {decode(9, 0, 0),     decode(0.5, 0.3, 0),
                                          decode(0.5, 0.1, 0), decode(0.6, 0.1, 0),
                                          decode(0.5, 0.2, 0), decode(0.3, 0.1, 0)};
  const auto json = predicted_and_measured_json(forecast_of(0.4, 0.35, 0), passes);
  const auto& measured = json["measured"]["decode"];
  EXPECT_NEAR(measured["seconds"], 0.5, 1e-9);
  EXPECT_NEAR(measured["stall_seconds"], 0.1, 1e-9);
  EXPECT_NEAR(measured["compute_seconds"], 0.3, 1e-9) << "not 0.4";
}

/// Small figures keep their digits, far ones are times, and a rounding is not less than nothing.
TEST(PredictedAndMeasured, OddFigures) {
  const std::vector<PassRecord> passes(3, decode(3.8e-3, 0, 0));
  const std::string text =
      predicted_and_measured_text(forecast_of(0.2e-3, 0.2e-3 + 1e-18, 0), passes);
  EXPECT_NE(text.find("0.2 ms    3.8 ms      19 times"), std::string::npos) << text;
  EXPECT_NE(text.find("stalled"), std::string::npos);
  EXPECT_EQ(text.find('-'), std::string::npos) << text;
  EXPECT_EQ(predicted_and_measured_text(forecast_of(1, 1, 0), {}), "") << "nothing to compare";
}

}  // namespace
}  // namespace spillway
