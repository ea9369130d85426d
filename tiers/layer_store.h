// Owns the resident homes: one arena per tier, a place in it for every resident unit.
// Immutable after load() but for the bytes that loading puts there. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/device_arena.h"
#include "core/error.h"
#include "tiers/layer_layout.h"
#include "tiers/mapped_units.h"
#include "tiers/planner.h"

namespace spillway {

class LayerStore {
 public:
  /// `files` are used by a mapped placement only.
  LayerStore(Device& device, DeviceArena& arena, std::span<const Unit> units,
             const Placement& placement, std::span<const ReadFile* const> files);

  Tier tier(uint32_t unit) const { return tiers_[unit]; }
  /// Device or host memory of a resident or mapped unit; null for one on NVMe.
  std::byte* home(uint32_t unit) const { return homes_[unit]; }
  /// True when a compute stream can use the home as it lies.
  bool usable_in_place(uint32_t unit) const {
    CHECK(unit < homes_.size());
    return homes_[unit] != nullptr && (unified_ || tiers_[unit] == Tier::kGpu);
  }

  /// Homes are mappings of files: there is nothing to load.
  bool mapped() const { return mapped_; }
  /// Throws Error when a mapped file shrank: its units must not be touched.
  void check_mapped_files(uint32_t unit) const { mappings_.check_files(unit); }
  uint64_t ram_bytes() const { return ram_bytes_; }
  uint64_t pinned_bytes() const { return pinned_bytes_; }
  /// Why the system refused to pin more; empty when it did not.
  const std::string& pin_refusal() const { return pin_refusal_; }

  /// Pins the RAM homes for a discrete device, one layer at a time, up to the first refusal (one
  /// refused request can poison later ones). `progress` is told bytes pinned so far; false stops.
  void pin(Device& device, const std::function<bool(uint64_t)>& progress);
  bool pinned(uint32_t unit) const;
  /// Gives the RAM homes up for good: a read may still write them.
  void leak() noexcept { ram_.leak(); }
  /// Bytes of the home in front of the border between two pins, which one copy must not cross; 0
  /// when there is none.
  uint64_t pin_border(uint32_t unit) const;

 private:
  void end_pin(uint64_t ram_end);
  uint64_t ram_offset(uint32_t unit) const {
    return static_cast<uint64_t>(homes_[unit] - ram_.data());
  }

  bool unified_;
  std::vector<Tier> tiers_;
  std::vector<std::byte*> homes_;
  std::vector<uint64_t> home_bytes_;
  std::vector<uint64_t> pin_ends_;  // where layers end in the RAM arena, in whole huge pages
  uint64_t ram_bytes_ = 0;
  HugeBuffer ram_;
  std::vector<Memory> pins_;
  uint64_t pinned_bytes_ = 0;
  std::string pin_refusal_;
  Memory gpu_;
  bool mapped_;
  MappedUnits mappings_;
};

}  // namespace spillway
