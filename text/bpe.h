// Byte-pair encoding over token ids: the merge loop that both tokenizer.json families share.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace spillway {

/// Immutable after the last add_*; thread-safe to use.
class Bpe {
 public:
  /// False when the token or the id is there already.
  bool add_token(std::string token, uint32_t id);
  /// The next merge in rank order. False when a part or the result is not a token.
  bool add_merge(std::string_view left, std::string_view right);

  /// -1 = not in the vocabulary.
  int64_t id_of(std::string_view token) const;
  const std::string* token_of(uint32_t id) const;
  /// Applies merges to a word, lowest rank first, leftmost first. O(n log n).
  std::vector<uint32_t> merge(const std::vector<uint32_t>& symbols) const;

 private:
  struct Merge {
    uint32_t rank;
    uint32_t result;
  };
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  static uint64_t pair_key(uint32_t left, uint32_t right) { return (uint64_t{left} << 32) | right; }
  std::unordered_map<std::string, uint32_t, Hash, std::equal_to<>> ids_;
  std::unordered_map<uint32_t, const std::string*> tokens_;
  std::unordered_map<uint64_t, Merge> merges_;
};

}  // namespace spillway
