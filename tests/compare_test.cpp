// Comparisons: what is made of reports, how it is drawn and written, and the processes of the arms.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <regex>
#include <set>
#include <thread>

#include "compare/answer.h"
#include "compare/child.h"
#include "compare/figures.h"
#include "compare/memory_group.h"
#include "compare/page.h"
#include "compare/page_cache.h"
#include "compare/schedule.h"
#include "compare/svg.h"
#include "compare/timeline.h"
#include "core/error.h"
#include "core/folder_lock.h"
#include "core/units.h"
#include "io/direct_file.h"
#include "tests/sim/denied_calls.h"
#include "tests/support.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

nlohmann::json report_of(const std::string& kind, const std::vector<double>& seconds) {
  nlohmann::json report = {{"passes", nlohmann::json::array()},
                           {"memory", {{"peak_rss_bytes", 5000}}}};
  for (const double value : seconds) {
    report["passes"].push_back({{"kind", kind},
                                {"seconds", value},
                                {"nvme_bytes", 1000 * value},
                                {"stall_seconds", value / 2},
                                {"tokens", 3}});
  }
  return report;
}

TEST(Samples, AreTheMedianOfThePassesThatCount) {
  auto report = report_of("decode", {9, 2, 1, 4});
  Sample sample = sample_of(report, Sweep::kMemory);
  EXPECT_DOUBLE_EQ(sample.seconds, 2) << "the first follows the prompt";
  EXPECT_DOUBLE_EQ(sample.nvme_bytes, 2000);
  EXPECT_DOUBLE_EQ(sample.stall_seconds, 1);
  EXPECT_EQ(sample.tokens, 3u);
  EXPECT_EQ(sample.peak_rss_bytes, 5000u);
  EXPECT_EQ(sample.predicted_seconds, 0);
  report["prediction"] = {{"decode", {{"seconds", 1.5}}}, {"prompt", {{"seconds", 2.5}}}};
  EXPECT_DOUBLE_EQ(sample_of(report, Sweep::kDecode).predicted_seconds, 1.5);
  report["passes"] = report_of("prefill", {2, 3})["passes"];
  sample = sample_of(report, Sweep::kPrompt);
  EXPECT_DOUBLE_EQ(sample.seconds, 5) << "all of a prompt's chunks";
  EXPECT_DOUBLE_EQ(sample.predicted_seconds, 5);
  EXPECT_EQ(sample.tokens, 6u);
}

/// Sweeps of 3 tokens, the last a third as long.
TEST(Samples, OfScoringAreTheAverageSweep) {
  auto report = report_of("score", {2, 3, 1});
  report["interrupted"] = false;
  report["passes"][2]["tokens"] = 1;
  Sample sample = sample_of(report, Sweep::kScore);
  EXPECT_EQ(sample.tokens, 3u);
  EXPECT_DOUBLE_EQ(sample.seconds, 6.0 * 3 / 7);
  EXPECT_DOUBLE_EQ(sample.nvme_bytes, 6000.0 * 3 / 7);
  EXPECT_DOUBLE_EQ(sample.stall_seconds, 3.0 * 3 / 7);
  EXPECT_EQ(sample.predicted_read_seconds, 0);
  report["prediction"] = {
      {"prompt", {{"tokens", 6}, {"seconds", 4}, {"nvme_seconds", 3}, {"compute_seconds", 1}}}};
  sample = sample_of(report, Sweep::kScore);
  EXPECT_DOUBLE_EQ(sample.predicted_seconds, 2);
  EXPECT_DOUBLE_EQ(sample.predicted_read_seconds, 1.5);
  EXPECT_DOUBLE_EQ(sample.predicted_compute_seconds, 0.5);
  report["interrupted"] = true;
  EXPECT_NE(test::error_of([&] { sample_of(report, Sweep::kScore); }).find("stopped before"),
            std::string::npos);
}

TEST(Samples, OfStoppedOrForeignReportsAreErrors) {
  EXPECT_NE(test::error_of([] {
              sample_of(report_of("decode", {1}), Sweep::kDecode);
            }).find("stopped before"),
            std::string::npos);
  EXPECT_NE(test::error_of([] {
              sample_of(report_of("decode", {1}), Sweep::kPrompt);
            }).find("stopped before"),
            std::string::npos);
  EXPECT_NE(test::error_of([] {
              sample_of(nlohmann::json::object(), Sweep::kDecode);
            }).find("cannot be used"),
            std::string::npos);
}

TEST(Spreads, OfOddAndEvenCounts) {
  EXPECT_DOUBLE_EQ(spread_of({3, 1, 2}).median, 2);
  EXPECT_DOUBLE_EQ(spread_of({4, 1, 2, 3}).median, 2.5);
  EXPECT_DOUBLE_EQ(spread_of({4, 1, 2, 3}).low, 1);
  EXPECT_DOUBLE_EQ(spread_of({4, 1, 2, 3}).high, 4);
}

ArmResult result(Sweep sweep, bool mapped, uint64_t memory, double share, uint32_t batch,
                 double seconds, double predicted) {
  ArmResult arm;
  arm.arm.sweep = sweep;
  arm.arm.mapped = mapped;
  arm.arm.memory_bytes = memory;
  arm.arm.ram_share = share;
  arm.arm.batch = batch;
  for (const double factor : {0.9, 1.0, 1.2}) {
    arm.samples.push_back({factor * seconds, 100, 0, predicted, batch, 0});
  }
  return arm;
}

Comparison some_comparison() {
  Comparison comparison;
  comparison.model = "a <model> & \"more\"";
  comparison.machine = "a machine";
  comparison.repeats = 3;
  comparison.arms = {result(Sweep::kMemory, false, kGiB, 0, 1, 1, 1.05),
                     result(Sweep::kMemory, true, kGiB, 0, 1, 3, 0),
                     result(Sweep::kMemory, false, 2 * kGiB, 0, 1, 0.5, 1),
                     result(Sweep::kDecode, false, 0, 0.5, 4, 0.5, 0.5)};
  ArmResult skipped;
  skipped.arm.sweep = Sweep::kDecode;
  skipped.arm.ram_share = 1;
  skipped.skipped = "memory.ram of 1 GiB, \"too small\"";
  comparison.arms.push_back(skipped);
  return comparison;
}

