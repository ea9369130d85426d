// A layer of a prompt, computed as a forward pass does: what its parts take, each of which finds in
// the caches what the one before left there. Probe times the parts one by one as well.
#pragma once

#include <cstdint>

#include "kernels/ops.h"
#include "probe/compute_rates.h"

namespace spillway {

/// Of the size of an 8B model's, in bf16. Used by one thread; `device`, `ops`, `stream` and
/// `weights` outlive it.
class PromptLayer {
 public:
  /// Takes the workspace of `ops`. `weights`: weight_bytes() of them. Throws Error where there is
  /// no memory.
  PromptLayer(Device& device, Ops& ops, Stream& stream, const std::byte* weights, uint32_t rows);
  static uint64_t weight_bytes();
  /// Puts the layer on the stream.
  void run();
  /// What the rates of its parts say, counted as a pass is predicted (model/prediction.cpp).
  static double seconds_of_parts(const DeviceRates& rates, uint32_t rows, uint64_t unit_bytes);

 private:
  float* take(uint64_t values_of_row);
  /// One unit after the other.
  void multiply(uint32_t matrix, float* out);

  Ops& ops_;
  Stream& stream_;
  const std::byte* weights_;
  uint64_t unit_bytes_;
  uint32_t rows_;
  Memory workspace_;
  Memory activations_;
  Memory cache_;
  uint64_t taken_ = 0;  ///< bytes of the activations
  float *x_, *y_, *q_, *k_, *v_, *attended_, *gate_, *up_, *speeds_;
};

}  // namespace spillway
