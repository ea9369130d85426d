// Gives the feeder a thread: steps it, blocks while nothing can move, carries its error across.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>

#include "core/stop.h"
#include "core/thread.h"
#include "tiers/feeder.h"

namespace spillway {

/// The feeder belongs to the thread from construction until stop(). wake() and wait_published() may
/// be called by the model thread. Throws Error when the thread cannot be had.
class FeederThread {
 public:
  FeederThread(Feeder& feeder, const StopFlag& stop);
  ~FeederThread();

  /// A slot came free or the limit was raised.
  void wake();
  /// Blocks until more than `sequence` units were published. Rethrows the feeder's error (every
  /// time); throws Stopped when a stop was requested.
  void wait_published(uint64_t sequence);
  /// Ends the thread, woken where it waits, and with it the reads in flight. False: a drive does
  /// not answer, and targets may still be written (ReadPump::drain()). Idempotent.
  bool stop() noexcept;

 private:
  void run();
  void step_until_idle();
  void block();

  Feeder& feeder_;
  const StopFlag& stop_flag_;
  std::mutex mutex_;
  std::condition_variable given_;     // the feeder waits here: for the model thread, or the end
  std::condition_variable progress_;  // the model thread: for units, an error, or a stop request
  uint64_t wakes_ = 0;                // guarded by mutex_
  uint64_t published_ = 0;            // guarded by mutex_
  bool stopping_ = false;             // guarded by mutex_
  std::exception_ptr error_;          // guarded by mutex_
  uint64_t seen_wakes_ = 0;           // feeder thread
  bool drained_ = true;               // feeder thread, until it has ended
  StopSubscription subscription_;
  std::jthread thread_;
};

}  // namespace spillway
