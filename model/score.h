// Scoring: forward passes over given tokens, one per chunk or one per sweep of many chunks;
// log-probability of every token but the first of each text.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "core/config.h"
#include "model/runtime.h"

namespace spillway {

/// Rows of one text inside a batch. A window is a stretch of a text that starts with an empty
/// cache; `window_begin` is its first token.
struct ScoreSlice {
  uint32_t text = 0;
  uint64_t window_begin = 0;
  uint64_t begin = 0;  ///< first token fed
  uint32_t count = 0;
};

/// What one pass scores. `kv_lengths`: positions that each slice's window will have in all.
struct ScoreBatch {
  std::vector<ScoreSlice> slices;
  std::vector<uint32_t> kv_lengths;
};

/// Cuts texts into windows of at most `window` tokens that overlap by one, so that every token but
/// a text's first is scored once, and packs them into passes of at most `chunk` rows. Windows
/// longer than a chunk go alone, in several passes. Pure.
std::vector<ScoreBatch> plan_scoring(const std::vector<uint64_t>& text_tokens, uint32_t chunk,
                                     uint32_t window);

/// Consecutive batches that go through the layers together, of at most `sweep_rows` rows; those of
/// one window stay together. sweep_rows = 0: each on its own.
std::vector<std::span<const ScoreBatch>> plan_sweeps(std::span<const ScoreBatch> batches,
                                                     uint32_t sweep_rows);

Workload scoring_workload(const Config& config, const Model& model,
                          const std::vector<std::vector<uint32_t>>& texts);

struct ScoreResult {
  double mean_nll = 0;
  double perplexity = 0;
  uint64_t tokens = 0;                       ///< scored
  std::vector<std::vector<float>> logprobs;  ///< per text, from its second token on
  std::vector<PassRecord> passes;
  bool interrupted = false;
  std::string error;  ///< why it ended early; the rest is what came before
};

/// How far a score has come.
struct ScoreProgress {
  const PassRecord* pass = nullptr;  ///< the last that ended; null before the first
  double done_tokens = 0;            ///< through all layers, or as far as layers go
  uint64_t total_tokens = 0;
  uint64_t passes = 0;  ///< ended
  uint64_t total_passes = 0;
};
/// Called after each pass, and now and then while a sweep goes on.
using ScoreObserver = std::function<void(const ScoreProgress& progress)>;

/// A stop request ends it early with what there is, and so does a pass that fails (`error`).
ScoreResult score(Runtime& runtime, const Config& config,
                  const std::vector<std::vector<uint32_t>>& texts, const ScoreObserver& observer);

/// Throws Error for ids outside the vocabulary, or when no text has two tokens.
void check_score_texts(const Model& model, const std::vector<std::vector<uint32_t>>& texts);

}  // namespace spillway
