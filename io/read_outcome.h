// One read or write on its way, and the one place that decides what a completion means.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "core/clock.h"
#include "io/direct_file.h"

namespace spillway {

enum class IoKind : uint8_t { kRead, kWrite };

/// A read (or write) as its owner wants it and as far as it has come. Owned by ReadPump's table.
struct ReadOp {
  const ReadFile* file = nullptr;
  uint64_t offset = 0;          ///< aligned
  std::byte* target = nullptr;  ///< aligned; what a write takes its bytes from, and never changes
  uint32_t bytes = 0;           ///< aligned
  uint32_t needed = 0;  ///< fewest bytes that complete it: less than `bytes` at a file's end
  uint64_t tag = 0;     ///< the owner's
  IoKind kind = IoKind::kRead;

  uint32_t done = 0;  ///< delivered (or taken) so far, a multiple of the alignment while unfinished
  bool in_flight = false;
  uint32_t retries = 0;          ///< since it last got on
  int64_t failing_since_ns = 0;  ///< the first of them
  int64_t not_before_ns = 0;     ///< when it may be submitted again

  uint64_t next_offset() const { return offset + done; }
  std::byte* next_target() const { return target + done; }
  uint32_t next_bytes() const { return bytes - done; }
};

/// A read that does not get on is tried for so long: the reset of a controller takes seconds.
inline constexpr int64_t kRetryLimitNs = 10'000'000'000;
inline constexpr uint32_t kMaxRetries = 64;

enum class ReadOutcome { kDone, kAgain, kFailed };

/// Advances `op` by a completion's `result` (bytes, or -errno) and says what follows:
///   kDone    finished
///   kAgain   submit the remainder, not before op.not_before_ns: after a short read at once; after
///            EINTR, EAGAIN, EBUSY, ENOMEM at once for some times, then later and later; after what
///            a drive or its link reports (EIO, ETIMEDOUT, ENODATA, ENOLINK, EREMOTEIO) later and
///            later from the first time on, up to a second between two tries
///   kFailed  anything else, or no progress in kRetryLimitNs or kMaxRetries, with `message` naming
///            file, offset and cause
ReadOutcome classify_read(ReadOp& op, int32_t result, const Clock& clock, std::string& message);
/// The same for a write, which is finished when all its bytes are taken; `needed` is not looked at.
/// A full drive or quota (ENOSPC, EDQUOT) is not waited for: kFailed at once, with `message` saying
/// how much space is missing for op.file->bytes, and where.
ReadOutcome classify_write(ReadOp& op, int32_t result, const Clock& clock, std::string& message);

}  // namespace spillway
