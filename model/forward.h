// One pass over leases: walks the program of every layer and shows each step its tensors. A sweep
// is a pass of many batches, all of which a layer computes before the next one. Knows operations
// and shapes; not tiers, files or where a weight lives.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "core/device_arena.h"
#include "core/trace.h"
#include "kernels/ops.h"
#include "model/kv_cache.h"
#include "model/model_config.h"
#include "model/unit_cursor.h"
#include "model/weight_map.h"
#include "tiers/engine.h"

namespace spillway {

class SweepStates;

/// Consecutive rows of a batch that continue one sequence.
struct BatchSequence {
  uint32_t sequence = 0;
  uint32_t first_row = 0;
  uint32_t rows = 0;
  uint32_t first_position = 0;
  /// Its tokens known by now: the whole prompt or text, whatever part of it this pass holds, so
  /// that what depends on a length does not depend on chunks.
  uint32_t length = 0;
};

/// Tokens of one pass, sequences packed one after the other.
struct Batch {
  std::vector<uint32_t> ids;
  std::vector<BatchSequence> sequences;
  std::vector<uint32_t> logit_rows;  ///< generation: rows whose next token is wanted, ascending
  std::vector<SampleRow> samples;    ///< one per logit row: how it is picked
  std::vector<uint32_t> targets;     ///< scoring: one id per row; UINT32_MAX = none
};

/// Texts of a sweep that go through a layer together.
struct SweepBatch {
  Batch batch;
  /// Of scoring: positions that each of its sequences will have in all.
  std::vector<uint32_t> kv_lengths;
};

/// How a model attends, a layer's window aside; keys and values in the weights' dtype where they
/// share one.
AttentionShape attention_shape(const ModelConfig& config, const WeightMap& weights);

/// The most a run will ask of a pass; activations are sized from it.
struct ForwardLimits {
  uint32_t max_rows = 0;
  uint32_t max_logit_rows = 0;
  uint32_t max_positions = 0;
  bool scoring = false;
  bool keep_logits = false;  ///< generation: logits() is wanted as well
  uint32_t sweep_rows = 0;   ///< of all batches of a sweep; 0 = passes, no sweeps
  uint32_t top_k = 0;        ///< scoring: likeliest ids of each row, up to kMaxTopK; 0 = none
  /// Scoring: hidden states that are told, ascending: 0 = embeddings as the first layer sees them,
  /// i = what the i-th layer left, the number of layers = that of the last one, normed.
  std::vector<uint32_t> hidden_layers;
  /// Batches of a sweep, at most, whose hidden states are kept on a drive, but for those in so many
  /// buffers; 0 = they stay in memory.
  uint32_t spill_batches = 0;
  uint32_t spill_buffers = 0;
};

/// Whether the cache is that of one layer and batch: nobody asks for what a sweep of texts that are
/// scored left behind.
inline bool keeps_one_layer(const ForwardLimits& limits) {
  return limits.scoring && limits.sweep_rows > 0;
}
/// Of the cache.
inline uint32_t kv_layers(const ModelConfig& config, const ForwardLimits& limits) {
  return keeps_one_layer(limits) ? 1 : config.layers;
}

/// What of a pass or a sweep is told while it goes on, in the order of computation; each may be
/// empty. A pass is of batch 0.
struct ForwardObserver {
  std::function<void(size_t batch)> scored;  ///< log_probabilities() and their like are its
  /// Of the steps of a sweep, which are of about the same length.
  std::function<void(size_t done, size_t total)> stepped;
  /// Of each of the limits' hidden_layers: `states` [rows, hidden] are there during the call only.
  std::function<void(size_t batch, uint32_t layer, std::span<const float> states)> hidden;
};

class Forward {
 public:
  /// Device bytes of activations; host bytes of what goes to the device and comes back.
  static uint64_t activation_bytes(const ModelConfig& config, const WeightMap& weights,
                                   const ForwardLimits& limits, uint64_t unit_bytes);
  static uint64_t host_bytes(const ModelConfig& config, const WeightMap& weights,
                             const ForwardLimits& limits);
  static OpsLimits ops_limits(const ModelConfig& config, const WeightMap& weights,
                              const ForwardLimits& limits, uint64_t unit_bytes);

  /// What it works with; all outlive it.
  struct Parts {
    const ModelConfig* config = nullptr;
    const WeightMap* weights = nullptr;
    const StreamPlan* plan = nullptr;
    Engine* engine = nullptr;
    Device* device = nullptr;
    DeviceArena* arena = nullptr;
    Ops* ops = nullptr;
    Stream* stream = nullptr;
    KvCache* cache = nullptr;
    SweepStates* states = nullptr;  ///< null where the limits have no sweeps
    Trace* trace = nullptr;
  };
  Forward(const Parts& parts, const ForwardLimits& limits, uint64_t unit_bytes);

  /// One pass over all weights. Afterwards logits() or log_probabilities() hold its results.
  /// Throws Error when streaming failed, Stopped on a stop request, and what the observer throws.
  void run(const Batch& batch, const ForwardObserver* observer = nullptr);

