#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/buffer.h"
#include "core/error.h"
#include "core/units.h"
#include "io/direct_file.h"
#include "io/open_reader.h"
#include "io/pread_reader.h"
#include "io/read_pump.h"
#include "io/uring_reader.h"
#include "tests/sim/sim_disk.h"
#include "tests/support.h"

namespace spillway {
namespace {

using test::SimDisk;
using test::SimDiskFaults;

/// Every reader against one real file, with and without O_DIRECT.
struct ReaderCase {
  const char* name;
  EngineChoice engine;
  DirectChoice direct;
  bool registered;
};

class Readers : public ::testing::TestWithParam<ReaderCase> {};

TEST_P(Readers, DeliverTheFileToTheLastByte) {
  const test::TempDir dir;
  const ReadFile shape{-1, "x", 5 * kMiB + 1234, 4096, false};
  std::string content(shape.bytes, '\0');
  for (uint64_t i = 0; i < shape.bytes; ++i) {
    content[i] = static_cast<char>(test::sim_byte(shape, i));
  }
  test::write_file(dir / "f", content);
  const DirectFile file(dir / "f", GetParam().direct);
  test::Notices notices;
  const auto reader = choose_reader(GetParam().engine, notices.sink())(5);
  HugeBuffer buffer(shape.bytes + 4096);
  bool registered = false;
  if (GetParam().registered) {
    const std::span<std::byte> whole(buffer.data(), buffer.bytes());
    registered = reader->register_buffers({&whole, 1});
  }
  ReadPump pump(*reader);
  constexpr uint32_t kChunk = 256 * kKiB;
  uint64_t next = 0;
  uint64_t finished = 0;
  while (finished < ceil_div(shape.bytes, kChunk)) {
    while (next < shape.bytes) {
      ReadRequest request;
      request.file = &file.info();
      request.offset = next;
      request.target = buffer.data() + next;
      request.bytes =
          static_cast<uint32_t>(std::min<uint64_t>(kChunk, align_up(shape.bytes - next, 4096)));
      request.needed = static_cast<uint32_t>(std::min<uint64_t>(request.bytes, shape.bytes - next));
      request.buffer_index = registered ? 0 : -1;
      if (!pump.start(request)) break;
      next += kChunk;
    }
    EXPECT_LE(pump.active(), 5u);
    const size_t got = pump.poll().size();
    finished += got;
    if (got == 0) pump.wait();
  }
  EXPECT_EQ(std::memcmp(buffer.data(), content.data(), content.size()), 0);
}

INSTANTIATE_TEST_SUITE_P(
    All, Readers,
    ::testing::Values(
        ReaderCase{"uring_direct", EngineChoice::kAuto, DirectChoice::kAuto, false},
        ReaderCase{"uring_registered", EngineChoice::kAuto, DirectChoice::kAuto, true},
        ReaderCase{"uring_buffered", EngineChoice::kAuto, DirectChoice::kOff, false},
        ReaderCase{"pread_direct", EngineChoice::kPread, DirectChoice::kAuto, false},
        ReaderCase{"pread_buffered", EngineChoice::kPread, DirectChoice::kOff, false}),
    [](const auto& test) { return std::string(test.param.name); });

TEST(Readers, TruncatedWhileRunningIsOneError) {
  const test::TempDir dir;
  test::write_file(dir / "f", std::string(64 * kKiB, 'x'));
  const DirectFile file(dir / "f", DirectChoice::kAuto);
  ASSERT_EQ(truncate((dir / "f").c_str(), 8192), 0);
  PreadReader reader(2);
  ReadPump pump(reader);
  HugeBuffer buffer(64 * kKiB);
  ASSERT_TRUE(pump.start({&file.info(), 0, buffer.data(), 64 * kKiB, 64 * kKiB, -1, 1}));
  const std::string message = test::error_of([&] {
    while (pump.poll().empty()) pump.wait();
  });
  EXPECT_NE(message.find("shorter than when it was opened"), std::string::npos) << message;
}

TEST(Readers, DestructionWaitsForReadsInFlight) {
  const test::TempDir dir;
  test::write_file(dir / "f", std::string(8 * kMiB, 'x'));
  const DirectFile file(dir / "f", DirectChoice::kAuto);
  for (const EngineChoice engine : {EngineChoice::kAuto, EngineChoice::kPread}) {
    test::Notices notices;
    const HugeBuffer buffer(8 * kMiB);
    const auto reader = choose_reader(engine, notices.sink())(4);
    ReadPump pump(*reader);
    for (uint64_t i = 0; i < 4; ++i) {
      pump.start({&file.info(), i * kMiB, buffer.data() + i * kMiB, kMiB, kMiB, -1, i});
    }
  }
}

/// Also where the kernel takes O_DIRECT on it: no read there is one of a drive.
TEST(DirectFile, TmpfsIsNoDrive) {
  const std::filesystem::path path = "/dev/shm/spillway-direct-test";
  std::error_code error;
  if (file_system_name("/dev/shm") != "tmpfs") GTEST_SKIP() << "no tmpfs at /dev/shm";
  test::write_file(path, "hello");
  const DirectFile file(path, DirectChoice::kAuto);
  EXPECT_EQ(file.read_text(1, 3), "ell");
  EXPECT_FALSE(file.info().direct);
  EXPECT_NE(file.refused().find("tmpfs"), std::string::npos);
  EXPECT_NE(
      test::error_of([&] { const DirectFile strict(path, DirectChoice::kOn); }).find("ext4 or xfs"),
      std::string::npos);
  std::filesystem::remove(path, error);
}

TEST(DirectFile, MissingAndFolder) {
  EXPECT_NE(test::error_of([] {
              const DirectFile f("/nowhere/x", DirectChoice::kAuto);
            }).find("cannot open /nowhere/x: No such file"),
            std::string::npos);
  EXPECT_NE(test::error_of([] {
              const DirectFile f("/tmp", DirectChoice::kAuto);
            }).find("not a regular file"),
            std::string::npos);
}

/// With no descriptor left for a ring, as in a container that forbids io_uring.
TEST(ChooseReader, SaysWhenItFallsBack) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "UBSan checks objects through a pipe, which needs descriptors";
#endif
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  const int next_free = dup(0);
  ASSERT_GE(next_free, 0);
  close(next_free);
  const rlimit none_left{static_cast<rlim_t>(next_free), limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none_left), 0);
  test::Notices notices;
  const auto readers = choose_reader(EngineChoice::kAuto, notices.sink());
  const std::string strict =
      test::error_of([&] { choose_reader(EngineChoice::kUring, notices.sink()); });
  setrlimit(RLIMIT_NOFILE, &limit);
  EXPECT_EQ(readers(1)->name(), "pread");
  ASSERT_EQ(notices.lines.size(), 1u);
  EXPECT_NE(notices.lines[0].find("reading with pread threads instead"), std::string::npos);
  EXPECT_NE(notices.lines[0].find("io_uring_disabled=0"), std::string::npos);
  EXPECT_NE(strict.find("io_uring is not available"), std::string::npos) << strict;
}

