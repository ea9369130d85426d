#include "io/uring_reader.h"

#include <fmt/format.h>
#include <liburing.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "core/error.h"
#include "core/units.h"

namespace spillway {

struct UringReader::Ring {
  io_uring ring{};
  uint32_t depth = 0;
  uint32_t in_flight = 0;  // queued or in the kernel
  bool enabled = false;

  /// Newest flags first; older kernels know fewer of them.
  int open(uint32_t entries) {
    constexpr unsigned kFlagSets[] = {
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_R_DISABLED,
        IORING_SETUP_R_DISABLED,
    };
    int result = -EINVAL;
    for (const unsigned flags : kFlagSets) {
      io_uring_params params{};
      params.flags = flags;
      result = io_uring_queue_init_params(entries, &ring, &params);
      if (result != -EINVAL) break;
    }
    return result;
  }

  void enable() {
    // liburing 2.3 declares io_uring_enable_rings() but its shared library does not export it.
    if (syscall(__NR_io_uring_register, ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) <
        0) {
      throw Error(fmt::format("io_uring: enabling the ring failed: {}", errno_text(errno)));
    }
    enabled = true;
  }

  /// Enters the kernel; transient refusals leave the queue as it is for the next call.
  static void check_entered(int result) {
    if (result >= 0 || result == -EINTR || result == -EAGAIN || result == -EBUSY ||
        result == -ETIME) {
      return;
    }
    throw Error(fmt::format("io_uring: submitting reads failed: {}", errno_text(-result)));
  }
};

UringReader::UringReader(uint32_t depth) : ring_(std::make_unique<Ring>()) {
  const int result = ring_->open(depth);
  if (result < 0) {
    throw Error(fmt::format("io_uring is not available: {}", errno_text(-result)));
  }
  ring_->depth = depth;
}

UringReader::~UringReader() {
  std::vector<ReadCompletion> rest(ring_->depth);
  try {
    while (ring_->in_flight > 0) {
      if (poll(rest) == 0) wait();
    }
  } catch (const Error&) {  // the ring is dead; nothing of ours can be in flight any more
  }
  io_uring_queue_exit(&ring_->ring);
}

uint32_t UringReader::depth() const {
  return ring_->depth;
}

bool UringReader::submit(ReadOp& op) {
  if (ring_->in_flight >= ring_->depth) return false;
  if (!ring_->enabled) ring_->enable();
  io_uring_sqe* entry = io_uring_get_sqe(&ring_->ring);
  if (entry == nullptr) return false;
  if (op.buffer_index >= 0) {
    io_uring_prep_read_fixed(entry, op.file->fd, op.next_target(), op.next_bytes(),
                             op.next_offset(), op.buffer_index);
  } else {
    io_uring_prep_read(entry, op.file->fd, op.next_target(), op.next_bytes(), op.next_offset());
  }
  io_uring_sqe_set_data(entry, &op);
  ++ring_->in_flight;
  return true;
}

size_t UringReader::poll(std::span<ReadCompletion> out) {
  if (ring_->in_flight == 0) return 0;
  Ring::check_entered(io_uring_submit_and_get_events(&ring_->ring));
  size_t count = 0;
  io_uring_cqe* entry = nullptr;
  while (count < out.size() && io_uring_peek_cqe(&ring_->ring, &entry) == 0 && entry != nullptr) {
    out[count].op = static_cast<ReadOp*>(io_uring_cqe_get_data(entry));
    out[count].result = entry->res;
    ++count;
    io_uring_cqe_seen(&ring_->ring, entry);
  }
  ring_->in_flight -= static_cast<uint32_t>(count);
  return count;
}

void UringReader::wait() {
  if (ring_->in_flight == 0) return;
  // A bounded wait: a stop request is noticed even when a device never answers.
  __kernel_timespec limit{0, 100'000'000};
  io_uring_cqe* entry = nullptr;
  Ring::check_entered(io_uring_submit_and_wait_timeout(&ring_->ring, &entry, 1, &limit, nullptr));
}

bool UringReader::register_buffers(std::span<const std::span<std::byte>> buffers) {
  if (ring_->enabled) return false;  // only before the reads start
  std::vector<iovec> vectors;
  for (const std::span<std::byte> buffer : buffers) {
    if (buffer.size() > kGiB) return false;  // the kernel's limit for one buffer
    vectors.push_back({buffer.data(), buffer.size()});
  }
  // ENOMEM is common: the memory counts against RLIMIT_MEMLOCK (8 MiB for ordinary users).
  return io_uring_register_buffers(&ring_->ring, vectors.data(),
                                   static_cast<unsigned>(vectors.size())) == 0;
}

}  // namespace spillway
