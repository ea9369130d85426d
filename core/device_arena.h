// One allocation of device memory, handed out piece by piece: what the plan bills is what is taken,
// once, at start. On unified memory, where every part is huge-page memory of its own, each piece is
// an allocation.
#pragma once

#include <cstdint>

#include "core/device.h"

namespace spillway {

class DeviceArena {
 public:
  static constexpr uint64_t kAlignment = 256;

  /// `device` outlives it; it outlives its pieces. `bytes` is not used on unified memory.
  DeviceArena(Device& device, uint64_t bytes);
  /// A piece at a multiple of kAlignment. CHECKs that the arena has room: the bill is exact.
  Memory take(uint64_t bytes);
  uint64_t bytes() const { return memory_.bytes(); }
  uint64_t left_bytes() const { return memory_.bytes() - used_bytes_; }

 private:
  Device& device_;
  Memory memory_;
  uint64_t used_bytes_ = 0;
};

}  // namespace spillway
