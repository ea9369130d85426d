// The math of one pass of a Llama-family decoder over leases. Knows tensors and shapes; not tiers,
// files or where a weight lives.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/device_arena.h"
#include "core/trace.h"
#include "kernels/ops.h"
#include "model/kv_cache.h"
#include "model/model_config.h"
#include "model/weight_map.h"
#include "tiers/engine.h"

namespace spillway {

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
    Trace* trace = nullptr;
  };
  Forward(const Parts& parts, const ForwardLimits& limits, uint64_t unit_bytes);

  /// One pass over all weights. Afterwards logits() or log_probabilities() hold its results.
  /// Throws Error when streaming failed, Stopped on a stop request.
  void run(const Batch& batch);

  /// The token picked for logit row `index`, or kBadLogits.
  uint32_t picked(uint32_t index) const { return host_.picked[index]; }
  /// Its logits [vocab], host memory, where the limits keep them.
  std::span<const float> logits(uint32_t index) const;
  /// Per row of a scoring batch: log p(target), 0 where there is no target.
  std::span<const float> log_probabilities() const { return log_probabilities_; }

 private:
  class Cursor;
  struct Buffers {
    float* x;
    float* norm;
    float* q;
    float* k;
    float* v;
    float* attended;
    float* gate;
    float* up;
    float* logits;
    float* running;  // 3 x max_rows: max, sum, target
    std::byte* raw_rows;
    float* inverse_frequencies;  // rope_tables() x head_dim/2
    uint32_t* indices;           // 3 x max_rows: ids, rows, targets
    uint32_t* picked;
  };
  /// Pinned host memory, the other end of the pass's few copies.
  struct HostBuffers {
    std::byte* raw_rows;
    uint32_t* indices;
    float* running;
    uint32_t* picked;
    float* logits;
    float* inverse_frequencies;
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
  void embed(const Batch& batch);
  void group_rows(const Batch& batch);
  void choose_rope_tables(const Batch& batch);
  template <typename T>
  void copy(T* target, const T* source, uint64_t count);
  void decoder_layer(Cursor& cursor, uint32_t layer, const Batch& batch);
  void attention_block(Cursor& cursor, uint32_t layer, const Batch& batch);
  void mlp_block(Cursor& cursor, uint32_t rows);
  void norm_input(Cursor& cursor, const float* y, uint32_t rows);
  void head(Cursor& cursor, const Batch& batch);
  void generation_head(Cursor& cursor, const Batch& batch);
  void scoring_head(Cursor& cursor, const Batch& batch);
  void linear(Cursor& cursor, float* out, uint32_t rows, uint32_t outputs, bool bias);
  std::span<const SequenceRows> sequence_rows(uint32_t layer, const Batch& batch);
  AttentionShape layer_shape(uint32_t layer) const;

  const ModelConfig& config_;
  const WeightMap& weights_;
  const StreamPlan& plan_;
  Engine& engine_;
  Ops& ops_;
  Stream& stream_;
  KvCache& cache_;
  Trace& trace_;
  AttentionShape shape_;
  ForwardLimits limits_;
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
  std::vector<float> log_probabilities_;
};

}  // namespace spillway
