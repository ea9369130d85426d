#include "io/pread_reader.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace spillway {
namespace {

constexpr uint32_t kMaxThreads = 8;

}  // namespace

PreadReader::PreadReader(uint32_t depth) : depth_(depth) {
  queue_.reserve(depth);
  results_.reserve(depth);
  for (uint32_t i = 0; i < std::min(depth, kMaxThreads); ++i) {
    threads_.emplace_back([this] { work(); });
  }
}

PreadReader::~PreadReader() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  has_work_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool PreadReader::submit(ReadOp& op) {
  {
    const std::lock_guard lock(mutex_);
    if (in_flight_ >= depth_) return false;
    queue_.push_back(&op);
    ++in_flight_;
  }
  has_work_.notify_one();
  return true;
}

size_t PreadReader::poll(std::span<ReadCompletion> out) {
  const std::lock_guard lock(mutex_);
  const size_t count = std::min(out.size(), results_.size());
  std::copy_n(results_.begin(), count, out.begin());
  results_.erase(results_.begin(), results_.begin() + static_cast<ptrdiff_t>(count));
  in_flight_ -= static_cast<uint32_t>(count);
  return count;
}

void PreadReader::wait() {
  std::unique_lock lock(mutex_);
  if (in_flight_ == 0) return;
  has_result_.wait_for(lock, std::chrono::milliseconds(100), [this] { return !results_.empty(); });
}

void PreadReader::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    has_work_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    ReadOp* op = queue_.front();
    queue_.erase(queue_.begin());
    lock.unlock();
    const ssize_t got = pread(op->file->fd, op->next_target(), op->next_bytes(),
                              static_cast<off_t>(op->next_offset()));
    const auto result = static_cast<int32_t>(got < 0 ? -errno : got);
    lock.lock();
    results_.push_back({op, result});
    has_result_.notify_one();
  }
}

}  // namespace spillway
