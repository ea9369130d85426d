// Reads through a few threads of pread() (writes: pwrite()): where io_uring is blocked.
#pragma once

#include <memory>
#include <thread>
#include <vector>

#include "io/block_reader.h"

namespace spillway {

/// At most `depth` reads are queued or running. Worker threads touch the queue and targets, no op:
/// a read that a drive never answers is left to its thread, which outlives the reader then.
class PreadReader final : public BlockReader {
 public:
  /// With fewer threads where the system does not give all; throws Error when it gives none.
  explicit PreadReader(uint32_t depth);
  ~PreadReader() override;

  std::string name() const override { return "pread"; }
  uint32_t depth() const override;
  bool submit(ReadOp& op) override;
  size_t poll(std::span<ReadCompletion> out) override;
  void wait(int64_t limit_ns) override;
  void wake() noexcept override;
  /// Gives up a read that is queued; one that runs goes on.
  void cancel(ReadOp& op) noexcept override;
  uint32_t threads() const { return static_cast<uint32_t>(threads_.size()); }

 private:
  struct Queue;
  explicit PreadReader(std::shared_ptr<Queue> queue);
  std::shared_ptr<Queue> queue_;
  std::vector<std::thread> threads_;
};

}  // namespace spillway