TEST(Findings, CompareWithMmapAndWithThePrediction) {
  const auto lines = findings(some_comparison());
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0],
            "in 1.00 GiB: 1.00 s per token; mmap in the same memory 3.00 s, 3 times as long");
  EXPECT_EQ(lines[1],
            "2 of 3 predictions within 10 % of the measured median; the farthest pass took 50 % "
            "less than predicted");
  Comparison slow;
  slow.arms = {result(Sweep::kDecode, false, 0, 1, 1, 19.02, 1)};
  EXPECT_EQ(findings(slow)[0],
            "0 of 1 predictions within 10 % of the measured median; the farthest pass took 19 "
            "times what was predicted");
}

TEST(Figures, AreReadable) {
  const std::map<double, std::string> figures = {
      {0, "0"},         {-0.0, "0"},     {-1e-9, "0"},     {0.2123, "0.212"},
      {1.0, "1.00"},    {12.34, "12.3"}, {1234.4, "1234"}, {0.0000123, "0.000012"},
      {0.01, "0.0100"}, {1e6, "1000000"}};
  for (const auto& [value, text] : figures) EXPECT_EQ(figure_text(value), text);
  const std::map<double, std::string> deviations = {
      {1, "0 %"},     {0.997, "0 %"},    {1.05, "+5 %"},      {0.5, "-50 %"},
      {1.9, "+90 %"}, {2.04, "2 times"}, {19.02, "19 times"}, {1902, "1902 times"}};
  for (const auto& [ratio, text] : deviations) EXPECT_EQ(deviation_text(ratio), text);
  EXPECT_EQ(count_text(0), "0");
  EXPECT_EQ(count_text(999), "999");
  EXPECT_EQ(count_text(1000), "1,000");
  EXPECT_EQ(count_text(61538), "61,538");
  EXPECT_EQ(count_text(4194304), "4,194,304");
  EXPECT_EQ(times_text(5.49), "5.5 times");
  EXPECT_EQ(times_text(1.333), "1.33 times");
  EXPECT_EQ(times_text(12.3), "12 times");
  EXPECT_EQ(rough_duration(1e-9), "0.01 ms");
  EXPECT_EQ(rough_duration(0.0052), "5.2 ms");
  EXPECT_EQ(rough_duration(0.0994), "99 ms");
  EXPECT_EQ(rough_duration(0.0996), "0.1 s");
  EXPECT_EQ(rough_duration(9.94), "9.9 s");
  EXPECT_EQ(rough_duration(89.4), "89 s");
  EXPECT_EQ(rough_duration(725), "12 min");
  EXPECT_EQ(rough_duration(9000), "2.5 h");
}

/// Seconds in budgets of 100 MiB, 200 MiB and so on; 0 = that arm was not measured.
struct AnswerCase {
  std::string name;
  std::vector<double> spillway;
  std::vector<double> mmap;
  bool all_in_ram;  ///< in the largest budget
  std::string text;
  friend std::ostream& operator<<(std::ostream& out, const AnswerCase& c) { return out << c.name; }
};

Comparison comparison_of(const std::vector<double>& spillway, const std::vector<double>& mmap,
                         bool all_in_ram) {
  Comparison comparison;
  const auto add = [&](bool mapped, size_t i, double seconds, bool reads) {
    ArmResult arm = result(Sweep::kMemory, mapped, 100 * (i + 1) * kMiB, 0, 1, seconds, 0);
    if (seconds <= 0) {
      arm.samples.clear();
      arm.skipped = "does not fit";
    }
    for (Sample& sample : arm.samples) sample.nvme_bytes = reads ? 1e8 : 0;
    comparison.arms.push_back(std::move(arm));
  };
  for (size_t i = 0; i < spillway.size(); ++i) {
    add(false, i, spillway[i], i + 1 < spillway.size() || !all_in_ram);
  }
  for (size_t i = 0; i < mmap.size(); ++i) add(true, i, mmap[i], true);
  return comparison;
}

class Answers : public ::testing::TestWithParam<AnswerCase> {};

TEST_P(Answers, SayWhatWasMeasured) {
  const AnswerCase& c = GetParam();
  Comparison comparison = comparison_of(c.spillway, c.mmap, c.all_in_ram);
  EXPECT_EQ(answer(comparison), c.text + ".");
  comparison.interrupted = true;
  EXPECT_EQ(answer(comparison), c.text + " (stopped early).");
}

