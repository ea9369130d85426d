#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <new>
#include <thread>

#include "core/buffer.h"
#include "core/error.h"
#include "core/units.h"
#include "io/direct_file.h"
#include "io/open_reader.h"
#include "io/pread_reader.h"
#include "io/read_pump.h"
#include "io/uring_reader.h"
#include "tests/sim/allocation_count.h"
#include "tests/sim/denied_calls.h"
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
  const auto reader = choose_reader(GetParam().engine, notices.sink()).make(5);
  HugeBuffer buffer(shape.bytes + 4096);
  if (GetParam().registered) {
    const std::span<std::byte> whole(buffer.data(), buffer.bytes());
    reader->register_buffers({&whole, 1});
  }
  const SteadyClock clock;
  ReadPump pump(*reader, clock);
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
  const SteadyClock clock;
  ReadPump pump(reader, clock);
  HugeBuffer buffer(64 * kKiB);
  ASSERT_TRUE(pump.start({&file.info(), 0, buffer.data(), 64 * kKiB, 64 * kKiB, 1}));
  const std::string message = test::error_of([&] {
    while (pump.poll().empty()) pump.wait();
  });
  EXPECT_NE(message.find("shorter than when it was opened"), std::string::npos) << message;
}

/// A reader that still had reads of the pump's in it would take no others.
TEST(Readers, ThePumpsEndWaitsForReadsInFlight) {
  const test::TempDir dir;
  test::write_file(dir / "f", std::string(8 * kMiB, 'x'));
  const DirectFile file(dir / "f", DirectChoice::kAuto);
  for (const EngineChoice engine : {EngineChoice::kAuto, EngineChoice::kPread}) {
    test::Notices notices;
    const HugeBuffer buffer(8 * kMiB);
    const auto reader = choose_reader(engine, notices.sink()).make(4);
    const SteadyClock clock;
    for (int round = 0; round < 2; ++round) {
      ReadPump pump(*reader, clock);
      for (uint64_t i = 0; i < 4; ++i) {
        ASSERT_TRUE(pump.start({&file.info(), i * kMiB, buffer.data() + i * kMiB, kMiB, kMiB, i}));
      }
      ASSERT_FALSE(pump.start({&file.info(), 0, buffer.data(), kMiB, kMiB, 4}));
    }
  }
}

class Wakes : public ::testing::TestWithParam<EngineChoice> {
 protected:
  std::unique_ptr<BlockReader> reader() {
    return choose_reader(GetParam(), notices_.sink()).make(2);
  }
  test::Notices notices_;
};

/// Before a wait, while it is on, several times, after reads: no wait is left without its wake-up,
/// and none here has a limit.
TEST_P(Wakes, EndAWait) {
  const auto reader = this->reader();
  reader->wake();
  reader->wait(BlockReader::kNoLimit);
  reader->wake();
  reader->wake();
  reader->wait(BlockReader::kNoLimit);
  std::vector<ReadCompletion> none(2);
  reader->wake();
  EXPECT_EQ(reader->poll(none), 0u);
  reader->wait(BlockReader::kNoLimit);
  std::thread waker([&] { reader->wake(); });
  reader->wait(BlockReader::kNoLimit);
  waker.join();
  reader->wait(0);  // nothing left over: its limit ends it
}

