// A hash table from 64-bit keys to small values, for lookups that are the whole cost of a loop.
// Filled once, then only read: after that any thread may.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace spillway {

/// Open addressing, at most half full. The key of all ones is reserved.
template <typename Value>
class FlatMap {
 public:
  void set(uint64_t key, const Value& value) {
    if (2 * (count_ + 1) > slots_.size()) grow();
    Slot& slot = slots_[find(key)];
    if (slot.key == kNone) ++count_;
    slot = {key, value};
  }
  const Value* get(uint64_t key) const {
    if (slots_.empty()) return nullptr;
    const Slot& slot = slots_[find(key)];
    return slot.key == key ? &slot.value : nullptr;
  }
  size_t size() const { return count_; }

 private:
  static constexpr uint64_t kNone = ~uint64_t{0};
  struct Slot {
    uint64_t key = kNone;
    Value value{};
  };
  size_t find(uint64_t key) const {
    const size_t mask = slots_.size() - 1;
    uint64_t mixed = key * 0x9E3779B97F4A7C15u;
    mixed ^= mixed >> 32;
    size_t at = mixed & mask;
    while (slots_[at].key != kNone && slots_[at].key != key) at = (at + 1) & mask;
    return at;
  }
  void grow() {
    std::vector<Slot> old =
        std::exchange(slots_, std::vector<Slot>(slots_.empty() ? 16 : slots_.size() * 2));
    for (const Slot& slot : old) {
      if (slot.key != kNone) slots_[find(slot.key)] = slot;
    }
  }
  std::vector<Slot> slots_;
  size_t count_ = 0;
};

/// Key of the edge of a trie that leads from `node` along `byte`.
inline uint64_t trie_edge(uint32_t node, char byte) {
  return (uint64_t{node} << 8) | static_cast<unsigned char>(byte);
}

}  // namespace spillway
