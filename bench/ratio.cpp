// The benchmark driver: what the engine reaches as a share of what the machine can do, measured in
// turn in one run. Prints a Markdown table (docs/PERFORMANCE.md); --json for programs.
//
//   spillway_ratio MODEL_DIR --ram 3GiB --runs 3
//
// Arms, interleaved: a bare io_uring loop on the model's file; decode with the RAM budget; decode
// with everything resident against the memory's read rate; a 512-token prompt with everything
// resident against oneDNN's matmul rate.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "bench/limits.h"
#include "core/error.h"
#include "core/units.h"
#include "kernels/host/cpu_features.h"
#include "model/generate.h"

namespace spillway {
namespace {

struct Options {
  std::string model;
  std::string ram = "3GiB";
  uint32_t runs = 3;
  uint32_t decode_tokens = 8;
  uint32_t prompt_tokens = 512;
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
  double median() const { return sorted()[values.size() / 2]; }
  std::string text(double unit) const {
    const auto all = sorted();
    return fmt::format("{:.3g} / {:.3g} / {:.3g}", all.front() / unit, median() / unit,
                       all.back() / unit);
  }
};

/// One model, loaded once, asked again and again.
class Bench {
 public:
  Bench(const Options& options, std::optional<uint64_t> ram_bytes, uint32_t prompt_tokens,
        uint32_t new_tokens) {
    const NoticeSink notice = [](const std::string& line) {
      fmt::print(stderr, "note: {}\n", line);
    };
    config_.model_path = options.model;
    config_.device = "host";
    config_.ram_bytes = ram_bytes;
    config_.ignore_eos = true;
    config_.max_new_tokens = new_tokens;
    model_ = std::make_unique<Model>(open_model(config_.model_path, DirectChoice::kAuto, notice));
    machine_ = open_machine(config_, notice);
    prompts_ = {{"", {}}};
    for (uint32_t i = 0; i < prompt_tokens; ++i) {
      prompts_[0].ids.push_back((i * 7919) % model_->config.vocab);
    }
    workload_ = generation_workload(config_, *model_, prompts_);
    plan_ = plan_run(config_, *model_, machine_, workload_);
    readers_ = choose_reader(EngineChoice::kAuto, notice);
  }

  /// Loads, runs, and leaves the passes.
  std::vector<PassRecord> run() {
    Runtime runtime({&config_, model_.get(), &machine_, &plan_, readers_, &trace_, &clock_, &stop_},
                    workload_);
    runtime.load([](const char*, uint64_t, uint64_t) {});
    return generate(runtime, config_, prompts_, [](const GenerationProgress&) {}).passes;
  }
  const Model& model() const { return *model_; }
  const RunPlan& plan() const { return plan_; }
  std::string compute() const { return machine_.ops->description(); }

 private:
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

class Report {
 public:
  void row(const std::string& name, const std::string& unit_name, double unit, const Series& value,
           const Series* limit) {
    const double share = limit == nullptr ? 0 : value.median() / limit->median();
    rows_ += fmt::format("| {} | {} {} | {} | {} |\n", name, value.text(unit), unit_name,
                         limit == nullptr ? "" : limit->text(unit),
                         limit == nullptr ? "" : fmt::format("{:.0f} %", 100 * share));
    json_.push_back({{"name", name}, {"unit", unit_name}, {"values", value.values}});
    if (limit != nullptr) {
      json_.back()["limit"] = limit->values;
      json_.back()["share"] = share;
    }
  }
  void print(bool json) const {
    if (json) {
      fmt::print("{}\n", json_.dump(1));
      return;
    }
    fmt::print(
        "| what | min / median / max | limit, same run | share of limit |\n"
        "| --- | --- | --- | --- |\n{}",
        rows_);
  }

