#include "core/thread.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/limits.h"
#include "core/units.h"

namespace spillway {

void throw_no_thread(std::string_view purpose, const std::system_error& cause) {
  throw Error(fmt::format(
      "cannot start a thread {}: {}{}; raise the limit on processes and threads (ulimit -u; in a "
      "container --pids-limit) or on address space (ulimit -v)",
      purpose, errno_text(cause.code().value()), thread_limits_text()));
}

std::string no_worker_text(std::string_view setting) {
  const std::string limits = thread_limits_text();
  return fmt::format(
      "a thread to compute cannot be started{}; raise {}, or lower {}", limits,
      limits.empty() ? "the limit on threads (in a container --pids-limit)" : "that limit",
      setting);
}

uint32_t startable_to_compute(uint32_t wanted, uint32_t others, const NoticeSink& notice) {
  const uint32_t all = wanted - 1 + others;  // the first one is there
  const uint32_t startable = startable_threads(all);
  if (startable < others) {
    throw Error(fmt::format(
        "{} needed beside the first, and {} can be started{}; raise that limit, or end other "
        "processes",
        others == 1 ? "a thread is" : fmt::format("{} threads are", others), startable,
        thread_limits_text()));
  }
  if (startable == all) return wanted;
  const uint32_t left = startable - others + 1;
  notice(fmt::format("computing with {} instead of {}: no more can be started{}",
                     counted(left, "thread"), wanted, thread_limits_text()));
  return left;
}

}  // namespace spillway
