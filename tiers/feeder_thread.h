// Gives the feeder a thread: steps it, blocks while nothing can move, carries its error across.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>

#include "core/stop.h"
#include "tiers/feeder.h"

namespace spillway {

/// Thrown out of a wait when a stop was requested: not an error, the run ends early.
struct Stopped {};

/// The feeder belongs to the thread from construction until stop(). wake() and wait_published() may
/// be called by the model thread.
class FeederThread {
 public:
  FeederThread(Feeder& feeder, const StopFlag& stop);
  ~FeederThread();

  /// A slot came free or the limit was raised.
  void wake();
  /// Blocks until more than `sequence` units were published. Rethrows the feeder's error (every
  /// time); throws Stopped when a stop was requested.
  void wait_published(uint64_t sequence);
  /// Ends the thread; reads in flight are waited for. Idempotent.
  void stop() noexcept;

 private:
  void run();
  void step_until_idle();
  void block();

  Feeder& feeder_;
  const StopFlag& stop_flag_;
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t wakes_ = 0;        // guarded by mutex_
  uint64_t published_ = 0;    // guarded by mutex_
  bool stopping_ = false;     // guarded by mutex_
  std::exception_ptr error_;  // guarded by mutex_
  uint64_t seen_wakes_ = 0;   // feeder thread
  std::thread thread_;
};

}  // namespace spillway
