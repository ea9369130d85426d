#include "kernels/host/workers.h"

#include <fmt/format.h>
#include <tbb/global_control.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "core/error.h"
#include "core/limits.h"
#include "core/units.h"

namespace spillway {

void start_workers(tbb::task_arena& arena, uint32_t threads, std::string_view setting) {
  using Control = tbb::global_control;
  const auto most = Control::active_value(Control::max_allowed_parallelism);
  const auto expected = static_cast<int>(std::min<size_t>(threads, most));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(500);
  std::atomic<int> there{0};
  try {
    arena.execute([&] {
      tbb::parallel_for(0, expected, [&](int) {
        ++there;
        while (there < expected && std::chrono::steady_clock::now() < deadline) {
          std::this_thread::yield();
        }
      });
    });
  } catch (const std::runtime_error&) {  // its words are TBB's
    throw Error(fmt::format(
        "cannot start {} to compute: the system refuses one{}; raise its "
        "limit on threads (ulimit -u; in a container --pids-limit) or lower {}",
        counted(static_cast<uint64_t>(expected), "thread"), thread_limits_text(), setting));
  }
}

}  // namespace spillway
