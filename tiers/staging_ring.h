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
  /// All free again: between two runs, when no read and no copy is under way.
  void reset();
  /// Gives the memory up for good: a read may still write it.
  void leak() noexcept { memory_.leak(); }
  /// Frees the slabs whose copies are over; true when any was.
  bool recycle();
  uint32_t copying_count() const { return copying_; }
  /// The oldest copy is over: recycle() would free its slab. False when none is under way.
  bool copy_over() const;
  /// Blocks until the oldest copy is over. Call when copying_count() > 0.
  void wait_for_copy();

 private:
  enum class State : uint8_t { kFree, kReading, kCopying };
  struct Slab {
    State state = State::kFree;
    uint64_t order = 0;  // of its copy among all copies
    std::unique_ptr<Event> copied;
  };
  const Slab* oldest_copy() const;
  uint64_t slab_bytes_;
  Memory memory_;
  std::vector<Slab> slabs_;
  uint32_t copying_ = 0;
  uint64_t copies_ = 0;  // begun so far
};

}  // namespace spillway
