// One file of a data set: opened, read in pieces, and watched for changes. Owner: DataFile closes
// its descriptor. Immutable after opening; any thread may read through it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "core/descriptor.h"

namespace spillway {

/// By what a change of a file is noticed without reading it.
struct FileState {
  uint64_t bytes = 0;
  int64_t modified_ns = 0;
  uint64_t device = 0;
  uint64_t inode = 0;
  bool operator==(const FileState&) const = default;
};

class DataFile {
 public:
  /// Throws Error for what cannot be opened, and for what is no file: pipes, devices and folders
  /// are refused without being waited for, since a job that goes on later must read them again.
  explicit DataFile(const std::filesystem::path& path);

  /// As messages name it.
  const std::string& name() const { return name_; }
  uint64_t bytes() const { return state_.bytes; }
  const FileState& state() const { return state_; }

  /// Fills `into` from `offset`, which with it lies within bytes(). Throws Error when the drive
  /// fails, or when the file has become shorter meanwhile.
  void read(uint64_t offset, std::span<char> into) const;

 private:
  std::string name_;
  Descriptor descriptor_;
  FileState state_;
};

/// What its name ends in, in small letters: ".npy" of "A.NPY".
std::string ending_of(const std::filesystem::path& path);

/// Throws Error naming the file and what is another now than `then`: its size, its time of change,
/// or the file itself, which was replaced or removed.
void check_unchanged(const std::filesystem::path& path, const FileState& then);

}  // namespace spillway
