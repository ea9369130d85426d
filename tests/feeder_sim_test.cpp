// The pipeline stepped by hand: simulated disk, simulated device, no thread, no time. Each seed is
// another interleaving; the bytes of every lease are checked where a kernel would read them.
#include <algorithm>
#include <random>
#include <utility>

#include "core/error.h"
#include "core/units.h"
#include "kernels/host/host_device.h"
#include "tests/sim/allocation_count.h"
#include "tests/sim/instant_disk.h"
#include "tests/sim/sim_device.h"
#include "tests/sim/sim_disk.h"
#include "tests/support.h"
#include "tiers/feeder.h"
#include "tiers/layer_layout.h"

namespace spillway {
namespace {

using test::SimDevice;
using test::SimDisk;
using test::SimDiskFaults;

class FixedClock final : public Clock {
 public:
  int64_t now_ns() const override { return 0; }
};

struct SimOptions {
  bool unified = true;
  uint32_t slots = 2;
  uint32_t slabs = 1;
  uint32_t depth = 4;
  uint32_t device_speed = 3;    ///< operations per tick
  uint32_t consumer_speed = 2;  ///< ticks between acquisitions
  bool ram_homes = false;       ///< discrete: every third unit is copied from RAM
  bool threaded = false;        ///< an idle feeder sees only what it waits for, as its thread does
  SimDiskFaults faults;
};

/// Layers of odd sizes in two files, cut into units; the feeder over them; a consumer.
class Simulation {
 public:
  Simulation(uint64_t seed, const SimOptions& options)
      : options_(options),
        random_(seed),
        disk_(options.depth, seed + 1, options.faults),
        sim_device_(seed + 2),
        host_(make_host_device()),
        device_(options.unified ? *host_ : static_cast<Device&>(sim_device_)) {
    make_units();
    uint64_t largest = 0;
    for (const Unit& unit : units_) largest = std::max(largest, unit.home_bytes);
    arena_ = std::make_unique<DeviceArena>(device_, align_up(options.slots * largest, 256));
    slots_ = std::make_unique<LayerSlots>(device_, *arena_, options.slots, largest);
    compute_ = device_.make_stream(StreamKind::kCompute);
    FeederParts parts;
    parts.units = units_;
    parts.files = file_pointers_;
    parts.reader = &disk_;
    parts.slots = slots_.get();
    parts.clock = &disk_.clock();
    parts.trace = &trace_;
    if (!options.unified) {
      copy_ = device_.make_stream(StreamKind::kCopy);
      staging_ = std::make_unique<StagingRing>(device_, options.slabs, kChunkBytes);
      parts.staging = staging_.get();
      parts.copy_stream = copy_.get();
    }
    std::vector<ScheduledUnit> schedule;
    for (uint32_t u = 0; u < units_.size(); ++u) {
      ScheduledUnit scheduled{u};
      if (options.ram_homes && u % 3 == 0) {
        scheduled.ram_home = make_home(u);
        scheduled.home_pinned = random_() % 2 == 0;
        scheduled.home_border_bytes = random_() % 2 * (random_() % units_[u].home_bytes);
      }
      schedule.push_back(scheduled);
    }
    feeder_ = std::make_unique<Feeder>(parts, std::move(schedule), true);
  }

  /// Runs `passes` passes; every byte of every unit is checked. Throws the feeder's Error.
  void run(uint64_t passes) {
    const uint64_t total = passes * units_.size();
    feeder_->allow(total);
    uint64_t idle_ticks = 0;
    uint64_t last_progress = 0;
    while (consumed_ < total || checks_pending_ > 0) {
      step();
      expect_counts_add_up();
      if (random_() % options_.consumer_speed == 0) consume();
      if (!options_.unified)
        sim_device_.tick(static_cast<uint32_t>(random_() % (options_.device_speed + 1)));
      const uint64_t progress = feeder_->published() + consumed_ + checks_done_;
      idle_ticks = progress == last_progress ? idle_ticks + 1 : 0;
      last_progress = progress;
      ASSERT_LT(idle_ticks, 200000u) << "no progress at unit " << consumed_ << " of " << total;
    }
    EXPECT_EQ(feeder_->published(), total) << "read past the last pass";
    EXPECT_EQ(checks_done_, total);
  }

