// Products of a few rows with weights in blocks on Intel's tiles (AMX), exact as those of
// isa_kernels.h: decode. An activation is split into three bf16 numbers whose sum it is, codes of
// weights are bf16 numbers as they are, so every product is exact in f32; sums of blocks are then
// scaled in f32. What is lost are products below 2^-70 in size. Pure functions on plain arrays, as
// isa_kernels.h: no threads, no allocation.
//
// Each result is summed in one order: its bits depend on the two rows alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/weight_format.h"

namespace spillway {

/// Weight rows that are worked on at a time.
inline constexpr uint32_t kAmxBlocksRows = 16;

/// Of one activation row, split; a multiple of 64.
uint64_t amx_split_bytes(uint32_t cols);
/// x: [cols], a multiple of 32. `split` is 64-byte aligned.
void amx_split(const float* x, uint32_t cols, std::byte* split);

/// out[r*out_stride + n] = x[r, :] · w[n, :] for `rows` activation rows, split and one behind the
/// other, and w_rows weight rows. This thread's tiles are free before and after.
using AmxBlocksGemv = void (*)(const std::byte* split, uint32_t rows, const std::byte* w,
                               uint32_t w_rows, uint32_t cols, float* out, uint32_t out_stride);
/// Null for formats without blocks.
AmxBlocksGemv amx_blocks_gemv(WeightFormat format);

}  // namespace spillway
