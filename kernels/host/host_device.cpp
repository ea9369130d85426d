#include "kernels/host/host_device.h"

#include <fmt/format.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <vector>

#include "core/buffer.h"
#include "core/error.h"
#include "core/system_memory.h"
#include "core/thread.h"
#include "core/units.h"

namespace spillway {
namespace {

/// Small enough that a handful of slots costs a few percent of a budget; large enough that the
/// cost per unit vanishes (docs/PERFORMANCE.md).
constexpr uint64_t kHostUnitBytes = 4 * kMiB;

/// The CPU copies from any memory alike.
Memory borrow(std::byte* data, uint64_t bytes) {
  return {data, bytes, [](std::byte*) {}};
}

/// Held by address alone, so that it can be leaked.
Memory huge_memory(uint64_t bytes) {
  HugeBuffer buffer(bytes);
  const uint64_t mapped_bytes = buffer.bytes();
  return Memory(buffer.release(), bytes, [mapped_bytes](std::byte* data) {
    const HugeBuffer owner = HugeBuffer::adopt(data, mapped_bytes);
  });
}

/// Counts records and passes: done when every recorded mark was passed.
class HostEvent final : public Event {
 public:
  bool done() const override {
    const std::lock_guard lock(mutex_);
    return passed_ == recorded_;
  }
  void sync() override {
    std::unique_lock lock(mutex_);
    const uint64_t target = recorded_;
    passed_changed_.wait(lock, [&] { return passed_ >= target; });
  }
  uint64_t mark() {
    const std::lock_guard lock(mutex_);
    return ++recorded_;
  }
  uint64_t recorded() const {
    const std::lock_guard lock(mutex_);
    return recorded_;
  }
  void pass(uint64_t mark) {
    // Notified under the lock: a waiter may destroy the event as soon as it sees the mark.
    const std::lock_guard lock(mutex_);
    passed_ = mark;
    passed_changed_.notify_all();
  }
  void wait_for(uint64_t mark) {
    std::unique_lock lock(mutex_);
    passed_changed_.wait(lock, [&] { return passed_ >= mark; });
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable passed_changed_;
  uint64_t recorded_ = 0;
  uint64_t passed_ = 0;
};

HostEvent& host_event(Event& event) {
  return static_cast<HostEvent&>(event);
}

/// Work is done by the caller, at once.
class InlineStream final : public Stream {
 public:
  void copy(std::byte* target, const std::byte* source, uint64_t bytes) override {
    std::memcpy(target, source, bytes);
  }
  void record(Event& event) override {
    HostEvent& e = host_event(event);
    e.pass(e.mark());
  }
  void wait(Event& event) override { event.sync(); }
  void sync() override {}
};

/// A copy engine: one thread that works through a bounded queue in order.
class ThreadStream final : public Stream {
 public:
  ThreadStream()
      : tasks_(kCapacity), thread_(start_thread("that copies to the device", [this] { work(); })) {}
  ~ThreadStream() override {
    push({Kind::kStop, nullptr, nullptr, 0, nullptr, 0});
    thread_.join();
  }
  void copy(std::byte* target, const std::byte* source, uint64_t bytes) override {
    push({Kind::kCopy, target, source, bytes, nullptr, 0});
  }
  void record(Event& event) override {
    HostEvent& e = host_event(event);
    push({Kind::kRecord, nullptr, nullptr, 0, &e, e.mark()});
  }
  void wait(Event& event) override {
    HostEvent& e = host_event(event);
    push({Kind::kWait, nullptr, nullptr, 0, &e, e.recorded()});
  }
  void sync() override {
    HostEvent event;
    record(event);
    event.sync();
  }

 private:
  enum class Kind : uint8_t { kCopy, kRecord, kWait, kStop };
  struct Task {
    Kind kind;
    std::byte* target;
    const std::byte* source;
    uint64_t bytes;
    HostEvent* event;
    uint64_t mark;
  };
  static constexpr size_t kCapacity = 1024;