  /// The same for batches of at most max_rows each and sweep_rows in all: one pass over all weights
  /// serves all of them, with the results of one each. Of texts that are scored the cache, of one
  /// layer, is that of the batch under way; batches of one text follow each other. Throws as run(),
  /// and what the observer throws.
  void sweep(std::span<const SweepBatch> batches, const ForwardObserver& observer);

  /// The token picked for logit row `index`, or kBadLogits.
  uint32_t picked(uint32_t index) const { return host_.picked[index]; }
  /// Its logits [vocab], host memory, where the limits keep them.
  std::span<const float> logits(uint32_t index) const;
  /// Per row of a scoring batch: log p(target), 0 where there is no target.
  std::span<const float> log_probabilities() const { return log_probabilities_; }
  /// Of each row, with a target or without: log of the sum of exp over all logits. A target's
  /// log-probability is its logit less this but for rounding.
  std::span<const float> log_sum_exp() const { return log_sum_exp_; }
  /// Per row: 1 where no logit is greater than the target's; 0 where there is no target.
  std::span<const uint8_t> greedy() const { return greedy_; }
  /// [rows, top_k] as Ops::fold_top_k() leaves them, where the limits want them.
  std::span<const uint32_t> top_k_ids() const;
  std::span<const float> top_k_logits() const;

 private:
  struct Walk;
  struct Buffers {
    float* x;
    std::array<float*, kBuffers> of_steps;
    float* logits;
    float* operator[](Buffer buffer) const { return of_steps[static_cast<size_t>(buffer)]; }
    float* running;  // 3 x max_rows: max, sum, target
    std::byte* raw_rows;
    float* inverse_frequencies;  // tables x rotary_pairs()
    uint32_t* indices;           // 3 x max_rows: ids, rows, targets
    uint32_t* picked;
    float* top_logits;  // max_rows x top_k, and its ids
    uint32_t* top_ids;
  };
  /// Pinned host memory, the other end of the pass's few copies.
  struct HostBuffers {
    std::byte* raw_rows;
    uint32_t* indices;
    float* running;
    uint32_t* picked;
    float* logits;
    float* inverse_frequencies;
    float* top_logits;
    uint32_t* top_ids;
    float* hidden;  // max_rows x hidden, of the layer that is told
  };
  /// Embedding rows of a batch that lie in one table: the device's, or the gathered ones.
  struct EmbedGroup {
    WeightView table;
    uint32_t begin;
    uint32_t count;
  };
  static uint64_t lay_out(const ModelConfig& config, const WeightMap& weights,
                          const ForwardLimits& limits, uint64_t unit_bytes, std::byte* base,
                          Buffers* buffers);
  static uint64_t lay_out_host(const ModelConfig& config, const WeightMap& weights,
                               const ForwardLimits& limits, std::byte* base, HostBuffers* buffers);
  void embed(const Walk& walk);
  void group_rows(const Batch& batch);
  void make_rope_table(uint32_t table, const RopeScaling& scaling, double theta, uint32_t regime);
  void choose_rope_tables(const Batch& batch);
  template <typename T>
  void copy(T* target, const T* source, uint64_t count);
  void decoder_layer(Walk& walk, uint32_t layer);
  void add_result(Walk& walk);
  bool tells_hidden(const Walk& walk, uint32_t layer) const;
  void tell_hidden(const Walk& walk, uint32_t layer, const float* states);
  void run_step(Walk& walk, const Step& step);
  void norm_input(Walk& walk, uint32_t rows);
  void norm(Walk& walk, const Step& step);
  NormWeight norm_weight(const WeightView& weight) const;
  void linear(Walk& walk, const Step& step);
  void attention(Walk& walk, const Step& step);
  void head(Walk& walk);
  void cap_logits(uint32_t rows, uint32_t cols);
  void generation_head(Walk& walk);
  void scoring_head(Walk& walk);
  void scoring_norm(Walk& walk);
  void begin_scores(const Batch& batch);
  void read_scores(const Batch& batch);
  std::span<const SequenceRows> sequence_rows(uint32_t layer, const Batch& batch);
  AttentionShape layer_shape(uint32_t layer) const;

  const ModelConfig& config_;
  const WeightMap& weights_;
  const StreamPlan& plan_;
  Engine& engine_;
  Ops& ops_;
  Stream& stream_;
  KvCache& cache_;
  SweepStates* states_;
  Trace& trace_;
  AttentionShape shape_;
  ForwardLimits limits_;
  UnitCursor cursor_;
  std::array<std::unique_ptr<Event>, 2> step_ends_;  // of the last steps of a sweep
  Memory memory_;
  Memory workspace_;
  Memory host_memory_;
  Buffers buffers_{};
  HostBuffers host_{};
  std::vector<EmbedGroup> embed_groups_;
  std::vector<uint32_t> gathered_ids_;
  std::vector<bool> on_device_;
  std::vector<SequenceRows> sequence_rows_;
  std::vector<uint32_t> rope_regimes_;  // of the tables
  std::vector<uint32_t> rope_tables_;   // one per sequence of the batch
  uint32_t local_rope_table_ = 0;
  std::vector<float> log_probabilities_;
  std::vector<float> log_sum_exp_;
  std::vector<uint8_t> greedy_;
};

}  // namespace spillway
