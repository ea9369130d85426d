#include "io/uring_reader.h"

#include <fmt/format.h>
#include <liburing.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

/// Beside the reads the queue holds the poll of the wake-up and the time-out of older kernels.
constexpr uint32_t kExtraEntries = 2;
constexpr uint64_t kLargestBuffer = kGiB;    // the kernel's limit for one registered buffer
constexpr uint64_t kSmallestAttempt = kMiB;  // less is not worth registering
/// A kernel that will not be entered is asked again, about 6 s in all.
constexpr uint32_t kMaxRefusals = 64;
constexpr int64_t kFirstRefusalPauseNs = 1'000'000;
constexpr int64_t kMaxRefusalPauseNs = 100'000'000;

/// user_data of entries that are no reads; those are addresses of ReadOps.
constexpr uint64_t kWakeData = 1;
constexpr uint64_t kCancelData = 2;

int open_ring(io_uring& ring, uint32_t entries) {
  // Newest flags first; older kernels know fewer of them.
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

/// `buffer`: the registered one that holds the target, or -1.
void prepare(io_uring_sqe* entry, const ReadOp& op, int buffer) {
  const int fd = op.file->fd;
  std::byte* const target = op.next_target();
  const uint32_t bytes = op.next_bytes();
  const uint64_t offset = op.next_offset();
  if (op.kind == IoKind::kWrite) {
    if (buffer >= 0) {
      io_uring_prep_write_fixed(entry, fd, target, bytes, offset, buffer);
    } else {
      io_uring_prep_write(entry, fd, target, bytes, offset);
    }
  } else if (buffer >= 0) {
    io_uring_prep_read_fixed(entry, fd, target, bytes, offset, buffer);
  } else {
    io_uring_prep_read(entry, fd, target, bytes, offset);
  }
}

}  // namespace

struct UringReader::Ring {
  io_uring ring{};
  int wake_fd = -1;
  uint32_t depth = 0;
  uint32_t in_flight = 0;  // reads queued or in the kernel
  bool enabled = false;
  bool wake_armed = false;  // the kernel polls wake_fd
  bool woken = false;       // a wake-up was collected that no wait() has answered yet
  uint32_t refusals = 0;    // of the kernel to be entered, in a row
  std::vector<std::span<std::byte>> registered;  // by address

  explicit Ring(uint32_t reads) : depth(reads) {
    wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    const int result = wake_fd < 0 ? -errno : open_ring(ring, reads + kExtraEntries);
    if (result < 0) {
      if (wake_fd >= 0) close(wake_fd);
      throw Error(fmt::format("io_uring is not available: {}", errno_text(-result)));
    }
  }
  Ring(const Ring&) = delete;
  ~Ring() {
    give_back_buffers();
    io_uring_queue_exit(&ring);
    close(wake_fd);
  }

  /// The kernel takes a closed ring apart when it finds the time, and until then the control group
  /// pays for its buffers: a process in a group of its budget's size would be killed by the next.
  void give_back_buffers() {
    if (registered.empty() || in_flight > 0) return;
    const uint64_t one = 1;  // older kernels wait for the poll that is armed
    static_cast<void>(!write(wake_fd, &one, sizeof one));
    io_uring_unregister_buffers(&ring);
  }

  void enable() {
    if (enabled) return;
    // liburing 2.3 declares io_uring_enable_rings() but its shared library does not export it.
    if (syscall(__NR_io_uring_register, ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0) <
        0) {
      throw Error(
          fmt::format("io_uring: enabling the ring failed: {}; io.engine: pread does without",
                      errno_text(errno)));
    }
    enabled = true;
  }

  /// Judges what entering the kernel came to. True: it refuses for now, the queue is as it was.
  static bool refused(int result) {
    if (result >= 0 || result == -ETIME || result == -EINTR) return false;
    if (result == -EAGAIN || result == -EBUSY) return true;
    throw Error(fmt::format("io_uring: submitting reads failed: {}; io.engine: pread does without",
                            errno_text(-result)));
  }

  /// The ring cannot be waited on: waits for a wake-up or a while, longer each time.
  void pause(int error, int64_t limit_ns) {
    if (++refusals > kMaxRefusals) {
      throw Error(
          fmt::format("io_uring: submitting reads failed: {}, {} times in a row; "
                      "io.engine: pread does without",
                      errno_text(error), kMaxRefusals));
    }
    const int64_t pause_ns =
        std::min({kFirstRefusalPauseNs << std::min(refusals, 10u), kMaxRefusalPauseNs, limit_ns});
    const timespec pause{pause_ns / 1'000'000'000, pause_ns % 1'000'000'000};
    pollfd event{wake_fd, POLLIN, 0};
    if (ppoll(&event, 1, &pause, nullptr) > 0) take_wake();
  }

  void take_wake() {
    uint64_t count = 0;
    static_cast<void>(!read(wake_fd, &count, sizeof count));  // never blocks
    woken = true;
  }

  void arm_wake() {
    if (wake_armed) return;
    io_uring_sqe* entry = io_uring_get_sqe(&ring);
    if (entry == nullptr) return;  // cannot be: an entry is kept for it
    io_uring_prep_poll_add(entry, wake_fd, POLLIN);
    io_uring_sqe_set_data64(entry, kWakeData);
    wake_armed = true;
  }

