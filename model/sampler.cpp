#include "model/sampler.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"

namespace spillway {

Sampler::Sampler(const SamplingOptions& options, uint32_t vocab, uint64_t sequence)
    : options_(options) {
  std::seed_seq seed{static_cast<uint32_t>(options.seed), static_cast<uint32_t>(options.seed >> 32),
                     static_cast<uint32_t>(sequence)};
  random_.seed(seed);
  if (options.temperature > 0) candidates_.reserve(vocab);
}

uint32_t Sampler::pick(std::span<const float> logits) {
  uint32_t best = 0;
  for (uint32_t i = 0; i < logits.size(); ++i) {
    if (!std::isfinite(logits[i])) {
      throw Error(
          "the model computed a logit that is not a number; the checkpoint is damaged (spillway "
          "inspect --verify shows its checksums)");
    }
    if (logits[i] > logits[best]) best = i;
  }
  if (options_.temperature <= 0) return best;

  candidates_.clear();
  for (uint32_t i = 0; i < logits.size(); ++i) candidates_.push_back({logits[i], i});
  const auto higher = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  };
  const size_t keep = options_.top_k == 0 ? candidates_.size()
                                          : std::min<size_t>(options_.top_k, candidates_.size());
  std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<ptrdiff_t>(keep),
                    candidates_.end(), higher);
  candidates_.resize(keep);

  const double top = candidates_[0].logit;
  const auto weight = [&](const Candidate& candidate) {
    return std::exp((candidate.logit - top) / options_.temperature);
  };
  double total = 0;
  for (const Candidate& candidate : candidates_) total += weight(candidate);
  double kept = 0;
  size_t count = 0;
  while (count < keep && (count == 0 || kept < options_.top_p * total)) {
    kept += weight(candidates_[count++]);
  }
  double draw = std::uniform_real_distribution<double>(0, kept)(random_);
  for (size_t i = 0; i < count; ++i) {
    draw -= weight(candidates_[i]);
    if (draw < 0) return candidates_[i].id;
  }
  return candidates_[count - 1].id;
}

}  // namespace spillway
