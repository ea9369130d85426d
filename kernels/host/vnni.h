// Products of decode on weights in blocks, summed in whole numbers: for CPUs with AVX512-VNNI.
// Pure functions on plain arrays, as isa_kernels.h: no threads, no allocation.
//
// Codes of blocks are small whole numbers. An input is packed once as whole numbers too: four
// values in a row share a power of two, beside which each has 24 bits, sign included. So a value is
// rounded once, by at most the last bit of an f32 number as large as the largest of its four; four
// products and their sum are then exact. Sums of those are in f32, as is what minima and offsets
// take away: the error is that of f32 sums of inputs times the largest weights of blocks.
//
// That is as good as f32 where inputs are of a size. Of 256 inputs, some of which are far larger
// than others (is_wild() in vnni.cpp), weights may be as much smaller: those are multiplied in f32,
// weight by weight, with the very values that decode_values() gives.
//
// A sum's bits depend on the two rows alone. Nothing here may be called where detect_isa() gives
// less than Isa::kAvx512Vnni.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/weight_format.h"

namespace spillway {

/// Of one packed row, best 64-byte aligned.
uint64_t vnni_input_bytes(uint32_t cols);

struct VnniKernels {
  /// x: [cols]. What is not a number, or infinite, makes its row's results such. What is packed
  /// serves all formats that have the same function here.
  void (*pack)(const float* x, size_t cols, std::byte* packed);
  /// out[r*out_stride + n] = x[r, :] · w[n, :] for 1..4 packed rows and w_rows rows n.
  void (*gemv)(const std::byte* packed, size_t packed_stride, unsigned rows, const std::byte* w,
               unsigned w_rows, size_t cols, float* out, size_t out_stride);
};

/// Null for plain numbers and for formats that gain nothing: codes of 8 bits, or no whole numbers.
const VnniKernels* vnni_kernels(WeightFormat format);

}  // namespace spillway
