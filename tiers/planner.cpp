#include "tiers/planner.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/device_arena.h"
#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

/// Slots stay few and small on purpose: what was just read is still in the CPU's caches when the
/// matmul reads it, and on many machines the reads themselves are faster (docs/PERFORMANCE.md).
constexpr uint64_t kAutoSlotBytes = 32 * kMiB;
constexpr uint32_t kMinSlots = 2;
constexpr uint32_t kMinAutoSlots = 4;
/// Reads, copies and kernels each have units in hand there. Over random plans and rates the
/// simulated pipeline was at most 1.12 times its slowest link with 8 slots, 1.33 with 4.
constexpr uint32_t kMinAutoDeviceSlots = 8;
constexpr uint32_t kMaxAutoSlots = 16;

/// Which of the candidate units a budget keeps.
///
/// evenly(): keep_evenly(). Keeping more units needs a budget that the larger set exceeded before,
/// so a larger budget never keeps fewer bytes. nested(): units in bit-reversed order; what a budget
/// keeps is a prefix, and stays one when another tier takes units away. With two tiers to fill,
/// only this keeps the law in both budgets.
class Residency {
 public:
  Residency(const std::vector<UnitSize>& units, const std::vector<bool>& candidate)
      : units_(units) {
    for (uint32_t u = 0; u < units.size(); ++u) {
      if (candidate[u]) candidates_.push_back(u);
    }
  }

  std::vector<uint32_t> evenly(uint64_t budget) const {
    std::vector<uint64_t> bytes;
    bytes.reserve(candidates_.size());
    for (const uint32_t unit : candidates_) bytes.push_back(units_[unit].home_bytes);
    std::vector<uint32_t> kept = keep_evenly(bytes, budget);
    for (uint32_t& index : kept) index = candidates_[index];
    return kept;
  }

  std::vector<uint32_t> nested(uint64_t budget) const {
    // Reversed over all units, not the candidates: the order must not change when some are taken.
    std::vector<bool> candidate(units_.size());
    for (const uint32_t unit : candidates_) candidate[unit] = true;
    std::vector<uint32_t> order;
    uint64_t span = 1;
    while (span < units_.size()) span *= 2;
    for (uint64_t i = 0; i < span; ++i) {
      uint64_t reversed = 0;
      for (uint64_t bit = 1, mirror = span / 2; bit < span; bit *= 2, mirror /= 2) {
        if ((i & bit) != 0) reversed |= mirror;
      }
      if (reversed < units_.size() && candidate[reversed]) {
        order.push_back(static_cast<uint32_t>(reversed));
      }
    }
    std::vector<uint32_t> chosen;
    for (const uint32_t unit : order) {
      if (units_[unit].home_bytes > budget) break;
      budget -= units_[unit].home_bytes;
      chosen.push_back(unit);
    }
    return chosen;
  }

 private:
  const std::vector<UnitSize>& units_;
  std::vector<uint32_t> candidates_;
};

/// One attempt's tiers, and what they cost.
struct Attempt {
  std::vector<Tier> tiers;
  uint64_t ram_home_bytes = 0;
  uint64_t gpu_home_bytes = 0;
  uint64_t nvme_bytes = 0;
  uint64_t copied_bytes = 0;
};

class Planner {
 public:
  explicit Planner(const PlanRequest& request) : request_(request) {
    for (const UnitSize& unit : request.units) {
      max_home_bytes_ = std::max(max_home_bytes_, unit.home_bytes);
      all_home_bytes_ += unit.home_bytes;
    }
    forced_.resize(request.units.size());
    for (const LayerOverride& item : request.overrides) force(item);
  }

  PlacementResult plan() {
    if (request_.mapped) return everything_mapped();
    if (request_.ram_share) {
      share(*request_.ram_share);
    } else if (request_.policy != PlacementPolicy::kAuto) {
      force_the_rest(request_.policy == PlacementPolicy::kRam ? Tier::kRam : Tier::kNvme);
    }
    std::optional<Refusal> refusal;
    for (const Tier embed : {Tier::kRam, Tier::kNvme}) {
      const auto placement = everything_resident(embed);
      if (!placement) continue;
      if (fits(*placement)) return *placement;
      keep_closer(refusal, refuse(*placement));
    }
    PlacementResult result = streamed();
    if (auto* other = std::get_if<Refusal>(&result)) {
      keep_closer(refusal, std::move(*other));
      return std::move(*refusal);
    }
    return result;
  }

 private:
  bool on_ram(Tier tier) const { return request_.unified || tier == Tier::kRam; }

