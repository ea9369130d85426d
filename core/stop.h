// A stop request: raised once, by any thread, seen by all. Owned by cli, passed down by reference.
//
// Who works in a loop looks at requested(), or calls check(). Who blocks subscribes a callback that
// wakes it: nothing polls. No signal handler raises it (core/signals.h says why), so that callbacks
// may lock and notify.
//
// Lock order: request() holds no lock while callbacks run; a callback may take the lock of the one
// it wakes. The end of a subscription waits for its callback where that runs on another thread:
// never end one while holding a lock that the callback takes.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <utility>

namespace spillway {

/// Thrown where work was given up because a stop was requested: not an error, the run ends early.
struct Stopped {};

/// Calls its callback once when a stop is requested, or at once where it was before. The end of it
/// ends that; afterwards the callback neither runs nor will. Move-only.
class StopSubscription {
 public:
  StopSubscription() = default;
  StopSubscription(std::stop_token token, std::function<void()> wake)
      : callback_(std::make_unique<Callback>(std::move(token), std::move(wake))) {}

 private:
  using Callback = std::stop_callback<std::function<void()>>;
  std::unique_ptr<Callback> callback_;  // a std::stop_callback cannot be moved
};

/// Any thread.
class StopFlag {
 public:
  StopFlag() = default;
  StopFlag(const StopFlag&) = delete;
  StopFlag& operator=(const StopFlag&) = delete;

  /// Runs the callbacks, on the calling thread, the first time.
  void request() noexcept {
    {
      const std::lock_guard lock(mutex_);
      asked_ = true;
    }
    source_.request_stop();
  }
  /// The same where requests are watched; else calls `end`, and until that returns nobody begins to
  /// watch: what needs cleaning up is not begun while the process ends.
  void request_or(const std::function<void()>& end) {
    {
      const std::lock_guard lock(mutex_);
      if (!watched_) return end();
      asked_ = true;
    }
    source_.request_stop();
  }
  /// Says that requests are acted upon from now on: there is something to keep or to clean up.
  /// Before, a signal ends the process at once (core/signals.h): nobody looks while a text is
  /// tokenized or a plan is made.
  void watch() noexcept {
    const std::lock_guard lock(mutex_);
    watched_ = true;
  }
  /// From now on a signal ends the process at once again. Throws Stopped where a request came while
  /// this was watched: each is either seen here or ends the process, and none does both.
  void unwatch() {
    const std::lock_guard lock(mutex_);
    watched_ = false;
    if (asked_) throw Stopped{};
  }
  bool watched() const noexcept {
    const std::lock_guard lock(mutex_);
    return watched_;
  }
  bool requested() const noexcept { return source_.stop_requested(); }
  /// Throws Stopped when a stop was requested.
  void check() const {
    if (requested()) throw Stopped{};
  }
  /// `wake` must not throw, and is short: it locks, sets, notifies.
  [[nodiscard]] StopSubscription on_request(std::function<void()> wake) const {
    return {source_.get_token(), std::move(wake)};
  }

 private:
  std::stop_source source_;
  mutable std::mutex mutex_;  // guards:
  bool watched_ = false;
  bool asked_ = false;
};

}  // namespace spillway
