#include "model/sweep_states.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/units.h"
#include "io/spill_file.h"

namespace spillway {
namespace {

/// What nearly all drives ask of addresses and lengths; one that asks more goes through the page
/// cache.
constexpr uint64_t kAlignment = 4096;

uint64_t batch_bytes(uint32_t hidden, const ForwardLimits& limits) {
  return uint64_t{limits.max_rows} * hidden * sizeof(float);
}

/// All of them in device memory.
class ResidentStates final : public SweepStates {
 public:
  ResidentStates(const SweepStatesParts& parts, uint32_t hidden, const ForwardLimits& limits)
      : hidden_(hidden), memory_(parts.arena->take(state_bytes(hidden, limits))) {
    parts.ops->zero(*parts.stream, memory_.data(), memory_.bytes());
  }
  void begin(const SweepSchedule& steps) override { steps_ = &steps; }
  float* take(size_t step) override {
    const uint64_t first = uint64_t{(*steps_)[step].first_row} * hidden_;
    return reinterpret_cast<float*>(memory_.data()) + first;
  }
  void give(size_t) override {}
  void break_off() noexcept override {}
  SpillStats take_stats() override { return {}; }

 private:
  uint32_t hidden_;
  Memory memory_;
  const SweepSchedule* steps_ = nullptr;
};

/// On a drive, but for those in the buffers.
///
/// A buffer's way: free → reading → ready → (a discrete device: leaving →) writing → free; without
/// reading in the first layer, without writing in the last. Steps are given buffers strictly in
/// their order, as far ahead as buffers are free, so that none waits for one that comes after it.
class SpilledStates final : public SweepStates {
 public:
  SpilledStates(SweepStatesParts parts, uint32_t hidden, const ForwardLimits& limits)
      : parts_(std::move(parts)),
        row_bytes_(uint64_t{hidden} * sizeof(float)),
        shape_{limits.spill_batches, spill_block_bytes(hidden, limits), limits.spill_buffers},
        unified_(parts_.device->unified()),
        on_drive_(spills(limits)),
        memory_(parts_.arena->take(state_bytes(hidden, limits))),
        buffers_(limits.spill_buffers),
        taken_by_(limits.spill_buffers) {
    parts_.ops->zero(*parts_.stream, memory_.data(), memory_.bytes());
    free_.reserve(buffers_.size());
    if (!unified_ && on_drive_) make_staging(staged_state_bytes(hidden, limits, false));
    for (size_t i = 0; i < buffers_.size(); ++i) {
      const uint64_t offset = i * spill_block_bytes(hidden, limits);
      buffers_[i].device = memory_.data() + offset;
      buffers_[i].host = staging_.data() == nullptr ? buffers_[i].device : staging_.data() + offset;
    }
    if (on_drive_) open();
  }
  ~SpilledStates() override { SpilledStates::break_off(); }

  void begin(const SweepSchedule& steps) override {
    CHECK(steps.batches() <= shape_.blocks);
    if (abandoned_) {
      throw Error(
          "the drive has not answered hidden states of the sweep before; start the program again");
    }
    steps_ = &steps;
    in_memory_ = steps.batches() <= buffers_.size();
    if (!in_memory_ && file_ == nullptr) open();
    CHECK(file_ == nullptr || file_->active() == 0);
    next_ = 0;
    free_.clear();
    for (Buffer& buffer : buffers_) release(buffer);
  }

  float* take(size_t step) override {
    const SweepStep of = (*steps_)[step];
    if (in_memory_) return reinterpret_cast<float*>(buffers_[of.batch].device);
    settle();
    if (!ready(step)) wait_for(step);
    Buffer& buffer = buffer_of(step);
    if (!unified_ && of.layer > 0) parts_.stream->wait(*buffer.arrived);
    return reinterpret_cast<float*>(buffer.device);
  }

  void give(size_t step) override {
    if (in_memory_) return;
    Buffer& buffer = buffer_of(step);
    CHECK(buffer.stage == Stage::kReady);
    buffer.kept = (*steps_)[step].layer + 1 < steps_->layers();
    if (unified_) {
      leave(buffer);
    } else {
      bring_back(buffer, (*steps_)[step]);
    }
    settle();
  }

