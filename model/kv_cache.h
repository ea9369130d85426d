// Keys and values of every sequence and layer, in one device arena whose bytes are a line of the
// memory bill. Owner of that arena.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/device.h"
#include "kernels/ops.h"
#include "model/model_config.h"

namespace spillway {

class KvCache {
 public:
  /// `lengths`: the most positions each sequence will have.
  static uint64_t bytes(const Ops& ops, const ModelConfig& config,
                        std::span<const uint32_t> lengths);
  KvCache(Device& device, Ops& ops, Stream& stream, const ModelConfig& config,
          std::span<const uint32_t> lengths);

  /// Lays the arena out anew for other sequences, which must fit it.
  void assign(const Ops& ops, const ModelConfig& config, std::span<const uint32_t> lengths);

  std::byte* layer(uint32_t sequence, uint32_t layer) const;
  uint32_t capacity(uint32_t sequence) const { return sequences_[sequence].capacity; }

 private:
  struct Sequence {
    uint64_t offset;
    uint64_t layer_bytes;
    uint32_t capacity;
  };
  Memory memory_;
  std::vector<Sequence> sequences_;
};

}  // namespace spillway
