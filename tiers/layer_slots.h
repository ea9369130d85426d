// The double buffer: M >= 2 device-side unit buffers, free → filling → ready → leased → free.
//
// Owner: memory and events. Thread rule: the feeder thread takes and publishes, the model thread
// acquires and releases; one short lock guards the states. Counts per state always add up to M.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "core/device_arena.h"

namespace spillway {

class LayerSlots {
 public:
  enum class State : uint8_t { kFree, kFilling, kReady, kLeased };

  LayerSlots(Device& device, DeviceArena& arena, uint32_t count, uint64_t slot_bytes);

  uint32_t count() const { return static_cast<uint32_t>(slots_.size()); }
  std::span<std::byte> arena() const { return {memory_.data(), memory_.bytes()}; }
  std::byte* data(uint32_t slot) const { return memory_.data() + slot * slot_bytes_; }
  /// Recorded on the copy stream when the slot is full, and on the compute stream when it was used.
  Event& ready(uint32_t slot) { return *slots_[slot].ready; }
  Event& consumed(uint32_t slot) { return *slots_[slot].consumed; }

  /// A free slot, now filling. Empty when there is none.
  /// `drained`: reads land in it directly, with no stream to order them, so its consumed event must
  /// have been passed; the lowest, because what was just used is still in cache. Otherwise the one
  /// given back longest ago: the copies into it wait for its last use, and the newest given back is
  /// the last one that the device will have used.
  std::optional<uint32_t> take_free(bool drained);
  /// A filled slot is handed over under its place in the schedule.
  void publish(uint32_t slot, uint64_t sequence);
  /// The slot that holds `sequence`, now leased; empty while it is not there.
  std::optional<uint32_t> try_acquire(uint64_t sequence);
  /// Whether try_acquire() would give it.
  bool holds(uint64_t sequence) const;
  void release(uint32_t slot);

  /// All free again, whatever they held: between two runs, when nobody fills or leases. A use that
  /// is still on a stream is ordered by its `consumed` event, as ever.
  void reset();

  /// Gives the memory up for good: a read may still write it.
  void leak() noexcept { memory_.leak(); }

  struct Counts {
    uint32_t free = 0;
    uint32_t filling = 0;
    uint32_t ready = 0;
    uint32_t leased = 0;
  };
  Counts counts() const;

 private:
  struct Slot {
    State state = State::kFree;
    uint64_t sequence = 0;
    uint64_t released = 0;  ///< order of giving back
    std::unique_ptr<Event> ready;
    std::unique_ptr<Event> consumed;
  };
  void move(Slot& slot, State from, State to);

  uint64_t slot_bytes_;
  Memory memory_;
  mutable std::mutex mutex_;
  std::vector<Slot> slots_;
  uint64_t releases_ = 0;
};

}  // namespace spillway