TEST_P(Wakes, AndReadsDoNotSwallowEachOther) {
  const test::TempDir dir;
  test::write_file(dir / "f", std::string(64 * kKiB, 'x'));
  const DirectFile file(dir / "f", DirectChoice::kAuto);
  const HugeBuffer buffer(64 * kKiB);
  const auto reader = this->reader();
  const SteadyClock clock;
  ReadPump pump(*reader, clock);
  for (uint64_t round = 0; round < 200; ++round) {
    ASSERT_TRUE(pump.start({&file.info(), 0, buffer.data(), 4096, 4096, round}));
    if (round % 3 == 0) pump.wake();
    uint64_t finished = 0;
    while ((finished += pump.poll().size()) == 0) pump.wait();
    if (round % 3 == 1) {
      pump.wake();
      reader->wait(BlockReader::kNoLimit);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, Wakes, ::testing::Values(EngineChoice::kAuto, EngineChoice::kPread),
                         [](const auto& test) {
                           return test.param == EngineChoice::kAuto ? "uring" : "pread";
                         });

/// A pipe that nobody writes to is a drive that never answers: io_uring gives up its read.
TEST(SilentDrive, IsCancelled) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const ReadFile file{ends[0], "pipe", kMiB, 4096, false};
  const HugeBuffer buffer(64 * kKiB);
  test::Notices notices;
  const auto reader = choose_reader(EngineChoice::kAuto, notices.sink()).make(2);
  if (reader->name() != "io_uring") GTEST_SKIP() << "no io_uring here";
  const SteadyClock clock;
  ReadPump pump(*reader, clock);
  ASSERT_TRUE(pump.start({&file, 0, buffer.data(), 4096, 4096, 0}));
  EXPECT_TRUE(pump.poll().empty());
  EXPECT_TRUE(pump.drain());
  close(ends[0]);
  close(ends[1]);
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
  EXPECT_EQ(readers.make(1)->name(), "pread");
  ASSERT_EQ(notices.lines.size(), 1u);
  EXPECT_NE(notices.lines[0].find("reading with pread threads instead"), std::string::npos);
  EXPECT_NE(notices.lines[0].find("io_uring_disabled=0"), std::string::npos);
  EXPECT_NE(strict.find("io_uring is not available"), std::string::npos) << strict;
}

/// System calls of io_uring that a filter refuses, each in its way.
struct Denied {
  const char* name;
  int call;
  int error;
};

class DeniedUring : public ::testing::TestWithParam<Denied> {};

TEST_P(DeniedUring, IsNoticedByOneReadAtTheStart) {
  EXPECT_EQ(test::in_child([] {
              test::deny_calls({GetParam().call}, GetParam().error);
              test::Notices notices;
              const auto readers = choose_reader(EngineChoice::kAuto, notices.sink());
              if (readers.make(4)->name() != "pread") return 1;
              if (notices.lines.size() != 1) return 2;
              if (notices.lines[0].find("reading with pread threads") == std::string::npos)
                return 3;
              return 0;
            }),
            0);
  if (GetParam().error == EBUSY) return;  // as above, and it takes its time
  EXPECT_EQ(test::in_child([] {
              test::deny_calls({GetParam().call}, GetParam().error);
              const std::string message =
                  test::error_of([] { choose_reader(EngineChoice::kUring, {}); });
              return message.find("seccomp profile") != std::string::npos ? 0 : 1;
            }),
            0);
}

INSTANTIATE_TEST_SUITE_P(All, DeniedUring,
                         ::testing::Values(Denied{"setup", __NR_io_uring_setup, EPERM},
                                           Denied{"setup_missing", __NR_io_uring_setup, ENOSYS},
                                           Denied{"enter", __NR_io_uring_enter, EPERM},
                                           Denied{"enter_busy", __NR_io_uring_enter, EBUSY},
                                           Denied{"register", __NR_io_uring_register, EACCES}),
                         [](const auto& test) { return std::string(test.param.name); });

/// The trial writes no file, whose size a service may have limited to nothing.
TEST(ChooseReader, NeedsNoFile) {
  EXPECT_EQ(test::in_child([] {
              test::Notices notices;
              const std::string before = choose_reader(EngineChoice::kAuto, notices.sink()).name;
              std::signal(SIGXFSZ, SIG_IGN);
              const rlimit none{0, 0};
              if (setrlimit(RLIMIT_FSIZE, &none) != 0) return 1;
              const auto readers = choose_reader(EngineChoice::kAuto, notices.sink());
              return readers.name == before && readers.make(1)->name() == before ? 0 : 2;
            }),
            0);
}

/// The trial found io_uring to work; a limit refuses the next ring all the same.
TEST(ChooseReader, FallsBackWhereALaterRingCannotBeHad) {
  EXPECT_EQ(test::in_child([] {
              test::Notices notices;
              const auto readers = choose_reader(EngineChoice::kAuto, notices.sink());
              if (readers.name != "io_uring") return 0;  // nothing to fall back from
              const auto strict = choose_reader(EngineChoice::kUring, notices.sink());
              test::deny_calls({__NR_io_uring_setup}, ENOMEM);
              for (int i = 0; i < 2; ++i) {
                if (readers.make(4)->name() != "pread") return 1;
              }
              if (notices.lines.size() != 1) return 2;
              if (notices.lines[0].find("allocate memory") == std::string::npos) return 3;
              return test::error_of([&] { strict.make(4); }).empty() ? 4 : 0;
            }),
            0);
}

bool uring_works() {
  test::Notices notices;
  return choose_reader(EngineChoice::kAuto, notices.sink()).make(1)->name() == "io_uring";
}

/// Reads are in flight when the ring breaks: an error, no std::terminate, no wait without end.
TEST(UringReader, ThatBreaksIsAnErrorAndIsLeft) {
  if (!uring_works()) GTEST_SKIP() << "no io_uring here";
  EXPECT_EQ(test::in_child([] {
              const test::TempDir dir;
              test::write_file(dir / "f", std::string(64 * kKiB, 'x'));
              const DirectFile file(dir / "f", DirectChoice::kAuto);
              UringReader reader(4);
              const SteadyClock clock;
              PumpedBuffer buffer(reader, clock, 64 * kKiB);
              buffer.pump().start({&file.info(), 0, buffer.data(), 4096, 4096, 0});
              test::deny_calls({__NR_io_uring_enter}, EPERM);
              const std::string message = test::error_of([&] {
                while (buffer.pump().poll().empty()) buffer.pump().wait();
              });
              return message.find("Operation not permitted") != std::string::npos ? 0 : 1;
            }),
            0);
}

TEST(UringReader, BuffersThatCannotBeRegisteredSayWhy) {
  if (!uring_works()) GTEST_SKIP() << "no io_uring here";
  EXPECT_EQ(test::in_child([] {
              UringReader reader(4);
              const HugeBuffer buffer(4 * kMiB);
              const std::span<std::byte> whole(buffer.data(), buffer.bytes());
              test::deny_calls({__NR_io_uring_register}, ENOMEM);
              const BufferRegistration registration = reader.register_buffers({&whole, 1});
              if (registration.bytes != 0) return 1;
              return registration.refusal.find("allocate memory") != std::string::npos ? 0 : 2;
            }),
            0);
}

/// More than the kernel's limit for one buffer; nothing touches the memory.
TEST(UringReader, RegistersLargeMemoryInPieces) {
  const uint64_t bytes = 2 * kGiB + kMiB;
  void* raw =
      mmap(nullptr, bytes + kMiB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  ASSERT_NE(raw, MAP_FAILED);
  auto* data = static_cast<std::byte*>(raw);
  const std::vector<std::span<std::byte>> buffers = {{data, bytes}, {data + bytes, kMiB}};
  for (const uint64_t wanted : {bytes + kMiB, bytes + 5, 2 * kGiB, kGiB + 1, kGiB, uint64_t{7}}) {
    const std::byte* next = data;
    for (const std::span<std::byte> piece : registration_pieces(buffers, wanted)) {
      EXPECT_EQ(piece.data(), next);
      EXPECT_LE(piece.size(), kGiB) << "the kernel refuses more";
      EXPECT_GT(piece.size(), 0u);
      next += piece.size();
    }
    EXPECT_EQ(static_cast<uint64_t>(next - data), wanted);
  }
  munmap(raw, bytes + kMiB);
}

TEST(PreadReader, WithoutAnyThreadIsAnError) {
  EXPECT_EQ(test::in_child([] {
              test::deny_calls({__NR_clone, __NR_clone3}, EAGAIN);
              const std::string message = test::error_of([] { const PreadReader reader(8); });
              return message.find("ulimit -u") != std::string::npos ? 0 : 1;
            }),
            0);
}

/// Wherever memory runs out, threads that run already are ended first.
TEST(PreadReader, WithoutMemoryIsAnErrorLikeAnother) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer allocates itself";
#endif
  int code = 1;
  for (uint64_t allocation = 1; code == 1; ++allocation) {
    code = test::in_child([&] {
      test::fail_allocation(allocation);
      try {
        const PreadReader reader(8);
      } catch (const std::bad_alloc&) {
        return 1;
      }
      return allocation > 8 ? 0 : 2;
    });
  }
  EXPECT_EQ(code, 0);
}

/// Room for the stacks of a few threads.
TEST(PreadReader, ReadsWithTheThreadsItGets) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer needs its addresses";
#endif
  EXPECT_EQ(test::in_child([] {
              const test::TempDir dir;
              test::write_file(dir / "f", std::string(64 * kKiB, 'x'));
              const DirectFile file(dir / "f", DirectChoice::kOff);
              const HugeBuffer buffer(64 * kKiB);
              const SteadyClock clock;
              rlimit stack{};
              getrlimit(RLIMIT_STACK, &stack);
              if (stack.rlim_cur == RLIM_INFINITY) return 0;
              uint64_t pages = 0;
              std::FILE* statm = std::fopen("/proc/self/statm", "r");
              if (statm == nullptr || std::fscanf(statm, "%lu", &pages) != 1) return 1;
              std::fclose(statm);
              const uint64_t bytes = pages * 4096 + 3 * (stack.rlim_cur + kMiB);
              const rlimit few{bytes, RLIM_INFINITY};
              if (setrlimit(RLIMIT_AS, &few) != 0) return 2;
              PreadReader reader(8);
              if (reader.threads() == 0 || reader.threads() >= 8) return 3;
              ReadPump pump(reader, clock);
              for (uint64_t i = 0; i < 8; ++i) {
                pump.start({&file.info(), i * 4096, buffer.data() + i * 4096, 4096, 4096, i});
              }
              size_t finished = 0;
              while ((finished += pump.poll().size()) < 8) pump.wait();
              return buffer.data()[7 * 4096] == std::byte{'x'} ? 0 : 4;
            }),
            0);
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
  const test::SimClock clock;
  std::string message;
  ReadOp whole = op_of(file, 8192, 8192);
  EXPECT_EQ(classify_read(whole, 8192, clock, message), ReadOutcome::kDone);
  ReadOp tail = op_of(file, 8192, 5000);
  EXPECT_EQ(classify_read(tail, 5000, clock, message), ReadOutcome::kDone);
  ReadOp brief = op_of(file, 8192, 8192);
  EXPECT_EQ(classify_read(brief, 4097, clock, message), ReadOutcome::kAgain);
  EXPECT_EQ(brief.next_offset(), 4096u);
  EXPECT_EQ(brief.next_bytes(), 4096u);
  EXPECT_EQ(classify_read(brief, 4096, clock, message), ReadOutcome::kDone);
  ReadOp end = op_of(file, 8192, 8192);
  EXPECT_EQ(classify_read(end, 0, clock, message), ReadOutcome::kFailed);
  EXPECT_NE(message.find("f: reading 8192 bytes at offset 0"), std::string::npos);
  ReadOp impossible = op_of(file, 8192, 8192);
  EXPECT_EQ(classify_read(impossible, 9000, clock, message), ReadOutcome::kFailed);
  ReadOp denied = op_of(file, 8192, 8192);
  EXPECT_EQ(classify_read(denied, -EACCES, clock, message), ReadOutcome::kFailed);
  EXPECT_NE(message.find("Permission denied"), std::string::npos);
}

