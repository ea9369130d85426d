#include "tiers/pipeline_sim.h"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <deque>
#include <functional>
#include <limits>
#include <optional>
#include <queue>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

/// Passes before the figures are steady, and passes they are taken from. What was read or copied
/// ahead in the first passes is used up by then, also where two links are nearly as fast.
constexpr uint64_t kWarmPasses = 3;
constexpr uint64_t kMeasuredPasses = 2;

/// Simulated time in seconds, and when something will happen next.
class Timeline final : public Clock {
 public:
  int64_t now_ns() const override { return static_cast<int64_t>(std::min(now_ * 1e9, 9e18)); }
  double now() const { return now_; }
  void expect(double at) {
    if (at > now_) events_.push(at);
  }
  /// To the next event; false when nothing is expected any more.
  bool advance() {
    while (!events_.empty() && events_.top() <= now_) events_.pop();
    if (events_.empty()) return false;
    now_ = events_.top();
    return true;
  }

 private:
  double now_ = 0;
  std::priority_queue<double, std::vector<double>, std::greater<>> events_;
};

/// Serves reads in order, at its rate.
class TimedDisk final : public BlockReader {
 public:
  TimedDisk(uint32_t depth, double rate, Timeline& time)
      : depth_(depth), rate_(rate), time_(time) {}
  std::string name() const override { return "simulated"; }
  uint32_t depth() const override { return depth_; }
  bool submit(ReadOp& op) override {
    if (pending_.size() == depth_) return false;
    free_at_ = std::max(time_.now(), free_at_) + op.next_bytes() / rate_;
    pending_.push_back({&op, free_at_});
    time_.expect(free_at_);
    return true;
  }
  size_t poll(std::span<ReadCompletion> out) override {
    size_t count = 0;
    while (count < out.size() && !pending_.empty() && pending_.front().due <= time_.now()) {
      ReadOp* op = pending_.front().op;
      out[count++] = {op, static_cast<int32_t>(op->next_bytes())};
      pending_.pop_front();
    }
    return count;
  }
  void wait(int64_t) override { time_.advance(); }
  void wake() noexcept override {}
  void cancel(ReadOp&) noexcept override {}  // each ends at its time
  /// Other reads, before those that are submitted from now on.
  void occupy(uint64_t bytes) { occupy(static_cast<double>(bytes) / rate_); }
  void occupy(double seconds) { free_at_ = std::max(time_.now(), free_at_) + seconds; }
  /// When what is in its queue will be read.
  double free_at() const { return free_at_; }
  /// A read has completed and was not polled yet.
  bool completed() const { return !pending_.empty() && pending_.front().due <= time_.now(); }

 private:
  struct Pending {
    ReadOp* op;
    double due;
  };
  uint32_t depth_;
  double rate_;
  Timeline& time_;
  std::deque<Pending> pending_;
  double free_at_ = 0;
};

class TimedEvent final : public Event {
 public:
  explicit TimedEvent(const Timeline& time) : time_(time) {}
  bool done() const override { return at <= time_.now(); }
  void sync() override { CHECK(done()); }
  double at = 0;

 private:
  const Timeline& time_;
};

class TimedStream final : public Stream {
 public:
  TimedStream(double copy_rate, Timeline& time) : copy_rate_(copy_rate), time_(time) {}
  void copy(std::byte*, const std::byte*, uint64_t bytes) override {
    run(static_cast<double>(bytes) / copy_rate_);
  }
  void record(Event& event) override {
    static_cast<TimedEvent&>(event).at = std::max(free_at, time_.now());
    time_.expect(free_at);
  }
  void wait(Event& event) override {
    free_at = std::max(free_at, static_cast<TimedEvent&>(event).at);
  }
  void sync() override { CHECK(free_at <= time_.now()); }
  void run(double seconds) {
    free_at = std::max(free_at, time_.now()) + seconds;
    time_.expect(free_at);
  }

  double free_at = 0;

 private:
  double copy_rate_;
  Timeline& time_;
};

/// Hands out addresses that nobody may touch.
class TimedDevice final : public Device {
 public:
  TimedDevice(bool unified, Timeline& time) : unified_(unified), time_(time) {}
  std::string name() const override { return "simulated"; }
  bool unified() const override { return unified_; }
  DeviceMemoryInfo memory_info() const override { return {}; }
  Memory allocate(uint64_t bytes) override {
    void* raw = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED) throw Error("cannot reserve addresses to simulate a plan with");
    return {static_cast<std::byte*>(raw), bytes, [bytes](std::byte* p) { munmap(p, bytes); }};
  }
  Memory allocate_pinned(uint64_t bytes) override { return allocate(bytes); }
  Memory pin(std::byte* data, uint64_t bytes, std::string*) override {
    return {data, bytes, [](std::byte*) {}};
  }
  uint64_t stream_unit_bytes() const override { return 0; }
  std::unique_ptr<Stream> make_stream(StreamKind) override { return nullptr; }
  std::unique_ptr<Event> make_event() override { return std::make_unique<TimedEvent>(time_); }

 private:
  bool unified_;
  Timeline& time_;
};

