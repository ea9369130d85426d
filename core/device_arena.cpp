#include "core/device_arena.h"

#include "core/error.h"
#include "core/units.h"

namespace spillway {

DeviceArena::DeviceArena(Device& device, uint64_t bytes) : device_(device) {
  if (!device.unified() && bytes > 0) memory_ = device.allocate(bytes);
}

Memory DeviceArena::take(uint64_t bytes) {
  if (device_.unified()) return device_.allocate(bytes);
  const uint64_t room = align_up(bytes, kAlignment);
  CHECK(room <= left_bytes());
  std::byte* data = memory_.data() + used_bytes_;
  used_bytes_ += room;
  return {data, bytes, [](std::byte*) {}};
}

}  // namespace spillway
