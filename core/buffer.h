// Huge-page-backed memory. Owner: HugeBuffer, move-only. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace spillway {

/// Anonymous mapping, 2 MiB aligned and a whole number of huge pages, with huge pages requested.
/// Direct reads into such memory run much faster than into 4 KiB pages (docs/PERFORMANCE.md).
class HugeBuffer {
 public:
  HugeBuffer() = default;
  /// Throws Error naming the size when the system refuses, and `setting`, which the user may lower
  /// (empty: nothing). The memory is not touched yet.
  explicit HugeBuffer(uint64_t bytes, std::string_view setting = "memory.ram");
  HugeBuffer(HugeBuffer&& other) noexcept;
  HugeBuffer& operator=(HugeBuffer&& other) noexcept;
  HugeBuffer(const HugeBuffer&) = delete;
  HugeBuffer& operator=(const HugeBuffer&) = delete;
  ~HugeBuffer();

  std::byte* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }

  /// Faults every page in now: first touch in a virtual machine can cost seconds per gigabyte.
  void touch() const;
  /// Gives the memory up without unmapping it: a read may still write it (ReadPump::drain()).
  void leak() noexcept { release(); }
  /// The memory, nobody's now; adopt() makes it somebody's again.
  std::byte* release() noexcept;
  static HugeBuffer adopt(std::byte* data, uint64_t bytes) noexcept;

 private:
  std::byte* data_ = nullptr;
  uint64_t bytes_ = 0;
};

}  // namespace spillway
