// Tokens end to end on a small synthetic model, by placement and batch: the decode passes of whole
// runs. Reads come from the drive of the temporary folder (TMPDIR).
#include <benchmark/benchmark.h>

#include <filesystem>

#include "core/failure.h"
#include "core/units.h"
#include "model/generate.h"
#include "model/synthetic.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kNewTokens = 9;

/// 290 MB of bf16, written once and removed at the end.
class SmallModel {
 public:
  SmallModel() : folder_(fs::temp_directory_path() / "spillway-bench-tokens") {
    SyntheticOptions options;
    options.model = preset_config("tiny");
    options.model.layers = 8;
    options.model.hidden = 1024;
    options.model.intermediate = 4096;
    options.model.heads = options.model.kv_heads = 16;
    options.model.head_dim = 64;
    options.model.vocab = 8192;
    fs::remove_all(folder_);
    write_synthetic(folder_, options, StopFlag(), [](uint64_t, uint64_t) {});
  }
  ~SmallModel() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }
  SmallModel(const SmallModel&) = delete;
  const fs::path& folder() const { return folder_; }

 private:
  fs::path folder_;
};

/// One run per iteration; its time is that of the decode passes after the first.
void decode(benchmark::State& state, double ram_share) {
  static const SmallModel small;
  const NoticeSink notice = [](const std::string&) {};
  Config config;
  config.model_path = small.folder();
  config.device = "host";
  config.ram_share = ram_share;
  config.max_new_tokens = kNewTokens;
  config.ignore_eos = true;
  const auto batch = static_cast<uint32_t>(state.range(0));
  std::vector<Prompt> prompts;
  for (uint32_t i = 0; i < batch; ++i) prompts.push_back({"", {1 + i, 2, 3}});
  const Model model = open_model(config.model_path, DirectChoice::kAuto, notice);
  Machine machine = open_machine(config, notice);
  const Workload workload = generation_workload(config, model, prompts);
  const RunPlan plan = plan_run(config, model, machine, workload);
  SteadyClock clock;
  Trace trace(clock, 0);
  const StopFlag stop;
  const ReaderFactory readers = choose_reader(EngineChoice::kAuto, notice).make;
  uint64_t tokens = 0;
  uint64_t nvme_bytes = 0;
  for (auto _ : state) {
    Runtime runtime({&config, &model, &machine, &plan, readers, &trace, &clock, &stop});
    runtime.load([](const char*, uint64_t, uint64_t) {});
    const auto passes =
        whole(generate(runtime, config, prompts, [](const GenerationProgress&) {})).passes;
    double seconds = 0;
    for (size_t i = 2; i < passes.size(); ++i) {  // the prompt, and the pass that follows it
      seconds += passes[i].seconds;
      tokens += passes[i].tokens;
      nvme_bytes += passes[i].feed.nvme_bytes;
    }
    state.SetIterationTime(seconds);
  }
  using benchmark::Counter;
  state.counters["tokens/s"] = Counter(static_cast<double>(tokens), Counter::kIsRate);
  state.counters["nvme bytes/s"] = Counter(static_cast<double>(nvme_bytes), Counter::kIsRate);
}
BENCHMARK_CAPTURE(decode, ram, 1.0)
    ->Arg(1)
    ->Arg(16)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(decode, half, 0.5)
    ->Arg(1)
    ->Arg(16)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(decode, nvme, 0.0)
    ->Arg(1)
    ->Arg(16)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace spillway
