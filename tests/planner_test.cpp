#include "tiers/planner.h"

#include <rapidcheck.h>

#include <numeric>
#include <random>

#include "core/error.h"
#include "core/units.h"
#include "tests/support.h"

namespace spillway {
namespace {

/// `layers` equal layers of `units_per_layer` units and a head.
PlanRequest request_of(uint32_t layers, uint32_t units_per_layer, uint64_t unit_bytes,
                       uint64_t head_bytes) {
  PlanRequest request;
  const auto add = [&](uint32_t layer, uint64_t bytes) {
    request.units.push_back({layer, bytes, align_up(bytes, 4096) + 4096, bytes});
  };
  for (uint32_t layer = 0; layer < layers; ++layer) {
    request.layer_names.push_back(std::to_string(layer));
    for (uint32_t i = 0; i < units_per_layer; ++i) add(layer, unit_bytes);
  }
  request.layer_names.push_back("head");
  add(layers, head_bytes);
  request.embed_bytes = head_bytes;
  request.embed_gather_bytes = 100 * kKiB;
  request.fixed = {{"KV cache", Tier::kGpu, 3 * kMiB}, {"tables", Tier::kRam, kMiB}};
  request.ram_budget_bytes = kGiB;
  request.gpu_budget_bytes = 64 * kMiB;
  request.slab_bytes = kMiB;
  request.io_depth = 8;
  return request;
}

uint64_t bill_of(const Placement& placement, Tier tier) {
  return std::accumulate(placement.bill.begin(), placement.bill.end(), uint64_t{0},
                         [&](uint64_t sum, const MemoryLine& line) {
                           return sum + (line.tier == tier ? line.bytes : 0);
                         });
}

uint64_t count(const Placement& placement, Tier tier) {
  return static_cast<uint64_t>(
      std::count(placement.unit_tiers.begin(), placement.unit_tiers.end(), tier));
}

Placement placed(const PlanRequest& request) {
  return std::get<Placement>(plan_placement(request));
}

std::optional<Refusal> refused(const PlanRequest& request) {
  auto result = plan_placement(request);
  if (auto* refusal = std::get_if<Refusal>(&result)) return std::move(*refusal);
  return std::nullopt;
}

TEST(Planner, EverythingFits) {
  PlanRequest request = request_of(8, 2, 10 * kMiB, 20 * kMiB);
  const Placement placement = placed(request);
  EXPECT_EQ(count(placement, Tier::kRam), 17u);
  EXPECT_EQ(placement.slots, 0u) << "nothing streams, so nothing is spent on slots";
  EXPECT_EQ(placement.embed_tier, Tier::kRam);
  EXPECT_EQ(placement.nvme_bytes_per_pass, 0u);
}

TEST(Planner, EmbeddingsAreTheFirstToGo) {
  PlanRequest request = request_of(8, 2, 10 * kMiB, 20 * kMiB);
  request.ram_budget_bytes = placed(request).ram_planned_bytes - kMiB;
  const Placement placement = placed(request);
  EXPECT_EQ(placement.embed_tier, Tier::kNvme);
  EXPECT_EQ(placement.nvme_bytes_per_pass, 0u);
}

/// A sweep's slots hold the largest layer and some that wait, in any budget.
TEST(Planner, HeldLayersFitTheirSlots) {
  PlanRequest request = request_of(8, 5, 4 * kMiB, 4 * kMiB);
  request.hold_layers = true;
  uint32_t before = 0;
  for (uint64_t budget = 40; budget < 200; ++budget) {
    request.ram_budget_bytes = budget * kMiB;
    if (refused(request)) {
      EXPECT_EQ(before, 0u);
      continue;
    }
    const Placement placement = placed(request);
    EXPECT_LE(placement.ram_planned_bytes, request.ram_budget_bytes);
    if (placement.slots == 0) continue;
    EXPECT_GE(placement.slots, 5u + 2u);
    EXPECT_GE(placement.slots, before);
    before = placement.slots;
  }
  EXPECT_EQ(before, 5u + 8u);
  request.slots = 3;
  request.ram_budget_bytes = 100 * kMiB;
  EXPECT_EQ(placed(request).slots, 8u) << "beside those of the layer";
}

TEST(Planner, StreamedLayersAreSpreadEvenly) {
  for (uint32_t layers = 2; layers <= 40; ++layers) {
    for (uint32_t kept = 0; kept <= layers; ++kept) {
      std::vector<uint32_t> streamed;
      for (uint32_t i = 0; i < layers; ++i) {
        if (!kept_evenly(i, kept, layers)) streamed.push_back(i);
      }
      ASSERT_EQ(streamed.size(), layers - kept);
      uint32_t least = layers;
      uint32_t most = 0;
      for (size_t i = 0; i < streamed.size(); ++i) {
        const uint32_t next = streamed[(i + 1) % streamed.size()];
        const uint32_t gap = (next + layers - streamed[i] - 1) % layers + 1;  // around the cycle
        least = std::min(least, gap);
        most = std::max(most, gap);
      }
      if (!streamed.empty()) {
        EXPECT_LE(most - least, 1u) << kept << " of " << layers;
      }
    }
  }
}

TEST(Planner, LeftOverBytesKeepPartOfALayer) {
  PlanRequest request = request_of(8, 4, 20 * kMiB, 20 * kMiB);
  request.ram_budget_bytes = 400 * kMiB;
  const Placement placement = placed(request);
  EXPECT_GT(placement.ram_planned_bytes + 23 * kMiB, request.ram_budget_bytes);
  EXPECT_LE(placement.ram_planned_bytes, request.ram_budget_bytes);
}

TEST(Planner, RefusesWithTheSmallestBudgetThatWorks) {
  for (const bool unified : {true, false}) {
    PlanRequest request = request_of(8, 2, 10 * kMiB, 20 * kMiB);
    request.unified = unified;
    request.ram_budget_bytes = 8 * kMiB;
    const auto refusal = refused(request);
    ASSERT_TRUE(refusal);
    EXPECT_EQ(refusal->tier, Tier::kRam);
    EXPECT_EQ(refusal->short_bytes, refusal->needed_bytes - 8 * kMiB);
    EXPECT_FALSE(refusal->both);
    request.ram_budget_bytes = refusal->needed_bytes;
    const Placement placement = placed(request);
    if (unified) {
      EXPECT_EQ(placement.slots, 2u) << "the smallest budget holds the double buffer only";
    }
    request.ram_budget_bytes -= 1;
    EXPECT_TRUE(refused(request));
  }
}

TEST(Planner, NamesTheTierThatIsTooSmall) {
  PlanRequest request = request_of(8, 2, 10 * kMiB, 20 * kMiB);
  request.unified = false;
  request.gpu_budget_bytes = 8 * kMiB;
  auto refusal = refused(request);
  ASSERT_TRUE(refusal);
  EXPECT_EQ(refusal->tier, Tier::kGpu);
  EXPECT_FALSE(refusal->both);
  request.ram_budget_bytes = 2 * kMiB;
  refusal = refused(request);
  ASSERT_TRUE(refusal);
  EXPECT_TRUE(refusal->both);
  (refusal->tier == Tier::kRam ? request.ram_budget_bytes : request.gpu_budget_bytes) =
      refusal->needed_bytes;
  (refusal->tier == Tier::kRam ? request.gpu_budget_bytes : request.ram_budget_bytes) =
      refusal->other_needed_bytes;
  EXPECT_FALSE(refused(request));
}

/// Two slots of a model of one unit are more than the unit.
TEST(Planner, AModelSmallerThanItsSlotsStaysResident) {
  PlanRequest request = request_of(0, 0, 0, 20 * kMiB);
  request.ram_budget_bytes = kMiB;
  const auto refusal = refused(request);
  ASSERT_TRUE(refusal);
  request.ram_budget_bytes = refusal->needed_bytes;
  EXPECT_EQ(placed(request).slots, 0u);
}

TEST(Planner, PoliciesAndOverrides) {
  PlanRequest request = request_of(4, 2, 10 * kMiB, 20 * kMiB);
  request.policy = PlacementPolicy::kNvme;
  Placement placement = placed(request);
  EXPECT_EQ(count(placement, Tier::kNvme), 9u);
  EXPECT_GE(placement.slots, 2u);
  request.overrides = {{"", 1, 2, Tier::kRam}, {"head", 0, 0, Tier::kRam}};
  placement = placed(request);
  EXPECT_EQ(count(placement, Tier::kRam), 5u);
  EXPECT_EQ(placement.unit_tiers[2], Tier::kRam);
  EXPECT_EQ(placement.unit_tiers[0], Tier::kNvme);
  request.policy = PlacementPolicy::kRam;
  request.overrides.clear();
  placement = placed(request);
  EXPECT_EQ(count(placement, Tier::kRam), 9u);
  request.ram_budget_bytes = 50 * kMiB;
  EXPECT_TRUE(refused(request));
}

TEST(Planner, AShareOfTheUnitsIsKept) {
  for (const bool unified : {true, false}) {
    PlanRequest request = request_of(8, 4, 10 * kMiB, 10 * kMiB);
    request.unified = unified;
    for (const auto& [share, kept] : {std::pair{0.0, 0u}, {0.25, 8u}, {0.5, 17u}, {1.0, 33u}}) {
      request.ram_share = share;
      const Placement placement = placed(request);
      EXPECT_EQ(count(placement, Tier::kRam), kept) << share;
      EXPECT_EQ(count(placement, Tier::kGpu), 0u);
      EXPECT_EQ(placement.embed_tier, share == 1 ? Tier::kRam : Tier::kNvme);
    }
    request.ram_share = 0.5;
    request.overrides = {{"", 0, 7, Tier::kNvme}};
    EXPECT_LE(count(placed(request), Tier::kRam), 1u) << "what is placed by hand stays";
    request.ram_share = 1;
    request.overrides.clear();
    request.ram_budget_bytes = 300 * kMiB;
    EXPECT_TRUE(refused(request));
  }
}

/// A mapping of the files costs no memory of the bill; the rest of it must still fit.
TEST(Planner, MappedUnitsTakeNoBudget) {
  PlanRequest request = request_of(8, 4, 10 * kMiB, 10 * kMiB);
  request.mapped = true;
  request.ram_budget_bytes = 16 * kMiB;
  const Placement placement = placed(request);
  EXPECT_TRUE(placement.mapped);
  EXPECT_EQ(placement.slots, 0u);
  EXPECT_EQ(placement.nvme_bytes_per_pass, 33 * 10 * kMiB);
  EXPECT_LE(placement.ram_planned_bytes, 16 * kMiB);
  request.ram_budget_bytes = 2 * kMiB;
  EXPECT_TRUE(refused(request));
}

TEST(Planner, BadOverrides) {
  PlanRequest request = request_of(4, 2, 10 * kMiB, 20 * kMiB);
  for (const uint32_t last : {4u, 5u, UINT32_MAX}) {
    request.overrides = {{"", 1, last, Tier::kRam}};
    EXPECT_NE(test::error_of([&] { plan_placement(request); }).find("layers 0 to 3"),
              std::string::npos);
  }
  request.overrides = {{"", 1, 1, Tier::kGpu}};
  EXPECT_NE(test::error_of([&] { plan_placement(request); }).find("not a tier of the host"),
            std::string::npos);
  request.overrides = {{"embed", 0, 0, Tier::kRam}};
  request.embed_bytes = 0;
  EXPECT_NE(test::error_of([&] { plan_placement(request); }).find("tied"), std::string::npos);
}

TEST(Planner, ThreeTiers) {
  PlanRequest request = request_of(10, 2, 10 * kMiB, 20 * kMiB);
  request.unified = false;
  request.gpu_budget_bytes = 200 * kMiB;
  request.ram_budget_bytes = 100 * kMiB;
  const Placement placement = placed(request);
  EXPECT_GT(count(placement, Tier::kGpu), 0u);
  EXPECT_GT(count(placement, Tier::kRam), 0u);
  EXPECT_GT(count(placement, Tier::kNvme), 0u);
  request.gpu_budget_bytes = kGiB;
  EXPECT_EQ(count(placed(request), Tier::kGpu), 21u);
}

/// Any mix of layer and unit sizes.
PlanRequest any_request() {
  PlanRequest request = request_of(0, 0, 0, 0);
  request.units.clear();
  request.layer_names.clear();
  request.unified = *rc::gen::arbitrary<bool>();
  const bool equal = *rc::gen::arbitrary<bool>();
  const auto layers = *rc::gen::inRange<uint32_t>(1, 12);
  std::vector<uint64_t> pattern;
  for (uint32_t layer = 0; layer <= layers; ++layer) {
    request.layer_names.push_back(std::to_string(layer));
    if (layer == 0 || layer == layers || !equal) {
      pattern = *rc::gen::nonEmpty(
          rc::gen::container<std::vector<uint64_t>>(rc::gen::inRange<uint64_t>(1, 9000)));
    }
    for (const uint64_t kib : pattern) {
      request.units.push_back({layer, kib * kKiB, align_up(kib * kKiB, 4096) + 4096, kib * kKiB});
    }
  }
  request.embed_bytes = *rc::gen::inRange<uint64_t>(0, 20 * kMiB);
  return request;
}

std::optional<Placement> try_plan(const PlanRequest& request) {
  auto result = plan_placement(request);
  if (auto* placement = std::get_if<Placement>(&result)) return std::move(*placement);
  return std::nullopt;
}

/// What keep_evenly() is defined as, number by number.
std::vector<uint32_t> kept_by_definition(const std::vector<uint64_t>& bytes, uint64_t budget) {
  const uint64_t count = bytes.size();
  const auto sum = [&](uint64_t kept) {
    uint64_t total = 0;
    for (uint64_t i = 0; i < count; ++i) total += kept_evenly(i, kept, count) ? bytes[i] : 0;
    return total;
  };
  const uint64_t step = std::max<uint64_t>(1, count / 1024);
  uint64_t kept = count;
  while (kept > 0 && sum(kept) > budget) kept -= std::min(kept, step);
  std::vector<uint32_t> chosen;
  std::vector<uint32_t> rest;
  for (uint32_t i = 0; i < count; ++i) (kept_evenly(i, kept, count) ? chosen : rest).push_back(i);
  budget -= sum(kept);
  for (const uint32_t i : rest) {
    if (bytes[i] > budget) break;
    budget -= bytes[i];
    chosen.push_back(i);
  }
  return chosen;
}

TEST(PlannerLaws, KeepingEvenlyIsItsDefinition) {
  EXPECT_TRUE(rc::check("few items of any size", [] {
    const auto bytes =
        *rc::gen::container<std::vector<uint64_t>>(rc::gen::inRange<uint64_t>(0, 50));
    const auto budget = *rc::gen::inRange<uint64_t>(0, 1 + 50 * (bytes.size() + 1));
    RC_ASSERT(keep_evenly(bytes, budget) == kept_by_definition(bytes, budget));
  }));
  std::mt19937_64 random(test::run_seed());
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  for (int round = 0; round < 12; ++round) {  // so many that they are kept in steps
    std::vector<uint64_t> bytes(1000 + random() % 4000);
    for (uint64_t& size : bytes) size = round % 2 == 0 ? 7 + random() % 3 : 1 + random() % 1000;
    const uint64_t all = std::accumulate(bytes.begin(), bytes.end(), uint64_t{0});
    const uint64_t budget = random() % (all + 10);
    EXPECT_EQ(keep_evenly(bytes, budget), kept_by_definition(bytes, budget)) << budget;
  }
}

TEST(PlannerLaws, NoBudgetIsExceededAndTheBillIsExact) {
  EXPECT_TRUE(rc::check("budgets hold", [] {
    PlanRequest request = any_request();
    request.ram_budget_bytes = *rc::gen::inRange<uint64_t>(kMiB, 400 * kMiB);
    request.gpu_budget_bytes = *rc::gen::inRange<uint64_t>(kMiB, 400 * kMiB);
    const auto placement = try_plan(request);
    if (!placement) return;
    RC_ASSERT(placement->ram_planned_bytes <= request.ram_budget_bytes);
    RC_ASSERT(placement->ram_planned_bytes == bill_of(*placement, Tier::kRam));
    RC_ASSERT(placement->gpu_planned_bytes == bill_of(*placement, Tier::kGpu));
    if (!request.unified) RC_ASSERT(placement->gpu_planned_bytes <= request.gpu_budget_bytes);
  }));
}

TEST(PlannerLaws, TheBudgetThatARefusalNamesIsTheSmallest) {
  EXPECT_TRUE(rc::check("needed", [] {
    PlanRequest request = any_request();
    request.ram_budget_bytes = *rc::gen::inRange<uint64_t>(0, 60 * kMiB);
    request.gpu_budget_bytes = *rc::gen::inRange<uint64_t>(0, 60 * kMiB);
    const auto refusal = refused(request);
    if (!refusal) return;
    const bool ram = refusal->tier == Tier::kRam;
    uint64_t& budget = ram ? request.ram_budget_bytes : request.gpu_budget_bytes;
    RC_ASSERT(refusal->needed_bytes > budget);
    if (refusal->both) {
      (ram ? request.gpu_budget_bytes : request.ram_budget_bytes) = refusal->other_needed_bytes;
    }
    budget = refusal->needed_bytes;
    RC_ASSERT(!refused(request).has_value());
    if (refusal->both) return;
    budget -= 1;
    RC_ASSERT(refused(request).has_value());
  }));
}

TEST(PlannerLaws, ALargerBudgetNeverStreamsMore) {
  EXPECT_TRUE(rc::check("monotone", [] {
    PlanRequest request = any_request();
    request.ram_budget_bytes = *rc::gen::inRange<uint64_t>(kMiB, 300 * kMiB);
    request.gpu_budget_bytes = *rc::gen::inRange<uint64_t>(kMiB, 300 * kMiB);
    const auto smaller = try_plan(request);
    request.ram_budget_bytes += *rc::gen::inRange<uint64_t>(0, 60 * kMiB);
    request.gpu_budget_bytes += *rc::gen::inRange<uint64_t>(0, 60 * kMiB);
    const auto larger = try_plan(request);
    if (!smaller) return;
    RC_ASSERT(larger.has_value());
    RC_ASSERT(larger->nvme_bytes_per_pass <= smaller->nvme_bytes_per_pass);
  }));
}

}  // namespace
}  // namespace spillway
