#include "io/unnamed_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "core/buffer.h"
#include "core/error.h"
#include "core/file_space.h"
#include "core/units.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

constexpr mode_t kOwnerOnly = 0600;
constexpr int kMaxTries = 16;  // of what a signal interrupts

[[noreturn]] void fail_to_make(const fs::path& folder, int error) {
  throw Error(fmt::format("cannot make a file for hidden states in {}: {}", folder.string(),
                          errno_text(error)));
}

/// For file systems without O_TMPFILE.
Descriptor open_and_unlink(const fs::path& folder) {
  std::string name = (folder / ".spillway-XXXXXX").string();
  Descriptor fd(mkostemp(name.data(), O_CLOEXEC));
  if (!fd.valid() || unlink(name.c_str()) != 0) fail_to_make(folder, errno);
  return fd;
}

Descriptor open_unnamed(const fs::path& folder) {
  // O_EXCL: nobody can give it a name later.
  Descriptor fd(open(folder.c_str(), O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, kOwnerOnly));
  return fd.valid() ? std::move(fd) : open_and_unlink(folder);
}

/// 0 or errno.
int set_direct(int fd, bool direct) {
  const int flags = fcntl(fd, F_GETFL);
  if (flags < 0) return errno;
  return fcntl(fd, F_SETFL, direct ? flags | O_DIRECT : flags & ~O_DIRECT) == 0 ? 0 : errno;
}

/// Some file systems take O_DIRECT and fail the first write: try one. 0 or errno.
int try_write(int fd, uint32_t alignment) {
  const HugeBuffer zeros(alignment, "");
  int error = EINTR;
  for (int tries = 0; error == EINTR && tries < kMaxTries; ++tries) {
    error = pwrite(fd, zeros.data(), alignment, 0) < 0 ? errno : 0;
  }
  return error;
}

/// 0 or errno.
int take_space(int fd, uint64_t bytes) {
  const int error = reserve_space(fd, bytes);
  if (error != EOPNOTSUPP) return error;
  if (free_space(fd) < bytes) return ENOSPC;
  return ftruncate(fd, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
}

}  // namespace

UnnamedFile::UnnamedFile(const fs::path& folder) : fd_(open_unnamed(folder)) {
  info_.fd = fd_.get();
  info_.path = folder.string();
}

std::string UnnamedFile::direct_refusal() {
  const std::string system = file_system_name(info_.path);
  if (system == "tmpfs") {  // newer kernels take O_DIRECT there all the same
    return "tmpfs keeps files in memory, where O_DIRECT reaches no drive";
  }
  const DirectAlignment needed = direct_alignment(info_.fd);
  int error = needed.usable ? set_direct(info_.fd, true) : EINVAL;
  if (error == 0) {
    error = try_write(info_.fd, needed.bytes);
    // A full drive or a limit is told with the bytes wanted, by reserve().
    if (error == ENOSPC || error == EDQUOT || error == EFBIG) error = 0;
    if (error != 0) set_direct(info_.fd, false);
  }
  if (error != 0) return fmt::format("{} refuses O_DIRECT: {}", system, errno_text(error));
  info_.alignment = needed.bytes;
  info_.direct = true;
  return {};
}

void UnnamedFile::choose_direct(DirectChoice choice) {
  if (choice == DirectChoice::kOff) return;
  refused_ = direct_refusal();
  if (choice == DirectChoice::kOn && !refused_.empty()) {
    throw Error(
        fmt::format("{}: {}; set io.direct: auto or keep hidden states in a folder on ext4 or xfs",
                    info_.path, refused_));
  }
}

void UnnamedFile::reserve(uint64_t bytes) {
  CHECK(info_.bytes == 0 && bytes > 0 && bytes % info_.alignment == 0);
  if (const int error = take_space(info_.fd, bytes)) {
    throw Error(fmt::format(
        "cannot reserve {} for hidden states in {}, where {} are free: {}; {}",
        format_bytes_up(bytes), info_.path, format_bytes(free_space(info_.fd)), errno_text(error),
        error == EFBIG ? "raise the limit on the size of files (ulimit -f)"
                       : "free some, choose another folder or give more memory"));
  }
  info_.bytes = bytes;
}

}  // namespace spillway
