// The operations a transformer pass needs, on a stream of some device. f32 activations and
// accumulation; weights as stored. No operation knows layers, files or tiers.
//
// Thread rule: one thread at a time. Pointers are device memory and stay valid until the stream
// ran; spans are host memory, read before the call returns.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "core/device.h"
#include "core/dtype.h"
#include "core/stop.h"
#include "core/weight_format.h"

namespace spillway {

/// A weight matrix [rows, cols], row-major as the checkpoint has it (output features first), or a
/// tile of its rows; a vector is [1, cols]. The data may have any alignment.
struct WeightView {
  const std::byte* data = nullptr;
  WeightFormat format = WeightFormat::kF32;
  uint32_t rows = 0;
  uint32_t cols = 0;
};

inline constexpr uint32_t kNoWindow = UINT32_MAX;

struct AttentionShape {
  uint32_t heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  /// What keys and values may be kept in; the host keeps f32 in any case.
  DType kv_dtype = DType::kF32;
  /// Positions that a row sees, its own among them: a sliding window.
  uint32_t window = kNoWindow;
  /// Multiplies the cosines and sines of rotations.
  float rope_scale = 1;
  /// q and k come with the two elements of a pair side by side, as some files order the rows of
  /// their weights; rope_append() sets them half a head apart.
  bool interleaved = false;
  /// Multiplies q·k; 0 = 1 / sqrt(head_dim).
  float score_scale = 0;
  /// Scores become cap * tanh(score / cap) before softmax and masks; 0 = they stay.
  float score_cap = 0;
  /// Elements of a head that rotate, the first ones, in pairs (i, i + rotary_dim/2); 0 = head_dim.
  /// Where fewer rotate, heads are not interleaved.
  uint32_t rotary_dim = 0;
};

/// The weights of a norm and what goes with them.
struct NormWeight {
  WeightView weight;
  float epsilon = 0;
  /// To every weight: some checkpoints keep w - 1. What multiplies is the sum, in f32.
  float added = 0;
};

/// Of the gate in an MLP.
enum class Activation : uint8_t {
  kSilu,      ///< x / (1 + exp(-x))
  kGeluTanh,  ///< 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
};

/// Consecutive rows of a batch that belong to one sequence, and that sequence's KV cache of one
/// layer. Row i is at position first_position + i and sees positions up to its own, as far back as
/// the window reaches.
struct SequenceRows {
  uint32_t first_row = 0;
  uint32_t rows = 0;
  uint32_t first_position = 0;
  std::byte* kv = nullptr;
  uint32_t kv_capacity = 0;  ///< positions, a multiple of kKvBlockPositions
  uint32_t rope_table = 0;   ///< which inverse frequencies rotate its rows
};

inline constexpr uint32_t kKvBlockPositions = 16;

/// Weight rows that a matmul works on at a time. Results of the host do not depend on how a matrix
/// is cut, as long as cuts fall on multiples of it: tiers cuts units there.
inline constexpr uint32_t kPanelRows = 64;

/// The largest shapes a run will use, from which the workspace is sized.
struct OpsLimits {
  uint32_t max_rows = 0;       ///< activations per pass
  uint32_t max_cols = 0;       ///< widest matmul input
  uint32_t max_positions = 0;  ///< longest sequence
  AttentionShape attention;
  /// The type that every weight matrix is multiplied in (compute_dtype), where they all have the
  /// same: inputs of matmuls can then be converted where they are computed.
  std::optional<DType> matrix_dtype;
  /// Values of the largest tile of a matrix that is stored in blocks; 0 where none is.
  uint64_t block_values = 0;
};

/// How one row's next token is picked.
struct SampleRow {
  float temperature = 0;  ///< 0 = greedy
  uint32_t top_k = 0;     ///< 0 = all
  float top_p = 1;        ///< 1 = all
  float uniform = 0;      ///< the draw, in [0, 1)
};

/// sample() gives this id for a row whose logits are not all numbers.
inline constexpr uint32_t kBadLogits = UINT32_MAX;

/// The most that fold_top_k() keeps of a row.
inline constexpr uint32_t kMaxTopK = 1024;

class Ops {
 public:
  virtual ~Ops() = default;

  /// "prompts AMX bf16, decode AVX-512 GEMV": for the report.
  virtual std::string description() const = 0;
  /// Bytes of scratch needed for `limits`; bind_workspace() gives them before the first operation.
  virtual uint64_t workspace_bytes(const OpsLimits& limits) const = 0;
  virtual void bind_workspace(std::span<std::byte> memory, const OpsLimits& limits) = 0;
  /// While `stop` is given, an operation that runs inline looks at it tile by tile and gives up
  /// with Stopped; what it leaves in `out` is of no use. Work of a device goes on: it is on its
  /// stream already. Null = look no more.
  virtual void stop_on(const StopFlag* stop) { static_cast<void>(stop); }
  /// KV cache of one layer and sequence with room for `capacity` positions.
  virtual uint64_t kv_bytes(const AttentionShape& shape, uint32_t capacity) const = 0;

