// A device whose streams run when a test ticks it, in a seeded interleaving that honours only
// recorded events: a missing wait gives wrong bytes. One thread.
#pragma once

#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "core/device.h"

namespace spillway::test {

class SimStream;

class SimDevice final : public Device {
 public:
  explicit SimDevice(uint64_t seed) : random_(seed) {}

  std::string name() const override { return "simulated"; }
  bool unified() const override { return false; }
  DeviceMemoryInfo memory_info() const override { return {}; }
  Memory allocate(uint64_t bytes) override;
  Memory allocate_pinned(uint64_t bytes) override { return allocate(bytes); }
  Memory pin(std::byte* data, uint64_t bytes, std::string*) override {
    return {data, bytes, [](std::byte*) {}};
  }
  uint64_t stream_unit_bytes() const override { return 1 << 20; }
  std::unique_ptr<Stream> make_stream(StreamKind kind) override;
  std::unique_ptr<Event> make_event() override;

  /// Runs up to `most` pending operations, each of a random stream that is not waiting.
  void tick(uint32_t most);
  /// Puts a function on a stream, as a kernel launch would.
  static void launch(Stream& stream, std::function<void()> kernel);

 private:
  friend class SimStream;
  bool run_one();
  std::mt19937_64 random_;
  std::vector<SimStream*> streams_;
};

}  // namespace spillway::test
