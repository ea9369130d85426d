// Owner of one file descriptor. Move-only; any thread, one at a time.
#pragma once

#include <unistd.h>

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
  /// 0, or the errno of the close: some file systems say only then that a write failed.
  int reset();

 private:
  int fd_ = -1;
};

}  // namespace spillway
