#include "tiers/planner.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

/// Slots together ride out the time that resident layers compute, while the disk goes on.
constexpr uint64_t kAutoSlotBytes = 96 * kMiB;
constexpr uint32_t kMinSlots = 2;
constexpr uint32_t kMaxAutoSlots = 16;

struct LayerUnits {
  std::vector<uint32_t> units;
  uint64_t home_bytes = 0;
};

/// Order in which units become resident, for `kept` of the equal layers kept whole. Everything that
/// a budget can buy is a prefix of this list, so a larger budget buys no less.
class ResidencyOrder {
 public:
  ResidencyOrder(const PlanRequest& request, const std::vector<bool>& candidate)
      : request_(request) {
    layers_.resize(request.layer_names.size());
    for (uint32_t u = 0; u < request.units.size(); ++u) {
      if (!candidate[u]) continue;
      LayerUnits& layer = layers_[request.units[u].layer];
      layer.units.push_back(u);
      layer.home_bytes += request.units[u].home_bytes;
    }
    find_equal_layers();
  }

  /// The units that `budget` bytes hold.
  std::vector<uint32_t> choose(uint64_t budget) const {
    if (equal_.empty()) return fill(nested_order(others_), budget);
    const uint64_t each = layers_[equal_[0]].home_bytes;
    const uint64_t kept = std::min<uint64_t>(equal_.size(), budget / each);
    std::vector<uint32_t> chosen;
    std::vector<uint32_t> rest;
    for (uint64_t i = 0; i < equal_.size(); ++i) {
      const auto& units = layers_[equal_[i]].units;
      if (kept_evenly(i, kept, equal_.size())) {
        chosen.insert(chosen.end(), units.begin(), units.end());
      } else if (rest.empty()) {
        rest = units;  // what is left of the budget keeps the first units of one streamed layer
      }
    }
    if (kept == equal_.size()) rest = nested_order(others_);
    const auto more = fill(rest, budget - kept * each);
    chosen.insert(chosen.end(), more.begin(), more.end());
    return chosen;
  }

  /// Budgets at which choose() gives something new.
  std::vector<uint64_t> steps() const {
    std::vector<uint64_t> result = {0};
    const auto add = [&](const std::vector<uint32_t>& units, uint64_t base) {
      for (const uint32_t unit : units) result.push_back(base += request_.units[unit].home_bytes);
    };
    uint64_t base = 0;
    if (!equal_.empty()) {
      const LayerUnits& layer = layers_[equal_[0]];
      for (size_t i = 0; i < equal_.size(); ++i) add(layer.units, i * layer.home_bytes);
      base = equal_.size() * layer.home_bytes;
    }
    add(nested_order(others_), base);
    return result;
  }

 private:
  /// The largest set of layers that are cut alike is spread evenly; the others follow.
  void find_equal_layers() {
    std::vector<std::vector<uint64_t>> shapes;
    std::vector<std::vector<uint32_t>> members;
    for (uint32_t i = 0; i < layers_.size(); ++i) {
      if (layers_[i].units.empty()) continue;
      std::vector<uint64_t> shape;
      for (const uint32_t u : layers_[i].units) shape.push_back(request_.units[u].home_bytes);
      const auto found = std::find(shapes.begin(), shapes.end(), shape);
      const auto at = static_cast<size_t>(found - shapes.begin());
      if (found == shapes.end()) {
        shapes.push_back(shape);
        members.emplace_back();
      }
      members[at].push_back(i);
    }
    size_t best = 0;
    for (size_t i = 1; i < members.size(); ++i) {
      if (members[i].size() > members[best].size()) best = i;
    }
    for (size_t i = 0; i < members.size(); ++i) {
      auto& target = i == best ? equal_ : others_;
      target.insert(target.end(), members[i].begin(), members[i].end());
    }
    std::sort(others_.begin(), others_.end());
  }

