// Owner of one file descriptor, and writing to one. Move-only; any thread, one at a time.
#pragma once

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <string_view>
#include <utility>

namespace spillway {

class Descriptor {
 public:
  Descriptor() = default;
  /// Takes over `fd`; -1 = none.
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  /// The descriptor, which nobody closes now.
  int release() { return std::exchange(fd_, -1); }
  /// 0, or the errno of the close: some file systems say only then that a write failed.
  int reset() {
    const int fd = std::exchange(fd_, -1);
    return fd >= 0 && close(fd) != 0 ? errno : 0;
  }

 private:
  int fd_ = -1;
};

/// Writes all of `text`, past interruptions, partial writes and full pipes: a shell may hand over a
/// stream that does not block. 0, or the errno.
inline int write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t count = write(fd, text.data(), text.size());
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      pollfd room{fd, POLLOUT, 0};
      if (poll(&room, 1, -1) < 0 && errno != EINTR) return errno;
      continue;  // also where the reader is gone: the write says so
    }
    if (count <= 0) return count < 0 ? errno : EIO;
    text.remove_prefix(static_cast<size_t>(count));
  }
  return 0;
}

/// What was written is on the drive when this returns; some file systems cannot say. 0, or the
/// errno.
inline int sync_file(int fd) {
  if (fsync(fd) == 0 || errno == EINVAL || errno == ENOSYS || errno == ENOTSUP) return 0;
  return errno;
}

}  // namespace spillway
