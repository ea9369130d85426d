#include "io/open_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>

#include "core/clock.h"
#include "core/descriptor.h"
#include "core/error.h"
#include "io/pread_reader.h"
#include "io/read_pump.h"
#include "io/uring_reader.h"

namespace spillway {
namespace {

constexpr uint32_t kTrialBytes = 4096;
constexpr int64_t kTrialLimitNs = 1'000'000'000;

/// A full pipe, read like any file: it takes no file system, and no limit on the size of files
/// concerns it.
class TrialFile {
 public:
  TrialFile() {
    std::array<int, 2> ends{};
    if (pipe2(ends.data(), O_CLOEXEC) != 0) fail(errno);
    from_ = Descriptor(ends[0]);
    to_ = Descriptor(ends[1]);
    const std::array<char, kTrialBytes> zeros{};
    if (const int error = write_all(to_.get(), {zeros.data(), zeros.size()})) fail(error);
    file_.fd = from_.get();
    file_.path = "io_uring: a first read";
    file_.bytes = kTrialBytes;
  }
  const ReadFile& file() const { return file_; }

 private:
  [[noreturn]] static void fail(int error) {
    throw Error(fmt::format("io_uring cannot be tried: {}", errno_text(error)));
  }

  Descriptor from_;
  Descriptor to_;
  ReadFile file_;
};

/// One read from end to end: a filter of system calls may let a ring be made and not be enabled,
/// entered or answered. Throws Error.
void try_uring() {
  const SteadyClock clock;
  UringReader reader(1);
  const TrialFile trial;
  PumpedBuffer buffer(reader, clock, kTrialBytes);
  ReadPump& pump = buffer.pump();
  CHECK(pump.start({&trial.file(), 0, buffer.data(), kTrialBytes, kTrialBytes, 0}));
  const int64_t end_ns = clock.now_ns() + kTrialLimitNs;
  while (pump.poll().empty()) {
    const int64_t left_ns = end_ns - clock.now_ns();
    if (left_ns <= 0) throw Error("io_uring does not answer a first read");
    pump.wait(left_ns);
  }
}

std::unique_ptr<BlockReader> make_pread(uint32_t depth) {
  return std::make_unique<PreadReader>(depth);
}

std::unique_ptr<BlockReader> make_uring(uint32_t depth) {
  return std::make_unique<UringReader>(depth);
}

/// A limit that the trial did not meet (descriptors, locked memory on older kernels) may refuse a
/// later ring; said once.
ReaderFactory uring_or_pread(const NoticeSink& notice) {
  const auto said = std::make_shared<std::atomic<bool>>(false);
  return [notice, said](uint32_t depth) {
    try {
      return make_uring(depth);
    } catch (const Error& error) {
      if (!said->exchange(true)) {
        notice(fmt::format("{}: reading with pread threads instead where a ring cannot be had",
                           error.what()));
      }
    }
    return make_pread(depth);
  };
}

}  // namespace

ReaderChoice choose_reader(EngineChoice choice, const NoticeSink& notice) {
  const ReaderChoice pread{make_pread, "pread"};
  if (choice == EngineChoice::kPread) return pread;
  try {
    try_uring();
  } catch (const Error& error) {
    const std::string fix =
        "allow it with sysctl kernel.io_uring_disabled=0, or in a container with a seccomp "
        "profile that permits io_uring";
    if (choice == EngineChoice::kUring) throw Error(fmt::format("{}; {}", error.what(), fix));
    notice(fmt::format("{}: reading with pread threads instead; for the faster path {}",
                       error.what(), fix));
    return pread;
  }
  const bool strict = choice == EngineChoice::kUring;
  return {strict ? ReaderFactory(make_uring) : uring_or_pread(notice), "io_uring"};
}

}  // namespace spillway
