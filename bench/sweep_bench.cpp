// What a sweep is worth on a slow drive: scoring with everything in RAM, in chunks of 512 that
// read all weights for each, and in sweeps of 1,024, 2,048, ... tokens that read them once. The
// drive is this machine's, throttled by this program (bench/throttled_reader.h), so that a small
// model is bound by reads. Prints a Markdown table, draws it (docs/PERFORMANCE.md, "Sweeps").
//
//   spillway_sweeps MODEL_DIR --ram 256MiB --rate 0.15e9 --runs 3
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <vector>

#include "bench/throttled_reader.h"
#include "compare/answer.h"
#include "compare/page.h"
#include "compare/svg.h"
#include "core/failure.h"
#include "core/output_file.h"
#include "core/units.h"
#include "model/prediction.h"
#include "model/score.h"

namespace spillway {
namespace {

constexpr uint32_t kDocumentTokens = 512;
constexpr uint64_t kChunkBytes = kUsualChunkBytes;

struct Options {
  std::string model;
  std::string ram = "256MiB";
  double bytes_per_second = 0.15e9;
  uint32_t tokens = 16384;
  uint32_t passes = 8;
  uint32_t runs = 3;
  std::string svg;
  uint64_t ram_bytes() const {
    const auto bytes = parse_size(ram);
    if (!bytes) throw Error("--ram: expected a size such as 256MiB");
    return *bytes;
  }
};

using Texts = std::vector<std::vector<uint32_t>>;

Texts some_documents(uint32_t tokens, uint32_t vocab) {
  Texts texts;
  for (uint32_t at = 0; at < tokens; at += kDocumentTokens) {
    auto& text = texts.emplace_back(std::min(kDocumentTokens, tokens - at));
    for (uint32_t i = 0; i < text.size(); ++i) {
      text[i] = static_cast<uint32_t>((uint64_t{i} * 7919 + texts.size() * 104729) % vocab);
    }
  }
  return texts;
}

/// One way to score. The figures are sums over the passes of a run, one entry a run.
struct Arm {
  std::string name;
  uint32_t sweep_tokens = 0;
  bool in_ram = false;
  Config config;
  Texts texts;
  RunPlan plan;
  Workload workload;
  uint64_t passes = 0;
  uint64_t not_resident_bytes = 0;  ///< of a pass
  std::vector<double> seconds;
  std::vector<double> stall_seconds;
  std::vector<double> nvme_bytes;

  double tokens() const {
    double sum = 0;
    for (const auto& text : texts) sum += static_cast<double>(text.size());
    return sum;
  }
};

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

class SweepBench {
 public:
  explicit SweepBench(const Options& options)
      : options_(options),
        readers_(choose_reader(EngineChoice::kAuto, notice_)),
        drive_(std::make_shared<bench::SlowDrive>(options.bytes_per_second, clock_)),
        model_(open_model(options.model, DirectChoice::kAuto, notice_)),
        machine_(open_machine(base(), notice_)) {
    add("everything in RAM", kDocumentTokens, true);
    for (uint32_t sweep = kDocumentTokens; sweep <= options.tokens; sweep *= 2) {
      add(fmt::format("{} of {}", sweep == kDocumentTokens ? "chunks" : "sweeps", sweep), sweep,
          false);
    }
  }

  void run() {
    fmt::print("{}; {}\n{}, throttled by this program to {:.3g} GB/s; {} for all but the first\n\n",
               model_.checkpoint.path().filename().string(), machine_.ops->description(),
               readers_.name, options_.bytes_per_second / 1e9, options_.ram);
    for (uint32_t run = 0; run < options_.runs; ++run) {
      for (Arm& arm : arms_) {
        measure(arm);
        fmt::print(stderr, "run {}: {}: {:.0f} tokens/s\n", run + 1, arm.name,
                   arm.tokens() / arm.seconds.back());
      }
    }
    print_table();
    print_bounds();
    const Comparison measured = comparison();
    for (const std::string& line : findings(measured)) fmt::print("{}\n", line);
    fmt::print("{}\n", answer(measured));
    std::fflush(stdout);
    if (options_.svg.empty()) return;
    FilesInUse in_use;
    OutputFile(options_.svg, svg_format("picture"), in_use).write(chart_svg(score_chart(measured)));
  }

 private:
  Config base() const {
    Config config;
    config.model_path = options_.model;
    config.device = "host";
    config.io_chunk_bytes = kChunkBytes;
    config.io_depth = kUsualDepth;
    config.score_chunk_tokens = kDocumentTokens;
    config.score_logprobs = false;
    return config;
  }

