// The slow drive of the benchmarks, on a simulated disk whose clock is the only one.
#include "bench/throttled_reader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <random>
#include <thread>

#include "core/buffer.h"
#include "core/units.h"
#include "io/read_pump.h"
#include "tests/sim/sim_disk.h"
#include "tests/support.h"

namespace spillway {
namespace {

using bench::SlowDrive;
using bench::ThrottledReader;
using test::SimDisk;
using test::SimDiskFaults;

constexpr uint32_t kBlock = 4096;
/// A block a tick, which is a millisecond.
constexpr double kBlockPerTick = kBlock * 1e3;

SimDiskFaults instant() {
  SimDiskFaults faults;
  faults.max_latency = 0;
  return faults;
}

/// A throttled reader over a simulated disk that stays in sight.
struct Slow {
  Slow(uint32_t depth, uint64_t seed, const SimDiskFaults& faults, double bytes_per_second) {
    auto owned = std::make_unique<SimDisk>(depth, seed, faults);
    disk = owned.get();
    drive = std::make_shared<SlowDrive>(bytes_per_second, disk->clock());
    reader = std::make_unique<ThrottledReader>(std::move(owned), drive);
  }
  int64_t now_ns() const { return disk->clock().now_ns(); }

  SimDisk* disk = nullptr;
  std::shared_ptr<SlowDrive> drive;
  std::unique_ptr<ThrottledReader> reader;
};

class Throttled : public ::testing::Test {
 protected:
  static constexpr uint32_t kMost = 64;
  Throttled() : ops_(kMost) {
    for (uint32_t i = 0; i < kMost; ++i) set(i, 1);
  }
  void set(uint32_t i, uint32_t blocks) {
    ops_[i] = ReadOp{};
    ops_[i].file = &file_;
    ops_[i].offset = uint64_t{i} * kBlock;
    ops_[i].target = buffer_.data() + uint64_t{i} * 16 * kBlock;
    ops_[i].bytes = ops_[i].needed = blocks * kBlock;
    ops_[i].tag = i;
  }
  const ReadFile file_{-1, "sim", 16 * kMiB, kBlock, true};
  HugeBuffer buffer_{kMost * 16 * kBlock};
  std::vector<ReadOp> ops_;
};

/// Whatever the disk behind does, and however often somebody looks: never more bytes than the rate
/// has had time for since the first read, each read once, and no wait longer than it was asked for.
TEST_F(Throttled, IsNeverFasterThanItsRate) {
  const uint64_t seed = test::run_seed();
  SCOPED_TRACE(test::seed_note(seed));
  std::mt19937_64 random(seed);
  for (int round = 0; round < 200; ++round) {
    SimDiskFaults faults;
    faults.max_latency = random() % 8;
    faults.short_read = random() % 2 == 0 ? 0 : 0.3;
    faults.queue_full = random() % 2 == 0 ? 0 : 0.3;
    const uint32_t depth = 1 + random() % 8;
    const double rate = kBlockPerTick * std::exp2(static_cast<double>(random() % 12) - 6);
    Slow slow(depth, random(), faults, rate);
    const uint32_t reads = 1 + random() % kMost;
    uint32_t submitted = 0;
    uint64_t delivered_bytes = 0;
    std::vector<int> seen(kMost, 0);
    uint32_t delivered = 0;
    std::vector<ReadCompletion> out(1 + random() % depth);
    const int64_t begin_ns = slow.now_ns();
    while (delivered < reads) {
      while (submitted < reads && random() % 4 != 0) {
        set(submitted, 1 + random() % 16);
        if (!slow.reader->submit(ops_[submitted])) break;
        ++submitted;
        ASSERT_LE(submitted - delivered, depth);
      }
      const size_t count = slow.reader->poll(out);
      for (size_t i = 0; i < count; ++i) {
        ASSERT_GT(out[i].result, 0);
        ++seen[out[i].op->tag];
        delivered_bytes += static_cast<uint64_t>(out[i].result);
      }
      delivered += static_cast<uint32_t>(count);
      const double elapsed = seconds(slow.now_ns() - begin_ns);
      ASSERT_LE(static_cast<double>(delivered_bytes), rate * elapsed * (1 + 1e-9)) << round;
      if (count > 0) continue;
      const int64_t limit_ns = 1 + static_cast<int64_t>(random() % 20'000'000);
      slow.reader->wait(limit_ns);
      ASSERT_LE(slow.disk->last_limit_ns(), limit_ns);
      ASSERT_GE(slow.disk->last_limit_ns(), 0);
    }
    EXPECT_EQ(std::count(seen.begin(), seen.begin() + reads, 1), reads);
    EXPECT_EQ(slow.disk->in_flight(), 0u);
  }
}

/// Nor slower, where the disk behind is faster and there is always something to read: so long as
/// the bytes take, and the ticks in which somebody looks.
TEST_F(Throttled, GivesAllOfItsRate) {
  Slow slow(4, test::run_seed(), instant(), kBlockPerTick / 16);
  uint32_t submitted = 0;
  uint32_t delivered = 0;
  std::vector<ReadCompletion> out(4);
  uint32_t looks = 0;
  while (delivered < kMost) {
    while (submitted < kMost && slow.reader->submit(ops_[submitted])) ++submitted;
    const size_t count = slow.reader->poll(out);
    ++looks;
    for (size_t i = 0; i < count; ++i) EXPECT_EQ(out[i].op->tag, delivered + i) << "as submitted";
    delivered += static_cast<uint32_t>(count);
    if (count == 0) slow.reader->wait(BlockReader::kNoLimit);
  }
  EXPECT_GE(slow.now_ns(), int64_t{kMost} * 16 * 1'000'000);
  EXPECT_LE(slow.now_ns(), int64_t{kMost} * 16 * 1'000'000 + 4'000'000);
  EXPECT_LE(looks, 3 * kMost) << "it waits for a read's time, and does not turn in circles";
}

/// What it could have done while nobody read is lost.
TEST_F(Throttled, SavesNothingUp) {
  Slow slow(2, test::run_seed(), instant(), kBlockPerTick / 8);
  slow.reader->wait(1'000'000'000);
  const int64_t begin_ns = slow.now_ns();
  EXPECT_GE(begin_ns, 1'000'000'000);
  std::vector<ReadCompletion> out(2);
  ASSERT_TRUE(slow.reader->submit(ops_[0]));
  while (slow.reader->poll(out) == 0) slow.reader->wait(BlockReader::kNoLimit);
  EXPECT_GE(slow.now_ns() - begin_ns, 8'000'000);
}

TEST_F(Throttled, CountsWhatWaitsForItsTimeAsInFlight) {
  Slow slow(2, test::run_seed(), instant(), kBlockPerTick / 64);
  std::vector<ReadCompletion> out(2);
  ASSERT_TRUE(slow.reader->submit(ops_[0]));
  ASSERT_TRUE(slow.reader->submit(ops_[1]));
  EXPECT_EQ(slow.reader->poll(out), 0u);
  EXPECT_EQ(slow.disk->in_flight(), 0u) << "the disk behind is through with both";
  EXPECT_FALSE(slow.reader->submit(ops_[2]));
  slow.reader->wait(BlockReader::kNoLimit);
  EXPECT_EQ(slow.reader->poll(out), 1u);
  EXPECT_TRUE(slow.reader->submit(ops_[2]));
}

/// One drive, however many read from it.
TEST_F(Throttled, ReadersShareTheDrive) {
  test::SimClock clock;
  const auto drive = std::make_shared<SlowDrive>(kBlockPerTick, clock);
  EXPECT_EQ(drive->end_of_read_ns(kBlock), 1'000'000);
  EXPECT_EQ(drive->end_of_read_ns(2 * kBlock), 3'000'000) << "behind the other's";
  clock.advance(10'000'000);
  EXPECT_EQ(drive->end_of_read_ns(kBlock), 11'000'000);
  const auto readers = bench::throttled(
      [](uint32_t depth) { return std::make_unique<SimDisk>(depth, 1, instant()); }, drive);
  const auto one = readers(3);
  const auto other = readers(5);
  EXPECT_EQ(one->depth(), 3u);
  EXPECT_EQ(one->name(), "simulated, throttled to 0.0041 GB/s");
  std::vector<ReadCompletion> out(3);
  ASSERT_TRUE(one->submit(ops_[0]));
  ASSERT_TRUE(other->submit(ops_[1]));
  clock.advance(2'000'000);
  EXPECT_EQ(one->poll(out), 1u);
  EXPECT_EQ(other->poll(out), 0u);
  clock.advance(1'000'000);
  EXPECT_EQ(other->poll(out), 1u);
}

/// Before its time, whether it is there or on its way; others keep theirs.
TEST_F(Throttled, CancelledReadsEndAtOnce) {
  SimDiskFaults faults = instant();
  faults.hang_after_reads = 1;
  faults.hung_reads_cancel = true;
  Slow slow(3, test::run_seed(), faults, 1);
  std::vector<ReadCompletion> out(3);
  ASSERT_TRUE(slow.reader->submit(ops_[0]));
  ASSERT_TRUE(slow.reader->submit(ops_[1]));
  ASSERT_TRUE(slow.reader->submit(ops_[2]));
  EXPECT_EQ(slow.reader->poll(out), 0u);
  slow.reader->cancel(ops_[0]);
  slow.reader->cancel(ops_[2]);
  slow.reader->wait(BlockReader::kNoLimit);
  EXPECT_EQ(slow.disk->last_limit_ns(), 0) << "there is something to collect";
  ASSERT_EQ(slow.reader->poll(out), 2u);
  EXPECT_EQ(out[0].op, &ops_[0]);
  EXPECT_EQ(out[0].result, static_cast<int32_t>(kBlock)) << "it was too late";
  EXPECT_EQ(out[1].op, &ops_[2]);
  EXPECT_EQ(out[1].result, -ECANCELED);
  EXPECT_EQ(slow.reader->poll(out), 0u);
  EXPECT_EQ(slow.disk->in_flight(), 1u);
}

/// A pump ends its reads within its limit, whatever the rate.
TEST_F(Throttled, DrainsAtOnce) {
  SimDiskFaults faults;
  faults.max_latency = 6;
  Slow slow(8, test::run_seed(), faults, 1);  // a byte a second
  ReadPump pump(*slow.reader, slow.disk->clock());
  for (uint64_t i = 0; i < 8; ++i) {
    ASSERT_TRUE(pump.start({&file_, i * kBlock, ops_[i].target, kBlock, kBlock, i}));
  }
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(pump.poll().empty());
  EXPECT_TRUE(pump.drain());
  EXPECT_EQ(pump.active(), 0u);
  EXPECT_LT(slow.now_ns(), kDrainLimitNs / 10);
}

/// Through a pump and every fault that heals: the right bytes.
TEST_F(Throttled, BytesAreTheDisks) {
  const uint64_t seed = test::run_seed();
  SCOPED_TRACE(test::seed_note(seed));
  SimDiskFaults faults;
  faults.short_read = 0.3;
  faults.transient = 0.2;
  faults.io_error = 0.05;
  Slow slow(4, seed, faults, kBlockPerTick / 4);
  ReadPump pump(*slow.reader, slow.disk->clock());
  uint64_t started = 0;
  uint64_t finished = 0;
  while (finished < kMost) {
    while (started < kMost &&
           pump.start({&file_, started * kBlock, ops_[started].target, kBlock, kBlock, started})) {
      ++started;
    }
    finished += pump.poll().size();
    pump.wait();
  }
  for (const ReadOp& op : ops_) {
    for (uint64_t i = 0; i < kBlock; ++i) {
      ASSERT_EQ(op.target[i], test::sim_byte(file_, op.offset + i));
    }
  }
  EXPECT_GE(slow.now_ns(), int64_t{kMost} * 4 * 1'000'000);
}

/// Waits without a limit, before and while they are on, with a read that is not due for an hour.
TEST_F(Throttled, WakesEndWaits) {
  const test::TempDir dir;
  test::write_file(dir / "f", std::string(kBlock, 'x'));
  const DirectFile file(dir / "f", DirectChoice::kAuto);
  const SteadyClock clock;
  test::Notices notices;
  const auto drive = std::make_shared<SlowDrive>(1, clock);
  for (const EngineChoice engine : {EngineChoice::kAuto, EngineChoice::kPread}) {
    const auto reader = bench::throttled(choose_reader(engine, notices.sink()).make, drive)(2);
    ReadPump pump(*reader, clock);
    ASSERT_TRUE(pump.start({&file.info(), 0, buffer_.data(), kBlock, kBlock, 0}));
    EXPECT_TRUE(pump.poll().empty());
    for (int i = 0; i < 3; ++i) {  // the read that arrives ends one, too
      pump.wake();
      pump.wait();
      EXPECT_TRUE(pump.poll().empty());
    }
    std::thread waker([&] { pump.wake(); });
    pump.wait();
    waker.join();
    EXPECT_EQ(pump.active(), 1u);
    EXPECT_TRUE(pump.drain());
  }
}

}  // namespace
}  // namespace spillway
