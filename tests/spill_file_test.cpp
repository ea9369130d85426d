#include "io/spill_file.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "core/buffer.h"
#include "core/error.h"
#include "core/units.h"
#include "io/open_reader.h"
#include "io/pread_reader.h"
#include "io/unnamed_file.h"
#include "tests/sim/allocation_count.h"
#include "tests/sim/denied_calls.h"
#include "tests/sim/instant_disk.h"
#include "tests/sim/sim_disk.h"
#include "tests/sim/traced.h"
#include "tests/support.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;
using test::SimDisk;
using test::SimDiskFaults;

constexpr uint64_t kBlockBytes = 16 * kKiB;  // four of the drive's
constexpr uint32_t kMaxOps = 9;
constexpr uint32_t kDepth = 4;

/// Content number `version`, other in every word than any other's.
void fill(std::byte* memory, uint64_t bytes, uint64_t version) {
  for (uint64_t i = 0; i < bytes; i += 8) {
    const uint64_t word = (version + 1) * 0x9E3779B97F4A7C15ull + i * 0xD1B54A32D192ED03ull;
    std::memcpy(memory + i, &word, 8);
  }
}

/// What a caller keeps of a spill file: memory of operations that are not finished, and which
/// content each block was given last.
class Caller {
 public:
  explicit Caller(SpillFile& spill)
      : spill_(spill),
        memory_((kMaxOps + 1) * spill.block_bytes()),
        expected_(spill.block_bytes()),
        ops_(kMaxOps),
        versions_(spill.blocks()) {}

  /// False: refused.
  bool write(uint64_t block) {
    const uint64_t slot = free_slot();
    fill(memory(slot), spill_.block_bytes(), next_version_);
    if (!spill_.write(block, memory(slot), slot)) return false;
    versions_[block] = next_version_;
    ops_[slot] = {true, false, next_version_++};
    return true;
  }
  bool read(uint64_t block) {
    const uint64_t slot = free_slot();
    std::memset(memory(slot), 0xEE, spill_.block_bytes());
    if (!spill_.read(block, memory(slot), slot)) return false;
    ops_[slot] = {true, true, versions_[block]};
    return true;
  }
  /// A write, or a read of what was written.
  bool random_op(std::mt19937_64& random) {
    const uint64_t block = random() % versions_.size();
    return versions_[block] == 0 || random() % 2 == 0 ? write(block) : read(block);
  }
  /// Polls once, checks what finished, and waits where nothing did.
  void step() {
    const auto tags = spill_.poll();
    for (const uint64_t slot : tags) finish(slot);
    if (tags.empty()) spill_.wait();
  }
  void finish_all() {
    for (int steps = 0; spill_.active() > 0; ++steps) {
      ASSERT_LT(steps, 100000) << "no progress";
      step();
    }
  }
  void run(std::mt19937_64& random, int count) {
    for (int done = 0, steps = 0; done < count; ++steps) {
      ASSERT_LT(steps, 100000) << "no progress";
      if (random() % 3 != 0 && random_op(random)) {
        ++done;
      } else {
        step();
      }
    }
    finish_all();
  }
  uint32_t reads_checked() const { return reads_checked_; }
  HugeBuffer& memory() { return memory_; }

 private:
  struct Op {
    bool active = false;
    bool read = false;
    uint64_t version = 0;
  };
  std::byte* memory(uint64_t slot) const { return memory_.data() + slot * spill_.block_bytes(); }
  /// One more than there are: for an operation that must be refused.
  uint64_t free_slot() const {
    return static_cast<uint64_t>(
        std::find_if(ops_.begin(), ops_.end(), [](const Op& op) { return !op.active; }) -
        ops_.begin());
  }
  void finish(uint64_t slot) {
    ASSERT_TRUE(ops_[slot].active) << "finished twice";
    ops_[slot].active = false;
    if (ops_[slot].read) {
      fill(expected_.data(), spill_.block_bytes(), ops_[slot].version);
      ASSERT_EQ(std::memcmp(expected_.data(), memory(slot), spill_.block_bytes()), 0);
      ++reads_checked_;
    }
    std::memset(memory(slot), 0xDD, spill_.block_bytes());  // nobody needs it any more
  }