uint64_t layers_of(const StreamPlan& plan) {
  uint64_t layers = 0;
  for (size_t u = 0; u < plan.units.size(); ++u) {
    layers += u == 0 || plan.units[u].layer != plan.units[u - 1].layer ? 1 : 0;
  }
  return layers;
}

/// What moving a batch's states takes each link.
struct StateSeconds {
  StateSeconds(const StateTraffic& states, const LinkRates& rates, bool unified) {
    const auto bytes = static_cast<double>(states.block_bytes);
    drive = bytes / rates.read;
    copy = unified ? 0 : bytes / rates.copy;
  }
  double drive;  // either way: how fast it writes was not measured
  double copy;
};

/// Times of the buffers that hidden states go through (model/sweep_states.cpp): as there, steps are
/// given buffers in their order, and the model thread looks only between steps.
class TimedStates {
 public:
  TimedStates(const StateTraffic& states, const StateSeconds& seconds, uint64_t layers,
              uint32_t batches, TimedDisk& disk, Timeline& time)
      : seconds_(seconds),
        batches_(batches),
        steps_(layers * batches),
        disk_(disk),
        time_(time),
        buffers_(states.buffers) {}

  void begin() {
    next_ = 0;
    for (Buffer& buffer : buffers_) buffer = {};
  }
  void settle() {
    for (Buffer& buffer : buffers_) {
      if (buffer.stage == Stage::kLeaving && buffer.at <= time_.now()) leave(buffer);
      if (buffer.stage == Stage::kWriting && buffer.at <= time_.now()) buffer = {};
    }
    for (Buffer& buffer : buffers_) {
      if (buffer.stage == Stage::kFree && next_ < steps_ && !on_its_way(next_)) assign(buffer);
    }
  }
  /// When a step's states are in memory; empty: it has no buffer before `change()`.
  std::optional<double> ready(uint64_t step) const {
    for (const Buffer& buffer : buffers_) {
      if (buffer.stage == Stage::kHeld && buffer.step == step) return buffer.at;
    }
    return std::nullopt;
  }
  /// When a buffer goes on.
  double change() const {
    double next = std::numeric_limits<double>::infinity();
    for (const Buffer& buffer : buffers_) {
      const bool goes_on = buffer.stage == Stage::kLeaving || buffer.stage == Stage::kWriting;
      if (goes_on) next = std::min(next, buffer.at);
    }
    return next;
  }
  void give(uint64_t step, double computed_at) {
    for (Buffer& buffer : buffers_) {
      if (buffer.stage != Stage::kHeld || buffer.step != step) continue;
      buffer.stage = Stage::kLeaving;
      buffer.at = computed_at + (kept(step) ? seconds_.copy : 0);
    }
  }

 private:
  enum class Stage : uint8_t { kFree, kHeld, kLeaving, kWriting };
  struct Buffer {
    Stage stage = Stage::kFree;
    uint64_t step = 0;
    double at = 0;
  };
  bool kept(uint64_t step) const { return step + batches_ < steps_; }
  bool on_its_way(uint64_t step) const {
    return std::any_of(buffers_.begin(), buffers_.end(), [&](const Buffer& buffer) {
      const bool in_memory = buffer.stage == Stage::kHeld || buffer.stage == Stage::kLeaving;
      return in_memory && buffer.step + batches_ == step;
    });
  }
  void assign(Buffer& buffer) {
    buffer = {Stage::kHeld, next_++, time_.now()};
    if (buffer.step < batches_) return;
    disk_.occupy(seconds_.drive);
    buffer.at = disk_.free_at();
  }
  void leave(Buffer& buffer) {
    if (!kept(buffer.step)) {
      buffer = {};
      return;
    }
    disk_.occupy(seconds_.drive);
    buffer.stage = Stage::kWriting;
    buffer.at = disk_.free_at();
  }

  StateSeconds seconds_;
  uint64_t batches_;
  uint64_t steps_;
  TimedDisk& disk_;
  Timeline& time_;
  std::vector<Buffer> buffers_;
  uint64_t next_ = 0;
};

bool on_drive(const StateTraffic& states, uint32_t batches) {
  return states.block_bytes > 0 && batches > states.buffers;
}