 private:
  std::string rows_;
  nlohmann::ordered_json json_ = nlohmann::ordered_json::array();
};

double weight_bytes_per_pass(const Model& model) {
  uint64_t bytes = 0;
  for (const LayerSpec& layer : model.weights.layers) bytes += layer.bytes();
  return static_cast<double>(bytes);
}

void streamed_arms(const Options& options, Report& report) {
  const auto ram = parse_size(options.ram);
  if (!ram) throw Error("--ram: expected a size such as 3GiB");
  Bench bench(options, ram, 8, options.decode_tokens + 2);
  const uint64_t per_pass = bench.plan().stream.placement.nvme_bytes_per_pass;
  Series raw;
  Series streamed;
  Series pass_seconds;
  Series stalled;
  Series overhead;
  for (uint32_t run = 0; run < options.runs; ++run) {
    const auto read_raw = [&] {
      return bench::raw_read_rate(largest_file(bench.model().checkpoint), 4 * kGiB,
                                  options.chunk_bytes, options.depth);
    };
    const double before = read_raw();
    const DecodeTotals totals = decode_totals(bench.run());
    raw.add((before + read_raw()) / 2);  // drift hits both alike
    streamed.add(static_cast<double>(totals.nvme_bytes) / totals.seconds);
    pass_seconds.add(totals.seconds / totals.passes);
    stalled.add(100 * totals.stall_seconds / totals.seconds);
    overhead.add(static_cast<double>(totals.nvme_bytes) /
                 (static_cast<double>(per_pass) * totals.passes));
    fmt::print(stderr, "run {}: raw {:.2f} GB/s, streamed {:.2f} GB/s\n", run + 1,
               raw.values.back() / 1e9, streamed.values.back() / 1e9);
  }
  report.row(fmt::format("decode streamed at {}", options.ram), "GB/s", 1e9, streamed, &raw);
  report.row("time per token", "s", 1, pass_seconds, nullptr);
  report.row("bytes read over bytes not resident", "x", 1, overhead, nullptr);
  report.row("time stalled", "%", 1, stalled, nullptr);
}

void resident_arms(const Options& options, Report& report) {
  const uint32_t threads = usable_cores();
  Bench bench(options, std::nullopt, options.prompt_tokens, options.decode_tokens + 2);
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
  Series prompt_tokens;
  for (uint32_t run = 0; run < options.runs; ++run) {
    memory.add(bench::memory_read_rate(threads, 1.5));
    bf16.add(bench::onednn_rate(true, threads, 1.5));
    f32.add(bench::onednn_rate(false, threads, 1.5));
    const auto passes = bench.run();
    const DecodeTotals totals = decode_totals(passes);
    decode.add(bytes * totals.passes / totals.seconds);
    const double flops =
        2.0 * passes[0].tokens *
        (bytes - static_cast<double>(bench.model().weights.layers.back().bytes())) /
        static_cast<double>(dtype_bytes(bench.model().weights.weights[0][1].dtype));
    prompt.add(flops / passes[0].seconds);
    prompt_tokens.add(passes[0].tokens / passes[0].seconds);
    fmt::print(stderr, "run {}: memory {:.1f} GB/s, decode {:.1f} GB/s, prompt {:.0f} GFLOP/s\n",
               run + 1, memory.values.back() / 1e9, decode.values.back() / 1e9,
               prompt.values.back() / 1e9);
  }
  report.row("decode, all in RAM", "GB/s", 1e9, decode, &memory);
  report.row(fmt::format("prompt of {}, all in RAM, against oneDNN bf16", options.prompt_tokens),
             "GFLOP/s", 1e9, prompt, &bf16);
  report.row(fmt::format("prompt of {}, all in RAM, against oneDNN f32", options.prompt_tokens),
             "GFLOP/s", 1e9, prompt, &f32);
  report.row("prompt", "tokens/s", 1, prompt_tokens, nullptr);
  fmt::print(stderr, "compute: {}\n", bench.compute());
}

}  // namespace
}  // namespace spillway

int main(int argc, char** argv) {
  spillway::Options options;
  CLI::App app{"What the engine reaches, as a share of what this machine can do"};
  app.add_option("MODEL_DIR", options.model, "Checkpoint (spillway synth DIR --like bench-7gb)")
      ->required();
  app.add_option("--ram", options.ram, "Budget of the streamed arm")->capture_default_str();
  app.add_option("--runs", options.runs, "Repetitions")->check(CLI::Range(1, 100));
  app.add_option("--tokens", options.decode_tokens, "Decode passes per run");
  app.add_option("--prompt-tokens", options.prompt_tokens, "Length of the resident arm's prompt");
  app.add_option("--raw-chunk", options.chunk_bytes, "Bytes per read of the bare loop");
  app.add_option("--raw-depth", options.depth, "Queue depth of the bare loop");
  app.add_flag("--streamed-only", options.streamed_only, "Skip the resident arms");
  app.add_flag("--json", options.json, "Print JSON");
  CLI11_PARSE(app, argc, argv);
  try {
    spillway::Report report;
    spillway::streamed_arms(options, report);
    if (!options.streamed_only) spillway::resident_arms(options, report);
    report.print(options.json);
  } catch (const spillway::Error& error) {
    fmt::print(stderr, "spillway_ratio: {}\n", error.what());
    return 1;
  }
  return 0;
}
