// A file of an output folder that is not there until it is whole: written under a temporary name,
// in any order, through the page cache; synced, and only then renamed, in the place of what had the
// name before. (NewFile in core writes front to back, past the page cache, and never replaces.)
// The folder outlives it. One thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/descriptor.h"
#include "sinks/output_folder.h"

namespace spillway {

class PartialFile {
 public:
  /// How a temporary name ends.
  static constexpr std::string_view kEnding = ".partial";

  /// Takes the space for `bytes`: a drive that is too full says so now. Throws Error.
  PartialFile(const OutputFolder& folder, std::string name, uint64_t bytes);
  PartialFile(PartialFile&& other) noexcept;
  PartialFile& operator=(PartialFile&&) = delete;
  /// Without publish() nothing stays.
  ~PartialFile();

  void write_at(uint64_t offset, std::string_view bytes);
  /// The file is on the drive, under its name, when this returns. Throws Error.
  void publish();

  int fd() const { return file_.get(); }
  const std::string& name() const { return name_; }
  const OutputFolder& folder() const { return *folder_; }

 private:
  void reserve(uint64_t bytes);
  void drop();

  const OutputFolder* folder_;
  std::string name_;
  std::string temporary_;  // empty: published, or moved from
  Descriptor file_;
};

/// All of a small file. Throws Error, and what was there before is still there then.
void replace_file(const OutputFolder& folder, const std::string& name, std::string_view text);

}  // namespace spillway