/// One read that never gets on: how often it is tried, for how long, and the longest pause.
struct Retries {
  uint32_t tries = 0;
  int64_t duration_ns = 0;
  int64_t first_pause_ns = 0;
  int64_t longest_pause_ns = 0;
  std::string message;
};

Retries retries_of(int32_t result, int64_t each_ns) {
  const ReadFile file{-1, "f", 100000, 4096, true};
  test::SimClock clock;
  ReadOp op = op_of(file, 8192, 8192);
  Retries retries;
  while (classify_read(op, result, clock, retries.message) == ReadOutcome::kAgain) {
    const int64_t pause_ns = std::max<int64_t>(0, op.not_before_ns - clock.now_ns());
    if (retries.tries == 0) retries.first_pause_ns = pause_ns;
    retries.longest_pause_ns = std::max(retries.longest_pause_ns, pause_ns);
    ++retries.tries;
    clock.advance(pause_ns + each_ns);
  }
  retries.duration_ns = clock.now_ns();
  return retries;
}

TEST(ReadOutcome, WhatPassesIsTriedForSecondsWithPauses) {
  for (const int error : {EIO, ETIMEDOUT, ENODATA, ENOLINK, EREMOTEIO}) {
    const Retries retries = retries_of(-error, 0);
    EXPECT_GT(retries.tries, 10u) << error;
    EXPECT_GE(retries.first_pause_ns, 1'000'000) << error;
    EXPECT_LE(retries.longest_pause_ns, 1'000'000'000) << error;
    EXPECT_GE(retries.duration_ns, kRetryLimitNs) << error;
    EXPECT_LE(retries.duration_ns, kRetryLimitNs + 1'000'000'000) << error;
    EXPECT_NE(retries.message.find("retries in 10"), std::string::npos) << retries.message;
  }
  for (const int error : {EAGAIN, EINTR, EBUSY, ENOMEM}) {
    const Retries retries = retries_of(-error, 0);
    EXPECT_GT(retries.tries, 16u) << error;
    EXPECT_LE(retries.tries, kMaxRetries) << error;
    EXPECT_EQ(retries.first_pause_ns, 0) << error;
    EXPECT_LE(retries.duration_ns, kRetryLimitNs + 1'000'000'000) << error;
  }
}

TEST(ReadOutcome, RetriesAreBounded) {
  // A drive that takes half a minute to fail is asked once more, not for minutes.
  EXPECT_EQ(retries_of(-ETIMEDOUT, 30'000'000'000).tries, 1u);
  // A clock that stands still bounds nothing; the count does.
  const ReadFile file{-1, "f", 100000, 4096, true};
  const test::SimClock still;
  for (const int32_t result : {-EIO, -EAGAIN, 10}) {
    ReadOp op = op_of(file, 8192, 8192);
    std::string message;
    uint32_t tries = 0;
    while (classify_read(op, result, still, message) == ReadOutcome::kAgain) ++tries;
    EXPECT_EQ(tries, kMaxRetries);
    EXPECT_NE(message.find("64 retries"), std::string::npos) << message;
  }
  EXPECT_NE(retries_of(10, 0).message.find("shorter than when it was opened"), std::string::npos);
  EXPECT_EQ(retries_of(10, 0).duration_ns, 0) << "the end of a file is not waited for";
}

TEST(ReadOutcome, ProgressBeginsAnew) {
  const ReadFile file{-1, "f", 100000, 4096, true};
  test::SimClock clock;
  ReadOp op = op_of(file, 16384, 16384);
  std::string message;
  EXPECT_EQ(classify_read(op, -EIO, clock, message), ReadOutcome::kAgain);
  clock.advance(2 * kRetryLimitNs);
  EXPECT_EQ(classify_read(op, 4096, clock, message), ReadOutcome::kAgain);
  EXPECT_LE(op.not_before_ns, clock.now_ns());
  EXPECT_EQ(classify_read(op, -EIO, clock, message), ReadOutcome::kAgain);
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
    ReadPump pump(disk, disk.clock());
    uint64_t next = 0;
    uint64_t finished = 0;
    for (int ticks = 0; finished < 21; ++ticks) {
      ASSERT_LT(ticks, 10000) << "no progress";
      while (next < 21) {
        const uint64_t offset = next * 8192;
        const auto needed = static_cast<uint32_t>(std::min<uint64_t>(8192, file.bytes - offset));
        if (!pump.start({&file, offset, buffer.data() + offset,
                         static_cast<uint32_t>(align_up(needed, 4096)), needed, next})) {
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

class Pump : public ::testing::Test {
 protected:
  static constexpr uint32_t kReads = 3;
  void start(ReadPump& pump) {
    for (uint64_t i = 0; i < kReads; ++i) {
      ASSERT_TRUE(pump.start({&file_, i * 4096, buffer_.data() + i * 4096, 4096, 4096, i}));
    }
  }
  const ReadFile file_{-1, "sim", kMiB, 4096, true};
  HugeBuffer buffer_{kMiB};
};

/// A controller that is gone for four seconds.
TEST_F(Pump, OutlastsAResetOfTheController) {
  SimDiskFaults faults;
  faults.io_error_forever = true;
  for (const int error : {EIO, ETIMEDOUT, ENODATA}) {
    faults.error = error;
    SimDisk disk(kReads, test::run_seed(), faults);
    ReadPump pump(disk, disk.clock());
    start(pump);
    uint64_t finished = 0;
    while (finished < kReads) {
      if (disk.clock().now_ns() > 4'000'000'000) disk.set_faults({});
      finished += pump.poll().size();
      ASSERT_LT(disk.clock().now_ns(), kRetryLimitNs);
      pump.wait();
    }
  }
}

/// Nothing is in flight while a read waits to be tried again: the pump waits for its time, in a few
/// waits, and does not turn in circles.
TEST_F(Pump, WaitsUntilARetryIsDue) {
  SimDiskFaults faults;
  faults.io_error_forever = true;
  faults.max_latency = 0;
  SimDisk disk(kReads, test::run_seed(), faults);
  test::SimClock clock;
  ReadPump pump(disk, clock);
  start(pump);
  EXPECT_TRUE(pump.poll().empty());
  EXPECT_EQ(disk.in_flight(), 0u);
  EXPECT_EQ(pump.active(), kReads);
  EXPECT_TRUE(pump.poll().empty());
  EXPECT_EQ(disk.in_flight(), 0u) << "not before its time";
  pump.wait();
  EXPECT_GT(disk.last_limit_ns(), 0);
  EXPECT_LE(disk.last_limit_ns(), 1'000'000'000);
  clock.advance(1'000'000'000);
  disk.set_faults({});
  const bool answered = !pump.poll().empty();
  EXPECT_TRUE(answered || disk.in_flight() > 0);
  EXPECT_TRUE(pump.drain());
}

TEST_F(Pump, DrainCancelsWhatADriveLeavesUnanswered) {
  SimDiskFaults faults;
  faults.hang_after_reads = 1;
  faults.hung_reads_cancel = true;
  SimDisk disk(kReads, test::run_seed(), faults);
  ReadPump pump(disk, disk.clock());
  start(pump);
  EXPECT_TRUE(pump.drain());
  EXPECT_EQ(disk.in_flight(), 0u);
  EXPECT_EQ(pump.active(), 0u);
  EXPECT_LT(disk.clock().now_ns(), kDrainLimitNs / 10);
}

TEST_F(Pump, DrainGivesUpOnADriveThatNeverAnswers) {
  SimDiskFaults faults;
  faults.hang_after_reads = 1;
  SimDisk disk(kReads, test::run_seed(), faults);
  ReadPump pump(disk, disk.clock());
  start(pump);
  EXPECT_FALSE(pump.drain());
  EXPECT_GE(disk.clock().now_ns(), kDrainLimitNs);
  EXPECT_LT(disk.clock().now_ns(), 2 * kDrainLimitNs);
  const uint32_t waits = disk.waits();
  EXPECT_FALSE(pump.drain());
  EXPECT_EQ(disk.waits(), waits) << "waited a second time";
  EXPECT_FALSE(pump.start({&file_, 0, buffer_.data(), 4096, 4096, 0}));
}

TEST_F(Pump, DrainOfABrokenReaderDoesNotThrow) {
  SimDiskFaults faults;
  SimDisk disk(kReads, test::run_seed(), faults);
  ReadPump pump(disk, disk.clock());
  start(pump);
  faults.broken = true;
  disk.set_faults(faults);
  EXPECT_NE(test::error_of([&] { pump.poll(); }).find("broken"), std::string::npos);
  EXPECT_FALSE(pump.drain());
}

}  // namespace
}  // namespace spillway