  /// Units of unequal layers, layers in bit-reversed order: every prefix is spread out.
  std::vector<uint32_t> nested_order(const std::vector<uint32_t>& layers) const {
    std::vector<uint32_t> order;
    size_t span = 1;
    while (span < layers.size()) span *= 2;
    for (size_t i = 0; i < span; ++i) {
      size_t reversed = 0;
      for (size_t bit = 1, mirror = span / 2; bit < span; bit *= 2, mirror /= 2) {
        if ((i & bit) != 0) reversed |= mirror;
      }
      if (reversed >= layers.size()) continue;
      const auto& units = layers_[layers[reversed]].units;
      order.insert(order.end(), units.begin(), units.end());
    }
    return order;
  }

  std::vector<uint32_t> fill(const std::vector<uint32_t>& order, uint64_t budget) const {
    std::vector<uint32_t> chosen;
    for (const uint32_t unit : order) {
      if (request_.units[unit].home_bytes > budget) break;
      budget -= request_.units[unit].home_bytes;
      chosen.push_back(unit);
    }
    return chosen;
  }

  const PlanRequest& request_;
  std::vector<LayerUnits> layers_;
  std::vector<uint32_t> equal_;
  std::vector<uint32_t> others_;
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

  Placement plan() {
    if (request_.policy == PlacementPolicy::kRam) return forced_everywhere(Tier::kRam);
    if (request_.policy == PlacementPolicy::kNvme) return forced_everywhere(Tier::kNvme);
    if (auto placement = everything_resident(Tier::kRam)) return *placement;
    if (auto placement = everything_resident(Tier::kNvme)) return *placement;
    return streamed();
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
    if (item.name.empty() && last + 1 >= layers) {
      throw Error(fmt::format("placement.layers: {}: this model has layers 0 to {}",
                              first == last ? fmt::to_string(first)
                                            : fmt::format("{}-{}", first, last),
                              layers - 2));
    }
    for (uint32_t u = 0; u < request_.units.size(); ++u) {
      if (request_.units[u].layer >= first && request_.units[u].layer <= last) {
        forced_[u] = item.tier;
      }
    }
  }

  uint64_t slots_wanted() const {
    if (request_.slots) return *request_.slots;
    const uint64_t wanted = ceil_div(kAutoSlotBytes, max_home_bytes_);
    return std::clamp<uint64_t>(wanted, kMinSlots + 1, kMaxAutoSlots);
  }

  uint32_t slabs_wanted() const {
    return request_.staging_slabs.value_or(request_.io_depth + 4);
  }

  /// RAM that the embeddings take at a tier: their home, or the buffers of the gather.
  uint64_t embed_ram(Tier tier) const {
    if (tier == Tier::kRam && request_.embed_bytes > 0) {
      return ram_cost(request_.embed_bytes);
    }
    return ram_cost(request_.embed_gather_bytes);
  }

  /// Nothing streamed, so no slots and no staging to run with: all units on the device (RAM when
  /// unified), embeddings at `embed`. On a discrete device the slabs are still needed to load.
  std::optional<Placement> everything_resident(Tier embed) const {
    for (const auto& tier : forced_) {
      if (tier && *tier != device_tier()) return std::nullopt;
    }
    if (forced_embed_ && *forced_embed_ != embed) return std::nullopt;
    Attempt attempt;
    attempt.tiers.assign(request_.units.size(), device_tier());
    (request_.unified ? attempt.ram_home_bytes : attempt.gpu_home_bytes) = all_home_bytes_;
    Placement placement = bill(attempt, embed, 0);
    if (!fits(placement)) return std::nullopt;
    return placement;
  }

  Tier device_tier() const { return request_.unified ? Tier::kRam : Tier::kGpu; }

  bool fits(const Placement& placement) const {
    return placement.ram_planned_bytes <= request_.ram_budget_bytes &&
           (request_.unified || placement.gpu_planned_bytes <= request_.gpu_budget_bytes);
  }

  Placement forced_everywhere(Tier tier) {
    for (auto& forced : forced_) {
      if (!forced) forced = tier;
    }
    if (!forced_embed_) forced_embed_ = tier;
    if (const auto placement = everything_resident(*forced_embed_)) return *placement;
    return streamed();
  }

