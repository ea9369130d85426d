// The benchmark driver: what the engine reaches as a share of what the machine can do, measured in
// turn in one run. Prints a Markdown table (docs/PERFORMANCE.md); --json for programs.
//
//   spillway_ratio MODEL_DIR --ram 3GiB --runs 3
//   spillway_ratio MODEL_DIR --device cuda --runs 3
//
// Arms on the host, interleaved: a bare io_uring loop on the model's file; decode with the RAM
// budget; decode with everything resident against the memory's read rate; a prompt with everything
// resident against oneDNN's matmul rate. Arms on a GPU: decode with all layers on the GPU, in RAM,
// on NVMe, and a third in each; a prompt with all layers on the GPU; against device memory, pinned
// copies, the bare loop and cuBLAS.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "bench/cuda_limits.h"
#include "bench/limits.h"
#include "core/failure.h"
#include "core/units.h"
#include "kernels/host/cpu_features.h"
#include "model/generate.h"
#include "probe/read_rate.h"

namespace spillway {
namespace {

struct Options {
  std::string model;
  std::string device = "host";
  std::string ram = "3GiB";
  uint32_t runs = 3;
  uint32_t decode_tokens = 8;
  uint32_t prompt_tokens = 0;  // 0 = 512 on the host, 2048 on a GPU
  uint64_t chunk_bytes = kMiB;
  uint32_t depth = 16;
  bool streamed_only = false;
  bool json = false;
};

struct Series {
  std::vector<double> values;
  void add(double value) { values.push_back(value); }
  std::vector<double> sorted() const {
    auto copy = values;
    std::sort(copy.begin(), copy.end());
    return copy;
  }
  double median() const {
    const auto all = sorted();
    return (all[(all.size() - 1) / 2] + all[all.size() / 2]) / 2;
  }
  std::string text(double unit) const {
    const auto all = sorted();
    return fmt::format("{:.3g} / {:.3g} / {:.3g}", all.front() / unit, median() / unit,
                       all.back() / unit);
  }
};

/// What one arm runs with.
struct Arm {
  std::optional<uint64_t> ram_bytes;
  std::optional<uint64_t> gpu_bytes;
  PlacementPolicy policy = PlacementPolicy::kAuto;
  uint32_t prompt_tokens = 8;
  uint32_t new_tokens = 1;
  bool again =
      false;  // the figures are of the second time: a library loads its kernels at the first
};

/// One model, loaded once, asked again and again.
class Bench {
 public:
  Bench(const Options& options, const Arm& arm) : again_(arm.again) {
    const NoticeSink notice = [](const std::string& line) {
      fmt::print(stderr, "note: {}\n", line);
    };
    config_.model_path = options.model;
    config_.device = options.device;
    config_.ram_bytes = arm.ram_bytes;
    config_.gpu_bytes = arm.gpu_bytes;
    config_.policy = arm.policy;
    config_.ignore_eos = true;
    config_.max_new_tokens = arm.new_tokens;
    config_.prefill_chunk_tokens = std::max(512u, arm.prompt_tokens);
    model_ = std::make_unique<Model>(open_model(config_.model_path, DirectChoice::kAuto, notice));
    machine_ = open_machine(config_, notice);
    prompts_ = {{"", {}}};
    for (uint32_t i = 0; i < arm.prompt_tokens; ++i) {
      prompts_[0].ids.push_back((i * 7919) % model_->config.vocab);
    }
    workload_ = generation_workload(config_, *model_, prompts_);
    plan_ = plan_run(config_, *model_, machine_, workload_);
    readers_ = choose_reader(EngineChoice::kAuto, notice).make;
  }

  /// Loads, runs, and leaves the passes.
  std::vector<PassRecord> run() {
    Runtime runtime(
        {&config_, model_.get(), &machine_, &plan_, readers_, &trace_, &clock_, &stop_});
    runtime.load([](const char*, uint64_t, uint64_t) {});
    const auto once = [&] {
      return whole(generate(runtime, config_, prompts_, [](const GenerationProgress&) {})).passes;
    };
    auto passes = once();
    if (!again_) return passes;
    fmt::print(stderr, "the first pass of this process: {:.3g} s\n", passes[0].seconds);
    return once();
  }
  const Model& model() const { return *model_; }
  const RunPlan& plan() const { return plan_; }
  std::string compute() const { return machine_.ops->description(); }

