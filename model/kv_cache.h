// Keys and values of every sequence and layer, in one piece of device memory whose bytes are a line
// of the memory bill. Owner of that piece.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/device_arena.h"
#include "kernels/ops.h"

namespace spillway {

class KvCache {
 public:
  /// `lengths`: the most positions each sequence will have.
  static uint64_t bytes(const Ops& ops, const AttentionShape& shape, uint32_t layers,
                        std::span<const uint32_t> lengths);
  KvCache(DeviceArena& arena, Ops& ops, Stream& stream, const AttentionShape& shape,
          uint32_t layers, std::span<const uint32_t> lengths);

  /// Lays the arena out anew for other sequences, which must fit it.
  void assign(std::span<const uint32_t> lengths);

  std::byte* layer(uint32_t sequence, uint32_t layer) const;
  uint32_t capacity(uint32_t sequence) const { return sequences_[sequence].capacity; }

 private:
  struct Sequence {
    uint64_t offset;
    uint64_t layer_bytes;
    uint32_t capacity;
  };
  const Ops& ops_;
  AttentionShape shape_;
  uint32_t layers_;
  Memory memory_;
  std::vector<Sequence> sequences_;
};

}  // namespace spillway
