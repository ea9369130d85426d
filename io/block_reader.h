// The disk seam: submit aligned reads up to a fixed depth, collect raw results. Everything below
// (io_uring, threads, a simulated disk) only moves bytes; classify_read() judges results.
//
// Writes go the same way: ReadOp::kind says which it is, and classify_write() judges them. A seam
// of their own would be a second ring, a second set of threads and a second pump for the sake of
// one call that differs (pwrite for pread); and a file that is written and read back by one thread
// (SpillFile) would wait on two rings at once. The names are those of what nearly all of it is.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "io/read_outcome.h"

namespace spillway {

struct ReadCompletion {
  ReadOp* op = nullptr;
  int32_t result = 0;  ///< bytes delivered (or taken, by a write), or -errno
};

/// What came of asking the kernel to keep target memory ready.
struct BufferRegistration {
  uint64_t bytes = 0;   ///< of the memory that was offered, from its start; 0 = none
  std::string refusal;  ///< why not all of it; empty when all is registered or readers have no such
};

/// Thread rule: one thread uses a reader, from its first submit() or wait() on; wake() is for any
/// thread. Ops and targets outlive their completion. The destructor waits for nothing: whoever owns
/// targets ends the reads before, with ReadPump::drain(), on the thread that used the reader.
class BlockReader {
 public:
  static constexpr int64_t kNoLimit = INT64_MAX;

  virtual ~BlockReader() = default;
  virtual std::string name() const = 0;
  virtual uint32_t depth() const = 0;
  /// Takes op.next_*(). False: the queue is full, nothing was taken. Throws Error when the system
  /// refuses for good.
  virtual bool submit(ReadOp& op) = 0;
  /// Hands queued reads to the system and collects finished ones without blocking. Throws Error
  /// when the system refuses for good.
  virtual size_t poll(std::span<ReadCompletion> out) = 0;
  /// Blocks until a completion may be ready, wake() was called since the last wait, or `limit_ns`
  /// are over; also with nothing in flight. May return early. Throws like poll().
  virtual void wait(int64_t limit_ns) = 0;
  /// Ends the wait() that is on, or else the next one. From any thread, not from a signal handler.
  virtual void wake() noexcept = 0;
  /// Asks that a read in flight be given up; never blocks. The read completes as ever, with
  /// -ECANCELED, or with what it delivered if it was too late; a drive may leave it unanswered.
  virtual void cancel(ReadOp& op) noexcept = 0;
  /// Registers target memory with the kernel, where that is possible and before the first read.
  virtual BufferRegistration register_buffers(std::span<const std::span<std::byte>> buffers) {
    (void)buffers;
    return {};
  }
};

}  // namespace spillway