  void force(const LayerOverride& item) {
    if (request_.unified && item.tier == Tier::kGpu) {
      throw Error(
          "placement.layers: gpu is not a tier of the host device; use ram or nvme, or a device "
          "with memory of its own");
    }
    if (item.name == "embed") {
      if (request_.embed_bytes == 0) {
        throw Error("placement.layers: embed is tied to head in this model; place head instead");
      }
      if (item.tier == Tier::kGpu) {
        throw Error("placement.layers: embed is gathered by the host; place it in ram or nvme");
      }
      forced_embed_ = item.tier;
      return;
    }
    const auto layers = static_cast<uint32_t>(request_.layer_names.size());
    uint32_t first = item.first;
    uint32_t last = item.last;
    if (item.name == "head") first = last = layers - 1;
    if (item.name.empty() && last >= layers - 1) {
      throw Error(fmt::format(
          "placement.layers: {}: this model has layers 0 to {}",
          first == last ? fmt::to_string(first) : fmt::format("{}-{}", first, last), layers - 2));
    }
    for (uint32_t u = 0; u < request_.units.size(); ++u) {
      if (request_.units[u].layer >= first && request_.units[u].layer <= last) {
        forced_[u] = item.tier;
      }
    }
  }

  uint64_t slots_wanted() const { return held_slots() + waiting_slots(); }

  /// Those of the largest layer, wherever its units will live: they are placed afterwards.
  uint64_t held_slots() const {
    if (!request_.hold_layers) return 0;
    std::vector<uint64_t> counts(request_.layer_names.size());
    for (const UnitSize& unit : request_.units) ++counts[unit.layer];
    return *std::max_element(counts.begin(), counts.end());
  }

  uint64_t waiting_slots() const {
    if (request_.slots) return *request_.slots;
    const uint64_t wanted = ceil_div(kAutoSlotBytes, max_home_bytes_);
    const uint32_t least = request_.unified ? kMinAutoSlots : kMinAutoDeviceSlots;
    const uint64_t usual = std::clamp<uint64_t>(wanted, least, kMaxAutoSlots);
    return std::max(usual, held_slots());  // a layer is read while another one is held
  }

  uint32_t slabs_wanted() const { return request_.staging_slabs.value_or(request_.io_depth + 4); }

  /// RAM that the embeddings take at a tier: their home, or the buffers of the gather.
  uint64_t embed_ram(Tier tier) const {
    if (tier == Tier::kRam && request_.embed_bytes > 0) {
      return ram_cost(request_.embed_bytes);
    }
    return ram_cost(request_.embed_gather_bytes);
  }

  static void keep_closer(std::optional<Refusal>& kept, Refusal other) {
    if (!kept || other.closer_than(*kept)) kept = std::move(other);
  }

  /// Nothing streamed, so no slots and no staging to run with: all units on the device (RAM when
  /// unified), embeddings at `embed`. On a discrete device the slabs are still needed to load.
  /// Empty where something is placed elsewhere by hand.
  std::optional<Placement> everything_resident(Tier embed) const {
    for (const auto& tier : forced_) {
      if (tier && *tier != device_tier()) return std::nullopt;
    }
    if (forced_embed_ && *forced_embed_ != embed) return std::nullopt;
    Attempt attempt;
    attempt.tiers.assign(request_.units.size(), device_tier());
    (request_.unified ? attempt.ram_home_bytes : attempt.gpu_home_bytes) = all_home_bytes_;
    return bill(attempt, embed, 0);
  }

  Tier device_tier() const { return request_.unified ? Tier::kRam : Tier::kGpu; }

  bool fits(const Placement& placement) const {
    return placement.ram_planned_bytes <= request_.ram_budget_bytes &&
           (request_.unified || placement.gpu_planned_bytes <= request_.gpu_budget_bytes);
  }

  /// No homes and no slots: the page cache, which no bill covers, holds what it can.
  PlacementResult everything_mapped() const {
    Attempt attempt;
    attempt.tiers.assign(request_.units.size(), Tier::kNvme);
    Placement placement = bill(attempt, Tier::kNvme, 0);
    placement.mapped = true;
    if (!fits(placement)) return refuse(placement);
    return placement;
  }

  void share(double share) {
    const uint64_t count = forced_.size();
    const auto kept = static_cast<uint64_t>(std::llround(share * static_cast<double>(count)));
    for (uint64_t u = 0; u < count; ++u) {
      if (!forced_[u]) forced_[u] = kept_evenly(u, kept, count) ? Tier::kRam : Tier::kNvme;
    }
    if (!forced_embed_) forced_embed_ = kept == count ? Tier::kRam : Tier::kNvme;
  }

