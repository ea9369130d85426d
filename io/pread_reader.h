// Reads through a few threads of pread(): where io_uring is blocked.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "io/block_reader.h"

namespace spillway {

/// At most `depth` reads are queued or running. Worker threads only touch the queue and targets.
class PreadReader final : public BlockReader {
 public:
  explicit PreadReader(uint32_t depth);
  ~PreadReader() override;

  std::string name() const override { return "pread"; }
  uint32_t depth() const override { return depth_; }
  bool submit(ReadOp& op) override;
  size_t poll(std::span<ReadCompletion> out) override;
  void wait() override;

 private:
  void work();

  const uint32_t depth_;
  std::mutex mutex_;
  std::condition_variable has_work_;
  std::condition_variable has_result_;
  std::vector<ReadOp*> queue_;  // oldest first, reserved to depth
  std::vector<ReadCompletion> results_;
  uint32_t in_flight_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace spillway
