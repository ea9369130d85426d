#include "kernels/host/workers.h"

#include <tbb/global_control.h>
#include <tbb/parallel_for.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>

#include "core/error.h"
#include "core/thread.h"

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
    throw Error(no_worker_text(setting));
  }
}

}  // namespace spillway
