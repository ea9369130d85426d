// A checkpoint file opened for aligned reads. Owner: DirectFile closes its descriptor. Immutable
// after opening, so any thread may read through it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "core/config.h"
#include "core/log.h"

namespace spillway {

/// What a reader needs to know of a file; a simulated disk has these without a descriptor.
struct ReadFile {
  int fd = -1;
  std::string path;
  uint64_t bytes = 0;
  uint32_t alignment = 4096;  ///< of offset, length and address, the larger of what they need
  bool direct = false;
};

class DirectFile {
 public:
  /// Opens for reading, with O_DIRECT unless `choice` is off. With `auto`, a file system that
  /// refuses it (or is in memory) is read through the page cache and `refused` says why; with `on`
  /// that is an Error.
  DirectFile(const std::filesystem::path& path, DirectChoice choice);
  DirectFile(DirectFile&& other) noexcept;
  DirectFile& operator=(DirectFile&&) = delete;
  ~DirectFile();

  const ReadFile& info() const { return info_; }
  /// Why O_DIRECT is not in use although it was wanted; empty when it is, or was not wanted.
  const std::string& refused() const { return refused_; }

  /// Reads exactly `bytes` at `offset` through a plain buffered descriptor (headers). Throws.
  std::string read_text(uint64_t offset, uint64_t bytes) const;

 private:
  ReadFile info_;
  std::string refused_;
};

/// What direct reads and writes of an open file need of offset, length and address.
struct DirectAlignment {
  uint32_t bytes = 0;
  bool usable = true;  ///< false: more than chunks can have; `bytes` is the usual then
};
DirectAlignment direct_alignment(int fd);

/// "ext4", "tmpfs", or the number in hex.
std::string file_system_name(const std::filesystem::path& path);

}  // namespace spillway
