// A memory control group for one process, so that a bound on memory covers the page cache too.
// Owner: the group's folder, removed with this object. One thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace spillway {

class MemoryGroup {
 public:
  /// Makes groups below the one of this process, control groups v1 or v2, under `root` ("/" in
  /// production). Throws Error with what to do where this user may not.
  explicit MemoryGroup(const std::filesystem::path& root);
  ~MemoryGroup();
  MemoryGroup(const MemoryGroup&) = delete;

  /// For the next process; empties what the last one left. No swap. Throws Error.
  void limit(uint64_t bytes);
  /// A process that writes its id there joins.
  const std::filesystem::path& joining_file() const { return procs_; }

 private:
  MemoryGroup() = default;
  void make_v1(const std::filesystem::path& parent);
  void make_v2(const std::filesystem::path& parent);
  void step_aside(const std::filesystem::path& parent);
  void make_group(const std::filesystem::path& parent);

  bool v2_ = false;
  std::filesystem::path parent_;  // v2, when this process had to move out of it: where it was
  std::filesystem::path aside_;
  std::filesystem::path group_;
  std::filesystem::path procs_;
};

}  // namespace spillway