INSTANTIATE_TEST_SUITE_P(
    Memory, Answers,
    ::testing::Values(
        AnswerCase{"faster_until_all_is_in_ram",
                   {1, 0.5, 0.2},
                   {2, 2.75, 0.3},
                   true,
                   "Give it 200 MiB: 5.5 times as fast as mmap in the same memory (0.500 s per "
                   "token instead of 2.75 s); beyond 300 MiB nothing is gained"},
        AnswerCase{"best_where_nothing_more_is_gained",
                   {1, 0.2, 0.2},
                   {2, 2, 0.2},
                   true,
                   "Give it 200 MiB: 10 times as fast as mmap in the same memory (0.200 s per "
                   "token instead of 2.00 s); more gains nothing"},
        AnswerCase{"more_was_not_measured",
                   {1, 0.5},
                   {2, 2},
                   false,
                   "Give it 200 MiB: 4 times as fast as mmap in the same memory (0.500 s per "
                   "token instead of 2.00 s); less is slower, and more was not measured"},
        AnswerCase{"gains_go_on",
                   {0.6, 0.5},
                   {3, 1},
                   false,
                   "Give it 100 MiB: 5 times as fast as mmap in the same memory (0.600 s per "
                   "token instead of 3.00 s); it is fastest in 200 MiB, the most that was "
                   "measured"},
        AnswerCase{"one_budget",
                   {0.5},
                   {1.5},
                   false,
                   "Give it 100 MiB: 3 times as fast as mmap in the same memory (0.500 s per "
                   "token instead of 1.50 s)"},
        AnswerCase{"mmap_only_beyond_what_gains",
                   {0.5, 0.5, 0.5},
                   {0, 0, 1},
                   true,
                   "In 300 MiB it is 2 times as fast as mmap in the same memory (0.500 s per "
                   "token instead of 1.00 s); beyond 100 MiB nothing is gained"},
        AnswerCase{"mmap_wins_in_one",
                   {1, 0.5, 0.5},
                   {4, 1, 0.25},
                   true,
                   "Give it 100 MiB: 4 times as fast as mmap in the same memory (1.00 s per token "
                   "instead of 4.00 s); beyond 200 MiB nothing is gained; in 300 MiB mmap is 2 "
                   "times as fast as Spillway"},
        AnswerCase{"mmap_wins_in_two",
                   {1, 0.5, 0.5},
                   {4, 0.4, 0.25},
                   true,
                   "Give it 100 MiB: 4 times as fast as mmap in the same memory (1.00 s per token "
                   "instead of 4.00 s); beyond 200 MiB nothing is gained; mmap is faster in 2 of "
                   "the 3 amounts, in 300 MiB mmap is 2 times as fast as Spillway"},
        AnswerCase{"mmap_is_as_fast",
                   {1, 0.5},
                   {1.02, 0.49},
                   true,
                   "Give it 200 MiB: 0.500 s per token; mmap is as fast in every memory measured; "
                   "more gains nothing"},
        AnswerCase{
            "mmap_is_faster",
            {1, 0.5},
            {0.5, 0.4},
            true,
            "mmap is faster in every memory measured: 2 times as fast as Spillway in 100 MiB "
            "(0.500 s per token instead of 1.00 s)"},
        AnswerCase{"mmap_is_at_least_as_fast",
                   {1, 0.5},
                   {0.5, 0.5},
                   true,
                   "mmap is at least as fast in every memory measured: 2 times as fast as Spillway "
                   "in 100 MiB (0.500 s per token instead of 1.00 s)"},
        AnswerCase{"mmap_is_faster_in_the_only_one",
                   {1},
                   {0.5},
                   true,
                   "mmap is faster: 2 times as fast as Spillway in 100 MiB (0.500 s per "
                   "token instead of 1.00 s)"},
        AnswerCase{"no_mmap",
                   {1, 0.2, 0.2},
                   {0, 0, 0},
                   true,
                   "Give it 200 MiB: 0.200 s per token, 5 times as fast as in 100 MiB; more gains "
                   "nothing; mmap was not measured"},
        AnswerCase{"no_mmap_and_no_gain",
                   {0.2, 0.2},
                   {},
                   true,
                   "Give it 100 MiB: 0.200 s per token; more gains nothing; mmap was not measured"},
        AnswerCase{"no_mmap_in_one_budget",
                   {0, 0.2},
                   {},
                   false,
                   "In 200 MiB it takes 0.200 s per token; mmap was not measured"},
        AnswerCase{"mmap_alone",
                   {0, 0},
                   {2, 1},
                   false,
                   "Spillway was not measured; mmap takes 1.00 s per token in 200 MiB"},
        AnswerCase{"nothing", {0, 0}, {0, 0}, false, "Nothing was measured"}),
    [](const auto& made) { return made.param.name; });

/// Without budgets the shares of the layers answer.
TEST(AnswerOfShares, NamesTheSmallestBatchThatWasMeasured) {
  Comparison comparison;
  const auto add = [&](Sweep sweep, double share, uint32_t batch, double seconds) {
    comparison.arms.push_back(result(sweep, false, 0, share, batch, seconds, 0));
  };
  EXPECT_EQ(answer(comparison), "Nothing was measured.");
  add(Sweep::kPrompt, 1, 1, 0.5);
  EXPECT_EQ(answer(comparison), "With all layers in RAM a prompt takes 0.500 s.");
  add(Sweep::kPrompt, 0, 1, 0.51);
  EXPECT_EQ(answer(comparison),
            "RAM gains nothing: a prompt takes 0.510 s with 0 % of the layers in RAM, and not "
            "clearly less with all layers.");
  add(Sweep::kDecode, 0, 4, 1);
  add(Sweep::kDecode, 0.5, 4, 0.25);
  EXPECT_EQ(answer(comparison),
            "Keep 50 % of the layers in RAM: 4 times as fast as with none (0.250 s per decode pass "
            "of 4 sequences instead of 1.00 s); more was not measured.");
  add(Sweep::kDecode, 1, 4, 0.25);
  EXPECT_NE(answer(comparison).find("instead of 1.00 s); more gains nothing."), std::string::npos);
  add(Sweep::kDecode, 0.25, 1, 0.3);
  add(Sweep::kDecode, 1, 1, 0.1);
  EXPECT_EQ(
      answer(comparison),
      "Keep all layers in RAM: 3 times as fast as with 25 % of the layers (0.100 s per decode "
      "pass instead of 0.300 s).");
}

/// Whatever was measured, it is one sentence, and what it advises was measured.
TEST(AnswerOfAnything, IsOneSentenceOfWhatWasMeasured) {
  const uint64_t seed = test::run_seed();
  SCOPED_TRACE(test::seed_note(seed));
  std::mt19937_64 random(seed);
  const auto some_seconds = [&] {
    const double seconds[] = {0, 0.1, 0.104, 0.2, 1, 30, 0.00002};
    std::vector<double> values(1 + random() % 5);
    for (double& value : values) value = seconds[random() % std::size(seconds)];
    return values;
  };
  const std::regex advice("(?:Give it|In) (\\d+) MiB(:| it is) ([0-9.]+) times as fast as mmap.*");
  for (int i = 0; i < 3000; ++i) {
    const auto spillway = some_seconds();
    const auto mmap = some_seconds();
    const std::string text = answer(comparison_of(spillway, mmap, random() % 2 == 0));
    for (const char* wrong : {"nan", "inf", "-0", "e+", "e-0", "(0 s", " %"}) {
      EXPECT_EQ(text.find(wrong), std::string::npos) << text;
    }
    EXPECT_EQ(text.find(". "), std::string::npos) << text;
    EXPECT_EQ(text.back(), '.');
    std::smatch found;
    if (!std::regex_match(text, found, advice)) continue;
    const size_t budget = std::stoul(found[1]) / 100 - 1;
    ASSERT_LT(budget, std::min(spillway.size(), mmap.size())) << text;
    ASSERT_GT(spillway[budget], 0) << text;
    EXPECT_NEAR(std::stod(found[3]) / (mmap[budget] / spillway[budget]), 1, 0.05) << text;
  }
}

