// Text generation: all prompts of a run form one batch, so that each pass over the weights serves
// every sequence.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/config.h"
#include "model/runtime.h"

namespace spillway {

struct Prompt {
  std::string text;  ///< empty when only ids were given
  std::vector<uint32_t> ids;
};

/// Prompts of a configuration, tokenized and checked: not empty, inside the vocabulary, shorter
/// than the context. Throws Error naming the prompt.
std::vector<Prompt> make_prompts(const Config& config, const Model& model);

Workload generation_workload(const Config& config, const Model& model,
                             const std::vector<Prompt>& prompts);

struct Output {
  std::vector<uint32_t> ids;
  std::string text;
  std::string finish_reason;  ///< stop, length, context, interrupted, error
};

struct GenerationResult {
  std::vector<Output> outputs;
  std::vector<PassRecord> passes;
  bool interrupted = false;
  std::string error;  ///< why it ended early; outputs and passes are what came before
};

/// Called after each pass, in which it may throw to end the generation: Stopped like a stop
/// request, anything else like a pass that failed.
struct GenerationProgress {
  const PassRecord* pass = nullptr;
  /// So far, in the order of the prompts. A text ends in whole characters, and nothing that later
  /// tokens could change; it only grows.
  std::span<const Output> outputs;
  std::span<const uint32_t> advanced;  ///< those that this pass gave a token, ascending
  uint32_t new_tokens = 0;             ///< of all sequences so far
  uint32_t most_tokens = 0;            ///< if none stops early
  uint32_t prompt_tokens_left = 0;     ///< or of a text that is fed again
  bool again = false;                  ///< it is that
};
using GenerationObserver = std::function<void(const GenerationProgress&)>;

/// Starts the engine, runs every sequence to its end, stops the engine. A stop request ends it
/// early with what there is, and so does a pass that fails (`error`).
///
/// A text of Phi 3 that grows past the positions of its original training is fed again there, once
/// (SequenceWork::again_tokens): longer ones turn by other factors at every position.
GenerationResult generate(Runtime& runtime, const Config& config,
                          const std::vector<Prompt>& prompts, const GenerationObserver& observer);

}  // namespace spillway
