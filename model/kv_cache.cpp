#include "model/kv_cache.h"

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

uint64_t layer_bytes(const Ops& ops, const ModelConfig& config, uint32_t length) {
  const auto capacity = static_cast<uint32_t>(align_up(length, kKvBlockPositions));
  return align_up(ops.kv_bytes({config.heads, config.kv_heads, config.head_dim}, capacity), 256);
}

}  // namespace

uint64_t KvCache::bytes(const Ops& ops, const ModelConfig& config,
                        std::span<const uint32_t> lengths) {
  uint64_t total = 0;
  for (const uint32_t length : lengths) total += config.layers * layer_bytes(ops, config, length);
  return total;
}

KvCache::KvCache(Device& device, Ops& ops, Stream& stream, const ModelConfig& config,
                 std::span<const uint32_t> lengths)
    : memory_(device.allocate(bytes(ops, config, lengths))) {
  // Attention multiplies unwritten lanes of a block by zero: they must be finite. It also makes the
  // first touch happen before the first timed pass.
  ops.zero(stream, memory_.data(), memory_.bytes());
  assign(ops, config, lengths);
}

void KvCache::assign(const Ops& ops, const ModelConfig& config, std::span<const uint32_t> lengths) {
  CHECK(bytes(ops, config, lengths) <= memory_.bytes());
  sequences_.clear();
  uint64_t offset = 0;
  for (const uint32_t length : lengths) {
    const uint64_t per_layer = layer_bytes(ops, config, length);
    sequences_.push_back(
        {offset, per_layer, static_cast<uint32_t>(align_up(length, kKvBlockPositions))});
    offset += config.layers * per_layer;
  }
}

std::byte* KvCache::layer(uint32_t sequence, uint32_t layer) const {
  const Sequence& s = sequences_[sequence];
  return memory_.data() + s.offset + layer * s.layer_bytes;
}

}  // namespace spillway