/// An arm that scores: everything in RAM where `sweep` is 0; reading and computing as predicted.
ArmResult scored(uint32_t sweep, double tokens_per_second, double reading = 0,
                 double computing = 0) {
  const uint32_t tokens = sweep == 0 ? 512 : sweep;
  ArmResult arm = result(Sweep::kScore, false, 0, sweep == 0 ? 1 : 0, tokens,
                         tokens / tokens_per_second, std::max(reading, computing));
  arm.arm.batch = 1;
  arm.arm.sweep_tokens = sweep;
  for (Sample& sample : arm.samples) {
    if (sweep == 0) sample.nvme_bytes = 0;
    sample.predicted_read_seconds = reading;
    sample.predicted_compute_seconds = computing;
  }
  return arm;
}

Comparison scores(std::vector<ArmResult> arms) {
  Comparison comparison;
  comparison.arms = std::move(arms);
  return comparison;
}

TEST(AnswerOfSweeps, SaysFromWhereOnTheDriveNoLongerMatters) {
  EXPECT_EQ(answer(scores({scored(0, 1000), scored(4096, 990), scored(512, 200), scored(1024, 400),
                           scored(2048, 960)})),
            "From 2,048 tokens per sweep on, this machine scores as fast as with everything in RAM "
            "(960 tokens/s against 1000), 4.8 times as fast as with 512.");
  EXPECT_EQ(answer(scores({scored(0, 1000), scored(512, 980), scored(1024, 1001)})),
            "From 512 tokens per sweep on, this machine scores as fast as with everything in RAM "
            "(980 tokens/s against 1000).");
  EXPECT_EQ(answer(scores({scored(0, 1000), scored(512, 940), scored(1024, 960)})),
            "From 1,024 tokens per sweep on, this machine scores as fast as with everything in RAM "
            "(960 tokens/s against 1000).")
      << "a gain within the noise is none";
  EXPECT_EQ(answer(scores({scored(0, 1000), scored(512, 990), scored(1024, 500)})),
            "With 1,024 tokens per sweep, the most that was measured, this machine scores 500 "
            "tokens/s, 0.50 times as fast as with everything in RAM (1000 tokens/s).")
      << "one that is fast by chance is not where it begins";
  EXPECT_EQ(answer(scores({scored(512, 250), scored(1024, 500), scored(2048, 510)})),
            "With 1,024 tokens per sweep it scores 500 tokens/s, 2 times as fast as with 512; more "
            "gains nothing; everything in RAM was not measured.");
  EXPECT_EQ(answer(scores({scored(512, 250), scored(1024, 500)})),
            "With 1,024 tokens per sweep it scores 500 tokens/s, 2 times as fast as with 512; more "
            "was not measured; everything in RAM was not measured.");
  EXPECT_EQ(answer(scores({scored(512, 250)})),
            "With 512 tokens per sweep it scores 250 tokens/s; everything in RAM was not "
            "measured.");
  EXPECT_EQ(answer(scores({scored(0, 1000)})),
            "With everything in RAM it scores 1000 tokens/s; no sweep that reads was measured.");
  Comparison nothing_read = scores({scored(0, 1000), scored(512, 1000)});
  for (Sample& sample : nothing_read.arms[1].samples) sample.nvme_bytes = 0;
  EXPECT_EQ(answer(nothing_read).find("The memory holds everything"), 0u) << answer(nothing_read);
  // Beside other sweeps it is a finding.
  Comparison both = some_comparison();
  both.arms.push_back(scored(512, 250));
  EXPECT_EQ(answer(both), answer(some_comparison()));
  const auto lines = findings(both);
  EXPECT_EQ(std::count(lines.begin(), lines.end(),
                       "With 512 tokens per sweep it scores 250 tokens/s; everything in RAM was "
                       "not measured"),
            1);
}

/// Reading takes 8 s for any sweep, a token 1/500 s: as long with 4,000.
TEST(Crossings, LieBetweenTheSweepsWhereReadingIsHidden) {
  const auto at = [](uint32_t sweep) { return scored(sweep, 500, 8, sweep / 500.0); };
  EXPECT_EQ(crossing_tokens(scores({scored(512, 250)})), 0);
  EXPECT_NEAR(crossing_tokens(scores({scored(0, 500), at(1024), at(8192), at(2048)})), 4000, 1e-6);
  EXPECT_NEAR(crossing_tokens(scores({at(8192), at(16384)})), 4000, 1e-6) << "before the first";
  EXPECT_NEAR(crossing_tokens(scores({at(512), at(1024)})), 4000, 1e-6) << "after the last";
  Comparison comparison = scores({scored(0, 500), at(2048), at(8192)});
  const auto lines = findings(comparison);
  EXPECT_EQ(lines[0],
            "predicted: computing takes longer than reading from 4,000 tokens per sweep on");
  EXPECT_NEAR(comparison_json(comparison)["predicted_crossing_tokens_per_sweep"], 4000, 1e-6);
  EXPECT_EQ(comparison_json(comparison)["arms"][2]["sweep_tokens"], 8192);
  EXPECT_NE(comparison_csv(comparison).find(",8192,\n"), std::string::npos);
  const Chart chart = score_chart(comparison);
  ASSERT_EQ(chart.lines.size(), 3u) << "measured, predicted, and what RAM gives";
  EXPECT_DOUBLE_EQ(chart.lines[0].points[1].x, 8192);
  EXPECT_DOUBLE_EQ(chart.lines[0].points[1].y, 500);
  EXPECT_DOUBLE_EQ(chart.lines[1].points[0].y, 2048 / 8.0);
  EXPECT_DOUBLE_EQ(chart.lines[2].points[0].y, 500);
  ASSERT_TRUE(chart.mark);
  EXPECT_NEAR(chart.mark->x, 4000, 1e-6);
  EXPECT_NE(chart_svg(chart).find("computes longer than it reads from 4,000 on"),
            std::string::npos);
  EXPECT_FALSE(score_chart(scores({at(512u << 8)})).mark) << "far from what was measured";
  EXPECT_EQ(chart_svg(score_chart(some_comparison())), "");
}

