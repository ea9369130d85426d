// A stop request that a signal handler may raise. Owned by cli, passed down by reference.
#pragma once

#include <atomic>

namespace spillway {

/// Lock-free: safe to set from a signal handler and to read from any thread.
class StopFlag {
 public:
  void request() { requested_.store(true, std::memory_order_relaxed); }
  bool requested() const { return requested_.load(std::memory_order_relaxed); }

 private:
  std::atomic<bool> requested_{false};
  static_assert(std::atomic<bool>::is_always_lock_free);
};

}  // namespace spillway
