#include "tiers/layer_store.h"

#include <algorithm>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

uint64_t bytes_in(Tier tier, std::span<const Unit> units, const std::vector<Tier>& tiers) {
  uint64_t total = 0;
  for (size_t i = 0; i < units.size(); ++i) {
    if (tiers[i] == tier) total += units[i].home_bytes;
  }
  return total;
}

}  // namespace

LayerStore::LayerStore(Device& device, DeviceArena& arena, std::span<const Unit> units,
                       const Placement& placement, std::span<const ReadFile* const> files)
    : unified_(device.unified()),
      tiers_(placement.unit_tiers),
      homes_(units.size()),
      home_bytes_(units.size()),
      ram_bytes_(bytes_in(Tier::kRam, units, tiers_)),
      mapped_(placement.mapped) {
  if (mapped_) {
    mappings_ = MappedUnits(units, files);
    for (uint32_t i = 0; i < units.size(); ++i) homes_[i] = mappings_.blob(i);
    return;
  }
  const uint64_t gpu_bytes = bytes_in(Tier::kGpu, units, tiers_);
  if (ram_bytes_ > 0) ram_ = HugeBuffer(ram_bytes_);
  if (gpu_bytes > 0) gpu_ = arena.take(gpu_bytes);
  std::byte* next_ram = ram_.data();
  std::byte* next_gpu = gpu_.data();
  for (uint32_t i = 0; i < units.size(); ++i) {
    if (tiers_[i] != Tier::kNvme) {
      std::byte*& next = tiers_[i] == Tier::kRam ? next_ram : next_gpu;
      homes_[i] = next;
      home_bytes_[i] = units[i].home_bytes;
      next += units[i].home_bytes;
    }
    const bool layer_ends = i + 1 == units.size() || units[i + 1].layer != units[i].layer;
    if (layer_ends) end_pin(static_cast<uint64_t>(next_ram - ram_.data()));
  }
  if (pin_ends_.empty()) end_pin(ram_.bytes());
  if (!pin_ends_.empty()) pin_ends_.back() = ram_.bytes();  // with the rest of the last page
}

/// Borders lie between huge pages; a layer that ends on the page of the one before has none.
void LayerStore::end_pin(uint64_t ram_end) {
  const uint64_t border = align_down(ram_end, kHugePageBytes);
  if (border > (pin_ends_.empty() ? 0 : pin_ends_.back())) pin_ends_.push_back(border);
}

void LayerStore::pin(Device& device, const std::function<bool(uint64_t)>& progress) {
  CHECK(pins_.empty());
  for (const uint64_t end : pin_ends_) {
    Memory pin = device.pin(ram_.data() + pinned_bytes_, end - pinned_bytes_, &pin_refusal_);
    if (pin.data() == nullptr) return;
    pins_.push_back(std::move(pin));
    pinned_bytes_ = end;
    if (!progress(pinned_bytes_)) return;
  }
}

bool LayerStore::pinned(uint32_t unit) const {
  return tiers_[unit] == Tier::kRam && ram_offset(unit) + home_bytes_[unit] <= pinned_bytes_;
}

uint64_t LayerStore::pin_border(uint32_t unit) const {
  const uint64_t begin = ram_offset(unit);
  const auto border = std::upper_bound(pin_ends_.begin(), pin_ends_.end(), begin);
  const bool inside = border != pin_ends_.end() && *border < begin + home_bytes_[unit];
  return inside ? *border - begin : 0;
}

}  // namespace spillway
