#include "tiers/feeder_thread.h"

#include <chrono>

namespace spillway {

FeederThread::FeederThread(Feeder& feeder, const StopFlag& stop)
    : feeder_(feeder),
      stop_flag_(stop),
      subscription_(stop.on_request([this] {
        const std::lock_guard lock(mutex_);
        progress_.notify_all();
      })),
      thread_(start_thread("that feeds units", [this] { run(); })) {}

FeederThread::~FeederThread() {
  stop();
}

void FeederThread::wake() {
  {
    const std::lock_guard lock(mutex_);
    ++wakes_;
  }
  given_.notify_one();
}

void FeederThread::wait_published(uint64_t sequence) {
  std::unique_lock lock(mutex_);
  progress_.wait(
      lock, [&] { return stop_flag_.requested() || error_ != nullptr || published_ > sequence; });
  stop_flag_.check();
  if (error_ != nullptr) std::rethrow_exception(error_);
}

bool FeederThread::stop() noexcept {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  given_.notify_one();
  feeder_.wake();
  if (thread_.joinable()) thread_.join();
  return drained_;
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
  progress_.notify_all();
  drained_ = feeder_.drain();
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
    if (more) progress_.notify_one();
  }
}

/// Nothing can move before a read completes, a copy ends, or the model thread gives something back.
void FeederThread::block() {
  const FeederWait wait = feeder_.waits_for();
  if (wait == FeederWait::kRead) return feeder_.wait_for_read();
  if (wait == FeederWait::kCopy) return feeder_.wait_for_copy();
  std::unique_lock lock(mutex_);
  const auto changed = [this] { return stopping_ || wakes_ != seen_wakes_; };
  if (wait == FeederWait::kModel) return given_.wait(lock, changed);
  given_.wait_for(lock, std::chrono::milliseconds(1), changed);
}

}  // namespace spillway
