// A folder that one process at a time works in. It is the folder's own lock: no file is left, and
// the end of the process ends it. One thread.
#pragma once

#include <filesystem>

#include "core/descriptor.h"

namespace spillway {

class FolderLock {
 public:
  /// kUnknown: the folder cannot be opened, or its file system knows no locks.
  enum class State { kHeld, kElsewhere, kUnknown };

  /// Does not wait. An empty path is the current folder.
  explicit FolderLock(const std::filesystem::path& folder);
  /// Once more, after kElsewhere.
  void try_again();
  State state() const { return state_; }
  bool held() const { return state_ == State::kHeld; }

 private:
  Descriptor folder_;
  State state_ = State::kUnknown;
};

}  // namespace spillway
