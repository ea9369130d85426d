// The disk seam: submit aligned reads up to a fixed depth, collect raw results. Everything below
// (io_uring, threads, a simulated disk) only moves bytes; classify_read() judges results.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "io/read_outcome.h"

namespace spillway {

struct ReadCompletion {
  ReadOp* op = nullptr;
  int32_t result = 0;  ///< bytes delivered, or -errno
};

/// One thread uses a reader, from its first submit on. Ops and targets outlive their completion.
/// The destructor waits for reads in flight.
class BlockReader {
 public:
  virtual ~BlockReader() = default;
  virtual std::string name() const = 0;
  virtual uint32_t depth() const = 0;
  /// Takes op.next_*(). False: the queue is full, nothing was taken.
  virtual bool submit(ReadOp& op) = 0;
  /// Hands queued reads to the system and collects finished ones without blocking.
  virtual size_t poll(std::span<ReadCompletion> out) = 0;
  /// Blocks until a completion may be ready; returns at once when nothing is in flight.
  virtual void wait() = 0;
  /// Registers target memory with the kernel where that is possible. Optional; false = not done.
  virtual bool register_buffers(std::span<const std::span<std::byte>> buffers) {
    (void)buffers;
    return false;
  }
};

}  // namespace spillway