  SpillFile& spill_;
  HugeBuffer memory_;
  HugeBuffer expected_;
  std::vector<Op> ops_;
  std::vector<uint64_t> versions_;  // 0 = never written
  uint64_t next_version_ = 1;
  uint32_t reads_checked_ = 0;
};

std::ptrdiff_t names_in(const fs::path& folder) {
  return std::distance(fs::directory_iterator(folder), {});
}

/// Both ways to a real drive, past the page cache and through it.
struct DriveCase {
  const char* name;
  EngineChoice engine;
  DirectChoice direct;
  bool registered;
};

class SpillDrives : public ::testing::TestWithParam<DriveCase> {};

TEST_P(SpillDrives, KeepWhatWasWrittenLast) {
  const uint64_t seed = test::run_seed();
  SCOPED_TRACE(test::seed_note(seed));
  std::mt19937_64 random(seed);
  const test::TempDir dir;
  test::Notices notices;
  const auto reader = choose_reader(GetParam().engine, notices.sink()).make(kDepth);
  const SteadyClock clock;
  SpillFile spill(dir.path(), {7, 100000, kMaxOps}, GetParam().direct, *reader, clock);
  EXPECT_EQ(spill.block_bytes() % spill.file().alignment, 0u);
  EXPECT_GE(spill.block_bytes(), 100000u);
  const bool direct = GetParam().direct != DirectChoice::kOff;
  if (direct && !spill.refused().empty()) GTEST_SKIP() << spill.refused();
  EXPECT_EQ(spill.file().direct, direct);
  Caller caller(spill);
  if (GetParam().registered) {
    const std::span<std::byte> whole(caller.memory().data(), caller.memory().bytes());
    reader->register_buffers({&whole, 1});
  }
  caller.run(random, 500);
  EXPECT_GT(caller.reads_checked(), 50u);
  EXPECT_EQ(names_in(dir.path()), 0);
  EXPECT_TRUE(spill.drain());
}

INSTANTIATE_TEST_SUITE_P(
    All, SpillDrives,
    ::testing::Values(DriveCase{"uring_direct", EngineChoice::kAuto, DirectChoice::kAuto, false},
                      DriveCase{"uring_registered", EngineChoice::kAuto, DirectChoice::kAuto, true},
                      DriveCase{"uring_buffered", EngineChoice::kAuto, DirectChoice::kOff, false},
                      DriveCase{"pread_direct", EngineChoice::kPread, DirectChoice::kAuto, false},
                      DriveCase{"pread_buffered", EngineChoice::kPread, DirectChoice::kOff, false}),
    [](const auto& test) { return std::string(test.param.name); });

/// A simulated drive under a real file, which it leaves alone.
class SpillSim : public ::testing::Test {
 protected:
  void open(uint64_t seed, const SimDiskFaults& faults, uint64_t blocks = 5) {
    spill_.reset();
    disk_ = std::make_unique<SimDisk>(kDepth, seed, faults);
    spill_ = std::make_unique<SpillFile>(dir_.path(), SpillShape{blocks, kBlockBytes, kMaxOps},
                                         DirectChoice::kOff, *disk_, disk_->clock());
    caller_ = std::make_unique<Caller>(*spill_);
  }
  /// Writes block 0 to `blocks` and waits for all.
  void write_all(uint64_t blocks) {
    for (uint64_t block = 0; block < blocks; ++block) ASSERT_TRUE(caller_->write(block));
    caller_->finish_all();
  }
  void TearDown() override {
    spill_.reset();
    EXPECT_EQ(names_in(dir_.path()), 0);
  }

  const test::TempDir dir_;
  std::unique_ptr<SimDisk> disk_;
  std::unique_ptr<SpillFile> spill_;
  std::unique_ptr<Caller> caller_;
};

