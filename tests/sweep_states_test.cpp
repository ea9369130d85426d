// Hidden states of sweeps on a drive: what comes back, what it takes, how it ends.
#include "model/sweep_states.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>

#include "core/error.h"
#include "core/units.h"
#include "kernels/registry.h"
#include "tests/run_helper.h"
#include "tests/sim/allocation_count.h"
#include "tests/sim/instant_disk.h"
#include "tests/sim/sim_disk.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using test::SimDisk;
using test::SimDiskFaults;

constexpr uint32_t kHidden = 96;
constexpr uint64_t kRowBytes = kHidden * sizeof(float);

/// A simulated disk that its reader does not own, and that tells when somebody waits for it.
class LentDisk final : public BlockReader {
 public:
  LentDisk(SimDisk& disk, const std::function<void()>& waits) : disk_(disk), waits_(waits) {}
  std::string name() const override { return disk_.name(); }
  uint32_t depth() const override { return disk_.depth(); }
  bool submit(ReadOp& op) override { return disk_.submit(op); }
  size_t poll(std::span<ReadCompletion> out) override { return disk_.poll(out); }
  void wait(int64_t limit_ns) override {
    if (waits_) waits_();
    disk_.wait(limit_ns);
  }
  void wake() noexcept override { disk_.wake(); }
  void cancel(ReadOp& op) noexcept override { disk_.cancel(op); }

 private:
  SimDisk& disk_;
  const std::function<void()>& waits_;
};

/// The time of the last disk that was made.
class DiskClock final : public Clock {
 public:
  int64_t now_ns() const override { return disk == nullptr ? 0 : disk->clock().now_ns(); }
  const SimDisk* disk = nullptr;
};

/// Counts what is taken of a device.
class CountingDevice final : public Device {
 public:
  explicit CountingDevice(Device& of) : of_(of) {}
  std::string name() const override { return of_.name(); }
  bool unified() const override { return of_.unified(); }
  DeviceMemoryInfo memory_info() const override { return of_.memory_info(); }
  Memory allocate(uint64_t bytes) override {
    device_bytes += bytes;
    return of_.allocate(bytes);
  }
  Memory allocate_pinned(uint64_t bytes) override {
    pinned_bytes += bytes;
    return of_.allocate_pinned(bytes);
  }
  Memory pin(std::byte* data, uint64_t bytes, std::string* refusal) override {
    return of_.pin(data, bytes, refusal);
  }
  uint64_t stream_unit_bytes() const override { return of_.stream_unit_bytes(); }
  std::unique_ptr<Stream> make_stream(StreamKind kind) override { return of_.make_stream(kind); }
  std::unique_ptr<Event> make_event() override { return of_.make_event(); }
  uint64_t device_bytes = 0;
  uint64_t pinned_bytes = 0;

 private:
  Device& of_;
};