 private:
  bool again_;
  SteadyClock clock_;
  Trace trace_{clock_, 0};
  StopFlag stop_;
  Config config_;
  std::unique_ptr<Model> model_;
  Machine machine_;
  std::vector<Prompt> prompts_;
  Workload workload_;
  RunPlan plan_;
  ReaderFactory readers_;
};

struct DecodeTotals {
  double seconds = 0;
  uint64_t copied_bytes = 0;
  double stall_seconds = 0;
  uint64_t nvme_bytes = 0;
  uint32_t passes = 0;
};

/// All decode passes but the first, which pays for the prompt's empty pipeline.
DecodeTotals decode_totals(const std::vector<PassRecord>& passes) {
  DecodeTotals totals;
  bool first = true;
  for (const PassRecord& pass : passes) {
    if (pass.kind != PassRecord::Kind::kDecode) continue;
    if (!std::exchange(first, false)) {
      totals.seconds += pass.seconds;
      totals.stall_seconds += seconds(pass.feed.stall_ns);
      totals.nvme_bytes += pass.feed.nvme_bytes;
      totals.copied_bytes += pass.feed.copied_bytes;
      ++totals.passes;
    }
  }
  return totals;
}

std::filesystem::path largest_file(const Checkpoint& checkpoint) {
  const DirectFile* best = &checkpoint.files()[0];
  for (const DirectFile& file : checkpoint.files()) {
    if (file.info().bytes > best->info().bytes) best = &file;
  }
  return best->info().path;
}

/// The bare loop over 4 GiB of the largest file.
double raw_read_rate(const Options& options, const Checkpoint& checkpoint) {
  const DirectFile file(largest_file(checkpoint), DirectChoice::kOn);
  return read_rate(file, {options.chunk_bytes, options.depth, true}, {3600, 4 * kGiB},
                   choose_reader(EngineChoice::kAuto, [](const std::string&) {}).make,
                   SteadyClock(), StopFlag());
}

/// Rows are printed as they come: what was measured is kept when a later arm fails.
class Report {
 public:
  explicit Report(bool json) : as_json_(json) {}
  ~Report() {
    if (as_json_) fmt::print("{}\n", json_.dump(1));
  }
  Report(const Report&) = delete;

  void row(const std::string& name, const std::string& unit_name, double unit, const Series& value,
           const Series* limit) {
    if (value.values.empty()) return;
    const bool limited = limit != nullptr && !limit->values.empty();
    const double share = limited ? value.median() / limit->median() : 0;
    line(fmt::format("| {} | {} {} | {} | {} |\n", name, value.text(unit), unit_name,
                     limited ? limit->text(unit) : "",
                     limited ? fmt::format("{:.0f} %", 100 * share) : ""));
    json_.push_back({{"name", name}, {"unit", unit_name}, {"values", value.values}});
    if (limited) {
      json_.back()["limit"] = limit->values;
      json_.back()["share"] = share;
    }
  }

  /// What an arm or a limit could not do; the program goes on and exits with 1.
  void failure(const std::string& name, const Error& error) {
    failed_ = true;
    fmt::print(stderr, "spillway_ratio: {}: {}\n", name, error.what());
    line(fmt::format("| {} | failed: {} | | |\n", name, error.what()));
    json_.push_back({{"name", name}, {"error", error.what()}});
  }
  bool failed() const { return failed_; }

 private:
  void line(const std::string& text) {
    if (as_json_) return;
    if (!std::exchange(headed_, true)) {
      fmt::print(
          "| what | min / median / max | limit, same run | share of limit |\n"
          "| --- | --- | --- | --- |\n");
    }
    fmt::print("{}", text);
    std::fflush(stdout);
  }

  bool as_json_;
  bool headed_ = false;
  bool failed_ = false;
  nlohmann::ordered_json json_ = nlohmann::ordered_json::array();
};

/// Adds a limit to its series; one that cannot be measured is said once, and the arm runs without.
class Limits {
 public:
  explicit Limits(Report& report) : report_(report) {}
  std::optional<double> measure(const std::string& name, const std::function<double()>& measure) {
    if (failed_.count(name) != 0) return std::nullopt;
    try {
      return measure();
    } catch (const Error& error) {
      failed_.insert(name);
      report_.failure("limit: " + name, error);
      return std::nullopt;
    }
  }