  void push(const Task& task) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return count_ < kCapacity; });
    tasks_[(first_ + count_++) % kCapacity] = task;
    changed_.notify_all();
  }
  void work() {
    while (true) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return count_ > 0; });
      const Task task = tasks_[first_];
      first_ = (first_ + 1) % kCapacity;
      --count_;
      changed_.notify_all();
      lock.unlock();
      if (task.kind == Kind::kStop) return;
      if (task.kind == Kind::kCopy) std::memcpy(task.target, task.source, task.bytes);
      if (task.kind == Kind::kRecord) task.event->pass(task.mark);
      if (task.kind == Kind::kWait) task.event->wait_for(task.mark);
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Task> tasks_;
  size_t first_ = 0;
  size_t count_ = 0;
  std::jthread thread_;
};

class HostDevice final : public Device {
 public:
  std::string name() const override { return "host"; }
  bool unified() const override { return true; }
  DeviceMemoryInfo memory_info() const override {
    const SystemMemory memory = read_system_memory();
    return {memory.available_bytes, memory.available_bytes};
  }
  Memory allocate(uint64_t bytes) override { return huge_memory(bytes); }
  Memory allocate_pinned(uint64_t bytes) override { return huge_memory(bytes); }
  Memory pin(std::byte* data, uint64_t bytes, std::string*) override { return borrow(data, bytes); }
  uint64_t stream_unit_bytes() const override { return kHostUnitBytes; }
  std::unique_ptr<Stream> make_stream(StreamKind) override {
    return std::make_unique<InlineStream>();
  }
  std::unique_ptr<Event> make_event() override { return std::make_unique<HostEvent>(); }
};

class DiscreteHostDevice final : public Device {
 public:
  explicit DiscreteHostDevice(uint64_t budget_bytes)
      : budget_bytes_(budget_bytes), used_bytes_(std::make_shared<std::atomic<uint64_t>>(0)) {}

  std::string name() const override { return "host-discrete"; }
  bool unified() const override { return false; }
  DeviceMemoryInfo memory_info() const override {
    if (budget_bytes_ == 0) return {0, automatic_ram_budget(read_system_memory()) / 4};
    return {budget_bytes_, budget_bytes_ - used_bytes_->load()};
  }
  Memory allocate(uint64_t bytes) override {
    const uint64_t used = used_bytes_->fetch_add(bytes);
    if (budget_bytes_ != 0 && used + bytes > budget_bytes_) {
      used_bytes_->fetch_sub(bytes);
      throw Error(fmt::format(
          "host-discrete is out of memory: asked for {}, {} of the {} budget are free; raise "
          "memory.gpu",
          format_bytes(bytes), format_bytes(budget_bytes_ - used), format_bytes(budget_bytes_)));
    }
    auto buffer = std::make_shared<HugeBuffer>(bytes);
    std::byte* data = buffer->data();
    return Memory(data, bytes, [buffer, bytes, counter = used_bytes_](std::byte*) {
      counter->fetch_sub(bytes);
    });
  }
  Memory allocate_pinned(uint64_t bytes) override { return huge_memory(bytes); }
  Memory pin(std::byte* data, uint64_t bytes, std::string*) override { return borrow(data, bytes); }
  uint64_t stream_unit_bytes() const override { return kHostUnitBytes; }
  std::unique_ptr<Stream> make_stream(StreamKind kind) override {
    if (kind == StreamKind::kCopy) return std::make_unique<ThreadStream>();
    return std::make_unique<InlineStream>();
  }
  std::unique_ptr<Event> make_event() override { return std::make_unique<HostEvent>(); }

 private:
  uint64_t budget_bytes_;
  std::shared_ptr<std::atomic<uint64_t>> used_bytes_;
};

}  // namespace

std::unique_ptr<Device> make_host_device() {
  return std::make_unique<HostDevice>();
}

std::unique_ptr<Device> make_discrete_host_device(uint64_t budget_bytes) {
  return std::make_unique<DiscreteHostDevice>(budget_bytes);
}

}  // namespace spillway
