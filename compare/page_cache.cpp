#include "compare/page_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

uint64_t cached_bytes(int fd, uint64_t bytes) {
  const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  void* mapped = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
  if (mapped == MAP_FAILED) return 0;
  std::vector<unsigned char> pages(ceil_div(bytes, page));
  uint64_t cached = 0;
  if (mincore(mapped, bytes, pages.data()) == 0) {
    for (const unsigned char flags : pages) cached += (flags & 1u) != 0 ? page : 0;
  }
  munmap(mapped, bytes);
  return cached;
}

}  // namespace

uint64_t drop_cached(const std::filesystem::path& file) {
  const int fd = open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw Error(fmt::format("cannot open {}: {}", file.string(), errno_text(errno)));
  const auto bytes = static_cast<uint64_t>(lseek(fd, 0, SEEK_END));
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  const uint64_t left = bytes == 0 ? 0 : cached_bytes(fd, bytes);
  close(fd);
  return left;
}

}  // namespace spillway