  void force_the_rest(Tier tier) {
    for (auto& forced : forced_) {
      if (!forced) forced = tier;
    }
    if (!forced_embed_) forced_embed_ = tier;
  }

  PlacementResult streamed() const {
    const Tier embed = forced_embed_.value_or(Tier::kNvme);
    Attempt base;
    base.tiers.assign(request_.units.size(), Tier::kNvme);
    std::vector<bool> candidate(request_.units.size());
    for (uint32_t u = 0; u < request_.units.size(); ++u) {
      candidate[u] = !forced_[u];
      if (forced_[u]) place(base, u, *forced_[u]);
    }
    const auto slots = static_cast<uint32_t>(usable_slots(base, embed));
    const Placement least = bill(base, embed, slots);
    if (!fits(least)) return refuse(least);
    const uint64_t ram_room =
        room(request_.ram_budget_bytes, least.ram_planned_bytes, base.ram_home_bytes);
    // Slots first: a home bought with bytes that one more slot needs would be lost again when the
    // budget grows.
    const bool all_slots = slots >= slots_wanted();
    Attempt attempt = base;
    if (request_.unified) {
      if (all_slots)
        keep(attempt, Residency(request_.units, candidate).evenly(ram_room), Tier::kRam);
      return bill(attempt, embed, slots);
    }
    if (all_slots) {
      const auto chosen = Residency(request_.units, candidate)
                              .nested(request_.gpu_budget_bytes - least.gpu_planned_bytes);
      keep(attempt, chosen, Tier::kGpu);
      for (const uint32_t unit : chosen) candidate[unit] = false;
    }
    keep(attempt, Residency(request_.units, candidate).nested(ram_room), Tier::kRam);
    return bill(attempt, embed, slots);
  }

  /// Bytes of homes that still fit below a budget; the rounding of what is there may be used up.
  static uint64_t room(uint64_t budget, uint64_t planned, uint64_t homes) {
    const uint64_t limit = budget - planned + ram_cost(homes);
    return align_down(limit, kHugePageBytes) - std::min(homes, align_down(limit, kHugePageBytes));
  }

  /// As many slots as wanted, or as many (two at least) as fit when nothing else is resident.
  uint64_t usable_slots(const Attempt& base, Tier embed) const {
    uint64_t slots = slots_wanted();
    if (request_.slots) return slots;
    const uint64_t least = held_slots() + kMinSlots;
    while (slots > least && !fits(bill(base, embed, static_cast<uint32_t>(slots)))) --slots;
    return slots;
  }

  void place(Attempt& attempt, uint32_t unit, Tier tier) const {
    attempt.tiers[unit] = tier;
    if (tier == Tier::kRam) attempt.ram_home_bytes += request_.units[unit].home_bytes;
    if (tier == Tier::kGpu) attempt.gpu_home_bytes += request_.units[unit].home_bytes;
  }

  void keep(Attempt& attempt, const std::vector<uint32_t>& units, Tier tier) const {
    for (const uint32_t unit : units) place(attempt, unit, tier);
  }

  Placement bill(const Attempt& attempt, Tier embed, uint32_t slots) const {
    Placement result;
    result.unit_tiers = attempt.tiers;
    result.embed_tier = request_.embed_bytes == 0 ? Tier::kNvme : embed;
    bool reads = false;
    for (uint32_t u = 0; u < request_.units.size(); ++u) {
      const UnitSize& unit = request_.units[u];
      if (attempt.tiers[u] == Tier::kNvme) {
        result.nvme_bytes_per_pass += unit.read_bytes;
        reads = true;
      }
      if (!request_.unified && attempt.tiers[u] != Tier::kGpu) {
        result.copied_bytes_per_pass += unit.bytes;
        reads = true;
      }
    }
    result.slots = reads ? slots : 0;
    result.slot_bytes = max_home_bytes_;
    result.slabs = request_.unified ? 0 : slabs_wanted();
    const auto add = [&](std::string name, Tier tier, uint64_t bytes) {
      if (bytes == 0) return;
      const bool ram = on_ram(tier);
      result.bill.push_back({std::move(name), ram ? Tier::kRam : Tier::kGpu,
                             ram ? ram_cost(bytes) : align_up(bytes, DeviceArena::kAlignment)});
      (ram ? result.ram_planned_bytes : result.gpu_planned_bytes) += result.bill.back().bytes;
    };
    add("resident layers", Tier::kGpu, attempt.gpu_home_bytes);
    add("resident layers", Tier::kRam, attempt.ram_home_bytes);
    if (result.embed_tier == Tier::kRam) {
      add("input embeddings", Tier::kRam, request_.embed_bytes);
    } else {
      add("embedding row buffers", Tier::kRam, request_.embed_gather_bytes);
    }
    add(fmt::format("{} slots of {}", result.slots, format_bytes(result.slot_bytes)), Tier::kGpu,
        result.slots * result.slot_bytes);
    add(fmt::format("{} staging slabs of {}", result.slabs, format_bytes(request_.slab_bytes)),
        Tier::kRam, result.slabs * request_.slab_bytes);
    for (const MemoryLine& line : request_.fixed) add(line.name, line.tier, line.bytes);
    return result;
  }

