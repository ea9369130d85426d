#include "core/read_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "core/descriptor.h"
#include "core/error.h"
#include "core/units.h"
#include "core/user_path.h"

namespace spillway {
namespace {

constexpr uint64_t kStepBytes = kMiB;

const char* kind_name(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

bool is_stream(mode_t mode) {
  return S_ISFIFO(mode) || S_ISCHR(mode);
}

[[noreturn]] void cannot_read(const std::filesystem::path& file, const TextFile& wanted,
                              int error) {
  const std::string dangling = error == ENOENT ? dangling_text(file) : "";
  if (!dangling.empty()) throw Error(dangling);
  throw Error(fmt::format("cannot read {}: {}; expected {}", file.string(), errno_text(error),
                          wanted.expected));
}

[[noreturn]] void wrong_kind(const std::filesystem::path& file, const TextFile& wanted,
                             mode_t mode) {
  throw Error(
      fmt::format("{}: is {}; expected {}", file.string(), kind_name(mode), wanted.expected));
}

[[noreturn]] void too_large(const std::filesystem::path& file, const TextFile& wanted) {
  throw Error(fmt::format("{}: more than {}; expected {} of at most that", file.string(),
                          format_bytes(wanted.max_bytes), wanted.expected));
}

std::string read_to_end(int fd, const std::filesystem::path& file, const TextFile& wanted,
                        uint64_t likely_bytes) {
  std::string text;
  uint64_t done = 0;
  while (true) {
    if (done > wanted.max_bytes) too_large(file, wanted);
    if (done == text.size()) {
      const uint64_t step = std::max({likely_bytes + 1, kStepBytes, done / 2});
      text.resize(std::min(done + step, wanted.max_bytes + 1));
    }
    const ssize_t got = read(fd, text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) cannot_read(file, wanted, errno);
    if (got == 0) break;
    done += static_cast<uint64_t>(got);
    likely_bytes = 0;
  }
  text.resize(done);
  return text;
}

}  // namespace

std::string read_text_stream(int fd, const std::string& name, const TextFile& wanted) {
  return read_to_end(fd, name, wanted, 0);
}

std::string read_text_file(const std::filesystem::path& file, const TextFile& wanted) {
  if (wanted.kind == FileKind::kText && file == kStdin) {  // not /dev/stdin, which opens anew
    return read_text_stream(STDIN_FILENO, "standard input", wanted);
  }
  // A stream is waited for, so that it is opened once and as such: its writer may be gone before a
  // second open. All else is opened without waiting: a pipe without a writer would hold it for
  // ever.
  struct stat status {};
  const bool waits = wanted.kind != FileKind::kPlain && stat(file.c_str(), &status) == 0 &&
                     is_stream(status.st_mode);
  const Descriptor first(
      open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | (waits ? 0 : O_NONBLOCK)));
  if (first.get() < 0) {
    const int error = errno;
    if (error == ENXIO && stat(file.c_str(), &status) == 0)
      wrong_kind(file, wanted, status.st_mode);
    cannot_read(file, wanted, error);
  }
  if (fstat(first.get(), &status) != 0) cannot_read(file, wanted, errno);
  if (S_ISREG(status.st_mode)) {
    const auto bytes = static_cast<uint64_t>(status.st_size);
    if (bytes > wanted.max_bytes) too_large(file, wanted);
    return read_to_end(first.get(), file, wanted, bytes);
  }
  if (!waits || !is_stream(status.st_mode)) wrong_kind(file, wanted, status.st_mode);
  return read_to_end(first.get(), file, wanted, 0);
}

}  // namespace spillway
