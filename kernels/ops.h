// The operations a transformer pass needs, on a stream of some device. f32 activations and
// accumulation; weights as stored. No operation knows layers, files or tiers.
//
// Thread rule: one thread at a time. Pointers are device memory and stay valid until the stream
// ran.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/device.h"
#include "core/dtype.h"

namespace spillway {

/// A weight matrix [rows, cols], row-major as the checkpoint has it (output features first), or a
/// tile of its rows; a vector is [1, cols]. The data may have any alignment.
struct WeightView {
  const std::byte* data = nullptr;
  DType dtype = DType::kF32;
  uint32_t rows = 0;
  uint32_t cols = 0;
};

struct AttentionShape {
  uint32_t heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
};

/// Consecutive rows of a batch that belong to one sequence, and that sequence's KV cache of one
/// layer. Row i is at position first_position + i and sees positions up to its own.
struct SequenceRows {
  uint32_t first_row = 0;
  uint32_t rows = 0;
  uint32_t first_position = 0;
  std::byte* kv = nullptr;
  uint32_t kv_capacity = 0;  ///< positions, a multiple of kKvBlockPositions
};

inline constexpr uint32_t kKvBlockPositions = 16;

/// Weight rows that a matmul works on at a time. Results do not depend on how a matrix is cut, as
/// long as cuts fall on multiples of it: tiers cuts units there.
inline constexpr uint32_t kPanelRows = 64;

/// The largest shapes a run will use, from which the workspace is sized.
struct OpsLimits {
  uint32_t max_rows = 0;  ///< activations per pass
  uint32_t max_cols = 0;  ///< widest matmul input
};

class Ops {
 public:
  virtual ~Ops() = default;

  /// "oneDNN f32 tiles, AVX-512 GEMV": for the report.
  virtual const char* description() const = 0;
  /// Bytes of scratch needed for `limits`; bind_workspace() gives them before the first matmul.
  virtual uint64_t workspace_bytes(const OpsLimits& limits) const = 0;
  virtual void bind_workspace(std::span<std::byte> memory, const OpsLimits& limits) = 0;
  /// KV cache of one layer and sequence with room for `capacity` positions.
  virtual uint64_t kv_bytes(const AttentionShape& shape, uint32_t capacity) const = 0;

  virtual void zero(Stream& stream, std::byte* data, uint64_t bytes) = 0;
  /// out[i, :] = table[ids[i], :]. ids are host memory.
  virtual void embed(Stream& stream, const WeightView& table, std::span<const uint32_t> ids,
                     float* out) = 0;
  /// out = x / rms(x) * weight per row of `cols`; out may be x.
  virtual void rmsnorm(Stream& stream, const float* x, const WeightView& weight, uint32_t rows,
                       float epsilon, float* out) = 0;
  /// Sets the input [rows, cols] of the matmuls that follow, until the next call.
  virtual void set_input(Stream& stream, const float* x, uint32_t rows, uint32_t cols) = 0;
  /// out[r, n] = input[r, :] · weight[n, :] for the rows n of this tile; `out_stride` floats
  /// between rows of out.
  virtual void matmul(Stream& stream, const WeightView& weight, float* out,
                      uint32_t out_stride) = 0;
  /// x[r, :] += bias.
  virtual void add_bias(Stream& stream, float* x, uint32_t rows, const WeightView& bias) = 0;
  /// Rotates pairs (i, i + head_dim/2) of every head by position * inverse_frequency[i].
  /// positions: host memory, one per row; inverse_frequencies: host memory, head_dim/2.
  virtual void rope(Stream& stream, float* x, uint32_t heads, uint32_t head_dim,
                    std::span<const uint32_t> positions,
                    std::span<const float> inverse_frequencies) = 0;
  /// Stores k and v [rows, kv_heads*head_dim] of the batch at their positions in the caches.
  virtual void kv_append(Stream& stream, const float* k, const float* v,
                         const AttentionShape& shape, std::span<const SequenceRows> sequences) = 0;
  /// Causal softmax(q k / sqrt(head_dim)) v over the caches; q and out [rows, heads*head_dim].
  virtual void attention(Stream& stream, const float* q, const AttentionShape& shape,
                         std::span<const SequenceRows> sequences, float* out) = 0;
  /// gate = silu(gate) * up.
  virtual void silu_mul(Stream& stream, float* gate, const float* up, uint64_t count) = 0;
  /// x += y.
  virtual void add(Stream& stream, float* x, const float* y, uint64_t count) = 0;
  /// Folds logits [rows, cols] (a tile of the vocabulary starting at `first_id`) into running
  /// maxima and sums of exponentials per row, and picks each row's target logit when its id lies
  /// in the tile. All arrays hold one entry per row; start with max = -inf, sum = 0. Folding is by
  /// kPanelRows, so that results do not depend on the tile.
  virtual void fold_log_softmax(Stream& stream, const float* logits, uint32_t rows, uint32_t cols,
                                uint32_t stride, uint32_t first_id,
                                std::span<const uint32_t> targets, float* running_max,
                                float* running_sum, float* target_logit) = 0;
};

}  // namespace spillway
