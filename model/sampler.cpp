#include "model/sampler.h"

namespace spillway {

Sampler::Sampler(const SamplingOptions& options, uint64_t sequence) : options_(options) {
  std::seed_seq seed{static_cast<uint32_t>(options.seed), static_cast<uint32_t>(options.seed >> 32),
                     static_cast<uint32_t>(sequence)};
  random_.seed(seed);
}

SampleRow Sampler::next() {
  constexpr int kBits = 24;  // what a float in [0, 1) holds exactly
  SampleRow row;
  row.temperature = static_cast<float>(options_.temperature);
  row.top_k = options_.top_k;
  row.top_p = static_cast<float>(options_.top_p);
  if (options_.temperature > 0) {
    row.uniform = static_cast<float>(random_() >> (64 - kBits)) * 0x1p-24f;
  }
  return row;
}

}  // namespace spillway
