#include "core/thread.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/limits.h"

namespace spillway {

void throw_no_thread(std::string_view purpose, const std::system_error& cause) {
  throw Error(fmt::format(
      "cannot start a thread {}: {}{}; raise the limit on processes and threads (ulimit -u; in a "
      "container --pids-limit) or on address space (ulimit -v)",
      purpose, errno_text(cause.code().value()), thread_limits_text()));
}

}  // namespace spillway