 private:
  Report& report_;
  std::set<std::string> failed_;
};

double weight_bytes_per_pass(const Model& model) {
  return static_cast<double>(model.weights.pass_bytes());
}

/// Of the matmuls in the layers: the head's is one row, attention is little.
double prompt_flops(const Model& model, uint32_t tokens) {
  const auto head = static_cast<double>(model.weights.layers.back().bytes());
  return 2.0 * tokens * (weight_bytes_per_pass(model) - head) /
         static_cast<double>(row_bytes(model.weights.weights[0][1].format, 1));
}

void streamed_arms(const Options& options, Report& report) {
  const auto ram = parse_size(options.ram);
  if (!ram) throw Error("--ram: expected a size such as 3GiB");
  Bench bench(options, {ram, {}, PlacementPolicy::kAuto, 8, options.decode_tokens + 2});
  const uint64_t per_pass = bench.plan().stream.placement.nvme_bytes_per_pass;
  Series raw;
  Series streamed;
  Series pass_seconds;
  Series stalled;
  Series overhead;
  Limits limits(report);
  for (uint32_t run = 0; run < options.runs; ++run) {
    const auto read_raw = [&] {
      return limits.measure("the bare loop",
                            [&] { return raw_read_rate(options, bench.model().checkpoint); });
    };
    const auto before = read_raw();
    const DecodeTotals totals = decode_totals(bench.run());
    const auto after = read_raw();
    if (before && after) raw.add((*before + *after) / 2);  // drift hits both alike
    streamed.add(static_cast<double>(totals.nvme_bytes) / totals.seconds);
    pass_seconds.add(totals.seconds / totals.passes);
    stalled.add(100 * totals.stall_seconds / totals.seconds);
    overhead.add(static_cast<double>(totals.nvme_bytes) /
                 (static_cast<double>(per_pass) * totals.passes));
    fmt::print(stderr, "run {}: raw {:.2f} GB/s, streamed {:.2f} GB/s\n", run + 1,
               before.value_or(0) / 1e9, streamed.values.back() / 1e9);
  }
  report.row(fmt::format("decode streamed at {}", options.ram), "GB/s", 1e9, streamed, &raw);
  report.row("time per token", "s", 1, pass_seconds, nullptr);
  report.row("bytes read over bytes not resident", "x", 1, overhead, nullptr);
  report.row("time stalled", "%", 1, stalled, nullptr);
}

void resident_arms(const Options& options, Report& report) {
  const uint32_t threads = usable_cores();
  const uint32_t prompt_tokens = options.prompt_tokens != 0 ? options.prompt_tokens : 512;
  Bench bench(options, {{}, {}, PlacementPolicy::kAuto, prompt_tokens, options.decode_tokens + 2});
  if (bench.plan().stream.placement.nvme_bytes_per_pass != 0) {
    fmt::print(stderr, "note: the model does not fit memory; resident arms skipped\n");
    return;
  }
  const double bytes = weight_bytes_per_pass(bench.model());
  Series memory;
  Series decode;
  Series prompt;
  Series bf16;
  Series f32;
  Series token_rate;
  for (uint32_t run = 0; run < options.runs; ++run) {
    memory.add(memory_read_rate(threads, 1.5, SteadyClock(), StopFlag()));
    // 0 where the CPU cannot multiply bf16: no limit then.
    if (const double rate = bench::onednn_rate(true, threads, 1.5); rate > 0) bf16.add(rate);
    f32.add(bench::onednn_rate(false, threads, 1.5));
    const auto passes = bench.run();
    const DecodeTotals totals = decode_totals(passes);
    decode.add(bytes * totals.passes / totals.seconds);
    prompt.add(prompt_flops(bench.model(), passes[0].tokens) / passes[0].seconds);
    token_rate.add(passes[0].tokens / passes[0].seconds);
    fmt::print(stderr, "run {}: memory {:.1f} GB/s, decode {:.1f} GB/s, prompt {:.0f} GFLOP/s\n",
               run + 1, memory.values.back() / 1e9, decode.values.back() / 1e9,
               prompt.values.back() / 1e9);
  }
  report.row("decode, all in RAM", "GB/s", 1e9, decode, &memory);
  report.row(fmt::format("prompt of {}, all in RAM, against oneDNN bf16", prompt_tokens), "GFLOP/s",
             1e9, prompt, &bf16);
  report.row(fmt::format("prompt of {}, all in RAM, against oneDNN f32", prompt_tokens), "GFLOP/s",
             1e9, prompt, &f32);
  report.row("prompt", "tokens/s", 1, token_rate, nullptr);
  fmt::print(stderr, "compute: {}\n", bench.compute());
}

/// Limits of one run on a GPU, measured in turn with its arms; 0 = could not be measured.
struct GpuLimits {
  double memory;
  double copy;
  double read;
  double matmul;
};

GpuLimits gpu_limits(const Options& options, const Checkpoint& checkpoint, Limits& measured) {
  const int ordinal = options.device == "cuda" ? 0 : std::stoi(options.device.substr(5));
  const auto limit = [&](const char* name, const std::function<double()>& measure) {
    return measured.measure(name, measure).value_or(0);
  };
  GpuLimits limits{};
  limits.memory = limit("device memory", [&] { return bench::cuda_memory_rate(ordinal, 5); });
  limits.copy = limit("pinned copies", [&] { return bench::cuda_copy_rate(ordinal, 5); });
  limits.matmul = limit("cuBLAS", [&] { return bench::cuda_matmul_rate(ordinal, 5); });
  limits.read = limit("the bare loop", [&] { return raw_read_rate(options, checkpoint); });
  return limits;
}

/// One placement on a GPU, its figure per run and the limit of the same minute.
struct GpuArm {
  std::string name;
  std::string unit_name;
  double unit;
  Arm arm;
  std::function<double(const Bench&, const std::vector<PassRecord>&)> value;
  std::function<double(const GpuLimits&)> limit;
  Series values{};
  Series limits{};
  bool failed = false;
};

std::vector<GpuArm> gpu_arms(const Options& options, const Model& model) {
  const auto weights = static_cast<uint64_t>(weight_bytes_per_pass(model));
  const uint32_t prompt = options.prompt_tokens != 0 ? options.prompt_tokens : 2048;
  const uint32_t tokens = options.decode_tokens + 2;
  const auto seconds_per_pass = [](const std::vector<PassRecord>& passes) {
    const DecodeTotals totals = decode_totals(passes);
    return totals.seconds / totals.passes;
  };
  std::vector<GpuArm> arms;
  // First: its time per pass is what computing costs the mixed arm.
  arms.push_back({"decode, all on the GPU",
                  "GB/s",
                  1e9,
                  {{}, {}, PlacementPolicy::kAuto, 8, 4 * tokens},
                  [=](const Bench& b, const auto& passes) {
                    return weight_bytes_per_pass(b.model()) / seconds_per_pass(passes);
                  },
                  [](const GpuLimits& l) { return l.memory; }});
  arms.push_back({fmt::format("prompt of {}, all on the GPU", prompt),
                  "TFLOP/s",
                  1e12,
                  {{}, {}, PlacementPolicy::kAuto, prompt, 1, true},
                  [](const Bench& b, const auto& passes) {
                    return prompt_flops(b.model(), passes[0].tokens) / passes[0].seconds;
                  },
                  [](const GpuLimits& l) { return l.matmul; }});
  arms.push_back({"decode, all in RAM",
                  "GB/s",
                  1e9,
                  {{}, {}, PlacementPolicy::kRam, 8, tokens},
                  [](const Bench&, const auto& passes) {
                    const DecodeTotals totals = decode_totals(passes);
                    return static_cast<double>(totals.copied_bytes) / totals.seconds;
                  },
                  [](const GpuLimits& l) { return l.copy; }});
  arms.push_back({"decode, all on NVMe",
                  "GB/s",
                  1e9,
                  {kGiB, {}, PlacementPolicy::kNvme, 8, tokens},
                  [](const Bench&, const auto& passes) {
                    const DecodeTotals totals = decode_totals(passes);
                    return static_cast<double>(totals.nvme_bytes) / totals.seconds;
                  },
                  [](const GpuLimits& l) { return std::min(l.read, l.copy); }});
  arms.push_back({"decode, a third in each tier",
                  "s",
                  1,
                  {weights / 3 + 256 * kMiB, weights / 3 + kGiB, PlacementPolicy::kAuto, 8, tokens},
                  [=](const Bench&, const auto& passes) { return seconds_per_pass(passes); },
                  nullptr});
  return arms;
}

/// One run of one arm. `resident_seconds`: a pass with all on the GPU, the first arm's figure.
void run_arm(const Options& options, GpuArm& arm, bool first, const GpuLimits& limits,
             double& resident_seconds) {
  Bench bench(options, arm.arm);
  const Placement& placement = bench.plan().stream.placement;
  const auto passes = bench.run();
  arm.values.add(arm.value(bench, passes));
  if (first) {
    resident_seconds = weight_bytes_per_pass(bench.model()) / arm.values.values.back();
    if (placement.copied_bytes_per_pass != 0) {
      fmt::print(stderr, "note: the model does not fit the GPU; its figures are of a mix\n");
    }
  }
  const auto seconds = [](uint64_t bytes, double rate) {
    return rate > 0 ? static_cast<double>(bytes) / rate : 0.0;
  };
  const double slowest =
      std::max({seconds(placement.nvme_bytes_per_pass, limits.read),
                seconds(placement.copied_bytes_per_pass, limits.copy), resident_seconds});
  const double limit = arm.limit ? arm.limit(limits) : slowest;
  if (limit > 0) arm.limits.add(limit);
  fmt::print(stderr, "{}: {:.3g} {}, limit {:.3g}\n", arm.name, arm.values.values.back() / arm.unit,
             arm.unit_name, limit / arm.unit);
}

void device_arms(const Options& options, Report& report) {
  const Model model = open_model(options.model, DirectChoice::kAuto, [](const std::string&) {});
  auto arms = gpu_arms(options, model);
  Limits measured(report);
  for (uint32_t run = 0; run < options.runs; ++run) {
    fmt::print(stderr, "run {}:\n", run + 1);
    const GpuLimits limits = gpu_limits(options, model.checkpoint, measured);
    double resident_seconds = 0;
    for (GpuArm& arm : arms) {
      if (arm.failed) continue;
      try {
        run_arm(options, arm, &arm == &arms[0], limits, resident_seconds);
      } catch (const Error& error) {
        arm.failed = true;
        report.failure(arm.name, error);
      }
      const bool last = run + 1 == options.runs;
      if (last || arm.failed) {
        report.row(arm.name, arm.unit_name, arm.unit, arm.values, &arm.limits);
      }
    }
  }
}

/// Each part of the host's arms may fail alone.
void host_arms(const Options& options, Report& report) {
  const auto part = [&](const char* name, const auto& arms) {
    try {
      arms(options, report);
    } catch (const Error& error) {
      report.failure(name, error);
    }
  };
  part("streamed", streamed_arms);
  if (!options.streamed_only) part("resident", resident_arms);
}

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) {
  spillway::Options options;
  CLI::App app{"What the engine reaches, as a share of what this machine can do"};
  app.add_option("MODEL_DIR", options.model, "Checkpoint (spillway synth DIR --like bench-7gb)")
      ->required();
  app.add_option("--device", options.device, "host, cuda or cuda:N")->capture_default_str();
  app.add_option("--ram", options.ram, "Budget of the streamed arm")->capture_default_str();
  app.add_option("--runs", options.runs, "Repetitions")->check(CLI::Range(1, 100));
  app.add_option("--tokens", options.decode_tokens, "Decode passes per run");
  app.add_option("--prompt-tokens", options.prompt_tokens,
                 "Length of the resident arm's prompt (512; 2048 on a GPU)");
  app.add_option("--raw-chunk", options.chunk_bytes, "Bytes per read of the bare loop");
  app.add_option("--raw-depth", options.depth, "Queue depth of the bare loop");
  app.add_flag("--streamed-only", options.streamed_only, "Skip the resident arms");
  app.add_flag("--json", options.json, "Print JSON");
  CLI11_PARSE(app, argc, argv);
  try {
    spillway::Report report(options.json);
    if (options.device.rfind("cuda", 0) == 0) {
      spillway::device_arms(options, report);
    } else {
      spillway::host_arms(options, report);
    }
    return report.failed() ? 1 : 0;
  } catch (const spillway::Error& error) {
    fmt::print(stderr, "spillway_ratio: {}\n", error.what());
    return 1;
  }
}