  /// Some ticks of a run, then a stop wherever it is.
  void run_and_stop(int ticks) {
    feeder_->allow(UINT64_MAX);
    for (int i = 0; i < ticks; ++i) {
      feeder_->step();
      if (random_() % 2 == 0) consume();
      if (!options_.unified) sim_device_.tick(2);
    }
    stop();
  }
  void stop() { EXPECT_TRUE(feeder_->drain()); }
  const SimDisk& disk() const { return disk_; }
  size_t unit_count() const { return units_.size(); }

 private:
  static constexpr uint64_t kChunkBytes = 16 * kKiB;

  void make_units() {
    files_ = {{-1, "a", 0, 4096, true}, {-1, "bb", 0, 4096, true}};
    const auto layers = 1 + random_() % 4;
    for (uint64_t l = 0; l < layers; ++l) {
      LayerSpec layer;
      layer.name = std::to_string(l);
      for (uint64_t t = 0; t < 1 + random_() % 5; ++t) {
        ReadFile& file = files_[random_() % 2];
        TensorSpec tensor;
        tensor.file = static_cast<uint32_t>(&file - files_.data());
        tensor.offset = file.bytes + random_() % 700;
        tensor.rows = 1 + random_() % 40;
        tensor.row_bytes = 2 * (1 + random_() % 2000);
        tensor.tile_rows = random_() % 2 == 0 ? 0 : 1 + random_() % 3;
        file.bytes = tensor.offset + tensor.bytes();
        layer.tensors.push_back(tensor);
      }
      layers_.push_back(layer);
    }
    std::vector<FileShape> shapes;
    for (const ReadFile& file : files_) {
      shapes.push_back({file.bytes, file.alignment});
      file_pointers_.push_back(&file);
    }
    const CutOptions options{20 * kKiB, kChunkBytes,
                             options_.unified ? BlobLayout::kInPlace : BlobLayout::kPacked};
    units_ = cut_units(layers_, shapes, options);
  }

  const std::byte* make_home(uint32_t u) {
    homes_.push_back(device_.allocate_pinned(units_[u].home_bytes));
    std::byte* home = homes_.back().data();
    for_each_byte(units_[u], [&](uint64_t at, std::byte value) { home[at] = value; });
    return home;
  }

  /// visit(offset in blob, true byte) for the payload of a unit.
  template <typename Visit>
  void for_each_byte(const Unit& unit, const Visit& visit) const {
    for (const Part& part : unit.parts) {
      const TensorSpec& tensor = layers_[unit.layer].tensors[part.tensor];
      const uint64_t begin = tensor.offset + part.first_row * tensor.row_bytes;
      for (uint64_t i = 0; i < part.rows * tensor.row_bytes; ++i) {
        visit(part.blob_offset + i, test::sim_byte(files_[tensor.file], begin + i));
      }
    }
  }

  /// One step, unless the feeder's thread would still be blocked. It may block until what it waits
  /// for has happened, or while the rest of the machine goes on.
  void step() {
    if (options_.threaded && waits_for_) {
      if (*waits_for_ == FeederWait::kModel && !woken_) return;
      const bool alone = random_() % 4 == 0;
      if (*waits_for_ == FeederWait::kRead) {
        if (!alone && !disk_.due()) return disk_.pass_time();
        feeder_->wait_for_read();
      }
      if (*waits_for_ == FeederWait::kCopy) {
        if (!alone && !staging_->copy_over()) return;
        feeder_->wait_for_copy();
      }
    }
    woken_ = false;
    waits_for_.reset();
    if (!feeder_->step()) waits_for_ = feeder_->waits_for();
  }

  void expect_counts_add_up() {
    const auto counts = slots_->counts();  // checks the sum itself
    ASSERT_LE(counts.leased, 1u);
    ASSERT_LE(disk_.in_flight(), options_.depth);
  }

