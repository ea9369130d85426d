// Reads and writes through io_uring: bounded depth, batched submission, one thread.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "io/block_reader.h"

namespace spillway {

/// The first `bytes` of buffers, in pieces that the kernel registers: of a GiB at most.
std::vector<std::span<std::byte>> registration_pieces(std::span<const std::span<std::byte>> buffers,
                                                      uint64_t bytes);

/// Lifecycle: the ring is made disabled and enabled by the first submit() or wait(), because
/// SINGLE_ISSUER binds it to the thread that enables it. submit() only queues; poll() enters the
/// kernel once for everything queued. In flight never exceeds depth, so neither ring overflows.
/// A kernel that refuses to be entered is asked again for some seconds, then that is an Error.
/// The constructor throws Error when the system has no io_uring or forbids it; choose_reader()
/// falls back then.
class UringReader final : public BlockReader {
 public:
  explicit UringReader(uint32_t depth);
  ~UringReader() override;

  std::string name() const override { return "io_uring"; }
  uint32_t depth() const override;
  bool submit(ReadOp& op) override;
  size_t poll(std::span<ReadCompletion> out) override;
  void wait(int64_t limit_ns) override;
  void wake() noexcept override;
  void cancel(ReadOp& op) noexcept override;
  /// In pieces of at most a GiB, the kernel's limit; where it refuses all, as much as it takes.
  BufferRegistration register_buffers(std::span<const std::span<std::byte>> buffers) override;

 private:
  struct Ring;
  std::unique_ptr<Ring> ring_;
};

}  // namespace spillway
