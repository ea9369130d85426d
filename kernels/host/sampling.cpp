#include "kernels/host/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace spillway {

uint32_t host_sample(std::span<const float> logits, const SampleRow& row,
                     std::span<uint32_t> scratch) {
  uint32_t best = 0;
  for (uint32_t i = 0; i < logits.size(); ++i) {
    if (!std::isfinite(logits[i])) return kBadLogits;
    if (logits[i] > logits[best]) best = i;
  }
  if (row.temperature <= 0) return best;

  std::span<uint32_t> ids = scratch.first(logits.size());
  std::iota(ids.begin(), ids.end(), 0u);
  const auto higher = [&](uint32_t a, uint32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  const size_t keep = row.top_k == 0 ? ids.size() : std::min<size_t>(row.top_k, ids.size());
  std::partial_sort(ids.begin(), ids.begin() + static_cast<ptrdiff_t>(keep), ids.end(), higher);
  ids = ids.first(keep);

  const double top = logits[best];
  const auto weight = [&](uint32_t id) { return std::exp((logits[id] - top) / row.temperature); };
  double total = 0;
  for (const uint32_t id : ids) total += weight(id);
  double kept = 0;
  size_t count = 0;
  while (count < keep && (count == 0 || kept < row.top_p * total)) kept += weight(ids[count++]);
  ids = ids.first(count);
  std::sort(ids.begin(), ids.end());
  double left = row.uniform * kept;
  for (const uint32_t id : ids) {
    left -= weight(id);
    if (left < 0) return id;
  }
  return ids.back();
}

}  // namespace spillway
