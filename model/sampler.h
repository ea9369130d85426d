// What one sequence's next tokens are drawn with: greedy, or temperature, top-k, top-p, seeded.
// The picking itself is Ops::sample, on the device.
#pragma once

#include <cstdint>
#include <random>

#include "kernels/ops.h"

namespace spillway {

struct SamplingOptions {
  double temperature = 0;  ///< 0 = greedy
  uint32_t top_k = 0;      ///< 0 = all
  double top_p = 1;        ///< 1 = all
  uint64_t seed = 0;
};

/// One sequence's draws; sequences of a run have streams of their own, so that a sequence's tokens
/// do not depend on its neighbours.
class Sampler {
 public:
  Sampler(const SamplingOptions& options, uint64_t sequence);
  SampleRow next();

 private:
  SamplingOptions options_;
  std::mt19937_64 random_;
};

}  // namespace spillway