  virtual void zero(Stream& stream, std::byte* data, uint64_t bytes) = 0;
  /// out[rows[i], :] = table[ids[i], :] for i < count, as f32; out has table.cols columns.
  virtual void embed(Stream& stream, const WeightView& table, const uint32_t* ids,
                     const uint32_t* rows, uint32_t count, float* out) = 0;
  /// out = x / rms(x) * (added + weight) per row of weight.cols; out may be x.
  virtual void rmsnorm(Stream& stream, const float* x, const NormWeight& norm, uint32_t rows,
                       float* out) = 0;

  /// The input [rows, cols] of the matmuls that follow, until the next call of one of these three.
  virtual void set_input(Stream& stream, const float* x, uint32_t rows, uint32_t cols) = 0;
  /// x += y where y is given; the input becomes what rmsnorm() makes of x. `scratch` [rows, cols]
  /// may hold it, and may be y.
  virtual void norm_input(Stream& stream, float* x, const float* y, const NormWeight& norm,
                          uint32_t rows, float* scratch) = 0;
  /// The input becomes activation(gate) * up, [rows, cols]; gate is overwritten.
  virtual void gated_input(Stream& stream, Activation activation, float* gate, const float* up,
                           uint32_t rows, uint32_t cols) = 0;
  /// out[r, n] = input[r, :] · weight[n, :] for the rows n of these tiles, each of which begins
  /// where the one before ends, at a whole panel; `out_stride` floats between rows of out. The more
  /// rows at once, the more threads have work.
  virtual void matmul_tiles(Stream& stream, std::span<const WeightView> tiles, float* out,
                            uint32_t out_stride) = 0;
  /// The same of one tile.
  void matmul(Stream& stream, const WeightView& weight, float* out, uint32_t out_stride) {
    matmul_tiles(stream, {&weight, 1}, out, out_stride);
  }

  /// x[r, :] += bias.
  virtual void add_bias(Stream& stream, float* x, uint32_t rows, const WeightView& bias) = 0;
  /// x += y.
  virtual void add(Stream& stream, float* x, const float* y, uint64_t count) = 0;
  /// x *= factor.
  virtual void scale(Stream& stream, float* x, float factor, uint64_t count) = 0;
  /// x = cap * tanh(x / cap) for a tile [rows, cols] of logits, `stride` floats between its rows.
  virtual void soft_cap(Stream& stream, float* x, float cap, uint32_t rows, uint32_t cols,
                        uint32_t stride) = 0;

  /// Rotates pairs (i, i + rotary_dim/2) of every head of q [rows, heads*head_dim] and k
  /// [rows, kv_heads*head_dim] by position * inverse_frequencies[rope_table, i] ([tables,
  /// rotary_dim/2]), and stores k and v at their positions in the caches. q is rotated in place; k
  /// may be. Where the shape says interleaved, pair i comes as (2i, 2i+1).
  virtual void rope_append(Stream& stream, float* q, float* k, const float* v,
                           const AttentionShape& shape, const float* inverse_frequencies,
                           std::span<const SequenceRows> sequences) = 0;
  /// softmax(q k * score_scale) v over what each row sees of the caches, scores capped where the
  /// shape says so; q and out [rows, heads*head_dim].
  virtual void attention(Stream& stream, const float* q, const AttentionShape& shape,
                         std::span<const SequenceRows> sequences, float* out) = 0;

  /// Folds logits [rows, cols] (a tile of the vocabulary starting at `first_id`) into running
  /// maxima and sums of exponentials per row, and picks each row's target logit when its id lies
  /// in the tile. All arrays hold one entry per row; start with max = -inf, sum = 0. Folding is by
  /// kPanelRows, so that results do not depend on the tile.
  virtual void fold_log_softmax(Stream& stream, const float* logits, uint32_t rows, uint32_t cols,
                                uint32_t stride, uint32_t first_id, const uint32_t* targets,
                                float* running_max, float* running_sum, float* target_logit) = 0;
  /// Folds such a tile into the k likeliest ids of each row so far: values [rows, k], descending
  /// (ties: the lower id first), and their ids [rows, k]. Start with values = -inf, ids =
  /// UINT32_MAX, which places that nobody takes keep; tiles come by ascending first_id. k is 1 to
  /// kMaxTopK. A logit that is not a number takes no place; a zero has no sign.
  virtual void fold_top_k(Stream& stream, const float* logits, uint32_t rows, uint32_t cols,
                          uint32_t stride, uint32_t first_id, uint32_t k, float* values,
                          uint32_t* ids) = 0;
  /// ids[r] = the next token of row r of logits [rows.size(), cols]. Of the tokens ranked by logit
  /// (ties: lower id first), top_k are kept, of those the fewest whose probability at
  /// `temperature` reaches top_p, and of those, taken by ascending id, the one at which the
  /// cumulative probability passes `uniform`. kBadLogits where a logit is not a number.
  virtual void sample(Stream& stream, const float* logits, uint32_t cols,
                      std::span<const SampleRow> rows, uint32_t* ids) = 0;
};

}  // namespace spillway
