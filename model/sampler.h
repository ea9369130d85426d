// Picks the next token from logits: greedy, temperature, top-k, top-p, seeded.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace spillway {

struct SamplingOptions {
  double temperature = 0;  ///< 0 = greedy
  uint32_t top_k = 0;      ///< 0 = all
  double top_p = 1;        ///< 1 = all
  uint64_t seed = 0;
};

/// One sequence's sampler; sequences of a run draw from streams of their own, so that a sequence's
/// tokens do not depend on its neighbours. Order: top-k, then temperature, then top-p.
class Sampler {
 public:
  Sampler(const SamplingOptions& options, uint32_t vocab, uint64_t sequence);
  /// Throws Error when the logits are not numbers. Ties go to the lower id.
  uint32_t pick(std::span<const float> logits);

 private:
  struct Candidate {
    float logit;
    uint32_t id;
  };
  SamplingOptions options_;
  std::mt19937_64 random_;
  std::vector<Candidate> candidates_;
};

}  // namespace spillway