ReadOp op_of(const ReadFile& file, uint32_t bytes, uint32_t needed) {
  ReadOp op;
  op.file = &file;
  op.bytes = bytes;
  op.needed = needed;
  return op;
}

TEST(ReadOutcome, ClassifiesEveryKindOfCompletion) {
  const ReadFile file{-1, "f", 100000, 4096, true};
  std::string message;
  ReadOp whole = op_of(file, 8192, 8192);
  EXPECT_EQ(classify_read(whole, 8192, message), ReadOutcome::kDone);
  ReadOp tail = op_of(file, 8192, 5000);
  EXPECT_EQ(classify_read(tail, 5000, message), ReadOutcome::kDone);
  ReadOp brief = op_of(file, 8192, 8192);
  EXPECT_EQ(classify_read(brief, 4097, message), ReadOutcome::kAgain);
  EXPECT_EQ(brief.next_offset(), 4096u);
  EXPECT_EQ(brief.next_bytes(), 4096u);
  EXPECT_EQ(classify_read(brief, 4096, message), ReadOutcome::kDone);
  ReadOp end = op_of(file, 8192, 8192);
  EXPECT_EQ(classify_read(end, 0, message), ReadOutcome::kFailed);
  EXPECT_NE(message.find("f: reading 8192 bytes at offset 0"), std::string::npos);
  ReadOp impossible = op_of(file, 8192, 8192);
  EXPECT_EQ(classify_read(impossible, 9000, message), ReadOutcome::kFailed);
  ReadOp denied = op_of(file, 8192, 8192);
  EXPECT_EQ(classify_read(denied, -EACCES, message), ReadOutcome::kFailed);
  EXPECT_NE(message.find("Permission denied"), std::string::npos);
}

TEST(ReadOutcome, RetriesAreBounded) {
  const ReadFile file{-1, "f", 100000, 4096, true};
  for (const int error : {EIO, EAGAIN, EINTR}) {
    ReadOp op = op_of(file, 8192, 8192);
    std::string message;
    uint32_t tries = 0;
    while (classify_read(op, -error, message) == ReadOutcome::kAgain) ++tries;
    EXPECT_EQ(tries, error == EIO ? kMaxErrorRetries : kMaxTransientRetries);
    EXPECT_NE(message.find("retries"), std::string::npos);
  }
  ReadOp crumbs = op_of(file, 8192, 8192);
  std::string message;
  uint32_t tries = 0;
  while (classify_read(crumbs, 10, message) == ReadOutcome::kAgain) ++tries;
  EXPECT_EQ(tries, kMaxTransientRetries);
}

TEST(ReadPump, HealsWhatCanBeHealed) {
  for (uint64_t round = 0; round < 50; ++round) {
    const uint64_t seed = test::run_seed() + round;
    SCOPED_TRACE(test::seed_note(seed));
    SimDiskFaults faults;
    faults.short_read = 0.3;
    faults.transient = 0.2;
    faults.queue_full = 0.2;
    faults.io_error = 0.01;
    SimDisk disk(4, seed, faults);
    const ReadFile file{-1, "sim", 40 * 4096 + 77, 4096, true};
    HugeBuffer buffer(41 * 4096);
    ReadPump pump(disk);
    uint64_t next = 0;
    uint64_t finished = 0;
    for (int ticks = 0; finished < 21; ++ticks) {
      ASSERT_LT(ticks, 10000) << "no progress";
      while (next < 21) {
        const uint64_t offset = next * 8192;
        const auto needed = static_cast<uint32_t>(std::min<uint64_t>(8192, file.bytes - offset));
        if (!pump.start({&file, offset, buffer.data() + offset,
                         static_cast<uint32_t>(align_up(needed, 4096)), needed, -1, next})) {
          break;
        }
        ++next;
      }
      finished += pump.poll().size();
    }
    for (uint64_t i = 0; i < file.bytes; ++i) {
      ASSERT_EQ(buffer.data()[i], test::sim_byte(file, i)) << i;
    }
  }
}

}  // namespace
}  // namespace spillway