TEST_F(SpillSim, KeepsWhatWasWrittenLastWhateverTheDriveDoes) {
  for (uint64_t round = 0; round < 60; ++round) {
    const uint64_t seed = test::run_seed() + round;
    SCOPED_TRACE(test::seed_note(seed));
    std::mt19937_64 random(seed);
    SimDiskFaults faults;
    faults.short_read = 0.2;
    faults.transient = 0.2;
    faults.queue_full = 0.2;
    faults.io_error = 0.05;
    faults.max_latency = static_cast<uint32_t>(random() % 12);
    open(seed, faults, 1 + random() % 20);
    caller_->run(random, 400);
    if (HasFatalFailure()) return;
    EXPECT_GT(caller_->reads_checked(), 40u);
    EXPECT_EQ(disk_->races(), 0u);
    EXPECT_TRUE(spill_->drain());
    EXPECT_EQ(disk_->in_flight(), 0u);
  }
}

/// Blocks of which nothing is under way are not kept waiting by one that is.
TEST_F(SpillSim, DifferentBlocksAreUnderWayTogether) {
  SimDiskFaults faults;
  faults.min_latency = faults.max_latency = 50;
  open(test::run_seed(), faults);
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(caller_->write(0));
  for (uint64_t block = 1; block < 5; ++block) ASSERT_TRUE(caller_->write(block));
  EXPECT_EQ(disk_->in_flight(), 0u) << "only queued";
  spill_->wait(0);
  EXPECT_EQ(disk_->in_flight(), kDepth);
  caller_->finish_all();
  EXPECT_EQ(disk_->most_in_flight(), kDepth);
  EXPECT_EQ(disk_->races(), 0u);
}

/// Also what only now finds room, or its turn: a caller computes for long between two polls.
TEST_F(SpillSim, APollLeavesNothingQueuedThatCouldBeUnderWay) {
  SimDiskFaults faults;
  faults.max_latency = 0;
  open(test::run_seed(), faults);
  for (uint64_t block = 0; block < 5; ++block) ASSERT_TRUE(caller_->write(block));
  ASSERT_TRUE(caller_->read(0));
  ASSERT_TRUE(caller_->read(0));
  caller_->step();
  EXPECT_EQ(spill_->active(), 0u);
  EXPECT_EQ(caller_->reads_checked(), 2u);
}

/// Each read gets what was written before it was asked for, not what came after; nothing is
/// finished when these are queued.
TEST_F(SpillSim, ReadsBetweenWritesOfOneBlock) {
  SimDiskFaults faults;
  faults.max_latency = 9;
  open(test::run_seed(), faults);
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(caller_->write(2));
    ASSERT_TRUE(caller_->read(2));
  }
  caller_->finish_all();
  EXPECT_EQ(caller_->reads_checked(), 4u);
  EXPECT_EQ(disk_->races(), 0u);
}

TEST_F(SpillSim, RefusesMoreThanItsTableHolds) {
  open(test::run_seed(), {}, 2 * kMaxOps);
  for (uint64_t block = 0; block < kMaxOps; ++block) ASSERT_TRUE(caller_->write(block));
  EXPECT_FALSE(caller_->write(kMaxOps));
  EXPECT_FALSE(caller_->read(0));
  EXPECT_EQ(spill_->active(), kMaxOps);
  caller_->finish_all();
  ASSERT_TRUE(caller_->write(0));
  caller_->finish_all();
  ASSERT_TRUE(caller_->read(0));  // the refused write of a block left no trace
  caller_->finish_all();
  EXPECT_EQ(caller_->reads_checked(), 1u);
}

