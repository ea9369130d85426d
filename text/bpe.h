// Byte-pair encoding: a word to token ids.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "text/flat_map.h"
#include "text/word_cache.h"

namespace spillway {

struct BpeOptions {
  std::optional<std::string> unknown;  ///< what stands for characters that are no token
  std::string continuing_prefix;       ///< before every character of a word but the first
  std::string end_suffix;              ///< after the last
  bool fuse_unknown = false;
  bool byte_fallback = false;
  bool ignore_merges = false;
};

/// What a call of encode() works with; one per thread.
struct BpeScratch {
  explicit BpeScratch(size_t text_bytes) : cache(text_bytes) {}
  WordCache cache;
  std::vector<uint32_t> symbols;
  std::vector<int64_t> previous;
  std::vector<int64_t> next;
  std::vector<uint64_t> queue;
};

/// Immutable after prepare(); then any number of threads may use it, each with its own scratch.
class Bpe {
 public:
  explicit Bpe(BpeOptions options = {}) : options_(std::move(options)) {}
  Bpe(Bpe&&) = default;
  Bpe& operator=(Bpe&&) = default;
  /// Room for so many, so that adding them moves nothing.
  void reserve(size_t tokens, size_t merges);
  /// False when the token or the id is there already.
  bool add_token(std::string token, uint32_t id);
  /// The next merge in rank order; of two for the same pair the later counts. False when a part or
  /// the result is not a token.
  bool add_merge(std::string_view left, std::string_view right);
  /// Call after the last add_*.
  void prepare();

  /// -1 = not in the vocabulary.
  int64_t id_of(std::string_view token) const;
  const std::string* token_of(uint32_t id) const;
  size_t size() const { return ids_.size(); }
  /// One more than the highest id.
  uint32_t end_id() const { return end_id_; }

  /// Appends the ids of a word. Throws Error when it needs an unknown token that is no token.
  void encode(std::string_view word, BpeScratch& scratch, std::vector<uint32_t>& ids) const;
  /// Whether encode_bytes() says what encode() of byte_level_text(word) says.
  bool has_byte_symbols() const { return has_byte_symbols_; }
  /// The word's bytes, each the character that the byte-level alphabet has for it.
  void encode_bytes(std::string_view word, BpeScratch& scratch, std::vector<uint32_t>& ids) const;
  /// Applies merges, lowest rank first, leftmost first. O(n log n).
  std::vector<uint32_t> merge(const std::vector<uint32_t>& symbols) const;

 private:
  struct Merge {
    uint32_t rank;
    uint32_t result;
  };
  /// Not noexcept: that makes the library keep each token's hash, and not compute those of a whole
  /// bucket with every search.
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view token) const { return std::hash<std::string_view>{}(token); }
  };
  static constexpr size_t kClasses = 130;  // ASCII, U+2581, all others
  static uint64_t pair_key(uint32_t left, uint32_t right) { return (uint64_t{left} << 32) | right; }
  const Merge* merge_of(uint32_t left, uint32_t right) const {
    return merges_.get(pair_key(left, right));
  }
  void prepare_cuts();
  void prepare_bytes();
  size_t class_at(std::string_view text, size_t at) const;
  size_t next_cut(std::string_view word, size_t begin) const;
  void encode_part(std::string_view word, BpeScratch& scratch, std::vector<uint32_t>& ids) const;
  void characters(std::string_view word, std::vector<uint32_t>& symbols) const;
  int64_t character_id(std::string_view word, size_t at, size_t bytes) const;
  bool append_fallback(std::string_view character, std::vector<uint32_t>& symbols) const;
  uint32_t unknown_id() const;
  void merge_symbols(BpeScratch& scratch, std::vector<uint32_t>& ids) const;
  void merge_few(BpeScratch& scratch) const;
  void merge_many(BpeScratch& scratch) const;

  BpeOptions options_;
  std::unordered_map<std::string, uint32_t, Hash, std::equal_to<>> ids_;
  std::unordered_map<uint32_t, const std::string*> tokens_;
  FlatMap<Merge> merges_;
  std::vector<uint32_t> results_;  // by rank
  std::string joined_;             // what add_merge() looks for
  uint32_t next_rank_ = 0;
  uint32_t end_id_ = 0;
  FlatMap<uint32_t> characters_;             // code point to id
  std::array<int64_t, 256> byte_ids_{};      // the byte-level alphabet
  std::array<int64_t, 256> fallback_ids_{};  // "<0x0A>"
  bool has_byte_symbols_ = false;
  bool cuts_ = false;
  std::array<std::array<bool, kClasses>, kClasses> may_cut_{};
};

}  // namespace spillway
