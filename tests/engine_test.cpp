// The whole engine on real files: host and host-discrete, every reader, random placements.
#include "tiers/engine.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <fstream>
#include <mutex>
#include <random>
#include <thread>

#include "core/error.h"
#include "core/units.h"
#include "io/direct_file.h"
#include "kernels/registry.h"
#include "tests/sim/denied_calls.h"
#include "tests/sim/sim_disk.h"
#include "tests/support.h"

namespace spillway {
namespace {

struct EngineCase {
  const char* name;
  const char* device;
  EngineChoice engine;
  DirectChoice direct;
};

/// One file with a table of embeddings, four layers and a head; contents are sim_byte().
class EngineTest : public ::testing::TestWithParam<EngineCase> {
 protected:
  void SetUp() override {
    shape_.path = "model";
    table_ = add_tensor(50, 700, 0);
    for (int i = 0; i < 4; ++i) {
      LayerSpec layer{std::to_string(i), {}};
      layer.tensors.push_back(add_tensor(1, 300, 0));
      layer.tensors.push_back(add_tensor(400, 1500, 16));
      layer.tensors.push_back(add_tensor(100, 501, 0));
      layers_.push_back(layer);
    }
    layers_.push_back({"head", {add_tensor(333, 700, 128)}});
    std::string content(shape_.bytes, '\0');
    for (uint64_t i = 0; i < shape_.bytes; ++i) {
      content[i] = static_cast<char>(test::sim_byte(shape_, i));
    }
    test::write_file(dir_ / "model", content);
    file_ = std::make_unique<DirectFile>(dir_ / "model", GetParam().direct);
    DeviceOptions options;
    options.gpu_bytes = 4 * kMiB;
    if (std::string(GetParam().device) == "cuda") SPILLWAY_NEEDS_CUDA();
    device_ = open_device(GetParam().device, options);
    compute_ = device_->make_stream(StreamKind::kCompute);
    landing_ = device_->allocate_pinned(kMiB);
  }

  TensorSpec add_tensor(uint64_t rows, uint64_t row_bytes, uint64_t tile_rows) {
    TensorSpec tensor{"t", 0, shape_.bytes + 13, rows, row_bytes, tile_rows};
    shape_.bytes = tensor.offset + tensor.bytes();
    return tensor;
  }

  /// A plan with random tiers per unit, whatever a planner would say.
  void make_plan(std::mt19937_64& random) {
    plan_ = {};
    plan_.layers = layers_;
    plan_.embed = {"embed", {table_}};
    plan_.chunk_bytes = 64 * kKiB * (1 + random() % 3);
    plan_.io_depth = static_cast<uint32_t>(1 + random() % 9);
    plan_.register_buffers = random() % 2 == 0;
    const FileShape shape{shape_.bytes, file_->info().alignment};
    CutOptions options{100 * kKiB, plan_.chunk_bytes,
                       device_->unified() ? BlobLayout::kInPlace : BlobLayout::kPacked};
    plan_.units = cut_units(plan_.layers, {&shape, 1}, options);
    options.layout = BlobLayout::kInPlace;
    plan_.embed_units = cut_units({&plan_.embed, 1}, {&shape, 1}, options);
    Placement& placement = plan_.placement;
    for (const Unit& unit : plan_.units) {
      const auto pick = random() % (device_->unified() ? 2 : 3);
      placement.unit_tiers.push_back(pick == 0 ? Tier::kNvme : pick == 1 ? Tier::kRam : Tier::kGpu);
      placement.slot_bytes = std::max(placement.slot_bytes, unit.home_bytes);
    }
    placement.embed_tier = random() % 2 == 0 ? Tier::kRam : Tier::kNvme;
    placement.slots = static_cast<uint32_t>(2 + random() % 3);
    placement.slabs = static_cast<uint32_t>(1 + random() % 4);
  }

  /// Parts for one engine, with an arena of exactly what it takes.
  EngineParts parts(const ReaderFactory& readers) {
    uint64_t homes = 0;
    for (size_t u = 0; u < plan_.units.size(); ++u) {
      if (plan_.placement.unit_tiers[u] == Tier::kGpu) homes += plan_.units[u].home_bytes;
    }
    const uint64_t slots = plan_.placement.slots * plan_.placement.slot_bytes;
    arena_ = std::make_unique<DeviceArena>(*device_, align_up(homes, DeviceArena::kAlignment) +
                                                         align_up(slots, DeviceArena::kAlignment));
    return {device_.get(), arena_.get(), readers, {&file_->info()}, &trace_, &clock_, &stop_};
  }

