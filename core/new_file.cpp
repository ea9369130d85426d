#include "core/new_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "core/error.h"
#include "core/file_space.h"
#include "core/units.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kDiskBlock = 4096;
constexpr mode_t kNewFileMode = 0644;

/// The name of an open file by which it can be given another.
std::string own_name(int fd) {
  return fmt::format("/proc/self/fd/{}", fd);
}

fs::path folder_of(const fs::path& file) {
  return file.has_parent_path() ? file.parent_path() : fs::path(".");
}

int open_direct(const fs::path& path, int flags) {
  const int fd = open(path.c_str(), flags | O_WRONLY | O_CLOEXEC | O_DIRECT, kNewFileMode);
  return fd >= 0 || errno != EINVAL
             ? fd
             : open(path.c_str(), flags | O_WRONLY | O_CLOEXEC, kNewFileMode);
}

}  // namespace

NewFile::NewFile(const fs::path& path, uint64_t bytes)
    : path_(path), bytes_(bytes), buffer_(kBufferBytes, "") {
  std::error_code error;
  const auto type = fs::symlink_status(path_, error).type();
  if (type != fs::file_type::not_found && type != fs::file_type::none) {
    fail("create", EEXIST);
  }
  if (!open_unnamed()) open_named();
  if (const int problem = reserve()) {
    if (!temporary_.empty()) unlink(temporary_.c_str());
    fail("reserve space for", problem);
  }
}

NewFile::NewFile(NewFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      bytes_(other.bytes_),
      buffer_(std::move(other.buffer_)),
      filled_(other.filled_),
      flushed_(other.flushed_),
      fd_(std::move(other.fd_)) {}

NewFile::~NewFile() {
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

int NewFile::reserve() const {
  const int error = reserve_space(fd_.get(), align_up(bytes_, kDiskBlock));
  return error == EOPNOTSUPP ? 0 : error;
}

/// Needs the file system's help, and /proc to give it a name in the end.
bool NewFile::open_unnamed() {
  fd_ = Descriptor(open_direct(folder_of(path_), O_TMPFILE));
  struct stat status {};
  if (fd_.valid() && stat(own_name(fd_.get()).c_str(), &status) == 0) return true;
  fd_.reset();
  return false;
}

void NewFile::open_named() {
  temporary_ = path_.string() + kPartial;
  fd_ = Descriptor(open_direct(temporary_, O_CREAT | O_EXCL));
  if (fd_.valid()) return;
  const int problem = errno;
  const fs::path name = std::exchange(temporary_, {});
  if (problem == EEXIST) {
    throw Error(
        fmt::format("cannot create {}: {} is there, maybe of a run that was killed; "
                    "remove it",
                    path_.string(), name.string()));
  }
  fail("create", problem);
}

void NewFile::fail(const char* what, int error) const {
  std::string advice;
  if (error == ENOSPC) advice = "; free some space or choose a smaller model, nothing was kept";
  if (error == EEXIST) advice = "; choose another name or remove it";
  throw Error(fmt::format("cannot {} {}: {}{}", what, path_.string(), errno_text(error), advice));
}

std::span<std::byte> NewFile::room() {
  if (filled_ == kBufferBytes) flush(kBufferBytes);
  return {buffer_.data() + filled_, kBufferBytes - filled_};
}

void NewFile::write(std::string_view text) {
  while (!text.empty()) {
    const auto space = room();
    const size_t count = std::min(space.size(), text.size());
    std::memcpy(space.data(), text.data(), count);
    commit(count);
    text.remove_prefix(count);
  }
}

void NewFile::write_zeros(uint64_t count) {
  while (count > 0) {
    const auto space = room();
    const uint64_t some = std::min<uint64_t>(space.size(), count);
    std::memset(space.data(), 0, some);
    commit(some);
    count -= some;
  }
}

void NewFile::flush(uint64_t bytes) {
  const int error = write_all(fd_.get(), {reinterpret_cast<const char*>(buffer_.data()), bytes});
  if (error != 0) fail("write", error);
  flushed_ += std::min(filled_, bytes);
  filled_ = 0;
}

void NewFile::finish() {
  CHECK(position() == bytes_);
  const uint64_t rest = align_up(filled_, kDiskBlock);
  std::memset(buffer_.data() + filled_, 0, rest - filled_);
  flush(rest);
  buffer_ = HugeBuffer();
  if (ftruncate(fd_.get(), static_cast<off_t>(bytes_)) != 0) fail("cut", errno);
  if (const int error = sync_file(fd_.get())) fail("sync", error);
}

int NewFile::link_name() const {
  if (temporary_.empty()) {
    return linkat(AT_FDCWD, own_name(fd_.get()).c_str(), AT_FDCWD, path_.c_str(),
                  AT_SYMLINK_FOLLOW) == 0
               ? 0
               : errno;
  }
  if (renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, path_.c_str(), RENAME_NOREPLACE) == 0) {
    return 0;
  }
  if (errno != EINVAL && errno != ENOSYS) return errno;
  // A file system that cannot refuse by itself: who comes between these two lines is lost.
  if (access(path_.c_str(), F_OK) == 0) return EEXIST;
  return std::rename(temporary_.c_str(), path_.c_str()) == 0 ? 0 : errno;
}

/// Else a crash of the system may take the name away again. A folder that may be written but not
/// read cannot be synced.
int NewFile::sync_folder() const {
  const Descriptor folder(open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.valid()) return sync_file(folder.get());
  return errno == EACCES ? 0 : errno;
}

void NewFile::publish() {
  if (const int error = link_name()) fail("rename", error);
  temporary_.clear();
  if (const int error = fd_.reset()) {
    unlink(path_.c_str());
    fail("close", error);
  }
  if (const int error = sync_folder()) {
    unlink(path_.c_str());
    fail("sync the folder of", error);
  }
}

void check_room(const fs::path& path, uint64_t bytes, const std::string& advice) {
  struct statvfs info {};
  fs::path there = fs::absolute(path);
  while (statvfs(there.c_str(), &info) != 0) {
    if (!there.has_relative_path()) return;  // writing will tell
    there = there.parent_path();
  }
  const uint64_t free_bytes = uint64_t{info.f_bavail} * info.f_frsize;
  if (free_bytes < bytes) {
    throw Error(fmt::format("{}: {} are needed but {} are free; {}", path.string(),
                            format_bytes(bytes), format_bytes(free_bytes), advice));
  }
}

}  // namespace spillway
