#include "io/pread_reader.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <system_error>

#include "core/thread.h"

namespace spillway {
namespace {

constexpr uint32_t kMaxThreads = 8;

/// What a thread needs of a read; the op may be gone before a drive answers.
struct Job {
  ReadOp* op;
  int fd;
  std::byte* target;
  uint32_t bytes;
  uint64_t offset;
  IoKind kind;

  /// Bytes moved, or -1 and errno.
  ssize_t run() const {
    const auto at = static_cast<off_t>(offset);
    return kind == IoKind::kWrite ? pwrite(fd, target, bytes, at) : pread(fd, target, bytes, at);
  }
};

}  // namespace

/// Shared by the reader and its threads, each of which keeps it alive.
struct PreadReader::Queue {
  explicit Queue(uint32_t reads) : depth(reads) {
    jobs.reserve(depth);
    results.reserve(depth);
  }

  void work() {
    std::unique_lock lock(mutex);
    while (true) {
      has_work.wait(lock, [this] { return stopping || !jobs.empty(); });
      if (stopping) return;
      const Job job = jobs.front();
      jobs.erase(jobs.begin());
      ++running;
      lock.unlock();
      const ssize_t got = job.run();
      const auto result = static_cast<int32_t>(got < 0 ? -errno : got);
      lock.lock();
      --running;
      results.push_back({job.op, result});
      has_result.notify_one();
    }
  }

  const uint32_t depth;
  std::mutex mutex;
  std::condition_variable has_work;
  std::condition_variable has_result;
  std::vector<Job> jobs;  // oldest first, reserved to depth
  std::vector<ReadCompletion> results;
  uint32_t in_flight = 0;
  uint32_t running = 0;
  bool woken = false;
  bool stopping = false;
};

PreadReader::PreadReader(std::shared_ptr<Queue> queue) : queue_(std::move(queue)) {}

// Delegates, so that the destructor ends the threads that run when something else fails.
PreadReader::PreadReader(uint32_t depth) : PreadReader(std::make_shared<Queue>(depth)) {
  const uint32_t wanted = std::min(depth, kMaxThreads);
  threads_.reserve(wanted);
  for (uint32_t i = 0; i < wanted; ++i) {
    try {
      threads_.emplace_back([queue = queue_] { queue->work(); });
    } catch (const std::system_error& error) {
      if (!threads_.empty()) break;  // slower, but it reads
      throw_no_thread("to read with", error);
    }
  }
}

PreadReader::~PreadReader() {
  bool answered = false;
  {
    const std::lock_guard lock(queue_->mutex);
    queue_->stopping = true;
    answered = queue_->running == 0;
  }
  queue_->has_work.notify_all();
  for (std::thread& thread : threads_) {
    if (answered) {
      thread.join();
    } else {
      thread.detach();  // a drive that does not answer would hold us for ever
    }
  }
}

uint32_t PreadReader::depth() const {
  return queue_->depth;
}

bool PreadReader::submit(ReadOp& op) {
  {
    const std::lock_guard lock(queue_->mutex);
    if (queue_->in_flight >= queue_->depth) return false;
    queue_->jobs.push_back(
        {&op, op.file->fd, op.next_target(), op.next_bytes(), op.next_offset(), op.kind});
    ++queue_->in_flight;
  }
  queue_->has_work.notify_one();
  return true;
}

size_t PreadReader::poll(std::span<ReadCompletion> out) {
  const std::lock_guard lock(queue_->mutex);
  auto& results = queue_->results;
  const size_t count = std::min(out.size(), results.size());
  std::copy_n(results.begin(), count, out.begin());
  results.erase(results.begin(), results.begin() + static_cast<ptrdiff_t>(count));
  queue_->in_flight -= static_cast<uint32_t>(count);
  return count;
}

void PreadReader::wait(int64_t limit_ns) {
  std::unique_lock lock(queue_->mutex);
  const auto ready = [this] { return queue_->woken || !queue_->results.empty(); };
  if (limit_ns == kNoLimit) {
    queue_->has_result.wait(lock, ready);
  } else {
    queue_->has_result.wait_for(lock, std::chrono::nanoseconds(limit_ns), ready);
  }
  queue_->woken = false;
}

void PreadReader::wake() noexcept {
  {
    const std::lock_guard lock(queue_->mutex);
    queue_->woken = true;
  }
  queue_->has_result.notify_one();
}

void PreadReader::cancel(ReadOp& op) noexcept {
  const std::lock_guard lock(queue_->mutex);
  auto& jobs = queue_->jobs;
  const auto found =
      std::find_if(jobs.begin(), jobs.end(), [&](const Job& job) { return job.op == &op; });
  if (found == jobs.end()) return;
  jobs.erase(found);
  queue_->results.push_back({&op, -ECANCELED});
}

}  // namespace spillway
