// A folder that a job writes into or was written into, kept open: its files are reached through it,
// so that a folder that is moved while a job runs is still that job's, and one that is removed is
// not made again in part. Owner of the descriptor. One thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/descriptor.h"

namespace spillway {

class OutputFolder {
 public:
  enum class Missing { kMake, kRefuse };

  /// A folder that is made here is on the drive, and so are its parents, when this returns. Throws
  /// Error.
  OutputFolder(const std::filesystem::path& path, Missing missing);

  const std::filesystem::path& path() const { return path_; }
  /// For messages; an empty name is the folder itself.
  std::string text_of(const std::string& name) const {
    return name.empty() ? path_.string() : (path_ / name).string();
  }
  /// Sorted. Throws Error.
  std::vector<std::string> names() const;
  /// Size of a regular file; empty where there is none of that name or it is something else.
  std::optional<uint64_t> file_bytes(const std::string& name) const;
  /// Never follows a link. -1 with errno where it cannot be opened.
  Descriptor open_file(const std::string& name, int flags) const;
  /// Throws Error.
  void remove(const std::string& name) const;
  void rename(const std::string& from, const std::string& to) const;
  /// Names are on the drive when this returns. Throws Error.
  void sync() const;
  /// Throws Error unless files can be made in it.
  void check_writable() const;

  /// Throws Error: "cannot write DIR/name: No space left …; what to do".
  [[noreturn]] void fail(const char* what, const std::string& name, int error_number) const;

 private:
  bool is_removed() const;

  std::filesystem::path path_;
  Descriptor folder_;
};

}  // namespace spillway
