#include "data/data_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <cerrno>

#include "core/error.h"
#include "core/one_line.h"
#include "core/read_file.h"
#include "core/units.h"
#include "core/user_path.h"

namespace spillway {
namespace {

const char* data_kind(mode_t mode) {
  if (S_ISDIR(mode)) return "a folder";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISSOCK(mode)) return "a socket";
  return "a device";
}

[[noreturn]] void throw_no_file(const std::string& name, const std::string& kind) {
  throw Error(fmt::format(
      "{}: is {}; a data set is read again when its job goes on, so it must be a file: write it to "
      "one first",
      name, kind));
}

[[noreturn]] void throw_not_opened(const std::filesystem::path& path, int error) {
  const std::string dangling = error == ENOENT ? dangling_text(path) : "";
  if (!dangling.empty()) throw Error(dangling);
  throw Error(fmt::format("cannot read {}: {}; expected a file of documents",
                          printable(path.string()), errno_text(error)));
}

FileState state_of(const struct stat& status) {
  return {static_cast<uint64_t>(status.st_size),
          int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec,
          static_cast<uint64_t>(status.st_dev), static_cast<uint64_t>(status.st_ino)};
}

}  // namespace

DataFile::DataFile(const std::filesystem::path& path) : name_(printable(path.string())) {
  if (path == kStdin) throw_no_file(name_, "standard input");
  // Without waiting: a pipe that nobody writes to would hold it for ever.
  descriptor_ = Descriptor(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK));
  struct stat status {};
  if (!descriptor_.valid()) {
    const int error = errno;
    if (error == ENXIO && stat(path.c_str(), &status) == 0) {
      throw_no_file(name_, data_kind(status.st_mode));
    }
    throw_not_opened(path, error);
  }
  if (fstat(descriptor_.get(), &status) != 0) throw_not_opened(path, errno);
  if (!S_ISREG(status.st_mode)) throw_no_file(name_, data_kind(status.st_mode));
  state_ = state_of(status);
}

void DataFile::read(uint64_t offset, std::span<char> into) const {
  CHECK(offset <= bytes() && into.size() <= bytes() - offset);
  while (!into.empty()) {
    const ssize_t got =
        pread(descriptor_.get(), into.data(), into.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      throw Error(fmt::format("{}: cannot read at offset {}: {}; the drive's log is in dmesg",
                              name_, offset, errno_text(errno)));
    }
    if (got == 0) {
      throw Error(fmt::format(
          "{}: ends at byte {} and had {} when it was opened: it was cut while it was read; "
          "restore it and start again",
          name_, offset, bytes()));
    }
    offset += static_cast<uint64_t>(got);
    into = into.subspan(static_cast<size_t>(got));
  }
}

std::string ending_of(const std::filesystem::path& path) {
  std::string ending = path.extension().string();
  std::transform(ending.begin(), ending.end(), ending.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return ending;
}

void check_unchanged(const std::filesystem::path& path, const FileState& then) {
  const std::string name = printable(path.string());
  struct stat status {};
  if (stat(path.c_str(), &status) != 0) {
    throw Error(fmt::format("{}: was there when it was opened and cannot be found now: {}", name,
                            errno_text(errno)));
  }
  const FileState now = state_of(status);
  if (now == then) return;
  if (now.bytes != then.bytes) {
    throw Error(
        fmt::format("{}: changed while it was read: {} when it was opened, {} now; what was read "
                    "may be a mixture of both: start again",
                    name, counted(then.bytes, "byte"), counted(now.bytes, "byte")));
  }
  throw Error(fmt::format(
      "{}: {} while it was read; what was read may be a mixture of both: start again", name,
      now.inode != then.inode || now.device != then.device ? "was replaced by another file"
                                                           : "was written to"));
}

}  // namespace spillway
