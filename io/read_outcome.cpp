#include "io/read_outcome.h"

#include <fmt/format.h>

#include <cerrno>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

std::string failure(const ReadOp& op, const std::string& cause) {
  return fmt::format("{}: reading {} bytes at offset {} failed: {}", op.file->path, op.next_bytes(),
                     op.next_offset(), cause);
}

ReadOutcome retry_or_fail(ReadOp& op, uint32_t& retries, uint32_t limit, int error,
                          std::string& message) {
  if (++retries <= limit) return ReadOutcome::kAgain;
  message = failure(op, fmt::format("{} after {} retries", errno_text(error), limit));
  return ReadOutcome::kFailed;
}

}  // namespace

ReadOutcome classify_read(ReadOp& op, int32_t result, std::string& message) {
  if (result < 0) {
    const int error = -result;
    if (error == EINTR || error == EAGAIN || error == EBUSY) {
      return retry_or_fail(op, op.transient_retries, kMaxTransientRetries, error, message);
    }
    if (error == EIO) {
      return retry_or_fail(op, op.error_retries, kMaxErrorRetries, error, message);
    }
    message = failure(op, errno_text(error));
    return ReadOutcome::kFailed;
  }
  const auto got = static_cast<uint32_t>(result);
  if (got > op.next_bytes()) {
    message = failure(op, fmt::format("{} bytes were delivered", got));
    return ReadOutcome::kFailed;
  }
  if (op.done + got >= op.needed) {
    op.done += got;
    return ReadOutcome::kDone;
  }
  if (got == 0) {
    message = failure(op, "the file ends here; it is shorter than when it was opened");
    return ReadOutcome::kFailed;
  }
  const auto whole = static_cast<uint32_t>(align_down(got, op.file->alignment));
  if (whole == 0) {  // under one block: read the same block again, a bounded number of times
    if (++op.transient_retries <= kMaxTransientRetries) return ReadOutcome::kAgain;
    message = failure(
        op, fmt::format("only {} bytes arrive after {} retries; the file is shorter than when it "
                        "was opened",
                        got, kMaxTransientRetries));
    return ReadOutcome::kFailed;
  }
  op.done += whole;
  return ReadOutcome::kAgain;
}

}  // namespace spillway
