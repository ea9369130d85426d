// What a compute device must offer: memory, streams, events. No CUDA type is visible here.
//
// Thread rule: a Device may be used from any thread; a Stream from one thread at a time; an Event
// may be recorded by one thread and queried from another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

namespace spillway {

/// Owned block of device, pinned or plain memory; releases itself. Move-only.
class Memory {
 public:
  using Release = std::function<void(std::byte*)>;
  Memory() = default;
  Memory(std::byte* data, uint64_t bytes, Release release)
      : data_(data, std::move(release)), bytes_(bytes) {}
  std::byte* data() const { return data_.get(); }
  uint64_t bytes() const { return bytes_; }
  /// Gives the memory up without releasing it: a read may still write it (ReadPump::drain()). What
  /// `Release` holds by value goes in any case: it must not own the memory.
  void leak() noexcept {
    static_cast<void>(data_.release());
    bytes_ = 0;
  }

 private:
  std::unique_ptr<std::byte, Release> data_{nullptr, [](std::byte*) {}};
  uint64_t bytes_ = 0;
};

/// A mark in a stream. done() is true before the first record.
class Event {
 public:
  virtual ~Event() = default;
  virtual bool done() const = 0;
  /// Blocks the calling thread until the mark was passed.
  virtual void sync() = 0;
};

/// Ordered queue of work on a device. Nothing here blocks the caller but sync(); on a device whose
/// streams run inline (the host's compute stream) work is over when the call returns.
class Stream {
 public:
  virtual ~Stream() = default;
  /// Copies between any two of device, pinned and plain memory; both stay valid until it ran.
  virtual void copy(std::byte* target, const std::byte* source, uint64_t bytes) = 0;
  virtual void record(Event& event) = 0;
  /// Later work of this stream runs after the event's last record; the CPU does not wait.
  virtual void wait(Event& event) = 0;
  virtual void sync() = 0;
};

enum class StreamKind { kCompute, kCopy };

struct DeviceMemoryInfo {
  uint64_t total_bytes = 0;
  uint64_t free_bytes = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual std::string name() const = 0;
  /// True when the device computes on host memory: no GPU tier, no staging, no copies.
  virtual bool unified() const = 0;
  virtual DeviceMemoryInfo memory_info() const = 0;
  /// Device memory. Throws Error with asked, free and budgeted bytes when it does not fit.
  virtual Memory allocate(uint64_t bytes) = 0;
  /// Host memory that the device copies from at full speed; huge-page backed. Throws Error.
  virtual Memory allocate_pinned(uint64_t bytes) = 0;
  /// Makes host memory that somebody else owns such memory, until the handle goes. Where the system
  /// refuses, the handle is empty and `refusal` says why.
  virtual Memory pin(std::byte* data, uint64_t bytes, std::string* refusal) = 0;
  /// The grain in which this device is best fed when nothing else is configured.
  virtual uint64_t stream_unit_bytes() const = 0;
  virtual std::unique_ptr<Stream> make_stream(StreamKind kind) = 0;
  virtual std::unique_ptr<Event> make_event() = 0;
};

}  // namespace spillway
