// Texts that are scored, cut into windows, packed into batches and grouped into sweeps: as they
// come, so that a job of millions of texts holds none of it. Which rows lie in one batch follows
// from the texts and the cut alone, whatever sweeps, memory or shards there are: bits rest on that.
// Pure; a packer belongs to one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <vector>

namespace spillway {

/// What of a text decides how it is fed.
struct TextShape {
  uint32_t tokens = 0;
  uint32_t scored_from = 1;  ///< the first token whose log-probability is wanted, at least 1
};

/// How texts are cut.
struct ScoreCut {
  uint32_t chunk = 0;   ///< rows of a batch at most
  uint32_t window = 0;  ///< tokens that start with an empty cache, at most; 2 at least
  uint32_t stride = 0;  ///< tokens that a window scores beside those before it, below `window`
  /// A text with nothing to score goes through the layers all the same: somebody wants its states.
  bool feed_all = false;
};

/// Rows of one text inside a batch. A window is a stretch of a text that starts with an empty
/// cache; `window_begin` is its first token.
struct ScoreSlice {
  uint64_t text = 0;
  uint64_t window_begin = 0;
  uint64_t begin = 0;  ///< first token fed
  uint32_t count = 0;
  uint64_t scored_from = 0;  ///< the first token that the window scores
  uint64_t new_from = 0;     ///< the first token that is in no window before this one
};

/// What one pass scores. `kv_lengths`: positions that each slice's window will have in all.
struct ScoreBatch {
  std::vector<ScoreSlice> slices;
  std::vector<uint32_t> kv_lengths;
  bool begins_text = false;  ///< its first row is the first that is fed of a text

  uint32_t rows() const;
  /// Whether it goes on with the window that the batch before it ends with.
  bool goes_on() const { return slices[0].begin > slices[0].window_begin; }
};

/// Tokens of a text that are fed, in whichever window, and those that are scored.
struct TextCounts {
  uint64_t fed = 0;
  uint64_t scored = 0;
};
TextCounts counts_of(const TextShape& shape, const ScoreCut& cut);

/// Packs windows into batches in the order of texts. Windows longer than a chunk go alone, in
/// several batches.
class BatchPacker {
 public:
  using Take = std::function<void(ScoreBatch&& batch)>;
  BatchPacker(const ScoreCut& cut, Take take);
  void add(uint64_t text, const TextShape& shape);
  /// The last batch.
  void finish() { flush(); }

 private:
  void flush();

  ScoreCut cut_;
  Take take_;
  ScoreBatch open_;
  uint32_t open_rows_ = 0;
};

/// All of them at once.
std::vector<ScoreBatch> plan_scoring(std::span<const TextShape> texts, const ScoreCut& cut);

/// How many batches and sweeps there are, of batches as they come: what plan_sweeps() makes of all.
class SweepCounter {
 public:
  explicit SweepCounter(uint32_t sweep_rows) : sweep_rows_(sweep_rows) {}
  void add(const ScoreBatch& batch);
  void finish() { end_window(); }

  uint64_t batches() const { return batches_; }
  uint64_t sweeps() const { return sweeps_; }
  uint32_t most_batches() const { return most_batches_; }  ///< of a sweep
  /// Of consecutive batches, as many as have the rows of a sweep or less; one at least.
  uint32_t most_within() const { return most_within_; }

 private:
  void end_window();

  uint32_t sweep_rows_;
  uint64_t batches_ = 0;
  uint64_t sweeps_ = 0;
  uint32_t most_batches_ = 0;
  uint32_t most_within_ = 1;
  uint64_t rows_ = 0;         // of the sweep
  uint32_t in_sweep_ = 0;     // batches
  uint64_t window_rows_ = 0;  // of the batches that end with one window
  uint32_t in_window_ = 0;
  std::deque<uint32_t> within_;  // rows of the last batches that fit a sweep
  uint64_t rows_within_ = 0;
};

/// Consecutive batches that go through the layers together, of at most `sweep_rows` rows; those of
/// one window stay together. sweep_rows = 0: each on its own.
std::vector<std::span<const ScoreBatch>> plan_sweeps(std::span<const ScoreBatch> batches,
                                                     uint32_t sweep_rows);

}  // namespace spillway