TEST(Contexts, ThatShortenWhatWasAskedForAreSaid) {
  SweepOptions options;
  options.new_tokens = 20;
  options.prompt_tokens = 24;
  EXPECT_TRUE(context_notes(25, options).empty());
  auto notes = context_notes(16, options);
  ASSERT_EQ(notes.size(), 2u);
  EXPECT_EQ(notes[0],
            "the model's context of 16 tokens has room for 12 decode passes that count, not 20");
  EXPECT_EQ(notes[1], "the model's context of 16 tokens has room for a prompt of 15, not 24");
  options.sweeps = {Sweep::kPrompt};
  EXPECT_EQ(context_notes(16, options).size(), 1u);
  options.sweeps = {Sweep::kMemory};
  EXPECT_EQ(context_notes(16, options)[0], notes[0]);
}

TEST(Schedules, AreCorrectedByWhatWasMeasured) {
  Schedule schedule({10, 20, 30}, 2);
  EXPECT_DOUBLE_EQ(schedule.seconds_left(0, 0), 120);
  schedule.finished(0, 20);  // twice what was expected, and so will the others be
  EXPECT_DOUBLE_EQ(schedule.seconds_left(0, 1), 20 + 2 * (40 + 60));
  schedule.dropped(2);
  EXPECT_DOUBLE_EQ(schedule.seconds_left(0, 1), 20 + 2 * 40);
  schedule.finished(1, 30);  // each by its own figure from here on
  EXPECT_DOUBLE_EQ(schedule.seconds_left(1, 0), 20 + 30);
  EXPECT_DOUBLE_EQ(schedule.seconds_left(1, 1), 30);
}

TEST(Schedules, OfNothingKnownWaitForTheFirst) {
  Schedule schedule({0, 0, 0}, 2);
  EXPECT_DOUBLE_EQ(schedule.seconds_left(0, 0), 0);
  schedule.finished(0, 4);
  EXPECT_DOUBLE_EQ(schedule.seconds_left(0, 1), 4 * 5);
  EXPECT_DOUBLE_EQ(arm_seconds({0, 0, 0}, 1e9), arm_seconds({0, 0, 0}, 1));
  EXPECT_DOUBLE_EQ(arm_seconds({2000, 500, 0}, 1000) - arm_seconds({0, 0, 0}, 1000), 2.5);
  EXPECT_DOUBLE_EQ(arm_seconds({2000, 500, 7}, 1000) - arm_seconds({0, 0, 0}, 1000), 9)
      << "a predicted pass counts its reads itself";
}

TEST(Folders, AreOneProcessesAtATime) {
  const test::TempDir dir;
  {
    const FolderLock lock(dir.path());
    if (!lock.held()) GTEST_SKIP() << "the temporary folder knows no locks";
    EXPECT_EQ(FolderLock(dir.path()).state(), FolderLock::State::kElsewhere);
    run_child({"/bin/sh", "-c", "ls -l /proc/self/fd >&2"}, {}, dir / "log", StopFlag());
    const std::string open_files = test::read_file(dir / "log");
    EXPECT_NE(open_files.find("log"), std::string::npos) << open_files;
    EXPECT_EQ(open_files.find(dir.path().string() + "\n"), std::string::npos)
        << "what it starts does not keep it: " << open_files;
  }
  FolderLock again(dir.path());
  EXPECT_TRUE(again.held()) << "free again";
  FolderLock late(dir.path());
  EXPECT_EQ(late.state(), FolderLock::State::kElsewhere);
  again = FolderLock(dir / "none");
  EXPECT_EQ(again.state(), FolderLock::State::kUnknown);
}

TEST(Results, AreWrittenWithWhatWasSkipped) {
  const Comparison comparison = some_comparison();
  const auto json = comparison_json(comparison);
  EXPECT_EQ(json["answer"], answer(comparison));
  ASSERT_EQ(json["arms"].size(), 5u);
  EXPECT_DOUBLE_EQ(json["arms"][0]["seconds_per_pass"]["max"], 1.2);
  EXPECT_EQ(json["arms"][1]["engine"], "mmap");
  EXPECT_FALSE(json["arms"][1].contains("predicted_seconds"));
  EXPECT_DOUBLE_EQ(json["arms"][3]["tokens_per_second"], 8);
  EXPECT_FALSE(json["arms"][4].contains("seconds_per_pass"));
  const std::string csv = comparison_csv(comparison);
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 6);
  EXPECT_NE(csv.find("memory,mmap,,1073741824,1,1,2.7,3,3.6,0.333333,100,,,\n"), std::string::npos)
      << csv;
  EXPECT_NE(csv.find(",\"memory.ram of 1 GiB, \"\"too small\"\"\"\n"), std::string::npos) << csv;
}

TEST(Charts, HoldEveryMeasuredPoint) {
  const Comparison comparison = some_comparison();
  const Chart memory = memory_chart(comparison);
  ASSERT_EQ(memory.lines.size(), 2u);
  EXPECT_EQ(memory.lines[0].points.size(), 2u);
  EXPECT_DOUBLE_EQ(memory.lines[0].points[1].x, 2);
  EXPECT_EQ(memory.lines[1].name, "mmap");
  EXPECT_DOUBLE_EQ(share_chart(comparison).lines[0].points[0].y, 8);
  EXPECT_EQ(batch_chart(comparison).x_ticks, std::vector<double>{4});
  EXPECT_EQ(prediction_chart(comparison).lines.size(), 2u);
  const std::string svg = chart_svg(memory);
  size_t circles = 0;
  for (size_t at = 0; (at = svg.find("<title>", at)) != std::string::npos; ++at) ++circles;
  EXPECT_EQ(circles, 1 + 3u) << "the chart's own title, and one per point";
  EXPECT_EQ(chart_svg({}), "") << "nothing measured, nothing drawn";
}

