// A disk that holds its bytes in a function and misbehaves by seed: latency, reordering, short
// reads, EAGAIN, EIO, a full queue, files that end early, reads that are never answered. What is
// written is kept and read back, and a full drive takes no more. It owns
// time: a millisecond a poll. One thread, but wake().
#pragma once

#include <atomic>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "io/block_reader.h"

namespace spillway::test {

/// "Reads" are writes, too, where no other word is said.
struct SimDiskFaults {
  double short_read = 0;          ///< chance that a read delivers only part
  double transient = 0;           ///< chance of EAGAIN or EINTR
  double io_error = 0;            ///< chance of EIO that a retry heals
  bool io_error_forever = false;  ///< every read fails with EIO
  int64_t fail_after_reads = -1;  ///< EIO for ever from this read on
  int32_t error = 5;              ///< what those fail with (EIO)
  double queue_full = 0;          ///< chance that submit() refuses
  uint32_t max_latency = 4;       ///< ticks (polls) until a read may complete
  uint32_t min_latency = 0;
  int64_t truncate_after_reads = -1;  ///< from this read on, files end at their half
  int64_t hang_after_reads = -1;      ///< from this read submitted on, none is answered
  bool hung_reads_cancel = false;     ///< those can be cancelled
  bool broken = false;                ///< poll() and wait() throw
  int64_t full_after_writes = -1;     ///< from this write on, the drive is full
  int32_t full_error = 28;            ///< what those fail with (ENOSPC)
  double damage = 0;  ///< chance that a read of a written file delivers one wrong bit
};

/// Goes on when it is told to.
class SimClock final : public Clock {
 public:
  int64_t now_ns() const override { return now_ns_; }
  void advance(int64_t duration_ns) { now_ns_ += duration_ns; }

 private:
  int64_t now_ns_ = 0;
};

/// True bytes of simulated files: a hash of file and offset.
std::byte sim_byte(const ReadFile& file, uint64_t offset);

class SimDisk final : public BlockReader {
 public:
  SimDisk(uint32_t depth, uint64_t seed, SimDiskFaults faults)
      : depth_(depth), random_(seed), faults_(faults) {}

  std::string name() const override { return "simulated"; }
  uint32_t depth() const override { return depth_; }
  bool submit(ReadOp& op) override;
  size_t poll(std::span<ReadCompletion> out) override;
  /// Time goes on: until a read in flight may complete if any is, or to `limit_ns`.
  void wait(int64_t limit_ns) override;
  void wake() noexcept override { wakes_.fetch_add(1); }
  void cancel(ReadOp& op) noexcept override;
  bool due() const;  ///< wait() would return at once
  /// A tick without a poll.
  void pass_time();

  const Clock& clock() const { return clock_; }
  void set_faults(const SimDiskFaults& faults) { faults_ = faults; }
  uint32_t wakes() const { return wakes_.load(); }
  uint32_t waits() const { return waits_; }
  int64_t last_limit_ns() const { return last_limit_ns_; }
  uint64_t bytes_delivered() const { return bytes_delivered_; }
  /// Bits that reads delivered wrong.
  uint64_t damages() const { return damages_; }
  /// Times that a write was submitted while another operation in the same place was in flight, or
  /// another while a write was: a drive may do either first.
  uint64_t races() const { return races_; }
  uint32_t most_in_flight() const { return most_in_flight_; }
  uint32_t in_flight() const { return static_cast<uint32_t>(pending_.size()); }

 private:
  struct Pending {
    ReadOp* op;
    uint64_t offset;
    std::byte* target;
    uint32_t bytes;
    uint64_t due;
    bool hung;
    bool cancelled;
  };
  bool chance(double probability);
  bool races_with(const ReadOp& op) const;
  int32_t perform(const Pending& read);
  int32_t perform_write(const Pending& write);
  void deliver(const Pending& read, uint64_t bytes);

  uint32_t depth_;
  std::mt19937_64 random_;
  SimDiskFaults faults_;
  std::vector<Pending> pending_;
  SimClock clock_;
  std::atomic<uint32_t> wakes_{0};
  uint32_t waits_ = 0;
  int64_t last_limit_ns_ = 0;
  int64_t submitted_ = 0;
  uint64_t tick_ = 0;
  int64_t reads_ = 0;
  int64_t writes_ = 0;
  uint64_t bytes_delivered_ = 0;
  uint64_t damages_ = 0;
  uint64_t races_ = 0;
  uint32_t most_in_flight_ = 0;
  std::map<std::string, std::vector<std::byte>> written_;  // whole files, by path
};

}  // namespace spillway::test
