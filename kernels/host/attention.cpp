#include "kernels/host/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/error.h"

namespace spillway {
namespace {

constexpr uint32_t kMaxTileQueries = 64;

uint64_t block_floats(const AttentionShape& shape) {
  return uint64_t{2} * kKvBlockPositions * shape.head_dim;
}

float* block_of(const AttentionShape& shape, const SequenceRows& sequence, uint32_t kv_head,
                uint32_t block) {
  auto* base = reinterpret_cast<float*>(sequence.kv);
  const uint64_t blocks = sequence.kv_capacity / kKvBlockPositions;
  return base + (kv_head * blocks + block) * block_floats(shape);
}

}  // namespace

uint64_t host_kv_bytes(const AttentionShape& shape, uint32_t capacity) {
  return uint64_t{capacity} * shape.kv_heads * shape.head_dim * 2 * sizeof(float);
}

void host_kv_store(const float* k, const float* v, const AttentionShape& shape,
                   const SequenceRows& sequence, uint32_t position) {
  const uint32_t lane = position % kKvBlockPositions;
  for (uint32_t head = 0; head < shape.kv_heads; ++head) {
    float* block = block_of(shape, sequence, head, position / kKvBlockPositions);
    const float* key = k + uint64_t{head} * shape.head_dim;
    for (uint32_t d = 0; d < shape.head_dim; ++d) block[d * kKvBlockPositions + lane] = key[d];
    float* values = block + uint64_t{kKvBlockPositions} * shape.head_dim;
    std::memcpy(values + uint64_t{lane} * shape.head_dim, v + uint64_t{head} * shape.head_dim,
                shape.head_dim * sizeof(float));
  }
}

void host_attention_tile(const IsaKernels& isa, const float* q, const AttentionShape& shape,
                         const SequenceRows& sequence, uint32_t first, uint32_t count,
                         uint32_t kv_head, float* out) {
  const uint32_t group = shape.heads / shape.kv_heads;
  const uint32_t width = shape.heads * shape.head_dim;
  const float scale = shape.score_scale != 0 ? shape.score_scale
                                             : 1.0f / std::sqrt(static_cast<float>(shape.head_dim));
  // Queries of a group share the KV head: its blocks are read once for as many as fit the tile.
  for (uint32_t done = 0; done < count * group;) {
    const uint32_t queries = std::min(count * group - done, kMaxTileQueries);
    const float* query[kMaxTileQueries];
    float* acc[kMaxTileQueries];
    uint32_t first_seen[kMaxTileQueries];
    uint32_t length[kMaxTileQueries];
    float running_max[kMaxTileQueries];
    float running_sum[kMaxTileQueries];
    uint32_t longest = 0;
    uint32_t earliest = UINT32_MAX;
    for (uint32_t i = 0; i < queries; ++i) {
      const uint32_t row = first + (done + i) / group;
      const uint32_t head = kv_head * group + (done + i) % group;
      const uint64_t at = uint64_t{sequence.first_row + row} * width + head * shape.head_dim;
      query[i] = q + at;
      acc[i] = out + at;
      length[i] = sequence.first_position + row + 1;
      first_seen[i] = length[i] > shape.window ? length[i] - shape.window : 0;
      longest = std::max(longest, length[i]);
      earliest = std::min(earliest, first_seen[i]);
      running_max[i] = -1e30f;
      running_sum[i] = 0;
      std::fill_n(acc[i], shape.head_dim, 0.0f);
    }
    // Blocks wholly behind every window are not read; they would change no bit.
    for (uint32_t begin = earliest - earliest % kKvBlockPositions; begin < longest;
         begin += kKvBlockPositions) {
      uint32_t from[kMaxTileQueries];
      uint32_t to[kMaxTileQueries];
      for (uint32_t i = 0; i < queries; ++i) {
        from[i] = first_seen[i] > begin ? std::min(first_seen[i] - begin, kKvBlockPositions) : 0;
        to[i] = length[i] > begin ? std::min(length[i] - begin, kKvBlockPositions) : 0;
      }
      const float* block = block_of(shape, sequence, kv_head, begin / kKvBlockPositions);
      isa.attend_block(query, acc, from, to, running_max, running_sum, queries, block,
                       block + uint64_t{kKvBlockPositions} * shape.head_dim, shape.head_dim, scale,
                       shape.score_cap);
    }
    for (uint32_t i = 0; i < queries; ++i) {
      const float scale_out = 1.0f / running_sum[i];
      for (uint32_t d = 0; d < shape.head_dim; ++d) acc[i][d] *= scale_out;
    }
    done += queries;
  }
}

}  // namespace spillway
