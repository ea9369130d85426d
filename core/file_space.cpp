#include "core/file_space.h"

#include <fcntl.h>
#include <sys/statvfs.h>

#include <cerrno>

namespace spillway {

int reserve_space(int fd, uint64_t bytes) {
  constexpr int kMaxTries = 1000;
  if (bytes == 0) return 0;
  int error = EINTR;
  for (int tries = 0; error == EINTR && tries < kMaxTries; ++tries) {
    error = fallocate(fd, 0, 0, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
  }
  return error == ENOSYS ? EOPNOTSUPP : error;
}

uint64_t free_space(int fd) {
  struct statvfs info {};
  return fstatvfs(fd, &info) == 0 ? uint64_t{info.f_bavail} * info.f_frsize : 0;
}

}  // namespace spillway
