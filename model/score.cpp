#include "model/score.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/error.h"
#include "core/failure.h"

namespace spillway {
namespace {

/// Nothing is taken of a window's last token where nobody wants its states: with it, a window may
/// have one more than the model's context.
uint32_t window_of(const Config& config, const Model& model, bool feed_all) {
  const uint32_t context = model.config.context;
  const uint32_t window =
      std::min(config.score_context_tokens.value_or(context), context + (feed_all ? 0 : 1));
  if (window < 2) {
    throw Error(fmt::format("{}: the model's context is {} token, and a score takes two",
                            model.checkpoint.path().string(), window));
  }
  return window;
}

std::vector<TextShape> shapes_of(const std::vector<std::vector<uint32_t>>& texts) {
  std::vector<TextShape> shapes;
  shapes.reserve(texts.size());
  for (const auto& text : texts) shapes.push_back({static_cast<uint32_t>(text.size()), 1});
  return shapes;
}

}  // namespace

ScoreCut score_cut(const Config& config, const Model& model, uint32_t chunk, bool feed_all) {
  const uint32_t window = window_of(config, model, feed_all);
  const uint32_t stride = config.score_stride_tokens.value_or(window - 1);
  if (stride >= window) {
    throw Error(
        fmt::format("score.stride: {} must be below the window of {} tokens: windows overlap by a "
                    "token at least",
                    stride, window));
  }
  return {chunk, window, stride, feed_all};
}

SweepBatch make_batch(const ScoreBatch& plan, const TokensOf& tokens) {
  SweepBatch made{{}, plan.kv_lengths};
  Batch& batch = made.batch;
  for (uint32_t s = 0; s < plan.slices.size(); ++s) {
    const ScoreSlice& slice = plan.slices[s];
    const auto text = tokens(slice.text);
    batch.sequences.push_back({s, static_cast<uint32_t>(batch.ids.size()), slice.count,
                               static_cast<uint32_t>(slice.begin - slice.window_begin),
                               plan.kv_lengths[s]});
    const uint64_t window_end = slice.window_begin + plan.kv_lengths[s];
    CHECK(window_end <= text.size());
    for (uint64_t i = slice.begin; i < slice.begin + slice.count; ++i) {
      batch.ids.push_back(text[i]);
      // A window's last token predicts what the next window scores.
      const bool scored = i + 1 < window_end && i + 1 >= slice.scored_from;
      batch.targets.push_back(scored ? text[i + 1] : UINT32_MAX);
    }
  }
  return made;
}

void check_score_texts(const Model& model, const std::vector<std::vector<uint32_t>>& texts) {
  bool any = false;
  for (size_t t = 0; t < texts.size(); ++t) {
    for (const uint32_t id : texts[t]) {
      if (id >= model.config.vocab) {
        throw Error(
            fmt::format("text {}: token id {} is outside the vocabulary of {}: ids end at {}",
                        t + 1, id, model.config.vocab, model.config.vocab - 1));
      }
    }
    any |= texts[t].size() >= 2;
  }
  if (!any) {
    throw Error("nothing to score: no text has two tokens or more; give a longer one");
  }
}

Workload scoring_workload(const ScoreCut& cut, const PackTexts& pack) {
  Workload workload;
  workload.scoring = true;
  uint64_t tokens = 0;
  std::map<uint32_t, uint64_t> lengths;
  pack(cut.window, [&](ScoreBatch&& batch) {  // no window is cut there
    for (const uint32_t length : batch.kv_lengths) {
      ++lengths[length];
      tokens += length;
    }
  });
  for (const auto& [length, times] : lengths) workload.sequences.push_back({length, 0, 0, times});
  workload.chunk_rows = static_cast<uint32_t>(std::clamp<uint64_t>(tokens, 1, cut.chunk));
  workload.fillings = [pack](uint32_t rows, const auto& visit) {
    pack(rows, [&](ScoreBatch&& batch) { visit(batch.kv_lengths); });
  };
  workload.pass_counts = [pack](uint32_t rows, uint32_t sweep_rows) {
    SweepCounter counter(sweep_rows);
    pack(rows, [&](ScoreBatch&& batch) { counter.add(batch); });
    counter.finish();
    return PassCounts{counter.batches(), counter.sweeps(), counter.most_batches(),
                      counter.most_within()};
  };
  return workload;
}

Workload scoring_workload(const Config& config, const Model& model,
                          const std::vector<std::vector<uint32_t>>& texts) {
  const ScoreCut cut = score_cut(config, model, config.score_chunk_tokens);
  return scoring_workload(
      cut, [cut, shapes = shapes_of(texts)](uint32_t rows, const BatchPacker::Take& take) {
        ScoreCut chunks = cut;
        chunks.chunk = rows;
        BatchPacker packer(chunks, take);
        for (size_t text = 0; text < shapes.size(); ++text) packer.add(text, shapes[text]);
        packer.finish();
      });
}

void check_logprob(float logprob) {
  if (std::isfinite(logprob)) return;
  throw Error(
      "the model computed a log-probability that is not a number; the checkpoint's "
      "weights are damaged (spillway inspect --verify shows their checksums), or numbers "
      "of its configuration");
}

PassRecord score_pass(Runtime& runtime, std::span<const SweepBatch> batches,
                      const ForwardObserver& observer) {
  if (runtime.plan().limits.sweep_rows > 0) return run_sweep(runtime, batches, observer);
  CHECK(batches.size() == 1);
  runtime.cache().assign(batches[0].kv_lengths);
  return run_pass(runtime, batches[0].batch, PassRecord::Kind::kScore, &observer);
}

namespace {

/// Scores on their way: what passes and sweeps have in common.
class Scoring {
 public:
  Scoring(Runtime& runtime, const std::vector<std::vector<uint32_t>>& texts,
          const std::vector<ScoreBatch>& batches, const ScoreObserver& observer)
      : runtime_(runtime), texts_(texts), observer_(observer) {
    const uint32_t sweep_rows = runtime.plan().limits.sweep_rows;
    sweeps_ = plan_sweeps(batches, sweep_rows);
    for (const ScoreBatch& batch : batches) progress_.total_tokens += batch.rows();
    progress_.total_passes = sweeps_.size();
    result_.logprobs.resize(texts.size());
  }

