// One comparison per folder of results: a second one would run its arms at the same time and
// replace the first one's files. Owner: the lock, gone with this object or the process. One thread.
#pragma once

#include <filesystem>

#include "core/descriptor.h"

namespace spillway {

class FolderLock {
 public:
  /// Does not wait. Throws Error when another process holds it, or the folder cannot be opened.
  explicit FolderLock(const std::filesystem::path& folder);
  /// False where the file system knows no locks: nothing then keeps a second one out.
  bool held() const { return held_; }

 private:
  Descriptor folder_;
  bool held_ = false;
};

}  // namespace spillway
