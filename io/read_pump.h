// Reads (and writes) with retries: owns the table of ReadOps in front of a BlockReader. One thread,
// but wake().
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/buffer.h"
#include "core/clock.h"
#include "io/block_reader.h"

namespace spillway {

struct ReadRequest {
  const ReadFile* file = nullptr;
  uint64_t offset = 0;
  std::byte* target = nullptr;
  uint32_t bytes = 0;
  uint32_t needed = 0;
  uint64_t tag = 0;
  IoKind kind = IoKind::kRead;  ///< a write takes `bytes` from `target`, which it never changes
};

/// How long drain() waits for a drive that does not answer.
inline constexpr int64_t kDrainLimitNs = 3'000'000'000;

/// Invariant: free_ + in flight + again_ == reader.depth(). No allocation after construction.
class ReadPump {
 public:
  /// Both outlive the pump.
  ReadPump(BlockReader& reader, const Clock& clock);
  ReadPump(const ReadPump&) = delete;
  /// Drains. An owner whose targets go calls drain() itself, to know what came of it.
  ~ReadPump();

  /// False when `depth` reads are under way.
  bool start(const ReadRequest& request);
  /// Collects what finished, resubmits what must go on; the tags of finished reads are returned and
  /// valid until the next call. Throws Error once for a read that failed for good.
  std::span<const uint64_t> poll();
  /// Blocks until poll() may have something to do, wake() was called since the last wait, or
  /// `limit_ns` are over. Returns at once when no read is under way.
  void wait(int64_t limit_ns = BlockReader::kNoLimit);
  /// Ends the wait() that is on, or else the next one. Any thread.
  void wake() noexcept { reader_.wake(); }
  uint32_t active() const { return static_cast<uint32_t>(ops_.size() - free_.size()); }
  bool full() const { return free_.empty(); }

  /// Ends all reads and writes, before targets go: what waits to be tried again is dropped, what is
  /// in flight is cancelled and waited for, kDrainLimitNs at most. True: nothing will touch a
  /// target any more. False: the drive does not answer, or the ring is broken, and a target may be
  /// written (a write's read, and its file written) at any later time. The owner then leaks the
  /// targets' memory (HugeBuffer::leak(), Memory::leak()): the process is about to end anyway. The
  /// pump starts nothing after this, and drains no second time.
  [[nodiscard]] bool drain() noexcept;

 private:
  uint32_t in_flight() const { return active() - static_cast<uint32_t>(again_.size()); }
  void resubmit_waiting();
  bool await_in_flight() noexcept;

  BlockReader& reader_;
  const Clock& clock_;
  std::vector<ReadOp> ops_;
  std::vector<ReadOp*> free_;
  std::vector<ReadOp*> again_;
  std::vector<ReadCompletion> completions_;
  std::vector<uint64_t> finished_;
  bool abandoned_ = false;  // reads are in flight that nobody waits for any more
};

/// A pump and the memory it reads into, which goes after the last read or never.
class PumpedBuffer {
 public:
  PumpedBuffer(BlockReader& reader, const Clock& clock, uint64_t bytes)
      : memory_(bytes), pump_(reader, clock) {}
  PumpedBuffer(const PumpedBuffer&) = delete;
  ~PumpedBuffer() {
    if (!pump_.drain()) memory_.leak();
  }
  ReadPump& pump() { return pump_; }
  std::byte* data() const { return memory_.data(); }
  uint64_t bytes() const { return memory_.bytes(); }
  const HugeBuffer& memory() const { return memory_; }

 private:
  HugeBuffer memory_;
  ReadPump pump_;
};

}  // namespace spillway