/// A controller that is gone for four seconds.
TEST_F(SpillSim, OutlastsAResetOfTheController) {
  open(test::run_seed(), {});
  write_all(5);
  SimDiskFaults faults;
  faults.io_error_forever = true;
  disk_->set_faults(faults);
  for (uint64_t block = 0; block < 4; ++block) {
    ASSERT_TRUE(block % 2 == 0 ? caller_->write(block) : caller_->read(block));
  }
  const int64_t start_ns = disk_->clock().now_ns();
  while (spill_->active() > 0) {
    if (disk_->clock().now_ns() - start_ns > 4'000'000'000) disk_->set_faults({});
    caller_->step();
    ASSERT_LT(disk_->clock().now_ns() - start_ns, kRetryLimitNs);
  }
  EXPECT_EQ(caller_->reads_checked(), 2u);
}

TEST_F(SpillSim, ADriveThatFailsForGoodIsOneError) {
  SimDiskFaults faults;
  faults.io_error_forever = true;
  open(test::run_seed(), faults);
  for (uint64_t block = 0; block < 5; ++block) ASSERT_TRUE(caller_->write(block));
  const std::string message = test::error_of([&] { caller_->finish_all(); });
  EXPECT_NE(message.find(dir_.path().string() + ": writing 16384 bytes at offset"),
            std::string::npos)
      << message;
  EXPECT_NE(message.find("retries in 10"), std::string::npos) << message;
  EXPECT_TRUE(spill_->drain());
  EXPECT_EQ(disk_->in_flight(), 0u);
}

TEST_F(SpillSim, ADriveThatGetsFullIsOneErrorAtOnce) {
  for (const auto& [error, what] :
       {std::pair{ENOSPC, "the drive under "}, {EDQUOT, "the quota under "}}) {
    SimDiskFaults faults;
    faults.short_read = 0.5;
    open(test::run_seed(), faults);
    write_all(5);
    faults.full_after_writes = 0;
    faults.full_error = error;
    disk_->set_faults(faults);
    const int64_t start_ns = disk_->clock().now_ns();
    for (uint64_t block = 0; block < 5; ++block) ASSERT_TRUE(caller_->write(block));
    const std::string message = test::error_of([&] { caller_->finish_all(); });
    EXPECT_LT(disk_->clock().now_ns() - start_ns, 1'000'000'000);
    // A block, or where the file system says of none that it has its space, all five.
    const std::string begin = what + dir_.path().string() + " is full: ";
    EXPECT_EQ(message.find(begin), 0u) << message;
    ASSERT_GT(message.size(), begin.size());
    char* unit = nullptr;
    const double missing = std::strtod(message.c_str() + begin.size(), &unit);
    EXPECT_GE(missing, 16) << message;
    EXPECT_LE(missing, 80) << message;
    EXPECT_STREQ(unit, " KiB more are needed for hidden states; free some or give more memory");
    EXPECT_TRUE(spill_->drain());
  }
}

/// One bit, at any place, among reads that are fine.
TEST_F(SpillSim, DamagedBytesAreFound) {
  for (uint64_t round = 0; round < 40; ++round) {
    const uint64_t seed = test::run_seed() + round;
    SCOPED_TRACE(test::seed_note(seed));
    open(seed, {});
    write_all(5);
    SimDiskFaults faults;
    faults.damage = 0.1;
    disk_->set_faults(faults);
    std::string message;
    try {
      for (int i = 0; i < 10; ++i) {
        for (uint64_t block = 0; block < 5; ++block) ASSERT_TRUE(caller_->read(block));
        caller_->finish_all();
      }
    } catch (const Error& error) {
      message = error.what();
    }
    EXPECT_EQ(message.empty(), disk_->damages() == 0);
    EXPECT_TRUE(message.empty() ||
                (message.find(dir_.path().string() + ": block ") == 0 &&
                 message.find("is not what was written: the drive or its cable") != message.npos &&
                 message.find("run the job again or resume it") != message.npos))
        << message;
  }
}

TEST_F(SpillSim, DamageNamesItsBlock) {
  open(test::run_seed(), {});
  write_all(5);
  SimDiskFaults faults;
  faults.damage = 1;
  disk_->set_faults(faults);
  ASSERT_TRUE(caller_->read(3));
  EXPECT_NE(test::error_of([&] {
              caller_->finish_all();
            }).find(": block 3 of the hidden states (16384 bytes at offset 49152)"),
            std::string::npos);
}

/// Sources and the descriptor stay: a write that nobody waits for may still use them, and must not
/// find another file under its number.
TEST_F(SpillSim, DrainGivesUpOnADriveThatNeverAnswers) {
  SimDiskFaults faults;
  faults.hang_after_reads = 1;
  open(test::run_seed(), faults);
  for (uint64_t block = 0; block < 5; ++block) ASSERT_TRUE(caller_->write(block));
  spill_->wait(0);
  const int fd = spill_->file().fd;
  EXPECT_FALSE(spill_->drain());
  EXPECT_GE(disk_->clock().now_ns(), kDrainLimitNs);
  EXPECT_LT(disk_->clock().now_ns(), 2 * kDrainLimitNs);
  const uint32_t waits = disk_->waits();
  EXPECT_FALSE(spill_->drain());
  EXPECT_EQ(disk_->waits(), waits) << "waited a second time";
  spill_.reset();
  EXPECT_GE(fcntl(fd, F_GETFD), 0);
  close(fd);
}

TEST_F(SpillSim, DrainCancelsWhatADriveLeavesUnanswered) {
  SimDiskFaults faults;
  faults.hang_after_reads = 1;
  faults.hung_reads_cancel = true;
  open(test::run_seed(), faults);
  for (uint64_t block = 0; block < 5; ++block) ASSERT_TRUE(caller_->write(block));
  spill_->wait(0);
  const int fd = spill_->file().fd;
  EXPECT_TRUE(spill_->drain());
  EXPECT_EQ(disk_->in_flight(), 0u);
  EXPECT_LT(disk_->clock().now_ns(), kDrainLimitNs / 10);
  spill_.reset();
  EXPECT_LT(fcntl(fd, F_GETFD), 0);
}

TEST_F(SpillSim, ABrokenReaderIsAnErrorAndIsLeft) {
  SimDiskFaults faults;
  open(test::run_seed(), faults);
  ASSERT_TRUE(caller_->write(0));
  spill_->wait(0);
  faults.broken = true;
  disk_->set_faults(faults);
  const int fd = spill_->file().fd;
  EXPECT_NE(test::error_of([&] { spill_->poll(); }).find("broken"), std::string::npos);
  EXPECT_FALSE(spill_->drain());
  close(fd);
}

constexpr int kAborted = 128 + SIGABRT;

TEST(SpillFile, BugsOfTheCallerStopTheProgram) {
  const test::TempDir dir;
  const auto child = [&](const std::function<void(SpillFile&, std::byte*)>& action) {
    return test::in_child([&] {
      SimDisk disk(kDepth, 1, {});
      SpillFile spill(dir.path(), {3, kBlockBytes, kMaxOps}, DirectChoice::kOff, disk,
                      disk.clock());
      const HugeBuffer memory(2 * kBlockBytes);
      action(spill, memory.data());
      return 0;
    });
  };
  const auto wrote = [](SpillFile& spill, std::byte* memory) {
    return spill.write(1, memory, 0) && spill.read(1, memory, 0);
  };
  EXPECT_EQ(child([&](auto& spill, auto* memory) { CHECK(wrote(spill, memory)); }), 0);
  EXPECT_EQ(child([](auto& spill, auto* memory) { (void)spill.read(1, memory, 0); }), kAborted);
  EXPECT_EQ(child([](auto& spill, auto* memory) { (void)spill.write(3, memory, 0); }), kAborted);
  EXPECT_EQ(child([](auto& spill, auto* memory) { (void)spill.write(1, memory + 512, 0); }),
            kAborted);
  EXPECT_EQ(child([](auto& spill, auto* memory) {
              if (spill.drain()) (void)spill.write(1, memory, 0);
            }),
            kAborted);
}

TEST(SpillFile, AllocatesNothingOnceItIsOpen) {
  const test::TempDir dir;
  test::InstantDisk disk(true);
  const SteadyClock clock;
  SpillFile spill(dir.path(), {40, kBlockBytes, 8}, DirectChoice::kOff, disk, clock);
  const HugeBuffer memory(kBlockBytes);  // nothing is moved: what is read back is there already
  const uint64_t before = test::allocation_count();
  uint64_t finished = 0;
  for (uint64_t i = 0; i < 4000; ++i) {
    const uint64_t block = i / 2 % 40;
    while (!(i % 2 == 0 ? spill.write(block, memory.data(), i)
                        : spill.read(block, memory.data(), i))) {
      finished += spill.poll().size();
      spill.wait(0);
    }
  }
  while (spill.active() > 0) finished += spill.poll().size();
  EXPECT_EQ(finished, 4000u);
  EXPECT_EQ(test::allocation_count(), before);
}

/// Where a file system has files without a name, and where it must be taken from them.
TEST(SpillFile, LeavesNoNameInTheFolder) {
  for (const bool unnamed : {true, false}) {
    EXPECT_EQ(test::in_child([&] {
                const test::TempDir dir;
                if (!unnamed) test::deny_unnamed_files();
                PreadReader reader(kDepth);
                const SteadyClock clock;
                SpillFile spill(dir.path(), {7, kBlockBytes, kMaxOps}, DirectChoice::kAuto, reader,
                                clock);
                if (names_in(dir.path()) != 0) return 1;
                Caller caller(spill);
                for (uint64_t block = 0; block < 7; ++block) {
                  if (!caller.write(block)) return 2;
                }
                caller.step();
                if (names_in(dir.path()) != 0) return 3;
                caller.finish_all();
                if (!caller.read(5)) return 4;
                caller.finish_all();
                return names_in(dir.path()) == 0 && caller.reads_checked() == 1 ? 0 : 5;
              }),
              0)
        << unnamed;
  }
}

TEST(SpillFile, NeedsAFolder) {
  SimDisk disk(kDepth, 1, {});
  EXPECT_EQ(test::error_of([&] {
              SpillFile("/nowhere/x", {1, 1, 1}, DirectChoice::kAuto, disk, disk.clock());
            }),
            "cannot make a file for hidden states in /nowhere/x: No such file or directory (errno "
            "2)");
}

TEST(SpillFile, TmpfsIsNoDrive) {
  if (file_system_name("/dev/shm") != "tmpfs") GTEST_SKIP() << "no tmpfs at /dev/shm";
  SimDisk disk(kDepth, 1, {});
  const SpillFile spill("/dev/shm", {1, 1, 1}, DirectChoice::kAuto, disk, disk.clock());
  EXPECT_FALSE(spill.file().direct);
  EXPECT_NE(spill.refused().find("tmpfs"), std::string::npos);
  EXPECT_NE(test::error_of([&] {
              SpillFile("/dev/shm", {1, 1, 1}, DirectChoice::kOn, disk, disk.clock());
            }).find("ext4 or xfs"),
            std::string::npos);
}

TEST(SpillFile, ALimitOnTheSizeOfFilesIsSaidAtTheStart) {
  EXPECT_EQ(test::in_child([] {
              const test::TempDir dir;
              std::signal(SIGXFSZ, SIG_IGN);
              const rlimit limit{kMiB, kMiB};
              if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 1;
              SimDisk disk(kDepth, 1, {});
              const std::string message = test::error_of([&] {
                SpillFile(dir.path(), {2, kMiB, 1}, DirectChoice::kAuto, disk, disk.clock());
              });
              if (message.find("cannot reserve 2.00 MiB for hidden states in " +
                               dir.path().string()) != 0) {
                return 2;
              }
              if (message.find("ulimit -f") == message.npos) return 3;
              return names_in(dir.path()) == 0 ? 0 : 4;
            }),
            0);
}

TEST(SpillFile, IsNotInterruptedForEver) {
  const test::TempDir dir;
  EXPECT_EQ(test::in_child([&] {
              test::deny_calls({__NR_fallocate}, EINTR);
              SimDisk disk(kDepth, 1, {});
              return test::error_of([&] {
                       SpillFile(dir.path(), {2, kMiB, 1}, DirectChoice::kAuto, disk, disk.clock());
                     }).find("Interrupted system call") == std::string::npos
                         ? 1
                         : 0;
            }),
            0);
}

/// Nor given up at the first signal.
TEST(SpillFile, TriesADriveAgainWhenInterrupted) {
  const test::TempDir dir;
  int tries = 0;
  const auto traced = test::run_traced(
      [&] {
        test::deny_calls({__NR_pwrite64}, EINTR);
        UnnamedFile(dir.path()).choose_direct(DirectChoice::kAuto);
      },
      [&](const test::TracedCall& call) {
        tries += call.number == __NR_pwrite64 ? 1 : 0;
        return true;
      },
      [](const test::TracedCall&) {});
  if (traced == test::Killed::kCannotTrace) GTEST_SKIP() << "ptrace is not allowed here";
  if (tries == 0) GTEST_SKIP() << "no O_DIRECT in the folder for temporary files";
  EXPECT_GT(tries, 1);
}

/// A drive of a MiB.
class SmallDrive : public ::testing::Test {
 protected:
  void SetUp() override {
    fs::create_directory(folder_);
    mounted_ = mount("none", folder_.c_str(), "tmpfs", 0, "size=1m") == 0;
    if (!mounted_) GTEST_SKIP() << "only root may mount a small file system";
  }
  void TearDown() override {
    if (mounted_) umount(folder_.c_str());
  }
  uint64_t free_bytes() const {
    struct statvfs info {};
    return statvfs(folder_.c_str(), &info) == 0 ? uint64_t{info.f_bavail} * info.f_frsize : 0;
  }
  std::string refusal(uint64_t blocks) const {
    SimDisk disk(kDepth, 1, {});
    return test::error_of([&] {
      SpillFile(folder_, {blocks, kBlockBytes, 1}, DirectChoice::kAuto, disk, disk.clock());
    });
  }

  const test::TempDir dir_;
  const fs::path folder_ = dir_ / "disk";
  bool mounted_ = false;
};

TEST_F(SmallDrive, IsRefusedAtTheStartAndLeftAsItWas) {
  const std::string message = refusal(2 * kMiB / kBlockBytes);
  EXPECT_EQ(message,
            "cannot reserve 2.00 MiB for hidden states in " + folder_.string() +
                ", where 1.00 MiB are free: No space left on device (errno 28); free some, choose "
                "another folder or give more memory");
  EXPECT_EQ(free_bytes(), kMiB);
}

TEST_F(SmallDrive, IsAskedForItsRoomWhereItCannotReserve) {
  EXPECT_EQ(test::in_child([&] {
              test::deny_calls({__NR_fallocate}, EOPNOTSUPP);
              if (refusal(2 * kMiB / kBlockBytes).find("No space left") == std::string::npos) {
                return 1;
              }
              SimDisk disk(kDepth, 1, {});
              const SpillFile spill(folder_, {4, kBlockBytes, 1}, DirectChoice::kAuto, disk,
                                    disk.clock());
              return spill.file().bytes == 4 * kBlockBytes ? 0 : 2;
            }),
            0);
}

/// Nothing was reserved, and somebody else took the rest.
TEST_F(SmallDrive, ThatSomebodyElseFillsIsOneErrorThatSaysHowMuchIsMissing) {
  EXPECT_EQ(
      test::in_child([&] {
        test::deny_calls({__NR_fallocate}, EOPNOTSUPP);
        PreadReader reader(1);
        const SteadyClock clock;
        SpillFile spill(folder_, {40, kBlockBytes, kMaxOps}, DirectChoice::kAuto, reader, clock);
        test::write_file(folder_ / "other", std::string(kMiB - 10 * kBlockBytes, 'x'));
        Caller caller(spill);
        const std::string message = test::error_of([&] {
          for (uint64_t block = 0; block < 40; ++block) {
            if (!caller.write(block)) break;
            caller.finish_all();
          }
        });
        return message == "the drive under " + folder_.string() +
                              " is full: 480 KiB more are needed for hidden states; free "
                              "some or give more memory"
                   ? 0
                   : 1;
      }),
      0);
}

/// Also of a process that is killed.
TEST_F(SmallDrive, HasItsSpaceBackWhateverEndsTheProcess) {
  for (const bool unnamed : {true, false}) {
    EXPECT_EQ(test::in_child([&]() -> int {
                if (!unnamed) test::deny_unnamed_files();
                SimDisk disk(kDepth, 1, {});
                const SpillFile spill(folder_, {32, kBlockBytes, 1}, DirectChoice::kAuto, disk,
                                      disk.clock());
                if (free_bytes() != kMiB - 32 * kBlockBytes) return 1;
                raise(SIGKILL);
                return 2;
              }),
              128 + SIGKILL);
    EXPECT_EQ(free_bytes(), kMiB);
    EXPECT_EQ(names_in(folder_), 0);
  }
}

ReadOp write_of(const ReadFile& file, uint32_t bytes) {
  ReadOp op;
  op.file = &file;
  op.bytes = bytes;
  op.needed = bytes;
  op.kind = IoKind::kWrite;
  return op;
}

TEST(WriteOutcome, IsDoneWhenAllBytesAreTaken) {
  const ReadFile file{-1, "d", 100000, 4096, true};
  const SteadyClock clock;
  std::string message;
  ReadOp op = write_of(file, 16384);
  EXPECT_EQ(classify_write(op, 4096 + 512, clock, message), ReadOutcome::kAgain);
  EXPECT_EQ(op.next_offset(), 4096u) << "not in the middle of a block of the drive";
  EXPECT_EQ(classify_write(op, -EINTR, clock, message), ReadOutcome::kAgain);
  EXPECT_EQ(classify_write(op, 0, clock, message), ReadOutcome::kAgain);
  EXPECT_EQ(classify_write(op, 8192, clock, message), ReadOutcome::kAgain);
  EXPECT_EQ(op.next_bytes(), 4096u);
  EXPECT_EQ(classify_write(op, 4095, clock, message), ReadOutcome::kAgain);
  EXPECT_EQ(classify_write(op, 4096, clock, message), ReadOutcome::kDone);
  ReadOp impossible = write_of(file, 8192);
  EXPECT_EQ(classify_write(impossible, 9000, clock, message), ReadOutcome::kFailed);
  ReadOp limited = write_of(file, 8192);
  EXPECT_EQ(classify_write(limited, -EFBIG, clock, message), ReadOutcome::kFailed);
  EXPECT_TRUE(message.ends_with("; raise the limit on the size of files (ulimit -f)")) << message;
  ReadOp denied = write_of(file, 8192);
  EXPECT_EQ(classify_write(denied, -EPERM, clock, message), ReadOutcome::kFailed);
  EXPECT_NE(message.find("d: writing 8192 bytes at offset 0 failed: Operation not permitted"),
            std::string::npos)
      << message;
}

TEST(WriteOutcome, AFullDriveIsNotWaitedFor) {
  const ReadFile file{-1, "d", 3 * kGiB, 4096, true};
  const SteadyClock clock;
  std::string message;
  ReadOp op = write_of(file, 8192);
  EXPECT_EQ(classify_write(op, -ENOSPC, clock, message), ReadOutcome::kFailed);
  EXPECT_EQ(message,
            "the drive under d is full: 3.00 GiB more are needed for hidden states; free some or "
            "give more memory");
  EXPECT_EQ(classify_write(op, -EDQUOT, clock, message), ReadOutcome::kFailed);
  EXPECT_NE(message.find("the quota under d is full"), std::string::npos) << message;
}

TEST(WriteOutcome, WhatIsTriedAgainAllocatesNothing) {
  const ReadFile file{-1, "d", 100000, 4096, true};
  const SteadyClock clock;
  std::string message;
  ReadOp write = write_of(file, 16384);
  ReadOp read = write_of(file, 16384);
  read.kind = IoKind::kRead;
  const uint64_t before = test::allocation_count();
  bool again = true;
  for (const int32_t result : {100, 4096, -EINTR, -EIO, 4095}) {
    again = again && classify_write(write, result, clock, message) == ReadOutcome::kAgain;
    again = again && classify_read(read, result, clock, message) == ReadOutcome::kAgain;
  }
  EXPECT_EQ(test::allocation_count(), before);
  EXPECT_TRUE(again);
}

TEST(WriteOutcome, IsTriedAsOftenAsAReadIs) {
  const ReadFile file{-1, "d", 100000, 4096, true};
  for (const int32_t result : {-EIO, -ETIMEDOUT, -ENODATA, -EAGAIN, -EINTR, -EBUSY, -ENOMEM, 10}) {
    std::string message;
    test::SimClock clock;
    ReadOp read = write_of(file, 8192);
    read.kind = IoKind::kRead;
    ReadOp write = write_of(file, 8192);
    int tries = 0;
    while (classify_read(read, result, clock, message) == ReadOutcome::kAgain) {
      ASSERT_EQ(classify_write(write, result, clock, message), ReadOutcome::kAgain);
      ASSERT_EQ(write.not_before_ns, read.not_before_ns);
      ASSERT_LT(++tries, 100);
      clock.advance(std::max<int64_t>(0, read.not_before_ns - clock.now_ns()));
    }
    EXPECT_EQ(classify_write(write, result, clock, message), ReadOutcome::kFailed);
    EXPECT_NE(message.find("writing 8192"), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace spillway
