// A large file that is not there until it is whole: made without a name where the file system can,
// else under a temporary one; written front to back in whole blocks, past the page cache; synced;
// and only then given its name, never in the place of another file. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "core/buffer.h"
#include "core/descriptor.h"

namespace spillway {

class NewFile {
 public:
  /// How a temporary name ends.
  static constexpr const char* kPartial = ".partial";
  /// Memory that writing takes.
  static constexpr uint64_t kBufferBytes = uint64_t{8} << 20;

  /// Takes the space for `bytes`. Throws Error where it cannot be made or has no room, and where
  /// something is there already.
  NewFile(const std::filesystem::path& path, uint64_t bytes);
  NewFile(NewFile&& other) noexcept;
  NewFile& operator=(NewFile&&) = delete;
  /// Without publish() nothing stays.
  ~NewFile();

  /// Room for the next bytes, at least one; commit() what was filled.
  std::span<std::byte> room();
  void commit(uint64_t bytes) { filled_ += bytes; }
  void write(std::string_view text);
  void write(std::span<const std::byte> bytes) {
    write({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }
  void write_zeros(uint64_t count);
  /// What was written so far.
  uint64_t position() const { return flushed_ + filled_; }

  /// All `bytes` are written: they are on the drive when this returns, and the memory is free.
  /// Throws Error.
  void finish();
  /// Gives the finished file its name, which is on the drive, too, when this returns. Throws Error,
  /// where something else has it by now.
  void publish();

  const std::filesystem::path& path() const { return path_; }

 private:
  [[noreturn]] void fail(const char* what, int error) const;
  bool open_unnamed();
  void open_named();
  void flush(uint64_t bytes);
  int reserve() const;  ///< each: 0, or the errno
  int link_name() const;
  int sync_folder() const;

  std::filesystem::path path_;
  std::filesystem::path temporary_;  // empty: it has no name
  uint64_t bytes_ = 0;
  HugeBuffer buffer_;
  uint64_t filled_ = 0;
  uint64_t flushed_ = 0;
  Descriptor fd_;
};

/// Throws Error unless the file system of `path`, which need not exist yet, has so much room.
void check_room(const std::filesystem::path& path, uint64_t bytes, const std::string& advice);

}  // namespace spillway
