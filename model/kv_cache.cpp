#include "model/kv_cache.h"

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

uint64_t layer_bytes(const Ops& ops, const AttentionShape& shape, uint32_t length) {
  const auto capacity = static_cast<uint32_t>(align_up(length, kKvBlockPositions));
  return align_up(ops.kv_bytes(shape, capacity), DeviceArena::kAlignment);
}

}  // namespace

uint64_t KvCache::bytes(const Ops& ops, const AttentionShape& shape, uint32_t layers,
                        std::span<const uint32_t> lengths) {
  uint64_t total = 0;
  for (const uint32_t length : lengths) total += layers * layer_bytes(ops, shape, length);
  return total;
}

KvCache::KvCache(DeviceArena& arena, Ops& ops, Stream& stream, const AttentionShape& shape,
                 uint32_t layers, std::span<const uint32_t> lengths)
    : ops_(ops),
      shape_(shape),
      layers_(layers),
      memory_(arena.take(bytes(ops, shape, layers, lengths))) {
  // Attention multiplies unwritten lanes of a block by zero: they must be finite. It also makes the
  // first touch happen before the first timed pass.
  ops.zero(stream, memory_.data(), memory_.bytes());
  assign(lengths);
}

void KvCache::assign(std::span<const uint32_t> lengths) {
  CHECK(bytes(ops_, shape_, layers_, lengths) <= memory_.bytes());
  sequences_.clear();
  uint64_t offset = 0;
  for (const uint32_t length : lengths) {
    const uint64_t per_layer = layer_bytes(ops_, shape_, length);
    sequences_.push_back(
        {offset, per_layer, static_cast<uint32_t>(align_up(length, kKvBlockPositions))});
    offset += layers_ * per_layer;
  }
}

std::byte* KvCache::layer(uint32_t sequence, uint32_t layer) const {
  const Sequence& s = sequences_[sequence];
  return memory_.data() + s.offset + layer * s.layer_bytes;
}

}  // namespace spillway
