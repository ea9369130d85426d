#include "compare/folder_lock.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>

#include <cerrno>

#include "core/error.h"

namespace spillway {

FolderLock::FolderLock(const std::filesystem::path& folder)
    : folder_(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  if (!folder_.valid()) {
    throw Error(fmt::format("cannot open {}: {}", folder.string(), errno_text(errno)));
  }
  int result = -1;
  do {
    result = flock(folder_.get(), LOCK_EX | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  held_ = result == 0;
  if (!held_ && errno == EWOULDBLOCK) {
    throw Error(
        fmt::format("{} is in use by another spillway bench; wait for its end, or give this one "
                    "another folder (--out DIR)",
                    folder.string()));
  }
}

}  // namespace spillway