  void consume() {
    const auto slot = slots_->try_acquire(consumed_);
    if (!slot) return;
    const Unit& unit = units_[consumed_ % units_.size()];
    const std::byte* blob = slots_->data(*slot);
    const uint64_t sequence = consumed_++;
    const auto check = [this, &unit, blob, sequence] {
      --checks_pending_;
      ++checks_done_;
      bool right = true;
      for_each_byte(unit, [&](uint64_t at, std::byte value) { right &= blob[at] == value; });
      EXPECT_TRUE(right) << "wrong bytes at unit " << sequence;
    };
    ++checks_pending_;
    if (options_.unified) {
      check();
    } else {
      compute_->wait(slots_->ready(*slot));
      SimDevice::launch(*compute_, check);
    }
    compute_->record(slots_->consumed(*slot));
    slots_->release(*slot);
    woken_ = true;
  }

  SimOptions options_;
  std::mt19937_64 random_;
  SimDisk disk_;
  SimDevice sim_device_;
  std::unique_ptr<Device> host_;
  Device& device_;
  FixedClock clock_;
  Trace trace_{clock_, 0};
  std::vector<ReadFile> files_;
  std::vector<const ReadFile*> file_pointers_;
  std::vector<LayerSpec> layers_;
  std::vector<Unit> units_;
  std::vector<Memory> homes_;
  std::unique_ptr<DeviceArena> arena_;
  std::unique_ptr<LayerSlots> slots_;
  std::unique_ptr<StagingRing> staging_;
  std::unique_ptr<Stream> copy_;
  std::unique_ptr<Stream> compute_;
  std::unique_ptr<Feeder> feeder_;
  std::optional<FeederWait> waits_for_;
  bool woken_ = false;
  uint64_t consumed_ = 0;
  uint64_t checks_pending_ = 0;
  uint64_t checks_done_ = 0;
};

struct SimCase {
  const char* name;
  SimOptions options;
};

SimOptions with(bool unified, const std::function<void(SimOptions&)>& change) {
  SimOptions options;
  options.unified = unified;
  change(options);
  return options;
}

std::vector<SimCase> healing_cases() {
  std::vector<SimCase> cases;
  for (const bool unified : {true, false}) {
    const auto add = [&](const char* name, const std::function<void(SimOptions&)>& change) {
      cases.push_back({name, with(unified, change)});
    };
    add("calm", [](SimOptions&) {});
    add("one_read_at_a_time", [](SimOptions& o) { o.depth = 1; });
    add("many_slots", [](SimOptions& o) { o.slots = 9, o.slabs = 7, o.depth = 16; });
    add("short_reads", [](SimOptions& o) { o.faults.short_read = 0.4; });
    add("eagain", [](SimOptions& o) { o.faults.transient = 0.3; });
    add("eio_once", [](SimOptions& o) { o.faults.io_error = 0.002; });
    add("queue_full", [](SimOptions& o) { o.faults.queue_full = 0.5; });
    add("slow_disk_fast_device", [](SimOptions& o) {
      o.faults.min_latency = 20, o.faults.max_latency = 60, o.device_speed = 30;
    });
    add("fast_disk_slow_device",
        [](SimOptions& o) { o.faults.max_latency = 0, o.device_speed = 1, o.consumer_speed = 9; });
    add("everything_at_once", [](SimOptions& o) {
      o.faults.short_read = 0.2, o.faults.transient = 0.2, o.faults.queue_full = 0.2;
      o.faults.max_latency = 30, o.slots = 3, o.slabs = 3;
    });
    add("in_a_thread", [](SimOptions& o) { o.threaded = true, o.slabs = 2; });
    add("in_a_thread_with_faults", [](SimOptions& o) {
      o.threaded = true, o.slots = 3, o.slabs = 3, o.device_speed = 1;
      o.faults.short_read = 0.2, o.faults.transient = 0.2, o.faults.queue_full = 0.2;
      o.faults.max_latency = 30;
    });
    if (!unified) {
      add("ram_homes", [](SimOptions& o) { o.ram_homes = true, o.slabs = 2; });
      add("ram_homes_in_a_thread",
          [](SimOptions& o) { o.ram_homes = true, o.slabs = 2, o.threaded = true; });
    }
  }
  return cases;
}

class FeederSim : public ::testing::TestWithParam<SimCase> {};

TEST_P(FeederSim, DeliversTheRightBytesInOrder) {
  for (uint64_t round = 0; round < 25; ++round) {
    const uint64_t seed = test::run_seed() + round * 1000;
    SCOPED_TRACE(test::seed_note(seed));
    Simulation simulation(seed, GetParam().options);
    simulation.run(3);
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, FeederSim, ::testing::ValuesIn(healing_cases()), [](const auto& test) {
      return std::string(test.param.options.unified ? "unified_" : "discrete_") + test.param.name;
    });

/// Faults that no retry heals end in exactly one Error, then a clean shutdown.
TEST(FeederSimFaults, FatalFaultsAreOneError) {
  for (const bool unified : {true, false}) {
    for (int fault = 0; fault < 3; ++fault) {
      for (uint64_t round = 0; round < 20; ++round) {
        const uint64_t seed = test::run_seed() + round;
        SCOPED_TRACE(test::seed_note(seed));
        SimOptions options;
        options.unified = unified;
        options.slabs = 3;
        if (fault == 0) options.faults.io_error_forever = true;
        if (fault == 1) options.faults.fail_after_reads = 1;
        if (fault == 2) options.faults.truncate_after_reads = 0;
        Simulation simulation(seed, options);
        std::string message;
        try {
          simulation.run(3);
          if (fault == 2) continue;  // every wanted byte may lie in the first half
        } catch (const Error& error) {
          message = error.what();
        }
        EXPECT_NE(message.find("reading"), std::string::npos);
        EXPECT_NE(message.find("offset"), std::string::npos) << message;
        simulation.stop();
        EXPECT_EQ(simulation.disk().in_flight(), 0u);
      }
    }
  }
}

TEST(FeederSimFaults, StopInMidLayerLeavesNothingInFlight) {
  for (uint64_t round = 0; round < 20; ++round) {
    const uint64_t seed = test::run_seed() + round;
    SCOPED_TRACE(test::seed_note(seed));
    SimOptions options;
    options.unified = round % 2 == 0;
    options.faults.max_latency = 40;
    Simulation simulation(seed, options);
    simulation.run_and_stop(static_cast<int>(seed % 97));
    EXPECT_EQ(simulation.disk().in_flight(), 0u);
  }
}

/// Reads complete when a test says so.
class HeldDisk final : public BlockReader {
 public:
  std::string name() const override { return "held"; }
  uint32_t depth() const override { return 4; }
  bool submit(ReadOp& op) override {
    pending_.push_back(&op);
    ++submitted;
    return true;
  }
  size_t poll(std::span<ReadCompletion> out) override {
    size_t count = 0;
    for (; count < out.size() && release > 0 && !pending_.empty(); --release) {
      out[count++] = {pending_.front(), static_cast<int32_t>(pending_.front()->next_bytes())};
      pending_.erase(pending_.begin());
    }
    return count;
  }
  void wait(int64_t) override { release = static_cast<uint32_t>(pending_.size()); }
  void wake() noexcept override {}
  void cancel(ReadOp&) noexcept override {}

  uint32_t submitted = 0;
  uint32_t release = 0;  ///< so many, the oldest first

 private:
  std::vector<ReadOp*> pending_;
};

/// On unified memory.
FeederParts parts_of(std::span<const Unit> units, std::span<const ReadFile* const> files,
                     BlockReader& reader, LayerSlots& slots, const Clock& clock, Trace& trace) {
  FeederParts parts;
  parts.units = units;
  parts.files = files;
  parts.reader = &reader;
  parts.slots = &slots;
  parts.clock = &clock;
  parts.trace = &trace;
  return parts;
}

/// With every slab in use a read under way gives none back, whatever it does; the copy does.
TEST(Feeder, WaitsForTheCopyWhoseSlabTheNextReadNeeds) {
  const LayerSpec layer{"0", {{"w", 0, 0, 4, 16 * kKiB, 0}}};
  const FileShape shape{64 * kKiB, 4096};
  const ReadFile file{-1, "f", 64 * kKiB, 4096, true};
  const ReadFile* files[] = {&file};
  const auto units =
      cut_units({&layer, 1}, {&shape, 1}, {64 * kKiB, 16 * kKiB, BlobLayout::kPacked});
  ASSERT_EQ(units.size(), 1u);
  ASSERT_EQ(units[0].plan.chunks.size(), 4u);
  SimDevice device(1);
  DeviceArena arena(device, align_up(2 * units[0].home_bytes, 256));
  LayerSlots slots(device, arena, 2, units[0].home_bytes);
  StagingRing staging(device, 2, 16 * kKiB);
  const auto copy = device.make_stream(StreamKind::kCopy);
  HeldDisk disk;
  const FixedClock clock;
  Trace trace(clock, 0);
  FeederParts parts = parts_of(units, files, disk, slots, clock, trace);
  parts.staging = &staging;
  parts.copy_stream = copy.get();
  Feeder feeder(parts, {{0}}, true);
  feeder.allow(1);
  const auto idle = [&] {
    while (feeder.step()) {
    }
    return feeder.waits_for();
  };
  EXPECT_EQ(idle(), FeederWait::kRead) << "nothing but reads is under way";
  EXPECT_EQ(disk.submitted, 2u);
  disk.release = 1;
  ASSERT_EQ(idle(), FeederWait::kCopy) << "the second read may take for ever";
  feeder.wait_for_copy();
  EXPECT_EQ(idle(), FeederWait::kRead);
  EXPECT_EQ(disk.submitted, 3u);
  feeder.wait_for_read();  // the rest
  ASSERT_EQ(idle(), FeederWait::kCopy);
  feeder.wait_for_copy();
  EXPECT_EQ(idle(), FeederWait::kRead);
  EXPECT_EQ(disk.submitted, 4u);
  feeder.wait_for_read();
  idle();
  EXPECT_TRUE(feeder.done());
}

TEST(StagingRing, WaitsForTheOldestCopy) {
  SimDevice device(1);
  StagingRing ring(device, 3, 4096);
  const auto stream = device.make_stream(StreamKind::kCopy);
  for (uint32_t slab = 0; slab < 3; ++slab) EXPECT_EQ(ring.take_free(), slab);
  EXPECT_FALSE(ring.copy_over());
  for (const uint32_t slab : {2, 0, 1}) ring.copying(slab, *stream);
  for (const uint32_t slab : {2, 0, 1}) {
    EXPECT_FALSE(ring.copy_over());
    ring.wait_for_copy();
    EXPECT_TRUE(ring.copy_over());
    EXPECT_TRUE(ring.recycle());
    EXPECT_EQ(ring.take_free(), slab) << "and no other";
  }
  EXPECT_EQ(ring.copying_count(), 0u);
}

TEST(Feeder, StepsAllocateNothing) {
  const LayerSpec layer{"0", {{"w", 0, 100, 64, 5000, 8}}};
  const FileShape shape{kMiB, 4096};
  const ReadFile file{-1, "f", kMiB, 4096, true};
  const ReadFile* files[] = {&file};
  const auto units = cut_units({&layer, 1}, {&shape, 1}, {64 * kKiB, 16 * kKiB});
  const auto device = make_host_device();
  DeviceArena arena(*device, 0);
  LayerSlots slots(*device, arena, 3, units[0].home_bytes);
  test::InstantDisk disk;
  const FixedClock clock;
  Trace trace(clock, 100);
  const FeederParts parts = parts_of(units, files, disk, slots, clock, trace);
  std::vector<ScheduledUnit> schedule;
  for (uint32_t u = 0; u < units.size(); ++u) schedule.push_back({u});
  Feeder feeder(parts, std::move(schedule), true);
  feeder.allow(UINT64_MAX);
  const uint64_t before = test::allocation_count();
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  ASSERT_GT(before, 0u) << "allocations are not counted";
#endif
  for (uint64_t sequence = 0; sequence < 1000; ++sequence) {
    std::optional<uint32_t> slot;
    while (!(slot = slots.try_acquire(sequence))) feeder.step();
    slots.release(*slot);
  }
  EXPECT_EQ(test::allocation_count() - before, 0u);
}

}  // namespace
}  // namespace spillway
