// Launchers of the own kernels. Every call only puts work on a stream and throws Error when the
// launch is refused; pointers are device memory. Expected traffic stands beside each kernel.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "kernels/ops.h"

namespace spillway::cuda {

/// Where a kernel runs. `early`: it may be launched before the work ahead of it has ended, for
/// which it then waits itself (simt.cuh); the GPU must have compute capability 9.0.
struct LaunchOn {
  cudaStream_t stream = nullptr;
  bool early = false;
};

/// Sequences as a kernel parameter: by value, so that nothing is uploaded and nothing must live on.
struct SequenceBatch {
  static constexpr uint32_t kMax = 64;
  uint32_t count = 0;
  SequenceRows items[kMax];
};

/// Rows to sample, likewise.
struct SampleBatch {
  static constexpr uint32_t kMax = 64;
  SampleRow rows[kMax];
};

/// What a producer of matmul inputs writes: f32, or 16 bits of `dtype`.
struct InputTarget {
  float* f32 = nullptr;
  uint16_t* half = nullptr;
  DType dtype = DType::kF32;
};

/// True when this build holds code for the current device.
bool has_code();
/// True when that code waits for the stream itself, as early launches need: it was compiled for 9.0
/// or later. What a driver makes of code for 8.0 does not wait, on any GPU.
bool waits_by_itself();

// elementwise.cu
void embed(const LaunchOn& on, const WeightView& table, const uint32_t* ids, const uint32_t* rows,
           uint32_t count, float* out);
void rmsnorm(const LaunchOn& on, const float* x, const NormWeight& norm, uint32_t rows, float* out);
/// x += y where y is given; target = x / rms(x) * (added + weight).
void add_rmsnorm(const LaunchOn& on, float* x, const float* y, const NormWeight& norm,
                 uint32_t rows, const InputTarget& target);
void gate_mul(const LaunchOn& on, Activation activation, const float* gate, const float* up,
              uint64_t count, const InputTarget& target);
void convert(const LaunchOn& on, const float* x, uint64_t count, const InputTarget& target);
void add(const LaunchOn& on, float* x, const float* y, uint64_t count);
void scale(const LaunchOn& on, float* x, float factor, uint64_t count);
void soft_cap(const LaunchOn& on, float* x, float cap, uint32_t rows, uint32_t cols,
              uint32_t stride);
void add_bias(const LaunchOn& on, float* x, uint32_t rows, const WeightView& bias);
void rope_append(const LaunchOn& on, float* q, const float* k, const float* v,
                 const AttentionShape& shape, const float* inverse_frequencies,
                 const SequenceBatch& sequences);

// gemv.cu
inline constexpr uint32_t kMaxGemvRows = 8;
/// out[r, n] = x[r, :] · weight[n, :] for up to kMaxGemvRows rows of x, f32 sums. A row's bits do
/// not depend on the number of rows, on the tile or on addresses.
void gemv(const LaunchOn& on, const WeightView& weight, const float* x, uint32_t rows, float* out,
          uint32_t out_stride);

// gemv_blocks.cu, blocks.cu: weights in blocks; activations lie at multiples of 16 bytes
/// gemv() calls this for them, with the same promises.
void gemv_blocks(const LaunchOn& on, const WeightView& weight, const float* x, uint32_t rows,
                 float* out, uint32_t out_stride);
/// embed() calls this for them. `table.rows` are all there are: nothing behind them is read.
void embed_blocks(const LaunchOn& on, const WeightView& table, const uint32_t* ids,
                  const uint32_t* rows, uint32_t count, float* out);
/// out [rows, cols] = the weight's values as bf16.
void decode_blocks(const LaunchOn& on, const WeightView& weight, uint16_t* out);

// attention.cu; the cache of a sequence is keys [kv_heads, capacity, head_dim], then values alike
inline constexpr uint32_t kMaxHeadDim = 256;
uint64_t kv_cache_bytes(const AttentionShape& shape, uint32_t capacity);
/// Scratch of one decoding sequence of up to `positions`.
uint64_t split_workspace_bytes(const AttentionShape& shape, uint32_t positions);
/// One row per sequence, the KV length split over blocks; as many sequences at a time as
/// `workspace` holds (one at least).
void attention_decode(const LaunchOn& on, const float* q, const AttentionShape& shape,
                      std::span<const SequenceRows> sequences, float* out,
                      std::span<std::byte> workspace);
/// Any number of rows of one sequence: tensor cores for 16-bit caches, f32 otherwise.
void attention_prefill(const LaunchOn& on, const float* q, const AttentionShape& shape,
                       const SequenceRows& sequence, float* out);

// logits.cu
void fold_log_softmax(const LaunchOn& on, const float* logits, uint32_t rows, uint32_t cols,
                      uint32_t stride, uint32_t first_id, const uint32_t* targets,
                      float* running_max, float* running_sum, float* target_logit);
void fold_top_k(const LaunchOn& on, const float* logits, uint32_t rows, uint32_t cols,
                uint32_t stride, uint32_t first_id, uint32_t k, float* values, uint32_t* ids);
void sample(const LaunchOn& on, const float* logits, uint32_t cols, const SampleBatch& batch,
            uint32_t rows, uint32_t* ids);

}  // namespace spillway::cuda
