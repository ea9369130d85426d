#include "io/read_outcome.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "core/error.h"
#include "core/units.h"

namespace spillway {
namespace {

constexpr int64_t kMillisecondNs = 1'000'000;
constexpr int64_t kMaxDelayNs = 1000 * kMillisecondNs;
constexpr uint32_t kPromptRetries = 16;  // of what passes by itself, before the first delay

/// How long until the next try is worth making.
int64_t delay_ns(uint32_t retry, uint32_t prompt_retries, int64_t first_ns) {
  if (retry <= prompt_retries) return 0;
  const uint32_t doublings = std::min(retry - prompt_retries - 1, 20u);
  return std::min(first_ns << doublings, kMaxDelayNs);
}

std::string failure(const ReadOp& op, const std::string& cause) {
  return fmt::format("{}: {} {} bytes at offset {} failed: {}", op.file->path,
                     op.kind == IoKind::kWrite ? "writing" : "reading", op.next_bytes(),
                     op.next_offset(), cause);
}

struct RetryKind {
  uint32_t prompt_retries;
  int64_t first_delay_ns;
};
constexpr RetryKind kBusy{kPromptRetries, kMillisecondNs};
constexpr RetryKind kDrive{0, 10 * kMillisecondNs};
constexpr RetryKind kCrumbs{kMaxRetries, 0};

/// `cause` makes the text of a failure: what is tried again allocates nothing.
template <typename Cause>
ReadOutcome retry_or_fail(ReadOp& op, const RetryKind& kind, const Cause& cause, const Clock& clock,
                          std::string& message) {
  const int64_t now_ns = clock.now_ns();
  if (op.retries == 0) op.failing_since_ns = now_ns;
  const int64_t failing_ns = now_ns - op.failing_since_ns;
  if (op.retries > 0 && (failing_ns >= kRetryLimitNs || op.retries >= kMaxRetries)) {
    message = failure(
        op, fmt::format("{} after {} retries in {:.1f} s (limits: {} retries, {:.0f} s)", cause(),
                        op.retries, seconds(failing_ns), kMaxRetries, seconds(kRetryLimitNs)));
    return ReadOutcome::kFailed;
  }
  ++op.retries;
  op.not_before_ns = now_ns + delay_ns(op.retries, kind.prompt_retries, kind.first_delay_ns);
  return ReadOutcome::kAgain;
}

bool passes_by_itself(int error) {
  return error == EINTR || error == EAGAIN || error == EBUSY || error == ENOMEM;
}

/// What the block layer says of a drive, its medium or its link.
bool reported_by_drive(int error) {
  return error == EIO || error == ETIMEDOUT || error == ENODATA || error == ENOLINK ||
         error == EREMOTEIO;
}

ReadOutcome classify_error(ReadOp& op, int error, const Clock& clock, std::string& message) {
  const auto cause = [error] { return errno_text(error); };
  if (passes_by_itself(error)) return retry_or_fail(op, kBusy, cause, clock, message);
  if (reported_by_drive(error)) return retry_or_fail(op, kDrive, cause, clock, message);
  message = failure(op, errno_text(error) + "; the drive's log is in dmesg");
  return ReadOutcome::kFailed;
}

/// What the file has no space for yet; a file that had all of it is one whose blocks move when they
/// are written (copy on write, thin volumes).
uint64_t missing_bytes(const ReadOp& op) {
  constexpr uint64_t kCountedBytes = 512;  // of st_blocks, whatever the file system's blocks are
  struct stat status {};
  if (fstat(op.file->fd, &status) != 0) return op.file->bytes;
  const uint64_t there = static_cast<uint64_t>(status.st_blocks) * kCountedBytes;
  const uint64_t rest = op.file->bytes > there ? op.file->bytes - there : 0;
  return std::max<uint64_t>(rest, op.next_bytes());
}

std::string full_drive(const ReadOp& op, int error) {
  return fmt::format(
      "the {} under {} is full: {} more are needed for hidden states; free some or give more "
      "memory",
      error == EDQUOT ? "quota" : "drive", op.file->path, format_bytes_up(missing_bytes(op)));
}

/// Goes on behind the whole blocks among the `count` bytes that were moved, of more.
/// `crumbs` makes the text why fewer than a block is the end of it, if it stays so.
template <typename Crumbs>
ReadOutcome advance(ReadOp& op, uint32_t count, const Crumbs& crumbs, const Clock& clock,
                    std::string& message) {
  const auto whole = static_cast<uint32_t>(align_down(count, op.file->alignment));
  if (whole == 0) return retry_or_fail(op, kCrumbs, crumbs, clock, message);
  op.done += whole;
  op.retries = 0;
  op.not_before_ns = 0;
  return ReadOutcome::kAgain;
}

}  // namespace

ReadOutcome classify_read(ReadOp& op, int32_t result, const Clock& clock, std::string& message) {
  if (result < 0) return classify_error(op, -result, clock, message);
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
  const auto crumbs = [got] {
    return fmt::format(
        "only {} bytes arrive, the file is shorter than when it was opened: given up", got);
  };
  return advance(op, got, crumbs, clock, message);
}

ReadOutcome classify_write(ReadOp& op, int32_t result, const Clock& clock, std::string& message) {
  if (result == -ENOSPC || result == -EDQUOT) {
    message = full_drive(op, -result);
    return ReadOutcome::kFailed;
  }
  if (result == -EFBIG) {
    message = failure(op, errno_text(EFBIG) + "; raise the limit on the size of files (ulimit -f)");
    return ReadOutcome::kFailed;
  }
  if (result < 0) return classify_error(op, -result, clock, message);
  const auto taken = static_cast<uint32_t>(result);
  if (taken > op.next_bytes()) {
    message = failure(op, fmt::format("{} bytes were taken", taken));
    return ReadOutcome::kFailed;
  }
  if (taken == op.next_bytes()) {
    op.done += taken;
    return ReadOutcome::kDone;
  }
  const auto crumbs = [taken] {
    return fmt::format("only {} bytes are taken at a time: given up", taken);
  };
  return advance(op, taken, crumbs, clock, message);
}

}  // namespace spillway
