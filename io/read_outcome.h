// One read on its way, and the one place that decides what a completion means.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "io/direct_file.h"

namespace spillway {

/// A read as its owner wants it and as far as it has come. Owned by ReadPump's table.
struct ReadOp {
  const ReadFile* file = nullptr;
  uint64_t offset = 0;          ///< aligned
  std::byte* target = nullptr;  ///< aligned
  uint32_t bytes = 0;           ///< aligned
  uint32_t needed = 0;        ///< fewest bytes that complete it: less than `bytes` at a file's end
  int32_t buffer_index = -1;  ///< registered buffer that holds target, or -1
  uint64_t tag = 0;           ///< the owner's

  uint32_t done = 0;  ///< delivered so far, a multiple of the alignment while unfinished
  uint32_t transient_retries = 0;
  uint32_t error_retries = 0;

  uint64_t next_offset() const { return offset + done; }
  std::byte* next_target() const { return target + done; }
  uint32_t next_bytes() const { return bytes - done; }
};

inline constexpr uint32_t kMaxTransientRetries = 256;  ///< EINTR, EAGAIN, progress under a block
inline constexpr uint32_t kMaxErrorRetries = 3;        ///< EIO

enum class ReadOutcome { kDone, kAgain, kFailed };

/// Advances `op` by a completion's `result` (bytes, or -errno) and says what follows: finished;
/// submit the remainder again (a short read is legal, EINTR/EAGAIN/EIO get bounded retries); or
/// failed, with `message` naming file, offset and cause.
ReadOutcome classify_read(ReadOp& op, int32_t result, std::string& message);

}  // namespace spillway