/// States of a sweep whose layers replace each batch's by others, on a device and a simulated disk.
class States : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (std::string(GetParam()) == "cuda") SPILLWAY_NEEDS_CUDA();
    device_ = open_device(GetParam(), {});
    counted_ = std::make_unique<CountingDevice>(*device_);
    ops_ = make_ops(*device_, {});
    stream_ = device_->make_stream(StreamKind::kCompute);
    parts_.device = counted_.get();
    parts_.ops = ops_.get();
    parts_.stream = stream_.get();
    parts_.readers = [this](uint32_t depth) {
      disks_.push_back(std::make_unique<SimDisk>(depth, seed_ + disks_.size(), faults_));
      clock_.disk = disks_.back().get();
      return std::make_unique<LentDisk>(*disks_.back(), waits_);
    };
    parts_.clock = &clock_;
    parts_.stop = &stop_;
    parts_.folder = dir_.path();
    parts_.direct = DirectChoice::kOff;
  }

  static ForwardLimits limits_for(const Device& device, uint32_t rows, uint32_t batches) {
    ForwardLimits limits;
    limits.max_rows = rows;
    limits.scoring = true;
    limits.sweep_rows = rows * batches;
    limits.spill_batches = batches;
    limits.spill_buffers = std::min(batches, spill_buffers(device.unified()));
    return limits;
  }

  void make(uint32_t rows, uint32_t batches) {
    states_.reset();
    limits_ = limits_for(*device_, rows, batches);
    arena_ = std::make_unique<DeviceArena>(*counted_, state_bytes(kHidden, limits_));
    parts_.arena = arena_.get();
    states_ = make_sweep_states(parts_, kHidden, limits_);
  }

  /// Every layer must find what the one before it left.
  void sweep(const std::vector<uint32_t>& rows, uint32_t layers) {
    const SweepSchedule steps(layers, rows);
    const uint64_t most = uint64_t{limits_.max_rows} * kHidden;
    std::vector<float> left(steps.size() * most);
    std::iota(left.begin(), left.end(), 1.0f);
    std::vector<float> found(left.size(), -1.0f);
    states_->begin(steps);
    try {
      for (size_t i = 0; i < steps.size(); ++i) {
        float* x = states_->take(i);
        const uint64_t bytes = steps[i].rows * kRowBytes;
        if (steps[i].layer > 0) copy(&found[i * most], x, bytes);
        copy(x, &left[i * most], bytes);
        states_->give(i);
      }
      stream_->sync();
    } catch (...) {
      stream_->sync();
      states_->break_off();
      throw;
    }
    for (size_t i = rows.size(); i < steps.size(); ++i) {
      const uint64_t bytes = steps[i].rows * kRowBytes;
      ASSERT_EQ(std::memcmp(&found[i * most], &left[(i - rows.size()) * most], bytes), 0)
          << "layer " << steps[i].layer << ", batch " << steps[i].batch;
    }
  }
  void copy(float* target, const float* source, uint64_t bytes) {
    stream_->copy(reinterpret_cast<std::byte*>(target), reinterpret_cast<const std::byte*>(source),
                  bytes);
  }
  std::ptrdiff_t names_in_folder() const {
    return std::distance(fs::directory_iterator(dir_.path()), {});
  }

  const uint64_t seed_ = test::run_seed();
  test::TempDir dir_;
  SimDiskFaults faults_;
  std::function<void()> waits_;
  StopFlag stop_;
  DiskClock clock_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<CountingDevice> counted_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Stream> stream_;
  std::vector<std::unique_ptr<SimDisk>> disks_;
  std::unique_ptr<DeviceArena> arena_;
  SweepStatesParts parts_;
  ForwardLimits limits_;
  std::unique_ptr<SweepStates> states_;
};

/// Short reads and writes, errors that a retry heals, late and reordered answers, a full queue.
TEST_P(States, ComeBackAsTheyWereGiven) {
  SCOPED_TRACE(test::seed_note(seed_));
  std::mt19937_64 random(seed_);
  for (int round = 0; round < 40; ++round) {
    faults_ = {};
    faults_.short_read = 0.3;
    faults_.transient = 0.1;
    faults_.io_error = round % 2 == 0 ? 0.05 : 0;
    faults_.queue_full = 0.1;
    faults_.max_latency = 1 + static_cast<uint32_t>(random() % 12);
    const auto most_rows = static_cast<uint32_t>(1 + random() % 40);
    const auto most_batches = static_cast<uint32_t>(1 + random() % 14);
    make(most_rows, most_batches);
    for (int again = 0; again < 2; ++again) {  // the file is used again
      const uint64_t batches = again == 0 ? most_batches : 1 + random() % most_batches;
      std::vector<uint32_t> rows;
      for (uint64_t b = 0; b < batches; ++b) {
        rows.push_back(static_cast<uint32_t>(1 + random() % most_rows));
      }
      const auto layers = static_cast<uint32_t>(2 + random() % 5);
      sweep(rows, layers);
      if (HasFatalFailure()) return;
      const SpillStats stats = states_->take_stats();
      const bool spilled = batches > limits_.spill_buffers;
      const uint64_t bytes =
          spilled ? (layers - 1) * batches * spill_block_bytes(kHidden, limits_) : 0;
      EXPECT_EQ(stats.written_bytes, bytes) << "all but the last layer's";
      EXPECT_EQ(stats.read_bytes, bytes);
      EXPECT_GE(stats.wait_ns, 0);
    }
    EXPECT_EQ(names_in_folder(), 0);
  }
  EXPECT_GT(disks_.size(), 10u);
  for (const auto& disk : disks_) EXPECT_EQ(disk->races(), 0u);
}

