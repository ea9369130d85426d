// N pinned slabs between storage and a discrete device, free → reading → copying → free.
// Owner: memory and events. Feeder thread only. The counts always add up to N.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "core/device.h"

namespace spillway {

class StagingRing {
 public:
  StagingRing(Device& device, uint32_t count, uint64_t slab_bytes);

  uint32_t count() const { return static_cast<uint32_t>(slabs_.size()); }
  uint64_t slab_bytes() const { return slab_bytes_; }
  std::byte* data(uint32_t slab) const { return memory_.data() + slab * slab_bytes_; }
  std::span<std::byte> arena() const { return {memory_.data(), memory_.bytes()}; }

  std::optional<uint32_t> take_free();
  /// Gives back a slab whose read was not started, or whose bytes were taken by the CPU.
  void put_back(uint32_t slab);
  /// The read is done and its copies are on `stream`: the slab is free once they ran.
  void copying(uint32_t slab, Stream& stream);
  /// Frees the slabs whose copies are over; true when any was.
  bool recycle();
  uint32_t copying_count() const { return copying_; }
  /// Blocks until one copy is over. Call when copying_count() > 0.
  void wait_for_copy();

 private:
  enum class State : uint8_t { kFree, kReading, kCopying };
  struct Slab {
    State state = State::kFree;
    std::unique_ptr<Event> copied;
  };
  uint64_t slab_bytes_;
  Memory memory_;
  std::vector<Slab> slabs_;
  uint32_t copying_ = 0;
};

}  // namespace spillway
