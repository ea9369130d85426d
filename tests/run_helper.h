// Runs a model in-process from a Config: what cmd_run does, with everything observable.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "model/generate.h"
#include "model/score.h"
#include "model/synthetic.h"
#include "tests/support.h"

namespace spillway::test {

struct RunOutcome {
  GenerationResult result;
  RunPlan plan;
  std::vector<float> logits;  ///< of the last pass, first sequence
  std::vector<std::string> notices;
  uint64_t ram_home_bytes = 0;
  uint64_t pinned_bytes = 0;
  std::string pin_refusal;
};
RunOutcome run_model(const Config& config, const std::vector<Prompt>* prompts = nullptr);
/// The same, with somebody who watches.
GenerationResult watch_model(const Config& config, const std::vector<Prompt>& prompts,
                             const GenerationObserver& observer);

ScoreResult score_model(const Config& config, const std::vector<std::vector<uint32_t>>& texts,
                        RunPlan* plan = nullptr);

/// What `times` runs on one loaded runtime gave, one after the other; after each of them comes one
/// that is broken off in its middle.
std::vector<std::vector<std::vector<uint32_t>>> generate_again(const Config& config,
                                                               const std::vector<Prompt>& prompts,
                                                               uint32_t times);
std::vector<std::vector<std::vector<float>>> score_again(
    const Config& config, const std::vector<std::vector<uint32_t>>& texts, uint32_t times);

/// What a scoring pass gives beside log-probabilities.
struct Taps {
  uint32_t top_k = 0;
  std::vector<uint32_t> hidden_layers;
};
/// All that it gave, row by row in the order of texts, passes or sweeps.
struct Tapped {
  std::vector<uint32_t> ids;
  std::vector<uint32_t> targets;
  std::vector<float> logprobs;
  std::vector<float> log_sum_exp;
  std::vector<uint8_t> greedy;
  std::vector<uint32_t> top_ids;
  std::vector<float> top_logits;
  std::map<uint32_t, std::vector<float>> hidden;  ///< by layer
  bool operator==(const Tapped&) const = default;
};
Tapped tap_model(const Config& config, const std::vector<std::vector<uint32_t>>& texts,
                 const Taps& taps, RunPlan* plan = nullptr);

/// On the host, with more memory than any small model takes.
Config roomy_config(const std::filesystem::path& model);

/// A small random checkpoint of the given shape.
ModelConfig small_shape(const std::string& architecture);
void make_checkpoint(const std::filesystem::path& directory, const ModelConfig& shape, DType dtype,
                     uint32_t shards, uint64_t seed);
/// The same, of any kind and type.
void write_model(const std::filesystem::path& path, const ModelConfig& shape,
                 const MatrixType& type, CheckpointKind kind, uint32_t shards = 1,
                 uint64_t seed = 5);

/// Placements worth comparing: name and what it changes. Budgets are for small models.
struct PlacementCase {
  std::string name;
  std::function<void(Config&)> apply;
};
std::vector<PlacementCase> placement_cases(uint32_t layers);
/// The same for a GPU, real or simulated. Units are the same in all of them: cuBLAS may order its
/// sums by shape.
std::vector<PlacementCase> cuda_placement_cases(uint32_t layers);

/// What the model's tensors are called in safetensors, by their names in GGUF.
std::map<std::string, std::string> hf_names(const ModelConfig& model);

}  // namespace spillway::test
