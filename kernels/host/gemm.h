// Matrix products for prompts through oneDNN, one panel of weight rows at a time on one thread.
//
// oneDNN's own threads are kept out (one thread per call): its barriers spin, and collapse when a
// neighbour takes a core. The caller spreads panels over its threads instead.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "core/dtype.h"

namespace spillway {

/// Thread-safe: several threads may run products at once, also equal ones. Primitives are made
/// under a lock and shared. oneDNN calls executing a primitive thread-safe in the scratchpad mode
/// `user`, "as long as the scratchpad buffers are not used concurrently by two primitive
/// executions" (its guide on scratchpad modes); in its default mode, where the primitive owns the
/// buffer, it is not. So each call brings scratch of its own.
class Gemm {
 public:
  Gemm();
  ~Gemm();

  /// Scratch of one run() of up to `rows` rows, `w_rows` weight rows and `cols` columns.
  uint64_t scratch_bytes(DType type, uint32_t rows, uint32_t w_rows, uint32_t cols) const;

  /// out[r, n] = x[r, :] · w[n, :] with x f32 or bf16 [rows, cols] dense and w of the same type,
  /// row-major [w_rows, cols]. Runs on the calling thread only; nobody else uses `scratch`, 64-byte
  /// aligned, meanwhile. Sums do not depend on out_stride.
  void run(DType type, const void* x, const void* w, float* out, uint32_t rows, uint32_t w_rows,
           uint32_t cols, uint32_t out_stride, std::span<std::byte> scratch);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace spillway
