// Reads with retries: owns the table of ReadOps in front of a BlockReader. One thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "io/block_reader.h"

namespace spillway {

struct ReadRequest {
  const ReadFile* file = nullptr;
  uint64_t offset = 0;
  std::byte* target = nullptr;
  uint32_t bytes = 0;
  uint32_t needed = 0;
  int32_t buffer_index = -1;
  uint64_t tag = 0;
};

/// Invariant: free_ + in flight + again_ == reader.depth(). No allocation after construction.
class ReadPump {
 public:
  explicit ReadPump(BlockReader& reader);
  ReadPump(const ReadPump&) = delete;
  ~ReadPump();

  /// False when `depth` reads are under way.
  bool start(const ReadRequest& request);
  /// Collects what finished, resubmits what must go on; the tags of finished reads are returned and
  /// valid until the next call. Throws Error once for a read that failed for good.
  std::span<const uint64_t> poll();
  void wait() { reader_.wait(); }
  uint32_t active() const { return static_cast<uint32_t>(ops_.size() - free_.size()); }
  bool full() const { return free_.empty(); }
  /// Waits for reads in flight and forgets them: after an error, before targets are freed.
  void drain() noexcept;

 private:
  void resubmit_waiting();

  BlockReader& reader_;
  std::vector<ReadOp> ops_;
  std::vector<ReadOp*> free_;
  std::vector<ReadOp*> again_;
  std::vector<ReadCompletion> completions_;
  std::vector<uint64_t> finished_;
};

}  // namespace spillway