  ScoreResult run() {
    runtime_.engine().start();
    runtime_.engine().allow_passes(sweeps_.size());
    try {
      for (const auto& sweep : sweeps_) one(sweep);
    } catch (const Stopped&) {
      result_.interrupted = true;
    } catch (const std::exception& failure) {  // whatever it was: scores so far must not be lost
      result_.error = failure_text(failure);
    }
    runtime_.engine().stop();
    if (result_.tokens > 0) {
      result_.mean_nll = nll_ / static_cast<double>(result_.tokens);
      result_.perplexity = std::exp(result_.mean_nll);
    }
    return std::move(result_);
  }

 private:
  void one(std::span<const ScoreBatch> plans) {
    std::vector<SweepBatch> batches;
    uint64_t rows = 0;
    for (const ScoreBatch& plan : plans) {
      batches.push_back(make_batch(plan, [&](uint64_t text) { return std::span(texts_[text]); }));
      rows += batches.back().batch.ids.size();
    }
    const double before = progress_.done_tokens;
    ForwardObserver observer;
    observer.scored = [&](size_t batch) { take(plans[batch], batches[batch].batch); };
    observer.stepped = [&](size_t done, size_t total) {
      progress_.done_tokens =
          before + static_cast<double>(rows * done) / static_cast<double>(total);
      if (done < total) observer_(progress_);
    };
    result_.passes.push_back(score_pass(runtime_, batches, observer));
    progress_.done_tokens = before + static_cast<double>(rows);
    progress_.pass = &result_.passes.back();
    ++progress_.passes;
    observer_(progress_);
  }

  void take(const ScoreBatch& plan, const Batch& batch) {
    const auto logprobs = runtime_.forward().log_probabilities();
    for (const BatchSequence& rows : batch.sequences) {
      for (uint32_t r = rows.first_row; r < rows.first_row + rows.rows; ++r) {
        if (batch.targets[r] == UINT32_MAX) continue;
        check_logprob(logprobs[r]);
        result_.logprobs[plan.slices[rows.sequence].text].push_back(logprobs[r]);
        nll_ -= double{logprobs[r]};
        ++result_.tokens;
      }
    }
  }

  Runtime& runtime_;
  const std::vector<std::vector<uint32_t>>& texts_;
  const ScoreObserver& observer_;
  std::vector<std::span<const ScoreBatch>> sweeps_;
  ScoreProgress progress_;
  ScoreResult result_;
  double nll_ = 0;
};

}  // namespace

ScoreResult score(Runtime& runtime, const Config& config,
                  const std::vector<std::vector<uint32_t>>& texts, const ScoreObserver& observer) {
  const ScoreCut cut = score_cut(config, runtime.model(), runtime.plan().limits.max_rows);
  const auto batches = plan_scoring(shapes_of(texts), cut);
  return Scoring(runtime, texts, batches, observer).run();
}

}  // namespace spillway