  void break_off() noexcept override {
    wakes_ = {};
    if (file_ != nullptr && !file_->drain()) {
      abandoned_ = true;
      (unified_ ? memory_ : staging_).leak();
    }
    settle_copies();
    file_.reset();
    reader_.reset();
    for (Buffer& buffer : buffers_) buffer.stage = Stage::kFree;
  }

  SpillStats take_stats() override { return std::exchange(stats_, {}); }
  std::string refused() const override { return refused_; }

 private:
  enum class Stage : uint8_t { kFree, kReading, kReady, kLeaving, kWriting };
  struct Buffer {
    std::byte* device = nullptr;
    std::byte* host = nullptr;  // what the drive moves; on unified memory the same
    Stage stage = Stage::kFree;
    size_t step = 0;
    bool kept = false;  // another layer needs it
    // Of a discrete device: in its memory; computed; out of it.
    std::unique_ptr<Event> arrived;
    std::unique_ptr<Event> computed;
    std::unique_ptr<Event> left;
  };

  void make_staging(uint64_t bytes) {
    staging_ = parts_.device->allocate_pinned(bytes);
    up_ = parts_.device->make_stream(StreamKind::kCopy);
    down_ = parts_.device->make_stream(StreamKind::kCopy);
    for (Buffer& buffer : buffers_) {
      for (auto* event : {&buffer.arrived, &buffer.computed, &buffer.left}) {
        *event = parts_.device->make_event();
      }
    }
  }

  void open() {
    reader_ = parts_.readers(static_cast<uint32_t>(buffers_.size()));
    make_file(parts_.direct);
    refused_ = file_->refused();
    if (file_->file().alignment > kAlignment) {
      refused_ = fmt::format("{} asks for {} at a time", parts_.folder.string(),
                             format_bytes(file_->file().alignment));
      make_file(DirectChoice::kOff);
    }
    CHECK(file_->block_bytes() == shape_.block_bytes);
    wakes_ = parts_.stop->on_request([file = file_.get()] { file->wake(); });
  }

  void make_file(DirectChoice direct) {
    file_.reset();  // its space first
    file_ = std::make_unique<SpillFile>(parts_.folder, shape_, direct, *reader_, *parts_.clock);
  }

  uint32_t index_of(size_t step) const { return taken_by_[step % taken_by_.size()]; }
  Buffer& buffer_of(size_t step) { return buffers_[index_of(step)]; }
  bool ready(size_t step) { return step < next_ && buffer_of(step).stage == Stage::kReady; }

  /// All that can be done now; what was begun is on its way then.
  void settle() {
    while (advance()) continue;
  }

  bool advance() {
    bool moved = false;
    for (const uint64_t index : file_->poll()) {
      finish(buffers_[index]);
      moved = true;
    }
    for (Buffer& buffer : buffers_) {
      if (buffer.stage != Stage::kLeaving || !buffer.left->done()) continue;
      leave(buffer);
      moved = true;
    }
    while (assign()) moved = true;
    return moved;
  }

  /// The next step that has no buffer yet gets one, and its states on their way into it.
  bool assign() {
    if (next_ == steps_->size() || free_.empty() || on_its_way(next_)) return false;
    const uint32_t index = free_.back();
    free_.pop_back();
    const SweepStep of = (*steps_)[next_];
    Buffer& buffer = buffers_[index];
    buffer.step = next_;
    taken_by_[next_++ % taken_by_.size()] = index;
    buffer.stage = of.layer == 0 ? Stage::kReady : Stage::kReading;
    if (of.layer > 0) {
      CHECK(file_->read(of.batch, buffer.host, index));
      stats_.read_bytes += file_->block_bytes();
    }
    return true;
  }

  /// Whether a step's states are not given to the file yet.
  bool on_its_way(size_t step) const {
    return std::any_of(buffers_.begin(), buffers_.end(), [&](const Buffer& buffer) {
      const bool in_device = buffer.stage == Stage::kReady || buffer.stage == Stage::kLeaving;
      return in_device && buffer.step + steps_->batches() == step;
    });
  }

  void finish(Buffer& buffer) {
    if (buffer.stage == Stage::kWriting) return release(buffer);
    CHECK(buffer.stage == Stage::kReading);
    buffer.stage = Stage::kReady;
    if (unified_) return;
    up_->copy(buffer.device, buffer.host, (*steps_)[buffer.step].rows * row_bytes_);
    up_->record(*buffer.arrived);
  }