/// One point alone, a hundredth of a second, a thousand: axes must hold.
TEST(Charts, OfAnyScaleStayInsideThePicture) {
  for (const double scale : {1e-6, 0.01, 1.0, 1000.0}) {
    for (const bool log2_x : {false, true}) {
      const std::string svg = chart_svg(
          {"t", "x", "y", {{"l", {{scale, scale, 0, 2 * scale}}, true}}, {}, log2_x, !log2_x});
      EXPECT_EQ(svg.find("nan"), std::string::npos) << svg;
      EXPECT_EQ(svg.find("inf"), std::string::npos) << svg;
      const double x = std::stod(svg.substr(svg.rfind("cx=\"") + 4));
      EXPECT_GE(x, 0);
      EXPECT_LE(x, 480);
    }
  }
}

/// Where a label stands when text is at its largest, 17 units: two of them must not touch.
struct Box {
  double left, right, top, bottom;
  std::string text;
  bool touches(const Box& other) const {
    return left < other.right && other.left < right && top < other.bottom && other.top < bottom;
  }
};

std::vector<Box> labels_of(const std::string& svg) {
  constexpr double kCharacter = 9.3;
  static const std::regex pattern(
      "<text[^>]* x=\"([-0-9.]+)\" y=\"([-0-9.]+)\"([^>]*)>([^<]*)</text>");
  std::vector<Box> boxes;
  for (std::sregex_iterator at(svg.begin(), svg.end(), pattern), end; at != end; ++at) {
    const std::smatch& found = *at;
    const std::string text = found[4];
    const double width = kCharacter * static_cast<double>(text.size());
    const std::string style = found[3];
    const double shift = style.find("middle") != std::string::npos    ? width / 2
                         : style.find("\"end\"") != std::string::npos ? width
                                                                      : 0;
    const double left = std::stod(found[1]) - shift;
    const double y = std::stod(found[2]);
    boxes.push_back({left, left + width, y - 13, y + 4, text});
  }
  return boxes;
}

Chart chart_with(size_t lines, double scale, bool log2_x, std::vector<double> ticks) {
  Chart chart{"A title of so many words that it takes more than a single row of the picture",
              "an axis",
              "another axis",
              {},
              std::move(ticks),
              log2_x,
              false};
  for (size_t i = 0; i < lines; ++i) {
    ChartLine line{"100 % in RAM " + std::to_string(i), {}, true};
    for (int at = 1; at <= 64; at *= 2) line.points.push_back({at * scale, at * scale, 0, 0});
    chart.lines.push_back(std::move(line));
  }
  return chart;
}

/// On a phone text is larger beside its picture; it must find room all the same.
TEST(Charts, LabelsNeverTouch) {
  std::vector<double> many;
  for (int i = 1; i <= 64; ++i) many.push_back(i);
  for (const double scale : {1e-6, 1e-3, 1.0, 12345.0}) {
    for (const bool log2_x : {false, true}) {
      for (const size_t lines : {1, 3, 12}) {
        for (const auto& ticks : {std::vector<double>{}, many}) {
          if (!ticks.empty() && scale != 1.0) continue;
          Chart chart = chart_with(lines, scale, log2_x, ticks);
          if (lines == 3) chart.mark = {scale / 4, "a label that is as long as they are made"};
          if (lines == 12) chart.mark = {64 * scale, "a label that is as long as they are made"};
          const std::string svg = chart_svg(chart);
          const auto boxes = labels_of(svg);
          EXPECT_GE(boxes.size(), lines + 8);
          for (const Box& box : boxes) {
            EXPECT_GE(box.left, 0) << box.text;
            EXPECT_LE(box.right, 480) << box.text;
            for (const Box& other : boxes) {
              EXPECT_FALSE(&box != &other && box.touches(other)) << box.text << other.text;
            }
          }
        }
      }
    }
  }
}

/// Pictures share one page: the rules of one must not reach the other.
TEST(Charts, StyleOnlyThemselves) {
  const auto trace =
      nlohmann::json::parse(R"({"traceEvents":[{"ph":"X","ts":0,"dur":1000,"tid":4}]})");
  for (const std::string& svg :
       {chart_svg(memory_chart(some_comparison())), timeline_svg(cut_timeline(trace, 0, "t"))}) {
    EXPECT_EQ(svg.find("svg{"), std::string::npos) << svg;
    EXPECT_EQ(svg.find("}text{"), std::string::npos) << svg;
    EXPECT_NE(svg.find("@media print"), std::string::npos);
  }
}

TEST(Page, StandsAloneAndEscapes) {
  Comparison comparison = some_comparison();
  comparison.notes = {"<script>"};
  const std::string page = comparison_page(comparison);
  EXPECT_NE(page.find("a &lt;model&gt; &amp; &quot;more&quot;"), std::string::npos);
  EXPECT_EQ(page.find("<script"), std::string::npos);
  for (const char* outside : {"src=", "href=", "@import", "url("}) {
    EXPECT_EQ(page.find(outside), std::string::npos) << outside;
  }
  EXPECT_LT(page.find(answer(comparison)), page.find("<dl>")) << "the answer stands first";
  EXPECT_NE(page.find("prefers-color-scheme:dark"), std::string::npos);
  EXPECT_NE(page.find("@media(min-width:1100px)"), std::string::npos);
  EXPECT_NE(page.find("@media print"), std::string::npos);
}

