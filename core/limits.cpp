#include "core/limits.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <chrono>
#include <exception>
#include <fstream>
#include <iterator>
#include <latch>
#include <thread>
#include <vector>

#include "core/system_memory.h"
#include "core/units.h"

namespace spillway {
namespace {

namespace fs = std::filesystem;

/// " (a, b)"; empty without any.
std::string listed(const std::vector<std::string>& limits) {
  if (limits.empty()) return "";
  return fmt::format(" ({})", fmt::join(limits, ", "));
}

void add_limit(std::vector<std::string>& limits, int resource, const char* what) {
  rlimit limit{};
  if (getrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0) return;
  if (limit.rlim_cur == RLIM_INFINITY) return;
  const bool bytes = resource != RLIMIT_NPROC;
  limits.push_back(fmt::format(
      "{} is {}", what, bytes ? format_bytes(limit.rlim_cur) : fmt::to_string(limit.rlim_cur)));
}

void add_memory_limits(std::vector<std::string>& limits) {
  add_limit(limits, RLIMIT_AS, "the limit on address space, ulimit -v,");
  add_limit(limits, RLIMIT_DATA, "the limit on data, ulimit -d,");
}

/// The smallest pids.max on the way from a group to its mount.
void add_group_limit(std::vector<std::string>& limits, const OwnGroup& own) {
  uint64_t least = UINT64_MAX;
  fs::path where;
  for_each_group(own, [&](const fs::path& group) {
    std::ifstream in(group / "pids.max");
    uint64_t most = 0;
    if (!(in >> most) || most >= least) return;  // "max" is no number
    least = most;
    where = group / "pids.max";
  });
  if (!where.empty()) limits.push_back(fmt::format("{} is {}", where.string(), least));
}

size_t thread_count() {
  std::error_code ignored;
  const fs::directory_iterator tasks("/proc/self/task", ignored);
  return static_cast<size_t>(std::distance(begin(tasks), end(tasks)));
}

}  // namespace

std::string memory_limits_text() {
  std::vector<std::string> limits;
  add_memory_limits(limits);
  return listed(limits);
}

std::string thread_limits_text(const fs::path& root) {
  std::vector<std::string> limits;
  add_limit(limits, RLIMIT_NPROC, "the limit on processes and threads of this user, ulimit -u,");
  for (const OwnGroup& own : own_groups("pids", root)) add_group_limit(limits, own);
  add_memory_limits(limits);
  return listed(limits);
}

uint32_t startable_threads(uint32_t wanted) {
  const size_t before = thread_count();
  std::latch all_tried(1);
  std::vector<std::thread> threads;
  threads.reserve(wanted);
  try {
    while (threads.size() < wanted) threads.emplace_back([&] { all_tried.wait(); });
  } catch (const std::exception&) {
    // what there is counts
  }
  all_tried.count_down();
  for (std::thread& thread : threads) thread.join();
  // A joined thread counts until the kernel has put it away.
  for (int i = 0; i < 1000 && thread_count() > before; ++i) {
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return static_cast<uint32_t>(threads.size());
}

}  // namespace spillway
