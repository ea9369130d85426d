// Decides once which unit lives where. A pure function: sizes and budgets in, placement and an
// exact memory bill out.
//
// Why no cache: layers are visited in a fixed cycle, and LRU over a cyclic scan larger than the
// cache hits nothing. So residency is decided beforehand. It is decided per unit, not per layer:
// with streamed units spread evenly between resident ones, a few small slots are enough to keep
// the disk busy while resident units compute, and the budget is used to the last unit.
//
// Laws (tests/planner_test.cpp): no budget is exceeded; a larger budget never streams more bytes;
// streamed units are spaced evenly, within one on unified memory.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/config.h"

namespace spillway {

/// What the planner must know of a unit.
struct UnitSize {
  uint32_t layer = 0;
  uint64_t bytes = 0;
  uint64_t home_bytes = 0;
  uint64_t read_bytes = 0;
};

/// One line of the bill. Tier kGpu = device memory (kRam on a unified device).
struct MemoryLine {
  std::string name;
  Tier tier = Tier::kRam;
  uint64_t bytes = 0;
};

struct PlanRequest {
  bool unified = true;
  uint64_t ram_budget_bytes = 0;
  uint64_t gpu_budget_bytes = 0;
  std::vector<UnitSize> units;           ///< schedule order, layers ascending
  std::vector<std::string> layer_names;  ///< the last one may be of another size ("head")
  uint64_t embed_bytes = 0;              ///< home of the input embeddings; 0 = tied to the head
  uint64_t embed_gather_bytes = 0;       ///< buffers to gather rows from the file instead
  std::vector<MemoryLine> fixed;         ///< KV cache, activations, tables: needed in any case
  PlacementPolicy policy = PlacementPolicy::kAuto;
  std::optional<double> ram_share;  ///< of the units in RAM, the rest on NVMe, spread evenly
  bool mapped = false;              ///< unified only: units are used in a mapping of their files
  std::vector<LayerOverride> overrides;
  std::optional<uint32_t> slots;
  /// Slots hold all units of a layer at the same time, beside those that others wait in.
  bool hold_layers = false;
  std::optional<uint32_t> staging_slabs;
  uint64_t slab_bytes = 0;
  uint32_t io_depth = 0;
};

struct Placement {
  std::vector<Tier> unit_tiers;
  Tier embed_tier = Tier::kNvme;  ///< kRam, or kNvme: gathered row by row
  uint32_t slots = 0;
  uint64_t slot_bytes = 0;
  uint32_t slabs = 0;
  std::vector<MemoryLine> bill;
  uint64_t ram_planned_bytes = 0;
  uint64_t gpu_planned_bytes = 0;
  uint64_t nvme_bytes_per_pass = 0;    ///< read from storage in every pass
  uint64_t copied_bytes_per_pass = 0;  ///< sent to a discrete device in every pass
  bool mapped = false;                 ///< every unit is used where its file is mapped
};

/// Rounding of every RAM allocation: whole huge pages.
uint64_t ram_cost(uint64_t bytes);

/// What the cheapest placement needs when the budgets give less.
struct Refusal {
  Tier tier = Tier::kRam;           ///< whose budget is too small: kRam, or kGpu
  uint64_t needed_bytes = 0;        ///< the smallest budget of that tier that works
  uint64_t short_bytes = 0;         ///< that less the budget
  bool both = false;                ///< the other tier's budget is too small as well
  uint64_t other_needed_bytes = 0;  ///< and needs this
  std::vector<MemoryLine> bill;     ///< of that placement
  /// Whether less is missing than for `other`.
  bool closer_than(const Refusal& other) const {
    return both != other.both ? other.both : short_bytes < other.short_bytes;
  }
};
using PlacementResult = std::variant<Placement, Refusal>;

/// Throws Error for what no budget can mend: overrides that name no layer or no tier.
PlacementResult plan_placement(const PlanRequest& request);

/// Which of items of these sizes a budget keeps: the most that can be kept spaced within one of
/// each other, then the first of the rest that still fit. By index, those that are spread first.
std::vector<uint32_t> keep_evenly(const std::vector<uint64_t>& bytes, uint64_t budget);

/// Which of `count` equal items are kept when `kept` of them are, spread evenly: the streamed ones
/// are spaced within one of each other.
bool kept_evenly(uint64_t index, uint64_t kept, uint64_t count);

}  // namespace spillway