  Placement streamed() const {
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
    if (!fits(least)) refuse(least);
    const uint64_t ram_room = room(request_.ram_budget_bytes, least.ram_planned_bytes,
                                   base.ram_home_bytes);
    // Slots first: a home bought with bytes that one more slot needs would be lost again when the
    // budget grows.
    const bool all_slots = slots >= slots_wanted();
    if (request_.unified) return finish(base, embed, slots, candidate, 0, all_slots ? ram_room : 0);
    const uint64_t gpu_room =
        all_slots ? request_.gpu_budget_bytes - least.gpu_planned_bytes : 0;
    return discrete(base, embed, slots, candidate, ram_room, gpu_room);
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
    while (slots > kMinSlots && !fits(bill(base, embed, static_cast<uint32_t>(slots)))) --slots;
    return slots;
  }

  void place(Attempt& attempt, uint32_t unit, Tier tier) const {
    attempt.tiers[unit] = tier;
    if (tier == Tier::kRam) attempt.ram_home_bytes += request_.units[unit].home_bytes;
    if (tier == Tier::kGpu) attempt.gpu_home_bytes += request_.units[unit].home_bytes;
  }

  Attempt with_homes(Attempt attempt, std::vector<bool> candidate, uint64_t gpu_bytes,
                     uint64_t ram_bytes) const {
    if (gpu_bytes > 0) {
      for (const uint32_t unit : ResidencyOrder(request_, candidate).choose(gpu_bytes)) {
        place(attempt, unit, Tier::kGpu);
        candidate[unit] = false;
      }
    }
    for (const uint32_t unit : ResidencyOrder(request_, candidate).choose(ram_bytes)) {
      place(attempt, unit, Tier::kRam);
    }
    return attempt;
  }

  Placement finish(const Attempt& base, Tier embed, uint32_t slots,
                   const std::vector<bool>& candidate, uint64_t gpu_bytes,
                   uint64_t ram_bytes) const {
    return bill(with_homes(base, candidate, gpu_bytes, ram_bytes), embed, slots);
  }

  /// Units are not all of one size, so that a fuller GPU could leave RAM a worse fit. Trying every
  /// step up to the budget and taking the least streamed keeps the law.
  Placement discrete(const Attempt& base, Tier embed, uint32_t slots,
                     const std::vector<bool>& candidate, uint64_t ram_room,
                     uint64_t gpu_room) const {
    std::optional<Placement> best;
    for (const uint64_t step : ResidencyOrder(request_, candidate).steps()) {
      if (step > gpu_room) continue;
      Placement next = finish(base, embed, slots, candidate, step, ram_room);
      if (!best || std::pair(next.nvme_bytes_per_pass, next.copied_bytes_per_pass) <
                       std::pair(best->nvme_bytes_per_pass, best->copied_bytes_per_pass)) {
        best = std::move(next);
      }
    }
    return *best;
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
      result.bill.push_back(
          {std::move(name), ram ? Tier::kRam : Tier::kGpu, ram ? ram_cost(bytes) : bytes});
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

  [[noreturn]] void refuse(const Placement& least) const {
    const bool ram = least.ram_planned_bytes > request_.ram_budget_bytes;
    const char* key = ram ? "memory.ram" : "memory.gpu";
    const uint64_t budget = ram ? request_.ram_budget_bytes : request_.gpu_budget_bytes;
    const uint64_t needed = ram ? least.ram_planned_bytes : least.gpu_planned_bytes;
    std::string lines;
    for (const MemoryLine& line : least.bill) {
      if ((line.tier == Tier::kRam) != ram) continue;
      lines += fmt::format("{}{} {}", lines.empty() ? "" : ", ", line.name,
                           format_bytes(line.bytes));
    }
    throw Error(fmt::format("{} of {} cannot work with this placement: at least {}MiB are needed "
                            "({})",
                            key, format_bytes(budget), ceil_div(needed, kMiB), lines));
  }

  const PlanRequest& request_;
  uint64_t max_home_bytes_ = 0;
  uint64_t all_home_bytes_ = 0;
  std::vector<std::optional<Tier>> forced_;
  std::optional<Tier> forced_embed_;
};

}  // namespace

uint64_t ram_cost(uint64_t bytes) { return align_up(bytes, kHugePageBytes); }

bool kept_evenly(uint64_t index, uint64_t kept, uint64_t count) {
  return (index + 1) * kept / count > index * kept / count;
}

Placement plan_placement(const PlanRequest& request) { return Planner(request).plan(); }

}  // namespace spillway
