// A disk that gives bytes at a rate and moves nothing: waiting for it moves the clock. One thread.
#pragma once

#include <algorithm>
#include <deque>
#include <set>
#include <vector>

#include "io/block_reader.h"
#include "tests/sim/sim_disk.h"

namespace spillway::test {

/// What a paced disk does, shared with the test; outlives the disk.
struct Pace {
  double bytes_per_second = 1e9;
  double first_seconds = 0;         ///< it wakes up: the first read takes so much longer
  double new_bytes_per_second = 0;  ///< of what was never read; 0 = the same
  bool hangs = false;               ///< no read is ever answered
  SimClock clock;
  uint32_t readers = 0;                   ///< that were made
  uint32_t registered = 0;                ///< of those, with buffers registered
  uint32_t depth = 0;                     ///< of the last one
  std::vector<uint64_t> offsets;          ///< of all reads, as submitted
  std::vector<const std::byte*> targets;  ///< the same
  std::set<uint64_t> seen;
};

class PacedDisk final : public BlockReader {
 public:
  PacedDisk(uint32_t depth, Pace& pace) : depth_(depth), pace_(pace) {
    ++pace.readers;
    pace.depth = depth;
    free_at_ns_ = pace.clock.now_ns() + static_cast<int64_t>(pace.first_seconds * 1e9);
  }
  std::string name() const override { return "paced"; }
  uint32_t depth() const override { return depth_; }
  bool submit(ReadOp& op) override {
    if (pending_.size() == depth_) return false;
    const bool is_new = pace_.seen.insert(op.next_offset()).second;
    const bool slow = is_new && pace_.new_bytes_per_second > 0;
    const double rate = slow ? pace_.new_bytes_per_second : pace_.bytes_per_second;
    pace_.offsets.push_back(op.next_offset());
    pace_.targets.push_back(op.next_target());
    const double read_ns = 1e9 * op.next_bytes() / rate;
    free_at_ns_ = std::max(free_at_ns_, pace_.clock.now_ns()) + static_cast<int64_t>(read_ns);
    pending_.push_back({&op, pace_.hangs ? INT64_MAX : free_at_ns_});
    return true;
  }
  size_t poll(std::span<ReadCompletion> out) override {
    size_t count = 0;
    while (count < out.size() && !pending_.empty() && pending_.front().due <= now()) {
      ReadOp* op = pending_.front().op;
      pending_.pop_front();
      out[count++] = {op, cancelled_ ? -ECANCELED : static_cast<int32_t>(op->next_bytes())};
    }
    return count;
  }
  void wait(int64_t limit_ns) override {
    const int64_t next = pending_.empty() ? INT64_MAX : pending_.front().due;
    const int64_t limit = limit_ns > INT64_MAX - now() ? INT64_MAX : now() + limit_ns;
    const int64_t until = std::min(next, limit);
    if (until != INT64_MAX) pace_.clock.advance(std::max<int64_t>(0, until - now()));
  }
  void wake() noexcept override {}
  void cancel(ReadOp&) noexcept override {
    cancelled_ = true;
    for (Pending& read : pending_) read.due = 0;
  }
  BufferRegistration register_buffers(std::span<const std::span<std::byte>>) override {
    ++pace_.registered;
    return {};
  }

 private:
  struct Pending {
    ReadOp* op;
    int64_t due;
  };
  int64_t now() const { return pace_.clock.now_ns(); }

  uint32_t depth_;
  Pace& pace_;
  int64_t free_at_ns_ = 0;
  std::deque<Pending> pending_;
  bool cancelled_ = false;
};

}  // namespace spillway::test
