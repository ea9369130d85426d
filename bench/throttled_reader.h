// A slow drive for benchmarks: a reader of production behind which reads take their time. Only a
// benchmark driver makes one, and says so; nothing that a user runs does.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/clock.h"
#include "io/open_reader.h"

namespace spillway::bench {

/// The one drive behind all readers that read from it: it serves one read after the other, and
/// what it could have done while it had nothing to do is lost. Any thread.
class SlowDrive {
 public:
  /// `clock` outlives it. CHECKs that the rate is positive.
  SlowDrive(double bytes_per_second, const Clock& clock);
  /// When a read of so many bytes that is submitted now will be through, behind all before it.
  int64_t end_of_read_ns(uint64_t bytes);
  double bytes_per_second() const { return bytes_per_second_; }
  const Clock& clock() const { return clock_; }

 private:
  const double bytes_per_second_;
  const Clock& clock_;
  std::mutex mutex_;
  int64_t free_at_ns_ = INT64_MIN;
};

/// Gives completions of `inner` when the slow drive would: later, in the order in which reads were
/// submitted among those that are through. A read that is cancelled no longer waits for its turn.
/// Thread rule as of any reader. Allocates at its making.
class ThrottledReader final : public BlockReader {
 public:
  ThrottledReader(std::unique_ptr<BlockReader> inner, std::shared_ptr<SlowDrive> drive);

  std::string name() const override;
  uint32_t depth() const override { return inner_->depth(); }
  bool submit(ReadOp& op) override;
  size_t poll(std::span<ReadCompletion> out) override;
  void wait(int64_t limit_ns) override;
  void wake() noexcept override { inner_->wake(); }
  void cancel(ReadOp& op) noexcept override;
  BufferRegistration register_buffers(std::span<const std::span<std::byte>> buffers) override {
    return inner_->register_buffers(buffers);
  }

 private:
  /// A read that is under way, or there before its time.
  struct Turn {
    ReadCompletion completion;
    int64_t end_ns = 0;
    bool there = false;
  };
  Turn* turn_of(const ReadOp* op);
  void collect();

  std::unique_ptr<BlockReader> inner_;
  std::shared_ptr<SlowDrive> drive_;
  std::vector<Turn> turns_;  // as submitted; depth at most
  std::vector<ReadCompletion> arrived_;
};

/// Readers that share one slow drive in front of those that `readers` makes.
ReaderFactory throttled(ReaderFactory readers, std::shared_ptr<SlowDrive> drive);

}  // namespace spillway::bench
