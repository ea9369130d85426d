// Attention over the host's KV cache.
//
// Cache of one layer and sequence: for each KV head, blocks of 16 positions, each K as
// [head_dim][16] (16 scores at a time without a horizontal sum) then V as [16][head_dim].
#pragma once

#include "kernels/host/isa_kernels.h"
#include "kernels/ops.h"

namespace spillway {

uint64_t host_kv_bytes(const AttentionShape& shape, uint32_t capacity);

/// Stores one row's k and v [kv_heads*head_dim] at `position`.
void host_kv_store(const float* k, const float* v, const AttentionShape& shape,
                   const SequenceRows& sequence, uint32_t position);

/// Rows [first, first+count) of a sequence (count <= kAttentionTileRows) against one KV head.
inline constexpr uint32_t kAttentionTileRows = 8;
void host_attention_tile(const IsaKernels& isa, const float* q, const AttentionShape& shape,
                         const SequenceRows& sequence, uint32_t first, uint32_t count,
                         uint32_t kv_head, float* out);

}  // namespace spillway
