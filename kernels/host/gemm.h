// Matrix products for prompts through oneDNN, one panel of weight rows at a time on one thread.
//
// oneDNN's own threads are kept out (one thread per call): its barriers spin, and collapse when a
// neighbour takes a core. The caller spreads panels over its threads instead.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/dtype.h"

namespace spillway {

/// Thread-safe after construction: primitives are made under a lock and run without one.
class Gemm {
 public:
  Gemm();
  ~Gemm();

  /// out[r, n] = x[r, :] · w[n, :] with x f32 or bf16 [rows, cols] dense and w of the same type,
  /// row-major [w_rows, cols]. Runs on the calling thread only.
  void run(DType type, const void* x, const void* w, float* out, uint32_t rows, uint32_t w_rows,
           uint32_t cols, uint32_t out_stride);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace spillway
