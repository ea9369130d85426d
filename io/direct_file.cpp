#include "io/direct_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/stat.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <utility>

#include "core/buffer.h"
#include "core/error.h"
#include "core/user_path.h"

namespace spillway {
namespace {

constexpr uint32_t kDefaultAlignment = 4096;
constexpr uint32_t kMaxAlignment = 1u << 20;  // beyond, chunks and slabs would grow with it

int open_or_errno(const std::string& path, int flags) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | flags);
  return fd >= 0 ? fd : -errno;
}

/// From statx where the kernel tells (6.1 and later).
uint32_t told_alignment(int fd) {
#ifdef STATX_DIOALIGN
  struct statx info {};
  if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) == 0 &&
      (info.stx_mask & STATX_DIOALIGN) != 0 && info.stx_dio_offset_align != 0) {
    const uint32_t wanted = std::max(info.stx_dio_mem_align, info.stx_dio_offset_align);
    // Never below a page: huge-page slabs make it free, and drives work in 4 KiB anyway.
    return std::max(kDefaultAlignment, std::bit_ceil(wanted));
  }
#endif
  (void)fd;
  return kDefaultAlignment;
}

/// Some file systems open with O_DIRECT and fail the first read: try one. Returns errno or 0.
int probe_direct_read(int fd, uint32_t alignment, uint64_t file_bytes) {
  if (file_bytes == 0) return 0;
  const HugeBuffer block(alignment);
  const ssize_t got = pread(fd, block.data(), alignment, 0);
  return got < 0 ? errno : 0;
}

}  // namespace

DirectAlignment direct_alignment(int fd) {
  const uint32_t told = told_alignment(fd);
  if (told > kMaxAlignment) return {kDefaultAlignment, false};
  return {told, true};
}

std::string file_system_name(const std::filesystem::path& path) {
  struct statfs info {};
  if (statfs(path.c_str(), &info) != 0) return "unknown";
  constexpr std::array<std::pair<uint64_t, const char*>, 10> kNames{{{0xEF53, "ext4"},
                                                                     {0x58465342, "xfs"},
                                                                     {0x9123683E, "btrfs"},
                                                                     {0x01021994, "tmpfs"},
                                                                     {0x794C7630, "overlayfs"},
                                                                     {0x6969, "nfs"},
                                                                     {0x2FC12FC1, "zfs"},
                                                                     {0x01021997, "9p"},
                                                                     {0x73717368, "squashfs"},
                                                                     {0x65735546, "fuse"}}};
  for (const auto& [magic, name] : kNames) {
    if (static_cast<uint64_t>(info.f_type) == magic) return name;
  }
  return fmt::format("file system {:#x}", static_cast<uint64_t>(info.f_type));
}

DirectFile::DirectFile(const std::filesystem::path& path, DirectChoice choice) {
  info_.path = path.string();
  int fd = open_or_errno(info_.path, O_NONBLOCK);  // a pipe would be waited for
  if (fd < 0) {
    const std::string dangling = fd == -ENOENT ? dangling_text(path) : "";
    throw Error(dangling.empty() ? fmt::format("cannot open {}: {}", info_.path, errno_text(-fd))
                                 : dangling);
  }
  info_.fd = fd;
  struct stat status {};
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    close(fd);
    throw Error(
        fmt::format("{}: not a regular file; expected weights (safetensors or GGUF)", info_.path));
  }
  info_.bytes = static_cast<uint64_t>(status.st_size);
  if (choice == DirectChoice::kOff) return;

  const DirectAlignment needed = direct_alignment(fd);
  info_.alignment = needed.bytes;
  const int direct_fd = open_or_errno(info_.path, O_DIRECT);
  if (direct_fd == -EMFILE || direct_fd == -ENFILE) {  // no fault of the file system
    close(fd);
    throw Error(fmt::format("cannot open {}: {}", info_.path, errno_text(-direct_fd)));
  }
  const int error = !needed.usable  ? EINVAL
                    : direct_fd < 0 ? -direct_fd
                                    : probe_direct_read(direct_fd, info_.alignment, info_.bytes);
  const std::string system = file_system_name(path);
  const bool in_memory = system == "tmpfs";  // newer kernels take O_DIRECT there all the same
  if (error == 0 && !in_memory) {
    close(fd);
    info_.fd = direct_fd;
    info_.direct = true;
    return;
  }
  if (direct_fd >= 0) close(direct_fd);
  refused_ = in_memory
                 ? fmt::format("{} keeps files in memory, where O_DIRECT reaches no drive", system)
                 : fmt::format("{} refuses O_DIRECT: {}", system, errno_text(error));
  if (choice == DirectChoice::kOn) {
    close(fd);
    throw Error(fmt::format("{}: {}; set io.direct: auto or put the model on ext4 or xfs",
                            info_.path, refused_));
  }
}

DirectFile::DirectFile(DirectFile&& other) noexcept
    : info_(std::move(other.info_)), refused_(std::move(other.refused_)) {
  other.info_.fd = -1;
}

DirectFile::~DirectFile() {
  if (info_.fd >= 0) close(info_.fd);
}

std::string DirectFile::read_text(uint64_t offset, uint64_t bytes) const {
  const int fd = open_or_errno(info_.path, 0);
  if (fd < 0) throw Error(fmt::format("cannot open {}: {}", info_.path, errno_text(-fd)));
  std::string text(bytes, '\0');
  uint64_t done = 0;
  int error = 0;
  while (done < bytes) {
    const ssize_t got =
        pread(fd, text.data() + done, bytes - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      error = got < 0 ? errno : 0;
      break;
    }
    done += static_cast<uint64_t>(got);
  }
  close(fd);
  if (done == bytes) return text;
  throw Error(fmt::format("{}: cannot read {} bytes at offset {}: {}", info_.path, bytes, offset,
                          error != 0 ? errno_text(error) + "; the drive's log is in dmesg"
                                     : "the file ends before; fetch it again"));
}

}  // namespace spillway
