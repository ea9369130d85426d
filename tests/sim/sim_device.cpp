#include "tests/sim/sim_device.h"

#include <algorithm>
#include <cstring>
#include <deque>

#include "core/buffer.h"
#include "core/error.h"

namespace spillway::test {

class SimEvent final : public Event {
 public:
  explicit SimEvent(SimDevice& device) : device_(device) {}
  bool done() const override { return passed == recorded; }
  void sync() override {
    while (!done()) device_.tick(1);
  }
  uint64_t recorded = 0;
  uint64_t passed = 0;

 private:
  SimDevice& device_;
};

class SimStream final : public Stream {
 public:
  explicit SimStream(SimDevice& device) : device_(device) { device_.streams_.push_back(this); }
  ~SimStream() override { std::erase(device_.streams_, this); }

  void copy(std::byte* target, const std::byte* source, uint64_t bytes) override {
    push([=] { std::memcpy(target, source, bytes); });
  }
  void record(Event& event) override {
    auto* e = static_cast<SimEvent*>(&event);
    const uint64_t mark = ++e->recorded;
    push([=] { e->passed = mark; });
  }
  void wait(Event& event) override {
    auto* e = static_cast<SimEvent*>(&event);
    const uint64_t mark = e->recorded;
    operations_.push_back({[] {}, e, mark});
  }
  void sync() override {
    while (!operations_.empty()) device_.tick(1);
  }
  void push(std::function<void()> run) { operations_.push_back({std::move(run), nullptr, 0}); }
  bool runnable() const {
    if (operations_.empty()) return false;
    const Operation& next = operations_.front();
    return next.event == nullptr || next.event->passed >= next.mark;
  }
  void run_next() {
    const Operation next = std::move(operations_.front());
    operations_.pop_front();
    next.run();
  }

 private:
  struct Operation {
    std::function<void()> run;
    SimEvent* event;
    uint64_t mark;
  };
  SimDevice& device_;
  std::deque<Operation> operations_;
};

Memory SimDevice::allocate(uint64_t bytes) {
  auto buffer = std::make_shared<HugeBuffer>(bytes);
  std::memset(buffer->data(), 0xA5, bytes);  // nobody may rely on fresh memory
  std::byte* data = buffer->data();
  return Memory(data, bytes, [buffer](std::byte*) {});
}

std::unique_ptr<Stream> SimDevice::make_stream(StreamKind) {
  return std::make_unique<SimStream>(*this);
}

std::unique_ptr<Event> SimDevice::make_event() {
  return std::make_unique<SimEvent>(*this);
}

void SimDevice::launch(Stream& stream, std::function<void()> kernel) {
  static_cast<SimStream&>(stream).push(std::move(kernel));
}

bool SimDevice::run_one() {
  std::vector<SimStream*> ready;
  for (SimStream* stream : streams_) {
    if (stream->runnable()) ready.push_back(stream);
  }
  if (ready.empty()) return false;
  ready[random_() % ready.size()]->run_next();
  return true;
}

void SimDevice::tick(uint32_t most) {
  for (uint32_t i = 0; i < most && run_one(); ++i) {
  }
}

}  // namespace spillway::test
