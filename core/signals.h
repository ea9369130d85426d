// Ctrl-C, SIGTERM and SIGHUP as a stop request, without a signal handler.
//
// A handler runs on the stack of whichever thread is interrupted, and code that is generated at run
// time (oneDNN's) keeps data below or in the stack pointer: a handler would write over it. So the
// signals are blocked in every thread, and one thread waits for them. It may lock and notify, which
// a handler may not: whoever blocks is woken at once (core/stop.h).
#pragma once

#include <atomic>
#include <chrono>
#include <csignal>
#include <string_view>
#include <thread>

#include "core/stop.h"

namespace spillway {

/// Said where a stop comes while nobody watches, and only then: a run that had begun says
/// otherwise.
inline constexpr std::string_view kStoppedAtOnce =
    "spillway: stopped; there was nothing to keep yet";

/// Made before any other thread exists, because threads inherit what is blocked, and destroyed
/// last. The signals stay blocked when it ends: what follows is the end of the process.
///
/// The first signal requests a stop where that is watched, and else ends the process at once, with
/// the line kStoppedAtOnce; a later one ends it at once in any case, for whoever cannot wait.
/// Signals that were ignored at start (nohup, a shell's background job) stay ignored.
class StopSignals {
 public:
  /// Signals this close to the first are one request: timeout(1) signals its child, then the group.
  static constexpr std::chrono::milliseconds kOneRequest{200};

  /// Throws Error when the thread cannot be had. `at_once_exit_code`: of the process when a signal
  /// ends it.
  StopSignals(StopFlag& stop, int at_once_exit_code,
              std::chrono::milliseconds one_request = kOneRequest);
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

 private:
  void wait();

  StopFlag& stop_;
  const int at_once_exit_code_;
  const std::chrono::milliseconds one_request_;
  sigset_t signals_{};
  std::atomic<bool> ending_{false};
  std::jthread thread_;  // none when every signal is ignored
};

/// For a child between fork and exec, which inherits what is blocked: nothing is.
/// Async-signal-safe. posix_spawn does the same with POSIX_SPAWN_SETSIGMASK and an empty set.
void unblock_signals_in_child() noexcept;

}  // namespace spillway
