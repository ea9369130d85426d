// Inner loops of the host, one table per instruction set. Pure functions on plain arrays: no
// threads, no allocation, any alignment.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/weight_format.h"

namespace spillway {

struct IsaKernels {
  /// out[r*out_stride + n] = x[r*x_stride + :] · w[n, :] for 1..4 rows r and w_rows rows n. Each
  /// product sums in one fixed order, whatever the number of rows.
  using Gemv = void (*)(const float* x, size_t x_stride, unsigned rows, const std::byte* w,
                        unsigned w_rows, size_t cols, float* out, size_t out_stride);
  /// Indexed by WeightFormat.
  Gemv gemv[kFormats.size()];
  /// The bits of decode_values(); count is a multiple of the format's block_values.
  using ToF32 = void (*)(const std::byte* source, float* target, size_t count);
  ToF32 to_f32[kFormats.size()];
  /// The same values rounded to nearest even, in parts of 32 that lie `part_stride` numbers apart.
  /// Null for F32 and F16.
  using ToBf16 = void (*)(const std::byte* source, uint16_t* target, size_t count,
                          size_t part_stride);
  ToBf16 to_bf16[kFormats.size()];
  void (*f32_to_bf16)(const float* source, uint16_t* target, size_t count);
  void (*rmsnorm)(const float* x, const float* weight, size_t cols, float epsilon, float* out);
  void (*silu_mul)(float* gate, const float* up, size_t count);
  void (*gelu_mul)(float* gate, const float* up, size_t count);
  void (*add)(float* x, const float* y, size_t count);
  void (*scale)(float* x, float factor, size_t count);
  /// x = cap * tanh(x / cap).
  void (*soft_cap)(float* x, size_t count, float cap);
  /// Rotates one head: pairs (i, i + half) by (cosine[i], sine[i]).
  void (*rotate)(float* head, const float* cosine, const float* sine, size_t half);
  /// One block of 16 positions of one KV head for `queries` query rows: online softmax.
  /// k: [head_dim][16], v: [16][head_dim]; query i sees the positions from[i] .. to[i]-1 of the 16.
  /// q, acc: [queries][head_dim] with strides; running_max, running_sum: [queries]. Scores are
  /// soft-capped where cap is not 0.
  void (*attend_block)(const float* const* q, float* const* acc, const uint32_t* from,
                       const uint32_t* to, float* running_max, float* running_sum, unsigned queries,
                       const float* k, const float* v, size_t head_dim, float scale, float cap);
  /// Maximum of x, and sum of exp(x - maximum).
  void (*max_exp_sum)(const float* x, size_t count, float* maximum, float* sum);
  /// Index of the first of x that is greater than `bound`, or count.
  size_t (*first_above)(const float* x, size_t count, float bound);
};

extern const IsaKernels kBaselineKernels;
extern const IsaKernels kAvx2Kernels;
extern const IsaKernels kAvx512Kernels;

}  // namespace spillway