class Simulation {
 public:
  Simulation(const StreamPlan& plan, bool unified, const LinkRates& rates,
             std::span<const double> unit_seconds, const RowGather& gather, uint32_t batches,
             const StateTraffic& states)
      : plan_(plan),
        unified_(unified),
        unit_seconds_(unit_seconds),
        gather_(gather),
        batches_(batches),
        held_(plan.units.size()),
        disk_(plan.io_depth, rates.read, time_),
        device_(unified, time_),
        arena_(device_, align_up(slots_bytes(), DeviceArena::kAlignment)),
        slots_(device_, arena_, plan.placement.slots, plan.placement.slot_bytes),
        copy_stream_(rates.copy, time_),
        compute_stream_(0, time_) {
    make_feeder();
    if (!on_drive(states, batches)) return;
    const StateSeconds seconds(states, rates, unified);
    state_copy_seconds_ = seconds.copy;
    states_.emplace(states, seconds, layers_of(plan), batches, disk_, time_);
  }

  /// Seconds per pass.
  double run() {
    const uint64_t passes = kWarmPasses + kMeasuredPasses;
    // One more is allowed, so that the last one ends like the others: with the next one's reads.
    if (feeder_ != nullptr) feeder_->allow((passes + 1) * feeder_->schedule_size());
    double begin = 0;
    for (uint64_t pass = 0; pass < passes; ++pass) {
      if (pass == kWarmPasses) begin = time_.now();
      step_ = 0;
      if (states_) states_->begin();
      gather_rows();
      for (uint32_t u = 0; u < plan_.units.size();) u = use_layer(u);
      wait_until(compute_stream_.free_at);  // the next pass needs this one's tokens
    }
    return (time_.now() - begin) / kMeasuredPasses;
  }

 private:
  uint64_t slots_bytes() const { return plan_.placement.slots * plan_.placement.slot_bytes; }
  bool in_place(uint32_t unit) const {
    const Tier tier = plan_.placement.unit_tiers[unit];
    return tier == Tier::kGpu || (unified_ && tier == Tier::kRam);
  }

  void make_feeder() {
    std::vector<ScheduledUnit> schedule;
    for (uint32_t u = 0; u < plan_.units.size(); ++u) {
      if (in_place(u)) continue;
      ScheduledUnit unit{u};
      // Its bytes are never looked at.
      if (plan_.placement.unit_tiers[u] == Tier::kRam) unit.ram_home = slots_.arena().data();
      schedule.push_back(unit);
    }
    if (schedule.empty()) return;
    for (const Unit& unit : plan_.units) {
      for (const ReadChunk& chunk : unit.plan.chunks) {
        if (chunk.file >= files_.size()) files_.resize(chunk.file + 1, &file_);
      }
    }
    FeederParts parts;
    parts.units = plan_.units;
    parts.files = files_;
    parts.reader = &disk_;
    parts.slots = &slots_;
    parts.clock = &time_;
    parts.trace = &trace_;
    if (!unified_) {
      staging_ = std::make_unique<StagingRing>(device_, plan_.placement.slabs, plan_.chunk_bytes);
      parts.staging = staging_.get();
      parts.copy_stream = &copy_stream_;
    }
    feeder_ = std::make_unique<Feeder>(parts, std::move(schedule), true);
  }

  /// Reads of another queue, that share the drive with the feeder's.
  void gather_rows() {
    if (gather_.seconds <= 0) return;
    for (uint32_t wave = 0; wave < gather_.waves; ++wave) {
      disk_.occupy(gather_.bytes / gather_.waves);
      const double alone = time_.now() + gather_.seconds / gather_.waves;
      wait_until(std::max(alone, disk_.free_at()));
    }
  }

  /// The model thread's part: units are acquired, computed with, given back. Returns the first of
  /// the next layer.
  uint32_t use_layer(uint32_t first) {
    uint32_t end = first;
    double layer_seconds = 0;
    for (; end < plan_.units.size() && plan_.units[end].layer == plan_.units[first].layer; ++end) {
      layer_seconds += unit_seconds_[end];
    }
    take_states();
    for (uint32_t u = first; u < end; ++u) {
      acquire(u);
      compute(unit_seconds_[u]);
      if (batches_ == 1) release(u);
    }
    if (batches_ == 1) return end;
    give_states();
    compute_between(layer_seconds);
    take_states();
    for (uint32_t u = first; u < end; ++u) {
      compute(unit_seconds_[u]);
      release(u);
    }
    give_states();
    return end;
  }

  /// The batches between a layer's first and its last.
  void compute_between(double layer_seconds) {
    if (!states_) return compute((batches_ - 2) * layer_seconds);
    for (uint32_t batch = 1; batch + 1 < batches_; ++batch) {
      take_states();
      compute(layer_seconds);
      give_states();
    }
  }

  /// A device is told two steps ahead at most.
  void take_states() {
    if (!states_) return;
    wait_until(step_ends_[step_ % step_ends_.size()]);
    states_->settle();
    while (!states_->ready(step_)) {
      wait_until(states_->change());
      states_->settle();
    }
    wait_until(*states_->ready(step_));
    if (unified_) return;
    compute_stream_.free_at = std::max(compute_stream_.free_at, time_.now() + state_copy_seconds_);
  }

