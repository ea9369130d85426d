// The unigram language model: the split of a word into tokens with the highest sum of scores.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/flat_map.h"
#include "text/word_cache.h"

namespace spillway {

/// What a call of encode() works with; one per thread.
struct UnigramScratch {
  explicit UnigramScratch(size_t text_bytes) : cache(text_bytes) {}
  struct Node {
    double score = 0;
    uint32_t id = 0;
    int64_t start = -1;  // of the token that ends here on the best way; -1 = none does
  };
  WordCache cache;
  std::vector<Node> best;  // by place in the word
  std::vector<std::pair<size_t, size_t>> pieces;
};

/// Immutable after the last add; then any number of threads may use it, each with its own scratch.
class Unigram {
 public:
  Unigram(std::optional<uint32_t> unknown, bool byte_fallback)
      : unknown_(unknown), byte_fallback_(byte_fallback) {}
  /// The next id. Of equal tokens the last counts.
  void add(const std::string& token, double score);

  int64_t id_of(std::string_view token) const;
  const std::string* token_of(uint32_t id) const;
  size_t size() const { return tokens_.size(); }
  /// Appends the ids of a word. Throws Error when it needs an unknown token and there is none.
  void encode(std::string_view word, UnigramScratch& scratch, std::vector<uint32_t>& ids) const;

 private:
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  void find_best(std::string_view word, UnigramScratch& scratch) const;
  void cut(std::string_view word, UnigramScratch& scratch) const;
  void append(std::string_view piece, std::vector<uint32_t>& ids) const;
  uint32_t unknown() const;

  std::optional<uint32_t> unknown_;
  bool byte_fallback_;
  double lowest_ = std::numeric_limits<double>::infinity();
  std::vector<std::string> tokens_;
  std::vector<double> scores_;
  std::unordered_map<std::string, uint32_t, Hash, std::equal_to<>> ids_;
  std::vector<int64_t> node_ids_{-1};  // of the trie; -1 = no token ends there
  FlatMap<uint32_t> edges_;            // node and byte to node
};

}  // namespace spillway
