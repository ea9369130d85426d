// What a comparison runs: arms as plain data, from a configuration and what the model needs.
#pragma once

#include <string>
#include <vector>

#include "model/runtime.h"

namespace spillway {

/// kDecode and kPrompt vary the share of the layers in RAM, kMemory the memory, kScore the tokens
/// that one read of the weights serves (`score.sweep`).
enum class Sweep { kDecode, kPrompt, kMemory, kScore };
const char* sweep_name(Sweep sweep);

struct Arm {
  Sweep sweep = Sweep::kDecode;
  bool mapped = false;         ///< the baseline: the same kernels on a mapping of the files
  double ram_share = 0;        ///< wanted; kDecode and kPrompt
  uint32_t batch = 1;          ///< sequences
  uint64_t memory_bytes = 0;   ///< kMemory: memory.ram
  uint64_t group_bytes = 0;    ///< of the control group, with what the program takes; 0 = none
  uint32_t sweep_tokens = 0;   ///< kScore: score.sweep; 0 = everything in RAM, for comparison
  uint32_t job_tokens = 0;     ///< kScore: that are scored
  Config config;               ///< what the arm's process runs
  std::string name() const;    ///< "decode-ram75-batch4": also a file name
  std::string title() const;   ///< "decode, 75 % in RAM, batch 4"
  std::string detail() const;  ///< the same without the sweep: "75 % in RAM, batch 4"
};

struct SweepOptions {
  std::vector<Sweep> sweeps = {Sweep::kMemory, Sweep::kDecode, Sweep::kPrompt};
  std::vector<uint32_t> ram_percents = {100, 75, 50, 25, 0};
  std::vector<uint32_t> batches = {1, 4, 16, 64};
  uint32_t memory_points = 6;          ///< budgets from the smallest that works to the whole model
  std::vector<uint64_t> memory_bytes;  ///< these budgets instead
  uint32_t new_tokens = 5;             ///< decode passes that count; one more comes before
  uint32_t prompt_tokens = 512;
  uint32_t score_tokens = 16384;
};

/// What an arm of kScore scores: documents of 512 tokens, or shorter ones where a chunk or the
/// model's context is shorter, so that sweeps are as long as the arms say.
std::vector<std::vector<uint32_t>> score_documents(const Arm& arm, const ModelConfig& model);

/// Budgets between which a choice means something: the least with which the configured prompts are
/// answered, and what then holds the whole model.
struct MemoryRange {
  uint64_t least_bytes = 0;
  uint64_t all_bytes = 0;
};
/// Throws Error when the model cannot run at all.
MemoryRange memory_range(const Config& config, const Model& model, const Machine& machine);

/// What the model's context shortens of what was asked for, a sentence each.
std::vector<std::string> context_notes(uint32_t context, const SweepOptions& options);

/// Arms of all sweeps, in the order in which they run. Budgets and placement are the arms' own, not
/// the configuration's. Throws Error when the model cannot run at all.
std::vector<Arm> make_arms(const Config& config, const Model& model, const Machine& machine,
                           const SweepOptions& options);

}  // namespace spillway