  void give_states() {
    if (!states_) return;
    step_ends_[step_ % step_ends_.size()] = compute_stream_.free_at;
    states_->give(step_++, compute_stream_.free_at);
    states_->settle();
  }

  void acquire(uint32_t unit) {
    if (in_place(unit)) return;
    auto slot = slots_.try_acquire(sequence_);
    while (!slot) {
      if (!step()) CHECK(time_.advance());
      slot = slots_.try_acquire(sequence_);
    }
    ++sequence_;
    if (!unified_) compute_stream_.wait(slots_.ready(*slot));
    held_[unit] = *slot;
  }

  void release(uint32_t unit) {
    if (in_place(unit)) return;
    compute_stream_.record(slots_.consumed(held_[unit]));
    slots_.release(held_[unit]);
    woken_ = true;
    step();
  }

  /// On unified memory the model thread computes itself; a device is merely told to.
  void compute(double wanted_seconds) {
    compute_stream_.run(wanted_seconds);
    if (unified_) wait_until(compute_stream_.free_at);
  }

  void wait_until(double at) {
    time_.expect(at);
    while (time_.now() < at) {
      if (!step()) CHECK(time_.advance());
    }
  }

  /// The feeder's thread, which sees nothing else while it waits for one thing.
  bool step() {
    if (feeder_ == nullptr || blocked()) return false;
    const bool moved = feeder_->step();
    waits_for_ = moved ? std::nullopt : std::optional(feeder_->waits_for());
    woken_ = false;
    return moved;
  }

  bool blocked() const {
    if (!waits_for_) return false;
    if (*waits_for_ == FeederWait::kRead) return !disk_.completed();
    if (*waits_for_ == FeederWait::kCopy) return !staging_->copy_over();
    return *waits_for_ == FeederWait::kModel && !woken_;
  }

  const StreamPlan& plan_;
  bool unified_;
  std::span<const double> unit_seconds_;
  RowGather gather_;
  uint32_t batches_;
  std::vector<uint32_t> held_;  // slot of each unit that is leased
  Timeline time_;
  Trace trace_{time_, 0};
  const ReadFile file_{-1, "simulated", UINT64_MAX, 1, true};
  std::vector<const ReadFile*> files_;
  TimedDisk disk_;
  TimedDevice device_;
  DeviceArena arena_;
  LayerSlots slots_;
  std::unique_ptr<StagingRing> staging_;
  TimedStream copy_stream_;
  TimedStream compute_stream_;
  std::unique_ptr<Feeder> feeder_;
  std::optional<FeederWait> waits_for_;  // empty = it may step
  std::optional<TimedStates> states_;    // empty = hidden states stay in memory
  double state_copy_seconds_ = 0;
  uint64_t step_ = 0;  // of a pass: a batch in a layer
  std::array<double, 2> step_ends_{};
  bool woken_ = false;  // the model thread gave something back since the last step
  uint64_t sequence_ = 0;
};

}  // namespace

SimulatedPass busy_seconds(const StreamPlan& plan, bool unified, const LinkRates& rates,
                           std::span<const double> unit_seconds, const RowGather& gather,
                           uint32_t batches, const StateTraffic& states) {
  CHECK(unit_seconds.size() == plan.units.size());
  SimulatedPass pass;
  pass.read_seconds = static_cast<double>(gather.bytes) / rates.read;
  for (uint32_t u = 0; u < plan.units.size(); ++u) {
    const Unit& unit = plan.units[u];
    const Tier tier = plan.placement.unit_tiers[u];
    if (tier == Tier::kNvme) {
      pass.read_seconds += static_cast<double>(unit.plan.read_bytes) / rates.read;
    }
    if (!unified && tier != Tier::kGpu) {
      pass.copy_seconds += static_cast<double>(unit.bytes) / rates.copy;
    }
    pass.compute_seconds += batches * unit_seconds[u];
  }
  if (on_drive(states, batches)) {
    const StateSeconds seconds(states, rates, unified);
    const auto moved = static_cast<double>((layers_of(plan) - 1) * batches);
    pass.read_seconds += moved * 2 * seconds.drive;
    pass.copy_seconds += moved * seconds.copy;  // back they go beside it
  }
  return pass;
}

SimulatedPass simulate_pass(const StreamPlan& plan, bool unified, const LinkRates& rates,
                            std::span<const double> unit_seconds, const RowGather& gather,
                            uint32_t batches, const StateTraffic& states) {
  CHECK(batches > 0);
  SimulatedPass pass = busy_seconds(plan, unified, rates, unit_seconds, gather, batches, states);
  pass.seconds = Simulation(plan, unified, rates, unit_seconds, gather, batches, states).run();
  return pass;
}

}  // namespace spillway
