// Owns the resident homes: one arena per tier, a place in it for every resident unit.
// Immutable after construction but for the bytes that loading puts there.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/device.h"
#include "tiers/layer_layout.h"
#include "tiers/planner.h"

namespace spillway {

class LayerStore {
 public:
  LayerStore(Device& device, std::span<const Unit> units, const Placement& placement);

  Tier tier(uint32_t unit) const { return tiers_[unit]; }
  /// Device or host memory of a resident unit; null for one on NVMe.
  std::byte* home(uint32_t unit) const { return homes_[unit]; }
  /// True when a compute stream can use the home as it lies.
  bool usable_in_place(uint32_t unit) const {
    return homes_[unit] != nullptr && (unified_ || tiers_[unit] == Tier::kGpu);
  }

 private:
  bool unified_;
  std::vector<Tier> tiers_;
  std::vector<std::byte*> homes_;
  Memory ram_;
  Memory gpu_;
};

}  // namespace spillway
