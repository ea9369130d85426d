// A device of its own whose streams do nothing at once: what is left is the engine's own cost.
#pragma once

#include <memory>

#include "core/buffer.h"
#include "core/device.h"

namespace spillway::test {

class InstantEvent final : public Event {
 public:
  bool done() const override { return true; }
  void sync() override {}
};

class InstantStream final : public Stream {
 public:
  void copy(std::byte*, const std::byte*, uint64_t) override {}
  void record(Event&) override {}
  void wait(Event&) override {}
  void sync() override {}
};

class InstantDevice final : public Device {
 public:
  std::string name() const override { return "instant"; }
  bool unified() const override { return false; }
  DeviceMemoryInfo memory_info() const override { return {}; }
  Memory allocate(uint64_t bytes) override {
    auto buffer = std::make_shared<HugeBuffer>(bytes);
    std::byte* data = buffer->data();
    return {data, bytes, [buffer](std::byte*) {}};
  }
  Memory allocate_pinned(uint64_t bytes) override { return allocate(bytes); }
  Memory pin(std::byte* data, uint64_t bytes, std::string*) override {
    return {data, bytes, [](std::byte*) {}};
  }
  uint64_t stream_unit_bytes() const override { return 0; }
  std::unique_ptr<Stream> make_stream(StreamKind) override {
    return std::make_unique<InstantStream>();
  }
  std::unique_ptr<Event> make_event() override { return std::make_unique<InstantEvent>(); }
};

}  // namespace spillway::test