  /// Copied out by the compute stream, as a kernel would read it.
  void expect_unit(const LayerLease& lease) {
    for (size_t i = 0; i < lease.unit().parts.size(); ++i) {
      const Part& part = lease.unit().parts[i];
      const TensorSpec& tensor = layers_[lease.unit().layer].tensors[part.tensor];
      const uint64_t begin = tensor.offset + part.first_row * tensor.row_bytes;
      const uint64_t bytes = part.rows * tensor.row_bytes;
      ASSERT_LE(bytes, landing_.bytes());
      compute_->copy(landing_.data(), lease.part(i), bytes);
      compute_->sync();
      for (uint64_t j = 0; j < bytes; ++j) {
        ASSERT_EQ(landing_.data()[j], test::sim_byte(shape_, begin + j));
      }
    }
  }

  test::TempDir dir_;
  ReadFile shape_;
  TensorSpec table_;
  std::vector<LayerSpec> layers_;
  std::unique_ptr<DirectFile> file_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Stream> compute_;
  std::unique_ptr<DeviceArena> arena_;
  Memory landing_;
  StreamPlan plan_;
  SteadyClock clock_;
  Trace trace_{clock_, 1000};
  StopFlag stop_;
  test::Notices notices_;
};

/// One engine, many runs: each ends after some units, in mid-pass or at an end, and the next begins
/// anew with the homes as they were loaded.
TEST_P(EngineTest, RunsAgainAfterAnyEnd) {
  std::mt19937_64 random(test::run_seed());
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  make_plan(random);
  Engine engine(plan_, parts(choose_reader(GetParam().engine, notices_.sink()).make));
  engine.load([](const char*, uint64_t, uint64_t) {});
  const auto units = static_cast<uint32_t>(plan_.units.size());
  for (int run = 0; run < 8; ++run) {
    engine.start();
    engine.allow_passes(2);
    uint64_t nvme_bytes = 0;
    const uint64_t wanted = run == 0 ? 2 * units : random() % (2 * units + 1);
    for (uint64_t i = 0; i < wanted; ++i) {
      const auto u = static_cast<uint32_t>(i % units);
      if (plan_.placement.unit_tiers[u] == Tier::kNvme) {
        nvme_bytes += plan_.units[u].plan.read_bytes;
      }
      const LayerLease lease = engine.acquire(u, *compute_);
      expect_unit(lease);
      if (HasFatalFailure()) return;
    }
    if (run % 2 == 0) {
      EXPECT_EQ(engine.take_stats().nvme_bytes, nvme_bytes);
    }
    engine.stop();
    if (run % 3 == 0) engine.stop();  // idempotent
  }
}

TEST_P(EngineTest, RunsAgainAfterAnError) {
  std::mt19937_64 random(test::run_seed());
  make_plan(random);
  plan_.placement.unit_tiers.assign(plan_.units.size(), Tier::kNvme);
  Engine engine(plan_, parts(choose_reader(GetParam().engine, notices_.sink()).make));
  engine.load([](const char*, uint64_t, uint64_t) {});
  const auto units = static_cast<uint32_t>(plan_.units.size());
  const std::string content = test::read_file(dir_ / "model");
  ASSERT_EQ(truncate((dir_ / "model").c_str(), 100000), 0);
  {
    const EngineRun run(engine, 5);
    EXPECT_NE(test::error_of([&] {
                for (uint32_t u = 0; u < 5 * units; ++u) engine.acquire(u % units, *compute_);
              }),
              "");
  }
  std::fstream(dir_ / "model", std::ios::in | std::ios::out | std::ios::binary) << content;
  const EngineRun run(engine, 2);
  for (uint32_t u = 0; u < 2 * units; ++u) {
    expect_unit(engine.acquire(u % units, *compute_));
    if (HasFatalFailure()) return;
  }
}

TEST_P(EngineTest, FeedsTheRightBytesFromEveryTier) {
  std::mt19937_64 random(test::run_seed());
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  for (int round = 0; round < 6; ++round) {
    make_plan(random);
    Engine engine(plan_, parts(choose_reader(GetParam().engine, notices_.sink()).make));
    uint64_t loaded = 0;
    engine.load([&](const char*, uint64_t done, uint64_t total) {
      loaded = done;
      EXPECT_LE(done, total);
    });
    EXPECT_EQ(arena_->left_bytes(), 0u);
    EXPECT_TRUE(engine.store().pin_refusal().empty());
    engine.start();
    engine.allow_passes(3);
    uint64_t nvme_bytes = 0;
    for (size_t u = 0; u < plan_.units.size(); ++u) {
      if (plan_.placement.unit_tiers[u] == Tier::kNvme)
        nvme_bytes += plan_.units[u].plan.read_bytes;
    }
    for (int pass = 0; pass < 3; ++pass) {
      for (uint32_t u = 0; u < plan_.units.size(); ++u) {
        const LayerLease lease = engine.acquire(u, *compute_);
        expect_unit(lease);
        if (HasFatalFailure()) return;
      }
      EXPECT_EQ(engine.take_stats().nvme_bytes, nvme_bytes) << "reads only what is not resident";
    }
    const std::vector<uint32_t> ids = {0, 49, 7, 7, 20};
    std::vector<std::byte> rows(ids.size() * 700);
    engine.gather_rows(ids, rows.data());
    for (size_t i = 0; i < rows.size(); ++i) {
      ASSERT_EQ(rows[i], test::sim_byte(shape_, table_.offset + ids[i / 700] * 700 + i % 700));
    }
    const FeedStats gathered = engine.take_stats();
    EXPECT_EQ(gathered.nvme_bytes == 0, plan_.placement.embed_tier == Tier::kRam);
    EXPECT_EQ(gathered.stall_ns == 0, gathered.nvme_bytes == 0) << "waiting for rows is a stall";
  }
}

/// Units that are there are leased together: in a home at once, in a slot once they are read.
TEST_P(EngineTest, UnitsAtHandAreLeasedTogether) {
  std::mt19937_64 random(test::run_seed());
  make_plan(random);
  plan_.placement.slots = 3;
  plan_.placement.unit_tiers.assign(plan_.units.size(), Tier::kNvme);
  plan_.placement.unit_tiers[1] = device_->unified() ? Tier::kRam : Tier::kGpu;
  Engine engine(plan_, parts(choose_reader(GetParam().engine, notices_.sink()).make));
  engine.load([](const char*, uint64_t, uint64_t) {});
  const EngineRun run(engine, 1);
  const auto soon_at_hand = [&](uint32_t unit) {
    for (int i = 0; i < 1'000'000 && !engine.at_hand(unit); ++i) std::this_thread::yield();
    return engine.at_hand(unit);
  };
  LayerLease first = engine.acquire(0, *compute_);
  ASSERT_TRUE(engine.at_hand(1)) << "in a home";
  const LayerLease second = engine.acquire(1, *compute_);
  if (!device_->unified()) {
    EXPECT_FALSE(engine.at_hand(2)) << "a stream uses one after the other";
    return;
  }
  engine.take_stats();
  ASSERT_TRUE(soon_at_hand(2));
  const LayerLease third = engine.acquire(2, *compute_);
  ASSERT_TRUE(soon_at_hand(3));
  const LayerLease fourth = engine.acquire(3, *compute_);
  EXPECT_EQ(engine.take_stats().stall_ns, 0);
  for (int i = 0; i < 1000; ++i) std::this_thread::yield();
  EXPECT_FALSE(engine.at_hand(4)) << "all three slots are leased";
  expect_unit(first);
  expect_unit(second);
  expect_unit(third);
  expect_unit(fourth);
  first = LayerLease();
  ASSERT_TRUE(soon_at_hand(4));
  expect_unit(engine.acquire(4, *compute_));
}

TEST_P(EngineTest, TruncationWhileRunningIsOneErrorOnTheModelThread) {
  std::mt19937_64 random(test::run_seed());
  make_plan(random);
  plan_.placement.unit_tiers.assign(plan_.units.size(), Tier::kNvme);
  Engine engine(plan_, parts(choose_reader(GetParam().engine, notices_.sink()).make));
  engine.load([](const char*, uint64_t, uint64_t) {});
  ASSERT_EQ(truncate((dir_ / "model").c_str(), 100000), 0);
  engine.start();
  engine.allow_passes(5);
  const std::string message = test::error_of([&] {
    for (uint32_t u = 0; u < 5 * plan_.units.size(); ++u) {
      engine.acquire(u % static_cast<uint32_t>(plan_.units.size()), *compute_);
    }
  });
  EXPECT_NE(message.find("shorter than when it was opened"), std::string::npos) << message;
}

TEST_P(EngineTest, StopEndsAWaitAndShutsDown) {
  std::mt19937_64 random(test::run_seed());
  make_plan(random);
  plan_.placement.unit_tiers.assign(plan_.units.size(), Tier::kNvme);
  Engine engine(plan_, parts(choose_reader(GetParam().engine, notices_.sink()).make));
  engine.load([](const char*, uint64_t, uint64_t) {});
  engine.start();
  const std::jthread other([this] { stop_.request(); });
  // No pass is allowed, so the wait can only end by the stop.
  EXPECT_THROW(engine.acquire(0, *compute_), Stopped);
}

/// A drive that takes reads and answers none, not even when they are given up.
class DeadDrive final : public BlockReader {
 public:
  /// Where a read in flight may still write; outlives the drive.
  struct Targets {
    std::mutex mutex;
    std::vector<std::span<std::byte>> all;
  };