/// The next batches are read while one computes: a drive that answers within a few polls is never
/// waited for.
TEST_P(States, AreReadAhead) {
  faults_.max_latency = 2;
  make(8, 20);
  uint32_t waits = 0;
  waits_ = [&] { ++waits; };
  sweep(std::vector<uint32_t>(20, 8), 6);
  EXPECT_TRUE(waits == 0 || !device_->unified()) << waits;
  EXPECT_GE(disks_[0]->most_in_flight(), 2u) << "reads beside writes";
}

TEST_P(States, TakeWhatTheBillSays) {
  for (const uint32_t batches : {2u, 4u, 5u, 30u}) {
    counted_->device_bytes = counted_->pinned_bytes = 0;
    make(24, batches);
    EXPECT_EQ(counted_->device_bytes, state_bytes(kHidden, limits_));
    EXPECT_EQ(counted_->pinned_bytes, staged_state_bytes(kHidden, limits_, device_->unified()));
    EXPECT_EQ(arena_->left_bytes(), 0u);
    EXPECT_LE(state_bytes(kHidden, limits_), 6u * 12 * kKiB) << "whatever the batches";
    EXPECT_EQ(disks_.empty(), batches <= spill_buffers(device_->unified()));
    states_.reset();
    disks_.clear();
    clock_.disk = nullptr;
  }
}

/// A checksum for each batch, and no more that depends on how many there are.
TEST_P(States, TakeATableOfTheirBatches) {
  const auto heap_bytes = [&](uint32_t batches) {
    states_.reset();
    disks_.clear();
    disks_.reserve(1);
    clock_.disk = nullptr;
    const uint64_t before = test::allocated_bytes();
    make(24, batches);
    return test::allocated_bytes() - before;
  };
  heap_bytes(20);
  const uint64_t few = heap_bytes(20);
  if (few == 0) GTEST_SKIP() << "a sanitizer's allocations are not counted";
  const uint64_t few_table = spill_table_bytes(limits_);
  const uint64_t many = heap_bytes(5020);
  EXPECT_EQ(many - few, spill_table_bytes(limits_) - few_table);
  EXPECT_GT(few_table, 0u);
}

TEST_P(States, AllocateNothingOnTheirWay) {
  if (std::string(GetParam()) == "cuda") GTEST_SKIP() << "what a driver allocates is its own";
  parts_.readers = [](uint32_t) { return std::make_unique<test::InstantDisk>(true); };
  make(8, 20);
  const std::vector<uint32_t> rows(20, 8);
  const SweepSchedule steps(6, rows);
  uint64_t before = 0;
  for (int again = 0; again < 2; ++again) {
    states_->begin(steps);
    before = test::allocation_count();
    for (size_t i = 0; i < steps.size(); ++i) {  // zeros, which that disk cannot damage
      states_->take(i);
      states_->give(i);
    }
    stream_->sync();
  }
  EXPECT_EQ(test::allocation_count(), before);
  EXPECT_GT(states_->take_stats().read_bytes, 0u);
}

