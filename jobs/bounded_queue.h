// Items from one thread to another, as many as fit. Any thread; closing wakes all who wait.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

#include "core/stop.h"

namespace spillway {

template <typename Item>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t capacity) : capacity_(capacity) {}
  BoundedQueue(const BoundedQueue&) = delete;

  /// Waits for room. False when the queue was closed, or a stop was requested: the item is lost.
  [[nodiscard]] bool push(Item item, const StopFlag& stop) {
    const StopSubscription wake = stop.on_request([this] {  // ends when the lock is given up
      const std::lock_guard lock(mutex_);
      changed_.notify_all();
    });
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return closed_ || stop.requested() || items_.size() < capacity_; });
    if (closed_ || stop.requested()) return false;
    items_.push_back(std::move(item));
    changed_.notify_all();
    return true;
  }
  /// Waits for an item; empty when the queue was closed and nothing is left.
  std::optional<Item> pop() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return closed_ || !items_.empty(); });
    if (items_.empty()) return std::nullopt;
    std::optional<Item> item = std::move(items_.front());
    items_.pop_front();
    changed_.notify_all();
    return item;
  }
  enum class Rest { kStays, kDropped };
  /// Nothing more comes; what is in it can still be popped where it stays.
  void close(Rest rest) {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    if (rest == Rest::kDropped) items_.clear();
    changed_.notify_all();
  }

 private:
  const size_t capacity_;
  std::mutex mutex_;  // guards:
  std::condition_variable changed_;
  std::deque<Item> items_;
  bool closed_ = false;
};

}  // namespace spillway
