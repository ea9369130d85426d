#include "io/open_reader.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

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

/// A block of zeros in memory, read through a descriptor like any file.
class TrialFile {
 public:
  TrialFile() : descriptor_(memfd_create("spillway-trial", MFD_CLOEXEC)) {
    if (!descriptor_.valid() || ftruncate(descriptor_.get(), kTrialBytes) != 0) {
      throw Error(fmt::format("io_uring cannot be tried: {}", errno_text(errno)));
    }
    file_.fd = descriptor_.get();
    file_.path = "io_uring: a first read";
    file_.bytes = kTrialBytes;
  }
  const ReadFile& file() const { return file_; }

 private:
  Descriptor descriptor_;
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

}  // namespace

ReaderFactory choose_reader(EngineChoice choice, const NoticeSink& notice) {
  const ReaderFactory pread = [](uint32_t depth) { return std::make_unique<PreadReader>(depth); };
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
  return [](uint32_t depth) { return std::make_unique<UringReader>(depth); };
}

}  // namespace spillway