/// Nobody reads nineteen times as a percent, or a zero with a sign.
TEST(Page, HoldsNoFigureThatMisleads) {
  Comparison comparison;
  comparison.arms = {result(Sweep::kDecode, false, 0, 1, 1, 19.02, 1),
                     result(Sweep::kDecode, false, 0, 0.5, 1, 0.00001, 0.0000100001),
                     result(Sweep::kDecode, false, 0, 0, 4000, 0.9, 0)};
  const std::string page = comparison_page(comparison);
  EXPECT_NE(page.find("<td>19 times</td>"), std::string::npos) << page;
  EXPECT_NE(page.find("<td>0 %</td>"), std::string::npos) << page;
  EXPECT_NE(page.find("<td>4444</td>"), std::string::npos) << page;
  EXPECT_FALSE(
      std::regex_search(page, std::regex("[0-9]e[-+][0-9]|-0(\\.0*)? |([2-9]..|[0-9]{4}) %")));
}

TEST(Children, SayHowTheyEnded) {
  const test::TempDir dir;
  StopFlag stop;
  const auto run = [&](const std::string& script) {
    return run_child({"/bin/sh", "-c", script}, {}, dir / "log", stop);
  };
  EXPECT_EQ(run("echo out; exit 0").exit_code, 0);
  const ChildResult failed = run("echo one >&2; echo two >&2; echo >&2; exit 3");
  EXPECT_EQ(failed.exit_code, 3);
  EXPECT_EQ(failed.last_line, "two");
  EXPECT_EQ(run("kill -9 $$").exit_code, 137);
  const ChildResult joined = run_child({"/bin/sh", "-c", "echo $$ \"$1\" >&2", "sh", "two words"},
                                       dir / "procs", dir / "log", stop);
  EXPECT_EQ(test::read_file(dir / "procs") + joined.last_line.substr(joined.last_line.find(' ')),
            joined.last_line.substr(0, joined.last_line.find(' ')) + "\n two words");
  EXPECT_EQ(run_child({"/bin/true"}, dir / "no/such/procs", dir / "log", stop).exit_code, 125);
  EXPECT_NE(test::error_of([&] {
              run_child({"/no/such/program"}, {}, dir / "log", stop);
            }).find("cannot start"),
            std::string::npos);
  stop.request();  // the child is interrupted, and waited for
  EXPECT_EQ(run("while :; do :; done").exit_code, 130);
}

/// What this program blocks and ignores for itself must not reach the arms.
TEST(Children, StartWithFreshSignals) {
  const test::TempDir dir;
  sigset_t blocked;
  sigset_t before;
  sigemptyset(&blocked);
  sigaddset(&blocked, SIGINT);
  sigaddset(&blocked, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &blocked, &before);
  const auto old_pipe = std::signal(SIGPIPE, SIG_IGN);
  const auto old_size = std::signal(SIGXFSZ, SIG_IGN);
  const ChildResult child = run_child(
      {"/bin/sh", "-c", "sed -n 's/Sig[BI][lg][kn]:.//p' /proc/$$/status | tr '\\n' ' ' >&2"}, {},
      dir / "log", StopFlag());
  std::signal(SIGPIPE, old_pipe);
  std::signal(SIGXFSZ, old_size);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  size_t read_bytes = 0;
  const uint64_t masked = std::stoull(child.last_line, &read_bytes, 16);
  const uint64_t ignored = std::stoull(child.last_line.substr(read_bytes), nullptr, 16);
  EXPECT_EQ(masked, 0u);
  for (const int signal : {SIGPIPE, SIGXFSZ, SIGINT}) EXPECT_EQ(ignored >> (signal - 1) & 1, 0u);
}

/// It stops on request even where it does not listen.
TEST(Children, ThatDoNotEndAreKilled) {
  const test::TempDir dir;
  StopFlag stop;
  const std::jthread stopper([&] {
    while (!fs::exists(dir / "ready")) std::this_thread::yield();
    stop.request();
  });
  const std::string script =
      "trap '' INT; : > '" + (dir / "ready").string() + "'; while :; do :; done";
  EXPECT_EQ(run_child({"/bin/sh", "-c", script}, {}, dir / "log", stop).exit_code, 137);
}

/// A parent that ignores SIGCHLD is told nothing: that is no success.
TEST(Children, WhoseEndIsNotToldAreAnError) {
  const test::TempDir dir;
  EXPECT_EQ(test::in_child([&] {
              std::signal(SIGCHLD, SIG_IGN);
              const std::string message =
                  test::error_of([&] { run_child({"/bin/true"}, {}, dir / "log", StopFlag()); });
              return message.find("is not known") != std::string::npos ? 0 : 1;
            }),
            0);
}

/// Traces the process whose id comes to stand in `file`, and says in `answer` whether it may.
[[noreturn]] void trace_what_comes(const fs::path& file, const fs::path& answer) {
  while (!fs::exists(file)) std::this_thread::yield();
  const pid_t process = std::stoi(test::read_file(file));
  const bool may = ptrace(PTRACE_SEIZE, process, nullptr, nullptr) == 0;
  test::write_file(answer.string() + ".new", may ? "yes" : "no");
  fs::rename(answer.string() + ".new", answer);
  while (true) pause();
}

/// For its parent a process that is traced has not ended before its tracer looks: like one that a
/// drive holds.
TEST(Children, ThatCannotEndAreLeft) {
  const test::TempDir dir;
  const pid_t tracer = fork();
  if (tracer == 0) trace_what_comes(dir / "id", dir / "traced");
  StopFlag stop;
  const std::jthread stopper([&] {
    while (!fs::exists(dir / "traced")) std::this_thread::yield();
    stop.request();
  });
  const std::string script = "trap '' INT; cd '" + dir.path().string() +
                             "'; echo $$ > new; mv new id; while :; do :; done";
  std::string message;
  try {
    run_child({"/bin/sh", "-c", script}, {}, dir / "log", stop);
  } catch (const Error& error) {
    message = error.what();
  }
  kill(tracer, SIGKILL);
  waitpid(tracer, nullptr, 0);
  if (test::read_file(dir / "traced") == "no") GTEST_SKIP() << "no process may be traced here";
  EXPECT_NE(message.find("was killed and does not end"), std::string::npos) << message;
  waitpid(std::stoi(test::read_file(dir / "id")), nullptr, 0);
}

