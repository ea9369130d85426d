#include "core/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>

#include <cerrno>

namespace spillway {

FolderLock::FolderLock(const std::filesystem::path& folder)
    : folder_(open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)) {
  try_again();
}

void FolderLock::try_again() {
  if (!folder_.valid()) return;
  int result = -1;
  do {
    result = flock(folder_.get(), LOCK_EX | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  state_ = result == 0 ? State::kHeld : errno == EWOULDBLOCK ? State::kElsewhere : State::kUnknown;
}

}  // namespace spillway
