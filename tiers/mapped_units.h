// Units in a mapping of their files: what engines that mmap their weights do, over the same layout,
// so that the same kernels can be compared. The page cache decides what stays. A file that shrank
// is an Error when a unit is asked for; one that shrinks or cannot be read while a kernel reads it
// cannot be survived (SIGBUS): one line, exit 1, and what was computed is lost. That is why nothing
// else uses this.
//
// Owner: the mapping. The first one installs the process's handler of SIGBUS. Immutable.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "io/direct_file.h"
#include "tiers/layer_layout.h"

namespace spillway {

/// Chunks of in-place plans lie at multiples of this in file and blob: direct reads need no less.
inline constexpr uint32_t kMappingAlignment = 4096;

class MappedUnits {
 public:
  MappedUnits() = default;
  /// Maps every chunk of every unit to its place in the unit's blob. Throws Error.
  MappedUnits(std::span<const Unit> units, std::span<const ReadFile* const> files);
  MappedUnits(MappedUnits&& other) noexcept;
  MappedUnits& operator=(MappedUnits&& other) noexcept;
  ~MappedUnits();

  std::byte* blob(uint32_t unit) const { return blobs_[unit]; }
  /// Throws Error when a file of the unit has become shorter than when it was opened.
  void check_files(uint32_t unit) const;

 private:
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
  std::vector<std::byte*> blobs_;
  std::vector<std::vector<const ReadFile*>> files_;  // of each unit
};

}  // namespace spillway
