// The ids of words met before in the same text. Belongs to one call of encode().
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <vector>

namespace spillway {

/// A fixed number of slots, the newer word wins. Remembers where in the output a word's ids are.
class WordCache {
 public:
  explicit WordCache(size_t text_bytes)
      : slots_(std::bit_ceil(std::clamp<size_t>(text_bytes / 8, 16, 8192))) {}

  /// Appends the word's ids when it is known.
  bool append(std::string_view word, std::vector<uint32_t>& ids) {
    if (word.size() > kMaxBytes || word.empty()) return false;
    const Slot& slot = slots_[index(word)];
    if (slot.bytes != word.size() || std::memcmp(slot.text.data(), word.data(), word.size()) != 0) {
      return false;
    }
    const size_t at = ids.size();
    ids.resize(at + slot.count);
    std::memcpy(ids.data() + at, ids.data() + slot.begin, slot.count * sizeof(uint32_t));
    return true;
  }
  /// The ids of `word` are ids[begin, end).
  void remember(std::string_view word, const std::vector<uint32_t>& ids, size_t begin) {
    const size_t count = ids.size() - begin;
    if (word.size() > kMaxBytes || word.empty() || count > UINT8_MAX || begin > UINT32_MAX) return;
    Slot& slot = slots_[index(word)];
    std::memcpy(slot.text.data(), word.data(), word.size());
    slot.bytes = static_cast<uint8_t>(word.size());
    slot.count = static_cast<uint8_t>(count);
    slot.begin = static_cast<uint32_t>(begin);
  }

 private:
  static constexpr size_t kMaxBytes = 26;
  struct Slot {
    std::array<char, kMaxBytes> text;
    uint8_t bytes = 0;
    uint8_t count = 0;
    uint32_t begin = 0;
  };
  size_t index(std::string_view word) const {
    uint64_t hash = word.size();
    for (size_t at = 0; at < word.size(); at += 8) {
      uint64_t part = 0;
      std::memcpy(&part, word.data() + at, std::min<size_t>(8, word.size() - at));
      hash = (hash ^ part) * 0x9E3779B97F4A7C15u;
      hash ^= hash >> 32;
    }
    return hash & (slots_.size() - 1);
  }
  std::vector<Slot> slots_;
};

}  // namespace spillway