TEST(PageCache, LetsGo) {
  const test::TempDir dir;
  test::write_file(dir / "f", std::string(3 * kMiB, 'x'));
  const int fd = open((dir / "f").c_str(), O_RDONLY);
  ASSERT_EQ(fsync(fd), 0);  // only clean pages can go
  close(fd);
  const bool in_memory = file_system_name(dir.path()) == "tmpfs";
  EXPECT_EQ(drop_cached(dir / "f"), in_memory ? 3 * kMiB : 0);
  test::write_file(dir / "empty", "");
  EXPECT_EQ(drop_cached(dir / "empty"), 0u);
  EXPECT_NE(test::error_of([&] { drop_cached(dir / "none"); }).find("cannot open"),
            std::string::npos);
}

/// A machine of control groups in a folder; only what this program writes can be seen.
class GroupTest : public ::testing::Test {
 protected:
  fs::path make(const std::string& own, const std::string& mount) {
    fs::create_directories(root_ / "proc/self");
    test::write_file(root_ / "proc/self/cgroup", own);
    fs::create_directories(root_ / mount);
    return root_ / mount;
  }
  test::TempDir root_;
};

TEST_F(GroupTest, VersionOne) {
  const fs::path parent = make("5:cpu:/\n4:memory:/me\n0::/\n", "sys/fs/cgroup/memory/me");
  MemoryGroup group(root_.path());
  group.limit(123);
  const fs::path own = group.joining_file().parent_path();
  EXPECT_EQ(own.parent_path(), parent);
  EXPECT_EQ(test::read_file(own / "memory.limit_in_bytes"), "123");
}

TEST_F(GroupTest, VersionTwoStepsAside) {
  const fs::path parent = make("0::/me\n", "sys/fs/cgroup/me");
  test::write_file(parent / "cgroup.controllers", "cpu memory io\n");
  test::write_file(parent / "cgroup.subtree_control", "");
  {
    MemoryGroup group(root_.path());
    group.limit(456);
    EXPECT_EQ(test::read_file(group.joining_file().parent_path() / "memory.max"), "456");
    EXPECT_EQ(test::read_file(group.joining_file().parent_path() / "memory.swap.max"), "0");
    EXPECT_EQ(test::read_file(parent / "cgroup.subtree_control"), "+memory");
    const fs::path aside = parent / ("spillway-bench-self-" + std::to_string(getpid()));
    EXPECT_EQ(test::read_file(aside / "cgroup.procs"), std::to_string(getpid()));
  }
  EXPECT_EQ(test::read_file(parent / "cgroup.procs"), std::to_string(getpid())) << "moved back";
}

TEST_F(GroupTest, VersionTwoStepsBackWhereTheGroupIsRefused) {
  const fs::path parent = make("0::/me\n", "sys/fs/cgroup/me");
  test::write_file(parent / "cgroup.controllers", "memory\n");
  test::write_file(parent / "cgroup.subtree_control", "");
  test::write_file(parent / ("spillway-bench-" + std::to_string(getpid())), "in the way");
  EXPECT_NE(test::error_of([&] { MemoryGroup group(root_.path()); }), "");
  EXPECT_EQ(test::read_file(parent / "cgroup.subtree_control"), "-memory");
  EXPECT_EQ(test::read_file(parent / "cgroup.procs"), std::to_string(getpid())) << "moved back";
}

TEST(Timelines, WhatIsNoTraceOfOursIsRefused) {
  const auto refusal = [](const std::string& event) {
    const auto trace = nlohmann::json::parse(R"({"traceEvents":[)" + event + "]}");
    return test::error_of([&] { cut_timeline(trace, 0, "t.json"); });
  };
  const std::map<std::string, std::string> causes = {
      {R"({"ph":"X","ts":1e308,"dur":1,"tid":4})", "at no time of a run"},
      {R"({"ph":"X","ts":0,"dur":1e300,"tid":4})", "at no time of a run"},
      {R"({"ph":"X","ts":0,"dur":-1,"tid":4})", "at no time of a run"},
      {R"({"ph":"X","ts":"now","dur":1,"tid":4})", "no number ts"},
      {R"({"ph":"X","ts":0,"dur":1,"tid":4.9})", "in no lane"},
      {R"({"ph":"X","ts":0,"dur":1,"tid":4294967300})", "no whole pass"},
      {R"({"ph":"X","ts":5,"dur":0,"tid":4})", "no whole pass"},
      {R"({"ph":"X","ts":0,"dur":5e-324,"tid":4})", "no whole pass"},
      {R"({"ph":3,"ts":0,"dur":1,"tid":4})", "no whole pass"},
      {"[]", "no whole pass"},
      {"7", "no whole pass"}};
  for (const auto& [event, cause] : causes) {
    const std::string message = refusal(event);
    EXPECT_EQ(message.find("t.json: "), 0u) << event << ": " << message;
    EXPECT_NE(message.find(cause), std::string::npos) << event << ": " << message;
  }
  const auto odd =
      nlohmann::json::parse(R"({"traceEvents":[{"ph":"X","ts":0,"dur":1,"tid":4,"args":[]}]})");
  EXPECT_EQ(cut_timeline(odd, 0, "t.json").passes, 1u);
}

TEST_F(GroupTest, RefusalsSayWhatToDo) {
  const auto refusal = [&] { return test::error_of([&] { MemoryGroup group(root_.path()); }); };
  make("0::/me\n", "sys/fs/cgroup/me");
  EXPECT_NE(refusal().find("not delegated"), std::string::npos);
  EXPECT_NE(refusal().find("systemd-run"), std::string::npos);
  test::write_file(root_ / "proc/self/cgroup", "1:cpu:/\n");
  EXPECT_NE(refusal().find("names none"), std::string::npos);
  test::write_file(root_ / "proc/self/cgroup", "4:memory:/gone\n");
  EXPECT_NE(refusal().find("gone"), std::string::npos);
}

}  // namespace
}  // namespace spillway
