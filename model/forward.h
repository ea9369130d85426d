// The math of one pass of a Llama-family decoder over leases. Knows tensors and shapes; not tiers,
// files or where a weight lives.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/device.h"
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
};

/// Tokens of one pass, sequences packed one after the other.
struct Batch {
  std::vector<uint32_t> ids;
  std::vector<BatchSequence> sequences;
  std::vector<uint32_t> logit_rows;  ///< generation: rows whose logits are wanted
  std::vector<uint32_t> targets;     ///< scoring: one id per row; UINT32_MAX = none
};

/// The most a run will ask of a pass; activations are sized from it.
struct ForwardLimits {
  uint32_t max_rows = 0;
  uint32_t max_logit_rows = 0;
  bool scoring = false;
};

class Forward {
 public:
  /// Device bytes of activations; host bytes of the embedding rows and of the results.
  static uint64_t activation_bytes(const ModelConfig& config, const WeightMap& weights,
                                   const ForwardLimits& limits, uint64_t unit_bytes);
  static uint64_t host_row_bytes(const WeightMap& weights, const ForwardLimits& limits);
  static uint64_t host_result_bytes(const ModelConfig& config, const ForwardLimits& limits);
  static OpsLimits ops_limits(const ModelConfig& config, const ForwardLimits& limits);

  /// Everything passed outlives it.
  Forward(const ModelConfig& config, const WeightMap& weights, const StreamPlan& plan,
          Engine& engine, Device& device, Ops& ops, Stream& stream, KvCache& cache, Trace& trace,
          const ForwardLimits& limits, uint64_t unit_bytes);

  /// One pass over all weights. Afterwards logits() or log_probabilities() hold its results.
  /// Throws Error when streaming failed, Stopped on a stop request.
  void run(const Batch& batch);

  /// [logit_rows, vocab], host memory.
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
  };
  static uint64_t lay_out(const ModelConfig& config, const WeightMap& weights,
                          const ForwardLimits& limits, uint64_t unit_bytes, std::byte* base,
                          Buffers* buffers);
  void embed(const Batch& batch);
  void decoder_layer(Cursor& cursor, uint32_t layer, const Batch& batch);
  void attention_block(Cursor& cursor, uint32_t layer, const Batch& batch);
  void mlp_block(Cursor& cursor, uint32_t rows);
  void head(Cursor& cursor, const Batch& batch);
  void generation_head(Cursor& cursor, const Batch& batch);
  void scoring_head(Cursor& cursor, const Batch& batch);
  void linear(Cursor& cursor, float* out, uint32_t rows, uint32_t outputs, bool bias);
  std::span<const SequenceRows> sequence_rows(uint32_t layer, const Batch& batch);

  const ModelConfig& config_;
  const WeightMap& weights_;
  const StreamPlan& plan_;
  Engine& engine_;
  Ops& ops_;
  Stream& stream_;
  KvCache& cache_;
  Trace& trace_;
  AttentionShape shape_;
  std::vector<float> inverse_frequencies_;
  Memory memory_;
  Memory workspace_;
  Memory host_rows_;
  Memory host_logits_;
  Buffers buffers_{};
  std::vector<uint32_t> positions_;
  std::vector<uint32_t> row_numbers_;
  std::vector<SequenceRows> sequence_rows_;
  std::vector<float> log_probabilities_;
};

}  // namespace spillway