  Refusal refuse(const Placement& placement) const {
    const auto missing = [](uint64_t needed, uint64_t budget) {
      return needed - std::min(needed, budget);
    };
    const uint64_t ram = placement.ram_planned_bytes;
    const uint64_t gpu = placement.gpu_planned_bytes;
    const uint64_t ram_short = missing(ram, request_.ram_budget_bytes);
    const uint64_t gpu_short = request_.unified ? 0 : missing(gpu, request_.gpu_budget_bytes);
    const bool both = ram_short > 0 && gpu_short > 0;
    if (ram_short > 0) return {Tier::kRam, ram, ram_short + gpu_short, both, gpu, placement.bill};
    return {Tier::kGpu, gpu, gpu_short, both, ram, placement.bill};
  }

  const PlanRequest& request_;
  uint64_t max_home_bytes_ = 0;
  uint64_t all_home_bytes_ = 0;
  std::vector<std::optional<Tier>> forced_;
  std::optional<Tier> forced_embed_;
};

}  // namespace

uint64_t ram_cost(uint64_t bytes) {
  return align_up(bytes, kHugePageBytes);
}

bool kept_evenly(uint64_t index, uint64_t kept, uint64_t count) {
  return (index + 1) * kept / count > index * kept / count;
}

namespace {

/// visit(index, kept) for all of `count` items, without a division for each.
template <typename Visit>
void visit_evenly(uint64_t kept, uint64_t count, const Visit& visit) {
  uint64_t remainder = 0;  // of index * kept / count
  for (uint64_t i = 0; i < count; ++i) {
    remainder += kept;
    const bool keep = remainder >= count;
    if (keep) remainder -= count;
    visit(i, keep);
  }
}

uint64_t bytes_kept_evenly(const std::vector<uint64_t>& bytes, uint64_t kept) {
  uint64_t sum = 0;
  visit_evenly(kept, bytes.size(), [&](uint64_t i, bool keep) { sum += keep ? bytes[i] : 0; });
  return sum;
}

/// No more items than this fit, however they are chosen: so many of the smallest do.
uint64_t most_that_fit(std::vector<uint64_t> bytes, uint64_t budget) {
  std::sort(bytes.begin(), bytes.end());
  uint64_t fit = 0;
  while (fit < bytes.size() && bytes[fit] <= budget) budget -= bytes[fit++];
  return fit;
}

}  // namespace

std::vector<uint32_t> keep_evenly(const std::vector<uint64_t>& bytes, uint64_t budget) {
  // Huge models have 100,000 units and more; a step of a thousandth is fine enough for them.
  const uint64_t count = bytes.size();
  const uint64_t step = std::max<uint64_t>(1, count / 1024);
  uint64_t kept = count;
  const auto lower = [&](uint64_t steps) { kept -= std::min(kept, steps * step); };
  // What cannot fit is not added up: units are nearly alike, so that a few sums are left.
  lower(ceil_div(count - most_that_fit(bytes, budget), step));
  uint64_t used = bytes_kept_evenly(bytes, kept);
  for (; used > budget; used = bytes_kept_evenly(bytes, kept)) lower(1);
  std::vector<uint32_t> chosen;
  std::vector<uint32_t> rest;
  visit_evenly(kept, count, [&](uint64_t i, bool keep) {
    (keep ? chosen : rest).push_back(static_cast<uint32_t>(i));
  });
  budget -= used;
  for (const uint32_t index : rest) {
    if (bytes[index] > budget) break;
    budget -= bytes[index];
    chosen.push_back(index);
  }
  return chosen;
}

PlacementResult plan_placement(const PlanRequest& request) {
  return Planner(request).plan();
}

}  // namespace spillway
