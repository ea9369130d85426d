// The engine's own cost per streamed unit: a disk and a device without latency, no bytes moved.
#include <benchmark/benchmark.h>

#include "core/units.h"
#include "kernels/host/host_device.h"
#include "tests/sim/allocation_count.h"
#include "tests/sim/instant_device.h"
#include "tests/sim/instant_disk.h"
#include "tiers/feeder.h"

namespace spillway {
namespace {

constexpr uint32_t kSlots = 4;
constexpr uint32_t kUnits = 64;

/// What streams: units of `unit_bytes` in chunks of 1 MiB, as the planner would cut them.
class FeederSetup {
 public:
  FeederSetup(bool unified, uint64_t unit_bytes)
      : device_(unified ? make_host_device() : std::make_unique<test::InstantDevice>()) {
    LayerSpec layer{"0", {{"w", 0, 0, 64 * kUnits, unit_bytes / 64, 64}}};
    const FileShape shape{kUnits * unit_bytes, 4096};
    units_ = cut_units({&layer, 1}, {&shape, 1},
                       {unit_bytes, kMiB, unified ? BlobLayout::kInPlace : BlobLayout::kPacked});
    uint64_t slot_bytes = 0;
    for (const Unit& unit : units_) slot_bytes = std::max(slot_bytes, unit.home_bytes);
    arena_ = std::make_unique<DeviceArena>(*device_, align_up(kSlots * slot_bytes, 256));
    slots_ = std::make_unique<LayerSlots>(*device_, *arena_, kSlots, slot_bytes);
    FeederParts parts;
    parts.units = units_;
    parts.files = files_;
    parts.reader = &disk_;
    parts.slots = slots_.get();
    parts.trace = &trace_;
    parts.clock = &clock_;
    if (!unified) {
      staging_ = std::make_unique<StagingRing>(*device_, 12, kMiB);
      copy_stream_ = device_->make_stream(StreamKind::kCopy);
      parts.staging = staging_.get();
      parts.copy_stream = copy_stream_.get();
    }
    std::vector<ScheduledUnit> schedule;
    for (uint32_t u = 0; u < units_.size(); ++u) schedule.push_back({u});
    feeder_ = std::make_unique<Feeder>(parts, std::move(schedule), true);
    feeder_->allow(UINT64_MAX);
  }
  /// Feeds, acquires and releases one unit.
  void next() {
    std::optional<uint32_t> slot;
    while (!(slot = slots_->try_acquire(sequence_))) feeder_->step();
    slots_->release(*slot);
    ++sequence_;
  }

 private:
  const ReadFile file_{-1, "f", uint64_t{1} << 50, 4096, true};
  const ReadFile* files_[1] = {&file_};
  SteadyClock clock_;
  Trace trace_{clock_, 0};
  test::InstantDisk disk_;
  std::unique_ptr<Device> device_;
  std::vector<Unit> units_;
  std::unique_ptr<DeviceArena> arena_;
  std::unique_ptr<LayerSlots> slots_;
  std::unique_ptr<StagingRing> staging_;
  std::unique_ptr<Stream> copy_stream_;
  std::unique_ptr<Feeder> feeder_;
  uint64_t sequence_ = 0;
};

/// Time = CPU per unit: one thread does all. `allocations` per unit must be 0.
void feeder_unit(benchmark::State& state, bool unified) {
  FeederSetup setup(unified, static_cast<uint64_t>(state.range(0)) * kMiB);
  for (uint32_t i = 0; i < kUnits; ++i) setup.next();
  const uint64_t before = test::allocation_count();
  for (auto _ : state) setup.next();
  state.counters["allocations"] = static_cast<double>(test::allocation_count() - before) /
                                  static_cast<double>(state.iterations());
  state.SetItemsProcessed(static_cast<int64_t>(state.iterations()));
}
BENCHMARK_CAPTURE(feeder_unit, unified, true)->Arg(1)->Arg(4)->Arg(16);
BENCHMARK_CAPTURE(feeder_unit, discrete, false)->Arg(4)->Arg(16)->Arg(64);

}  // namespace
}  // namespace spillway
