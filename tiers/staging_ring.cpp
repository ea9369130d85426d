#include "tiers/staging_ring.h"

#include "core/error.h"

namespace spillway {

StagingRing::StagingRing(Device& device, uint32_t count, uint64_t slab_bytes)
    : slab_bytes_(slab_bytes), slabs_(count) {
  if (count > 0) memory_ = device.allocate_pinned(count * slab_bytes);
  for (Slab& slab : slabs_) slab.copied = device.make_event();
}

std::optional<uint32_t> StagingRing::take_free() {
  for (uint32_t i = 0; i < slabs_.size(); ++i) {
    if (slabs_[i].state != State::kFree) continue;
    slabs_[i].state = State::kReading;
    return i;
  }
  return std::nullopt;
}

void StagingRing::put_back(uint32_t slab) {
  CHECK(slabs_[slab].state == State::kReading);
  slabs_[slab].state = State::kFree;
}

void StagingRing::copying(uint32_t slab, Stream& stream) {
  CHECK(slabs_[slab].state == State::kReading);
  stream.record(*slabs_[slab].copied);
  slabs_[slab].state = State::kCopying;
  slabs_[slab].order = copies_++;
  ++copying_;
}

void StagingRing::reset() {
  for (Slab& slab : slabs_) slab.state = State::kFree;
  copying_ = 0;
}

bool StagingRing::recycle() {
  bool any = false;
  for (Slab& slab : slabs_) {
    if (slab.state != State::kCopying || !slab.copied->done()) continue;
    slab.state = State::kFree;
    --copying_;
    any = true;
  }
  return any;
}

const StagingRing::Slab* StagingRing::oldest_copy() const {
  const Slab* oldest = nullptr;
  for (const Slab& slab : slabs_) {
    if (slab.state != State::kCopying) continue;
    if (oldest == nullptr || slab.order < oldest->order) oldest = &slab;
  }
  return oldest;
}

bool StagingRing::copy_over() const {
  const Slab* oldest = oldest_copy();
  return oldest != nullptr && oldest->copied->done();
}

/// Copies of one stream end in order: any other slab than the oldest is free later.
void StagingRing::wait_for_copy() {
  const Slab* oldest = oldest_copy();
  CHECK(oldest != nullptr);
  oldest->copied->sync();
}

}  // namespace spillway
