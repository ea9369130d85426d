#include "tests/run_helper.h"

#include "core/error.h"
#include "core/failure.h"
#include "core/units.h"
#include "model/gguf_names.h"
#include "model/weight_map.h"

namespace spillway::test {
namespace {

struct Session {
  explicit Session(const Config& config)
      : model(open_model(config.model_path, config.io_direct, notices.sink())),
        machine(open_machine(config, notices.sink())),
        readers(choose_reader(config.io_engine, notices.sink()).make) {}

  std::unique_ptr<Runtime> start(const Config& config, const Workload& workload) {
    plan = plan_run(config, model, machine, workload);
    auto runtime = std::make_unique<Runtime>(
        Runtime::Parts{&config, &model, &machine, &plan, readers, &trace, &clock, &stop});
    runtime->load([](const char*, uint64_t, uint64_t) {});
    return runtime;
  }

  Notices notices;
  SteadyClock clock;
  Trace trace{clock, 0};
  StopFlag stop;
  Model model;
  Machine machine;
  ReaderFactory readers;
  RunPlan plan;
};

/// A run that ends after its first pass by an exception, however that is shown.
template <typename Run>
void break_off(const Run& run) {
  try {
    run([](auto&&...) { throw Error("broken off"); });
  } catch (const Error&) {
  }
}

}  // namespace

RunOutcome run_model(const Config& config, const std::vector<Prompt>* given) {
  Session session(config);
  const auto prompts = given != nullptr ? *given : make_prompts(config, session.model);
  Workload workload = generation_workload(config, session.model, prompts);
  workload.keep_logits = true;
  const auto runtime = session.start(config, workload);
  RunOutcome outcome;
  outcome.result = whole(generate(*runtime, config, prompts, [](const GenerationProgress&) {}));
  const auto logits = runtime->forward().logits(0);
  outcome.logits.assign(logits.begin(), logits.end());
  outcome.plan = session.plan;
  outcome.ram_home_bytes = runtime->engine().store().ram_bytes();
  outcome.pinned_bytes = runtime->engine().store().pinned_bytes();
  outcome.pin_refusal = runtime->engine().store().pin_refusal();
  outcome.notices = session.notices.lines;
  return outcome;
}

GenerationResult watch_model(const Config& config, const std::vector<Prompt>& prompts,
                             const GenerationObserver& observer) {
  Session session(config);
  const auto runtime = session.start(config, generation_workload(config, session.model, prompts));
  return whole(generate(*runtime, config, prompts, observer));
}

ScoreResult score_model(const Config& config, const std::vector<std::vector<uint32_t>>& texts,
                        RunPlan* plan) {
  Session session(config);
  check_score_texts(session.model, texts);
  const auto runtime = session.start(config, scoring_workload(config, session.model, texts));
  if (plan != nullptr) *plan = session.plan;
  return whole(score(*runtime, config, texts, [](const ScoreProgress&) {}));
}

std::vector<std::vector<std::vector<uint32_t>>> generate_again(const Config& config,
                                                               const std::vector<Prompt>& prompts,
                                                               uint32_t times) {
  Session session(config);
  const auto runtime = session.start(config, generation_workload(config, session.model, prompts));
  std::vector<std::vector<std::vector<uint32_t>>> all;
  for (uint32_t i = 0; i < times; ++i) {
    auto& ids = all.emplace_back();
    const auto result =
        whole(generate(*runtime, config, prompts, [](const GenerationProgress&) {}));
    for (const Output& output : result.outputs) ids.push_back(output.ids);
    break_off([&](const GenerationObserver& end) { generate(*runtime, config, prompts, end); });
  }
  return all;
}

std::vector<std::vector<std::vector<float>>> score_again(
    const Config& config, const std::vector<std::vector<uint32_t>>& texts, uint32_t times) {
  Session session(config);
  const auto runtime = session.start(config, scoring_workload(config, session.model, texts));
  std::vector<std::vector<std::vector<float>>> all;
  for (uint32_t i = 0; i < times; ++i) {
    all.push_back(whole(score(*runtime, config, texts, [](const ScoreProgress&) {})).logprobs);
    break_off([&](const ScoreObserver& end) { score(*runtime, config, texts, end); });
  }
  return all;
}

namespace {

template <typename T>
void append(std::vector<T>& all, std::span<const T> more) {
  all.insert(all.end(), more.begin(), more.end());
}

void append_scores(Tapped& all, const Batch& batch, const Forward& forward, bool top_k) {
  append<uint32_t>(all.ids, batch.ids);
  append<uint32_t>(all.targets, batch.targets);
  append(all.logprobs, forward.log_probabilities());
  append(all.log_sum_exp, forward.log_sum_exp());
  append(all.greedy, forward.greedy());
  if (!top_k) return;
  append(all.top_ids, forward.top_k_ids());
  append(all.top_logits, forward.top_k_logits());
}

/// The layers that a batch was told, in that order, must be those that were asked for.
class TapObserver {
 public:
  TapObserver(Tapped& all, const Forward& forward, const Taps& taps, uint32_t hidden)
      : all_(all), forward_(forward), taps_(taps), hidden_(hidden) {}