/// One line that names the folder; afterwards another sweep begins anew.
TEST_P(States, ErrorsOfTheDriveEndASweep) {
  const std::vector<uint32_t> rows(12, 8);
  const auto error_with = [&](const SimDiskFaults& faults) {
    faults_ = faults;
    make(8, 12);
    const std::string message = test::error_of([&] { sweep(rows, 4); });
    EXPECT_NE(message.find(dir_.path().string()), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
    EXPECT_EQ(names_in_folder(), 0);
    faults_ = {};
    sweep(rows, 4);
    return message;
  };
  SimDiskFaults full;
  full.full_after_writes = 5;
  EXPECT_NE(error_with(full).find("is full"), std::string::npos);
  SimDiskFaults broken;
  broken.io_error_forever = true;
  EXPECT_NE(error_with(broken).find("Input/output error"), std::string::npos);
  SimDiskFaults damaged;
  damaged.damage = 1;
  EXPECT_NE(error_with(damaged).find("is not what was written"), std::string::npos);
}

TEST_P(States, AStopEndsTheWaitForTheDrive) {
  faults_.hang_after_reads = 7;
  faults_.hung_reads_cancel = true;
  make(8, 12);
  uint32_t waits = 0;
  waits_ = [&] {
    if (++waits == 3) stop_.request();
  };
  EXPECT_THROW(sweep(std::vector<uint32_t>(12, 8), 4), Stopped);
  EXPECT_GE(waits, 3u);
  EXPECT_GE(disks_[0]->wakes(), 1u);
  EXPECT_EQ(disks_[0]->in_flight(), 0u) << "ended before memory goes";
}

/// Memory that a drive may still write is never used again.
TEST_P(States, ADriveThatNeverAnswersIsGivenUp) {
  faults_.hang_after_reads = 7;
  make(8, 12);
  uint32_t waits = 0;
  waits_ = [&] {
    if (++waits == 3) stop_.request();
  };
  const std::vector<uint32_t> rows(12, 8);
  EXPECT_THROW(sweep(rows, 4), Stopped);
  EXPECT_GT(disks_[0]->in_flight(), 0u);
  EXPECT_NE(test::error_of([&] { sweep(rows, 4); }).find("start the program again"),
            std::string::npos);
}

std::vector<const char*> devices() {
  std::vector<const char*> names = {"host", "host-discrete"};
  if (test::kCudaBuilt) names.push_back("cuda");
  return names;
}

INSTANTIATE_TEST_SUITE_P(All, States, ::testing::ValuesIn(devices()), [](const auto& test) {
  std::string name = test.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

/// A small model that is scored in sweeps, with windows of several chunks.
class SpilledScores : public ::testing::Test {
 protected:
  static constexpr uint32_t kChunk = 16;

  void SetUp() override {
    ModelConfig shape = test::small_shape("LlamaForCausalLM");
    shape.layers = 4;
    shape.vocab = 512 + 37;
    test::make_checkpoint(dir_ / "m", shape, DType::kBF16, 1, test::run_seed());
    fs::create_directory(folder());
    config_ = test::roomy_config(dir_ / "m");
    config_.score_chunk_tokens = kChunk;
    config_.score_spill_dir = folder();
    std::mt19937_64 random(test::run_seed());
    const auto ids = [&](size_t count) {
      std::vector<uint32_t> text(count);
      for (uint32_t& id : text) id = static_cast<uint32_t>(random() % shape.vocab);
      return text;
    };
    for (const size_t count : {70, 3, 9, 16, 40, 5, 14, 15}) texts_.push_back(ids(count));
  }
  fs::path folder() const { return dir_ / "spill"; }
  std::ptrdiff_t names_in_folder() const {
    return std::distance(fs::directory_iterator(folder()), {});
  }
  /// A runtime of its own, whose readers of hidden states are others: known by their depth.
  ScoreResult score_with(
      const std::function<std::unique_ptr<BlockReader>(uint32_t)>& spill_reader,
      const ScoreObserver& observer = [](const ScoreProgress&) {}) {
    test::Notices notices;
    const Model model = open_model(config_.model_path, config_.io_direct, notices.sink());
    Machine machine = open_machine(config_, notices.sink());
    const ReaderChoice readers = choose_reader(config_.io_engine, notices.sink());
    plan_ = plan_run(config_, model, machine, scoring_workload(config_, model, texts_));
    const auto make = [&](uint32_t depth) {
      const bool spill = spill_reader && depth == plan_.limits.spill_buffers;
      return spill ? spill_reader(depth) : readers.make(depth);
    };
    Trace trace(clock_, 0);
    Runtime runtime({&config_, &model, &machine, &plan_, make, &trace, &clock_, &stop_});
    runtime.load([](const char*, uint64_t, uint64_t) {});
    return score(runtime, config_, texts_, observer);
  }

  test::TempDir dir_;
  SteadyClock clock_;
  StopFlag stop_;
  Config config_;
  RunPlan plan_;
  std::vector<std::vector<uint32_t>> texts_;
};

void expect_same_scores(Config config, const std::vector<std::vector<uint32_t>>& texts,
                        const std::vector<test::PlacementCase>& placements) {
  for (const auto& placement : placements) {
    SCOPED_TRACE(placement.name);
    Config placed = config;
    placement.apply(placed);
    if (placed.io_engine == EngineChoice::kMmap) continue;
    const auto expected = test::score_model(placed, texts).logprobs;
    placed.score_spill = SpillChoice::kAlways;
    for (const uint32_t sweep : {1000u, 50u, 112u}) {
      placed.score_sweep_tokens = sweep;
      RunPlan plan;
      const ScoreResult spilled = test::score_model(placed, texts, &plan);
      EXPECT_EQ(spilled.logprobs, expected) << sweep;
      EXPECT_EQ(plan.spill.file_bytes > 0, spills(plan.limits));
      EXPECT_TRUE(sweep != 1000 || spills(plan.limits)) << plan.limits.spill_batches;
      uint64_t written = 0;
      for (const PassRecord& pass : spilled.passes) {
        EXPECT_EQ(pass.spill.written_bytes, pass.spill.read_bytes);
        EXPECT_LE(pass.spill.written_bytes, plan.spill.sweep_bytes);
        written += pass.spill.written_bytes;
      }
      EXPECT_LE(written, plan.spill.written_bytes);
      EXPECT_TRUE(sweep != 1000 || written == plan.spill.written_bytes) << written;
      if (test::kCudaSimulated) break;
    }
  }
}

class SpilledBits : public SpilledScores, public ::testing::WithParamInterface<const char*> {};

TEST_P(SpilledBits, AreThoseOfStatesInMemory) {
  const bool cuda = std::string(GetParam()) == "cuda";
  if (cuda) SPILLWAY_NEEDS_CUDA();
  SCOPED_TRACE(test::seed_note(test::run_seed()));
  expect_same_scores(config_, texts_,
                     cuda ? test::cuda_placement_cases(4) : test::placement_cases(4));
  EXPECT_EQ(names_in_folder(), 0);
}

std::vector<const char*> bit_devices() {
  return test::kCudaBuilt ? std::vector{"host", "cuda"} : std::vector{"host"};
}

INSTANTIATE_TEST_SUITE_P(All, SpilledBits, ::testing::ValuesIn(bit_devices()),
                         [](const auto& test) { return std::string(test.param); });

/// The same again on one runtime, after runs that were broken off.
TEST_F(SpilledScores, OneRuntimeServesManyRuns) {
  config_.score_spill = SpillChoice::kAlways;
  config_.score_sweep_tokens = 1000;
  const auto logprobs = test::score_model(config_, texts_).logprobs;
  for (const auto& again : test::score_again(config_, texts_, 3)) EXPECT_EQ(again, logprobs);
}

TEST_F(SpilledScores, AFullDriveIsOneLineAfterWhatCameBefore) {
  config_.score_spill = SpillChoice::kAlways;
  config_.score_sweep_tokens = 112;
  SimDiskFaults faults;
  faults.full_after_writes = 30;  // in the second sweep
  std::vector<std::unique_ptr<SimDisk>> disks;
  const std::function<void()> waits;
  const ScoreResult result = score_with([&](uint32_t depth) {
    disks.push_back(std::make_unique<SimDisk>(depth, test::run_seed(), faults));
    return std::make_unique<LentDisk>(*disks.back(), waits);
  });
  ASSERT_EQ(disks.size(), 1u);
  EXPECT_EQ(result.error.find("the drive under " + folder().string() + " is full"), 0u)
      << result.error;
  EXPECT_EQ(result.error.find('\n'), std::string::npos);
  EXPECT_EQ(result.passes.size(), 1u);
  EXPECT_GT(result.tokens, 50u) << "of the first sweep";
  EXPECT_EQ(names_in_folder(), 0);
}

TEST_F(SpilledScores, AStopInTheMiddleLeavesNothing) {
  config_.score_spill = SpillChoice::kAlways;
  config_.score_sweep_tokens = 1000;
  const ScoreResult result = score_with({}, [&](const ScoreProgress&) { stop_.request(); });
  EXPECT_TRUE(result.interrupted);
  EXPECT_TRUE(result.error.empty()) << result.error;
  EXPECT_EQ(result.tokens, 0u);
  EXPECT_EQ(names_in_folder(), 0);
}

/// A sweep that was asked for keeps its length, on a drive; a folder without room, or without a
/// drive, shortens it, and the plan says why.
TEST_F(SpilledScores, ASweepThatDoesNotFitIsSpilled) {
  config_.policy = PlacementPolicy::kNvme;
  config_.score_chunk_tokens = 128;
  texts_.assign(4000, std::vector<uint32_t>(60, 7));
  test::Notices notices;
  const Model model = open_model(config_.model_path, config_.io_direct, notices.sink());
  const Machine machine = open_machine(config_, notices.sink());
  const auto plan = [&] {
    return plan_run(config_, model, machine, scoring_workload(config_, model, texts_));
  };
  const auto bill = [](const RunPlan& of) {
    for (const MemoryLine& line : of.stream.placement.bill) {
      if (line.name == "hidden states") return line.bytes;
    }
    return uint64_t{0};
  };
  config_.score_sweep_tokens = 1024;
  const RunPlan fits = plan();
  EXPECT_EQ(fits.spill.file_bytes, 0u) << "nothing is spilled that fits";
  EXPECT_EQ(fits.limits.spill_buffers, 0u);
  config_.ram_bytes = fits.stream.placement.ram_planned_bytes;
  config_.score_sweep_tokens = 240'000;
  const RunPlan spilled = plan();
  EXPECT_EQ(spilled.limits.max_rows, 128u);
  EXPECT_EQ(spilled.limits.sweep_rows, 240'000u);
  EXPECT_EQ(spilled.limits.spill_batches, 2000u) << "of two texts each";
  const uint64_t block = spill_block_bytes(model.config.hidden, spilled.limits);
  EXPECT_EQ(spilled.spill.folder, folder());
  EXPECT_EQ(spilled.spill.file_bytes, 2000 * block);
  EXPECT_EQ(spilled.spill.sweep_bytes, 4 * 2000 * block);
  EXPECT_EQ(spilled.spill.written_bytes, 4 * 2000 * block);
  EXPECT_EQ(bill(spilled), ram_cost(state_bytes(model.config.hidden, spilled.limits)));
  config_.score_spill = SpillChoice::kNever;
  const RunPlan shorter = plan();
  EXPECT_EQ(shorter.spill.file_bytes, 0u);
  EXPECT_LT(shorter.limits.sweep_rows, 240'000u);
  EXPECT_TRUE(shorter.spill.refused.empty());
  config_.score_spill = SpillChoice::kAuto;
  config_.score_spill_dir = "/nowhere/x";
  const RunPlan nowhere = plan();
  EXPECT_EQ(nowhere.limits.sweep_rows, shorter.limits.sweep_rows);
  EXPECT_EQ(nowhere.spill.refused, "/nowhere/x: No such file or directory");
  config_.score_spill_dir = "/dev/shm";
  if (file_system_name("/dev/shm") != "tmpfs") return;
  EXPECT_EQ(plan().spill.refused, "/dev/shm is a tmpfs, which keeps files in memory");
  config_.score_spill = SpillChoice::kAlways;
  EXPECT_EQ(plan().limits.sweep_rows, 240'000u) << "whoever says so";
}

}  // namespace
}  // namespace spillway
