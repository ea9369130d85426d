#include "model/score.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/failure.h"
#include "data/windows.h"

namespace spillway {
namespace {

uint32_t window_of(const Config& config, const Model& model) {
  const uint32_t window =
      std::min(config.score_context_tokens.value_or(model.config.context), model.config.context);
  if (window < 2) {
    throw Error(fmt::format("{}: the model's context is {} token, and a score takes two",
                            model.checkpoint.path().string(), window));
  }
  return window;
}

/// visit(first token, tokens) for every window of a text. They overlap by one token.
template <typename Visit>
void for_each_window(uint64_t text_tokens, uint32_t window, const Visit& visit) {
  DocumentWindows windows(text_tokens, 1, window);
  for (ScoreWindow next; windows.next(next);) visit(next.begin, next.tokens);
}

std::vector<uint64_t> lengths_of(const std::vector<std::vector<uint32_t>>& texts) {
  std::vector<uint64_t> lengths;
  lengths.reserve(texts.size());
  for (const auto& text : texts) lengths.push_back(text.size());
  return lengths;
}

Batch make_batch(const ScoreBatch& plan, const std::vector<std::vector<uint32_t>>& texts) {
  Batch batch;
  for (uint32_t s = 0; s < plan.slices.size(); ++s) {
    const ScoreSlice& slice = plan.slices[s];
    const auto& text = texts[slice.text];
    batch.sequences.push_back({s, static_cast<uint32_t>(batch.ids.size()), slice.count,
                               static_cast<uint32_t>(slice.begin - slice.window_begin),
                               plan.kv_lengths[s]});
    const uint64_t window_end = slice.window_begin + plan.kv_lengths[s];
    for (uint64_t i = slice.begin; i < slice.begin + slice.count; ++i) {
      batch.ids.push_back(text[i]);
      // A window's last token predicts what the next window scores.
      batch.targets.push_back(i + 1 < window_end ? text[i + 1] : UINT32_MAX);
    }
  }
  return batch;
}

}  // namespace

std::vector<ScoreBatch> plan_scoring(const std::vector<uint64_t>& text_tokens, uint32_t chunk,
                                     uint32_t window) {
  CHECK(chunk >= 1 && window >= 2);
  std::vector<ScoreBatch> batches;
  ScoreBatch open;
  uint32_t open_rows = 0;
  const auto flush = [&] {
    if (!open.slices.empty()) batches.push_back(std::exchange(open, {}));
    open_rows = 0;
  };
  for (uint32_t text = 0; text < text_tokens.size(); ++text) {
    for_each_window(text_tokens[text], window, [&](uint64_t begin, uint32_t length) {
      if (open_rows + length > chunk) flush();
      if (length <= chunk) {
        open.slices.push_back({text, begin, begin, length});
        open.kv_lengths.push_back(length);
        open_rows += length;
        return;
      }
      for (uint32_t at = 0; at < length; at += chunk) {
        const uint32_t count = std::min(chunk, length - at);
        batches.push_back({{{text, begin, begin + at, count}}, {length}});
      }
    });
  }
  flush();
  return batches;
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

Workload scoring_workload(const Config& config, const Model& model,
                          const std::vector<std::vector<uint32_t>>& texts) {
  Workload workload;
  workload.scoring = true;
  uint64_t tokens = 0;
  const uint32_t window = window_of(config, model);
  for (const auto& text : texts) {
    for_each_window(text.size(), window, [&](uint64_t, uint32_t length) {
      workload.sequences.push_back({length, 0, 0});
      tokens += length;
    });
  }
  workload.chunk_rows =
      static_cast<uint32_t>(std::clamp<uint64_t>(tokens, 1, config.score_chunk_tokens));
  workload.fillings = [lengths = lengths_of(texts), window](uint32_t rows, const auto& visit) {
    for (const ScoreBatch& batch : plan_scoring(lengths, rows, window)) visit(batch.kv_lengths);
  };
  workload.pass_counts = [lengths = lengths_of(texts), window](uint32_t rows, uint32_t sweep_rows) {
    const auto batches = plan_scoring(lengths, rows, window);
    PassCounts counts{batches.size(), 0, 0};
    for (const auto& sweep : plan_sweeps(batches, sweep_rows)) {
      ++counts.passes;
      counts.most_batches = std::max(counts.most_batches, static_cast<uint32_t>(sweep.size()));
    }
    return counts;
  };
  return workload;
}

namespace {

uint32_t rows_of(const ScoreBatch& batch) {
  uint32_t rows = 0;
  for (const ScoreSlice& slice : batch.slices) rows += slice.count;
  return rows;
}

/// Whether a batch goes on with the window that the one before ends with.
bool goes_on(const ScoreBatch& batch) {
  return batch.slices[0].begin > batch.slices[0].window_begin;
}

/// Scores on their way: what passes and sweeps have in common.
class Scoring {
 public:
  Scoring(Runtime& runtime, const std::vector<std::vector<uint32_t>>& texts,
          const std::vector<ScoreBatch>& batches, const ScoreObserver& observer)
      : runtime_(runtime), texts_(texts), observer_(observer) {
    const uint32_t sweep_rows = runtime.plan().limits.sweep_rows;
    sweeps_ = plan_sweeps(batches, sweep_rows);
    for (const ScoreBatch& batch : batches) progress_.total_tokens += rows_of(batch);
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
      batches.push_back({make_batch(plan, texts_), plan.kv_lengths});
      rows += batches.back().batch.ids.size();
    }
    const double before = progress_.done_tokens;
    if (runtime_.plan().limits.sweep_rows == 0) {
      CHECK(plans.size() == 1);
      runtime_.cache().assign(plans[0].kv_lengths);
      result_.passes.push_back(run_pass(runtime_, batches[0].batch, PassRecord::Kind::kScore));
      take(plans[0], batches[0].batch);
    } else {
      ForwardObserver observer;
      observer.scored = [&](size_t batch) { take(plans[batch], batches[batch].batch); };
      observer.stepped = [&](size_t done, size_t total) {
        progress_.done_tokens =
            before + static_cast<double>(rows * done) / static_cast<double>(total);
        if (done < total) observer_(progress_);
      };
      result_.passes.push_back(run_sweep(runtime_, batches, observer));
    }
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
        if (!std::isfinite(logprobs[r])) {
          throw Error(
              "the model computed a log-probability that is not a number; the checkpoint's "
              "weights are damaged (spillway inspect --verify shows their checksums), or numbers "
              "of its configuration");
        }
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

std::vector<std::span<const ScoreBatch>> plan_sweeps(std::span<const ScoreBatch> batches,
                                                     uint32_t sweep_rows) {
  std::vector<std::span<const ScoreBatch>> sweeps;
  size_t first = 0;
  uint64_t rows = 0;  // of the sweep from `first` on
  for (size_t i = 0; i < batches.size();) {
    size_t end = i + 1;  // of the window that batch i ends with
    uint64_t more = rows_of(batches[i]);
    for (; sweep_rows > 0 && end < batches.size() && goes_on(batches[end]); ++end) {
      more += rows_of(batches[end]);
    }
    if (i > first && rows + more > sweep_rows) {
      sweeps.push_back(batches.subspan(first, i - first));
      first = i;
      rows = 0;
    }
    rows += more;
    i = end;
  }
  if (first < batches.size()) sweeps.push_back(batches.subspan(first));
  return sweeps;
}

ScoreResult score(Runtime& runtime, const Config& config,
                  const std::vector<std::vector<uint32_t>>& texts, const ScoreObserver& observer) {
  const auto batches = plan_scoring(lengths_of(texts), runtime.plan().limits.max_rows,
                                    window_of(config, runtime.model()));
  return Scoring(runtime, texts, batches, observer).run();
}

}  // namespace spillway