  DeadDrive(uint32_t depth, Targets& targets) : depth_(depth), targets_(targets) {}
  std::string name() const override { return "dead"; }
  uint32_t depth() const override { return depth_; }
  bool submit(ReadOp& op) override {
    if (in_flight_ == depth_) return false;
    ++in_flight_;
    const std::lock_guard lock(targets_.mutex);
    targets_.all.emplace_back(op.next_target(), op.next_bytes());
    return true;
  }
  size_t poll(std::span<ReadCompletion>) override { return 0; }
  /// A wait with a limit is over at once: the clock of these tests goes on by being read.
  void wait(int64_t limit_ns) override {
    std::unique_lock lock(mutex_);
    if (limit_ns == kNoLimit) woken_changed_.wait(lock, [this] { return woken_; });
    woken_ = false;
  }
  void wake() noexcept override {
    const std::lock_guard lock(mutex_);
    woken_ = true;
    woken_changed_.notify_all();
  }
  void cancel(ReadOp&) noexcept override {}

 private:
  uint32_t depth_;
  Targets& targets_;
  uint32_t in_flight_ = 0;
  std::mutex mutex_;
  std::condition_variable woken_changed_;
  bool woken_ = false;
};

class TickingClock final : public Clock {
 public:
  int64_t now_ns() const override { return now_ns_.fetch_add(100'000'000); }

