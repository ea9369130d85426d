#include "tiers/layer_slots.h"

#include <algorithm>

#include "core/error.h"

namespace spillway {

LayerSlots::LayerSlots(Device& device, DeviceArena& arena, uint32_t count, uint64_t slot_bytes)
    : slot_bytes_(slot_bytes), slots_(count) {
  if (count > 0) memory_ = arena.take(count * slot_bytes);
  for (Slot& slot : slots_) {
    slot.ready = device.make_event();
    slot.consumed = device.make_event();
  }
}

void LayerSlots::move(Slot& slot, State from, State to) {
  CHECK(slot.state == from);
  slot.state = to;
}

std::optional<uint32_t> LayerSlots::take_free(bool drained) {
  const std::lock_guard lock(mutex_);
  std::optional<uint32_t> chosen;
  for (uint32_t i = 0; i < slots_.size(); ++i) {
    const Slot& slot = slots_[i];
    if (slot.state != State::kFree) continue;
    if (drained ? chosen || !slot.consumed->done()
                : chosen && slots_[*chosen].released <= slot.released) {
      continue;
    }
    chosen = i;
  }
  if (chosen) move(slots_[*chosen], State::kFree, State::kFilling);
  return chosen;
}

void LayerSlots::publish(uint32_t slot, uint64_t sequence) {
  const std::lock_guard lock(mutex_);
  move(slots_[slot], State::kFilling, State::kReady);
  slots_[slot].sequence = sequence;
}

std::optional<uint32_t> LayerSlots::try_acquire(uint64_t sequence) {
  const std::lock_guard lock(mutex_);
  for (uint32_t i = 0; i < slots_.size(); ++i) {
    if (slots_[i].state != State::kReady || slots_[i].sequence != sequence) continue;
    move(slots_[i], State::kReady, State::kLeased);
    return i;
  }
  return std::nullopt;
}

bool LayerSlots::holds(uint64_t sequence) const {
  const std::lock_guard lock(mutex_);
  return std::any_of(slots_.begin(), slots_.end(), [&](const Slot& slot) {
    return slot.state == State::kReady && slot.sequence == sequence;
  });
}

void LayerSlots::release(uint32_t slot) {
  const std::lock_guard lock(mutex_);
  move(slots_[slot], State::kLeased, State::kFree);
  slots_[slot].released = ++releases_;
}

void LayerSlots::reset() {
  const std::lock_guard lock(mutex_);
  for (Slot& slot : slots_) {
    slot.state = State::kFree;
    slot.released = 0;
  }
  releases_ = 0;
}

LayerSlots::Counts LayerSlots::counts() const {
  const std::lock_guard lock(mutex_);
  Counts counts;
  for (const Slot& slot : slots_) {
    if (slot.state == State::kFree) ++counts.free;
    if (slot.state == State::kFilling) ++counts.filling;
    if (slot.state == State::kReady) ++counts.ready;
    if (slot.state == State::kLeased) ++counts.leased;
  }
  CHECK(counts.free + counts.filling + counts.ready + counts.leased == slots_.size());
  return counts;
}

}  // namespace spillway