  ForwardObserver observe(std::span<const SweepBatch> batches) {
    told_.assign(batches.size(), {});
    scored_ = 0;
    ForwardObserver observer;
    observer.scored = [this, batches](size_t b) {
      EXPECT_EQ(b, scored_++);
      append_scores(all_, batches[b].batch, forward_, taps_.top_k > 0);
    };
    observer.hidden = [this, batches](size_t b, uint32_t layer, std::span<const float> states) {
      EXPECT_EQ(states.size(), batches[b].batch.ids.size() * hidden_);
      EXPECT_GE(b, scored_) << "before its scores";
      told_[b].push_back(layer);
      append(all_.hidden[layer], states);
    };
    return observer;
  }
  void expect_all_told() const {
    for (const auto& layers : told_) EXPECT_EQ(layers, taps_.hidden_layers);
    EXPECT_EQ(scored_, told_.size());
  }

 private:
  Tapped& all_;
  const Forward& forward_;
  const Taps& taps_;
  uint32_t hidden_;
  std::vector<std::vector<uint32_t>> told_;
  size_t scored_ = 0;
};

}  // namespace

Tapped tap_model(const Config& config, const std::vector<std::vector<uint32_t>>& texts,
                 const Taps& taps, RunPlan* plan) {
  Session session(config);
  Workload workload = scoring_workload(config, session.model, texts);
  workload.top_k = taps.top_k;
  workload.hidden_layers = taps.hidden_layers;
  const auto runtime = session.start(config, workload);
  if (plan != nullptr) *plan = session.plan;
  std::vector<TextShape> shapes;
  for (const auto& text : texts) shapes.push_back({static_cast<uint32_t>(text.size()), 1});
  const ForwardLimits& limits = session.plan.limits;
  const auto batches = plan_scoring(shapes, score_cut(config, session.model, limits.max_rows));
  const auto sweeps = plan_sweeps(batches, limits.sweep_rows);
  Tapped all;
  TapObserver tap(all, runtime->forward(), taps, session.model.config.hidden);
  runtime->engine().start();
  runtime->engine().allow_passes(sweeps.size());
  for (const auto& sweep : sweeps) {
    std::vector<SweepBatch> of;
    for (const ScoreBatch& batch : sweep)
      of.push_back(make_batch(batch, [&](uint64_t text) { return std::span(texts[text]); }));
    const ForwardObserver observer = tap.observe(of);
    score_pass(*runtime, of, observer);
    tap.expect_all_told();
  }
  runtime->engine().stop();
  return all;
}

Config roomy_config(const std::filesystem::path& model) {
  Config config;
  config.file = "test.yaml";
  config.model_path = model;
  config.device = "host";
  config.ram_bytes = kGiB;
  config.gpu_bytes = 512 * kMiB;
  return config;
}

ModelConfig small_shape(const std::string& architecture) {
  ModelConfig shape = preset_config("tiny");
  const ModelConfig tiny = shape;
  for (const char* like : {"gemma-2-2b", "gemma-3-4b", "phi-4-mini"}) {
    if (preset_config(like).architecture == architecture) shape = preset_config(like);
  }
  if (shape.architecture != tiny.architecture) {  // ways of its own, in the same size
    shape.layers = tiny.layers;
    shape.hidden = tiny.hidden;
    shape.intermediate = tiny.intermediate;
    shape.heads = tiny.heads;
    shape.kv_heads = tiny.kv_heads;
    if (shape.rotary_dim > 0) shape.rotary_dim = tiny.head_dim / 4 * 3;
    shape.head_dim = tiny.head_dim;
    shape.vocab = tiny.vocab;
    shape.context = tiny.context;
    if (shape.sliding_window) shape.sliding_window = 21;
    fit_to_shape(shape);
    return shape;
  }
  shape.architecture = architecture;
  shape.qkv_bias = architecture == "Qwen2ForCausalLM";
  shape.qk_norm = architecture == "Qwen3ForCausalLM";
  return shape;
}

void write_model(const std::filesystem::path& path, const ModelConfig& shape,
                 const MatrixType& type, CheckpointKind kind, uint32_t shards, uint64_t seed) {
  SyntheticOptions options;
  options.model = shape;
  options.type = type;
  options.kind = kind;
  options.shards = shards;
  options.seed = seed;
  write_synthetic(path, options, StopFlag(), [](uint64_t, uint64_t) {});
}

void make_checkpoint(const std::filesystem::path& directory, const ModelConfig& shape, DType dtype,
                     uint32_t shards, uint64_t seed) {
  const MatrixType type = matrix_type(format_of(dtype));
  write_model(directory, shape, type, CheckpointKind::kSafetensors, shards, seed);
}

std::vector<PlacementCase> cuda_placement_cases(uint32_t layers) {
  const auto on_cuda = [](PlacementPolicy policy) {
    return [policy](Config& c) {
      c.device = "cuda";
      c.policy = policy;
      c.stream_unit_bytes = 256 * kKiB;
    };
  };
  return {
      {"cuda_gpu", on_cuda(PlacementPolicy::kAuto)},
      {"cuda_ram", on_cuda(PlacementPolicy::kRam)},
      {"cuda_nvme",
       [on_cuda](Config& c) {
         on_cuda(PlacementPolicy::kNvme)(c);
         c.stream_slots = 3;
         c.stream_staging_slabs = 2;
         c.io_chunk_bytes = 128 * kKiB;
       }},
      {"cuda_three_tiers",
       [on_cuda, layers](Config& c) {
         on_cuda(PlacementPolicy::kNvme)(c);
         const Tier pattern[] = {Tier::kGpu, Tier::kRam, Tier::kNvme};
         for (uint32_t i = 0; i < layers; ++i) c.overrides.push_back({"", i, i, pattern[i % 3]});
         c.overrides.push_back({"head", 0, 0, Tier::kGpu});
       }},
  };
}

std::vector<PlacementCase> placement_cases(uint32_t layers) {
  const auto overrides = [layers](Config& c, const std::vector<Tier>& pattern) {
    for (uint32_t i = 0; i < layers; ++i) {
      c.overrides.push_back({"", i, i, pattern[i % pattern.size()]});
    }
  };
  return {
      {"ram", [](Config& c) { c.policy = PlacementPolicy::kRam; }},
      {"nvme", [](Config& c) { c.policy = PlacementPolicy::kNvme; }},
      {"mixed",
       [overrides](Config& c) {
         c.policy = PlacementPolicy::kNvme;
         overrides(c, {Tier::kRam, Tier::kNvme, Tier::kNvme});
       }},
      {"half_in_ram", [](Config& c) { c.ram_share = 0.5; }},
      {"mmap", [](Config& c) { c.io_engine = EngineChoice::kMmap; }},
      {"nvme_small_units_pread",
       [](Config& c) {
         c.policy = PlacementPolicy::kNvme;
         c.stream_unit_bytes = 64 * kKiB;
         c.stream_slots = 2;
         c.io_engine = EngineChoice::kPread;
         c.io_direct = DirectChoice::kOff;
         c.io_chunk_bytes = 64 * kKiB;
         c.io_depth = 1;
       }},
      {"discrete_ram",
       [](Config& c) {
         c.device = "host-discrete";
         c.policy = PlacementPolicy::kRam;
       }},
      {"discrete_nvme",
       [](Config& c) {
         c.device = "host-discrete";
         c.policy = PlacementPolicy::kNvme;
         c.stream_slots = 3;
         c.stream_staging_slabs = 2;
         c.io_chunk_bytes = 128 * kKiB;
       }},
      {"discrete_gpu", [](Config& c) { c.device = "host-discrete"; }},
      {"discrete_half_in_ram",
       [](Config& c) {
         c.device = "host-discrete";
         c.ram_share = 0.5;
       }},
      {"discrete_three_tiers",
       [overrides](Config& c) {
         c.device = "host-discrete";
         c.policy = PlacementPolicy::kNvme;
         overrides(c, {Tier::kGpu, Tier::kRam, Tier::kNvme});
       }},
  };
}

std::map<std::string, std::string> hf_names(const ModelConfig& model) {
  std::map<std::string, std::string> names;
  for (const WeightSpec& spec : model_weights(model))
    names[*gguf_tensor_name(spec.name, model.architecture)] = spec.name;
  return names;
}

}  // namespace spillway::test
