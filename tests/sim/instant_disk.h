// A disk without latency that moves no bytes: what is left is the engine's own cost.
#pragma once

#include <algorithm>
#include <utility>

#include "io/block_reader.h"

namespace spillway::test {

/// Completes every read at the next poll, moves nothing and allocates nothing.
class InstantDisk final : public BlockReader {
 public:
  /// `short_moves`: two of three end in the middle.
  explicit InstantDisk(bool short_moves = false) : short_moves_(short_moves) {}
  std::string name() const override { return "instant"; }
  uint32_t depth() const override { return kDepth; }
  bool submit(ReadOp& op) override {
    if (count_ == kDepth) return false;
    const bool short_move = short_moves_ && ++submitted_ % 3 != 0;
    const uint32_t bytes = short_move ? op.next_bytes() / 2 + 1 : op.next_bytes();
    done_[count_++] = {&op, static_cast<int32_t>(bytes)};
    return true;
  }
  size_t poll(std::span<ReadCompletion> out) override {
    std::copy_n(done_, count_, out.begin());
    return std::exchange(count_, 0u);
  }
  void wait(int64_t) override {}
  void wake() noexcept override {}
  void cancel(ReadOp&) noexcept override {}

 private:
  static constexpr uint32_t kDepth = 4;
  const bool short_moves_;
  uint64_t submitted_ = 0;
  ReadCompletion done_[kDepth];
  uint32_t count_ = 0;
};

}  // namespace spillway::test
