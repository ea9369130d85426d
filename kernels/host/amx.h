// Matrix products of prompts on Intel's tiles (AMX): bf16 by bf16, sums in f32. Pure functions on
// plain arrays, as isa_kernels.h: no threads, no allocation.
//
// Each result is one chain of tile products along the columns, in order and in f32. Its bits depend
// on the two rows alone: not on blocks of rows, panels of weights, or threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/host/isa_kernels.h"

namespace spillway {

/// Input rows that are packed together, and multiplied at a time: what they take of a part of the
/// columns stays in the second cache.
inline constexpr uint32_t kAmxBlockRows = 512;
/// Most weight rows of one amx_product().
inline constexpr uint32_t kAmxWeightRows = 256;
/// Input rows and weight rows are worked on in groups of these.
inline constexpr uint32_t kAmxGroupRows = 32;

/// Of an input of rows x cols, packed; a block of kAmxBlockRows takes as much as any other.
uint64_t amx_input_bytes(uint32_t rows, uint32_t cols);
/// Where block `block` of an input begins.
uint64_t amx_block_offset(uint32_t block, uint32_t cols);
/// Of one thread's product.
uint64_t amx_scratch_bytes();

/// Packs group `group` of kAmxGroupRows rows of x [rows, cols]; every group of a block once.
void amx_pack_input(const float* x, uint32_t rows, uint32_t cols, uint32_t group,
                    std::byte* packed);

/// Weight rows, of which `to_bf16` makes the numbers to multiply.
struct AmxWeights {
  const std::byte* data;
  IsaKernels::ToBf16 to_bf16;
  uint64_t row_bytes;
  uint64_t part_bytes;  ///< of kAmxPartCols columns
  uint32_t rows;        ///< up to kAmxWeightRows
};
inline constexpr uint32_t kAmxPartCols = 256;

/// out[r, n] = x[r, :] · w[n, :] for `rows` rows of the packed block at `block`. `scratch` and
/// `block` are 64-byte aligned. This thread's tiles are free before and after.
void amx_product(const AmxWeights& weights, const std::byte* block, uint32_t rows, uint32_t cols,
                 float* out, uint32_t out_stride, std::byte* scratch);

}  // namespace spillway
