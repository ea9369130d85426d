// A disk that holds its bytes in a function and misbehaves by seed: latency, reordering, short
// reads, EAGAIN, EIO, a full queue, files that end early. One thread.
#pragma once

#include <map>
#include <random>
#include <vector>

#include "io/block_reader.h"

namespace spillway::test {

struct SimDiskFaults {
  double short_read = 0;          ///< chance that a read delivers only part
  double transient = 0;           ///< chance of EAGAIN or EINTR
  double io_error = 0;            ///< chance of EIO that a retry heals
  bool io_error_forever = false;  ///< every read fails with EIO
  int64_t fail_after_reads = -1;  ///< EIO for ever from this read on
  double queue_full = 0;          ///< chance that submit() refuses
  uint32_t max_latency = 4;       ///< ticks (polls) until a read may complete
  uint32_t min_latency = 0;
  int64_t truncate_after_reads = -1;  ///< from this read on, files end at their half
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
  /// Until a read in flight may complete, if any is.
  void wait() override;
  bool due() const;  ///< wait() would return at once
  /// A tick without a poll.
  void pass_time() { ++tick_; }

  uint64_t bytes_delivered() const { return bytes_delivered_; }
  uint32_t in_flight() const { return static_cast<uint32_t>(pending_.size()); }

 private:
  struct Pending {
    ReadOp* op;
    uint64_t offset;
    std::byte* target;
    uint32_t bytes;
    uint64_t due;
  };
  bool chance(double probability);
  int32_t perform(const Pending& read);

  uint32_t depth_;
  std::mt19937_64 random_;
  SimDiskFaults faults_;
  std::vector<Pending> pending_;
  uint64_t tick_ = 0;
  int64_t reads_ = 0;
  uint64_t bytes_delivered_ = 0;
};

}  // namespace spillway::test