 private:
  mutable std::atomic<int64_t> now_ns_{0};
};

/// The stop ends the wait for the drive after a bounded time; what the drive writes afterwards hits
/// memory that nobody uses, and that is still there.
TEST_P(EngineTest, ADriveThatNeverAnswersHoldsNoStop) {
  std::mt19937_64 random(test::run_seed());
  const std::vector<uint32_t> ids = {1, 2, 3};
  std::vector<std::byte> rows(ids.size() * 700);
  for (const char* doing : {"loading", "streaming", "gathering"}) {
    SCOPED_TRACE(doing);
    make_plan(random);
    const bool loading = std::string(doing) == "loading";
    plan_.placement.unit_tiers.assign(plan_.units.size(), loading ? Tier::kRam : Tier::kNvme);
    plan_.placement.embed_tier = Tier::kNvme;
    StopFlag stop;
    const TickingClock clock;
    DeadDrive::Targets targets;
    EngineParts dead = parts([&](uint32_t depth) -> std::unique_ptr<BlockReader> {
      return std::make_unique<DeadDrive>(depth, targets);
    });
    dead.stop = &stop;
    dead.clock = &clock;
    {
      Engine engine(plan_, dead);
      const std::jthread other([&] { stop.request(); });
      if (loading) {
        EXPECT_THROW(engine.load([](const char*, uint64_t, uint64_t) {}), Stopped);
      } else if (std::string(doing) == "gathering") {
        EXPECT_THROW(engine.gather_rows(ids, rows.data()), Stopped);
      } else {
        engine.start();
        engine.allow_passes(1);
        EXPECT_THROW(engine.acquire(0, *compute_), Stopped);
        engine.stop();
        // The thread may have been stopped before its first read.
        if (!targets.all.empty()) {
          EXPECT_NE(test::error_of([&] { engine.start(); }), "");
        }
      }
    }
    for (const std::span<std::byte> target : targets.all) {
      std::memset(target.data(), 1, target.size());
    }
  }
}

/// While computing is the bottleneck nothing waits: the next unit is there, and must not be given.
TEST_P(EngineTest, StopIsSeenWhereNothingStalls) {
  std::mt19937_64 random(test::run_seed());
  for (const bool streamed : {true, false}) {
    make_plan(random);
    plan_.placement.slots = 3;
    plan_.placement.unit_tiers.assign(plan_.units.size(), streamed ? Tier::kNvme : Tier::kRam);
    StopFlag stop;
    EngineParts with_stop = parts(choose_reader(GetParam().engine, notices_.sink()).make);
    with_stop.stop = &stop;
    Engine engine(plan_, with_stop);
    engine.load([](const char*, uint64_t, uint64_t) {});
    const EngineRun run(engine, 1);
    engine.acquire(0, *compute_);
    stop.request();
    for (int i = 0; i < 3; ++i) EXPECT_THROW(engine.acquire(1, *compute_), Stopped);
  }
}

/// The feeder's thread cannot be had: no run has begun, and none is half there.
TEST_P(EngineTest, AStartThatFailsLeavesNothing) {
  if (device_->name().front() == 'c') GTEST_SKIP() << "a CUDA device does not outlive a fork";
  std::mt19937_64 random(test::run_seed());
  make_plan(random);
  plan_.placement.unit_tiers.assign(plan_.units.size(), Tier::kNvme);
  DeadDrive::Targets targets;
  const EngineParts one = parts([&](uint32_t depth) -> std::unique_ptr<BlockReader> {
    return std::make_unique<DeadDrive>(depth, targets);
  });
  EXPECT_EQ(test::in_child([&] {
              Engine engine(plan_, one);
              test::deny_calls({__NR_clone, __NR_clone3}, EAGAIN);
              for (int i = 0; i < 2; ++i) {
                const std::string message = test::error_of([&] { engine.start(); });
                if (message.find("that feeds units") == std::string::npos) return 1;
                engine.allow_passes(1);
              }
              return 0;
            }),
            0);
}

TEST_P(EngineTest, StopEndsLoading) {
  std::mt19937_64 random(test::run_seed());
  make_plan(random);
  plan_.placement.unit_tiers.assign(plan_.units.size(), Tier::kRam);
  Engine engine(plan_, parts(choose_reader(GetParam().engine, notices_.sink()).make));
  EXPECT_THROW(engine.load([this](const char*, uint64_t, uint64_t) { stop_.request(); }), Stopped);
}

/// Registration goes layer by layer, also where a layer's units lie on several tiers; no unit has
/// more than one border in it, and the homes are covered to the last byte.
TEST(LayerStorePins, GoLayerByLayer) {
  std::mt19937_64 random(test::run_seed());
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  const auto device = open_device("host-discrete", {});
  std::vector<Unit> units;
  Placement placement;
  uint64_t gpu_bytes = 0;
  constexpr uint32_t kLayers = 5;
  for (uint32_t layer = 0; layer < kLayers; ++layer) {
    for (uint32_t i = 0; i < 6; ++i) {
      Unit unit;
      unit.layer = layer;
      unit.home_bytes = align_up(2 * kMiB + random() % kMiB, 256);
      // Two units of each layer are in RAM, apart, and its first is not.
      const Tier tier = i % 3 == 0 ? Tier::kNvme : i % 3 == 1 ? Tier::kRam : Tier::kGpu;
      if (tier == Tier::kGpu) gpu_bytes += unit.home_bytes;
      units.push_back(unit);
      placement.unit_tiers.push_back(tier);
    }
  }
  DeviceArena arena(*device, align_up(gpu_bytes, DeviceArena::kAlignment));
  LayerStore store(*device, arena, units, placement, {});
  std::vector<uint64_t> ends;
  store.pin(*device, [&](uint64_t pinned_bytes) {
    ends.push_back(pinned_bytes);
    return true;
  });
  EXPECT_EQ(ends.size(), kLayers);
  EXPECT_EQ(store.pinned_bytes(), align_up(store.ram_bytes(), kHugePageBytes));
  uint64_t offset = 0;
  for (uint32_t u = 0; u < units.size(); ++u) {
    if (placement.unit_tiers[u] != Tier::kRam) continue;
    EXPECT_TRUE(store.pinned(u));
    uint64_t inside = 0;
    for (const uint64_t end : ends) {
      if (end <= offset || end >= offset + units[u].home_bytes) continue;
      EXPECT_EQ(inside, 0u) << "two borders in one unit";
      inside = end - offset;
    }
    EXPECT_EQ(store.pin_border(u), inside);
    offset += units[u].home_bytes;
  }
}

std::vector<EngineCase> cases() {
  std::vector<EngineCase> all = {
      {"host_uring", "host", EngineChoice::kAuto, DirectChoice::kAuto},
      {"host_pread", "host", EngineChoice::kPread, DirectChoice::kOff},
      {"discrete_uring", "host-discrete", EngineChoice::kAuto, DirectChoice::kAuto},
      {"discrete_pread", "host-discrete", EngineChoice::kPread, DirectChoice::kAuto}};
  if (test::kCudaBuilt) {
    all.push_back({"cuda_uring", "cuda", EngineChoice::kAuto, DirectChoice::kAuto});
    all.push_back({"cuda_pread", "cuda", EngineChoice::kPread, DirectChoice::kAuto});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(All, EngineTest, ::testing::ValuesIn(cases()),
                         [](const auto& test) { return std::string(test.param.name); });

}  // namespace
}  // namespace spillway
