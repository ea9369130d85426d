// The pipeline as a state machine with no thread inside: walks a schedule of units and moves bytes
// home → slab → slot. One step() never blocks and never allocates; a test steps it with a simulated
// disk and device, FeederThread gives it a thread.
//
// One step, in this order:
//   1. collect reads      every completion is judged (io/read_outcome.h); a bad one throws once
//   2. recycle slabs      those whose copies are over
//   3. publish            finished fills, strictly in schedule order
//   4. submit reads       oldest fill first, so that the head of the line always progresses; when
//                         all are on their way, a free target for the next unit, while the limit
//                         allows
//
// Invariants: fills in flight <= targets; reads in flight <= reader depth; a unit is published
// once, after all of its bytes are there (or ordered before `ready` on the copy stream).
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/clock.h"
#include "core/device.h"
#include "core/trace.h"
#include "io/read_pump.h"
#include "tiers/layer_layout.h"
#include "tiers/layer_slots.h"
#include "tiers/staging_ring.h"

namespace spillway {

/// Where a scheduled unit comes from and, when loading, where it goes.
struct ScheduledUnit {
  uint32_t unit = 0;
  const std::byte* ram_home = nullptr;  ///< copied from here; null = read from storage
  std::byte* target = nullptr;          ///< fixed target (loading a home); null = a slot
  bool target_on_host = false;          ///< on a discrete device: the CPU copies it out of the slab
  bool home_pinned = true;              ///< false: the home goes through the slabs
  uint64_t home_border_bytes = 0;       ///< a pinned home is copied in two parts, cut here; 0 = one
};

/// What the feeder works with. All outlive it.
struct FeederParts {
  std::span<const Unit> units;
  std::span<const ReadFile* const> files;
  BlockReader* reader = nullptr;
  StagingRing* staging = nullptr;  ///< null on unified memory: reads land in the target
  LayerSlots* slots = nullptr;
  Stream* copy_stream = nullptr;  ///< null on unified memory
  const Clock* clock = nullptr;
  Trace* trace = nullptr;
};

/// What an idle step waits for: a read, a copy out of a slab, the model thread (a slot given back,
/// a raised limit), or a moment, because the reader took no read although none is under way.
enum class FeederWait { kRead, kCopy, kModel, kMoment };

class Feeder {
 public:
  /// `cyclic`: the schedule repeats for ever (running); otherwise it ends (loading homes).
  Feeder(const FeederParts& parts, std::vector<ScheduledUnit> schedule, bool cyclic);

  /// Does what can be done now. True when anything moved. Throws Error when a read failed for good.
  bool step();

  /// Units with a sequence below `limit` may be begun. Any thread. Sequence = pass * schedule size
  /// + place in the schedule.
  void allow(uint64_t limit) { limit_.store(limit, std::memory_order_release); }
  uint64_t published() const { return published_; }
  bool done() const { return published_ == limit_.load(std::memory_order_acquire); }
  size_t schedule_size() const { return schedule_.size(); }
  const ScheduledUnit& scheduled(uint64_t sequence) const {
    return schedule_[sequence % schedule_.size()];
  }

  /// After a step() that moved nothing: what to block on before the next one. Where the next read
  /// lacks a slab, only the oldest copy can give one: a read that completes keeps its own.
  FeederWait waits_for() const;
  bool reads_in_flight() const { return pump_.active() > 0; }
  void wait_for_read() { pump_.wait(); }
  /// Ends the wait for a read that is on, or else the next one. Any thread.
  void wake() noexcept { pump_.wake(); }
  void wait_for_copy() { parts_.staging->wait_for_copy(); }
  /// Ends the reads in flight, before targets go away. False: some may write them at any later
  /// time (ReadPump::drain()).
  [[nodiscard]] bool drain() noexcept { return pump_.drain(); }

 private:
  struct Fill {
    uint64_t sequence = 0;
    uint32_t slot = 0;
    std::byte* target = nullptr;
    uint32_t next_chunk = 0;
    uint32_t chunks_done = 0;
    bool complete = false;
    int64_t begin_ns = 0;
  };
  /// Which chunk a read in flight fills; by slab on a discrete device.
  struct SlabUse {
    uint32_t fill = 0;
    uint32_t chunk = 0;
  };

  bool collect_reads();
  bool publish();
  bool submit_reads();
  bool begin_fill();
  bool submit_chunk(uint32_t fill_index);
  bool start(const ReadRequest& request);
  bool stage_home(uint32_t fill_index);
  std::optional<uint32_t> take_slab();
  void copy_home(const Fill& fill);
  uint32_t chunk_count(const Fill& fill) const;
  bool through_slabs(const ScheduledUnit& unit) const {
    return unit.ram_home != nullptr && !unit.home_pinned;
  }
  void finish_chunk(uint32_t fill_index, uint32_t chunk);
  void scatter(uint32_t slab);
  void complete(Fill& fill);
  const Unit& unit_of(const Fill& fill) const {
    return parts_.units[scheduled(fill.sequence).unit];
  }
  uint32_t fill_index(uint32_t nth) const {
    return static_cast<uint32_t>((first_fill_ + nth) % fills_.size());
  }

  FeederParts parts_;
  std::vector<ScheduledUnit> schedule_;
  bool cyclic_;
  ReadPump pump_;
  std::vector<Fill> fills_;  // a ring, oldest first
  uint32_t first_fill_ = 0;
  uint32_t fill_count_ = 0;
  uint32_t submitting_ = 0;   // fills before this one (from the oldest) are wholly submitted
  bool slab_wanted_ = false;  // the last step ended for lack of a slab
  bool refused_ = false;      // or because the reader took no read
  std::vector<SlabUse> slab_uses_;
  uint64_t next_sequence_ = 0;
  uint64_t published_ = 0;
  std::atomic<uint64_t> limit_{0};
};

}  // namespace spillway
