// Scoring: forward passes over given tokens, one per chunk or one per sweep of many chunks;
// log-probability of every token but the first of each text.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/config.h"
#include "model/runtime.h"
#include "model/score_batches.h"

namespace spillway {

/// As the configuration says, for batches of `chunk` rows. Throws Error for what it cannot say of
/// this model.
ScoreCut score_cut(const Config& config, const Model& model, uint32_t chunk, bool feed_all = false);

/// Shapes of all texts, held once for all that look at them.
using TextShapes = std::shared_ptr<const std::vector<TextShape>>;

/// Every batch of at most `rows` rows that texts come to, in order.
using PackTexts = std::function<void(uint32_t rows, const BatchPacker::Take& take)>;
/// `cut`: its chunk is what is wanted.
Workload scoring_workload(const ScoreCut& cut, const PackTexts& pack);
Workload scoring_workload(const Config& config, const Model& model,
                          const std::vector<std::vector<uint32_t>>& texts);

/// A text's tokens; valid until all passes with it are over.
using TokensOf = std::function<std::span<const uint32_t>(uint64_t text)>;

/// What is fed for a batch and what is asked of it.
SweepBatch make_batch(const ScoreBatch& plan, const TokensOf& tokens);

/// One pass over all weights: of the batches of a sweep, or of one where the plan knows no sweeps.
/// Throws what Forward does, and the observer.
PassRecord score_pass(Runtime& runtime, std::span<const SweepBatch> batches,
                      const ForwardObserver& observer);

/// Throws Error for what is not a number: the model is damaged.
void check_logprob(float logprob);

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