  /// The input embeddings are in RAM in all arms: they are read row by row, in blocks of the
  /// drive's, whatever the sweep is.
  void add(const std::string& name, uint32_t sweep_tokens, bool in_ram) {
    Arm arm;
    arm.name = name;
    arm.sweep_tokens = sweep_tokens;
    arm.in_ram = in_ram;
    arm.config = base();
    arm.config.score_sweep_tokens = sweep_tokens;
    if (in_ram) {
      arm.config.policy = PlacementPolicy::kRam;
    } else {
      arm.config.ram_bytes = options_.ram_bytes();
      if (!model_.weights.tied) arm.config.overrides.push_back({"embed", 0, 0, Tier::kRam});
    }
    // Passes are all alike: of the slow arms a few tell as much as many.
    const uint64_t most = in_ram ? options_.tokens : uint64_t{options_.passes} * sweep_tokens;
    const auto tokens = static_cast<uint32_t>(std::min<uint64_t>(options_.tokens, most));
    arm.texts = some_documents(tokens, model_.config.vocab);
    arm.workload = scoring_workload(arm.config, model_, arm.texts);
    arm.plan = plan_run(arm.config, model_, machine_, arm.workload);
    const ForwardLimits& limits = arm.plan.limits;
    if (std::max(limits.sweep_rows, limits.max_rows) < sweep_tokens) {
      throw Error(fmt::format("--ram {} leaves no room for {}; give more", options_.ram, name));
    }
    arm.not_resident_bytes = arm.plan.stream.placement.nvme_bytes_per_pass;
    if (!in_ram && arm.not_resident_bytes == 0) {
      throw Error(fmt::format("--ram {} holds all of the model: nothing would be read in {}",
                              options_.ram, name));
    }
    arms_.push_back(std::move(arm));
  }

  void measure(Arm& arm) {
    const ReaderFactory readers =
        arm.in_ram ? readers_.make : bench::throttled(readers_.make, drive_);
    Runtime runtime(
        {&arm.config, &model_, &machine_, &arm.plan, readers, &trace_, &clock_, &stop_});
    runtime.load([](const char*, uint64_t, uint64_t) {});
    const ScoreResult result =
        whole(score(runtime, arm.config, arm.texts, [](const ScoreProgress&) {}));
    double pass_seconds = 0;
    double stalled = 0;
    double nvme = 0;
    for (const PassRecord& pass : result.passes) {
      pass_seconds += pass.seconds;
      stalled += seconds(pass.feed.stall_ns);
      nvme += static_cast<double>(pass.feed.nvme_bytes);
    }
    arm.passes = result.passes.size();
    arm.seconds.push_back(pass_seconds);
    arm.stall_seconds.push_back(stalled);
    arm.nvme_bytes.push_back(nvme);
  }

  double token_rate(const Arm& arm) const { return arm.tokens() / median_of(arm.seconds); }
  double of_ram(const Arm& arm) const { return token_rate(arm) / token_rate(arms_[0]); }
  /// What the same tokens take with everything in RAM.
  double compute_seconds(const Arm& arm) const { return arm.tokens() / token_rate(arms_[0]); }
  double drive_seconds(const Arm& arm) const {
    return median_of(arm.nvme_bytes) / options_.bytes_per_second;
  }
  double of_bytes(const Arm& arm) const {
    return median_of(arm.nvme_bytes) / static_cast<double>(arm.passes * arm.not_resident_bytes);
  }
  double of_limit(const Arm& arm) const {
    return median_of(arm.seconds) / std::max(compute_seconds(arm), drive_seconds(arm));
  }

  /// The simulated pipeline with this drive and with the cores as the first arm shows them: all
  /// that a chunk computes, in proportion to its weights.
  PassPrediction predict(const Arm& arm, const PassShape& shape) const {
    const double chunk_seconds = kDocumentTokens / token_rate(arms_[0]);
    MachineRates rates;
    rates.reads = {{kChunkBytes, kUsualDepth, options_.bytes_per_second}};
    rates.matmuls = {
        {kDocumentTokens, static_cast<double>(model_.weights.pass_bytes()) / chunk_seconds}};
    constexpr double kNothing = 1e-30;  // 0 would be attention as a matmul takes it
    rates.attention_seconds = kNothing;
    return predict_pass(model_, arm.plan, true, shape, rates);
  }
  static PassShape shape_of(const Arm& arm) {
    return prompt_shape(arm.plan, arm.workload, work_amount(arm.workload));
  }
  double predicted_rate(const Arm& arm) const {
    const PassShape shape = shape_of(arm);
    return static_cast<double>(shape.tokens()) / predict(arm, shape).seconds;
  }

