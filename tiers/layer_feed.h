// All that a model sees of the tiers: ask for the next unit, use its tensors, give it back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "core/device.h"
#include "tiers/layer_layout.h"

namespace spillway {

/// What streaming cost since the last take_stats().
struct FeedStats {
  uint64_t nvme_bytes = 0;    ///< read from storage for the units acquired
  uint64_t copied_bytes = 0;  ///< sent to a discrete device for them
  int64_t stall_ns = 0;       ///< time spent waiting for units or rows: all that was not overlapped
};

class LayerFeed;

/// A unit on loan: its bytes are valid for work put on the stream before the lease ends.
class LayerLease {
 public:
  LayerLease() = default;
  LayerLease(LayerFeed* feed, const Unit* unit, const std::byte* blob, uint32_t slot,
             Stream* stream)
      : feed_(feed), unit_(unit), blob_(blob), slot_(slot), stream_(stream) {}
  LayerLease(LayerLease&& other) noexcept { *this = std::move(other); }
  LayerLease& operator=(LayerLease&& other) noexcept {
    std::swap(feed_, other.feed_);
    std::swap(unit_, other.unit_);
    std::swap(blob_, other.blob_);
    std::swap(slot_, other.slot_);
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~LayerLease();

  const Unit& unit() const { return *unit_; }
  const std::byte* part(size_t index) const { return blob_ + unit_->parts[index].blob_offset; }

 private:
  LayerFeed* feed_ = nullptr;  // null: nothing to give back
  const Unit* unit_ = nullptr;
  const std::byte* blob_ = nullptr;
  uint32_t slot_ = 0;
  Stream* stream_ = nullptr;
};

/// One thread acquires units 0, 1, 2, … of each pass in order.
class LayerFeed {
 public:
  virtual ~LayerFeed() = default;
  /// Blocks until the unit's bytes are there or on their way in front of `compute`'s next work.
  /// Throws Error when reading failed, Stopped when a stop was requested.
  virtual LayerLease acquire(uint32_t unit, Stream& compute) = 0;
  virtual FeedStats take_stats() = 0;

 private:
  friend class LayerLease;
  virtual void release(uint32_t slot, Stream& compute) noexcept = 0;
};

inline LayerLease::~LayerLease() {
  if (feed_ != nullptr) feed_->release(slot_, *stream_);
}

}  // namespace spillway