  /// Out of a discrete device's memory, when it has computed them.
  void bring_back(Buffer& buffer, const SweepStep& of) {
    buffer.stage = Stage::kLeaving;
    if (!buffer.kept) return parts_.stream->record(*buffer.left);
    parts_.stream->record(*buffer.computed);
    down_->wait(*buffer.computed);
    down_->copy(buffer.host, buffer.device, of.rows * row_bytes_);
    down_->record(*buffer.left);
  }

  /// To the drive, or nowhere.
  void leave(Buffer& buffer) {
    if (!buffer.kept) return release(buffer);
    buffer.stage = Stage::kWriting;
    const auto index = static_cast<uint64_t>(&buffer - buffers_.data());
    CHECK(file_->write((*steps_)[buffer.step].batch, buffer.host, index));
    stats_.written_bytes += file_->block_bytes();
  }

  void release(Buffer& buffer) {
    buffer.stage = Stage::kFree;
    free_.push_back(static_cast<uint32_t>(&buffer - buffers_.data()));
  }

  void wait_for(size_t step) {
    const int64_t begin_ns = parts_.clock->now_ns();
    while (!ready(step)) {
      parts_.stop->check();
      if (!advance()) block();
    }
    stats_.wait_ns += parts_.clock->now_ns() - begin_ns;
  }

  /// Until a read or a write is over, or else what leaves the device first.
  void block() {
    if (file_->active() > 0) return file_->wait();
    Buffer* oldest = nullptr;
    for (Buffer& buffer : buffers_) {
      if (buffer.stage != Stage::kLeaving) continue;
      if (oldest == nullptr || buffer.step < oldest->step) oldest = &buffer;
    }
    CHECK(oldest != nullptr);
    oldest->left->sync();
  }

  /// Copies under way use memory that may go next. A device that failed has none.
  void settle_copies() noexcept {
    try {
      if (up_ != nullptr) up_->sync();
      if (down_ != nullptr) down_->sync();
    } catch (...) {
      return;  // what led here was reported already, or the next use of the device reports
    }
  }

  SweepStatesParts parts_;
  uint64_t row_bytes_;
  SpillShape shape_;
  bool unified_;
  bool on_drive_;
  Memory memory_;
  Memory staging_;  // discrete devices
  std::unique_ptr<Stream> up_;
  std::unique_ptr<Stream> down_;
  std::vector<Buffer> buffers_;
  std::vector<uint32_t> taken_by_;  // the buffer of a step, by its number modulo theirs
  std::vector<uint32_t> free_;
  const SweepSchedule* steps_ = nullptr;
  bool in_memory_ = false;  // this sweep has no more batches than there are buffers
  size_t next_ = 0;         // the first step without a buffer
  SpillStats stats_;
  std::string refused_;
  bool abandoned_ = false;
  std::unique_ptr<BlockReader> reader_;
  std::unique_ptr<SpillFile> file_;
  StopSubscription wakes_;  // last: it calls the file
};

}  // namespace

uint32_t spill_buffers(bool unified) {
  return unified ? 4 : 6;
}

uint64_t spill_block_bytes(uint32_t hidden, const ForwardLimits& limits) {
  return align_up(batch_bytes(hidden, limits), kAlignment);
}

bool spills(const ForwardLimits& limits) {
  return limits.spill_batches > limits.spill_buffers;
}

uint64_t state_bytes(uint32_t hidden, const ForwardLimits& limits) {
  if (limits.spill_buffers > 0) return limits.spill_buffers * spill_block_bytes(hidden, limits);
  return uint64_t{limits.sweep_rows} * hidden * sizeof(float);
}

uint64_t staged_state_bytes(uint32_t hidden, const ForwardLimits& limits, bool unified) {
  return unified || !spills(limits) ? 0 : state_bytes(hidden, limits);
}

uint64_t spill_table_bytes(const ForwardLimits& limits) {
  return spills(limits) ? SpillFile::table_bytes(limits.spill_batches) : 0;
}

std::unique_ptr<SweepStates> make_sweep_states(const SweepStatesParts& parts, uint32_t hidden,
                                               const ForwardLimits& limits) {
  if (limits.sweep_rows == 0) return nullptr;
  if (limits.spill_buffers == 0) return std::make_unique<ResidentStates>(parts, hidden, limits);
  return std::make_unique<SpilledStates>(parts, hidden, limits);
}

}  // namespace spillway
