#include "core/nearest.h"

#include <algorithm>
#include <vector>

namespace spillway {
namespace {

constexpr size_t kMaxDistance = 3;
constexpr size_t kMaxWordBytes = 64;  // no word of ours is longer

}  // namespace

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> older(b.size() + 1);
  std::vector<size_t> row(b.size() + 1);
  std::vector<size_t> next(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    next[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      next[j] =
          std::min({row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      const bool swapped =
          i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && a[i - 1] != b[j - 1];
      if (swapped) next[j] = std::min(next[j], older[j - 2] + 1);
    }
    std::swap(older, row);
    std::swap(row, next);
  }
  return row[b.size()];
}

std::string nearest_word(std::string_view word, std::span<const std::string> words) {
  if (word.empty() || word.size() > kMaxWordBytes) return "";
  std::string best;
  size_t best_distance = std::min(kMaxDistance, std::max<size_t>(1, word.size() / 2)) + 1;
  size_t begin_so = 0;
  std::string longer;
  for (const std::string& candidate : words) {
    const size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
    if (word.size() > 1 && candidate.starts_with(word)) {
      longer = candidate;
      ++begin_so;
    }
  }
  return begin_so == 1 ? longer : best;
}

}  // namespace spillway
