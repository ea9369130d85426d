// The engine's own cost per streamed unit: simulated disk with no latency, no bytes to check.
#include <benchmark/benchmark.h>

#include "core/units.h"
#include "kernels/host/host_device.h"
#include "tests/sim/instant_disk.h"
#include "tiers/feeder.h"

namespace spillway {
namespace {

void feeder_unit(benchmark::State& state) {
  const auto unit_bytes = static_cast<uint64_t>(state.range(0)) * kMiB;
  LayerSpec layer{"0", {{"w", 0, 0, 64, unit_bytes / 8, 8}}};
  const FileShape shape{kGiB, 4096};
  const ReadFile file{-1, "f", kGiB, 4096, true};
  const auto units = cut_units({&layer, 1}, {&shape, 1}, {unit_bytes, kMiB, BlobLayout::kInPlace});
  const auto device = make_host_device();
  DeviceArena arena(*device, 0);
  LayerSlots slots(*device, arena, 4, units[0].home_bytes);
  const SteadyClock clock;
  Trace trace(clock, 0);
  test::InstantDisk disk;
  const ReadFile* files[] = {&file};
  FeederParts parts;
  parts.units = units;
  parts.files = files;
  parts.reader = &disk;
  parts.slots = &slots;
  parts.trace = &trace;
  std::vector<ScheduledUnit> schedule;
  for (uint32_t u = 0; u < units.size(); ++u) schedule.push_back({u});
  Feeder feeder(parts, schedule, true);
  feeder.allow(UINT64_MAX);
  uint64_t sequence = 0;
  for (auto _ : state) {
    std::optional<uint32_t> slot;
    while (!(slot = slots.try_acquire(sequence))) feeder.step();
    slots.release(*slot);
    ++sequence;
  }
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()));
}
BENCHMARK(feeder_unit)->Arg(1)->Arg(16);

}  // namespace
}  // namespace spillway