  /// Takes what the completion queue holds, without entering the kernel: reads as far as there is
  /// room for them, and what stands before them.
  size_t reap(std::span<ReadCompletion> out) {
    size_t count = 0;
    io_uring_cqe* entry = nullptr;
    while (io_uring_peek_cqe(&ring, &entry) == 0 && entry != nullptr) {
      const uint64_t data = io_uring_cqe_get_data64(entry);
      if (data == kWakeData) {
        wake_armed = false;
        take_wake();
      } else if (data != kCancelData) {
        if (count == out.size()) break;
        out[count].op = static_cast<ReadOp*>(io_uring_cqe_get_data(entry));
        out[count].result = entry->res;
        ++count;
      }
      io_uring_cqe_seen(&ring, entry);
    }
    in_flight -= static_cast<uint32_t>(count);
    return count;
  }

  int buffer_index(const ReadOp& op) const {
    const std::byte* begin = op.next_target();
    for (size_t i = 0; i < registered.size(); ++i) {
      const std::span<std::byte> piece = registered[i];
      if (begin >= piece.data() && begin + op.next_bytes() <= piece.data() + piece.size()) {
        return static_cast<int>(i);
      }
    }
    return -1;
  }
};

UringReader::UringReader(uint32_t depth) : ring_(std::make_unique<Ring>(depth)) {}

UringReader::~UringReader() = default;

uint32_t UringReader::depth() const {
  return ring_->depth;
}

bool UringReader::submit(ReadOp& op) {
  if (ring_->in_flight >= ring_->depth) return false;
  ring_->enable();
  io_uring_sqe* entry = io_uring_get_sqe(&ring_->ring);
  if (entry == nullptr) return false;
  prepare(entry, op, ring_->buffer_index(op));
  io_uring_sqe_set_data(entry, &op);
  ++ring_->in_flight;
  return true;
}

size_t UringReader::poll(std::span<ReadCompletion> out) {
  if (ring_->in_flight > 0) Ring::refused(io_uring_submit_and_get_events(&ring_->ring));
  return ring_->reap(out);
}

void UringReader::wait(int64_t limit_ns) {
  ring_->enable();
  ring_->arm_wake();
  if (!ring_->woken) {
    __kernel_timespec limit{limit_ns / 1'000'000'000, limit_ns % 1'000'000'000};
    io_uring_cqe* entry = nullptr;
    const int result = io_uring_submit_and_wait_timeout(
        &ring_->ring, &entry, 1, limit_ns == kNoLimit ? nullptr : &limit, nullptr);
    if (Ring::refused(result)) {
      ring_->pause(-result, limit_ns);
    } else {
      ring_->refusals = 0;
    }
  }
  ring_->reap({});
  ring_->woken = false;
}

void UringReader::wake() noexcept {
  const uint64_t one = 1;
  static_cast<void>(!write(ring_->wake_fd, &one, sizeof one));  // full means woken already
}

void UringReader::cancel(ReadOp& op) noexcept {
  io_uring_sqe* entry = io_uring_get_sqe(&ring_->ring);
  if (entry == nullptr) {
    io_uring_submit(&ring_->ring);
    entry = io_uring_get_sqe(&ring_->ring);
  }
  if (entry == nullptr) return;  // the kernel takes nothing; drain() gives up after a while
  io_uring_prep_cancel(entry, &op, 0);
  io_uring_sqe_set_data64(entry, kCancelData);
}

std::vector<std::span<std::byte>> registration_pieces(std::span<const std::span<std::byte>> buffers,
                                                      uint64_t bytes) {
  std::vector<std::span<std::byte>> pieces;
  for (std::span<std::byte> rest : buffers) {
    while (!rest.empty() && bytes > 0) {
      const auto piece = rest.first(std::min({rest.size(), kLargestBuffer, bytes}));
      pieces.push_back(piece);
      bytes -= piece.size();
      rest = rest.subspan(piece.size());
    }
  }
  return pieces;
}

BufferRegistration UringReader::register_buffers(std::span<const std::span<std::byte>> buffers) {
  if (ring_->enabled) return {0, "reads have begun"};
  uint64_t all_bytes = 0;
  for (const std::span<std::byte> buffer : buffers) all_bytes += buffer.size();
  BufferRegistration result;
  // ENOMEM is common: on some systems the memory counts against RLIMIT_MEMLOCK.
  for (uint64_t bytes = all_bytes; bytes >= std::min(all_bytes, kSmallestAttempt); bytes /= 2) {
    auto pieces = registration_pieces(buffers, bytes);
    std::vector<iovec> vectors;
    vectors.reserve(pieces.size());
    for (const auto piece : pieces) vectors.push_back({piece.data(), piece.size()});
    const int error = io_uring_register_buffers(&ring_->ring, vectors.data(),
                                                static_cast<unsigned>(vectors.size()));
    if (error == 0) {
      ring_->registered = std::move(pieces);
      result.bytes = bytes;
      return result;
    }
    if (result.refusal.empty()) result.refusal = errno_text(-error);
    if (error != -ENOMEM) return result;
  }
  return result;
}

}  // namespace spillway
