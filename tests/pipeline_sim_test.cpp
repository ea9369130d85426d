// The simulated pipeline: bounded by its slowest link from below, close to it where slots suffice.
#include "tiers/pipeline_sim.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "core/units.h"
#include "kernels/registry.h"
#include "tests/support.h"

namespace spillway {
namespace {

/// Layers of `units` units of `unit_bytes`, the tiers by a pattern.
StreamPlan make_plan(bool unified, uint32_t units, uint64_t unit_bytes,
                     const std::vector<Tier>& pattern, uint32_t slots) {
  StreamPlan plan;
  plan.chunk_bytes = kMiB;
  plan.io_depth = 8;
  LayerSpec layer{"0", {{"w", 0, 0, units * 64, unit_bytes / 64, 64}}};
  const FileShape shape{units * unit_bytes, 4096};
  plan.layers = {layer};
  plan.units = cut_units(
      plan.layers, {&shape, 1},
      {unit_bytes, plan.chunk_bytes, unified ? BlobLayout::kInPlace : BlobLayout::kPacked});
  for (size_t u = 0; u < plan.units.size(); ++u) {
    plan.placement.unit_tiers.push_back(pattern[u % pattern.size()]);
    plan.placement.slot_bytes = std::max(plan.placement.slot_bytes, plan.units[u].home_bytes);
  }
  plan.placement.slots = slots;
  plan.placement.slabs = unified ? 0 : 12;
  return plan;
}

uint64_t bytes_on(const StreamPlan& plan, Tier tier) {
  uint64_t bytes = 0;
  for (size_t u = 0; u < plan.units.size(); ++u) {
    if (plan.placement.unit_tiers[u] == tier) bytes += plan.units[u].plan.read_bytes;
  }
  return bytes;
}

TEST(PipelineSim, NvmeOnly) {
  const StreamPlan plan = make_plan(true, 200, 4 * kMiB, {Tier::kNvme}, 4);
  const std::vector<double> compute(plan.units.size(), 0.2e-3);
  const SimulatedPass pass = simulate_pass(plan, true, {2e9, 0}, compute);
  const double reads = static_cast<double>(bytes_on(plan, Tier::kNvme)) / 2e9;
  EXPECT_NEAR(pass.read_seconds, reads, 1e-9);
  EXPECT_GE(pass.seconds, reads * 0.999);
  EXPECT_LE(pass.seconds, reads * 1.01) << "the next pass is read while this one ends";
  EXPECT_NEAR(pass.compute_seconds, 0.04, 1e-9);
}

TEST(PipelineSim, ResidentUnitsCostComputingOnly) {
  const StreamPlan plan = make_plan(true, 50, 4 * kMiB, {Tier::kRam}, 0);
  const std::vector<double> compute(plan.units.size(), 1e-3);
  const SimulatedPass pass = simulate_pass(plan, true, {2e9, 0}, compute);
  EXPECT_NEAR(pass.seconds, static_cast<double>(plan.units.size()) * 1e-3, 1e-9);
  EXPECT_EQ(pass.read_seconds, 0);
}

/// Two slots cannot hide a unit that computes long; eight can.
TEST(PipelineSim, FewSlotsHideLess) {
  const auto seconds = [](uint32_t slots) {
    const StreamPlan plan = make_plan(true, 100, 4 * kMiB, {Tier::kNvme}, slots);
    std::vector<double> compute(plan.units.size(), 0.1e-3);
    for (size_t u = 0; u < compute.size(); u += 4) compute[u] = 6e-3;  // now and then a long one
    return simulate_pass(plan, true, {2e9, 0}, compute).seconds;
  };
  EXPECT_GT(seconds(2), 1.02 * seconds(8));
}

/// Rows that a pass begins with wait behind the units that are read ahead meanwhile.
TEST(PipelineSim, GatheredRowsWaitBehindTheQueue) {
  const StreamPlan plan = make_plan(true, 100, 4 * kMiB, {Tier::kNvme, Tier::kRam}, 8);
  std::vector<double> compute(plan.units.size(), 8e-3);  // reads are hidden, but those at the end
  std::fill(compute.end() - 20, compute.end(), 0.1e-3);
  const auto waited = [&](uint32_t waves) {
    const RowGather gather{1e-3, kMiB, waves};
    return simulate_pass(plan, true, {2e9, 0}, compute, gather).seconds -
           simulate_pass(plan, true, {2e9, 0}, compute).seconds;
  };
  EXPECT_GT(waited(1), 2e-3);
  EXPECT_GT(waited(4), waited(1) + 2e-3) << "8 MiB are in flight: 4 ms at most for each";
  EXPECT_LT(waited(4), 18e-3);
}

/// The layer is read once, whatever batches it computes, and the next one's units are read
/// meanwhile, as far as slots are left.
TEST(PipelineSim, ASweepReadsALayerOnce) {
  StreamPlan plan = make_plan(true, 200, 4 * kMiB, {Tier::kNvme}, 80);
  for (uint32_t u = 0; u < plan.units.size(); ++u) plan.units[u].layer = u / 40;
  const std::vector<double> compute(plan.units.size(), 0.2e-3);
  const double reads = static_cast<double>(bytes_on(plan, Tier::kNvme)) / 2e9;
  double per_batch = 1e9;
  for (const uint32_t batches : {1u, 2u, 3u, 10u, 40u}) {
    const SimulatedPass pass = simulate_pass(plan, true, {2e9, 0}, compute, {}, batches);
    const double computing = 0.2e-3 * 200 * batches;
    EXPECT_NEAR(pass.read_seconds, reads, 1e-9);
    EXPECT_NEAR(pass.compute_seconds, computing, 1e-9);
    EXPECT_GE(pass.seconds, 0.999 * std::max(reads, computing)) << batches;
    EXPECT_LE(pass.seconds, 1.05 * std::max(reads, computing)) << batches;
    EXPECT_LT(pass.seconds / batches, per_batch);
    per_batch = pass.seconds / batches;
  }
  plan.placement.slots = 42;  // hardly more than a layer: the next one is read while one ends
  const SimulatedPass few = simulate_pass(plan, true, {2e9, 0}, compute, {}, 40);
  EXPECT_GT(few.seconds, 1.1 * 0.2e-3 * 200 * 40);
}

/// A sweep of resident layers, whose hidden states are all that the drive moves.
SimulatedPass spilled_sweep(bool unified, double compute_seconds, const LinkRates& rates,
                            const StateTraffic& states, uint32_t batches) {
  StreamPlan plan = make_plan(unified, 50, 4 * kMiB, {unified ? Tier::kRam : Tier::kGpu}, 0);
  for (uint32_t u = 0; u < plan.units.size(); ++u) plan.units[u].layer = u / 5;
  const std::vector<double> compute(plan.units.size(), compute_seconds / 5);
  return simulate_pass(plan, unified, rates, compute, {}, batches, states);
}

/// Read and written in all layers but the last: at the drive's rate, or as fast as layers compute.
TEST(PipelineSim, SpilledStatesAreBoundedByTheDriveOrByComputing) {
  for (const bool unified : {true, false}) {
    const StateTraffic states{8 * kMiB, unified ? 4u : 6u};
    const LinkRates rates{2e9, 20e9};
    const double moved = 9 * 40 * 2 * 8.0 * kMiB / 2e9;
    const SimulatedPass slow_drive = spilled_sweep(unified, 1e-3, rates, states, 40);
    EXPECT_NEAR(slow_drive.read_seconds, moved, 1e-9);
    EXPECT_GE(slow_drive.seconds, moved * 0.999);
    EXPECT_LE(slow_drive.seconds, moved * 1.03);
    const SimulatedPass slow_cores = spilled_sweep(unified, 20e-3, rates, states, 40);
    EXPECT_NEAR(slow_cores.compute_seconds, 10 * 40 * 20e-3, 1e-9);
    EXPECT_GE(slow_cores.seconds, slow_cores.compute_seconds * 0.999);
    EXPECT_LE(slow_cores.seconds, slow_cores.compute_seconds * 1.01);
    EXPECT_EQ(spilled_sweep(unified, 1e-3, rates, states, 4).read_seconds, 0)
        << "buffers hold them all";
  }
}

/// What computing, reading and writing take at the same time goes on at the same time, with four
/// buffers; with two they take turns.
TEST(PipelineSim, StatesAreMovedBesideComputing) {
  const double block_seconds = 8.0 * kMiB / 2e9;
  const auto seconds = [&](uint32_t buffers) {
    return spilled_sweep(true, 2.1 * block_seconds, {2e9, 0}, {8 * kMiB, buffers}, 40).seconds;
  };
  const double computing = 10 * 40 * 2.1 * block_seconds;
  EXPECT_LE(seconds(4), 1.02 * computing);
  EXPECT_GT(seconds(2), 1.3 * computing);
}

/// Weights and states share the drive.
TEST(PipelineSim, StatesTakeTheDriveFromWeights) {
  StreamPlan plan = make_plan(true, 200, 4 * kMiB, {Tier::kNvme}, 80);
  for (uint32_t u = 0; u < plan.units.size(); ++u) plan.units[u].layer = u / 40;
  const std::vector<double> compute(plan.units.size(), 0.02e-3);
  const StateTraffic states{4 * kMiB, 4};
  const SimulatedPass pass = simulate_pass(plan, true, {2e9, 0}, compute, {}, 30, states);
  const double weights = static_cast<double>(bytes_on(plan, Tier::kNvme)) / 2e9;
  EXPECT_NEAR(pass.read_seconds, weights + 4 * 30 * 2 * 4.0 * kMiB / 2e9, 1e-9);
  EXPECT_GE(pass.seconds, 0.999 * pass.read_seconds);
  EXPECT_LE(pass.seconds, 1.15 * pass.read_seconds);
}

/// Any mix on any device: never faster than its slowest link, and not much slower where no single
/// unit is long.
TEST(PipelineSim, AnyMixRunsAtTheSpeedOfTheSlowestLink) {
  std::mt19937_64 random(test::run_seed());
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  for (int round = 0; round < 60; ++round) {
    const bool unified = random() % 2 == 0;
    std::vector<Tier> pattern;
    for (size_t i = 0; i < 2 + random() % 5; ++i) {
      const auto pick = random() % (unified ? 2 : 3);
      pattern.push_back(pick == 0 ? Tier::kNvme : pick == 1 ? Tier::kRam : Tier::kGpu);
    }
    const StreamPlan plan = make_plan(unified, 120, 4 * kMiB, pattern, 8);
    const auto rate = [&] { return 1e9 * static_cast<double>(1 + random() % 20); };
    const LinkRates rates{rate(), rate()};
    const std::vector<double> compute(plan.units.size(), 4 * kMiB / rate());
    const SimulatedPass pass = simulate_pass(plan, unified, rates, compute);
    const double reads = static_cast<double>(bytes_on(plan, Tier::kNvme)) / rates.read;
    uint64_t copied = 0;
    for (size_t u = 0; u < plan.units.size(); ++u) {
      if (!unified && plan.placement.unit_tiers[u] != Tier::kGpu) copied += plan.units[u].bytes;
    }
    const double copies = static_cast<double>(copied) / rates.copy;
    const double computing = std::accumulate(compute.begin(), compute.end(), 0.0);
    EXPECT_NEAR(pass.read_seconds, reads, 1e-6);
    EXPECT_NEAR(pass.copy_seconds, copies, 1e-6);
    EXPECT_NEAR(pass.compute_seconds, computing, 1e-6);
    const double slowest = std::max({reads, copies, computing});
    EXPECT_GE(pass.seconds, 0.999 * slowest);
    EXPECT_LE(pass.seconds, 1.1 * slowest)
        << "reads " << reads << ", copies " << copies << ", computing " << computing;
    EXPECT_EQ(simulate_pass(plan, unified, rates, compute).seconds, pass.seconds);
  }
}

/// The same of what the planner makes of any two budgets: its spread is even enough. The worst of
/// 18,000 plans took 1.103 of its slowest link, where all three links are nearly as fast.
TEST(PipelineSim, PlansRunAtTheSpeedOfTheSlowestLink) {
  std::mt19937_64 random(test::run_seed());
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  for (int round = 0; round < 60; ++round) {
    const bool unified = random() % 2 == 0;
    StreamPlan plan = make_plan(unified, 400, 4 * kMiB, {Tier::kNvme}, 16);
    PlanRequest request;
    request.unified = unified;
    for (const Unit& unit : plan.units) {
      request.units.push_back({0, unit.bytes, unit.home_bytes, unit.plan.read_bytes});
    }
    request.layer_names = {"0"};
    request.embed_gather_bytes = kMiB;
    request.slab_bytes = plan.chunk_bytes;
    request.io_depth = plan.io_depth;
    request.slots = 16;
    request.ram_budget_bytes = (80 + random() % 1600) * kMiB;
    request.gpu_budget_bytes = (80 + random() % 1600) * kMiB;
    plan.placement = std::get<Placement>(plan_placement(request));
    const auto rate = [&] { return 1e9 * static_cast<double>(1 + random() % 20); };
    const LinkRates rates{rate(), rate()};
    const std::vector<double> compute(plan.units.size(), 4 * kMiB / rate());
    const SimulatedPass pass = simulate_pass(plan, unified, rates, compute);
    const double slowest = std::max({pass.read_seconds, pass.copy_seconds, pass.compute_seconds});
    EXPECT_LE(pass.seconds, 1.12 * slowest)
        << "reads " << pass.read_seconds << ", copies " << pass.copy_seconds << ", computing "
        << pass.compute_seconds << (unified ? ", unified" : "");
  }
}

/// On a device a lease ends when the CPU has put the work on the stream, long before it ran: copies
/// into the slot given back last would wait for all of it, and nothing would overlap.
TEST(Slots, OfADeviceAreReusedOldestFirst) {
  const auto device = open_device("host-discrete", {});
  DeviceArena arena(*device, 3 * 4096);
  LayerSlots slots(*device, arena, 3, 4096);
  for (uint32_t i = 0; i < 3; ++i) {
    EXPECT_EQ(slots.take_free(false), i);
    slots.publish(i, i);
  }
  for (const uint64_t sequence : {1, 0, 2}) slots.release(*slots.try_acquire(sequence));
  EXPECT_EQ(slots.take_free(false), 1u);
  EXPECT_EQ(slots.take_free(false), 0u);
  EXPECT_EQ(slots.take_free(true), 2u);
  EXPECT_FALSE(slots.take_free(false).has_value());
}

}  // namespace
}  // namespace spillway
