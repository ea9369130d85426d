#include "tiers/layer_store.h"

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

LayerStore::LayerStore(Device& device, std::span<const Unit> units, const Placement& placement)
    : unified_(device.unified()), tiers_(placement.unit_tiers), homes_(units.size()) {
  const uint64_t ram_bytes = bytes_in(Tier::kRam, units, tiers_);
  const uint64_t gpu_bytes = bytes_in(Tier::kGpu, units, tiers_);
  if (ram_bytes > 0) ram_ = device.allocate_pinned(ram_bytes);
  if (gpu_bytes > 0) gpu_ = device.allocate(gpu_bytes);
  std::byte* next_ram = ram_.data();
  std::byte* next_gpu = gpu_.data();
  for (size_t i = 0; i < units.size(); ++i) {
    if (tiers_[i] == Tier::kNvme) continue;
    std::byte*& next = tiers_[i] == Tier::kRam ? next_ram : next_gpu;
    homes_[i] = next;
    next += units[i].home_bytes;
  }
}

}  // namespace spillway
