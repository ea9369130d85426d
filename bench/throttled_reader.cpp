#include "bench/throttled_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"

namespace spillway::bench {

SlowDrive::SlowDrive(double bytes_per_second, const Clock& clock)
    : bytes_per_second_(bytes_per_second), clock_(clock) {
  CHECK(bytes_per_second > 0);
}

int64_t SlowDrive::end_of_read_ns(uint64_t bytes) {
  const double read_ns = std::ceil(1e9 * static_cast<double>(bytes) / bytes_per_second_);
  const int64_t now_ns = clock_.now_ns();
  const std::lock_guard lock(mutex_);
  free_at_ns_ = std::max(free_at_ns_, now_ns) + static_cast<int64_t>(read_ns);
  return free_at_ns_;
}

ThrottledReader::ThrottledReader(std::unique_ptr<BlockReader> inner,
                                 std::shared_ptr<SlowDrive> drive)
    : inner_(std::move(inner)), drive_(std::move(drive)), arrived_(inner_->depth()) {
  turns_.reserve(inner_->depth());
}

std::string ThrottledReader::name() const {
  return fmt::format("{}, throttled to {:.3g} GB/s", inner_->name(),
                     drive_->bytes_per_second() / 1e9);
}

bool ThrottledReader::submit(ReadOp& op) {
  // What is there before its time still takes a place in the queue.
  if (turns_.size() == depth() || !inner_->submit(op)) return false;
  turns_.push_back({{&op, 0}, drive_->end_of_read_ns(op.next_bytes()), false});
  return true;
}

ThrottledReader::Turn* ThrottledReader::turn_of(const ReadOp* op) {
  const auto found = std::find_if(turns_.begin(), turns_.end(),
                                  [&](const Turn& turn) { return turn.completion.op == op; });
  return found == turns_.end() ? nullptr : &*found;
}

/// All that the reader behind has by now, so that its wait() is not ended by what must wait here.
void ThrottledReader::collect() {
  const size_t count = inner_->poll(arrived_);
  for (size_t i = 0; i < count; ++i) {
    Turn* turn = turn_of(arrived_[i].op);
    CHECK(turn != nullptr && !turn->there);
    turn->completion = arrived_[i];
    turn->there = true;
  }
}

size_t ThrottledReader::poll(std::span<ReadCompletion> out) {
  collect();
  const int64_t now_ns = drive_->clock().now_ns();
  size_t count = 0;
  size_t kept = 0;
  for (const Turn& turn : turns_) {
    if (turn.there && turn.end_ns <= now_ns && count < out.size()) {
      out[count++] = turn.completion;
    } else {
      turns_[kept++] = turn;
    }
  }
  turns_.resize(kept);
  return count;
}

void ThrottledReader::wait(int64_t limit_ns) {
  const int64_t now_ns = drive_->clock().now_ns();
  for (const Turn& turn : turns_) {
    if (turn.there) limit_ns = std::min(limit_ns, std::max<int64_t>(0, turn.end_ns - now_ns));
  }
  inner_->wait(limit_ns);
}

void ThrottledReader::cancel(ReadOp& op) noexcept {
  Turn* turn = turn_of(&op);
  if (turn == nullptr) return;
  turn->end_ns = std::min(turn->end_ns, drive_->clock().now_ns());
  if (!turn->there) inner_->cancel(op);
}

ReaderFactory throttled(ReaderFactory readers, std::shared_ptr<SlowDrive> drive) {
  return [readers = std::move(readers), drive = std::move(drive)](uint32_t depth) {
    return std::make_unique<ThrottledReader>(readers(depth), drive);
  };
}

}  // namespace spillway::bench