  /// As `spillway bench --sweeps score` has it: figures of an average pass.
  Comparison comparison() const {
    Comparison all;
    for (const Arm& arm : arms_) {
      ArmResult result;
      result.arm.sweep = Sweep::kScore;
      result.arm.sweep_tokens = arm.in_ram ? 0 : arm.sweep_tokens;
      const PassShape shape = shape_of(arm);
      const auto passes = static_cast<double>(arm.passes);
      const PassPrediction predicted = arm.in_ram ? PassPrediction{} : predict(arm, shape);
      for (size_t run = 0; run < arm.seconds.size(); ++run) {
        result.samples.push_back({arm.seconds[run] / passes, arm.nvme_bytes[run] / passes,
                                  arm.stall_seconds[run] / passes, predicted.seconds,
                                  static_cast<uint32_t>(shape.tokens()), 0, predicted.read_seconds,
                                  predicted.compute_seconds});
      }
      all.arms.push_back(std::move(result));
    }
    return all;
  }

  void print_table() const {
    fmt::print(
        "| arm | passes | tokens/s, min / median / max | of RAM | predicted | read | of passes × "
        "not resident | of max(compute, drive) | stalled |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n");
    for (const Arm& arm : arms_) {
      const auto [least, most] = std::minmax_element(arm.seconds.begin(), arm.seconds.end());
      fmt::print("| {} | {} | {:.0f} / {:.0f} / {:.0f} | {:.1f} % |", arm.name, arm.passes,
                 arm.tokens() / *most, token_rate(arm), arm.tokens() / *least, 100 * of_ram(arm));
      if (arm.in_ram) {
        fmt::print(" | | | | |\n");
        continue;
      }
      fmt::print(" {:.0f} | {} | {:.3f} | {:.3f} | {:.1f} % |\n", predicted_rate(arm),
                 format_bytes(static_cast<uint64_t>(median_of(arm.nvme_bytes))), of_bytes(arm),
                 of_limit(arm), 100 * median_of(arm.stall_seconds) / median_of(arm.seconds));
    }
  }

  static void print_bound(const std::string& what, double value, const char* bound, bool holds) {
    fmt::print("{}: {:.3f}, {}: {}\n", what, value, bound, holds ? "holds" : "DOES NOT HOLD");
  }

  void print_bounds() const {
    double most_bytes = 0;
    double most_time = 0;
    for (const Arm& arm : arms_) {
      if (arm.in_ram) continue;
      most_bytes = std::max(most_bytes, of_bytes(arm));
      most_time = std::max(most_time, of_limit(arm));
    }
    fmt::print("\n");
    print_bound(arms_.back().name + " against everything in RAM", of_ram(arms_.back()), "≥ 0.95",
                of_ram(arms_.back()) >= 0.95);
    print_bound("chunks against everything in RAM", of_ram(arms_[1]), "< 0.5",
                of_ram(arms_[1]) < 0.5);
    print_bound("bytes read over passes × bytes not resident, at most", most_bytes, "≤ 1.05",
                most_bytes <= 1.05);
    print_bound("time over max(compute, drive), at most", most_time, "≤ 1.1", most_time <= 1.1);
  }

  const Options options_;
  NoticeSink notice_ = [](const std::string& line) { fmt::print(stderr, "note: {}\n", line); };
  SteadyClock clock_;
  Trace trace_{clock_, 0};
  StopFlag stop_;
  ReaderChoice readers_;
  std::shared_ptr<bench::SlowDrive> drive_;
  Model model_;
  Machine machine_;
  std::vector<Arm> arms_;
};

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) {
  spillway::Options options;
  CLI::App app{"What sweeps are worth where the drive is slow"};
  app.add_option("MODEL_DIR", options.model, "Checkpoint of 0.3 to 1.3 GB")->required();
  app.add_option("--ram", options.ram, "Budget of the arms that read")->capture_default_str();
  app.add_option("--rate", options.bytes_per_second, "Bytes per second that the drive is slowed to")
      ->check(CLI::Range(1e6, 1e12))
      ->capture_default_str();
  app.add_option("--tokens", options.tokens, "Tokens to score, in documents of 512")
      ->check(CLI::Range(512, 1 << 22))
      ->capture_default_str();
  app.add_option("--passes", options.passes, "Most passes of an arm; all are alike")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--runs", options.runs, "Repetitions, interleaved")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  app.add_option("--svg", options.svg, "Draw tokens per second into this file");
  CLI11_PARSE(app, argc, argv);
  try {
    spillway::SweepBench(options).run();
    return 0;
  } catch (const spillway::Error& error) {
    fmt::print(stderr, "spillway_sweeps: {}\n", error.what());
    return 1;
  }
}
