#include "tiers/feeder_thread.h"

#include <chrono>

namespace spillway {
namespace {

/// A stop is noticed even when a drive never answers.
constexpr int64_t kPollNs = 100'000'000;

}  // namespace

FeederThread::FeederThread(Feeder& feeder, const StopFlag& stop)
    : feeder_(feeder), stop_flag_(stop), thread_([this] { run(); }) {}

FeederThread::~FeederThread() {
  stop();
}

void FeederThread::wake() {
  {
    const std::lock_guard lock(mutex_);
    ++wakes_;
  }
  changed_.notify_all();
}

void FeederThread::wait_published(uint64_t sequence) {
  std::unique_lock lock(mutex_);
  while (true) {
    if (error_ != nullptr) std::rethrow_exception(error_);
    if (stop_flag_.requested()) throw Stopped{};
    if (published_ > sequence) return;
    // Bounded, because a signal handler can set the flag but not notify.
    changed_.wait_for(lock, std::chrono::milliseconds(50));
  }
}

void FeederThread::stop() noexcept {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void FeederThread::run() {
  try {
    while (true) {
      {
        const std::lock_guard lock(mutex_);
        if (stopping_) break;
        seen_wakes_ = wakes_;
      }
      step_until_idle();
      block();
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    error_ = std::current_exception();
  }
  changed_.notify_all();
  static_cast<void>(feeder_.drain());
}

void FeederThread::step_until_idle() {
  while (feeder_.step()) {
    bool more = false;
    {
      const std::lock_guard lock(mutex_);
      more = feeder_.published() != published_;
      published_ = feeder_.published();
      if (stopping_) return;
    }
    if (more) changed_.notify_all();
  }
}

/// Nothing can move before a read completes, a copy ends, or the model thread gives something back.
void FeederThread::block() {
  const FeederWait wait = feeder_.waits_for();
  if (wait == FeederWait::kRead) return feeder_.wait_for_read(kPollNs);
  if (wait == FeederWait::kCopy) return feeder_.wait_for_copy();
  std::unique_lock lock(mutex_);
  const auto changed = [this] { return stopping_ || wakes_ != seen_wakes_; };
  if (wait == FeederWait::kModel) return changed_.wait(lock, changed);
  changed_.wait_for(lock, std::chrono::milliseconds(1), changed);
}

}  // namespace spillway
